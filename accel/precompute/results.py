"""What is told on the way, and what it came to. Guarantee: a cost counts every attempt, failed ones too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.attempt import Attempt
from accel.core.money import Basis, Cost, NanoUSD
from accel.index.vectors import F32
from accel.precompute.shards import Shard


@dataclass(frozen=True, slots=True)
class Told:
    """Progress. done, total: passages. left_s: what the rest will take, None while nobody can tell. cost: so
    far. where: shards under way by place. line: what just happened, for people."""

    done: int
    total: int
    left_s: float | None
    cost: Cost
    where: dict[str, int]
    line: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """One finished shard: where, on what device, the lowest cosine with this machine (None: made here), and
    every attempt. again: it was made by an earlier call."""

    shard: Shard
    job_id: str
    where: str
    device: str
    cosine: float | None
    attempts: tuple[Attempt, ...]
    again: bool


@dataclass(frozen=True, slots=True)
class Precomputed:
    """vectors: float32 (n, d), rows in the texts' order. seconds: of this call. left: places that were given
    up, and why."""

    vectors: F32
    made: tuple[Made, ...]
    seconds: float
    left: dict[str, str]

    @property
    def cost(self) -> Cost:
        """Of every attempt, those of earlier calls and failed ones too."""
        return cost_of([a for m in self.made for a in m.attempts])

    @property
    def devices(self) -> tuple[str, ...]:
        """What it was made on: of more than one kind, the last bits are not those of either alone."""
        return tuple(sorted({m.device for m in self.made}))

def cost_of(attempts: Sequence[Attempt]) -> Cost:
    """Of all; billed only if every one was."""
    paid = [a.cost for a in attempts if a.cost.amount]
    billed = bool(paid) and all(c.basis is Basis.BILLED for c in paid)
    return Cost(NanoUSD(sum(c.amount for c in paid)), Basis.BILLED if billed else Basis.ESTIMATED)
