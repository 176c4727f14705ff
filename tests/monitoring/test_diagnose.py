"""Each of the guide's three troubles, injected into a real ledger by the engine itself, is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from monitoring.ledgers import question

from accel.core.errors import NoCapacity, ProviderError, Unauthorised
from accel.core.lease import Lease
from accel.core.money import NanoUSD
from accel.core.offer import CPU, Gpu, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.monitoring.diagnose import Trouble, diagnose, gather
from accel.simulation import run_virtual
from accel.simulation.natures import Nature
from accel.simulation.world import SimulatedProvider
from accel.wire import Envelope, pack_texts

T = TypeVar("T")
SPEC = Spec(Stage.EMBED, model="m", dimension=4)
T4 = Gpu("T4", 1, 15 << 30, 75)
PLENTY = Limits({("", Period.MONTH): NanoUSD(10**12)}, {})


class Cloud(SimulatedProvider):
    """A simulated GPU whose calls may be made to fail."""

    error: ProviderError | None = None

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        if self.error is not None:
            raise self.error
        return await super().call(lease, request)


@dataclass
class World:
    engine: GPUAccelerator
    ledger: Ledger
    cloud: Cloud

    async def ask(self, number: int, *, texts: int = 1) -> None:
        """One question of one stage, as the processor asks it: its row has the seconds that it took."""
        clock = asyncio.get_running_loop().time
        began, ident = clock(), f"q{number}"
        task = Task(f"{ident}-embed", Lane.LIVE, SPEC, Size(texts, 10 * texts), Need(Stage.EMBED, Lane.LIVE))
        asked = [f"{ident}/{i}" for i in range(texts)]
        await self.engine.run(task, Envelope(task.id, SPEC.fields(), pack_texts(asked)), ident)
        self.engine.journal.note(question(ident, clock() - began))

    def find(self) -> tuple[Trouble, Trouble, Trouble]:
        now = self.ledger.now()
        return diagnose(gather(self.ledger, now - timedelta(days=7), now))


def play(
    folder: Path, scene: Callable[[World], Coroutine[Any, Any, T]], *, cloud: dict[str, Any] | None = None,
    per_text_s: float = 0.3, limits: Limits = PLENTY, order: tuple[str, ...] = ("cloud",),
) -> T:  # fmt: skip
    """Run ``scene`` with this machine and one cloud, which is preferred."""

    async def main() -> T:
        runtime = Runtime.virtual(1)
        nature = Nature("cloud", T4, "0.36", per_text_s=0.1, spread=0.0)
        far = Cloud(replace(nature, **(cloud or {})), runtime, 0)
        here = SimulatedProvider(Nature("local", CPU, "0", per_text_s=per_text_s, spread=0.0), runtime, 0)
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        engine = GPUAccelerator(
            Board([far, here], runtime), ledger, Budgets(ledger, limits), None, runtime, folder,
            Preference(order=order), Patience(),
        )  # fmt: skip
        try:
            return await scene(World(engine, ledger, far))
        finally:
            await engine.close()
            ledger.close()

    return run_virtual(main())


def test_where_all_is_well_nothing_is_found(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        assert [t.found for t in world.find()] == [None, None, None], "nothing was run yet"
        for i in range(8):
            await world.ask(i)
        local, dear, slow = world.find()
        assert [t.found for t in (local, dear, slow)] == [False, False, False]
        assert local.symptom == "0 of 8 stages that a GPU could do were done here"
        assert slow.n == 8 and dear.symptom.startswith("all, month: $0.0")

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("error", "command"), [(Unauthorised, "accel setup cloud"), (NoCapacity, "accel offers")]
)
def test_everything_falls_back_because_the_cloud_fails(
    tmp_path: Path, error: type[ProviderError], command: str
) -> None:
    async def scene(world: World) -> None:
        world.cloud.error = error("said the cloud", provider="cloud")
        for i in range(8):
            await world.ask(i)
        trouble = world.find()[0]
        assert trouble.found and trouble.symptom.startswith("8 of 8 ")
        assert "cloud: " in trouble.bottleneck and error.__name__ in trouble.bottleneck
        assert "said the cloud" in trouble.bottleneck
        assert trouble.remedies[0].command == command
        world.cloud.error = None
        await asyncio.sleep(3600)  # whatever was open of its breaker is closed
        for i in range(8, 12):
            await world.ask(i)
        if error is NoCapacity:  # a refused key stays refused for this process
            assert world.find()[0].found is False, "some of it went to the cloud again"

    play(tmp_path, scene)


def test_what_is_done_here_because_it_is_best_here_is_no_trouble(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for i in range(8):
            await world.ask(i)
        trouble = world.find()[0]
        assert trouble.found is False and "nowhere else would have been better" in trouble.symptom

    play(tmp_path, scene, per_text_s=0.001, order=("local",))


def test_costs_above_the_budget_name_where_the_money_went(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for i in range(12):
            await world.ask(i, texts=20)  # 2 s of $0.36 an hour: $0.0002
        local, trouble, _ = world.find()
        assert trouble.found, trouble
        assert "$0.001" in trouble.symptom and "had no room" in trouble.symptom
        assert "embed on cloud" in trouble.bottleneck and "100% of what was spent" in trouble.bottleneck
        assert "computing" in trouble.bottleneck
        commands = [r.command for r in trouble.remedies]
        assert "accel precompute" in commands and any("[budget]" in c for c in commands)
        assert local.found is False, "the first of them were done there"

    play(tmp_path, scene, limits=Limits({("", Period.MONTH): NanoUSD(1_000_000)}, {}))


@pytest.mark.parametrize(
    ("cloud", "per_text_s", "order", "said", "command"),
    [
        ({}, 8.0, ("local",), "embed on local: computing", "accel precompute"),
        ({"cold_s": 20.0, "idle_s": 1.0}, 9.0, ("cloud",), "embed on cloud: cold starts", "--provider local"),
        ({"way_s": 7.0}, 9.0, ("cloud",), "embed on cloud: transfers", "--provider local"),
    ],
)
def test_slow_questions_name_stage_provider_and_part(
    tmp_path: Path, cloud: dict[str, Any], per_text_s: float, order: tuple[str, ...], said: str, command: str
) -> None:
    async def scene(world: World) -> None:
        for i in range(6):
            await world.ask(i)
            await asyncio.sleep(100.0)
        trouble = world.find()[2]
        assert trouble.found and trouble.symptom.startswith("6 of 6 questions")
        assert trouble.bottleneck.startswith(said), trouble.bottleneck
        assert command in trouble.remedies[0].command

    play(tmp_path, scene, cloud=cloud, per_text_s=per_text_s, order=order)


def test_one_slow_question_among_quick_ones_is_no_trouble(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for i in range(5):
            await world.ask(i, texts=60 if i == 2 else 1)
        trouble = world.find()[2]
        assert trouble.found is False and trouble.symptom.startswith("1 of 5 questions")

    play(tmp_path, scene)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for i in range(6):
            await world.ask(i)
        tables = ("request", "attempt", "decision", "account", "charge", "alert")

        def rows() -> list[Any]:
            return [world.ledger.rows(f"SELECT * FROM {t} ORDER BY rowid") for t in tables]

        before = rows()
        assert world.find() == world.find() and rows() == before

    play(tmp_path, scene)
