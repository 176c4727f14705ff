"""The world that policies are compared in. Guarantee: what happens to a call does not depend on who made it.

An episode is drawn whole from its seed before anything runs: requests and spot markets from the traces
(``traces``), how far each place is from its data sheet. What one call meets follows from (seed, request,
place, which try of this request there), never from the order of calls, so that policies share their luck and
may be compared pair by pair. Nothing is executed; everything is of realm ``simulated``. Every assumption is
a field of ``Place``, of ``Draw`` or a constant here, and is told in the README beside the results.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from accel.core.offer import CPU, Billing, Gpu
from accel.core.task import Complexity, Stage
from accel.experiments.traces import Collection, Market
from accel.routing.estimate import ACHIEVED_FLOPS, CPU_FLOPS_PER_CORE, FLOP_PER_TOKEN
from accel.routing.gpus import SHEETS

UPLINK = 12.5e6  # bytes per second, 100 Mbit/s: the same as in ``breakeven.Assumptions``
BYTES_PER_TOKEN = 4
OVERHEAD_S = 0.010  # HTTP server and kernel launches of a remote call
CORES = 2
# The context that reached the language model is taken to be the best tenth of what was reranked for it.
RERANKED = 10
# Free GPU hours of a week (Kaggle's). An episode is the week's last minutes, after an even use so far.
WEEK_S, FREE_S = 168 * 3600.0, 30 * 3600.0
TAIL_S = 180.0  # for what is still running when the last request has come


@dataclass(frozen=True, slots=True)
class Place:
    """One provider. dollars_per_hour: decimal, with its source; billed for every second a worker is up.

    round_trip_s: the way there and back. cold_s: median seconds from nothing to a warm worker. idle_s: how
    long a worker stays warm without a call. workers: at most so many at once. spot: it can be had only while
    its zone's market says so. failing, hanging: shares of calls that lose the connection at the end, and
    that never answer.
    """

    name: str
    gpu: Gpu
    dollars_per_hour: str
    source: str
    billing: Billing = Billing.SECONDS
    round_trip_s: float = 0.0
    cold_s: float = 0.0
    idle_s: float = math.inf
    workers: int = 1
    spot: bool = False
    failing: float = 0.0
    hanging: float = 0.0

    @property
    def prior_flops(self) -> float:
        """FLOP/s that the data sheet promises in fp32: what anybody may know beforehand."""
        data = SHEETS.get(self.gpu.name)
        return CPU_FLOPS_PER_CORE * self.gpu.count if data is None else data.fp32 * ACHIEVED_FLOPS


def _gpu(name: str) -> Gpu:
    return Gpu(name, 1, SHEETS[name].vram_bytes, SHEETS[name].capability)


_FAULTS = {"failing": 0.005, "hanging": 0.0005}
_SPOT = {"round_trip_s": 0.09, "cold_s": 45.0, "idle_s": 300.0, "workers": 2, "spot": True, **_FAULTS}
_SERVERLESS = {"round_trip_s": 0.06, "cold_s": 12.0, "idle_s": 60.0, "workers": 4, **_FAULTS}
PLACES: tuple[Place, ...] = (
    Place("local", Gpu(CPU.name, CORES), "0", "this machine", Billing.NOTHING),
    Place("free-t4", _gpu("T4"), "0", "a free tier of GPU hours", Billing.QUOTA, round_trip_s=0.15,
          cold_s=30.0, idle_s=120.0, **_FAULTS),  # type: ignore[arg-type]
    Place("spot-3090", _gpu("RTX 3090"), "0.18", "Vast.ai interruptible, fairlane 2026-05", **_SPOT),  # type: ignore[arg-type]
    Place("spot-4090", _gpu("RTX 4090"), "0.31", "Vast.ai interruptible, fairlane 2026-05", **_SPOT),  # type: ignore[arg-type]
    Place("spot-a100", _gpu("A100"), "0.40", "Vast.ai interruptible, fairlane 2026-05", **_SPOT),  # type: ignore[arg-type]
    Place("l4", _gpu("L4"), "0.80", "Modal, techbytes 2026-05-07", **_SERVERLESS),  # type: ignore[arg-type]
    Place("a100", _gpu("A100"), "2.50", "Modal, techbytes 2026-05-07", **_SERVERLESS),  # type: ignore[arg-type]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. at_s: when it comes. within_s: its deadline in seconds, None without one."""

    number: int
    at_s: float
    stage: Stage
    tokens: int
    within_s: float | None

    @property
    def bytes(self) -> int:
        return BYTES_PER_TOKEN * self.tokens

    @property
    def complexity(self) -> Complexity:
        return Complexity.COMPLEX if self.stage is Stage.RERANK else Complexity.SIMPLE


@dataclass(frozen=True, slots=True)
class Luck:
    """What one call meets: its compute time as a multiple of what is usual there, and how it fails."""

    slow: float
    fails: bool
    hangs: bool


@dataclass(frozen=True, slots=True)
class Draw:
    """How an episode is drawn from its seed.

    requests: in a row. reranks: share of requests that rerank (the others embed their context). tight,
    loose: deadlines in seconds, uniform; shares of requests with each, the rest has none. offset: standard
    deviation of the logarithm of how far a place is from its data sheet, all episode long; spread: of one
    call. cold_spread: of one cold start. spot_speed: seconds of the market that pass in one of the requests'.
    """

    requests: int = 6000
    reranks: float = 0.5
    tight: tuple[float, float] = (1.0, 3.0)
    tight_share: float = 0.5
    loose: tuple[float, float] = (5.0, 15.0)
    loose_share: float = 0.4
    offset: float = 0.3
    spread: float = 0.25
    cold_spread: float = 0.3
    spot_speed: float = 12.0


@dataclass(frozen=True, slots=True)
class Episode:
    """One drawn run: what every policy meets, and what a clairvoyant bound may look at.

    markets: place name → when it can be had, for spot places. pace: place name → FLOP/s that it really
    achieves. quota_s: free GPU seconds that are left for the episode; the next are given when the last
    request comes. span_s: its length.
    """

    seed: int
    service: str
    asks: tuple[Ask, ...]
    places: tuple[Place, ...]
    markets: dict[str, Market]
    pace: dict[str, float]
    quota_s: float
    span_s: float
    drawn: Draw

    def luck(self, ask: Ask, place: Place, nth: int) -> Luck:
        """What the ``nth`` call (from 0) of ``ask`` at ``place`` meets."""
        chance = random.Random(f"{self.seed}:{ask.number}:{place.name}:{nth}")
        fate = chance.random()
        slow = chance.lognormvariate(0.0, self.drawn.spread)
        return Luck(slow, place.hanging <= fate < place.hanging + place.failing, fate < place.hanging)

    def compute_s(self, ask: Ask, place: Place) -> float:
        """The usual seconds of ``ask`` on a worker of ``place``."""
        overhead = OVERHEAD_S if place.round_trip_s else 0.0
        return overhead + ask.tokens * FLOP_PER_TOKEN / self.pace[place.name]

    def cold_s(self, place: Place, nth: int) -> float:
        """Seconds of the ``nth`` cold start (from 0) at ``place``."""
        chance = random.Random(f"{self.seed}:{place.name}:cold:{nth}")
        return place.cold_s * chance.lognormvariate(0.0, self.drawn.cold_spread)

    def way_s(self, ask: Ask, place: Place) -> float:
        """Seconds there and back."""
        return place.round_trip_s + (ask.bytes / UPLINK if place.round_trip_s else 0.0)


def draw(seed: int, traces: Collection, how: Draw, places: tuple[Place, ...] = PLACES) -> Episode:
    """The episode of ``seed``. Raises UsageError when the traces are too short for it."""
    chance = random.Random(f"{seed}:episode")
    service, arrivals = traces.requests(chance, how.requests)
    asks = []
    for number, arrival in enumerate(arrivals):
        reranks = chance.random() < how.reranks
        kind, spot = chance.random(), chance.random()
        within_s = None
        if kind < how.tight_share:
            within_s = how.tight[0] + spot * (how.tight[1] - how.tight[0])
        elif kind < how.tight_share + how.loose_share:
            within_s = how.loose[0] + spot * (how.loose[1] - how.loose[0])
        tokens = arrival.tokens * (RERANKED if reranks else 1)
        stage = Stage.RERANK if reranks else Stage.EMBED
        asks.append(Ask(number, arrival.at_s, stage, tokens, within_s))
    span_s = asks[-1].at_s + TAIL_S
    spots = [p.name for p in places if p.spot]
    markets = dict(zip(spots, traces.zones(chance, len(spots), span_s, how.spot_speed), strict=True))
    pace = {p.name: p.prior_flops * chance.lognormvariate(0.0, how.offset) for p in places}
    return Episode(
        seed, service, tuple(asks), places, markets, pace, FREE_S / WEEK_S * asks[-1].at_s, span_s, how
    )
