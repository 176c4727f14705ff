"""A drawn provider that rents. Guarantee: it bills what is rented until that is given back, or ends.

Money counts from creation to release, idle time included; free quota counts while the job runs, because
such a session ends itself. A fault of a lease is drawn when it is created. The result is a real one: the
files that ``worker.artefacts`` reads back and verifies.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from accel.core.errors import NoCapacity, Preempted, ProviderError, RateLimited, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.providers.base import Fetched, JobState, Progress
from accel.simulation import answers
from accel.simulation.evidence import FOREVER, Rented
from accel.simulation.faults import Fault, Planned
from accel.simulation.natures import Nature
from accel.simulation.scene import Scene
from accel.wire import Envelope, unpack_texts
from accel.worker.artefacts import ENVELOPE, write_result

# what can befall a lease; each at its creation, its run, or its end
MEETS = frozenset({
    Fault.REFUSED, Fault.LATE, Fault.PREEMPTED, Fault.ANSWERED, Fault.COLD, Fault.SLOW, Fault.HANG,
    Fault.THROTTLED, Fault.BURST, Fault.PAYLOAD, Fault.OOM,
})  # fmt: skip
JOB_S = 40.0


@dataclass(slots=True)
class _Thing:
    """One rented thing. left: polls and downloads that its fault still spoils."""

    rented: Rented
    intent: Intent
    lease: Lease
    fault: Planned | None
    left: int = 2


class SimulatedBatch:
    """Batch lane only. Meets ``Provider`` and ``RunsBatch``."""

    realm = Realm.SIMULATED

    def __init__(self, nature: Nature, runtime: Runtime, seed: int, scene: Scene) -> None:
        self.name, self.nature, self.scene = nature.name, nature, scene
        self._runtime = runtime
        self._rng = random.Random(f"{seed}:{nature.name}")
        self._things: dict[str, _Thing] = {}

    async def probe(self, need: Need) -> Offer | Unfit:
        """An offer for batch work, less the quota that was used."""
        nature, now, clock = self.nature, self._runtime.now(), self._clock()
        if need.lane is not Lane.BATCH:
            return Unfit(self.name, self.realm, "it has no live lane", now)
        if self._down():
            return Unfit(self.name, self.realm, "it does not answer", now)
        left = resets = None
        if nature.quota_s is not None:
            window = nature.window(clock)
            left = max(0.0, nature.quota_s - self.used_s(window))
            resets = now + timedelta(seconds=nature.reset_s(window) - clock)
        return Offer(
            id=f"{self.name}-offer", provider=self.name, realm=self.realm, gpu=nature.gpu, rate=nature.rate,
            as_of=now, source="invented", lanes=frozenset({Lane.BATCH}), numerics=nature.numerics,
            wait_s=2.0, cold_s=nature.cold_s, quota_left_s=left, billing=nature.billing,
            quota_s=nature.quota_s, quota_resets_at=resets,
        )  # fmt: skip

    def used_s(self, window: int) -> float:
        """Quota used up in a window, by what was created in it."""
        now, nature = self._clock(), self.nature
        things = (t.rented for t in self._things.values())
        return sum(r.billed_s(now) for r in things if nature.window(r.made_at) == window)

    async def create(self, intent: Intent) -> Lease:
        """Rent; a second create under one name is the same thing."""
        self._reach()
        now = self._clock()
        thing = self._things.get(intent.name)
        if thing is None:
            fault = self.scene.ambush.take(MEETS, now)
            if fault is not None and fault.kind is Fault.REFUSED:
                if fault.number % 2:
                    raise NoCapacity("no machine is free", provider=self.name)
                raise Unreachable("connection refused", provider=self.name)
            thing = self._things[intent.name] = self._make(intent, now, fault)
        await asyncio.sleep(1.0)
        if thing.fault is not None and thing.fault.kind is Fault.LATE and thing.left:
            thing.left = 0
            raise Unreachable("the answer was lost", provider=self.name)
        return thing.lease

    def _make(self, intent: Intent, now: float, fault: Planned | None) -> _Thing:
        kind, draw = (fault.kind, fault.draw) if fault else (None, 0.0)
        cold_s, job_s = self.nature.cold_s, JOB_S * self._rng.lognormvariate(0.0, 0.4)
        if kind is Fault.COLD and fault is not None:
            cold_s = FOREVER if fault.number % 4 == 3 else 10.0 + 170.0 * draw
        if kind is Fault.SLOW:
            job_s *= 4.0 + 16.0 * draw
        if kind is Fault.HANG:
            job_s = FOREVER
        runs = now + 2.0 + cold_s
        rented = Rented(
            self.scene.engine, self.name, intent.name, self.nature.billing, self.nature.rate, now, runs,
            runs + job_s, now + intent.lifetime_s,
        )  # fmt: skip
        if kind is Fault.PREEMPTED:
            rented.gone_at, rented.preempted = min(runs, now + 60.0) + job_s * draw, True
        if kind is Fault.ANSWERED:
            rented.gone_at, rented.preempted = rented.done_at + 0.5, True
        self.scene.evidence.rented.append(rented)
        ends_by = intent.created_at + timedelta(seconds=intent.lifetime_s)
        lease = Lease(
            intent.id, self.name, self.realm, intent.name, f"sim-{intent.name}", intent.created_at, ends_by
        )
        return _Thing(rented, intent, lease, fault)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Stops it at once, and says so, if it can be reached."""
        try:
            self._reach()
        except ProviderError as away:
            return Unconfirmed(lease.id, str(away), lease.ends_by)
        thing, now = self._things.get(lease.name), self._clock()
        if thing is not None and thing.rented.gone_at > now:
            thing.rented.gone_at = now
        return Released(lease.id, "simulated: nothing of it runs")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """What runs now."""
        if self._down():
            return Unknown("it does not answer")
        return tuple(t.lease for t in self._things.values() if self._alive(t))

    async def find(self, intent: Intent) -> Lease | None:
        """The lease made under the intent's name, whether or not it still runs."""
        self._reach()
        thing = self._things.get(intent.name)
        return thing.lease if thing else None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Nothing: ``create`` started it."""
        self._reach()

    async def poll(self, lease: Lease) -> Progress:
        """Its state by the loop's clock."""
        self._reach()
        thing = self._things.get(lease.name)
        if thing is None:
            return Progress(JobState.ABSENT)
        self._spoil(thing, {Fault.BURST, Fault.THROTTLED})
        rented, now = thing.rented, self._clock()
        cut = min(rented.gone_at, rented.ends_at)
        if cut <= now and cut < rented.done_at:
            words = "the machine was taken away" if rented.preempted else "it ended at its lifetime"
            return Progress(JobState.CANCELLED, words)
        if now >= rented.done_at:
            oom = thing.fault is not None and thing.fault.kind is Fault.OOM
            return Progress(JobState.FAILED, "CUDA out of memory") if oom else Progress(JobState.DONE)
        return Progress(JobState.RUNNING if now >= rented.runs_at else JobState.QUEUED)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """The job's real result files; cut in two where its fault says so."""
        self._reach()
        await asyncio.sleep(0.5)
        thing = self._things[lease.name]
        if thing.rented.preempted:
            raise Preempted("the machine was taken away", provider=self.name)
        self._spoil(thing, {Fault.BURST})
        assert thing.intent.bundle is not None
        asked = Envelope.from_bytes((thing.intent.bundle / "inputs.safetensors").read_bytes())
        made = answers.answer(asked, unpack_texts(asked.tensors), self.nature.cold_s, 0.0)
        rented = thing.rented
        meta = {"cold_s": rented.runs_at - rented.made_at, "compute_s": rented.done_at - rented.runs_at}
        cut = thing.fault is not None and thing.fault.kind is Fault.PAYLOAD and thing.left > 0
        thing.left -= cut
        return _files(into, Envelope(asked.task_id, asked.spec, made.tensors, meta), cut)

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``."""
        return await self.release(lease)

    # ---

    def _spoil(self, thing: _Thing, kinds: set[Fault]) -> None:
        if thing.fault is None or thing.fault.kind not in kinds or not thing.left:
            return
        thing.left -= 1
        if thing.fault.kind is Fault.THROTTLED:
            raise RateLimited("slow down", provider=self.name, retry_after_s=3.0)
        raise Unreachable("HTTP 503", provider=self.name)

    def _reach(self) -> None:
        if self._down():
            raise Unreachable("connection refused", provider=self.name)

    def _down(self) -> bool:
        return self.scene.is_down(self.nature.region, self._clock())

    def _alive(self, thing: _Thing) -> bool:
        now = self._clock()
        ended = thing.rented.end(now)
        if self.nature.billing is Billing.QUOTA:
            ended = min(ended, thing.rented.done_at)
        return ended >= now

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()


def _files(into: Path, result: Envelope, cut: bool) -> Fetched:
    """A job's result as its far end leaves it; cut: half of it never arrives."""
    into.mkdir(parents=True, exist_ok=True)
    write_result(into, result.task_id, result, {})
    if cut:
        whole = (into / ENVELOPE).read_bytes()
        (into / ENVELOPE).write_bytes(whole[: len(whole) // 2])
    return Fetched({p.name: p for p in into.iterdir()})
