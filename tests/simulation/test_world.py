"""What simulated providers do and bill, fault by fault; and what no check of an answer can see."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import LedgerError, ProviderError
from accel.core.offer import Offer
from accel.core.task import Lane, Need, Stage
from accel.fleet.answers import validate
from accel.ledger import Limits
from accel.simulation import answers, faults, run_virtual, traffic
from accel.simulation.clock import WallClock, runtime
from accel.simulation.evidence import Call
from accel.simulation.faults import TIMED, Ambush, Fault, Planned, plan
from accel.simulation.natures import WORLD
from accel.simulation.router import LEDGER, Router
from accel.simulation.scene import Scene
from accel.simulation.world import SimulatedProvider
from accel.wire import Envelope, pack_texts

T = TypeVar("T")
TEXTS = ("1000|1", "2000|2")
L4 = next(n for n in WORLD if n.name == "spot-l4")


def request(ident: str = "t", texts: tuple[str, ...] = TEXTS) -> Envelope:
    return Envelope(ident, traffic.BASE.fields(), pack_texts(texts))


def meet(
    fault: Fault, play: Callable[[SimulatedProvider], Coroutine[Any, Any, T]], number: int = 0,
    draw: float = 0.5,
) -> tuple[T, list[Call]]:  # fmt: skip
    """Let ``play`` use a provider whose first call runs into ``fault``: its result, and the calls."""
    scene = Scene(Ambush([Planned(0.0, fault, draw, number)]))

    async def main() -> T:
        return await play(SimulatedProvider(L4, runtime(1, WallClock()), 1, scene))

    return run_virtual(main()), scene.evidence.calls


async def call(provider: SimulatedProvider, ident: str = "t") -> Envelope | str:
    """An answer, or the class of what was raised; nobody waits longer than 300 s."""
    try:
        async with asyncio.timeout(300):
            return await provider.call(provider.standing_lease(), request(ident))
    except ProviderError as error:
        return type(error).__name__
    except TimeoutError:
        return "TimeoutError"


@pytest.mark.parametrize(
    ("fault", "number", "said"),
    [
        (Fault.REFUSED, 0, "Unreachable"), (Fault.HANG, 0, "TimeoutError"), (Fault.BURST, 0, "Unreachable"),
        (Fault.THROTTLED, 0, "RateLimited"), (Fault.ACCOUNT, 0, "Unauthorised"),
        (Fault.ACCOUNT, 2, "QuotaExhausted"), (Fault.PREEMPTED, 0, "Preempted"),
        (Fault.OOM, 0, "OutOfMemory"), (Fault.COLD, 3, "TimeoutError"),
    ],
)  # fmt: skip
def test_a_fault_raises_what_a_provider_would(fault: Fault, number: int, said: str) -> None:
    found, calls = meet(fault, call, number)
    assert found == said
    assert (calls[0].error or said) in (said, "cancelled")


@pytest.mark.parametrize("number", range(6))
def test_a_bad_payload_is_one_that_a_check_can_see(number: int) -> None:
    found, _ = meet(Fault.PAYLOAD, call, number)
    assert isinstance(found, Envelope)
    with pytest.raises(ProviderError):
        validate(request(), found, "p")


def test_vectors_in_another_order_pass_unseen() -> None:
    """An honest gap: shape and numbers are right, and only who knows the vectors could tell."""
    right = answers.answer(request(), TEXTS, 0.0, 0.0)
    turned = np.ascontiguousarray(right.tensors["vectors"][::-1])
    validate(request(), Envelope("t", right.spec, {"vectors": turned}, right.meta), "p")
    asked = traffic.Asked(0.0, traffic.KINDS[0], TEXTS, 1.0, None)
    assert traffic.wrong(asked, right) == ""
    assert traffic.wrong(asked, Envelope("t", right.spec, {"vectors": turned})) != ""


def test_every_second_is_billed_cold_start_and_failure_too() -> None:
    async def twice(provider: SimulatedProvider) -> None:
        await call(provider)
        await call(provider)

    _, (first, second) = meet(Fault.BURST, twice)
    for one in (first, second):
        assert one.billed_s == one.ended - one.began > 0
        assert one.exact and one.invoice == L4.rate.cost(one.billed_s)
    _, (cold, warm) = meet(Fault.ANSWERED, twice, draw=0.0)
    assert cold.ended - cold.began > L4.cold_s
    assert warm.error == "NoCapacity" and warm.invoice == 0  # its machine is gone


def test_nothing_is_billed_that_never_arrived_and_only_sometimes_is_it_told() -> None:
    _, (told,) = meet(Fault.REFUSED, call, 0)
    _, (silent,) = meet(Fault.REFUSED, call, 1)
    assert (told.invoice, silent.invoice) == (0, 0)
    assert (told.exact, silent.exact) == (True, False)


def test_a_late_answer_is_not_billed_for_its_way() -> None:
    _, (late,) = meet(Fault.LATE, call, 0)
    assert late.billed_s is not None
    assert late.billed_s < late.ended - late.began - 10.0
    assert not late.exact


def test_a_refused_account_stays_refused_and_a_throttled_one_says_for_how_long() -> None:
    async def twice(provider: SimulatedProvider) -> list[Envelope | str]:
        return [await call(provider), await call(provider)]

    assert meet(Fault.ACCOUNT, twice)[0] == ["Unauthorised", "Unauthorised"]
    _, (throttled,) = meet(Fault.THROTTLED, call)
    assert throttled.retry_after_s > 0


def test_a_preempted_machine_is_gone_for_a_while_with_notice_or_without() -> None:
    async def after_notice(provider: SimulatedProvider) -> list[object]:
        first = await call(provider)
        await asyncio.sleep(31.0)
        need = Need(Stage.EMBED, Lane.LIVE)
        gone = await provider.probe(need), await call(provider)
        await asyncio.sleep(120.0)
        return [type(first), *gone, isinstance(await provider.probe(need), Offer)]

    found, _ = meet(Fault.PREEMPTED, after_notice, number=1)
    first, offer, second, back = found
    assert (first, second, back) == (Envelope, "NoCapacity", True)
    assert "no machine is free" in str(offer)


@given(seed=st.integers(0, 2**32), requests=st.integers(1, 200_000))
def test_a_plan_has_every_class_in_its_share(seed: int, requests: int) -> None:
    planned = plan(seed, requests, 1000.0)
    assert planned == plan(seed, requests, 1000.0)
    for kind in Fault:
        count, share = sum(p.kind is kind for p in planned), faults.RATES[kind] * requests / 100_000
        assert max(1, share) <= count <= 2 + 1.1 * share
    assert all(0 < p.at_s < 1000 for p in planned)
    assert sum(faults.RATES.values()) >= 1_100


def test_a_fault_waits_for_a_call_that_can_meet_it() -> None:
    ambush = Ambush([Planned(10.0, Fault.OOM, 0.5, 0), Planned(10.0, Fault.PRICE, 0.5, 0)])
    everything = frozenset(Fault) - TIMED
    assert ambush.take(everything, 9.0) is None
    assert ambush.take(everything - {Fault.OOM}, 11.0) is None
    assert ambush.take(everything, 12.0) is not None
    assert ambush.take(everything, 13.0) is None
    assert ambush.struck == {Fault.OOM: 1}


def test_a_killed_router_writes_nothing_more_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        clock = WallClock()
        providers = [SimulatedProvider(n, runtime(1, clock), 1, Scene()) for n in WORLD]
        first = Router(tmp_path, providers, runtime(1, clock), Limits({}, {}))
        task, asked = traffic.task_of("r1", traffic.Asked(0.0, traffic.KINDS[0], TEXTS, 12.0, None))
        await first.engine.run(task, asked)
        first.die()
        with sqlite3.connect(tmp_path / LEDGER) as db:
            before = db.execute("SELECT count(*) FROM request").fetchone()
        with pytest.raises(LedgerError):
            first.ledger.write("DELETE FROM request")
        task, asked = traffic.task_of("r2", traffic.Asked(0.0, traffic.KINDS[0], ("10|9",), 12.0, None))
        with contextlib.suppress(Exception):  # whatever comes of it, nothing reaches the file
            await first.engine.run(task, asked)
        second = Router(tmp_path, providers, runtime(2, clock), Limits({}, {}))
        assert second.ledger.rows("SELECT count(*) FROM request") == [before]
        await second.close()

    run_virtual(main())
