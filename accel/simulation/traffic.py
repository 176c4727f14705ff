"""What is asked, and when. Guarantee: drawn from the seed before the run begins, whatever the router does.

Texts of three lengths (this machine is soon done with the short ones and too slow for the long ones), some
asked for again and again, so that the cache answers; a few Specs that differ in one field each, so that a
wrong entry would be seen; quiet stretches and bursts, so that limits are met.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from accel.core.task import Lane, Need, Numerics, Size, Spec, Stage, Task
from accel.simulation import answers
from accel.simulation.natures import GIB
from accel.wire import Envelope, pack_texts

T = TypeVar("T")
EVERY_S = 0.4  # mean time between two requests
BURSTS, LARGEST_BURST = 0.01, 30
# share of texts and their tokens, from and to
LENGTHS = ((0.40, (80, 400)), (0.42, (3_000, 12_000)), (0.18, (30_000, 60_000)))
DIFFERENT = 0.35  # texts per request; cubed draws make a few of them popular
WITHIN_S = ((0.80, 12.0), (0.10, 3.0), (0.10, 40.0))
TARGET_S = 1.0  # of half of them; the others would rather have it cheap

BASE = Spec(Stage.EMBED, model="small", revision="r1", dimension=8)
LIVE = Need(Stage.EMBED, Lane.LIVE)


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of request. local_fits: whether this machine can do it."""

    share: float
    spec: Spec
    need: Need
    local_fits: bool = True


KINDS = (
    Kind(0.82, BASE, LIVE),
    Kind(0.04, replace(BASE, revision="r2"), LIVE),
    Kind(0.04, replace(BASE, prompt="query: "), LIVE),
    Kind(0.03, replace(BASE, dimension=16), LIVE),
    Kind(0.02, replace(BASE, numerics=Numerics.FP16), replace(LIVE, numerics=Numerics.FP16), False),
    Kind(0.02, BASE, replace(LIVE, vram_bytes=40 * GIB), False),
    Kind(0.03, Spec(Stage.RERANK, model="judge", revision="j1"), Need(Stage.RERANK, Lane.LIVE)),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to come. at_s: loop seconds."""

    at_s: float
    kind: Kind
    texts: tuple[str, ...]
    within_s: float
    target_s: float | None


def draw(seed: int, requests: int) -> list[Asked]:
    """All requests of a run, by time."""
    chance = random.Random(f"{seed}:traffic")
    texts = [_text(chance, number) for number in range(max(20, int(DIFFERENT * requests)))]
    kinds = tuple((k.share, k) for k in KINDS)
    asked: list[Asked] = []
    now, burst = 0.0, 0
    while len(asked) < requests:
        if burst:
            burst -= 1
            now += 0.01
        else:
            now += chance.expovariate(1 / EVERY_S)
            if chance.random() < BURSTS:
                burst = chance.randrange(5, LARGEST_BURST)
        count = 1 if chance.random() < 0.85 else chance.randrange(2, 5)
        chosen = tuple(texts[int(len(texts) * chance.random() ** 3)] for _ in range(count))
        kind = _one_of(chance, kinds)
        target_s = TARGET_S if chance.random() < 0.5 else None
        asked.append(Asked(now, kind, chosen, _one_of(chance, WITHIN_S), target_s))
    return asked


def _text(chance: random.Random, number: int) -> str:
    low, high = _one_of(chance, LENGTHS)
    return f"{chance.randrange(low, high)}|{number}"


def _one_of(chance: random.Random, shares: Sequence[tuple[float, T]]) -> T:
    left = chance.random()
    for share, value in shares:
        left -= share
        if left < 0:
            return value
    return shares[-1][1]


def task_of(ident: str, asked: Asked) -> tuple[Task, Envelope]:
    """A request as the engine takes it."""
    kind, tokens = asked.kind, sum(map(answers.tokens_of, asked.texts))
    task = Task(
        ident, Lane.LIVE, kind.spec, Size(len(asked.texts), tokens, 4 * tokens), kind.need,
        within_s=asked.within_s, target_s=asked.target_s,
    )  # fmt: skip
    return task, Envelope(ident, _fields(kind.spec), _tensors(asked.texts, kind.spec.stage))


@functools.lru_cache(maxsize=64)
def _fields(spec: Spec) -> dict[str, str | int | bool]:
    return spec.fields()


@functools.lru_cache(maxsize=4096)
def _tensors(texts: tuple[str, ...], stage: Stage) -> dict[str, np.ndarray]:
    packed = pack_texts(texts)
    if stage is Stage.RERANK:
        packed["ids"] = np.zeros((len(texts), answers.WIDTH), np.int64)
    return packed


def wrong(asked: Asked, output: Envelope) -> str:
    """What is wrong with an answer, "" for the right one: bit for bit what Spec and texts come to."""
    spec = asked.kind.spec
    salt = answers.salt_of(_fields(spec))
    if spec.stage is Stage.EMBED:
        found = output.tensors["vectors"].tobytes()
        return "" if found == _rows(asked, salt) else _whose(asked, found)
    hits = answers.hits_of(asked.texts, salt)
    same = all(np.array_equal(output.tensors[name], array) for name, array in hits.items())
    return "" if same else "hits of something else"


def _rows(asked: Asked, salt: str) -> bytes:
    dimension = asked.kind.spec.dimension
    return b"".join([answers.row(salt, text, dimension) for text in asked.texts])


def _whose(asked: Asked, found: bytes) -> str:
    """Whether wrong vectors are those of another revision, of some of the texts at least."""
    spec = asked.kind.spec
    width = 4 * spec.dimension
    for revision in sorted({k.spec.revision for k in KINDS} - {spec.revision}):
        other = _rows(asked, answers.salt_of(_fields(replace(spec, revision=revision))))
        if any(found[i : i + width] == other[i : i + width] for i in range(0, len(other), width)):
            return f"vectors of revision {revision}"
    return "vectors of something else"


def popular(asked: Sequence[Asked], count: int = 40) -> list[str]:
    """The texts that are asked for most under ``BASE``, most popular first."""
    counts = Counter(text for a in asked if a.kind.spec == BASE for text in a.texts)
    return [text for text, _ in counts.most_common(count)]
