"""Extractive answers. Guarantee: every sentence stands in the passage it cites; none is invented.

The best sentence of each of the first pages, by cosine with the question, behind the page's name.
When the passages do not speak of what is asked, the answer says so. Whether they do is judged by the sum
of two things: late interaction (for every token of the question the closest token of a passage, averaged;
the best passage counts), and how much of the question's rarer words occur in the passages at all. The
statistic, its weight and its threshold were chosen on ``data/questions/calibration.jsonl``, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from accel.core.errors import QueryError
from accel.core.passage import Passage
from accel.core.task import Spec, Stage
from accel.index.store import HybridIndex
from accel.stages.embed import Encoder, default_spec
from accel.stages.rerank import maxsim
from accel.stages.search import Hits
from accel.stages.sentences import split

NOTHING = "Nothing relevant was found in this corpus."
THRESHOLD = 0.688
COVERAGE_WEIGHT = 0.3
"""Evidence is MaxSim + 0.3 × coverage; below the threshold nothing is said to be found. Of the 90 calibration
questions, on the default corpus of 4,000 passages (Python 3.11, fp32, 2026-11-23), 2 fall on the wrong
side; with MaxSim alone, or the cosine of question and passage alone, at their best thresholds 5 do.
``experiments.answerable`` measures it anew.
"""
PASSAGES = 5
"""Passages looked at."""
MAX_SENTENCES = 3
OPENING_BONUS = 0.05
"""A passage's first sentence says what it is about: that much is added to its cosine (a reading choice,
not a measured one)."""
MARGIN = 0.15
"""Sentences whose cosine is this much below the best one's are left out."""


@dataclass(frozen=True, slots=True)
class Citation:
    """One source of an answer. number: as in the text; score: cosine of question and passage."""

    number: int
    name: str
    source: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Answered:
    """text with [n] after each sentence; found is False when nothing relevant is there.

    confidence: the evidence, at most 1.3, to be compared with ``THRESHOLD``. written_by: "" where the
    sentences are the passages' own, else the model that wrote the text. note: what the reader should
    know, such as a generator that failed.
    """

    text: str
    found: bool
    citations: tuple[Citation, ...]
    confidence: float
    written_by: str = ""
    note: str = ""

    def fields(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Answered:
        """Inverse of ``fields``. Raises TypeError or KeyError for anything else."""
        citations = tuple(Citation(**c) for c in fields["citations"])
        return cls(**{**fields, "citations": citations})


def default_answer_spec() -> Spec:
    """Sentences chosen by the bundled encoder."""
    return replace(default_spec(), stage=Stage.ANSWER)


def compose(
    question: str, hits: Hits, index: HybridIndex, encoder: Encoder, *, threshold: float = THRESHOLD,
    parts: Sequence[str] = (),
) -> Answered:  # fmt: skip
    """Answer ``question`` from the first row of ``hits``; the sentences keep the order of the hits.

    parts: the questions that ``question`` is made of, if it is several. Evidence for one of them is
    evidence, and a sentence is as relevant as it is to the part that it fits best: no passage speaks of
    all of a compound question. Raises QueryError for an empty question and for more than one row of hits,
    IndexError_ for hits of another index.
    """
    if not question.strip():
        raise QueryError("the question is empty.")
    if len(hits.ids) != 1:
        raise QueryError(f"an answer needs the hits of one question, not of {len(hits.ids)}.")
    ids = hits.row(0)[:PASSAGES]
    passages = index.passages(ids)
    candidates = [(n, s) for n, p in enumerate(passages) for s in split(p.text).sentences]
    asked, texts = [question, *parts], [p.content for p in passages]
    # one pass: the questions, the passages for the evidence, the sentences for the choice
    encoded = encoder.encode(
        [*asked, *texts, *(f"{passages[n].name}: {s}" for n, s in candidates)],
        tokens=True,
    )
    tokens = encoded.tokens or []
    first = len(asked)
    closeness = [
        float(maxsim(tokens[i].astype(np.float32), tokens[first : first + len(passages)]).max(initial=0.0))
        for i in range(first)
    ]
    confidence = max(
        near + COVERAGE_WEIGHT * index.lexical.coverage(part, texts)
        for part, near in zip(asked, closeness, strict=True)
    )
    if confidence < threshold:
        return Answered(NOTHING, False, (), confidence)
    sentences = encoded.vectors[first + len(passages) :]
    similarity = (sentences @ encoded.vectors[:first].T).max(axis=1, initial=-1.0)
    owners = [n for n, _ in candidates]
    similarity += [OPENING_BONUS if i == owners.index(n) else 0.0 for i, n in enumerate(owners)]
    chosen = _choose(owners, [passages[n].name or str(n) for n in owners], similarity)
    if not chosen:  # passages of code only: the first one is cited by its name and its beginning
        return _cited(passages[:1], [" ".join(passages[0].text.split())[:200]], hits, confidence)
    return _cited(
        [passages[candidates[i][0]] for i in chosen],
        [candidates[i][1] for i in chosen],
        hits,
        confidence,
        [candidates[i][0] for i in chosen],
    )


def _choose(owners: Sequence[int], pages: Sequence[str], similarity: np.ndarray) -> list[int]:
    """The best sentence of each page, those near the best of all, in the order of the passages."""
    best: dict[str, int] = {}
    for i in np.argsort(-similarity, kind="stable"):
        best.setdefault(pages[int(i)], int(i))  # two windows of one page would say the same twice
    ranked = sorted(best.values(), key=lambda i: (-similarity[i], i))
    near = [i for i in ranked if similarity[i] >= similarity[ranked[0]] - MARGIN]
    return sorted(near[:MAX_SENTENCES], key=lambda i: owners[i])


def _cited(
    passages: Sequence[Passage],
    sentences: Sequence[str],
    hits: Hits,
    confidence: float,
    ranks: Sequence[int] = (0,),
) -> Answered:
    parts, citations = [], []
    for number, (passage, sentence, rank) in enumerate(zip(passages, sentences, ranks, strict=True), 1):
        label = f"{_label(passage)}: " if passage.name else ""
        parts.append(f"{label}{sentence} [{number}]")
        score = float(hits.dense[0, rank])
        citations.append(Citation(number, passage.name, passage.source, passage.text, score))
    return Answered("\n".join(parts), True, tuple(citations), confidence)


def _label(passage: Passage) -> str:
    """The name, with the call's arguments where the passage opens with them and they are short."""
    call = split(passage.text).call
    arguments = call[call.index("(") :] if call else ""
    own = call.split("(")[0] == passage.name.rpartition(".")[2]
    return passage.name + (arguments if own and len(arguments) <= 60 else "")
