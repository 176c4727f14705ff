"""The question page. Guarantee: every question ends in an answer, "nothing relevant", or one clear line.

Opening the page opens nothing else. The first question has the engine opened, and says how far that is;
then the stages run in this same event loop, their models in threads.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from accel import contract, environment
from accel.core.errors import AccelError, UsageError
from accel.dashboard import view
from accel.dashboard.engine import Engine, Step
from accel.dashboard.route import device
from accel.hybrid_gpu_processor import HybridGPUProcessor, check_question
from accel.ledger.decisions import Decision

EXAMPLES = (
    "How do I parse an ISO date?",
    "Run a shell command and capture its output",
    "How do I copy a directory tree, and how do I delete one?",
    "How long do I boil an egg?",
)
AT_ONCE = 4  # questions that are worked on together; more wait in Gradio's queue

log = logging.getLogger(__name__)


def build(engine: Engine, examples: Sequence[str] = EXAMPLES) -> None:
    """Put the page into the ``gr.Blocks`` that is open. examples: asked with one click."""
    import gradio as gr

    bare: dict[str, Any] = {"apply_default_css": False, "elem_classes": "bare"}
    gr.HTML(view.masthead(engine.realm), **bare)
    with gr.Row(elem_classes="question"):
        box = gr.Textbox(
            label="Question", placeholder="What do you want to know?", lines=1, max_lines=6,
            autofocus=True, elem_id="question", container=False, scale=1,
        )  # fmt: skip
        button = gr.Button("Ask", variant="primary", elem_id="ask", scale=0, min_width=88)
    with gr.Row(elem_classes="examples", visible=bool(examples)):
        buttons = [gr.Button(text, size="sm", scale=0, min_width=0) for text in examples]
    corpus = gr.HTML(view.corpus_line(engine.corpus, "this machine"), elem_id="corpus", **bare)
    result = gr.HTML(view.waiting(), elem_id="result", **bare)

    async def about() -> str:
        return view.corpus_line(engine.corpus, await asyncio.to_thread(machine))

    async def answered(question: str) -> AsyncIterator[tuple[Any, Any]]:
        async for html in respond(engine, question):
            yield html, gr.skip()
        yield gr.skip(), await about()

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on(
        [box.submit, button.click], answered, box, [result, corpus], concurrency_limit=AT_ONCE,
        concurrency_id="ask", **private,
    )  # fmt: skip
    for text, example in zip(examples, buttons, strict=True):
        # filled in by the browser, so that the question stands there at once
        example.click(None, None, box, js=f"() => {json.dumps(text)}", **private).then(
            answered, box, [result, corpus], concurrency_limit=AT_ONCE, concurrency_id="ask", **private
        )

    gr.on(None, about, None, corpus, queue=False, **private)  # whenever the page is opened
    gr.api(_endpoint(engine), api_name="ask", concurrency_limit=AT_ONCE, concurrency_id="ask")


def _endpoint(engine: Engine) -> Any:
    import gradio as gr

    async def ask(question: str) -> dict[str, Any]:
        """Answer a question over the corpus of this page.

        Args:
            question: What you want to know; at most 8,000 characters.

        Returns:
            The answer with its citations, and per stage where it ran, why there, seconds, cost in
            nano-dollars and cache hits, and the realm of these figures. ``found`` is false where nothing
            relevant was found.
        """
        try:
            checked = check_question(_clean(question))
            processor = await engine.opened()
            return contract.answer_json(await processor.query(checked))
        except AccelError as failure:
            raise gr.Error(str(failure), print_exception=False) from None

    return ask


async def respond(engine: Engine, question: str) -> AsyncIterator[str]:
    """The states of the result, as HTML, from the question to its end."""
    try:
        checked = check_question(_clean(question or ""))
        what = "Answering" if engine.processor else "Answering; the first question loads the model"
        async for step in engine.opening():
            yield view.progress(step)
        processor = await engine.opened()
        yield view.progress(Step(what))
        found = await processor.query(checked)
        decisions = await asyncio.to_thread(_decisions, processor, found.id)
        yield view.answer(found, decisions, await asyncio.to_thread(machine))
    except AccelError as failure:
        yield view.failure(failure)
    except Exception as failure:
        log.exception("a question failed")
        yield view.unexpected(failure)


def _clean(question: str) -> str:
    """Without lone surrogates, which JSON can bring in and UTF-8 cannot send back."""
    return question.encode("utf-8", "replace").decode("utf-8")


def _decisions(processor: HybridGPUProcessor, ident: str) -> tuple[Decision, ...]:
    """What the ledger holds on a query: nothing when every stage came from the cache."""
    try:
        return processor.accelerator.explain(ident)
    except UsageError:
        return ()


def machine() -> str:
    """This machine in words: its GPU, or that there is none; its processor. Asks ``nvidia-smi``, once."""
    card, cores = environment.gpu(), environment.cores()
    gpu = device(card) if card.capability else "no GPU"
    return f"this machine: {cores} core{'s' if cores != 1 else ''}, {environment.cpu_name()}, {gpu}"
