"""Estimates: a prior that grows with the work, replaced by what was measured, and chances from both."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routed import MEASURED, free_hours, offer, priced, task

from accel.core.attempt import Estimate, Timing
from accel.core.money import Cost
from accel.core.offer import CPU, Billing, Gpu
from accel.core.task import Size
from accel.routing import Measured, Standing
from accel.routing.estimate import (
    LOCAL_SPREAD,
    REMOTE_SPREAD,
    billed_s,
    chance,
    estimate,
    in_time,
    mean_factor,
)
from accel.routing.gpus import SHEETS, a100_class, sheet


def test_measured_attempts_replace_the_prior() -> None:
    done = Timing(1.0, 2.0, 3.0, 4.0)
    prior = estimate(task(), offer("kaggle", cold_s=9.0), Standing("kaggle"))
    assert prior.basis == "prior"
    assert prior.spread == REMOTE_SPREAD
    assert prior == estimate(task(), offer("kaggle", cold_s=9.0))
    assert estimate(task(), offer("local")).spread == LOCAL_SPREAD
    told = estimate(task(), offer("kaggle", cold_s=9.0), Standing("kaggle", measured=Measured(7, done, 0.3)))
    assert told == Estimate(done, Cost(), "measured n=7", 0.3, 1.0)


@pytest.mark.parametrize(
    ("now_s", "then_s", "expected_s"), [(0.0, 7.0, 0.0), (9.0, 7.0, 7.0), (9.0, 0.0, 9.0), (0.0, 0.0, 0.0)]
)
def test_warm_or_cold_is_known_better_now_than_then(now_s: float, then_s: float, expected_s: float) -> None:
    """Most calls are warm, and measure no cold start; an offer that is cold now has one all the same."""
    known = Standing("kaggle", measured=Measured(7, Timing(cold_s=then_s, compute_s=1.0), 0.3))
    assert estimate(task(), offer("kaggle", cold_s=now_s), known).timing.cold_s == expected_s


@given(queue_s=st.floats(0, 1e4), measured=st.none() | MEASURED)
def test_our_own_queue_there_is_waited_for_and_not_billed(queue_s: float, measured: Measured | None) -> None:
    paid = priced("vast", "T4", "0.35")
    free = estimate(task(), paid, Standing("vast", measured=measured))
    busy = estimate(task(), paid, Standing("vast", queue_s=queue_s, measured=measured))
    assert busy.timing.wait_s == pytest.approx(free.timing.wait_s + queue_s)
    assert busy.cost == free.cost
    assert replace(busy.timing, wait_s=0.0) == replace(free.timing, wait_s=0.0)


def test_only_seconds_are_billed_and_not_those_of_waiting() -> None:
    paid = priced("vast", "T4", "3600", wait_s=100.0, cold_s=2.0)
    expected = estimate(task(), paid)
    assert expected.cost.amount == paid.rate.cost(billed_s(expected.timing))
    assert 2.05 < billed_s(expected.timing) < 2.1
    own = replace(paid, billing=Billing.NOTHING)
    assert estimate(task(), own).cost == estimate(task(), free_hours("kaggle")).cost == Cost()


@pytest.mark.parametrize(("said", "taken"), [(0.4, 0.4), (1.7, 1.0), (-1.0, 0.0), (math.nan, 0.0)])
def test_success_is_a_share(said: float, taken: float) -> None:
    assert estimate(task(), offer("vast"), Standing("vast", success=said)).success == taken


@given(st.integers(0, 10**8), st.integers(0, 10**8))
def test_more_work_is_never_expected_to_take_less(a: int, b: int) -> None:
    low, high = sorted((a, b))

    def seconds(size: Size, name: str) -> float:
        gpu = CPU if name == "cpu" else Gpu(name, 1, 16 << 30, 75)
        return estimate(task(size=size), offer("x", gpu=gpu, seconds_per_byte=1e-9)).timing.total_s

    for name in ("cpu", "T4", "B200", "some GPU nobody knows"):
        assert seconds(Size(1, tokens=low), name) <= seconds(Size(1, tokens=high), name)
        assert seconds(Size(1, read_bytes=low), name) <= seconds(Size(1, read_bytes=high), name)
        assert seconds(Size(1, bytes=low), name) <= seconds(Size(1, bytes=high), name)


SECONDS, SPREADS = st.floats(1e-6, 1e6), st.floats(0, 5)


@given(seconds=SECONDS, spread=SPREADS, a=SECONDS, b=SECONDS)
def test_more_time_is_never_a_smaller_chance(seconds: float, spread: float, a: float, b: float) -> None:
    less, more = sorted((a, b))
    assert 0.0 <= in_time(seconds, spread, less) <= in_time(seconds, spread, more) <= 1.0


def test_the_chance_is_that_of_a_log_normal() -> None:
    chosen = random.Random(1)
    drawn = [chosen.lognormvariate(math.log(2.0), 0.5) for _ in range(20_000)]
    for within_s in (1.0, 2.0, 3.0, 5.0):
        share = sum(d <= within_s for d in drawn) / len(drawn)
        assert in_time(2.0, 0.5, within_s) == pytest.approx(share, abs=0.01)
    assert mean_factor(0.5) * 2.0 == pytest.approx(sum(drawn) / len(drawn), rel=0.01)
    assert in_time(2.0, 0.5, 2.0) == 0.5
    expected = Estimate(Timing(compute_s=2.0), Cost(), "prior", 0.5, 0.8)
    assert chance(expected, 2.0) == pytest.approx(0.4)
    assert chance(expected, None) == 0.8


def test_without_spread_or_time_the_chance_is_all_or_nothing() -> None:
    assert in_time(1.0, 0.0, 1.0) == 1.0
    assert in_time(1.0, 0.0, 0.999) == 0.0
    assert in_time(1.0, math.nan, 0.999) == 0.0
    assert in_time(0.0, 0.5, 0.001) == 1.0
    assert in_time(1e9, 9.0, None) == 1.0
    assert mean_factor(1e9) == mean_factor(2.0)


@pytest.mark.parametrize(
    ("driver", "name"),
    [("Tesla T4", "T4"), ("NVIDIA L4", "L4"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H200", "H200"),
     ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA B200", "B200"), ("cpu", None), ("Tesla T40", None)],
)  # fmt: skip
def test_the_data_sheet_is_found_by_whole_words(driver: str, name: str | None) -> None:
    assert sheet(driver) is (SHEETS[name] if name else None)


def test_which_gpus_are_of_the_a100s_class() -> None:
    large = {name for name in SHEETS if a100_class(f"NVIDIA {name}")}
    assert large == {"A100", "H100", "H200", "B200"}
    assert not a100_class("some GPU nobody knows")
