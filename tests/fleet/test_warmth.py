"""A cold offer that would be in time when warm gets warm: one at a time, on the books, nobody waiting."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from accel.cache import ExactCache
from accel.core.errors import EveryAttemptFailed
from accel.core.lease import Lease
from accel.core.money import NANO, NanoUSD
from accel.core.offer import CPU, Gpu, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
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
