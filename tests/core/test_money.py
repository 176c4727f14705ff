"""Money is exact: integers in, integers out, rounded up once and never down."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.money import NANO, Basis, Cost, NanoUSD, Rate, dollars, from_dollars

AMOUNTS = st.integers(0, 10**15)
SECONDS = st.floats(0, 1e8)


def rate(nano_per_hour: int) -> Rate:
    return Rate(NanoUSD(nano_per_hour), date(2026, 11, 23), "test")


@given(st.integers(-(10**18), 10**18))
def test_dollars_written_with_nine_places_come_back_exactly(nano: int) -> None:
    assert from_dollars(str(Decimal(nano).scaleb(-9))) == nano


@pytest.mark.parametrize("text", ["0.1234567891", "1e-10", "nan", "inf", "-inf", "", "a", "1,5", "0x1"])
def test_what_is_no_whole_number_of_nano_dollars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nano-dollars|dollar amount"):
        from_dollars(text)


@given(AMOUNTS, SECONDS)
def test_a_cost_is_the_smallest_integer_not_below_the_exact_one(per_hour: int, seconds: float) -> None:
    """Up to the rounding of one float product, which is at most one part in 2**52 twice."""
    exact = Fraction(per_hour) * Fraction(seconds) / 3600
    cost = rate(per_hour).cost(seconds)
    slack = exact * Fraction(3, 2**52)
    assert exact - slack <= cost < exact + 1 + slack
    assert isinstance(cost, int)


@given(AMOUNTS, SECONDS, SECONDS)
def test_longer_never_costs_less_and_parts_never_less_than_the_whole(
    per_hour: int, a: float, b: float
) -> None:
    r = rate(per_hour)
    low, high = sorted((a, b))
    assert r.cost(low) <= r.cost(high)
    together = r.cost(a + b)
    assert r.cost(a) + r.cost(b) >= together - math.ceil(together / 2**51)


def test_five_milliseconds_of_a_t4_are_not_nothing() -> None:
    assert rate(from_dollars("0.16")).cost(0.005) == 223  # 222.2 rounded up


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_no_cost_of_what_is_no_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        rate(1).cost(seconds)


def test_a_rate_needs_a_source_and_is_not_negative() -> None:
    with pytest.raises(ValueError, match="source"):
        Rate(NanoUSD(1), date(2026, 1, 1), "")
    with pytest.raises(ValueError, match="negative"):
        rate(-1)
    assert rate(0).free
    assert not rate(1).free


@given(st.integers(1, NANO // 100 - 1))
def test_small_amounts_are_shown_exactly(nano: int) -> None:
    assert Decimal(dollars(NanoUSD(nano)).removeprefix("$")) * NANO == nano
    assert dollars(NanoUSD(-nano)) == "-" + dollars(NanoUSD(nano))


def test_amounts_say_their_basis_and_zero_is_just_zero() -> None:
    assert str(Cost()) == "$0"
    assert str(Cost(NanoUSD(1_500_000_000), Basis.BILLED)) == "$1.50 billed"
    assert str(Cost(NanoUSD(223))) == "$0.000000223 estimated"
