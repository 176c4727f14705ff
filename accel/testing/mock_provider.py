"""A provider in memory. Guarantee: it knows the truth that the real ones hide: what is rented right now.

It runs nothing and waits on the running loop's clock only, so that the same seed gives the same run on
a virtual-time loop. ``MockBatchProvider`` has the batch lane, ``MockProvider`` both.

    cloud = MockProvider("cloud", runtime, rate=Rate(from_dollars("0.16"), today, "test"))
    cloud.fail("create", lost=True)           # the thing is made, the answer never arrives
    cloud.fail("call", Preempted("gone", provider="cloud"), after=3)
    assert cloud.rented == ()                 # at the end of a test: nothing leaked
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from accel.core.errors import BadOutput, ProviderError, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import ZERO, NanoUSD, Rate
from accel.core.offer import Billing, Gpu, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Numerics
from accel.providers.base import Fetched, JobState, Progress
from accel.wire import Envelope

FREE = Rate(ZERO, date(2026, 1, 1), "mock: free")
MOCK_GPU = Gpu("mock GPU", 1, 16 << 30, 75)


@dataclass(slots=True)
class _Fault:
    """One rule of ``fail``."""

    on: str
    error: ProviderError | None
    lost: bool
    delay_s: float
    times: int
    after: int
    seen: int = 0

    def fires(self) -> bool:
        self.seen += 1
        return self.seen > self.after and (self.times == 0 or self.seen <= self.after + self.times)


@dataclass(slots=True)
class _Thing:
    """Something rented. Instants are loop seconds. ends_at: when it ends by itself."""

    intent: Intent
    lease: Lease
    made_at: float
    runs_at: float
    done_at: float
    ends_at: float
    gone_at: float | None = None


class MockBatchProvider:
    """Batch lane only. Meets ``Provider`` and ``RunsBatch``.

    wait_s, cold_s, job_s: mean seconds of queue, cold start and a job; each drawn with ``jitter``
    (0: always the mean; 0.2: within ±20 %) from ``seed``. outcome: how jobs end. files: what a job
    leaves. confirms: whether ``release`` can stop things (False: as Kaggle, it only tells). quota_s:
    free seconds of each ``week_s``, or None: what was used is told, and what runs is reserved. at_once: as
    ``Offer`` has it.
    """

    def __init__(
        self, name: str, runtime: Runtime, *, seed: int = 0, realm: Realm = Realm.SIMULATED,
        gpu: Gpu = MOCK_GPU, rate: Rate = FREE, numerics: frozenset[Numerics] = frozenset(Numerics),
        wait_s: float = 0.0, cold_s: float = 0.0, job_s: float = 1.0, jitter: float = 0.0,
        outcome: JobState = JobState.DONE, files: Mapping[str, bytes] | None = None,
        confirms: bool = True, quota_s: float | None = None, week_s: float = 604_800.0,
        at_once: int | None = None,
    ) -> None:  # fmt: skip
        if not 0 <= jitter < 1 or min(wait_s, cold_s, job_s) < 0:
            raise ValueError("seconds are not negative, and jitter is from 0 to below 1")
        self.name, self.realm = name, realm
        self.calls: Counter[str] = Counter()
        self._runtime, self._rng = runtime, random.Random(seed)
        self._gpu, self._rate, self._numerics = gpu, rate, numerics
        self._wait_s, self._cold_s, self._job_s, self._jitter = wait_s, cold_s, job_s, jitter
        self._outcome, self._confirms, self._quota_s = outcome, confirms, quota_s
        self._week_s, self._at_once = week_s, at_once
        self._files = dict(files) if files is not None else {"result.json": b"{}"}
        self._lanes = frozenset({Lane.BATCH})
        self._faults: list[_Fault] = []
        self._things: dict[str, _Thing] = {}

    # --- the script, and the truth

    def fail(
        self, on: str, error: ProviderError | None = None, *, lost: bool = False,
        delay_s: float = 0.0, times: int = 1, after: int = 0,
    ) -> None:  # fmt: skip
        """From the (after+1)-th call of method ``on`` (or "*"), ``times`` calls (0: all) go wrong.

        error: what they raise before any effect. lost: they take effect, and then raise Unreachable.
        delay_s: they take that much longer. Earlier rules win.
        """
        if error is None and not lost and not delay_s:
            raise ValueError("a fault raises something, loses the answer, or delays")
        self._faults.append(_Fault(on, error, lost, delay_s, times, after))

    def mend(self) -> None:
        """Drop every rule."""
        self._faults.clear()

    @property
    def rented(self) -> tuple[Lease, ...]:
        """What costs something right now: neither released nor at its own end."""
        now = self._now()
        return tuple(t.lease for t in self._things.values() if self._alive(t, now))

    @property
    def billed(self) -> NanoUSD:
        """What it would charge for everything up to now, each thing rounded up by itself."""
        now = self._now()
        return NanoUSD(sum(
            self._rate.cost(max(0.0, min(now, t.ends_at, t.gone_at or now) - t.made_at))
            for t in self._things.values()
        ))  # fmt: skip

    def _billing(self) -> Billing:
        if self._quota_s is not None:
            return Billing.QUOTA
        return Billing.NOTHING if self._rate.free else Billing.SECONDS

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """An offer for whatever its lanes, numerics and GPU can meet."""
        now = self._runtime.now()
        try:
            lost = await self._meet("probe")
        except ProviderError as error:
            return Unfit(self.name, self.realm, str(error), now)
        if reason := "no answer" if lost else self._unfit(need):
            return Unfit(self.name, self.realm, reason, now)
        left_s, resets = self._quota(), now + timedelta(seconds=self._week_s - self._now() % self._week_s)
        if left_s is not None and left_s <= 0:
            again_at = resets if self._quota_s else None  # a week of nothing is not waited for
            return Unfit(self.name, self.realm, "the quota is used up", now, again_at=again_at)
        return Offer(
            id=f"{self.name}-offer", provider=self.name, realm=self.realm, gpu=self._gpu,
            rate=self._rate, as_of=now, source="mock provider", lanes=self._lanes,
            numerics=self._numerics, wait_s=self._wait_s, cold_s=self._cold_s,
            quota_left_s=left_s, quota_s=self._quota_s, billing=self._billing(), at_once=self._at_once,
            quota_resets_at=None if left_s is None else resets,
        )  # fmt: skip

    async def create(self, intent: Intent) -> Lease:
        """Rent; a second create under one name is the same thing, as with a provider's unique names."""
        lost = await self._meet("create")
        thing = self._things.get(intent.name)
        if thing is None or not self._alive(thing, self._now()):
            thing = self._things[intent.name] = self._make(intent)
        self._answer(lost)
        return thing.lease

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Stops it and confirms; with ``confirms=False`` confirms only what has ended by itself."""
        try:
            lost = await self._meet("release")
            thing = self._things.get(lease.name)
            ended = thing is None or self._state(thing).terminal
            if thing is not None and (self._confirms or ended):
                thing.gone_at = self._now() if thing.gone_at is None else thing.gone_at
            self._answer(lost)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        if not (self._confirms or ended):
            return Unconfirmed(lease.id, "it cannot be stopped from outside", lease.ends_by)
        return Released(lease.id, "mock provider: nothing of it runs")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """``rented``, or Unknown when the listing fails."""
        try:
            self._answer(await self._meet("leases"))
        except ProviderError as error:
            return Unknown(str(error))
        return self.rented

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """The lease made under the intent's name, whether or not it still runs."""
        self._answer(await self._meet("find"))
        thing = self._things.get(intent.name)
        return thing.lease if thing else None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Nothing: ``create`` started it."""
        self._answer(await self._meet("start"))

    async def poll(self, lease: Lease) -> Progress:
        """Its state by the loop's clock."""
        self._answer(await self._meet("poll"))
        thing = self._things.get(lease.name)
        return Progress(self._state(thing) if thing else JobState.ABSENT)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Writes ``files``. Raises BadOutput for a job that has not ended, as its output is not whole."""
        self._answer(await self._meet("fetch"))
        thing = self._things.get(lease.name)
        if thing is None or not self._state(thing).terminal:
            raise BadOutput("there is no output yet", provider=self.name)
        return self._write(into)

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``."""
        return await self.release(lease)

    # ---

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _meet(self, method: str) -> bool:
        """Count the call and meet its fault; True if the answer is to be lost."""
        self.calls[method] += 1
        fault = next((f for f in self._faults if f.on in (method, "*") and f.fires()), None)
        if fault is None:
            return False
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.error is not None:
            raise fault.error
        return fault.lost

    def _answer(self, lost: bool) -> None:
        if lost:
            raise Unreachable("the answer was lost", provider=self.name)

    def _write(self, into: Path) -> Fetched:
        into.mkdir(parents=True, exist_ok=True)
        for name, data in self._files.items():
            (into / name).write_bytes(data)
        return Fetched({name: into / name for name in self._files}, "mock log\n")

    def _unfit(self, need: Need) -> str:
        if need.only and self.name not in need.only:
            return "not among the providers that were allowed"
        if need.lane not in self._lanes:
            return f"it has no {need.lane} lane"
        if need.numerics not in self._numerics:
            return f"it has no {need.numerics}"
        if need.vram_bytes > self._gpu.vram_bytes or need.capability > self._gpu.capability:
            return f"{self._gpu.name} is too small"
        return ""

    def _quota(self) -> float | None:
        """Free seconds left in this week, None without a quota."""
        if self._quota_s is None:
            return None
        now = self._now()
        began = now - now % self._week_s
        used_s = sum(
            t.intent.lifetime_s if self._alive(t, now) else (t.gone_at or t.ends_at) - max(began, t.made_at)
            for t in self._things.values() if (t.gone_at or t.ends_at) > began
        )  # fmt: skip
        return max(0.0, self._quota_s - used_s)

    def _draw(self, mean_s: float) -> float:
        return mean_s * (1 + self._jitter * (2 * self._rng.random() - 1))

    def _make(self, intent: Intent) -> _Thing:
        made = self._now()
        runs = made + self._draw(self._wait_s) + self._draw(self._cold_s)
        ends_by = intent.created_at + timedelta(seconds=intent.lifetime_s)
        lease = Lease(
            intent.id, self.name, self.realm, intent.name, f"mock-{intent.name}", intent.created_at, ends_by
        )
        done = runs + self._draw(self._job_s)
        return _Thing(intent, lease, made, runs, done, min(done, made + intent.lifetime_s))

    def _state(self, thing: _Thing) -> JobState:
        now = self._now()
        if thing.gone_at is not None and thing.gone_at < thing.ends_at:
            return JobState.CANCELLED
        if now >= thing.ends_at:
            return self._outcome if thing.done_at <= thing.ends_at else JobState.FAILED
        return JobState.RUNNING if now >= thing.runs_at else JobState.QUEUED

    @staticmethod
    def _alive(thing: _Thing, now: float) -> bool:
        return thing.gone_at is None and now < thing.ends_at


def echo(request: Envelope) -> Envelope:
    """The request as its own answer."""
    return Envelope(request.task_id, request.spec, request.tensors, request.meta)


class MockProvider(MockBatchProvider):
    """Both lanes. answer: what a call returns; call_s: mean seconds it takes, drawn with ``jitter``."""

    def __init__(
        self, name: str, runtime: Runtime, *, call_s: float = 0.0,
        answer: Callable[[Envelope], Envelope] = echo, **options: object,
    ) -> None:  # fmt: skip
        super().__init__(name, runtime, **options)  # type: ignore[arg-type]
        self._lanes = frozenset(Lane)
        self._call_s, self._answer_with = call_s, answer

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """``answer(request)`` after the drawn time; an error or a lost answer after it, too."""
        await asyncio.sleep(self._draw(self._call_s))
        lost = await self._meet("call")
        answer = self._answer_with(request)
        self._answer(lost)
        return answer
