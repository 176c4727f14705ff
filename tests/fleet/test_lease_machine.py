"""Leases under every order of things: jobs and live calls in several processes, faults, crashes, reaps.

After every step the ledger's limits hold and it is never below what runs; at the end, after the provider is
well again and a reap, nothing is rented and the ledger is the invoice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from renting import ODD, SPEC, Home, ask, passing, result_files, vectors

from accel.core.errors import AccelError, NoCapacity, Preempted, ProviderError, Unauthorised, Unreachable
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Stage, Task
from accel.gpu_accelerator import GPUAccelerator
from accel.ledger import jobs, leases
from accel.ledger.database import Database
from accel.simulation.loop import VirtualLoop
from accel.testing.mock_rental import MockRental
from accel.worker.bundle import Bundle

CALLS = ("create", "find", "start", "poll", "fetch", "release", "leases", "bill", "call")
DIES = st.integers(0, 14)
ERRORS = (
    Unreachable("no route", provider="cloud"), NoCapacity("none free", provider="cloud"),
    Preempted("gone", provider="cloud"), Unauthorised("wrong key", provider="cloud"),
)  # fmt: skip


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


class Dying:
    """Ends a process at its n-th point: before or after the commit of a transaction."""

    def __init__(self) -> None:
        self.left = 0
        self.victim: Any = None

    def passes(self, ledger: Any) -> None:
        if self.left and ledger is self.victim:
            self.left -= 1
            if not self.left:
                self.victim = None
                raise Killed

    @contextlib.contextmanager
    def installed(self) -> Any:
        inner, dying = Database.transaction, self

        @contextlib.contextmanager
        def transaction(ledger: Database) -> Any:
            outermost = not ledger._depth
            with inner(ledger) as db:
                yield db
                if outermost:
                    dying.passes(ledger)
            if outermost:
                dying.passes(ledger)

        Database.transaction = transaction  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Database.transaction = inner  # type: ignore[method-assign]


class LeaseMachine(RuleBasedStateMachine):
    """One home, one cloud, up to three processes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.dying = Dying()
        self.patch = self.dying.installed()
        self.patch.__enter__()
        self.engines: list[GPUAccelerator] = []
        self.tasks: dict[int, list[asyncio.Task[Any]]] = {}
        self.number = 0

    @initialize(asks=st.sampled_from([0, 2]), lag=st.sampled_from([0.0, 50.0]), seed=st.integers(0, 3))
    def begin(self, asks: int, lag: float, seed: int) -> None:
        runtime = Runtime.virtual(seed)
        cloud = MockRental(
            "cloud", runtime, rate=ODD, answer=vectors, cold_s=20.0, job_s=30.0, call_s=1.0, asks=asks,
            bill_lag_s=lag, result=result_files, jitter=0.5, seed=seed,
        )  # fmt: skip
        self.home = Home(Path(self.scratch.name), runtime, cloud)
        self.run(self.start())
        self.run(self.start())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        engine = self.home.engine()
        self.home.cloud._taken = functools.partial(leases.taken, engine.ledger, "cloud")
        self.engines.append(engine)
        self.tasks[id(engine)] = []
        await engine.replicas.recover()

    def begun(self, which: int, work: Any, dies: int) -> None:
        """Begin, in a process that will die at its so many-th point from here on (0: it will not)."""
        engine = self.engines[which % len(self.engines)]
        if dies and self.dying.victim is None:
            self.dying.victim, self.dying.left = engine.ledger, dies

        async def guarded() -> None:
            try:
                await work(engine)
            except Killed:
                self.die(engine)
            except AccelError:
                pass

        self.tasks[id(engine)].append(self.loop.create_task(guarded()))
        self.run(passing(0.01))

    def die(self, engine: GPUAccelerator) -> None:
        """Nothing of it reaches a file or a provider any more."""
        if engine not in self.engines:
            return
        self.engines.remove(engine)
        engine.ledger.close()
        mine = self.tasks.pop(id(engine))
        mine += [*engine.replicas._tasks, *engine.replicas._opening.values()]
        mine += [r.watch for r in engine.replicas._open.values() if r.watch]
        for task in mine:
            if task is not asyncio.current_task(self.loop):
                task.cancel()

    @precondition(lambda self: len(self.engines) < 3)
    @rule()
    def another_process(self) -> None:
        self.run(self.start())

    @precondition(lambda self: self.engines)
    @rule(which=st.integers(0, 2), dies=DIES)
    def a_job(self, which: int, dies: int) -> None:
        self.number += 1
        ident = f"j{self.number}"

        async def work(engine: GPUAccelerator) -> None:
            task = Task(ident, Lane.BATCH, SPEC, Size(1, tokens=10), Need(Stage.EMBED, Lane.BATCH))
            await engine.submit(task, Bundle({"schema": 1}, b"", b""))
            await engine.finish(ident)

        self.begun(which, work, dies)

    @precondition(lambda self: self.engines)
    @rule(which=st.integers(0, 2), within_s=st.sampled_from([None, 30.0, 2.0]), dies=DIES)
    def a_question(self, which: int, within_s: float | None, dies: int) -> None:
        self.number += 1
        number = self.number
        self.begun(which, lambda engine: ask(engine, number, within_s), dies)

    @precondition(lambda self: self.engines)
    @rule(which=st.integers(0, 2), act=st.booleans(), dies=DIES)
    def a_reap(self, which: int, act: bool, dies: int) -> None:
        self.begun(which, lambda engine: engine.reap(act=act), dies)

    @precondition(lambda self: self.engines)
    @rule(which=st.integers(0, 2), dies=DIES)
    def carried_on(self, which: int, dies: int) -> None:
        async def work(engine: GPUAccelerator) -> None:
            for job in engine.unfinished():
                with contextlib.suppress(AccelError):
                    await engine.finish(job.id)

        self.begun(which, work, dies)

    @rule(on=st.sampled_from(CALLS), how=st.sampled_from([*ERRORS, "lost", "slow"]), times=st.integers(1, 4))
    def a_fault(self, on: str, how: ProviderError | str, times: int) -> None:
        if isinstance(how, ProviderError):
            if on in ("create", "call") and isinstance(how, Preempted):
                return  # no provider refuses an order like that; and what is gone is gone: ``taken_away``
            self.home.cloud.fail(on, how, times=times)
        else:
            self.home.cloud.fail(on, lost=how == "lost", delay_s=15.0 if how == "slow" else 0.0, times=times)

    @rule()
    def taken_away(self) -> None:
        self.run(self.now(self.home.cloud.preempt))

    @rule(seconds=st.sampled_from([0.1, 5.0, 25.0, 60.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(passing(seconds))

    @precondition(lambda self: self.engines)
    @rule(which=st.integers(0, 2))
    def killed(self, which: int) -> None:
        self.die(self.engines[which % len(self.engines)])

    @precondition(lambda self: self.engines)
    @rule(which=st.integers(0, 2))
    def closed(self, which: int) -> None:
        engine = self.engines[which % len(self.engines)]
        if not any(not t.done() for t in self.tasks[id(engine)]):
            with contextlib.suppress(Killed):
                self.run(engine.close())
            self.die(engine)

    @staticmethod
    async def now(work: Any) -> Any:
        return work()

    @invariant()
    def the_books_hold(self) -> None:
        if not hasattr(self, "home"):
            return
        ledger = self.home.ledger()
        for account in ledger.accounts():
            assert account.cap is None or account.spent + account.held <= account.cap
            total = sum(n for (n,) in ledger.rows(
                "SELECT amount FROM charge WHERE accounts LIKE ?", f'%"{account.name}"%'))  # fmt: skip
            assert account.used == total
        owed = self.run(self.now(lambda: self.home.cloud.billed))
        said = sum(n for (n,) in ledger.rows("SELECT amount FROM charge UNION ALL SELECT amount FROM hold"))
        assert said >= owed, (said, owed)
        rented = self.run(self.now(lambda: self.home.cloud.rented))
        visible = {r.intent.name for r in leases.unconfirmed(ledger)}
        assert {lease.name for lease in rented} <= visible
        claims = [c for (c,) in ledger.rows("SELECT claim FROM lease WHERE claim IS NOT NULL")]
        assert len(claims) == len(set(claims))
        ledger.close()

    @invariant()
    def nobody_ends_what_another_uses(self) -> None:
        if not hasattr(self, "home"):
            return
        for engine in self.engines:
            for replica in engine.replicas._open.values():
                machine = self.home.cloud._machines[replica.lease.name]
                wall = self.run(self.now(self.home.cloud._wall))
                assert machine.preempted or machine.alive(wall) or wall >= machine.ends_at

    def teardown(self) -> None:
        try:
            if hasattr(self, "home"):
                self.dying.victim = None
                self.home.cloud.mend()
                self.run(self.end())
        finally:
            self.patch.__exit__(None, None, None)
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.run(passing(1.0))
            asyncio.set_event_loop(None)
            self.loop.close()
            self.scratch.cleanup()

    async def end(self) -> None:
        for engine in tuple(self.engines):
            work = [t for t in self.tasks[id(engine)] if not t.done()]
            if work:
                await asyncio.wait(work)
            await engine.close()
            self.die(engine)
        last = self.home.engine()
        await last.reap(act=True)
        await passing(200.0)  # late bills
        await last.reap(act=True)
        assert [f for f in await last.reap(act=True) if not f.ended] == []
        last.ledger.close()
        self.home.settled()
        ledger = self.home.ledger()
        assert all(j.step == "queued" for j in jobs.unfinished(ledger))
        ledger.close()


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=25)
