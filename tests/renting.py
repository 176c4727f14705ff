"""What the tests of rented machines share: one cloud in memory or on disk, a ledger, an engine on top."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from accel.core.attempt import Result
from accel.core.money import NANO, NanoUSD, Rate, from_dollars
from accel.core.offer import CPU, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.simulation import run_virtual
from accel.simulation.natures import Nature
from accel.simulation.world import SimulatedProvider
from accel.testing.mock_rental import MockRental
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import write_result

T = TypeVar("T")
# 100,000 nano-dollars a second, and one that divides into none
PAID = Rate(from_dollars("0.36"), date(2026, 11, 23), "test")
ODD = Rate(from_dollars("0.789012347"), date(2026, 11, 23), "test")
LIMITS = Limits({("", Period.MONTH): NanoUSD(100 * NANO)}, {})
PATIENCE = Patience(poll_s=1.0, unreachable_s=20.0, lifetime_s=3600.0, idle_s=300.0)
SPEC = Spec(Stage.EMBED, model="m", dimension=2)
LOCAL = Nature("local", CPU, "0", per_text_s=1.0, spread=0.0)


def vectors(request: Envelope) -> Envelope:
    """A valid answer to a request for embeddings."""
    n = len(request.tensors["text_ends"])
    made = {"vectors": np.ones((n, request.spec["dimension"]), np.float32)}
    return Envelope(request.task_id, request.spec, made, {"compute_s": 0.1})


def result_files(task_id: str) -> dict[str, bytes]:
    """What a job leaves; the intent's id is the task's and the try's."""
    with tempfile.TemporaryDirectory() as folder:
        output = Envelope(
            task_id.rsplit("-", 1)[0], SPEC.fields(), {"vectors": np.ones((1, 2), np.float32)},
            {"compute_s": 3.0, "cold_s": 1.0},
        )  # fmt: skip
        write_result(Path(folder), output.task_id, output, {})
        return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


@dataclass
class Home:
    """One home: a folder with a ledger; a cloud; and engines, as if each were a process of its own."""

    folder: Path
    runtime: Runtime
    cloud: MockRental
    limits: Limits = LIMITS
    patience: Patience = PATIENCE
    asked: tuple[str, ...] = ("cloud",)
    local: bool = True
    here: Nature = LOCAL

    def engine(self, **changes: Any) -> GPUAccelerator:
        ledger = Ledger(self.folder / "ledger.sqlite3", Realm.SIMULATED, self.runtime.now)
        here = [SimulatedProvider(self.here, self.runtime, 0)] if self.local else []
        budgets = Budgets(ledger, changes.pop("limits", self.limits))
        budgets.recover()
        engine = GPUAccelerator(
            Board([*here, self.cloud], self.runtime), ledger, budgets, None, self.runtime,
            self.folder / "jobs", Preference(order=self.asked, **changes), self.patience,
        )  # fmt: skip
        engine.recall()
        return engine

    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.sqlite3", Realm.SIMULATED, self.runtime.now)

    def charged(self) -> int:
        """The sum of the ledger."""
        return int(self.ledger().rows("SELECT coalesce(sum(amount), 0) FROM charge")[0][0])

    def settled(self) -> None:
        """What must be true when everything is over: nothing runs, nothing is held, the ledger is the
        invoice."""
        ledger = self.ledger()
        assert self.cloud.rented == ()
        assert (ledger.held(), ledger.open_leases()) == (0, ())
        assert self.charged() == self.cloud.billed
        for account in ledger.accounts():
            assert account.used == sum(
                amount for (amount,) in ledger.rows(
                    "SELECT amount FROM charge WHERE accounts LIKE ?", f'%"{account.name}"%'
                )
            )  # fmt: skip
        ledger.close()


def live(number: int, within_s: float | None = None, texts: int = 1) -> tuple[Task, Envelope]:
    """A question of its own."""
    ident, what = f"t{number}", [f"text {number}-{i}" for i in range(texts)]
    task = Task(
        ident, Lane.LIVE, SPEC, Size(texts, tokens=100), Need(Stage.EMBED, Lane.LIVE, model="rev"),
        within_s=within_s,
    )  # fmt: skip
    return task, Envelope(ident, SPEC.fields(), pack_texts(what))


async def ask(engine: GPUAccelerator, number: int, within_s: float | None = None) -> Result[Envelope]:
    return await engine.run(*live(number, within_s))


def play(
    scene: Callable[[Home], Coroutine[Any, Any, T]], *, home: dict[str, Any] | None = None, **cloud: Any
) -> T:
    """Run a scene on virtual time; ``cloud`` are options of the MockRental."""

    async def main(folder: Path) -> T:
        runtime = Runtime.virtual(1)
        options = {"rate": PAID, "answer": vectors, "cold_s": 30.0, "result": result_files} | cloud
        made = Home(folder, runtime, MockRental("cloud", runtime, **options), **(home or {}))
        return await scene(made)

    with tempfile.TemporaryDirectory() as folder:
        return run_virtual(main(Path(folder)))


def patient(home: Home, **changes: float) -> Patience:
    return dataclasses.replace(home.patience, **changes)


async def passing(seconds: float) -> None:
    await asyncio.sleep(seconds)
