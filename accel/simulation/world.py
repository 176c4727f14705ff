"""Providers that are drawn, not called. Guarantee: what one does follows from its seed and its calls alone.

Nothing is executed: a call waits on the loop's clock, and its answer is a vector made from the text's
hash. The numbers of ``WORLD`` are invented to be plausible; a simulation tests the engine, and says
nothing about any real provider. Everything is of realm ``simulated``.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from accel.core.errors import (
    NoCapacity,
    Preempted,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    Unreachable,
)
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import NanoUSD, Rate, from_dollars
from accel.core.offer import CPU, Billing, Gpu, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.wire import Envelope, unpack_texts

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Nature:
    """What a simulated provider is like.

    dollars_per_hour: decimal. per_text_s: median seconds of one text, in a log-normal with sigma
    ``spread``; way_s: there and back. cold_s: cold start after ``idle_s`` without a call. failing: share of
    calls that raise. wrong: share of calls that answer with NaN. hanging: share that never answers.
    outage: (first, last) virtual second in which nothing is reachable. quota_s: free seconds in all, or
    None.
    """

    name: str
    gpu: Gpu
    dollars_per_hour: str
    per_text_s: float
    way_s: float = 0.0
    spread: float = 0.3
    cold_s: float = 0.0
    idle_s: float = 300.0
    failing: float = 0.0
    wrong: float = 0.0
    hanging: float = 0.0
    outage: tuple[float, float] | None = None
    quota_s: float | None = None


WORLD: tuple[Nature, ...] = (
    Nature("local", CPU, "0", per_text_s=0.25, spread=0.2, failing=0.002),
    Nature("free-t4", Gpu("T4", 1, 15 * GIB, 75), "0", per_text_s=0.012, way_s=0.3, cold_s=8.0,
           failing=0.05, wrong=0.02, outage=(300.0, 420.0), quota_s=80.0),
    Nature("spot-l4", Gpu("L4", 1, 24 * GIB, 89), "0.30", per_text_s=0.004, way_s=0.1, cold_s=5.0,
           failing=0.10, hanging=0.02),
    Nature("steady-a100", Gpu("A100", 1, 80 * GIB, 80), "1.60", per_text_s=0.005, way_s=0.1,
           cold_s=2.0, failing=0.01, wrong=0.01, outage=(500.0, 560.0)),
)  # fmt: skip


class SimulatedProvider:
    """Serves live from a standing lease; see ``Nature``. Meets ``Provider`` and ``StandsBy``."""

    realm = Realm.SIMULATED

    def __init__(self, nature: Nature, runtime: Runtime, seed: int) -> None:
        self.name, self.nature = nature.name, nature
        self._runtime = runtime
        self._rng = random.Random(f"{seed}:{nature.name}")
        self._rate = Rate(from_dollars(nature.dollars_per_hour), date(2026, 1, 1), "invented")
        self._used_s = 0.0
        self._warm_until = -1.0

    async def probe(self, need: Need) -> Offer | Unfit:
        """An offer, unless it is unreachable or its quota is used up."""
        nature, now = self.nature, self._runtime.now()
        await asyncio.sleep(0.01)
        if self._out():
            return Unfit(self.name, self.realm, "it does not answer", now)
        left = None if nature.quota_s is None else max(0.0, nature.quota_s - self._used_s)
        if left == 0.0:
            return Unfit(self.name, self.realm, "the quota is used up", now)
        return Offer(
            id=f"{self.name}-offer", provider=self.name, realm=self.realm, gpu=nature.gpu,
            rate=self._rate, as_of=now, source="invented", lanes=frozenset({Lane.LIVE}),
            cold_s=0.0 if self._warm() else nature.cold_s, quota_left_s=left,
            round_trip_s=nature.way_s, billing=self._billing(),
        )  # fmt: skip

    def _billing(self) -> Billing:
        if self.nature.quota_s is not None:
            return Billing.QUOTA
        return Billing.NOTHING if self._rate.free else Billing.SECONDS

    def standing_lease(self) -> Lease:
        """Nothing is rented: calls are billed by their seconds."""
        now = self._runtime.now()
        return Lease(self.name, self.name, self.realm, self.name, self.name, now, now + timedelta(days=1))

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """One embed answer, after the drawn seconds, or what is drawn to go wrong instead."""
        nature, draw = self.nature, self._rng.random()
        texts = unpack_texts(request.tensors)
        compute_s = nature.per_text_s * len(texts) * self._rng.lognormvariate(0.0, nature.spread)
        if self._out():
            await asyncio.sleep(0.2)
            raise Unreachable("connection refused", provider=self.name)
        if nature.quota_s is not None and self._used_s >= nature.quota_s:
            raise QuotaExhausted("the quota is used up", provider=self.name)
        if draw < nature.hanging:
            await asyncio.sleep(3600.0)
        cold_s = 0.0 if self._warm() else nature.cold_s
        await asyncio.sleep(nature.way_s + cold_s + compute_s)
        self._used_s += cold_s + compute_s
        self._warm_until = asyncio.get_running_loop().time() + nature.idle_s
        if draw < nature.hanging + nature.failing:
            raise self._failure()
        vectors = vectors_of(texts, int(request.spec["dimension"]))
        if draw < nature.hanging + nature.failing + nature.wrong:
            vectors[-1, 0] = np.nan
        return Envelope(
            request.task_id, request.spec, {"vectors": vectors}, {"cold_s": cold_s, "compute_s": compute_s}
        )

    async def create(self, intent: Intent) -> Lease:
        """Nothing can be rented here."""
        raise NoCapacity("it rents nothing", provider=self.name)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """There is never anything to give back."""
        return Released(lease.id, "nothing was rented")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """None."""
        return ()

    @property
    def billed(self) -> NanoUSD:
        """What all seconds so far cost at its rate."""
        return self._rate.cost(self._used_s)

    def _failure(self) -> ProviderError:
        kind = self._rng.randrange(3)
        if kind == 0:
            return RateLimited("slow down", provider=self.name, retry_after_s=self._rng.uniform(0.1, 2.0))
        if kind == 1:
            return Unreachable("the connection was lost", provider=self.name)
        return Preempted("the machine was taken away", provider=self.name)

    def _warm(self) -> bool:
        return not self.nature.cold_s or asyncio.get_running_loop().time() < self._warm_until

    def _out(self) -> bool:
        first, last = self.nature.outage or (0.0, 0.0)
        return first <= asyncio.get_running_loop().time() < last


def vectors_of(texts: Sequence[str], dimension: int) -> np.ndarray:
    """float32 (n, dimension) in [-1, 1], row i from text i's BLAKE2b; dimension at most 32."""
    rows = np.empty((len(texts), dimension), np.float32)
    for i, text in enumerate(texts):
        digest = hashlib.blake2b(text.encode(), digest_size=64).digest()
        rows[i] = np.frombuffer(digest, "<i2")[:dimension] / np.float32(32768)
    return rows
