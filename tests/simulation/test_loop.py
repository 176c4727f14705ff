"""Virtual time: hours in milliseconds, one order of events, and an error where nothing could go on."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.simulation import DeadlockError, run_virtual


def test_a_year_passes_without_waiting() -> None:
    async def sleep() -> float:
        await asyncio.sleep(365 * 86400)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run_virtual(sleep()) == pytest.approx(365 * 86400)
    assert time.monotonic() - began < 30  # a year of real waiting would be noticed


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_sleepers_wake_in_the_order_of_their_times_and_at_them(delays: list[float]) -> None:
    async def main() -> list[tuple[float, float]]:
        woken: list[tuple[float, float]] = []

        async def sleeper(delay: float) -> None:
            await asyncio.sleep(delay)
            woken.append((delay, asyncio.get_running_loop().time()))

        await asyncio.gather(*(sleeper(d) for d in delays))
        return woken

    woken = run_virtual(main())
    assert len(woken) == len(delays)
    # the loop runs what is due within its clock's resolution together
    assert all(a <= b + 1e-6 for (a, _), (b, _) in itertools.pairwise(woken))
    assert all(at == pytest.approx(delay, abs=1e-6) for delay, at in woken)


def test_small_waits_far_from_zero_still_move_the_clock() -> None:
    async def main() -> float:
        await asyncio.sleep(1e9)
        for _ in range(100):
            await asyncio.sleep(1e-8)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) > 1e9


def test_waiting_for_nothing_is_an_error_that_says_so() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="never happen"):
        run_virtual(main())


def test_deadlines_are_virtual_too() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.sleep(7200)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(3600)
