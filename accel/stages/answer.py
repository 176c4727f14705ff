"""Extractive answers. Guarantee: every sentence stands in a cited passage; none is invented.

(First form by the lead, so that the query path runs: names and shapes that worker/engine.py and
hybrid_gpu_processor.py use. The retrieval work replaces the choice of sentences and the threshold.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from accel.core.task import Spec, Stage
from accel.index.store import HybridIndex
from accel.stages.embed import Encoder, default_spec
from accel.stages.search import Hits

NOTHING = "Nothing relevant was found in this corpus."
THRESHOLD = 0.35
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(])|\n{2,}")


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
    """text with [n] after each sentence; found is False when nothing relevant is there."""

    text: str
    found: bool
    citations: tuple[Citation, ...]
    confidence: float

    def fields(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Answered:
        """Inverse of ``fields``."""
        citations = tuple(Citation(**c) for c in fields["citations"])
        return cls(fields["text"], fields["found"], citations, fields["confidence"])


def default_answer_spec() -> Spec:
    """Sentences chosen by the bundled encoder."""
    return replace(default_spec(), stage=Stage.ANSWER)


def compose(question: str, hits: Hits, index: HybridIndex, encoder: Encoder) -> Answered:
    """Answer ``question`` from the first row of ``hits``."""
    ids = hits.row(0)[:5]
    confidence = float(hits.dense[0, : len(ids)].max()) if len(ids) else 0.0
    if confidence < THRESHOLD:
        return Answered(NOTHING, False, (), confidence)
    passages = index.passages(ids)
    sentences = [(n, s.strip()) for n, p in enumerate(passages) for s in _SENTENCE.split(p.text) if s.strip()]
    vectors = encoder.embed([question, *(s for _, s in sentences)])
    order = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")[:2]
    used: list[int] = []
    parts = []
    for i in sorted(order):
        n, sentence = sentences[int(i)]
        if n not in used:
            used.append(n)
        parts.append(f"{' '.join(sentence.split())} [{used.index(n) + 1}]")
    citations = tuple(
        Citation(place + 1, passages[n].name, passages[n].source, passages[n].text,
                 float(hits.dense[0, n]))
        for place, n in enumerate(used)
    )  # fmt: skip
    return Answered(" ".join(parts), True, citations, confidence)
