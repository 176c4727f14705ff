"""The cascade ends once: one answer, or one error with every try. On virtual time, so exactly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core.attempt import Attempt, Estimate, Outcome, Route, Scored, Timing
from accel.core.errors import (
    AccelError,
    BadOutput,
    EveryAttemptFailed,
    NoCapacity,
    Preempted,
    ProviderError,
    QueryError,
    RateLimited,
    Unauthorised,
    Unreachable,
)
from accel.core.money import ZERO, Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Offer, Realm
from accel.core.runtime import Runtime
from accel.routing import Tried, cascade
from accel.routing.cascade import LONGEST_ASKED_S, LONGEST_PAUSE_S, MAX_ATTEMPTS
from accel.simulation import run_virtual

RATE = Rate(ZERO, date(2026, 11, 23), "test")
PASSING = (Unreachable, RateLimited)
FINAL = (NoCapacity, Unauthorised, Preempted, BadOutput)


@dataclass
class Script:
    """What each provider does on its n-th call: ("ok" | error class | "crash" | "hang", seconds, asked)."""

    steps: dict[str, list[tuple[object, float, float | None]]]


def route(names: Sequence[str], expected_s: dict[str, float] | None = None) -> Route:
    def scored(name: str) -> Scored:
        offer = Offer(f"{name}-1", name, Realm.SIMULATED, CPU, RATE, datetime(2026, 1, 1, tzinfo=UTC), "test")
        seconds = (expected_s or {}).get(name, 0.1)
        return Scored(offer, Estimate(Timing(compute_s=seconds), Cost(), "prior"), 0.0)

    return Route("t", tuple(scored(n) for n in names))


@dataclass
class Ran:
    """How one cascade ended, in virtual seconds."""

    output: str | None
    error: AccelError | None
    told: list[Attempt]
    calls: list[tuple[str, float]]
    took_s: float


def play(
    names: Sequence[str], steps: dict[str, list[tuple[object, float, float | None]]], *,
    within_s: float | None = None, expected_s: dict[str, float] | None = None, seed: int = 1,
) -> Ran:  # fmt: skip
    async def main() -> Ran:
        clock = asyncio.get_running_loop().time
        told: list[Attempt] = []
        calls: list[tuple[str, float]] = []
        left = {name: list(todo) for name, todo in steps.items()}

        async def attempt(scored: Scored) -> Tried[str]:
            name = scored.offer.provider
            calls.append((name, clock()))
            what, seconds, asked = left[name].pop(0) if left.get(name) else ("ok", 0.1, None)
            await asyncio.sleep(1e9 if what == "hang" else seconds)
            if what == "crash":
                raise KeyError("a bug of ours")
            if isinstance(what, type) and issubclass(what, ProviderError):
                raise what("scripted", provider=name, retry_after_s=asked)
            if isinstance(what, type):
                raise what("scripted")
            return Tried(f"from {name}", Timing(compute_s=seconds), Cost(NanoUSD(5), Basis.ESTIMATED))

        output, error = None, None
        try:
            output, attempts = await cascade(
                route(names, expected_s), attempt, Runtime.virtual(seed), within_s=within_s,
                on_attempt=told.append,
            )  # fmt: skip
            assert list(attempts) == told
        except AccelError as failed:
            error = failed
        return Ran(output, error, told, calls, clock())

    return run_virtual(main())


STEP = st.tuples(
    st.sampled_from(["ok", "crash", "hang", *PASSING, *FINAL]), st.floats(0, 5), st.none() | st.floats(0, 60)
)
ROUTES = st.lists(st.sampled_from(["local", "a", "b", "c"]), max_size=4, unique=True)


@settings(max_examples=300)
@given(
    names=ROUTES,
    steps=st.dictionaries(st.sampled_from(["local", "a", "b", "c"]), st.lists(STEP, max_size=3)),
    within_s=st.floats(0.01, 30), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_cascade_ends_once_in_time_with_every_try_told(
    names: list[str], steps: dict[str, list[tuple[object, float, float | None]]], within_s: float, seed: int
) -> None:
    ran = play(names, steps, within_s=within_s, seed=seed)
    assert ran.took_s <= within_s + 1e-6
    assert len(ran.calls) == len(ran.told) <= MAX_ATTEMPTS
    assert [a.provider for a in ran.told] == [name for name, _ in ran.calls]
    assert len({a.id for a in ran.told}) == len(ran.told)
    if ran.output is not None:
        assert [a.outcome for a in ran.told].count(Outcome.OK) == 1
        assert ran.told[-1].outcome is Outcome.OK
        assert ran.output == f"from {ran.told[-1].provider}"
    else:
        assert isinstance(ran.error, EveryAttemptFailed)
        assert list(ran.error.attempts) == ran.told
        assert all(a.outcome is Outcome.FAILED and a.error for a in ran.told)
    # nobody is tried again before everybody had a turn, but for the last try, which is this machine's
    first_round = [name for name, _ in ran.calls][: len(names)]
    assert len(set(first_round)) == len(first_round)


@given(names=ROUTES.filter(lambda n: "local" in n), what=st.sampled_from([*PASSING, *FINAL, "crash"]))
def test_this_machine_always_gets_a_try(names: list[str], what: object) -> None:
    ran = play(names, {n: [(what, 0.1, None)] * 3 for n in names if n != "local"}, within_s=100)
    assert ran.output == "from local"


@given(ROUTES, st.sampled_from([*PASSING, *FINAL, "crash"]))
def test_when_all_fail_the_error_lists_each_with_class_and_milliseconds(
    names: list[str], what: object
) -> None:
    ran = play(names, {n: [(what, 0.25, None)] * 3 for n in names}, within_s=100)
    assert isinstance(ran.error, EveryAttemptFailed)
    kind = what.__name__ if isinstance(what, type) else "KeyError"
    for attempt in ran.told:
        assert attempt.error == kind
        assert f"{attempt.provider} {kind} after 250 ms" in str(ran.error)
    passing = what in PASSING
    assert len(ran.told) == (min(MAX_ATTEMPTS, len(names)) if not passing else MAX_ATTEMPTS if names else 0)


def test_a_refusal_that_will_not_pass_is_not_repeated() -> None:
    ran = play(["a"], {"a": [(Unauthorised, 0.1, None)] * 3})
    assert [n for n, _ in ran.calls] == ["a"]


def test_another_provider_comes_before_the_same_one_again() -> None:
    ran = play(["a", "b"], {"a": [(Unreachable, 0.1, None)] * 3, "b": [(Unreachable, 0.1, None)] * 3})
    assert [n for n, _ in ran.calls] == ["a", "b", "a"]


def test_retry_after_is_honoured_also_when_others_were_tried_between() -> None:
    ran = play(["a", "b"], {"a": [(RateLimited, 1.0, 7.0)], "b": [(NoCapacity, 1.0, None)]})
    assert ran.calls == [("a", 0.0), ("b", pytest.approx(1.0)), ("a", pytest.approx(8.0))]
    assert ran.output == "from a"


def test_who_asks_for_more_than_there_is_loses_its_turn_at_once() -> None:
    """No request sleeps through its deadline, or for an hour without one, only to fail after it."""
    with_deadline = play(["a"], {"a": [(RateLimited, 1.0, 20.0)]}, within_s=10)
    without = play(["a"], {"a": [(RateLimited, 1.0, LONGEST_ASKED_S + 1)]})
    for ran in (with_deadline, without):
        assert isinstance(ran.error, EveryAttemptFailed)
        assert ran.took_s == pytest.approx(1.0)


@given(st.integers(0, 1000))
def test_pauses_at_the_same_provider_are_jittered_and_bounded(seed: int) -> None:
    ran = play(["a"], {"a": [(Unreachable, 0.0, None)] * 3}, seed=seed)
    gaps = [b - a for (_, a), (_, b) in zip(ran.calls, ran.calls[1:], strict=False)]
    assert len(gaps) == MAX_ATTEMPTS - 1
    assert all(0 <= gap <= LONGEST_PAUSE_S for gap in gaps)


def test_a_hang_leaves_the_next_offer_its_time() -> None:
    ran = play(["a", "local"], {"a": [("hang", 0, None)], "local": [("ok", 3.0, None)]},
               within_s=10, expected_s={"local": 4.0})  # fmt: skip
    assert ran.output == "from local"
    assert [(a.provider, a.error) for a in ran.told] == [("a", "TimedOut"), ("local", "")]
    assert ran.calls[1][1] == pytest.approx(6.0)


def test_a_try_gets_at_least_half_and_all_of_it_where_nobody_else_could_make_it() -> None:
    half = play(["a", "local"], {"a": [("hang", 0, None)]}, within_s=10, expected_s={"local": 9.0})
    assert half.calls[1][1] == pytest.approx(5.0)
    whole = play(["a", "local"], {"a": [("ok", 9.0, None)]}, within_s=10, expected_s={"local": 99.0})
    assert whole.output == "from a"


def test_the_deadline_spans_the_whole_cascade() -> None:
    ran = play(["a", "b", "local"], {n: [("hang", 0, None)] for n in ("a", "b", "local")}, within_s=8)
    assert isinstance(ran.error, EveryAttemptFailed)
    assert "deadline" in str(ran.error)
    assert ran.took_s == pytest.approx(8.0)


def test_a_mistake_in_the_question_is_not_tried_elsewhere() -> None:
    ran = play(["a", "b"], {"a": [(QueryError, 0.1, None)]})
    assert isinstance(ran.error, QueryError)
    assert [(a.provider, a.error) for a in ran.told] == [("a", "QueryError")]


def test_a_cancelled_request_is_told_and_stays_cancelled() -> None:
    async def main() -> list[Attempt]:
        told: list[Attempt] = []

        async def attempt(scored: Scored) -> Tried[str]:
            await asyncio.sleep(1e6)
            raise AssertionError("not reached")

        running = asyncio.ensure_future(
            cascade(route(["a", "local"]), attempt, Runtime.virtual(1), on_attempt=told.append)
        )
        await asyncio.sleep(5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return told

    (attempt,) = run_virtual(main())
    assert (attempt.provider, attempt.outcome) == ("a", Outcome.CANCELLED)
    assert attempt.timing.wait_s == pytest.approx(5.0)


def test_no_offer_at_all_says_who_refused() -> None:
    ran = play([], {})
    assert isinstance(ran.error, EveryAttemptFailed)
    assert "no offer" in str(ran.error)
    assert ran.told == []


def test_tries_are_in_the_order_of_the_route() -> None:
    failing = {n: [(NoCapacity, 0.1, None)] for n in "abc"}
    ran = play(["b", "c", "a"], failing)
    assert [name for name, _ in groupby(n for n, _ in ran.calls)] == ["b", "c", "a"]
