"""Machines for rent, in memory or in a file. Guarantee: it knows what is rented now, and what that costs.

``MockRental`` bills every machine from its order to its end, whatever it does meanwhile, and keeps the
invoice to the nano-dollar. Both lanes run on leases: a job after ``start``, live calls on a machine that is
up. With a ``folder`` its machines are kept in a file, so that several processes rent at one cloud, and a
killed one leaves them behind.

    cloud = MockRental("cloud", runtime, rate=RATE, asks=1, stalls=1, folder=tmp_path)
    cloud.preempt()                           # every machine is taken away
    assert cloud.rented == ()                 # at the end of a test: nothing leaked
    assert cloud.billed == ledger_sum         # the invoice
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock

from accel.core.errors import NoCapacity, Preempted, ProviderError, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Offer, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.providers.base import Fetched, JobState, Progress
from accel.testing.mock_provider import MockBatchProvider, echo
from accel.wire import Envelope


@dataclass(slots=True)
class Machine:
    """One machine. Instants are seconds since 1970 by the runtime's clock; ``inf`` is never."""

    name: str
    intent_id: str
    ask: str
    made_at: float
    runs_at: float
    ends_at: float
    job_s: float
    started_at: float = math.inf
    gone_at: float = math.inf
    preempted: bool = False

    def end(self, now: float) -> float:
        return min(now, self.gone_at, self.ends_at)

    def alive(self, now: float) -> bool:
        return now < min(self.gone_at, self.ends_at)


class MockRental(MockBatchProvider):
    """Meets ``Provider``, ``RunsBatch``, ``ServesLive`` and ``TellsBill``. It stands by for nobody.

    asks: how many machines there are, each an exclusive offer of its own; 0: any number of one kind. taken:
    ids of asks that are not to be offered. stalls: the first so many machines never come up. bill_lag_s: how
    long after a machine's end its bill is told; None: never. answer and call_s as in ``MockProvider``.
    result: the files of a job, by its intent's id. Other options as in ``MockBatchProvider``.
    """

    def __init__(
        self, name: str, runtime: Runtime, *, folder: Path | None = None, asks: int = 0,
        taken: Callable[[], frozenset[str]] = frozenset, stalls: int = 0, bill_lag_s: float | None = 0.0,
        call_s: float = 0.0, answer: Callable[[Envelope], Envelope] = echo,
        result: Callable[[str], Mapping[str, bytes]] | None = None, **options: object,
    ) -> None:  # fmt: skip
        super().__init__(name, runtime, **options)  # type: ignore[arg-type]
        self._lanes = frozenset(Lane)
        self._asks, self._taken, self._stalls, self._bill_lag_s = asks, taken, stalls, bill_lag_s
        self._call_s, self._answer_with, self._result = call_s, answer, result
        self._machines: dict[str, Machine] = {}
        self._file = folder / f"{name}.json" if folder else None
        self._lock = FileLock(f"{self._file}.lock", thread_local=False) if self._file else None

    # --- the truth

    @property
    def rented(self) -> tuple[Lease, ...]:
        """What costs something right now."""
        with self._kept() as machines:
            return tuple(self._lease(m) for m in machines.values() if m.alive(self._wall()))

    @property
    def billed(self) -> NanoUSD:
        """The invoice up to now: each machine from its order to its end, rounded up by itself."""
        with self._kept() as machines:
            return NanoUSD(sum(self._charge(m) for m in machines.values()))

    @property
    def ordered(self) -> int:
        """Machines that were ever rented."""
        with self._kept() as machines:
            return len(machines)

    def preempt(self, name: str = "") -> None:
        """Take a machine away, or all of them."""
        now = self._wall()
        with self._kept() as machines:
            for machine in machines.values():
                if machine.alive(now) and name in ("", machine.name):
                    machine.gone_at, machine.preempted = now, True

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """The first ask that is free, or the one kind of machine there is."""
        found = await super().probe(need)
        if isinstance(found, Unfit) or not self._asks:
            return found
        now, taken = self._wall(), self._taken()
        with self._kept() as machines:
            rented = {m.ask for m in machines.values() if m.alive(now)}
        free = [a for i in range(self._asks) if (a := f"{self.name}-ask-{i}") not in rented | taken]
        if not free:
            return Unfit(self.name, self.realm, "no machine is free", self._runtime.now())
        return replace(found, id=free[0], exclusive=True)

    async def create(self, intent: Intent) -> Lease:
        """Rent; a second create under one name is the same thing."""
        lost = await self._meet("create")
        now = self._wall()
        with self._kept() as machines:
            machine = machines.get(intent.name)
            if machine is None:
                ask = intent.offer.id
                if intent.offer.exclusive and any(m.ask == ask and m.alive(now) for m in machines.values()):
                    raise NoCapacity(f"{ask} is gone", provider=self.name)
                machine = machines[intent.name] = self._order(intent, now, len(machines))
        self._answer(lost)
        return self._lease(machine)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Ends it and confirms, unless it ``confirms`` nothing."""
        try:
            lost = await self._meet("release")
            now = self._wall()
            with self._kept() as machines:
                machine = machines.get(lease.name)
                if machine is not None and self._confirms:
                    machine.gone_at = min(machine.gone_at, max(now, machine.made_at))
                runs = machine is not None and machine.alive(now)
            self._answer(lost)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        if runs:
            return Unconfirmed(lease.id, "it cannot be stopped from outside", lease.ends_by)
        return Released(lease.id, "mock rental: nothing of it runs")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """``rented``, or Unknown when the listing fails."""
        try:
            self._answer(await self._meet("leases"))
        except ProviderError as error:
            return Unknown(str(error))
        return self.rented

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """What was rented under the intent's name, whether or not it still runs."""
        self._answer(await self._meet("find"))
        with self._kept() as machines:
            machine = machines.get(intent.name)
        return self._lease(machine) if machine else None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Wait until it is up; a job begins, where there is a bundle. Raises Preempted when it is gone."""
        lost = await self._meet("start")
        while (machine := self._running(lease)).runs_at > (now := self._wall()):
            left_s = min(machine.runs_at, machine.ends_at) - now
            await asyncio.sleep(max(1e-3, left_s))
        if bundle is not None:
            with self._kept() as machines:
                kept = machines[lease.name]
                kept.started_at = min(kept.started_at, self._wall())
        self._answer(lost)

    async def poll(self, lease: Lease) -> Progress:
        """Its state by the clock."""
        self._answer(await self._meet("poll"))
        now = self._wall()
        with self._kept() as machines:
            machine = machines.get(lease.name)
        if machine is None:
            return Progress(JobState.ABSENT)
        if machine.end(now) >= machine.started_at + machine.job_s:
            return Progress(self._outcome)
        if not machine.alive(now):
            return Progress(JobState.CANCELLED, "the machine is gone")
        return Progress(JobState.RUNNING if now >= machine.started_at else JobState.QUEUED)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """The job's files, while its machine lives."""
        self._answer(await self._meet("fetch"))
        machine = self._running(lease)
        if self._result is not None:
            self._files = dict(self._result(machine.intent_id))
        return self._write(into)

    # --- ServesLive and TellsBill

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """One answer of a machine that is up. Raises Preempted when it is gone."""
        if self._running(lease).runs_at > self._wall():
            raise Unreachable("it is not up yet", provider=self.name)
        lost = await self._meet("call")
        await asyncio.sleep(self._draw(self._call_s))
        self._running(lease)
        self._answer(lost)
        return self._answer_with(request)

    async def bill(self, lease: Lease) -> Cost | None:
        """What the machine cost, once it has ended and the bill is made."""
        self._answer(await self._meet("bill"))
        now = self._wall()
        with self._kept() as machines:
            machine = machines.get(lease.name)
        if machine is None or machine.alive(now) or self._bill_lag_s is None:
            return None
        if now < machine.end(now) + self._bill_lag_s:
            return None
        return Cost(self._charge(machine), Basis.BILLED)

    # ---

    def _wall(self) -> float:
        return self._runtime.now().timestamp()

    def _charge(self, machine: Machine) -> NanoUSD:
        return self._rate.cost(max(0.0, machine.end(self._wall()) - machine.made_at))

    def _order(self, intent: Intent, now: float, before: int) -> Machine:
        up = now + self._draw(self._wait_s) + self._draw(self._cold_s)
        return Machine(
            intent.name, intent.id, intent.offer.id, now, math.inf if before < self._stalls else up,
            now + intent.lifetime_s, self._draw(self._job_s),
        )  # fmt: skip

    def _running(self, lease: Lease) -> Machine:
        with self._kept() as machines:
            machine = machines.get(lease.name)
        if machine is None or not machine.alive(self._wall()):
            raise Preempted("the machine is gone", provider=self.name)
        return machine

    def _lease(self, machine: Machine) -> Lease:
        made = datetime.fromtimestamp(machine.made_at, UTC)
        ends = made + timedelta(seconds=machine.ends_at - machine.made_at)
        return Lease(
            machine.intent_id, self.name, self.realm, machine.name, f"mock-{machine.name}", made, ends
        )

    @contextlib.contextmanager
    def _kept(self) -> Iterator[dict[str, Machine]]:
        """The machines, as the file has them; what is changed is written back."""
        if self._file is None or self._lock is None:
            yield self._machines
            return
        with self._lock:
            before = self._file.read_text() if self._file.exists() else "{}"
            machines = {name: Machine(**fields) for name, fields in json.loads(before).items()}
            yield machines
            after = json.dumps({name: asdict(m) for name, m in machines.items()})
            if after != before:
                scratch = self._file.with_suffix(".new")
                scratch.write_text(after)
                scratch.replace(self._file)
