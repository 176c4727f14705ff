"""Retries and hedges stay a small share, whatever fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accel.routing.throttle import AGAIN_S, HEDGE_SHARE, MOST_HEDGES, TOKENS, Throttle


def test_no_retry_at_half_of_the_tokens_or_fewer() -> None:
    throttle = Throttle()
    for _ in range(4):
        throttle.told("a", False)
        assert throttle.refusal("a") is None
    throttle.told("a", False)
    assert throttle.refusal("a") == ("too many of its calls failed for another retry", None)
    assert throttle.refusal("b") is None
    throttle.told("a", True)
    assert throttle.refusal("a") is None  # 5.1 tokens


def test_ten_successes_make_up_for_one_failure_and_no_more_are_saved() -> None:
    throttle = Throttle()
    for _ in range(1000):
        throttle.told("a", True)
    assert throttle.tokens("a") == TOKENS
    for _ in range(30):
        throttle.told("a", False)
    assert throttle.tokens("a") == 0.0
    for _ in range(50):
        throttle.told("a", True)
    assert throttle.refusal("a") is not None or throttle.tokens("a") > TOKENS / 2
    throttle.told("a", True)
    throttle.told("a", True)
    assert throttle.refusal("a") is None


def test_retries_in_flight_are_a_fifth_of_the_active_requests_or_three() -> None:
    throttle = Throttle()
    for _ in range(10):
        throttle.begin(live=False)
    throttle.retries = 2
    assert throttle.refusal("a") is None
    throttle.retries = 3
    assert throttle.refusal("a") == ("3 retries are under way already", AGAIN_S)
    for _ in range(10):
        throttle.begin(live=False)
    assert throttle.refusal("a") is None  # four of twenty
    throttle.retries = 4
    assert throttle.refusal("a") is not None
    for _ in range(20):
        throttle.end()
    assert throttle.active == 0


@given(st.lists(st.sampled_from(["live", "batch", "hedge"]), max_size=600))
def test_hedges_never_pass_five_per_cent_of_the_live_requests(steps: list[str]) -> None:
    throttle, live, hedges = Throttle(), 0, 0
    for step in steps:
        if step == "hedge":
            if throttle.can_hedge:
                throttle.hedged()
                hedges += 1
        else:
            throttle.begin(live=step == "live")
            live += step == "live"
        assert hedges <= HEDGE_SHARE * live + 1e-6


def test_batch_requests_earn_no_hedge() -> None:
    throttle = Throttle()
    for _ in range(100):
        throttle.begin(live=False)
    assert not throttle.can_hedge


def test_twenty_live_requests_earn_one_hedge_and_no_more_than_ten_are_saved() -> None:
    throttle = Throttle()
    for n in range(20):
        assert not throttle.can_hedge, n
        throttle.begin(live=True)
    assert throttle.can_hedge
    for _ in range(10_000):
        throttle.begin(live=True)
    spent = 0
    while throttle.can_hedge:
        throttle.hedged()
        spent += 1
    assert spent == MOST_HEDGES
