"""Live requests: reserved before they are sent, booked once, answered even where the ledger is stuck."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from accel.core.errors import EveryAttemptFailed, LedgerError, Unauthorised, Unreachable
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
MONTH = Limits({("", Period.MONTH): NanoUSD(NANO)}, {})
FIRST = Preference(order=("cloud",))


class Shaky(Ledger):
    """A ledger that refuses to be written while ``broken``, and counts outermost transactions."""

    broken = False
    written = 0
    _inside = False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        if self.broken:
            raise LedgerError("the disk is full")
        if self._inside:
            with super().transaction() as db:
                yield db
            return
        self._inside = True
        try:
            with super().transaction() as db:
                yield db
            self.written += 1
        finally:
            self._inside = False


class Cloud(SimulatedProvider):
    """Looks at the ledger while it works, or raises what it is told to."""

    ledger: Shaky
    held: list[int]
    error: Exception | None = None
    then: Callable[[], None] = staticmethod(lambda: None)

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        self.held = [*getattr(self, "held", []), self.ledger.held()]
        if self.error:
            raise self.error
        answer = await super().call(lease, request)
        self.then()
        return answer


class Stage_:
    """One engine with a paid "cloud" and the free "local"."""

    def __init__(self, folder: Path, limits: Limits, preference: Preference, local: bool) -> None:
        runtime = Runtime.virtual(1)
        nature = Nature("cloud", T4, "3.60", per_text_s=1.0, spread=0.0)
        self.cloud = Cloud(nature, runtime, 0)
        self.local = SimulatedProvider(Nature("local", CPU, "0", per_text_s=0.5, spread=0.0), runtime, 0)
        self.ledger = self.cloud.ledger = Shaky(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        self.budgets = Budgets(self.ledger, limits)
        places = [self.cloud, self.local] if local else [self.cloud]
        self.engine = GPUAccelerator(
            Board(places, runtime), self.ledger, self.budgets, None, runtime, folder, preference, Patience()
        )
        self.budgets.funds(())
        self.number = 0

    async def ask(self, within_s: float | None = 20.0) -> Any:
        self.number += 1
        ident = f"t{self.number}"
        task = Task(ident, Lane.LIVE, SPEC, Size(1, 10), Need(Stage.EMBED, Lane.LIVE), within_s=within_s)
        return await self.engine.run(task, Envelope(ident, SPEC.fields(), pack_texts([ident])))

    def spent(self) -> int:
        return sum(a.used for a in self.ledger.accounts())


def play(
    scene: Callable[[Stage_], Coroutine[Any, Any, T]], limits: Limits = MONTH, preference: Preference = FIRST,
    local: bool = True,
) -> T:  # fmt: skip
    async def main(folder: Path) -> T:
        stage = Stage_(folder, limits, preference, local)
        try:
            return await scene(stage)
        finally:
            await stage.engine.close()
            stage.ledger.close()

    with tempfile.TemporaryDirectory() as folder:
        return run_virtual(main(Path(folder)))


def test_a_paid_try_is_reserved_while_it_runs_and_charged_for_what_it_took() -> None:
    async def scene(stage: Stage_) -> None:
        result = await stage.ask()
        assert result.where == "cloud"
        assert stage.cloud.held == [1]
        assert stage.ledger.held() == 0
        assert stage.spent() == result.attempts[0].cost.amount == NANO // 1000  # one second at $3.60 an hour
        assert stage.cloud.billed == stage.spent()

    play(scene)


def test_a_free_request_is_one_transaction_and_a_paid_one_two() -> None:
    async def scene(stage: Stage_) -> None:
        await stage.ask()
        before = stage.ledger.written
        await stage.ask()
        assert stage.ledger.written - before == 2
        stage.engine.preference = Preference(order=("local",))
        before = stage.ledger.written
        assert (await stage.ask()).where == "local"
        assert stage.ledger.written - before == 1

    play(scene)


def test_what_a_limit_refuses_is_never_sent() -> None:
    """The ranking saw room; the reservation of the worst case did not."""

    async def scene(stage: Stage_) -> None:
        result = await stage.ask()
        assert [(a.provider, a.error) for a in result.attempts] == [("cloud", "OverBudget"), ("local", "")]
        assert not hasattr(stage.cloud, "held")
        assert stage.spent() == 0
        kept = stage.ledger.rows("SELECT provider, outcome FROM attempt")
        assert kept == [("cloud", "failed"), ("local", "ok")]
        assert stage.ledger.rows("SELECT attempts FROM request") == [(1,)]  # one was sent

    play(scene, Limits({("", Period.DAY): NanoUSD(2 * NANO // 1000)}, {}))


def test_without_a_budget_nothing_paid_is_even_ranked() -> None:
    async def scene(stage: Stage_) -> None:
        result = await stage.ask()
        assert (result.where, len(result.attempts)) == ("local", 1)
        assert "set budget.month" in " ".join(r.reason for r in result.route.refused)

    play(scene, Limits({}, {}))


def test_a_ledger_that_cannot_be_written_lets_nothing_paid_out_and_the_answer_still_comes() -> None:
    async def scene(stage: Stage_) -> None:
        await stage.ask()
        stage.ledger.broken = True
        result = await stage.ask()
        assert [(a.provider, a.error) for a in result.attempts] == [("cloud", "LedgerError"), ("local", "")]
        assert stage.engine.journal.unwritten == 1
        stage.ledger.broken = False
        await stage.ask()
        assert stage.engine.journal.unwritten == 0
        assert stage.ledger.rows("SELECT count(*) FROM request") == [(3,)]
        assert len(stage.cloud.held) == 2

    play(scene)


def test_a_charge_that_cannot_be_written_stays_held_until_it_can() -> None:
    async def scene(stage: Stage_) -> None:
        def fills() -> None:
            stage.ledger.broken = True

        stage.cloud.then = fills  # type: ignore[method-assign]
        assert (await stage.ask()).where == "cloud"
        assert (stage.ledger.held(), stage.spent()) == (1, 0)
        stage.ledger.broken, stage.cloud.then = False, lambda: None  # type: ignore[method-assign]
        await stage.ask()
        assert (stage.ledger.held(), stage.spent()) == (0, stage.cloud.billed)

    play(scene)


def test_what_a_dead_process_held_is_found_and_counted_as_spent(tmp_path: Path) -> None:
    async def dies(folder: Path) -> None:
        stage = Stage_(folder, MONTH, FIRST, True)

        def fills() -> None:
            stage.ledger.broken = True

        stage.cloud.then = fills  # type: ignore[method-assign]
        await stage.ask()
        assert stage.ledger.held() == 1
        stage.ledger.close()  # its lock goes with it

    run_virtual(dies(tmp_path))
    successor = Ledger(tmp_path / "ledger.sqlite3", Realm.SIMULATED)
    assert Budgets(successor, MONTH).recover() == 1
    assert successor.held() == 0
    assert sum(a.used for a in successor.accounts()) >= NANO // 1000
    successor.close()


@pytest.mark.parametrize(
    ("error", "charged"),
    [(Unreachable("gone", provider="cloud"), True), (Unauthorised("key", provider="cloud"), False)],
)
def test_a_failed_try_is_charged_only_where_the_far_end_may_have_run(error: Exception, charged: bool) -> None:
    async def scene(stage: Stage_) -> None:
        async def slow(lease: Lease, request: Envelope) -> Envelope:
            await asyncio.sleep(2.0)
            raise error

        stage.cloud.call = slow  # type: ignore[method-assign]
        result = await stage.ask()
        assert result.where == "local"
        assert stage.spent() == (2 * NANO // 1000 if charged else 0)
        assert stage.ledger.held() == 0

    play(scene)


def test_every_request_is_one_row_whatever_became_of_it() -> None:
    async def scene(stage: Stage_) -> None:
        await stage.ask()
        waiting = asyncio.create_task(stage.ask())
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for place in (stage.cloud, stage.local):
            place.nature = replace(place.nature, outage=(0.0, 1e9))
        with pytest.raises(EveryAttemptFailed):
            await stage.ask()
        rows = stage.ledger.rows("SELECT outcome, provider, attempts, cost > 0 FROM request ORDER BY rowid")
        assert [r[:2] for r in rows] == [("ok", "cloud"), ("cancelled", ""), ("failed", "")]
        assert [r[3] for r in rows] == [1, 1, 1]  # what was cancelled had run, and so had what broke off
        assert stage.ledger.held() == 0

    play(scene)


def test_where_nobody_is_left_who_comes_back_in_time_is_waited_for() -> None:
    async def scene(stage: Stage_) -> None:
        clock = asyncio.get_running_loop().time
        stage.cloud.error = Unreachable("gone", provider="cloud")
        while not stage.engine.health.standing("cloud", _task(), clock()).blocked:
            with pytest.raises(EveryAttemptFailed):
                await stage.ask()
        stage.cloud.error = None
        began = clock()
        with pytest.raises(EveryAttemptFailed, match="again in"):
            await stage.ask(within_s=5.0)
        assert clock() - began <= 5.0
        assert (await stage.ask(within_s=120.0)).where == "cloud"
        assert 5.0 < clock() - began < 120.0

    play(scene, local=False)


def _task() -> Task:
    return Task("t", Lane.LIVE, SPEC, Size(1, 10), Need(Stage.EMBED, Lane.LIVE))


def test_what_was_not_paid_for_is_told_as_avoided() -> None:
    async def scene(stage: Stage_) -> None:
        assert (await stage.ask()).where == "local"
        ((avoided,),) = stage.ledger.rows("SELECT avoided FROM request")
        assert avoided > 0

    play(scene, preference=Preference())
