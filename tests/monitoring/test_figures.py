"""Percentiles are values that were measured; projections say their method and when they rest on little."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.monitoring.figures import Seconds, elapsed, mean, nearest_rank, project

DURATIONS = st.lists(st.floats(0, 1e6), max_size=300)


@pytest.mark.parametrize(
    ("n", "percent", "rank"),
    [(1, 50, 1), (2, 50, 1), (3, 50, 2), (19, 95, 19), (20, 95, 19), (21, 95, 20), (40, 95, 38),
     (99, 99, 99), (100, 99, 99), (101, 99, 100), (100, 7, 7), (1000, 100, 1000)],
)  # fmt: skip
def test_the_rank_is_the_definitions(n: int, percent: int, rank: int) -> None:
    assert nearest_rank([float(i) for i in range(1, n + 1)], percent) == rank


@given(DURATIONS.filter(bool), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(found: list[float], p: int) -> None:
    value = nearest_rank(sorted(found), p)
    assert value in found
    assert sum(v <= value for v in found) * 100 >= p * len(found)
    below = [v for v in found if v < value]
    assert not below or sum(v <= max(below) for v in found) * 100 < p * len(found)


@given(DURATIONS)
def test_percentiles_rise_and_come_with_their_n(found: list[float]) -> None:
    seconds = Seconds.of(found)
    assert seconds.n == len(found)
    if found:
        assert min(found) <= seconds.p50 <= seconds.p95 <= seconds.p99 <= max(found)
    else:
        assert (seconds.p50, seconds.p95, seconds.p99) == (None, None, None)


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_there_is_no_such_percentile(percent: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        nearest_rank([1.0], percent)


def test_elapsed_is_a_share_whatever_the_clock_says() -> None:
    since = datetime(2026, 11, 1, tzinfo=UTC)
    until = since + timedelta(days=10)
    assert elapsed(since, until, since + timedelta(days=4)) == 0.4
    assert elapsed(since, until, since - timedelta(days=400)) == 0.0
    assert elapsed(since, until, until + timedelta(days=400)) == 1.0
    assert elapsed(since, since, since) == 1.0


def test_a_projection_is_spent_over_the_elapsed_share() -> None:
    assert project(3_000, 0.5, 10) == (6_000, "")
    assert project(0, 0.5, 0) == (0, "")
    assert project(7, 1.0, 10) == (7, "")


def test_a_projection_that_rests_on_little_says_so() -> None:
    assert project(1_000, 0.0, 1) == (None, "the window has only begun")
    amount, warning = project(1_000, 0.05, 100)
    assert amount == 20_000 and warning == "only 5.0% of the window is over"
    assert project(1_000, 0.5, 1)[1] == "rests on 1 charge"
    assert project(1_000, 0.5, 4)[1] == "rests on 4 charges"
    assert project(1_000, 0.5, 5)[1] == ""


@given(st.integers(0, 10**18), st.floats(1e-6, 1), st.integers(0, 9))
def test_a_projection_is_never_below_what_is_spent(spent: int, share: float, charges: int) -> None:
    amount, _ = project(spent, share, charges)
    assert amount is not None and amount >= spent
    assert math.isclose(amount, spent / share, rel_tol=1e-9, abs_tol=1)


def test_a_mean_is_whole_nano_dollars_and_none_of_none() -> None:
    assert mean(10, 4) == 2 and mean(10, 4, per=1000) == 2500 and mean(5, 0) is None
    # beyond what a float holds
    assert mean(9_007_199_254_740_993, 1) == 9_007_199_254_740_993
