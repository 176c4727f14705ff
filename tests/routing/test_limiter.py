"""The limiter: never more in flight than the limit, first come first served, and no place is lost."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.routing.limiter import INITIAL, LEAST, MOST, Limiter
from accel.simulation import run_virtual


def full() -> Limiter:
    limiter = Limiter()
    while limiter.take():
        pass
    return limiter


def test_it_begins_with_four_places() -> None:
    assert full().in_flight == INITIAL == 4


def test_it_grows_by_one_on_a_success_only_where_half_of_it_was_used() -> None:
    limiter = Limiter()
    assert limiter.take()
    limiter.give_back(True, 1.0)
    assert limiter.limit == INITIAL  # one in flight of four
    assert limiter.take() and limiter.take()
    limiter.give_back(True, 1.0)
    assert limiter.limit == INITIAL + 1


def test_it_shrinks_by_a_tenth_and_stays_between_its_ends() -> None:
    limiter = Limiter()
    assert limiter.take()
    limiter.give_back(False, 1.0)
    assert limiter.limit == pytest.approx(3.6)
    for _ in range(100):
        assert limiter.take()
        limiter.give_back(False, 1.0)
    assert limiter.limit == LEAST
    while limiter.limit < MOST:
        while limiter.take():
            pass
        limiter.give_back(True, 1.0)
    while limiter.take():
        pass
    limiter.give_back(True, 1.0)
    assert limiter.limit == MOST
    assert limiter.take() and not limiter.take()


def test_what_says_nothing_changes_nothing() -> None:
    limiter = full()
    limiter.give_back(None, 1.0)
    assert (limiter.limit, limiter.in_flight) == (INITIAL, INITIAL - 1)


def test_who_waits_longest_goes_first_and_nobody_comes_between() -> None:
    async def main() -> list[int]:
        limiter, order = full(), []

        async def call(n: int) -> None:
            assert await limiter.wait(100.0)
            order.append(n)

        calls = [asyncio.create_task(call(n)) for n in range(4)]
        await asyncio.sleep(1)
        assert limiter.waiting == 4
        limiter.give_back(None, 1.0)
        assert not limiter.take()  # three are before it
        for _ in range(3):
            limiter.give_back(None, 1.0)
        await asyncio.gather(*calls)
        return order

    assert run_virtual(main()) == [0, 1, 2, 3]


def test_a_wait_that_runs_out_takes_no_place_and_blocks_nobody() -> None:
    async def main() -> None:
        limiter, loop = full(), asyncio.get_running_loop()
        assert not await limiter.wait(2.0)
        assert loop.time() == pytest.approx(2.0)
        assert not await limiter.wait(0.0)
        assert loop.time() == pytest.approx(2.0)
        assert limiter.waiting == 0
        for _ in range(int(INITIAL)):
            limiter.give_back(None, 1.0)
        assert limiter.in_flight == 0 and limiter.take()

    run_virtual(main())


def test_a_place_granted_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    async def main() -> None:
        limiter = full()
        first = asyncio.create_task(limiter.wait(100.0))
        second = asyncio.create_task(limiter.wait(100.0))
        await asyncio.sleep(1)
        limiter.give_back(None, 1.0)  # granted to the first, which has not woken yet
        first.cancel()
        assert await second
        assert limiter.in_flight == INITIAL

    run_virtual(main())


def test_the_expected_wait_is_the_queue_over_the_rate_of_ends() -> None:
    limiter = Limiter()
    assert limiter.queue_s == 0.0
    assert limiter.take()
    limiter.give_back(True, 2.0)
    while limiter.take():
        pass
    assert limiter.queue_s == pytest.approx(2.0 / INITIAL)  # the next of four ends in half a second


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3),  # when it comes
            st.floats(0.01, 3),  # how long it runs
            st.sampled_from([True, False, None]),
            st.floats(0, 2),  # how long it is ready to wait
            st.none() | st.floats(0, 4),  # when it is cancelled
        ),
        max_size=40,
    )
)
def test_no_place_leaks_whoever_ends_gives_up_or_is_cancelled(
    calls: list[tuple[float, float, bool | None, float, float | None]],
) -> None:
    async def main() -> None:
        limiter, running, passed = Limiter(), 0, []

        async def call(at: float, seconds: float, well: bool | None, patience: float) -> None:
            nonlocal running
            await asyncio.sleep(at)
            if not await limiter.wait(patience):
                return
            running += 1
            passed.append(running <= limiter.in_flight)
            ended: bool | None = None
            try:
                await asyncio.sleep(seconds)
                ended = well
            finally:
                running -= 1
                limiter.give_back(ended, seconds)

        tasks = []
        for at, seconds, well, patience, cancelled in calls:
            tasks.append(asyncio.create_task(call(at, seconds, well, patience)))
            if cancelled is not None:
                asyncio.get_running_loop().call_later(cancelled, tasks[-1].cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(passed)
        assert (limiter.in_flight, limiter.waiting) == (0, 0)
        assert LEAST <= limiter.limit <= MOST
        assert len(list(itertools.takewhile(lambda _: limiter.take(), range(300)))) == int(limiter.limit)

    run_virtual(main())


@given(st.lists(st.sampled_from(["take", "ok", "over", "none"]), max_size=200))
def test_a_place_is_only_granted_below_the_limit(steps: list[str]) -> None:
    limiter = Limiter()
    for step in steps:
        if step == "take":
            before = limiter.in_flight
            if limiter.take():
                assert limiter.in_flight == before + 1 <= limiter.limit
            else:
                assert before + 1 > limiter.limit
        elif limiter.in_flight:
            limiter.give_back({"ok": True, "over": False, "none": None}[step], 1.0)
    assert limiter.in_flight >= 0
