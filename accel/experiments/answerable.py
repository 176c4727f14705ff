"""How often "nothing relevant was found" is wrong. Guarantee: both error rates, from the stages themselves.

A question set marks each question with the names that may answer it, or with none. A false *nothing* is an
answerable question that was turned away; a false *answer* is an unanswerable one that got an answer. The
threshold was chosen on ``calibration.jsonl``; ``held_out.jsonl`` asks about other things and chose nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from accel.core.errors import CorpusError
from accel.core.passage import Progress
from accel.core.task import Complexity
from accel.corpus.beir import json_lines
from accel.index.store import HybridIndex
from accel.stages.answer import THRESHOLD, Answered, compose
from accel.stages.embed import Encoder
from accel.stages.rerank import DEPTH, Reranker, rerank
from accel.stages.search import Hits, search

SETS = ("demo", "calibration", "held_out")


@dataclass(frozen=True, slots=True)
class Question:
    """expected: public names of which any answers it; empty means the corpus cannot answer it."""

    id: str
    text: str
    complexity: Complexity
    expected: frozenset[str]

    @property
    def answerable(self) -> bool:
        return bool(self.expected)


@dataclass(frozen=True, slots=True)
class Judged:
    """One question's outcome. rank: of the first expected name among the hits, from 1; 0 if not there."""

    question: Question
    answered: Answered
    rank: int

    @property
    def wrong(self) -> bool:
        return self.answered.found != self.question.answerable


@dataclass(frozen=True, slots=True)
class Answerability:
    """judged: every question, in order. threshold: evidence below it is "nothing". passages: the
    corpus's size. seconds: wall time of all stages over all questions, models loaded.
    """

    judged: tuple[Judged, ...]
    threshold: float
    passages: int
    seconds: float

    @property
    def answerable(self) -> tuple[Judged, ...]:
        return tuple(j for j in self.judged if j.question.answerable)

    @property
    def unanswerable(self) -> tuple[Judged, ...]:
        return tuple(j for j in self.judged if not j.question.answerable)

    @property
    def false_nothing(self) -> float:
        """Share of answerable questions that were turned away; 0 where there is none."""
        return _share([j.wrong for j in self.answerable])

    @property
    def false_answers(self) -> float:
        """Share of unanswerable questions that got an answer; 0 where there is none."""
        return _share([j.wrong for j in self.unanswerable])

    def hit_at(self, k: int) -> float:
        """Share of answerable questions with an expected name among the first ``k`` passages."""
        return _share([0 < j.rank <= k for j in self.answerable])


def read_questions(name_or_path: str | Path) -> tuple[Question, ...]:
    """A committed set ("demo", "calibration", "held_out") or a file of the same shape.

    One JSON object a line: id, question, complexity, expected (list of names). Raises CorpusError.
    """
    if name_or_path in SETS:
        text = resources.files("accel").joinpath(f"data/questions/{name_or_path}.jsonl").read_text("utf-8")
        lines = [(f"{name_or_path}:{n}", json.loads(x)) for n, x in enumerate(text.splitlines(), 1) if x]
    else:
        lines = list(json_lines(Path(name_or_path)))
    questions = []
    for where, line in lines:
        try:
            questions.append(
                Question(
                    str(line["id"]),
                    str(line["question"]),
                    Complexity(line.get("complexity", "simple")),
                    frozenset(map(str, line["expected"])),
                )
            )
        except (KeyError, ValueError, TypeError) as bad:
            raise CorpusError(f"{where}: not a question ({bad!r}).") from None
    if not questions:
        raise CorpusError(f"{name_or_path}: no questions.")
    return tuple(questions)


def measure(
    questions: Sequence[Question],
    index: HybridIndex,
    encoder: Encoder,
    reranker: Reranker | None,
    *,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> Answerability:
    """Put every question through embed, search, rerank and answer. progress(questions done, n)."""
    started = time.perf_counter()
    judged = []
    for done, question in enumerate(questions, 1):
        hits = search(index, [question.text], encoder.embed([question.text]), k=30)
        hits = rerank(reranker, index, [question.text], hits, DEPTH)
        answered = compose(question.text, hits, index, encoder, threshold=threshold)
        judged.append(Judged(question, answered, _rank(question, hits, index)))
        if progress:
            progress(done, len(questions))
    return Answerability(tuple(judged), threshold, len(index), time.perf_counter() - started)


def choose_threshold(calibrated: Answerability) -> float:
    """The threshold with the fewest errors of both kinds, rates weighed alike: the middle of the gap."""
    evidence = np.array([j.answered.confidence for j in calibrated.judged])
    answerable = np.array([j.question.answerable for j in calibrated.judged])
    if answerable.all() or not answerable.any():
        raise CorpusError("calibration needs answerable and unanswerable questions.")
    at = np.unique(evidence)
    cuts = np.concatenate(([at[0] - 1e-3], (at[1:] + at[:-1]) / 2, [at[-1] + 1e-3]))
    errors = [
        (evidence[answerable] < c).mean() + (evidence[~answerable] >= c).mean() for c in cuts
    ]
    return float(np.mean(cuts[np.isclose(errors, min(errors))]))


def _rank(question: Question, hits: Hits, index: HybridIndex) -> int:
    names = [p.name for p in index.passages(hits.row(0))]
    return next((r for r, n in enumerate(names, 1) if n in question.expected), 0)


def _share(of: Sequence[bool]) -> float:
    return sum(of) / len(of) if of else 0.0
