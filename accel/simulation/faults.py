"""What goes wrong, and when. Guarantee: faults follow from the seed, and are counted where they strike.

Seventeen classes, 1,100 faults per 100,000 requests; the models are TigerBeetle's VOPR and Ray's killers. A
shorter run gets its share, and at least one of each class. Every fault is injected at a boundary (provider,
ledger's file, cache's file, wall clock), never inside the engine.

Two kinds: faults of a call lie in wait until a call that can meet them comes (``Ambush``); the others strike
at their time (``run`` plays them). A fault that found nobody by the end of the run is not counted.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """The classes. Bad payload leaves out vectors in another order: no validation of shapes and numbers can
    see those, so that claiming them would be a lie (``tests/simulation`` shows it)."""

    REFUSED = "refused"            # no connection
    HANG = "hang"                  # a connection, and nothing on it
    SLOW = "slow"                  # 4 to 20 times its time
    BURST = "5xx burst"            # some calls in a row
    THROTTLED = "429"              # with Retry-After
    ACCOUNT = "401/402/quota"
    PREEMPTED = "spot preemption"  # with 0, 30 or 120 s notice
    ANSWERED = "preempted after answering"
    COLD = "cold start"            # 10 to 180 s, or never
    OOM = "out of memory"
    PAYLOAD = "bad payload"        # NaN, another dimension, count or type, an answer cut in two
    PRICE = "price change"
    CLOCK = "clock jump"           # the wall clock, back and forth
    LEDGER = "ledger"              # locked; disk full; the router killed between reserve and settle
    LATE = "late or duplicate answer"
    REGION = "region outage"       # one region, all of them, or this machine as well
    CACHE = "cache corruption"


# per 100,000 requests
RATES: dict[Fault, int] = {
    Fault.REFUSED: 100, Fault.HANG: 100, Fault.SLOW: 100, Fault.BURST: 100, Fault.THROTTLED: 100,
    Fault.ACCOUNT: 50, Fault.PREEMPTED: 100, Fault.ANSWERED: 30, Fault.COLD: 80, Fault.OOM: 50,
    Fault.PAYLOAD: 60, Fault.PRICE: 30, Fault.CLOCK: 20, Fault.LEDGER: 60, Fault.LATE: 50,
    Fault.REGION: 20, Fault.CACHE: 50,
}  # fmt: skip
TIMED = frozenset({Fault.PRICE, Fault.CLOCK, Fault.LEDGER, Fault.REGION, Fault.CACHE})
# some wait in vain for a call that they could strike
SPARE = 1.04
# of the run: every fault has time to strike, and to be got over
FIRST, LAST = 0.02, 0.93


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault to come. at_s: loop seconds. draw: in [0, 1), from which its details follow. number: of
    its class, from 0, so that variants take turns."""

    at_s: float
    kind: Fault
    draw: float
    number: int


def plan(seed: int, requests: int, span_s: float, only: Iterable[Fault] = Fault) -> tuple[Planned, ...]:
    """The faults of a run of ``requests`` over ``span_s`` seconds, by time. only: classes to plan."""
    chance = random.Random(f"{seed}:faults")
    chosen = frozenset(only)
    planned = []
    for kind in Fault:
        count = math.ceil(RATES[kind] * requests / 100_000 * SPARE)
        offset = chance.randrange(60)  # which variant is first
        for number in range(count):
            at_s = span_s * (FIRST + (LAST - FIRST) * chance.random())
            planned.append(Planned(at_s, kind, chance.random(), offset + number))
    return tuple(sorted((p for p in planned if p.kind in chosen), key=lambda p: (p.at_s, p.kind, p.draw)))


class Ambush:
    """Faults that wait for a call, and the count of all that struck."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        self.struck: Counter[Fault] = Counter()
        self._coming = [p for p in planned if p.kind not in TIMED][::-1]
        self._armed: list[Planned] = []
        self._next_s = self._coming[-1].at_s if self._coming else float("inf")

    def take(self, meets: frozenset[Fault], now: float) -> Planned | None:
        """The fault, of the classes in ``meets``, that a call beginning ``now`` runs into."""
        if now < self._next_s and not self._armed:
            return None
        while now >= self._next_s:
            bisect.insort(self._armed, self._coming.pop(), key=lambda p: p.at_s)
            self._next_s = self._coming[-1].at_s if self._coming else float("inf")
        for place, armed in enumerate(self._armed):
            if armed.kind in meets:
                del self._armed[place]
                self.struck[armed.kind] += 1
                return armed
        return None

    @property
    def waiting(self) -> int:
        """Faults that met nobody yet."""
        return len(self._armed) + len(self._coming)
