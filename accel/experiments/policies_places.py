"""The places of an episode, running. Guarantee: every second that a worker was up is invoiced, once.

A place serves calls from its own workers: a free warm one at once; else the call waits for whichever comes
free first, while another is started if none is up, or if the call has waited ``PATIENCE_S`` and none is
being started. A started worker gets warm even if nobody waits for it any more, and stays warm for ``idle_s``.
When a spot market ends, everything there is gone: running calls are preempted, waiting ones find no machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from accel.core.errors import NoCapacity, Preempted, QuotaExhausted, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import NanoUSD, Rate, from_dollars
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.experiments.policies_world import FREE_S, UPLINK, Ask, Episode, Place
from accel.wire import Envelope

PATIENCE_S = 4.0  # RunPod serverless' default "queue delay" before another worker is started
ANSWER_S = 0.2  # until a place without a machine says so
PROBE_S = 0.05
HANG_S = 3600.0


@dataclass(slots=True)
class Invoice:
    """Worker seconds of one place: starting, at work (successful or not), and idle but warm."""

    rate: Rate
    cold_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0

    @property
    def used_s(self) -> float:
        return self.cold_s + self.busy_s

    @property
    def worked(self) -> NanoUSD:
        """Money for starting and working."""
        return self.rate.cost(self.used_s)

    @property
    def total(self) -> NanoUSD:
        """Money for every second up, idle ones too."""
        return self.rate.cost(self.used_s + self.idle_s)


class Workers:
    """The workers of one place. ``take`` gives one for the time of a ``with``."""

    def __init__(self, episode: Episode, place: Place, invoice: Invoice) -> None:
        self.place, self.invoice, self._episode = place, invoice, episode
        self._idle: deque[float] = deque()  # since when; the last one in is the first one out
        self._starting: dict[int, float] = {}  # number of the start → when it began
        self._ready: dict[int, float] = {}
        self._busy = self._starts = self._age = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._clock = asyncio.get_running_loop().time
        if not place.cold_s:
            self._idle.extend(0.0 for _ in range(place.workers))

    def cold_s(self) -> float:
        """Seconds until a call that came now would have a warm worker, as far as starting one goes."""
        self._expire()
        if self._idle or self._busy:
            return 0.0
        return min((r - self._clock() for r in self._ready.values()), default=self.place.cold_s)

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[float]:
        """A worker; the value is the seconds that a start of one was waited for. Raises NoCapacity."""
        began, cold = self._clock(), False
        self._expire()
        if self._idle:
            self._charge_idle(self._idle.pop())
        else:
            cold = await self._wait()
        age, since = self._age, self._clock()
        self._busy += 1
        try:
            yield since - began if cold else 0.0
        finally:
            self.invoice.busy_s += self._clock() - since
            if age == self._age:
                self._busy -= 1
                self._free()

    def vanish(self) -> None:
        """The spot market has ended: nothing is left."""
        self._expire()
        for since in self._idle:
            self._charge_idle(since)
        for began in self._starting.values():
            self.invoice.cold_s += self._clock() - began
        self._idle.clear()
        self._starting.clear()
        self._ready.clear()
        self._busy, self._age = 0, self._age + 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(NoCapacity("the machine was taken away", provider=self.place.name))
        self._waiting.clear()

    def close(self) -> None:
        """The episode is over: what is idle is invoiced up to now, or to the end of its idle time."""
        self.vanish()

    async def _wait(self) -> bool:
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(mine)
        if not self._busy and not self._starting:
            self._start()
        loop.call_later(PATIENCE_S, self._late, mine)
        try:
            return await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._free()  # it was given a worker in the very moment it stopped waiting
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine)

    def _late(self, waiting: asyncio.Future[bool]) -> None:
        if waiting.done():
            return
        if self._starting:  # one at a time
            asyncio.get_running_loop().call_later(PATIENCE_S, self._late, waiting)
        else:
            self._start()

    def _start(self) -> None:
        if len(self._starting) + self._busy + len(self._idle) >= self.place.workers:
            return
        number, age, now = self._starts, self._age, self._clock()
        self._starts += 1
        took = self._episode.cold_s(self.place, number)
        self._starting[number], self._ready[number] = now, now + took

        def warm() -> None:
            if age == self._age:
                del self._starting[number], self._ready[number]
                self.invoice.cold_s += took
                self._free(cold=True)

        asyncio.get_running_loop().call_later(took, warm)

    def _free(self, cold: bool = False) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(cold)
                return
        self._idle.append(self._clock())

    def _expire(self) -> None:
        now = self._clock()
        while self._idle and now - self._idle[0] > self.place.idle_s:
            self._charge_idle(self._idle.popleft())

    def _charge_idle(self, since: float) -> None:
        self.invoice.idle_s += min(self._clock() - since, self.place.idle_s)


class TraceProvider:
    """One place as a provider of the engine: meets ``Provider`` and ``StandsBy``. Realm: simulated."""

    realm = Realm.SIMULATED

    def __init__(self, episode: Episode, place: Place, runtime: Runtime) -> None:
        self.name, self.place = place.name, place
        self._episode, self._runtime = episode, runtime
        self._rate = Rate(from_dollars(place.dollars_per_hour), date(2026, 11, 23), place.source)
        self.invoice = Invoice(self._rate)
        self.workers = Workers(episode, place, self.invoice)
        self.calls: Counter[int] = Counter()  # by request
        self._market = episode.markets.get(place.name)
        if self._market is not None:
            loop = asyncio.get_running_loop()
            for _, until in self._market.ups:
                loop.call_at(until, self.workers.vanish)

    def there(self) -> bool:
        """Whether a machine can be had now."""
        now = asyncio.get_running_loop().time()
        return self._market is None or self._market.until(now) > now

    def quota_left_s(self) -> float | None:
        """Free GPU seconds left, None where there is no quota."""
        if self.place.billing is not Billing.QUOTA:
            return None
        return max(0.0, self._episode.quota_s - self.invoice.used_s)

    async def probe(self, need: Need) -> Offer | Unfit:
        """An offer, unless the market or the quota is at its end."""
        now, place, left = self._runtime.now(), self.place, self.quota_left_s()
        if place.round_trip_s:
            await asyncio.sleep(PROBE_S)
        if not self.there():
            return Unfit(self.name, self.realm, "no spot machine is to be had", now)
        if left == 0.0:
            return Unfit(self.name, self.realm, "the quota is used up", now)
        ends = None
        if left is not None:
            started = now - timedelta(seconds=asyncio.get_running_loop().time())
            ends = started + timedelta(seconds=self._episode.asks[-1].at_s)
        return Offer(
            id=f"{self.name}-offer", provider=self.name, realm=self.realm, gpu=place.gpu, rate=self._rate,
            as_of=now, source=place.source, lanes=frozenset({Lane.LIVE}), cold_s=self.workers.cold_s(),
            round_trip_s=place.round_trip_s, seconds_per_byte=1 / UPLINK if place.round_trip_s else 0.0,
            quota_left_s=left, interruptible=place.spot, billing=place.billing,
            quota_s=None if left is None else FREE_S, quota_resets_at=ends,
            idle_s=place.idle_s if math.isfinite(place.idle_s) else None,
        )  # fmt: skip

    def standing_lease(self) -> Lease:
        """Nothing is rented: a call is billed by its seconds."""
        now = self._runtime.now()
        return Lease(self.name, self.name, self.realm, self.name, self.name, now, now + timedelta(days=1))

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """Serve one request of the episode (``request.task_id`` is its number)."""
        ask = self._episode.asks[int(request.task_id)]
        cold_s, compute_s = await self.serve(ask)
        return Envelope(
            request.task_id, request.spec, _tensors(ask, request), {"cold_s": cold_s, "compute_s": compute_s}
        )

    async def serve(self, ask: Ask) -> tuple[float, float]:
        """Serve ``ask``: seconds of cold start waited for and of compute. Raises ProviderError."""
        place, clock = self.place, asyncio.get_running_loop().time
        luck = self._episode.luck(ask, place, self.calls[ask.number])
        self.calls[ask.number] += 1
        way_s = self._episode.way_s(ask, place)
        await asyncio.sleep(way_s / 2)
        if not self.there():
            await asyncio.sleep(ANSWER_S)
            raise NoCapacity("no spot machine is to be had", provider=self.name)
        if self.quota_left_s() == 0.0:
            raise QuotaExhausted("the quota is used up", provider=self.name)
        async with self.workers.take() as cold_s:
            compute_s = HANG_S if luck.hangs else self._episode.compute_s(ask, place) * luck.slow
            gone = self._market.until(clock()) if self._market else float("inf")
            if clock() + compute_s >= gone:
                await asyncio.sleep(max(0.0, gone - clock()))
                raise Preempted("the machine was taken away", provider=self.name)
            await asyncio.sleep(compute_s)
        if luck.fails:
            raise Unreachable("the connection was lost", provider=self.name)
        await asyncio.sleep(way_s / 2)
        return cold_s, compute_s

    async def create(self, intent: Intent) -> Lease:
        """Nothing can be rented here."""
        raise NoCapacity("it rents nothing", provider=self.name)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """There is never anything to give back."""
        return Released(lease.id, "nothing was rented")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Never anything."""
        return ()


def _tensors(ask: Ask, request: Envelope) -> dict[str, np.ndarray]:
    """Zeros of the shape that the stage's answer has."""
    if ask.stage is Stage.EMBED:
        return {"vectors": np.zeros((1, int(request.spec["dimension"])), np.float32)}
    return {name: np.zeros((1, 1), np.float32) for name in ("ids", "scores", "dense", "lexical")}

