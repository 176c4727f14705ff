"""``accel demo``. Guarantee: every line it prints was computed, run or measured on the way, just now.

Five steps: corpus, questions, a pushed job, a measured sweep with its report, and what to do next. Each
keeps what it finished: an interrupted demo goes on from there, and a second one reuses the embeddings.
"""

from __future__ import annotations

import json
import time
from importlib import resources
from pathlib import Path

from rich.text import Text

from accel.cli import terminal
from accel.cli.pushing import open_pushing, resume_jobs, run_benchmark
from accel.core.errors import AccelError
from accel.core.money import dollars
from accel.experiments.tables import table
from accel.hybrid_gpu_processor import Answer
from accel.session import Hooks, open_query_session

PUSHED_PASSAGES, REPETITIONS = 32, 3


def run_demo(*, full: bool = False, asked: tuple[str, ...] = ()) -> None:
    """The main job, end to end, with no account and no GPU. Raises as its steps do.

    asked: providers that the questions should go to first.
    """
    began = time.perf_counter()
    answers = _ask(full, asked)
    _push()
    made = _measure()
    out = terminal.console()
    seconds = time.perf_counter() - began
    found = sum(a.found for a in answers)
    out.print()
    _heading("5. What now", out)
    out.print(f"{found} of {len(answers)} questions answered, in {seconds:.0f} s overall. Made here:")
    for path in made:
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        out.print(Text(f"  {shown}", style="cyan"), soft_wrap=True)  # a path is copied: it stays whole
    for command, why in (
        ('accel query "how do I parse an ISO date"', "ask your own"),
        ("accel query --corpus FOLDER …", "over your own documents"),
        ("accel explain", "why it went where it went"),
        ("accel push --to kaggle", "on a real, free T4 (needs a key)"),
        ("accel doctor", "what is set up, and what is not"),
        ("make app", "the question page in a browser"),
    ):
        out.print(f"  {command:<43} {why}")


def _heading(text: str, out: object = None) -> None:
    terminal.console().print(Text(f"\n{text}", style="bold"))


def _ask(full: bool, asked: tuple[str, ...]) -> list[Answer]:
    """Steps 1 and 2: index the docstrings, ask the demo's questions."""
    _heading("1. Corpus: the docstrings of Python and of the packages installed here")
    out, began = terminal.console(), time.perf_counter()
    with terminal.progress("reading") as reading, terminal.progress("embedding") as embedding:
        hooks = Hooks(reading, embedding, terminal.say)
        opened = open_query_session(full=full, asked=asked, hooks=hooks)
        with opened as session:
            assert session.processor is not None
            index = session.processor.index
            out.print(
                f"{len(index):,} passages, {index.spec.model}, {index.spec.numerics}; ready after "
                f"{time.perf_counter() - began:.0f} s. What is embedded once is kept."
            )
            questions = demo_questions()
            _heading(f"2. {len(questions)} questions: embed, search, rerank, answer")
            answers = []
            for number, question in enumerate(questions, 1):
                answer = session.query(question)
                answers.append(answer)
                out.print()
                terminal.show_answer(answer, f"({number}) ")
    return answers


def demo_questions() -> list[str]:
    """The two dozen questions that ship with the package."""
    text = resources.files("accel.data.questions").joinpath("demo.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["question"] for line in text.splitlines() if line.strip()]


def _push() -> None:
    """Step 3: the same benchmark through Kaggle's own client to a sandbox, and on this machine."""
    _heading("3. Push: the embedding benchmark, to a Kaggle on loopback and to this machine")
    out = terminal.console()
    try:
        resume_jobs(sandbox=True, as_json=False)
    except AccelError as failure:
        terminal.say(f"a job of an earlier run could not be carried on: {failure}")
    for to, sandbox in (("kaggle", True), ("local", False)):
        with open_pushing((to,), sandbox=sandbox) as session:
            finished, rows = run_benchmark(
                session, to, passages=PUSHED_PASSAGES, repetitions=REPETITIONS
            )
            realm, held = session.accelerator.realm, session.accelerator.ledger.held()
            for a in finished.attempts:
                t = a.timing
                out.print(
                    f"{a.provider} ({realm}): {a.outcome}, verified by sha256 · wait "
                    f"{terminal.ms(t.wait_s)}, cold {terminal.ms(t.cold_s)}, transfer "
                    f"{terminal.ms(t.transfer_s)}, compute {terminal.ms(t.compute_s)} · "
                    f"{dollars(a.cost.amount)} · {held} held"
                )
            out.print(table(rows))


def _measure() -> list[Path]:
    """Step 4: a Papermill sweep, its rows, its report."""
    from accel.experiments.measure import run_measure

    _heading("4. Measure: a notebook, swept by Papermill, and its report")
    folder = Path.cwd() / "results" / "demo"
    with terminal.progress("measuring") as told:
        measured = run_measure(folder, fresh=True, progress=lambda _, done, total: told(done, total))
    out = terminal.console()
    out.print(measured.table)
    for problem in measured.problems:
        out.print(f"not measured: {problem}")
    return list(measured.paths)


