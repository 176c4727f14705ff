"""What simulated providers are like. Guarantee: plain numbers, invented, with a rate that says so.

Speeds follow from data sheets (MiniLM's 21.4 MFLOP per token at 30 % of the fp32 peak), so that the router's
priors are about right where nothing is measured yet; prices are of the order of real ones.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace
from datetime import date

from accel.core.money import Rate, from_dollars
from accel.core.offer import CPU, Billing, Gpu
from accel.core.task import Numerics
from accel.simulation.faults import TIMED, Fault

GIB = 1 << 30
FP32 = frozenset({Numerics.FP32})
BOTH = frozenset({Numerics.FP32, Numerics.FP16})
_ALL = frozenset(Fault) - TIMED
# only what can be taken away is preempted, and only what can be cold has a cold start
_STEADY = _ALL - {Fault.PREEMPTED, Fault.ANSWERED, Fault.COLD}


@dataclass(frozen=True, slots=True)
class Nature:
    """What a simulated provider is like.

    dollars_per_hour: decimal. per_text_s, per_token_s: median seconds of one, in a log-normal with sigma
    ``spread``; way_s: there and back. cold_s: cold start after ``idle_s`` without a call. failing: share of
    calls that raise. wrong: share of calls that answer with NaN. hanging: share that never answers.
    outage: (first, last) virtual second in which nothing is reachable. quota_s: free seconds in a window,
    or None; resets_s: when the first window ends, and week_s: how long the others are. meets: faults that
    its calls can run into. region: what fails together.
    """

    name: str
    gpu: Gpu
    dollars_per_hour: str
    per_text_s: float = 0.0
    way_s: float = 0.0
    spread: float = 0.3
    cold_s: float = 0.0
    idle_s: float = 300.0
    failing: float = 0.0
    wrong: float = 0.0
    hanging: float = 0.0
    outage: tuple[float, float] | None = None
    quota_s: float | None = None
    per_token_s: float = 0.0
    interruptible: bool = False
    region: str = ""
    numerics: frozenset[Numerics] = FP32
    meets: frozenset[Fault] = frozenset()
    resets_s: float = float("inf")
    week_s: float = 7 * 86_400.0

    @property
    def rate(self) -> Rate:
        """Its price at the beginning."""
        return _rate(self.dollars_per_hour)

    @property
    def billing(self) -> Billing:
        """What using it takes."""
        if self.quota_s is not None:
            return Billing.QUOTA
        return Billing.NOTHING if self.rate.free else Billing.SECONDS

    def window(self, now: float) -> int:
        """Which quota window ``now`` lies in, from 0."""
        return 0 if now < self.resets_s else 1 + int((now - self.resets_s) / self.week_s)

    def reset_s(self, window: int) -> float:
        """When that window ends."""
        return min(self.resets_s + window * self.week_s, 1e8)


@functools.lru_cache(maxsize=64)  # asked for with every call and every offer
def _rate(dollars_per_hour: str) -> Rate:
    return Rate(from_dollars(dollars_per_hour), date(2026, 1, 1), "invented")


LOCAL = "local"
HERE = "here"  # the region of this machine

WORLD: tuple[Nature, ...] = (
    Nature(LOCAL, CPU, "0", per_token_s=1.9e-4, spread=0.2, failing=0.002, region=HERE),
    Nature("free-t4", Gpu("T4", 1, 15 * GIB, 75), "0", per_token_s=8.8e-6, way_s=0.15, failing=0.01,
           quota_s=2400.0, interruptible=True, region="east", numerics=BOTH, meets=_ALL),
    Nature("spot-l4", Gpu("L4", 1, 24 * GIB, 89), "0.30", per_token_s=2.4e-6, way_s=0.1, cold_s=5.0,
           failing=0.01, interruptible=True, region="east", numerics=BOTH, meets=_ALL),
    Nature("spot-4090", Gpu("RTX 4090", 1, 24 * GIB, 89), "0.34", per_token_s=1.0e-6, way_s=0.12, cold_s=6.0,
           failing=0.01, interruptible=True, region="west", numerics=BOTH, meets=_ALL),
    Nature("serverless-l4", Gpu("L4", 1, 24 * GIB, 89), "0.80", per_token_s=2.4e-6, way_s=0.08, cold_s=3.0,
           idle_s=60.0, region="south", numerics=BOTH, meets=_ALL - {Fault.PREEMPTED, Fault.ANSWERED}),
    Nature("steady-a100", Gpu("A100", 1, 80 * GIB, 80), "1.60", per_token_s=3.7e-6, way_s=0.1, failing=0.002,
           region="east", numerics=BOTH, meets=_STEADY),
    Nature("steady-h100", Gpu("H100", 1, 80 * GIB, 90), "2.40", per_token_s=1.1e-6, way_s=0.1, failing=0.002,
           region="west", numerics=BOTH, meets=_STEADY),
)  # fmt: skip


def world(seed: int, requests: int, span_s: float) -> tuple[Nature, ...]:
    """``WORLD`` with free hours that a run of ``requests`` can use up, in a window that ends while it lasts,
    or days later, so that they are spent freely, or kept."""
    chance = random.Random(f"{seed}:world")
    quota_s = requests * (0.02 + 0.08 * chance.random())
    resets_s = span_s * (0.3 + 0.5 * chance.random()) if chance.random() < 0.6 else 3 * 86_400.0
    return tuple(
        n if n.quota_s is None else replace(n, quota_s=quota_s, resets_s=resets_s) for n in WORLD
    )


# rented for a job; they serve nothing live
BATCH: tuple[Nature, ...] = (
    Nature("batch-l4", Gpu("L4", 1, 24 * GIB, 89), "0.50", cold_s=6.0, region="west"),
    Nature("batch-free", Gpu("T4", 1, 15 * GIB, 75), "0", cold_s=10.0, quota_s=1500.0, region="south"),
)  # fmt: skip
