"""Jobs on rented machines: stalls, taken offers, bills, and releases that are not confirmed at once."""

from __future__ import annotations

import asyncio

import pytest
from renting import ODD, SPEC, Home, ask, passing, patient, play

from accel.core.errors import AccelError, EveryAttemptFailed, Unauthorised, Unreachable
from accel.core.lease import Lease
from accel.core.offer import CPU
from accel.core.task import Lane, Need, Size, Stage, Task
from accel.fleet.jobs import Finished
from accel.gpu_accelerator import GPUAccelerator
from accel.providers.base import JobState, Progress
from accel.simulation.natures import Nature
from accel.worker.bundle import Bundle


async def job(engine: GPUAccelerator, ident: str = "job") -> Finished:
    task = Task(ident, Lane.BATCH, SPEC, Size(1, tokens=10), Need(Stage.EMBED, Lane.BATCH))
    await engine.submit(task, Bundle({"schema": 1}, b"", b""))
    return await engine.finish(ident)


def test_a_job_is_charged_its_bill_and_what_was_thought_is_kept() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        (attempt,) = (await job(engine)).attempts
        assert (attempt.cost.amount, attempt.cost.basis) == (home.cloud.billed, "billed")
        (row,) = engine.ledger.rows("SELECT amount, basis, estimated, held FROM charge")
        assert row[:2] == (home.cloud.billed, "billed")
        assert row[0] <= row[2] <= row[3]  # the estimate was no lower, and was covered
        home.settled()

    play(scene, rate=ODD)


def test_a_machine_that_stalls_is_given_back_and_the_job_goes_on() -> None:
    async def scene(home: Home) -> None:
        home.patience = patient(home, stall_s=60.0)
        engine = home.engine()
        with pytest.raises(EveryAttemptFailed) as failed:
            await job(engine)
        (attempt,) = failed.value.attempts
        assert (attempt.error, attempt.lease_id) == ("NoCapacity", "job-0")
        assert "not up within 60 s" in attempt.detail
        assert attempt.cost.amount == home.cloud.billed
        home.settled()

    play(scene, stalls=1)


def test_a_rented_job_that_no_machine_takes_is_given_up() -> None:
    """Modal, say: what is deployed waits for a container of its own."""

    async def waits(lease: Lease) -> Progress:
        return Progress(JobState.QUEUED, "waits for a container")

    async def scene(home: Home) -> None:
        home.patience = patient(home, stall_s=60.0)
        home.cloud.poll = waits  # type: ignore[method-assign]
        with pytest.raises(EveryAttemptFailed) as failed:
            await job(home.engine())
        (attempt,) = failed.value.attempts
        assert attempt.error == "NoCapacity"
        assert "no machine took the job within 60 s" in attempt.detail
        home.settled()

    play(scene)


def test_an_offer_that_another_process_took_is_passed_over_for_the_next() -> None:
    async def scene(home: Home) -> None:
        home.patience = patient(home, lifetime_s=600.0)
        first, second = home.engine(), home.engine()
        found = await asyncio.gather(job(first, "a"), job(second, "b"))
        assert [f.attempts[-1].outcome for f in found] == ["ok", "ok"]
        tried = [a.error for f in found for a in f.attempts]
        assert tried.count("OfferTaken") <= 5
        offers = {f.attempts[-1].offer_id for f in found}
        assert offers == {"cloud-ask-0", "cloud-ask-1"}
        home.settled()

    play(scene, asks=2, job_s=100.0)


def test_a_release_that_fails_is_asked_for_again() -> None:
    async def scene(home: Home) -> None:
        home.cloud.fail("release", Unreachable("HTTP 503", provider="cloud"), times=2)
        engine = home.engine()
        await job(engine)
        assert engine.ledger.rows("SELECT state FROM lease") == [("released",)]
        home.settled()

    play(scene)


def test_a_key_that_is_withdrawn_before_anything_is_known_is_no_proof_of_absence() -> None:
    """The intent of a dead process, and a provider that refuses to say what became of it."""

    async def scene(home: Home) -> None:
        dead = home.engine()
        home.cloud.fail("create", lost=True)
        home.cloud.fail("find", delay_s=1e6)
        work = asyncio.ensure_future(job(dead))
        await passing(1.0)
        dead.ledger.close()
        work.cancel()
        await asyncio.wait([work])
        home.cloud.mend()
        home.cloud.fail("find", Unauthorised("key withdrawn", provider="cloud"), times=0)
        engine = home.engine()
        with pytest.raises(AccelError):
            await engine.finish("job")
        assert engine.ledger.rows("SELECT state FROM lease") == [("abandoned",)]
        assert home.charged() >= home.cloud.billed
        home.cloud.mend()
        await passing(10.0)
        assert all(f.ended for f in await engine.reap(act=True))
        home.settled()

    play(scene, home={"local": False})


def test_questions_that_are_late_only_for_a_cold_start_have_a_machine_rented() -> None:
    """The ski-rental rule of ``warmth``: what they lose pays for a replica, and then they are in time."""

    async def scene(home: Home) -> None:
        home.here = Nature("local", CPU, "0", per_text_s=5.0, spread=0.0)
        engine = home.engine()
        where = []
        for n in range(60):
            await passing(5.0)
            try:
                where.append((await ask(engine, n, within_s=2.0)).where)
            except EveryAttemptFailed:
                where.append("")
        assert where[-10:] == ["cloud"] * 10, where
        assert home.cloud.ordered == 1
        await engine.close()
        home.settled()

    play(scene, home={"asked": ()}, call_s=0.2)
