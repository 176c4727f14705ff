"""A job that only waiting can help: for a place, or for the next week's free hours. On virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.errors import EveryAttemptFailed, JobFailed, NoCapacity, QuotaExhausted
from accel.core.money import NanoUSD
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board, JobRunner
from accel.fleet.jobs import Event
from accel.fleet.leases import Patience
from accel.ledger import Budgets, Ledger, Limits, jobs, leases
from accel.routing import Health, State
from accel.simulation import run_virtual
from accel.testing.mock_provider import MockBatchProvider
from accel.wire import Envelope
from accel.worker.artefacts import write_result
from accel.worker.bundle import Bundle

SPEC = Spec(Stage.EMBED, model="tiny", dimension=2)
HOUR = 3600.0
PATIENCE = Patience(poll_s=5.0, unreachable_s=60.0, lifetime_s=2.5 * HOUR, again_s=30.0)


class Written(MockBatchProvider):
    """Leaves the result of whichever job it ran."""

    job_s_told = 2.5 * HOUR

    async def fetch(self, lease: Any, into: Path) -> Any:
        self._files = {}
        fetched = await super().fetch(lease, into)
        task_id = self._things[lease.name].intent.task_id
        meta = {"compute_s": self.job_s_told, "cold_s": 0.0}
        output = Envelope(task_id, SPEC.fields(), {"vectors": np.ones((1, 2), np.float32)}, meta)
        write_result(into, task_id, output, {})
        return fetched


class World:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.runtime = Runtime.virtual(1)
        usual = {"job_s": 2.5 * HOUR - 1, "quota_s": 30 * HOUR, "at_once": 2}
        self.cloud = Written("free", self.runtime, **{**usual, **options})
        self.ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, self.runtime.now)
        self.budgets = Budgets(self.ledger, Limits({}, {}))
        self.folder, self.events = folder, list[Event]()
        self.runner = JobRunner(
            Board([self.cloud], self.runtime), self.ledger, self.budgets, self.runtime, folder / "jobs",
            lambda task, offers: State(), Health(random.Random(0)), PATIENCE,
        )  # fmt: skip

    async def push(self, ident: str) -> Any:
        task = Task(ident, Lane.BATCH, SPEC, Size(2, tokens=10), Need(Stage.EMBED, Lane.BATCH))
        self.runner.submit(task, Bundle({"schema": 1}, b"", b""))
        return await self.runner.run(ident, self.events.append)

    def waits(self) -> list[str]:
        return [e.message for e in self.events if e.message.startswith("waits: ")]


def play(folder: Path, scene: Callable[[World], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        world = World(folder, **options)
        try:
            await scene(world)
        finally:
            world.ledger.close()

    run_virtual(main())


def test_forty_hours_of_work_wait_for_the_refresh_and_two_run_at_once_at_most(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(world.cloud.rented))
                await asyncio.sleep(60)

        watching = asyncio.ensure_future(watch())
        clock = asyncio.get_running_loop().time
        began = clock()
        ended: list[float] = []

        async def one(ident: str) -> None:
            await world.push(ident)
            ended.append(clock() - began)

        await asyncio.gather(*(one(f"job{n}") for n in range(16)))
        watching.cancel()
        first = [at for at in ended if at < 604_800]
        assert len(ended) == 16
        assert len(first) == 12, "thirty hours fit into the first week"
        assert min(at for at in ended if at > 604_800) < 604_800 + 3 * HOUR, "the rest begins with the second"
        assert most == 2
        assert any("used up" in told for told in world.waits())
        assert world.cloud.calls["create"] == 16, "nothing was pushed in vain"
        assert world.ledger.held() == 0

    play(tmp_path, scene)


def test_a_place_that_others_have_taken_is_waited_for_longer_each_time(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        full = NoCapacity("Maximum batch GPU session count of 2 reached.", provider="free")
        world.cloud.fail("create", full, times=3)
        found = await world.push("job")
        assert [a.error for a in found.attempts] == ["NoCapacity"] * 3 + [""]
        told = [float(w.rsplit(" in ", 1)[1].split()[0]) for w in world.waits()]
        assert told == [30.0, 30.0, 30.0]  # each wait forgives what was before it
        assert world.ledger.held() == 0

    play(tmp_path, scene)


def test_a_refusal_for_want_of_hours_waits_for_the_time_that_the_provider_tells(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        over = QuotaExhausted("Maximum weekly GPU quota of 30.00 hours reached.", provider="free")
        world.cloud.fail("create", over)
        clock = asyncio.get_running_loop().time
        began = clock()
        found = await world.push("job")
        assert [a.error for a in found.attempts] == ["QuotaExhausted", ""]
        assert clock() - began >= 7200, "not at once: the week is two hours long here"

    play(tmp_path, scene, week_s=7200.0 + 2.5 * HOUR, job_s=60.0)


def test_what_failed_for_good_is_not_waited_for(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.cloud.fail("create", NoCapacity("full", provider="free"))
        world.cloud.fail("poll", JobFailed("it crashed", provider="free"), times=0)
        with pytest.raises(EveryAttemptFailed) as caught:
            await world.push("job")
        assert [a.error for a in caught.value.attempts] == ["NoCapacity", "JobFailed"]

    play(tmp_path, scene)


def test_an_abandoned_run_holds_its_hours_until_it_ends_itself(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.cloud.fail("poll", JobFailed("said so", provider="free"), times=1)
        world.cloud.fail("release", JobFailed("cannot say", provider="free"), times=1)
        with pytest.raises(EveryAttemptFailed):
            await world.push("job")
        (rented,) = leases.unconfirmed(world.ledger)
        account = world.ledger.account("free quota")
        assert rented.state == "abandoned"
        assert (account.spent, account.held) == (0, round(2.5 * HOUR * 1000))
        world.budgets.recover()  # another process starts: it is not the one to settle it
        assert world.ledger.account("free quota").held == account.held
        left_s = (rented.ends_by - world.ledger.now()).total_seconds()
        await asyncio.sleep(left_s + 1)
        world.budgets.recover()
        account = world.ledger.account("free quota")
        assert (account.spent, account.held, world.ledger.held()) == (round(2.5 * HOUR * 1000), 0, 0)

    play(tmp_path, scene, confirms=False)


def test_an_abandoned_run_that_ended_early_gives_its_hours_back(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.cloud.fail("poll", JobFailed("said so", provider="free"), times=1)
        with pytest.raises(EveryAttemptFailed):
            await world.push("first")
        assert world.ledger.account("free quota").held > 0
        await asyncio.sleep(HOUR)
        await world.runner._leases.recheck("free")
        account = world.ledger.account("free quota")
        assert account.held == 0
        assert 0 < account.spent < 2.5 * HOUR * 1000
        assert leases.unconfirmed(world.ledger) == ()

    play(tmp_path, scene, confirms=False, job_s=600.0)


def test_money_of_an_abandoned_lease_is_still_counted_as_spent_at_once(tmp_path: Path) -> None:
    """See ``test_jobs``: nothing of a paid lease is held when its job is over."""
    from datetime import date

    from accel.core.money import NANO, Rate, from_dollars
    from accel.ledger import Period

    async def scene(world: World) -> None:
        world.runner._chooser._budgets = world.runner._leases._budgets = Budgets(
            world.ledger, Limits({("", Period.MONTH): NanoUSD(100 * NANO)}, {})
        )
        world.cloud.fail("poll", JobFailed("said so", provider="free"), times=1)
        with pytest.raises(EveryAttemptFailed):
            await world.push("job")
        assert world.ledger.held() == 0
        assert leases.unconfirmed(world.ledger)[0].state == "abandoned"

    paid = Rate(from_dollars("0.36"), date(2026, 11, 23), "test")
    play(tmp_path, scene, confirms=False, quota_s=None, rate=paid, at_once=None)


def test_a_job_that_waits_is_carried_on_by_another_process(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.cloud.fail("create", NoCapacity("full", provider="free"))
        pushing = asyncio.ensure_future(world.push("job"))
        await asyncio.sleep(PATIENCE.again_s / 2)
        assert world.waits()
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        (left,) = jobs.unfinished(world.ledger)
        other = World(tmp_path)
        other.ledger.close()
        other.runner = JobRunner(
            Board([world.cloud], world.runtime), world.ledger, world.budgets, world.runtime,
            tmp_path / "jobs", lambda task, offers: State(), Health(random.Random(0)), replace(PATIENCE),
        )  # fmt: skip
        found = await other.runner.run(left.id)
        assert [a.error for a in found.attempts] == ["NoCapacity", ""]

    play(tmp_path, scene)
