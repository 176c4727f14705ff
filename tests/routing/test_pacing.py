"""Prices of scarce things: nothing while they last, never falling with use, never rising with time."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accel.core.funds import Window
from accel.core.task import Lane
from accel.routing.pacing import (
    DEFAULT_PER_S,
    FULL_LEAD,
    HEAD_START,
    MOST_LAMBDA,
    budget_price,
    lead,
    quota_price,
)

SHARES = st.floats(-0.5, 2.0)
ANY = st.floats(allow_nan=True, allow_infinity=True)
PRICES = st.floats(1e-9, 0.01)
LANES = st.sampled_from(Lane)


@given(used=SHARES, elapsed=st.floats(0, 1))
def test_what_is_behind_its_time_has_no_price(used: float, elapsed: float) -> None:
    window = Window("w", min(used, elapsed), elapsed)
    assert budget_price(window) == quota_price(window, Lane.LIVE, 1.0) == 0.0


@given(a=SHARES, b=SHARES, elapsed=SHARES, price=PRICES, lane=LANES)
def test_more_used_is_never_cheaper(a: float, b: float, elapsed: float, price: float, lane: Lane) -> None:
    less, more = (Window("w", used, elapsed) for used in sorted((a, b)))
    assert budget_price(less) <= budget_price(more)
    assert quota_price(less, lane, price) <= quota_price(more, lane, price)


@given(a=SHARES, b=SHARES, used=SHARES, price=PRICES, lane=LANES)
def test_time_that_passes_never_makes_it_dearer(
    a: float, b: float, used: float, price: float, lane: Lane
) -> None:
    early, late = (Window("w", used, elapsed) for elapsed in sorted((a, b)))
    assert budget_price(early) >= budget_price(late)
    assert quota_price(early, lane, price) >= quota_price(late, lane, price)


@given(used=ANY, elapsed=ANY, price=PRICES, lane=LANES)
@example(used=math.nan, elapsed=0.5, price=0.001, lane=Lane.LIVE)
@example(used=0.5, elapsed=math.nan, price=0.001, lane=Lane.LIVE)
@example(used=math.inf, elapsed=math.inf, price=0.001, lane=Lane.LIVE)
def test_no_clock_and_no_share_gives_a_price_that_cannot_be(
    used: float, elapsed: float, price: float, lane: Lane
) -> None:
    window = Window("w", used, elapsed)
    assert 0.0 <= lead(window) <= 1.0
    assert 0.0 <= budget_price(window) <= MOST_LAMBDA
    assert 0.0 <= quota_price(window, lane, price) <= price


@given(used=st.floats(0, 1, exclude_max=True), elapsed=SHARES, price=PRICES)
def test_batch_work_pays_nothing_while_any_quota_is_left(used: float, elapsed: float, price: float) -> None:
    assert quota_price(Window("w", used, elapsed), Lane.BATCH, price) == 0.0


def test_what_is_used_up_costs_the_most() -> None:
    for elapsed in (0.0, 0.5, 0.999):
        assert budget_price(Window("w", 1.0, elapsed)) == MOST_LAMBDA
        assert quota_price(Window("w", 1.0, elapsed), Lane.BATCH, 0.5) == 0.5
    # a limit that is just reached as its window ends was paced well
    assert budget_price(Window("w", 1.0, 1.0)) == 0.0
    assert budget_price(Window("w", 1.1, 1.0)) == MOST_LAMBDA


def test_what_cannot_be_counts_as_the_nearest_that_can() -> None:
    assert lead(Window("w", math.nan, 0.5)) == lead(Window("w", math.inf, 0.5)) == 1.0
    assert lead(Window("w", -math.inf, 0.5)) == lead(Window("w", 0.5, math.inf)) == 0.0
    assert lead(Window("w", 0.5, math.nan)) == lead(Window("w", 0.5, -3.0)) == 0.5


def test_live_work_has_a_head_start_and_then_pays_up_to_the_whole_price() -> None:
    for elapsed in (0.0, 0.5):

        def price(ahead: float, elapsed: float = elapsed) -> float:
            return quota_price(Window("q", elapsed + ahead * (1 - elapsed), elapsed), Lane.LIVE, 1.0)

        assert price(HEAD_START - 0.001) == 0.0
        assert price((HEAD_START + FULL_LEAD) / 2) == pytest.approx(0.5)
        assert price(FULL_LEAD) == pytest.approx(1.0)
        assert price(0.9) == 1.0


def test_the_first_dollar_of_a_month_is_hardly_dearer() -> None:
    """Used over elapsed would be 100 here."""
    assert budget_price(Window("all:month", 0.01, 0.0001)) == pytest.approx(0.05, rel=0.02)


def test_without_a_window_nothing_has_a_price_and_without_a_price_the_guides_holds() -> None:
    assert budget_price(None) == quota_price(None, Lane.LIVE, 1.0) == 0.0
    assert quota_price(Window("q", 1.0, 0.5), Lane.LIVE, None) == DEFAULT_PER_S
    assert math.isclose(DEFAULT_PER_S * 3600, 0.16)
