"""One live replica, and what a call takes of it. Guarantee: each second in use is shared out once.

Calls that are on it at the same time share each second equally. A share is its seconds at the rate, rounded
down, so that all shares together are never above what the machine costs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field

from accel.core.lease import Intent, Lease
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Offer, Unfit
from accel.core.task import Need
from accel.fleet.board import Answer

REMEMBERED = 64  # needs whose offer is kept


@dataclass(slots=True, eq=False)
class Replica:
    """One that serves. Instants are of the loop. shared_s: seconds in use, each divided by the calls in it.

    drains_at: when it is given back at the latest. resident: what calls have brought there.
    """

    intent: Intent
    lease: Lease
    drains_at: float
    last: float
    in_flight: int = 0
    shared_s: float = 0.0
    counted: float = 0.0
    resident: frozenset[str] = frozenset()
    ending: bool = False
    quiet: asyncio.Event = field(default_factory=asyncio.Event)  # ending, and no call is in it
    watch: asyncio.Task[None] | None = None
    shown: dict[Need, tuple[Answer, Offer]] = field(default_factory=dict)

    def count(self, now: float) -> float:
        """Share of one call in flight since it began, up to now, as a running sum."""
        if self.in_flight:
            self.shared_s += max(0.0, now - self.counted) / self.in_flight
        self.counted = now
        return self.shared_s

    def offer(self, answer: Answer, need: Need) -> Offer:
        """What its provider offers while it serves: warm, and paid for. answer: what it would offer else."""
        before, made = self.shown.get(need, (None, None))
        if made is not None and before is answer:
            return made
        offer, there, movable = self.intent.offer, frozenset[str](), frozenset[str]()
        if not isinstance(answer, Unfit):
            there, movable = answer.resident, answer.movable  # of this need, which the order did not know
        resident = offer.resident | self.resident | there
        made = dataclasses.replace(
            offer, as_of=answer.as_of, wait_s=0.0, cold_s=0.0, lease_id=self.lease.id, resident=resident,
            movable=movable - resident,
        )  # fmt: skip
        if len(self.shown) >= REMEMBERED:
            self.shown.clear()
        self.shown[need] = answer, made
        return made

    def meets(self, need: Need) -> bool:
        """Whether the machine that was rented can do this, too."""
        offer, gpu = self.intent.offer, self.intent.offer.gpu
        return (
            need.lane in offer.lanes and need.numerics in offer.numerics
            and need.vram_bytes <= gpu.vram_bytes and need.capability <= gpu.capability
        )  # fmt: skip


class Use:
    """One try on a replica: a ``routing.tries.Meter``. waited_s: until it was open."""

    def __init__(self) -> None:
        self._replica: Replica | None = None
        self._from_s = self._share_s = self.waited_s = 0.0
        self._running = False

    def begin(self, replica: Replica, now: float) -> None:
        self._replica, self._from_s = replica, replica.count(now)
        replica.in_flight += 1
        self._running = True

    def end(self, now: float) -> None:
        if self._replica is not None and self._running:
            self._share_s = self._replica.count(now) - self._from_s
            self._replica.in_flight -= 1
            self._replica.last = now
            self._running = False
            if self._replica.ending and not self._replica.in_flight:
                self._replica.quiet.set()

    def read(self) -> tuple[str, Cost, float]:
        """So far: the lease, its share of the money, rounded down, and of the seconds."""
        if self._replica is None:
            return "", Cost(), 0.0
        seconds = self._share_s
        if self._running:
            seconds = self._replica.count(asyncio.get_running_loop().time()) - self._from_s
        rate = self._replica.intent.offer.rate.nano_per_hour
        return self._replica.lease.id, Cost(NanoUSD(int(rate * seconds / 3600)), Basis.ESTIMATED), seconds
