"""The breaker: open means nothing, half-open means one, and what is late does not count."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from accel.routing.breaker import (
    CONSECUTIVE,
    FAILURE,
    JITTER,
    LONGEST_OPEN_S,
    OPEN_S,
    SILENCE,
    SUCCESS,
    SUCCESSES,
    WINDOW_CALLS,
    WINDOW_S,
    Breaker,
    Phase,
)


def breaker(seed: int = 1) -> Breaker:
    return Breaker(random.Random(seed))


def result(b: Breaker, now: float, weight: int | None) -> None:
    assert b.refusal(now) is None
    b.end(b.begin(now), now, weight)


def opened(seed: int = 1) -> Breaker:
    b = breaker(seed)
    for _ in range(3):
        result(b, 0.0, SILENCE)
    return b


def test_five_failures_in_a_row_open_and_four_do_not() -> None:
    b = breaker()
    for n in range(CONSECUTIVE):
        assert b.phase is Phase.CLOSED, n
        result(b, float(n), FAILURE)
    assert b.phase is Phase.OPEN
    refusal = b.refusal(10.0)
    assert refusal is not None and "breaker" in refusal[0]


def test_three_silences_open_and_two_do_not() -> None:
    b = breaker()
    result(b, 0.0, SILENCE)
    result(b, 1.0, SILENCE)
    assert b.phase is Phase.CLOSED
    result(b, 2.0, SILENCE)
    assert b.phase is Phase.OPEN


def test_a_success_between_begins_the_row_again() -> None:
    b = breaker()
    # 40 s apart, so that the window never holds ten
    for n in range(20):
        result(b, n * 40.0, SUCCESS if n % 5 == 4 else FAILURE)
    assert b.phase is Phase.CLOSED


def test_half_of_ten_within_the_window_open() -> None:
    b = breaker()
    for n in range(WINDOW_CALLS - 1):
        result(b, n * 1.0, FAILURE if n % 2 else SUCCESS)
    assert b.phase is Phase.CLOSED  # nine results, four of them failures
    result(b, 9.0, FAILURE)
    assert b.phase is Phase.OPEN


def test_what_left_the_window_does_not_count() -> None:
    b = breaker()
    for n in range(WINDOW_CALLS - 1):
        result(b, n * 1.0, FAILURE if n % 2 else SUCCESS)
    result(b, 9.0 + WINDOW_S, FAILURE)
    assert b.phase is Phase.CLOSED


def test_fewer_than_half_never_open() -> None:
    b = breaker()
    for n in range(300):
        result(b, n * 0.1, SUCCESS if n % 5 in (0, 2, 4) else FAILURE)
    assert b.phase is Phase.CLOSED


@given(st.integers(0, 10_000))
def test_open_lasts_thirty_seconds_times_how_often_in_a_row_with_jitter_and_a_cap(seed: int) -> None:
    b, now = opened(seed), 0.0
    for n in range(1, 14):
        refusal = b.refusal(now)
        assert refusal is not None
        nominal = min(LONGEST_OPEN_S, OPEN_S * n)
        assert nominal * (1 - JITTER) - 1e-6 <= refusal[1] <= nominal * (1 + JITTER) + 1e-6
        assert b.refusal(now + refusal[1] * 0.999) is not None
        now += refusal[1] + 1e-6
        result(b, now, FAILURE)  # one failed probe is enough


def test_jitter_differs_between_processes() -> None:
    assert len({round(opened(seed).refusal(0.0)[1], 3) for seed in range(20)}) > 10  # type: ignore[index]


def test_two_successful_probes_close_and_the_count_of_openings_begins_again() -> None:
    b = opened()
    now = b.refusal(0.0)[1] + 0.1  # type: ignore[index]
    result(b, now, FAILURE)
    now += b.refusal(now)[1] + 0.1  # type: ignore[index]
    for n in range(SUCCESSES):
        assert b.phase is not Phase.CLOSED, n
        result(b, now, SUCCESS)
    assert b.phase is Phase.CLOSED
    for _ in range(3):
        result(b, now, SILENCE)
    assert b.refusal(now)[1] <= OPEN_S * (1 + JITTER)  # type: ignore[index]


def test_a_probe_that_says_nothing_gives_its_place_back() -> None:
    b = opened()
    result(b, 40.0, None)
    assert b.phase is Phase.HALF_OPEN
    assert b.refusal(40.0) is None


def test_a_late_success_does_not_close_and_a_late_failure_does_not_open() -> None:
    b = breaker()
    early = [b.begin(0.0) for _ in range(8)]
    for generation in early[:3]:
        b.end(generation, 1.0, SILENCE)
    assert b.phase is Phase.OPEN
    until = b.refusal(1.0)[1]  # type: ignore[index]
    b.end(early[3], 2.0, SUCCESS)
    assert b.phase is Phase.OPEN
    now = 1.0 + until + 0.1
    probe = b.begin(now)
    b.end(early[4], now, SUCCESS)
    b.end(early[5], now, FAILURE)
    assert b.phase is Phase.HALF_OPEN
    assert b.refusal(now) is not None, "a late result gave the probe's place away"
    b.end(probe, now, SUCCESS)
    result(b, now, SUCCESS)
    assert b.phase is Phase.CLOSED
    b.end(early[6], now, SILENCE)
    b.end(early[7], now, SILENCE)
    result(b, now, SILENCE)
    assert b.phase is Phase.CLOSED


def test_tripping_opens_for_just_that_long_and_never_shortens() -> None:
    b = breaker()
    b.trip(0.0, 900.0)
    assert b.refusal(0.0)[1] == pytest.approx(900.0)  # type: ignore[index]
    b.trip(10.0, 5.0)
    assert b.refusal(10.0)[1] == pytest.approx(890.0)  # type: ignore[index]
    assert b.refusal(900.0) is None


@given(st.lists(st.tuples(st.floats(0.1, 60), st.sampled_from([SUCCESS, FAILURE, SILENCE])), max_size=60))
def test_any_process_can_rebuild_it_from_what_was_recorded(steps: list[tuple[float, int]]) -> None:
    """Phase and times are the same fold, whether results came from calls of its own or from the ledger."""
    own, other, now = breaker(7), breaker(7), 0.0
    for gap, weight in steps:
        now += gap
        if own.refusal(now) is None:
            own.end(own.begin(now), now, weight)
            other.recall(now, now, weight)
        assert (own.phase, own.refusal(now)) == (other.phase, other.refusal(now))


def test_a_recalled_call_that_began_before_it_opened_is_ignored() -> None:
    b = opened()
    now = b.refusal(0.0)[1] + 1.0  # type: ignore[index]
    assert b.refusal(now) is None  # half-open
    b.recall(-1.0, now, SUCCESS)
    b.recall(-1.0, now, SUCCESS)
    assert b.phase is Phase.HALF_OPEN
    b.recall(now, now, SUCCESS)
    b.recall(now, now, SUCCESS)
    assert b.phase is Phase.CLOSED


class Machine(RuleBasedStateMachine):
    """Calls begin, end late and in any order; a model of the rules watches."""

    @initialize(seed=st.integers(0, 999))
    def start(self, seed: int) -> None:
        self.b, self.now = breaker(seed), 0.0
        self.flying: list[tuple[int, Phase]] = []

    @rule(gap=st.sampled_from([0.0, 0.5, 5.0, 29.0, 61.0, 400.0]))
    def wait(self, gap: float) -> None:
        self.now += gap
        if gap == 400.0 and self.b.phase is Phase.OPEN:  # longer than any open time
            assert self.b.refusal(self.now) is None

    @rule()
    def begin(self) -> None:
        refusal = self.b.refusal(self.now)
        if refusal is not None:
            assert refusal[1] > 0
            assert self.b.phase is not Phase.CLOSED
            return
        self.flying.append((self.b.begin(self.now), self.b.phase))
        assert self.b.phase is not Phase.OPEN

    @precondition(lambda self: bool(self.flying))
    @rule(data=st.data(), weight=st.sampled_from([None, SUCCESS, SUCCESS, FAILURE, SILENCE]))
    def end(self, data: st.DataObject, weight: int | None) -> None:
        generation, _ = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        before = (self.b.phase, self.b.generation)
        self.b.end(generation, self.now, weight)
        if generation != before[1]:
            assert (self.b.phase, self.b.generation) == before

    @invariant()
    def one_probe(self) -> None:
        if not hasattr(self, "b"):
            return
        probes = [g for g, phase in self.flying if phase is Phase.HALF_OPEN and g == self.b.generation]
        assert len(probes) <= 1
        if probes:
            assert self.b.refusal(self.now) is not None


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=40)
