"""A cold offer that would be in time when warm gets warm: one at a time, on the books, nobody waiting."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from accel.cache import ExactCache
from accel.core.attempt import Estimate, Route, Scored, Timing
from accel.core.errors import EveryAttemptFailed
from accel.core.lease import Lease
from accel.core.money import NANO, Cost, NanoUSD, Rate, from_dollars
from accel.core.offer import CPU, Gpu, Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.fleet.warmth import Warmer
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.simulation import run_virtual
from accel.simulation.world import Nature, SimulatedProvider
from accel.wire import Envelope, pack_texts

T = TypeVar("T")
SPEC = Spec(Stage.EMBED, model="m", dimension=4)
T4 = Gpu("T4", 1, 15 << 30, 75)
SLOW = Nature("local", CPU, "0", per_text_s=5.0, spread=0.0)
WITHIN_S = 2.0


class Counted(SimulatedProvider):
    """Notes how many calls run at once, and when each began."""

    running = most = 0
    begun: list[float]

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        self.begun = [*getattr(self, "begun", []), asyncio.get_running_loop().time()]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await super().call(lease, request)
        finally:
            self.running -= 1


def play(
    scene: Callable[[GPUAccelerator, Counted], Coroutine[Any, Any, T]], cloud: Nature, local: Nature = SLOW,
    preference: Preference = Preference(),  # noqa: B008 - a frozen value
) -> T:  # fmt: skip
    async def main(folder: Path) -> T:
        runtime = Runtime.virtual(1)
        places = [Counted(cloud, runtime, 0), SimulatedProvider(local, runtime, 0)]
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        budgets = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(100 * NANO)}, {}))
        engine = GPUAccelerator(
            Board(places, runtime), ledger, budgets, ExactCache(folder / "cache.sqlite3"), runtime, folder,
            preference, Patience(),
        )  # fmt: skip
        try:
            return await scene(engine, places[0])
        finally:
            await engine.close()
            assert ledger.held() == 0
            ledger.close()

    with tempfile.TemporaryDirectory() as folder:
        return run_virtual(main(Path(folder)))


async def ask(engine: GPUAccelerator, number: int, within_s: float | None = WITHIN_S) -> str:
    """Where a question of its own was answered, or ""."""
    need, ident = Need(Stage.EMBED, Lane.LIVE), f"t{number}"
    # as many tokens as this machine would take its five seconds for
    task = Task(ident, Lane.LIVE, SPEC, Size(1, tokens=26_000), need, within_s=within_s)
    try:
        result = await engine.run(task, Envelope(ident, SPEC.fields(), pack_texts([f"text {number}"])))
    except EveryAttemptFailed:
        return ""
    return result.where


async def stream(engine: GPUAccelerator, count: int) -> list[str]:
    return [where for n in range(count) if not await asyncio.sleep(1.0) for where in [await ask(engine, n)]]


@pytest.mark.parametrize("dollars", ["0", "0.30"])
def test_what_is_late_only_for_its_cold_start_serves_once_it_is_warm(dollars: str) -> None:
    cold = Nature("cloud", T4, dollars, per_text_s=0.1, cold_s=12.0, spread=0.0,
                  quota_s=None if dollars != "0" else 3600.0)  # fmt: skip

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        found = Counter(await stream(engine, 40))
        assert found["cloud"] >= 25, found
        assert engine.ledger.rows("SELECT count(*) FROM attempt WHERE task_id LIKE '%-warm'")[0][0] >= 1

    play(scene, cold)


def test_one_warm_up_at_a_time_and_nobody_waits_for_it() -> None:
    cold = Nature("cloud", T4, "0.30", per_text_s=0.1, cold_s=60.0, spread=0.0)

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        clock = asyncio.get_running_loop().time
        for n in range(20):
            began = clock()
            await ask(engine, n)
            assert clock() - began <= WITHIN_S + 0.1
        warming = engine.ledger.rows("SELECT count(*) FROM hold WHERE task_id LIKE '%-warm'")[0][0]
        assert warming <= 1

    play(scene, cold)


def test_where_something_is_in_time_nothing_is_warmed() -> None:
    cold = Nature("cloud", T4, "0.30", per_text_s=0.1, cold_s=12.0)
    quick = Nature("local", CPU, "0", per_text_s=0.05, spread=0.0)

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        for n in range(10):
            need = Need(Stage.EMBED, Lane.LIVE)
            task = Task(f"q{n}", Lane.LIVE, SPEC, Size(1, tokens=100), need, within_s=2.0)
            await engine.run(task, Envelope(task.id, SPEC.fields(), pack_texts([f"text {n}"])))
        assert not hasattr(cloud, "begun")

    play(scene, cold, quick)


def test_a_warm_up_that_costs_more_than_a_missed_deadline_is_not_worth_it() -> None:
    cold = Nature("cloud", T4, "0.30", per_text_s=0.1, cold_s=12.0, spread=0.0)

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        await stream(engine, 30)
        assert engine.ledger.rows("SELECT count(*) FROM attempt WHERE task_id LIKE '%-warm'") == [(0,)]

    play(scene, cold, preference=Preference(value_of_deadline=0.0001))


def test_a_free_place_that_is_cold_is_started_while_all_that_is_warm_costs_money() -> None:
    """Whoever was started first would else keep everything, at any price."""
    dear = Nature("dear", Gpu("A100", 1, 80 << 30, 80), "2.50", per_text_s=0.1, spread=0.0)
    free = Nature("cloud", T4, "0", per_text_s=0.1, cold_s=12.0, spread=0.0, quota_s=3600.0)

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        runtime = engine.runtime
        engine.board.providers["dear"] = SimulatedProvider(dear, runtime, 0)
        found = await stream(engine, 60)
        assert found[0] == "dear"
        assert found[-20:] == ["cloud"] * 20

    play(scene, free)


def test_a_task_without_a_deadline_waits_for_the_cold_start_itself() -> None:
    cold = Nature("cloud", T4, "0", per_text_s=0.1, cold_s=1.0, spread=0.0, quota_s=3600.0)

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        assert await ask(engine, 0, within_s=None) == "cloud"
        assert len(cloud.begun) == 1

    play(scene, cold)


def test_closing_gives_the_warm_up_back() -> None:
    cold = Nature("cloud", T4, "0.30", per_text_s=0.1, cold_s=300.0, spread=0.0)

    async def scene(engine: GPUAccelerator, cloud: Counted) -> None:
        for n in range(3):  # one lost deadline is not worth five minutes of a GPU; a few are
            await ask(engine, n)
        assert engine.ledger.held() == 1
        # ``play`` closes the engine and finds nothing held

    play(scene, cold)


# The accounts --------------------------------------------------------------------------------------


def ranked(
    name: str, score: float, *, cold_s: float = 12.0, dollars: str = "0.80", idle_s: float = 60.0
) -> Scored:  # fmt: skip
    """An offer that would be in time but for its cold start; without one, in time."""
    told = Offer(
        name, name, Realm.SIMULATED, T4, Rate(from_dollars(dollars), date(2026, 11, 28), "test"),
        datetime(2026, 11, 28, tzinfo=UTC), "test", cold_s=cold_s, idle_s=idle_s,
    )  # fmt: skip
    expected = Estimate(Timing(0.0, cold_s, 0.0, 0.1), Cost(told.rate.cost(cold_s + 0.1)), "prior")
    money = expected.cost.amount / NANO
    return Scored(told, expected, score, (("money", money), ("time", 0.0003)))


class Noted(Warmer):
    """Notes what it starts; a start ends when it is told to."""

    def __init__(self, worth: float = 0.05) -> None:
        super().__init__(worth)
        self.started: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def begin(self, cold: Scored) -> None:
        self.started.append(cold.offer.provider)
        await self.ends.setdefault(cold.offer.provider, asyncio.Event()).wait()


def consider(warmer: Noted, *routes: Scored, times: int = 1) -> None:
    asked = Task("t", Lane.LIVE, SPEC, Size(1, tokens=9), Need(Stage.EMBED, Lane.LIVE), within_s=2.0)
    for _ in range(times):
        warmer.consider(asked, Route("t", routes), warmer.begin)


def noted(scene: Callable[[Noted], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        warmer = Noted()
        try:
            await scene(warmer)
        finally:
            await warmer.close()

    run_virtual(main())


def test_a_start_that_is_dearer_than_the_first_loss_waits_for_the_second() -> None:
    async def scene(warmer: Noted) -> None:
        dear = ranked("dear", 0.06, dollars="3.60")  # 72 s are $0.072: more than a missed deadline
        consider(warmer, dear)
        await asyncio.sleep(0.1)
        assert warmer.started == []
        consider(warmer, dear)
        await asyncio.sleep(0.1)
        assert warmer.started == ["dear"]

    noted(scene)


def test_a_start_settles_what_was_lost_to_all_the_others() -> None:
    async def scene(warmer: Noted) -> None:
        cheap, dear = ranked("cheap", 0.06), ranked("dear", 0.06, dollars="3.60")
        consider(warmer, cheap, dear)
        await asyncio.sleep(0.1)
        assert warmer.started == ["cheap"]
        warmer.ends["cheap"].set()
        await asyncio.sleep(0.1)
        consider(warmer, dear)  # its second loss, but the first since
        await asyncio.sleep(0.1)
        assert warmer.started == ["cheap"]

    noted(scene)


def test_what_is_lost_during_a_start_hardly_counts_for_who_would_be_later_still() -> None:
    async def scene(warmer: Noted) -> None:
        quick, late = ranked("quick", 0.06), ranked("late", 0.06, cold_s=120.0, dollars="0.10")
        equal = ranked("equal", 0.06)
        consider(warmer, quick)
        consider(warmer, late, times=20)
        await asyncio.sleep(0.1)
        assert warmer.started == ["quick"]
        consider(warmer, equal, times=2)  # even odds to be warm first: half of each loss
        await asyncio.sleep(0.1)
        assert warmer.started == ["quick", "equal"]

    noted(scene)


def test_one_that_would_be_no_better_warm_is_never_started() -> None:
    async def scene(warmer: Noted) -> None:
        warm = ranked("warm", 0.00001, cold_s=0.0)
        consider(warmer, warm, ranked("cold", 0.06), times=500)
        await asyncio.sleep(0.1)
        assert warmer.started == []

    noted(scene)


def test_a_cheaper_one_is_started_once_the_dearer_has_cost_its_start() -> None:
    """Seconds between calls at both rates: what a dear worker costs by staying up."""

    async def scene(warmer: Noted) -> None:
        began = asyncio.get_running_loop().time()
        for _ in range(400):
            dear = ranked("dear", 2.50 / 3600, cold_s=0.0)  # a second of it for each call
            consider(warmer, dear, ranked("cheap", 0.06, dollars="0.18", cold_s=45.0, idle_s=300.0))
            await asyncio.sleep(1.0)
            if warmer.started:
                break
        seconds = asyncio.get_running_loop().time() - began
        assert 15 < seconds < 60  # 345 s at $0.18 an hour are $0.017; $2.32 an hour are that in 27 s

    noted(scene)
