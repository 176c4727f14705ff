"""HybridGPUProcessor. Guarantee: one question gives one answer, whose every sentence cites its passage.

Embed, search, rerank, answer: each stage is a task of its own, routed by ``GPUAccelerator``, so that each
says where it ran, why there, what it took and what it cost. Search and rerank travel to where the index
lies; only the query's vector and ids move.

Simple or complex is told by stated rules (``judge``) and can be overridden. A complex question is split
at its question marks and joining words; the parts are embedded together, searched at once and fused by
reciprocal rank with the whole, and more hits are reranked.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.core.attempt import Outcome, Result, Timing
from accel.core.errors import IndexError_, QueryError
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.passage import Passage
from accel.core.task import Complexity, Lane, Need, Size, Spec, Stage, Task
from accel.fanout import embed_texts
from accel.gpu_accelerator import GPUAccelerator
from accel.index.store import HybridIndex
from accel.ledger.requests import Request
from accel.stages.answer import THRESHOLD, Answered, Citation, default_answer_spec
from accel.stages.embed import default_spec
from accel.stages.rerank import MAXSIM_WEIGHT, default_rerank_spec
from accel.stages.search import Hits, default_search_spec, fuse_rows
from accel.wire import Envelope, pack_texts

MAX_CHARS = 8_000  # a question, not a document
DEPTH = {Complexity.SIMPLE: 20, Complexity.COMPLEX: 40}  # hits that are reranked
WITHIN_S = {Complexity.SIMPLE: 30.0, Complexity.COMPLEX: 60.0}  # a first question may load the model

_WORDS_OF_A_LONG_QUESTION = 24
_PARTS = re.compile(r"\?+|;|,?\s+\band\b\s+(?=(?:how|what|which|where|when|why|who|can|does|is)\b)", re.I)


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage of one query took: where it ran and why, its seconds, its cost, its cache hits."""

    stage: Stage
    where: str
    why: str
    timing: Timing
    cost: Cost
    hits: int
    items: int
    overhead_s: float
    decision_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question, with everything that led to it.

    seconds: wall time of the query. written_by: "" for the passages' own sentences, else the model.
    note: what the reader should know, such as a generator that failed.
    """

    id: str
    question: str
    complexity: Complexity
    judged: str
    text: str
    found: bool
    citations: tuple[Citation, ...]
    stages: tuple[StageReport, ...]
    realm: str
    seconds: float
    written_by: str = ""
    note: str = ""

    @property
    def cost(self) -> Cost:
        """Over all stages."""
        return Cost(NanoUSD(sum(s.cost.amount for s in self.stages)), Basis.ESTIMATED)


class HybridGPUProcessor:
    """Questions over one index. The specs default to the bundled model's."""

    def __init__(
        self, accelerator: GPUAccelerator, index: HybridIndex, *, rerank: Spec | None = None,
        answer: Spec | None = None, generator: Callable[[str, Answered], Answered] | None = None,
    ) -> None:  # fmt: skip
        """generator: rewrites an extractive answer (``stages.generate``); it runs here, never away."""
        self.accelerator, self.index = accelerator, index
        self._embed = index.spec
        self._search, self._rerank = default_search_spec(), rerank or default_rerank_spec()
        self._answer, self._generator = answer or default_answer_spec(), generator

    async def query(
        self, text: str, *, complexity: Complexity | None = None, within_s: float | None = None
    ) -> Answer:
        """Answer ``text``. within_s: deadline of the whole query, seconds.

        Raises QueryError for a question that cannot be asked, EveryAttemptFailed when a stage found no
        provider.
        """
        question = check_question(text)
        level, judged = judge(question) if complexity is None else (complexity, "as you asked")
        parts = split(question) if level is Complexity.COMPLEX else [question]
        clock = asyncio.get_running_loop().time
        began = clock()
        if within_s is not None and not 0 < within_s < math.inf:
            raise QueryError(f"a deadline must be a positive number of seconds, not {within_s}.")
        run = _Run(self.accelerator, self.index, level, began, within_s or WITHIN_S[level])
        outcome = Outcome.FAILED
        try:
            answer = await self._run(run, question, parts, level, judged)
            outcome = Outcome.OK
            return answer
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        finally:
            run.end(outcome)

    async def _run(
        self, run: _Run, question: str, parts: list[str], level: Complexity, judged: str
    ) -> Answer:
        clock = asyncio.get_running_loop().time
        vectors = (await run.stage(self._embed, pack_texts(parts), {}, items=len(parts)))["vectors"]
        found = await run.stage(
            self._search, pack_texts(parts) | {"vectors": vectors}, {"k": DEPTH[level]}, items=len(parts)
        )
        hits = fuse_rows(Hits.from_tensors(found))
        # weight and threshold go into the request so that they go into its cache key
        order = await run.stage(
            self._rerank, pack_texts([question]) | hits.tensors(),
            {"depth": DEPTH[level], "weight": MAXSIM_WEIGHT}, items=len(hits.row(0)),
        )  # fmt: skip
        await run.stage(self._answer, pack_texts(parts) | order, {"threshold": THRESHOLD}, items=1)
        answered = Answered.from_fields(run.last.output.meta["answer"])
        if self._generator is not None:
            answered = await self.accelerator.runtime.offload(self._generator, question, answered)
        return Answer(
            run.id, question, level, judged, answered.text, answered.found, answered.citations,
            tuple(run.reports), self.accelerator.realm.value, clock() - run.began, answered.written_by,
            answered.note,
        )  # fmt: skip


class _Run:
    """One query on its way: its id, its deadline, and the reports of its stages so far."""

    def __init__(
        self, accelerator: GPUAccelerator, index: HybridIndex, level: Complexity, began: float,
        within_s: float,
    ) -> None:  # fmt: skip
        self._accelerator, self._index, self._level = accelerator, index, level
        target_s = accelerator.preference.target_s.get(level)
        self.began, self._ends = began, began + within_s
        self._target = None if target_s is None else began + target_s
        self.id = f"q{accelerator.runtime.new_id()}"
        self.reports: list[StageReport] = []
        self.last: Result[Envelope]

    async def stage(
        self, spec: Spec, tensors: dict[str, np.ndarray], meta: dict[str, object], *, items: int
    ) -> dict[str, np.ndarray]:
        """Route one stage, note its report, and return the answer's tensors."""
        resident = "" if spec.stage is Stage.EMBED else self._index.id
        if resident:
            meta = {**meta, "index": resident}
        now = asyncio.get_running_loop().time()
        left = self._ends - now
        # what the earlier stages left of the target; a target that is missed already decides nothing more
        target = None if self._target is None or self._target <= now else self._target - now
        task = Task(
            id=f"{self.id}-{spec.stage}", lane=Lane.LIVE, spec=spec, complexity=self._level,
            size=self._size(spec, tensors, items), within_s=max(left, 0.001), target_s=target,
            need=Need(spec.stage, Lane.LIVE, spec.numerics, index=resident, model=spec.revision),
            inputs=(resident,) if resident else (),
        )  # fmt: skip
        request = Envelope(task.id, spec.fields(), tensors, meta)
        self.last = await self._accelerator.run(task, request, self.id)
        self.reports.append(_report(spec.stage, self.last))
        return dict(self.last.output.tensors)

    def end(self, outcome: Outcome) -> None:
        """Note how the query ended: one row, whatever happened."""
        seconds = max(0.0, asyncio.get_running_loop().time() - self.began)
        places = list(dict.fromkeys(r.where for r in self.reports if r.where != "cache"))
        spent = NanoUSD(sum(r.cost.amount for r in self.reports))
        self._accelerator.journal.note(Request(
            self.id, "", "", self._level.value, outcome.value,
            " + ".join(places) or ("cache" if outcome is Outcome.OK else ""), seconds, 1,
            int(outcome is Outcome.OK and not places), 0, spent, NanoUSD(0),
        ))  # fmt: skip

    def _size(self, spec: Spec, tensors: dict[str, np.ndarray], items: int) -> Size:
        sent = sum(t.nbytes for t in tensors.values())
        if spec.stage is Stage.SEARCH:
            return Size(items, bytes=sent, read_bytes=self._index.vectors.nbytes)
        # about four characters to a token in English; reranked passages lie at the index already
        tokens = len(tensors["text_bytes"]) // 4 + items
        if spec.stage is Stage.RERANK:
            tokens += items * spec.max_length // 2
        return Size(items, tokens=tokens, bytes=sent)


def _report(stage: Stage, result: Result[Envelope]) -> StageReport:
    spent = NanoUSD(sum(a.cost.amount for a in result.attempts))
    cached = result.hits == result.items and not result.attempts
    return StageReport(
        stage, result.where, "in the cache" if cached or result.route is None else result.route.why,
        result.timing, Cost(spent, Basis.ESTIMATED), result.hits, result.items, result.overhead_s,
        result.decision_id,
    )  # fmt: skip


def check_question(text: str) -> str:
    """``text`` without surrounding space. Raises QueryError when it is empty, binary or too long."""
    if "\0" in text:
        raise QueryError("the question holds a NUL character: it looks like a binary file.")
    question = text.strip()
    if not question:
        raise QueryError("the question is empty.", hint="Ask, for example: how do I parse an ISO date?")
    if len(question) > MAX_CHARS:
        raise QueryError(
            f"the question has {len(question):,} characters; {MAX_CHARS:,} is the limit.",
            hint="Put long texts into a corpus (--corpus) and ask about them.",
        )
    return question


def judge(question: str) -> tuple[Complexity, str]:
    """Simple or complex, and by which rule: more than one question, or a long one."""
    parts = split(question)
    if len(parts) > 1:
        return Complexity.COMPLEX, f"{len(parts) - 1} questions in one"
    words = len(question.split())
    if words > _WORDS_OF_A_LONG_QUESTION:
        return Complexity.COMPLEX, f"{words} words"
    return Complexity.SIMPLE, "one short question"


def split(question: str) -> list[str]:
    """The whole question, then its parts if there are several."""
    parts = [p.strip(" ,.") for p in _PARTS.split(question)]
    parts = [p for p in parts if len(p.split()) >= 3]
    return [question, *parts] if len(parts) > 1 else [question]


async def build_index(
    accelerator: GPUAccelerator, folder: Path, passages: Sequence[Passage], *, spec: Spec | None = None,
    over: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HybridIndex:  # fmt: skip
    """Embed ``passages`` and index them in ``folder``, or open the index that holds just these already.

    over: providers that embed at the same time, see ``fanout``. What was embedded once is in the cache, and
    is not embedded again, whatever interrupts this. Raises CorpusError for an empty corpus.
    """
    wanted = spec or default_spec()
    index = await accelerator.runtime.offload(index_of, folder, passages, wanted)
    if index is not None:
        progress(len(passages), len(passages))
        return index
    texts = [p.content for p in passages]
    made = await embed_texts(accelerator, wanted, texts, over=over, progress=progress)
    return await accelerator.runtime.offload(HybridIndex.build, folder, passages, made.vectors, wanted)


def index_of(folder: Path, passages: Sequence[Passage], spec: Spec) -> HybridIndex | None:
    """The index in ``folder``, if it holds just these passages under this Spec."""
    try:
        index = HybridIndex.open(folder, spec)
        held = [p.hash for p in index.passages(range(len(index)))]
    except IndexError_:
        return None  # none there, damaged, or of another Spec
    return index if held == [p.hash for p in passages] else None
