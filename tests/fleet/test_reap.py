"""Reap: what nobody works with is ended and booked, what somebody does is not; unknown is not none."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from renting import SPEC, Home, ask, passing, patient, play

from accel.core.errors import Unreachable
from accel.core.lease import Intent
from accel.core.offer import Offer
from accel.core.task import Lane, Need, Size, Stage, Task
from accel.fleet.reap import Finding
from accel.ledger import jobs, leases
from accel.worker.bundle import Bundle

NEED = Need(Stage.EMBED, Lane.BATCH)
TASK = Task("job", Lane.BATCH, SPEC, Size(1, tokens=10), NEED)


async def begun(home: Home, seconds: float, ident: str = "job") -> None:
    """A job whose process died after so many seconds."""
    engine = home.engine()
    task = Task(ident, Lane.BATCH, SPEC, Size(1, tokens=10), NEED)
    await engine.submit(task, Bundle({"schema": 1}, b"", b""))
    work = asyncio.ensure_future(engine.finish(ident))
    await passing(seconds)
    engine.ledger.close()
    work.cancel()
    await asyncio.wait([work])


async def reaped(home: Home, *, act: bool = True, others: bool = False) -> list[Finding]:
    engine = home.engine()
    try:
        return [f for f in await engine.reap(act=act, others=others) if f.provider == "cloud"]
    finally:
        engine.ledger.close()


def test_a_job_without_a_process_is_shown_first_and_ended_when_asked() -> None:
    async def scene(home: Home) -> None:
        await begun(home, 35.0)
        for _ in range(2):  # looking changes nothing
            (found,) = await reaped(home, act=False)
            assert (found.action, found.done, found.ended) == ("release", "", False)
            assert "nobody works on job job" in found.why
            assert len(home.cloud.rented) == 1
        (found,) = await reaped(home)
        assert (found.done, found.ended, found.charge) == ("released", True, home.cloud.billed)
        home.settled()
        assert await reaped(home) == []
        engine = home.engine()  # the job is not lost: it can be carried on, there again
        done = await engine.finish("job")
        assert [(a.provider, a.error) for a in done.attempts] == [("cloud", "Reaped"), ("cloud", "")]
        home.settled()

    play(scene, job_s=100.0)


def test_a_result_that_is_there_is_brought_home_first() -> None:
    async def scene(home: Home) -> None:
        home.cloud.fail("fetch", delay_s=1e6)
        await begun(home, 40.0)
        home.cloud.mend()
        ledger = home.ledger()
        assert jobs.get(ledger, "job").step == "finished"
        (found,) = await reaped(home)
        assert (found.done, found.ended) == ("released", True)
        assert jobs.get(ledger, "job").step == "done"
        home.settled()

    play(scene, job_s=2.0)


def test_what_a_process_works_on_is_left_alone() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        await engine.submit(TASK, Bundle({"schema": 1}, b"", b""))
        work = asyncio.ensure_future(engine.finish("job"))
        await passing(20.0)
        (found,) = await reaped(home)
        assert (found.action, found.why) == ("keep", "a process works on job job")
        replica = asyncio.ensure_future(ask(engine, 1))
        await passing(20.0)
        assert {f.action for f in await reaped(home)} == {"keep"}
        await replica
        assert {f.action for f in await reaped(home)} == {"keep"}
        await work
        await engine.close()
        home.settled()

    play(scene, job_s=50.0)


def test_a_replica_without_a_process_is_ended() -> None:
    async def scene(home: Home) -> None:
        dead = home.engine()
        await ask(dead, 1)
        dead.ledger.close()
        (found,) = await reaped(home)
        assert (found.done, found.ended) == ("released", True)
        home.settled()

    play(scene)


def test_what_could_not_be_released_stays_in_sight_until_the_provider_confirms() -> None:
    async def scene(home: Home) -> None:
        home.cloud.fail("release", Unreachable("no route", provider="cloud"), times=0)
        engine = home.engine()
        await ask(engine, 1)
        await engine.close()
        ledger = home.ledger()
        (lost,) = leases.unconfirmed(ledger)
        assert lost.state == "abandoned"
        assert lost.may_run(ledger.now())
        assert not lost.may_run(ledger.now() + timedelta(hours=2))
        whole = home.charged()
        assert whole == lost.intent.offer.rate.cost(3600)  # all that it may still cost
        home.cloud.fail("leases", Unreachable("no route", provider="cloud"), times=1)
        unknown, found = await reaped(home)
        assert (unknown.name, unknown.action) == ("", "keep")
        assert "unknown" in unknown.why
        assert not found.ended
        assert len(home.cloud.rented) == 1
        home.cloud.mend()
        await passing(100.0)
        (found,) = await reaped(home)
        assert (found.done, found.ended) == ("released", True)
        assert home.charged() == home.cloud.billed < whole
        # both facts are kept
        assert ledger.rows("SELECT estimated, amount, basis FROM charge") == [
            (whole, home.cloud.billed, "billed")
        ]
        home.settled()

    play(scene)


def test_without_a_bill_a_confirmed_end_lowers_what_was_charged_for_the_worst() -> None:
    async def scene(home: Home) -> None:
        home.cloud.fail("release", Unreachable("no route", provider="cloud"), times=0)
        engine = home.engine()
        await ask(engine, 1)
        await engine.close()
        whole = home.charged()
        home.cloud.mend()
        await passing(100.0)
        (found,) = await reaped(home)
        assert found.ended
        assert home.cloud.billed <= home.charged() < whole
        assert home.ledger().rows("SELECT estimated, basis FROM charge") == [(whole, "estimated")]

    play(scene, bill_lag_s=None)


@pytest.mark.parametrize("made", [True, False])
def test_whether_it_was_made_is_asked_until_it_is_known(made: bool) -> None:
    async def scene(home: Home) -> None:
        lost = Unreachable("no route", provider="cloud")
        home.cloud.fail("create", None if made else lost, lost=made)
        home.cloud.fail("find", lost, times=0)
        engine = home.engine()
        await engine.submit(TASK, Bundle({"schema": 1}, b"", b""))
        with pytest.raises(Exception, match="job"):
            await engine.finish("job")
        assert engine.ledger.rows("SELECT state FROM lease") == [("abandoned",)]
        home.cloud.mend()
        (found,) = await reaped(home)
        assert (found.done, found.ended) == ("released" if made else "was never created", True)
        home.settled()

    play(scene, home={"local": False})


def test_what_is_not_in_a_list_is_gone_and_what_is_in_none_is_not() -> None:
    async def scene(home: Home) -> None:
        home.cloud.fail("release", Unreachable("no route", provider="cloud"), times=0)
        engine = home.engine()
        await ask(engine, 1)
        await engine.close()
        home.cloud.preempt()  # it is gone, and the provider never says so when asked to release it
        await passing(60.0)
        (found,) = await reaped(home)
        assert not found.ended  # a list may lag
        await passing(60.0)
        (found,) = await reaped(home)
        assert (found.done, found.ended) == ("released", True)
        assert "does not list it" in leases.everything(home.ledger())[0].note
        home.settled()

    play(scene)


def test_a_late_bill_takes_the_estimates_place_once() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        await ask(engine, 1)
        await engine.close()
        thought = home.charged()
        assert thought >= home.cloud.billed
        assert await reaped(home) == []  # it is not made yet
        await passing(3600.0)
        (look,) = await reaped(home, act=False)
        assert (look.action, look.done) == ("bill", "")
        (found,) = await reaped(home)
        assert (found.done, found.charge) == ("booked", home.cloud.billed)
        assert await reaped(home) == []
        home.settled()

    play(scene, bill_lag_s=1800.0)


def test_another_machines_things_are_left_alone_unless_asked_for() -> None:
    async def scene(home: Home) -> None:
        offer = await home.cloud.probe(NEED)
        assert isinstance(offer, Offer)
        intent = Intent("x", "x", offer, "accel-elsewhere", 3600.0, home.runtime.now())
        foreign = Intent("y", "y", offer, "somebody-else", 3600.0, home.runtime.now())
        await home.cloud.create(intent)
        await home.cloud.create(foreign)
        (found,) = await reaped(home)
        assert (found.name, found.action) == ("accel-elsewhere", "keep")
        (found,) = await reaped(home, others=True)
        assert (found.done, found.ended) == ("released", True)
        assert [lease.name for lease in home.cloud.rented] == ["somebody-else"]

    play(scene)


def test_what_runs_although_the_ledger_has_it_as_ended_is_ended_again() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        home.cloud.fail("create", Unreachable("no route", provider="cloud"))
        await engine.submit(TASK, Bundle({"schema": 1}, b"", b""))
        with pytest.raises(Exception, match="job"):
            await engine.finish("job")
        (row,) = leases.everything(engine.ledger)
        assert row.state == "absent"  # the provider said so, and was wrong
        await home.cloud.create(row.intent)
        await passing(10.0)
        (found,) = await reaped(home)
        assert (found.done, found.ended) == ("released", True)
        home.settled()

    play(scene, home={"local": False})


def test_one_provider_that_fails_does_not_keep_the_others() -> None:
    async def scene(home: Home) -> None:
        await begun(home, 35.0)
        engine = home.engine()
        home.patience = patient(home, unreachable_s=5.0)

        def broken(*_: object) -> None:
            raise Unreachable("no route", provider="local")

        engine.board.providers["local"].leases = broken  # type: ignore[method-assign]
        found = await engine.reap(act=True)
        assert {(f.provider, f.ended) for f in found} == {("local", False), ("cloud", True)}
        home.settled()

    play(scene, job_s=100.0)


