"""Batch jobs under every kind of bad luck but a crash: ended once, the next offer tried, nothing held.

On virtual time with ``MockBatchProvider``, which knows what is really rented, and the production ledger.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core.attempt import Outcome
from accel.core.errors import (
    AccelError,
    EveryAttemptFailed,
    NoCapacity,
    Preempted,
    ProviderError,
    RateLimited,
    Unauthorised,
    Unreachable,
    UsageError,
)
from accel.core.money import NANO, NanoUSD, Rate, from_dollars
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board, JobRunner
from accel.fleet.jobs import Event, Finished
from accel.fleet.leases import Patience
from accel.ledger import Budgets, Ledger, Limits, Period, jobs
from accel.providers.base import JobState
from accel.routing import Health, State
from accel.simulation import run_virtual
from accel.testing.mock_provider import MockBatchProvider
from accel.wire import Envelope
from accel.worker.artefacts import write_failure, write_result
from accel.worker.bundle import Bundle

T = TypeVar("T")
LIMITS = Limits({("", Period.MONTH): NanoUSD(100 * NANO)}, {})
SPEC = Spec(Stage.EMBED, model="tiny", dimension=2)
TASK = Task("job", Lane.BATCH, SPEC, Size(2, tokens=10), Need(Stage.EMBED, Lane.BATCH))
PATIENCE = Patience(poll_s=1.0, unreachable_s=20.0, lifetime_s=600.0)
PAID = Rate(from_dollars("0.36"), date(2026, 11, 23), "test")  # 100,000 nano-dollars a second


def result_files(task_id: str = "job", *, failed: str = "", spec: Spec = SPEC) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        if failed:
            write_failure(Path(folder), task_id, failed)
        else:
            meta = {"compute_s": 3.0, "cold_s": 1.0}
            output = Envelope(task_id, spec.fields(), {"vectors": np.ones((1, 2), np.float32)}, meta)
            write_result(Path(folder), task_id, output, {"device": "mock"})
        return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


@dataclass
class World:
    """A ledger, mock providers (the first is preferred), and what was told on the way."""

    folder: Path
    runtime: Runtime
    ledger: Ledger
    providers: list[MockBatchProvider]
    events: list[Event] = field(default_factory=list)
    limits: Limits = LIMITS

    def runner(self, patience: Patience = PATIENCE) -> JobRunner:
        order = tuple(p.name for p in self.providers)
        return JobRunner(
            Board(self.providers, self.runtime), self.ledger, Budgets(self.ledger, self.limits), self.runtime,
            self.folder / "jobs", lambda task, offers: State(order=order), Health(random.Random(0)), patience,
        )  # fmt: skip

    async def run(self, runner: JobRunner | None = None) -> Finished:
        runner = runner or self.runner()
        if not jobs.exists(self.ledger, TASK.id):
            runner.submit(TASK, Bundle({"schema": 1}, b"", b""))
        return await runner.run(TASK.id, self.events.append)

    def settled(self) -> None:
        """What must be true at the end of every job, however it ended."""
        assert self.ledger.held() == 0
        assert self.ledger.open_leases() == ()
        assert jobs.unfinished(self.ledger) == ()
        assert len(self.ledger.attempts(TASK.id)) == jobs.get(self.ledger, TASK.id).tries + (
            jobs.get(self.ledger, TASK.id).step == "done"
        )

    def leases(self) -> list[tuple[str, str, str]]:
        return self.ledger.rows("SELECT provider, state, note FROM lease ORDER BY rowid")  # type: ignore[return-value]

    def spent(self, period: str) -> int:
        """Charged to the one account of a period, or of a quota."""
        (found,) = [a for a in self.ledger.accounts() if a.period == period]
        return found.used


def play(
    folder: Path, scene: Callable[[World], Coroutine[Any, Any, T]], first: dict[str, Any] | None = None,
    **local: Any,
) -> T:  # fmt: skip
    """Run ``scene`` with two providers, "cloud" (``first``) and "local"."""

    async def main() -> T:
        runtime = Runtime.virtual(1)
        files = result_files()
        providers = [
            MockBatchProvider("cloud", runtime, **({"files": files, "job_s": 4.0} | (first or {}))),
            MockBatchProvider("local", runtime, **({"files": files} | local)),
        ]
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        try:
            return await scene(World(folder, runtime, ledger, providers))
        finally:
            ledger.close()

    return run_virtual(main())


def outcomes(found: Finished) -> list[tuple[str, str]]:
    return [(a.provider, a.error or a.outcome.value) for a in found.attempts]


def test_a_job_ends_on_the_first_offer_and_is_charged_for_what_it_used(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.run()
        assert outcomes(found) == [("cloud", "ok")]
        assert found.result.output.tensors["vectors"].shape == (1, 2)
        (attempt,) = found.attempts
        assert (attempt.timing.cold_s, attempt.timing.compute_s) == (1.0, 3.0)
        assert world.spent("month") == 4 * 100_000 == attempt.cost.amount
        assert [e.step for e in world.events if not e.message] == [
            "queued", "intended", "leased", "running", "finished", "fetched", "done",
        ]  # fmt: skip
        assert world.providers[0].rented == ()
        assert world.leases() == [("cloud", "released", "mock provider: nothing of it runs")]
        world.settled()

    play(tmp_path, scene, {"rate": PAID})


@pytest.mark.parametrize(
    ("on", "error", "state"),
    [
        ("create", NoCapacity("two sessions run", provider="cloud"), "absent"),
        ("create", Unauthorised("wrong key", provider="cloud"), "absent"),
        ("start", Preempted("gone", provider="cloud"), "released"),
        ("poll", Unauthorised("key withdrawn", provider="cloud"), "released"),
    ],
)  # fmt: skip
def test_what_will_not_pass_leads_to_the_next_offer(
    tmp_path: Path, on: str, error: ProviderError, state: str
) -> None:
    async def scene(world: World) -> None:
        world.providers[0].fail(on, error)
        found = await world.run()
        assert outcomes(found) == [("cloud", type(error).__name__), ("local", "ok")]
        assert world.leases()[0][:2] == ("cloud", state)
        assert world.providers[0].rented == ()
        assert any(str(error) in e.message for e in world.events)
        world.settled()

    play(tmp_path, scene, {"rate": PAID})


def test_a_lost_answer_to_create_is_found_again_and_nothing_is_made_twice(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        cloud = world.providers[0]
        cloud.fail("create", lost=True)
        cloud.fail("find", RateLimited("slow down", provider="cloud", retry_after_s=7.0), times=2)
        found = await world.run()
        assert outcomes(found) == [("cloud", "ok")]
        assert (cloud.calls["create"], cloud.calls["find"]) == (1, 3)
        world.settled()

    play(tmp_path, scene)


def test_gone_before_anybody_knows_if_it_was_made_is_charged_in_full_and_marked(tmp_path: Path) -> None:
    """The worst case is written down: nobody can say that nothing runs."""

    async def scene(world: World) -> None:
        cloud = world.providers[0]
        cloud.fail("create", lost=True)
        cloud.fail("find", Unreachable("no route", provider="cloud"), times=0)
        found = await world.run()
        assert outcomes(found) == [("cloud", "Unreachable"), ("local", "ok")]
        (name, state, note), _ = world.leases()
        assert (name, state) == ("cloud", "abandoned")
        assert "not known" in note
        assert "ends by itself" in note
        assert world.spent("month") >= PAID.cost(PATIENCE.lifetime_s)
        world.settled()

    play(tmp_path, scene, {"rate": PAID})


def test_a_release_that_is_not_confirmed_is_not_believed(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.providers[0].fail("start", Preempted("gone", provider="cloud"))
        found = await world.run()
        assert outcomes(found)[0] == ("cloud", "Preempted")
        assert world.leases()[0][:2] == ("cloud", "abandoned")
        assert "cannot be stopped" in world.leases()[0][2]
        assert world.spent("month") == PAID.cost(PATIENCE.lifetime_s)
        world.settled()

    play(tmp_path, scene, {"rate": PAID, "confirms": False, "wait_s": 100.0})


@pytest.mark.parametrize("outcome", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_ended_badly_goes_on_elsewhere(tmp_path: Path, outcome: JobState) -> None:
    async def scene(world: World) -> None:
        found = await world.run()
        assert outcomes(found) == [("cloud", "JobFailed"), ("local", "ok")]
        world.settled()

    play(tmp_path, scene, {"outcome": outcome})


@pytest.mark.parametrize(
    ("files", "error"),
    [
        (result_files(failed="OutOfMemoryError: 15 GiB"), "JobFailed"),
        (result_files("another"), "BadOutput"),
        (result_files(spec=replace(SPEC, dimension=3)), "BadOutput"),
        ({"result.json": result_files()["result.json"]}, "BadOutput"),
        (result_files() | {"result.safetensors": result_files()["result.safetensors"][:-1]}, "BadOutput"),
        ({"result.json": b"\xff{"}, "BadOutput"),
        ({"result.json": b"[]"}, "BadOutput"),
        ({}, "BadOutput"),
    ],
)
def test_only_a_result_that_verifies_counts(tmp_path: Path, files: dict[str, bytes], error: str) -> None:
    async def scene(world: World) -> None:
        found = await world.run()
        assert outcomes(found) == [("cloud", error), ("local", "ok")]
        assert found.result.output.task_id == "job"
        world.settled()

    play(tmp_path, scene, {"files": files})


def test_polls_and_downloads_are_tried_again_on_the_same_lease(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        cloud = world.providers[0]
        cloud.fail("poll", Unreachable("blip", provider="cloud"), times=3)
        cloud.fail("poll", RateLimited("slow down", provider="cloud"), times=2)
        cloud.fail("fetch", Unreachable("cut off", provider="cloud"), times=2)
        found = await world.run()
        assert outcomes(found) == [("cloud", "ok")]
        assert cloud.calls["create"] == 1
        assert cloud.calls["fetch"] == 3
        world.settled()

    play(tmp_path, scene)


def test_a_provider_that_stays_away_loses_the_job_and_keeps_its_lease_on_the_books(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for call in ("poll", "release"):
            world.providers[0].fail(call, Unreachable("gone", provider="cloud"), times=0)
        found = await world.run()
        assert outcomes(found) == [("cloud", "Unreachable"), ("local", "ok")]
        assert found.attempts[0].timing.wait_s >= PATIENCE.unreachable_s
        assert world.leases()[0][:2] == ("cloud", "abandoned")
        world.settled()

    play(tmp_path, scene)


def test_a_job_that_outlives_its_lifetime_is_given_up(tmp_path: Path) -> None:
    """A provider that keeps saying "running" for ever does not keep the job for ever."""

    async def scene(world: World) -> None:
        cloud = world.providers[0]

        async def always_running(lease: object) -> Any:
            from accel.providers.base import Progress

            return Progress(JobState.RUNNING)

        cloud.poll = always_running  # type: ignore[method-assign]
        found = await world.run()
        assert outcomes(found) == [("cloud", "TimedOut"), ("local", "ok")]
        world.settled()

    play(tmp_path, scene)


def test_a_process_that_dies_while_it_writes_down_a_failure_wrote_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor finds the provider well again, and the books show one attempt, which went well."""

    async def scene(world: World) -> None:
        cloud = world.providers[0]
        for call in ("poll", "release"):
            cloud.fail(call, Unreachable("gone", provider="cloud"), times=0)

        def dies(*_: object) -> bool:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Budgets, "settle", dies)
            await world.run()
        assert world.ledger.attempts("job") == ()
        cloud.mend()
        assert outcomes(await world.run()) == [("cloud", "ok")]
        world.settled()

    play(tmp_path, scene)


def test_when_every_offer_fails_there_is_one_error_with_each_attempt(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.providers[0].fail("create", NoCapacity("full", provider="cloud"))
        with pytest.raises(EveryAttemptFailed) as caught:
            await world.run()
        assert [(a.provider, a.error) for a in caught.value.attempts] == [
            ("cloud", "NoCapacity"), ("local", "JobFailed"),
        ]  # fmt: skip
        assert all(a.outcome is Outcome.FAILED for a in caught.value.attempts)
        assert jobs.get(world.ledger, "job").step == "failed"
        world.settled()
        with pytest.raises(EveryAttemptFailed):  # asked again: the same end, nothing is begun anew
            await world.run()
        assert world.providers[0].calls["create"] == 1

    play(tmp_path, scene, outcome=JobState.FAILED)


def test_without_any_offer_the_error_says_who_refused_and_why(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        with pytest.raises(EveryAttemptFailed, match="the quota is used up") as caught:
            await world.run()
        assert caught.value.attempts == ()
        world.settled()

    play(tmp_path, scene, {"quota_s": 0.0}, quota_s=0.0)


def test_a_limit_refuses_before_anything_is_started(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        cap = NanoUSD(PAID.cost(PATIENCE.lifetime_s) - 1)
        world.limits = Limits({("", Period.MONTH): cap}, {})
        found = await world.run()
        assert outcomes(found) == [("cloud", "OverBudget"), ("local", "ok")]
        assert world.providers[0].calls["create"] == 0
        assert world.spent("month") == 0
        assert world.ledger.rows("SELECT key FROM alert") == [("budget:all:month:2026-01:refused",)]
        world.settled()

    play(tmp_path, scene, {"rate": PAID})


def test_without_a_budget_no_paid_offer_is_used(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.limits = Limits({}, {})
        found = await world.run()
        assert outcomes(found) == [("cloud", "OverBudget"), ("local", "ok")]
        assert "set budget.month" in found.attempts[0].detail
        assert world.providers[0].calls["create"] == 0
        world.settled()

    play(tmp_path, scene, {"rate": PAID})


def test_free_quota_is_an_account_in_milliseconds(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        await world.run()
        (account,) = world.ledger.accounts()
        assert (account.provider, account.period) == ("cloud", "quota")
        assert (account.unit, account.spent, account.held) == ("gpu_ms", 4000, 0)
        world.settled()

    play(tmp_path, scene, {"quota_s": 3600.0})


def test_two_processes_do_not_work_on_one_job(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        runner = world.runner()
        job = runner.submit(TASK, Bundle({"schema": 1}, b"", b""))
        with FileLock(job.folder / "lock"), pytest.raises(AccelError, match="another process"):
            await runner.run(job.id)
        assert outcomes(await world.run(runner)) == [("cloud", "ok")]

    play(tmp_path, scene)


def test_a_job_is_submitted_once(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        runner = world.runner()
        job = runner.submit(TASK, Bundle({"schema": 1, "n": 1}, b"", b""))
        with pytest.raises(UsageError, match="submitted before"):
            runner.submit(TASK, Bundle({"schema": 1, "n": 2}, b"", b""))
        assert Bundle.open(job.folder / "bundle").job["n"] == 1  # and the first one is untouched

    play(tmp_path, scene)


def test_a_job_of_a_provider_that_is_not_set_up_waits_for_it(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        runner = world.runner()
        runner.submit(TASK, Bundle({"schema": 1}, b"", b""))
        world.providers[0].fail("create", delay_s=100.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(50):  # interrupted in the middle
                await runner.run("job")
        cloud, world.providers = world.providers[0], world.providers[1:]
        with pytest.raises(AccelError, match="not set up now"):
            await world.run()
        world.providers = [cloud, *world.providers]
        assert outcomes(await world.run()) == [("cloud", "ok")]
        world.settled()

    play(tmp_path, scene)


ERRORS = st.sampled_from([Unreachable, RateLimited, NoCapacity, Preempted, Unauthorised])
FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["create", "find", "start", "poll", "fetch", "release"]), ERRORS | st.none(),
        st.integers(1, 4), st.integers(0, 3),
    ), max_size=5,
)  # fmt: skip


@settings(max_examples=50)
@given(
    cloud=FAULTS, local=FAULTS, confirms=st.booleans(), seed=st.integers(0, 9),
    outcome=st.sampled_from([JobState.DONE, JobState.DONE, JobState.FAILED]),
    interrupts=st.lists(st.floats(0, 30), max_size=3),
)  # fmt: skip
def test_under_any_faults_and_interrupts_a_job_ends_once_and_holds_nothing(
    cloud: list[Any], local: list[Any], confirms: bool, seed: int, outcome: JobState,
    interrupts: list[float],
) -> None:  # fmt: skip
    """None as error: the call takes effect and its answer is lost."""

    async def scene(world: World) -> None:
        for provider, faults in zip(world.providers, (cloud, local), strict=True):
            for on, kind, times, after in faults:
                error = kind("scripted", provider=provider.name) if kind else None
                provider.fail(on, error, lost=error is None, times=times, after=after)
        for patience_s in interrupts:  # as Ctrl-C does it; the next run is a new process
            try:
                async with asyncio.timeout(patience_s):
                    await world.run()
            except (TimeoutError, EveryAttemptFailed):
                pass
        try:
            found = await world.run()
            assert [a.outcome for a in found.attempts].count(Outcome.OK) == 1
            assert found.attempts[-1].outcome is Outcome.OK
        except EveryAttemptFailed as failed:
            assert len(failed.attempts) == 2
        world.settled()
        # what is still rented is on the books as abandoned, with the time it ends by
        abandoned = {name for name, state, _ in world.leases() if state == "abandoned"}
        assert {lease.provider for p in world.providers for lease in p.rented} <= abandoned
        await asyncio.sleep(PATIENCE.lifetime_s)
        assert [p.rented for p in world.providers] == [(), ()]

    with tempfile.TemporaryDirectory() as folder:
        play(Path(folder), scene, {"confirms": confirms, "outcome": outcome, "seed": seed})
