"""The cascade ends once: one answer, or one error with every try. On virtual time, so exactly."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playing import NANO_PER_S, Ran, Scene, Step, measured, scored, task

from accel.core.attempt import Outcome, Route
from accel.core.errors import (
    BadOutput,
    EveryAttemptFailed,
    LedgerError,
    NoCapacity,
    OverBudget,
    Preempted,
    QueryError,
    QuotaExhausted,
    RateLimited,
    TimedOut,
    Unauthorised,
    Unreachable,
)
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.task import Spec, Stage
from accel.routing.cascade import MAX_ATTEMPTS, cascade
from accel.routing.health import FIRST_S, Health
from accel.routing.throttle import LEAST_RETRIES
from accel.routing.turns import LONGEST_ASKED_S, LONGEST_PAUSE_S
from accel.simulation import run_virtual

PASSING = (Unreachable, RateLimited)
FINAL = (NoCapacity, Unauthorised, Preempted, BadOutput)


def play(
    names: Sequence[str], steps: dict[str, list[Step]], *, within_s: float | None = None,
    expected_s: dict[str, float] | None = None, seed: int = 1,
) -> Ran:  # fmt: skip
    """One request; its books must balance."""

    async def main() -> Ran:
        scene = Scene({n: list(s) for n, s in steps.items()}, expected_s or {}, seed=seed)
        ran = await scene.ask(names, task(within_s=within_s))
        assert scene.books.balanced
        return ran

    return run_virtual(main())


STEP = st.tuples(
    st.sampled_from(["ok", "crash", "hang", "late", *PASSING, *FINAL]), st.floats(0, 5),
    st.none() | st.floats(0, 60),
)  # fmt: skip
NAMES = ["local", "a", "b", "c"]
ROUTES = st.lists(st.sampled_from(NAMES), max_size=4, unique=True)


@settings(max_examples=300)
@given(
    names=ROUTES, steps=st.dictionaries(st.sampled_from(NAMES), st.lists(STEP, max_size=3)),
    expected_s=st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 40)),
    refuse=st.sets(st.sampled_from(NAMES[1:]), max_size=2), within_s=st.floats(0.01, 30),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_cascade_ends_once_in_time_with_every_try_told(
    names: list[str], steps: dict[str, list[Step]], expected_s: dict[str, float], refuse: set[str],
    within_s: float, seed: int,
) -> None:  # fmt: skip
    async def main() -> tuple[Ran, Scene]:
        scene = Scene(
            {n: list(s) for n, s in steps.items()}, expected_s, {n: OverBudget("no") for n in refuse}, seed
        )
        return await scene.ask(names, task(within_s=within_s)), scene

    ran, scene = run_virtual(main())
    assert ran.took_s <= within_s + 1e-6
    assert scene.books.balanced
    sent = [a for a in ran.attempts if a.id in scene.books.opened]
    assert len(ran.calls) == len(sent) <= MAX_ATTEMPTS
    assert [a.provider for a in sent] == [name for name, _ in ran.calls]
    assert len({a.id for a in ran.attempts}) == len(ran.attempts)
    assert not any(name in refuse for name, _ in ran.calls)
    if ran.output is not None:
        assert [a.outcome for a in ran.attempts].count(Outcome.OK) == 1
        assert ran.attempts[-1].outcome is Outcome.OK
        assert ran.output == f"from {ran.attempts[-1].provider}"
    else:
        assert isinstance(ran.error, EveryAttemptFailed)
        assert all(a.outcome is Outcome.FAILED and a.error for a in ran.attempts)
        # whatever happened to the others, this machine had its turn, unless the time was over before
        if "local" in names and ran.took_s < within_s - 1e-6:
            assert "local" in [name for name, _ in ran.calls]
    # nobody is tried again before everybody had a turn, but for the last try, which is this machine's
    first_round = [name for name, _ in ran.calls][: len(set(names) - refuse)]
    assert len(set(first_round)) == len(first_round)


@given(names=ROUTES.filter(lambda n: "local" in n), what=st.sampled_from([*PASSING, *FINAL, "crash", "hang"]))
def test_this_machine_always_gets_a_try(names: list[str], what: object) -> None:
    steps: dict[str, list[Step]] = {n: [(what, 0.1, None)] * 3 for n in names if n != "local"}
    assert play(names, steps, within_s=100).output == "from local"
    assert play(names, steps).output == "from local"


@given(st.integers(1, 60))
def test_all_remote_down_is_this_machine_again_and_again(requests: int) -> None:
    """Breakers open, tokens run out, the retry budget is spent: none of that keeps it from its turn."""

    async def main() -> Scene:
        scene = Scene(does=lambda name, _: None if name == "local" else (Unreachable, 0.05, None))
        many = [scene.ask(["a", "b", "c", "local"], task(f"t{n}", within_s=10)) for n in range(requests)]
        for ran in await asyncio.gather(*many):
            assert ran.output == "from local"
        assert scene.books.balanced
        return scene

    run_virtual(main())


def test_in_a_total_outage_few_calls_go_to_the_wire() -> None:
    """At most 1.2 x the requests and three; then the breakers leave next to nothing."""

    async def main() -> int:
        scene = Scene(does=lambda *_: (Unreachable, 0.05, None))
        for n in range(100):
            ran = await scene.ask(["a", "b", "c"], task(f"t{n}", within_s=0.5))
            assert isinstance(ran.error, EveryAttemptFailed)
            await asyncio.sleep(0.5)
        return len(scene.calls)

    assert run_virtual(main()) <= 30


@given(ROUTES, st.sampled_from([*PASSING, *FINAL, "crash"]))
def test_when_all_fail_the_error_lists_each_with_class_and_milliseconds(
    names: list[str], what: object
) -> None:
    ran = play(names, {n: [(what, 0.25, None)] * 3 for n in names}, within_s=100)
    assert isinstance(ran.error, EveryAttemptFailed)
    kind = what.__name__ if isinstance(what, type) else "KeyError"
    for attempt in ran.attempts:
        assert attempt.error == kind
        assert f"{attempt.provider} {kind} after 250 ms" in str(ran.error)
    passing = what in PASSING
    assert len(ran.attempts) == (
        min(MAX_ATTEMPTS, len(names)) if not passing else MAX_ATTEMPTS if names else 0
    )


def test_a_refusal_that_will_not_pass_is_not_repeated() -> None:
    ran = play(["a"], {"a": [(Unauthorised, 0.1, None)] * 3})
    assert [n for n, _ in ran.calls] == ["a"]


def test_another_provider_comes_before_the_same_one_again() -> None:
    ran = play(["a", "b"], {"a": [(Unreachable, 0.1, None)] * 3, "b": [(Unreachable, 0.1, None)] * 3})
    assert [n for n, _ in ran.calls] == ["a", "b", "a"]


def test_also_before_another_offer_of_the_same_one() -> None:
    async def main() -> Ran:
        scene = Scene({"a": [(NoCapacity, 0.1, None)] * 3, "b": [(NoCapacity, 0.1, None)]})
        route = [scored("a", offer="a-t4"), scored("a", offer="a-l4"), scored("b")]
        return await scene.ask(route, task())

    assert [n for n, _ in run_virtual(main()).calls] == ["a", "b", "a"]


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
    ran = play(["a"], {"a": [(RateLimited, 0.0, None)] * 3}, seed=seed)
    gaps = [b - a for (_, a), (_, b) in zip(ran.calls, ran.calls[1:], strict=False)]
    assert len(gaps) == MAX_ATTEMPTS - 1
    assert all(0 <= gap <= LONGEST_PAUSE_S for gap in gaps)
    assert gaps[0] <= 0.1 + 1e-6


def test_tries_are_in_the_order_of_the_route() -> None:
    failing: dict[str, list[Step]] = {n: [(NoCapacity, 0.1, None)] for n in "abc"}
    ran = play(["b", "c", "a"], failing)
    assert [name for name, _ in groupby(n for n, _ in ran.calls)] == ["b", "c", "a"]


# Time ---------------------------------------------------------------------------------------------


def test_a_hang_leaves_the_next_offer_its_time() -> None:
    ran = play(["a", "local"], {"a": [("hang", 0, None)], "local": [("ok", 3.0, None)]},
               within_s=10, expected_s={"local": 4.0})  # fmt: skip
    assert ran.output == "from local"
    assert ran.tried == [("a", "TimedOut"), ("local", "ok")]
    assert ran.calls[1][1] == pytest.approx(5.0)


def test_two_hangs_still_leave_this_machine_a_turn() -> None:
    ran = play(["a", "b", "local"], {n: [("hang", 0, None)] for n in "ab"}, within_s=10,
               expected_s={"local": 3.0, "b": 0.1})  # fmt: skip
    assert ran.output == "from local"


def test_who_is_measured_leaves_the_rest_after_what_it_may_well_take() -> None:
    async def main(known: bool) -> Ran:
        scene = Scene({"a": [("late", 99.0, None)]}, {"local": 9.0, "a": 0.1})
        if known:
            measured(scene, "a", [0.1, 0.4, 0.7] * 5)  # patience is longer than the estimate's tail
        return await scene.ask(["a", "local"], task(within_s=10))

    assert run_virtual(main(False)).calls[1][1] == pytest.approx(5.0)
    assert run_virtual(main(True)).calls[1][1] == pytest.approx(0.1 * math.exp(3.09 * 0.5), rel=1e-3)


def test_a_try_that_needs_more_than_half_gets_its_proportional_part() -> None:
    ran = play(["a", "local"], {"a": [("ok", 6.9, None)]}, within_s=10, expected_s={"a": 7.0, "local": 3.0})
    assert ran.output == "from a"


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


def test_after_the_deadline_nothing_more_is_sent() -> None:
    ran = play(["a", "b"], {"a": [("hang", 0, None)]}, within_s=8, expected_s={"b": 99.0})
    assert ran.calls == [("a", 0.0)]
    assert "deadline" in str(ran.error)


def test_of_four_offers_the_shares_are_for_the_three_that_can_come() -> None:
    """Without its place in the sum, this machine would be left 1.8 s of the 5 s that it needs."""
    ran = play(
        ["a", "b", "c", "local"],
        {"a": [("hang", 0, None)], "b": [("hang", 0, None)], "local": [("ok", 4.9, None)]},
        within_s=15, expected_s={"local": 5.0},
    )  # fmt: skip
    assert ran.output == "from local"


def test_a_timeout_cut_short_by_the_deadline_does_not_count_as_silence() -> None:
    async def main() -> Scene:
        scene = Scene(does=lambda *_: ("hang", 0, None), expected_s={"a": 1.0})
        for n in range(4):
            await scene.ask(["a"], task(f"t{n}", within_s=2.0))  # the tail of its estimate is 4.7 s
        return scene

    scene = run_virtual(main())
    assert len(scene.calls) == 4
    assert scene.health.standing("a", task(), 8.0).blocked == ""


def test_the_wait_for_a_place_comes_out_of_the_share() -> None:
    async def main() -> float | None:
        scene = Scene({"a": [("ok", 2.0, None)] * 4})
        others = [asyncio.ensure_future(scene.ask(["a"], task(f"t{n}"))) for n in range(4)]
        await asyncio.sleep(0.0)
        await scene.ask(["a"], task(within_s=6))
        await asyncio.gather(*others)
        return list(scene.books.opened.values())[-1][1]

    assert run_virtual(main()) == pytest.approx(4.0)


def test_without_a_deadline_a_hang_still_ends_and_this_machine_takes_as_long_as_it_needs() -> None:
    ran = play(["a", "local"], {"a": [("hang", 0, None)], "local": [("ok", 5000.0, None)]})
    assert ran.output == "from local"
    assert ran.calls == [("a", 0.0), ("local", pytest.approx(FIRST_S))]


def test_a_provider_that_is_known_is_given_up_after_what_it_may_well_take() -> None:
    async def main() -> Ran:
        scene = Scene({"a": [("hang", 0, None)]})
        measured(scene, "a", [0.1] * 50)
        return await scene.ask(["a", "b"], task(within_s=10))

    ran = run_virtual(main())
    assert ran.output == "from b"
    assert ran.calls[1][1] == pytest.approx(0.2)


def test_an_answer_after_its_time_is_dropped_and_never_delivered() -> None:
    ran = play(["a", "local"], {"a": [("late", 99, None)]}, within_s=10, expected_s={"local": 4.0})
    assert ran.output == "from local"
    assert ran.tried == [("a", "TimedOut"), ("local", "ok")]


# Money and books ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OverBudget("the day"), LedgerError("locked"), RuntimeError("disk")])
def test_what_the_books_refuse_is_not_sent_and_is_told(error: Exception) -> None:
    async def main() -> tuple[Ran, Scene]:
        scene = Scene({n: [(NoCapacity, 0.1, None)] for n in "bcd"}, refuse={"a": error})
        return await scene.ask(["a", "b", "c", "d"], task()), scene

    ran, scene = run_virtual(main())
    assert [name for name, _ in ran.calls] == ["b", "c", "d"]  # it took none of the three
    first = ran.attempts[0]
    assert (first.provider, first.error, first.cost, first.timing.total_s) == (
        "a", type(error).__name__, Cost(), 0.0
    )  # fmt: skip
    assert scene.books.balanced and first.id not in scene.books.opened
    limiter = scene.health.limiter("a")
    assert limiter is not None and limiter.in_flight == 0
    assert scene.health.throttle.retries == 0


def test_the_bound_is_on_the_books_before_the_call() -> None:
    async def main() -> list[float | None]:
        scene = Scene(expected_s={"local": 4.0})
        await scene.ask(["a", "local"], task(within_s=10))
        await scene.ask(["a"], task())
        await scene.ask(["local"], task())
        return [bound for _, bound in scene.books.opened.values()]

    assert run_virtual(main()) == [pytest.approx(5.0), FIRST_S, None]


@pytest.mark.parametrize(
    ("what", "nano"),
    [
        (Unreachable, 2 * NANO_PER_S), (BadOutput, 2 * NANO_PER_S), ("crash", 2 * NANO_PER_S),
        (RateLimited, 0), (NoCapacity, 0), (QuotaExhausted("no", provider="a"), 0),
    ],
)  # fmt: skip
def test_a_failed_call_costs_its_seconds_if_it_may_have_run(what: object, nano: int) -> None:
    ran = play(["a", "local"], {"a": [(what, 2.0, 99.0)]})
    assert ran.attempts[0].cost == Cost(NanoUSD(nano), Basis.ESTIMATED)
    assert ran.attempts[0].timing.total_s == pytest.approx(2.0)


def test_what_the_provider_says_it_billed_counts() -> None:
    error = Preempted("gone", provider="a")
    error.billed = Cost(NanoUSD(77), Basis.BILLED)
    ran = play(["a", "local"], {"a": [(error, 2.0, None)]})
    assert ran.attempts[0].cost == Cost(NanoUSD(77), Basis.BILLED)


def test_the_wait_for_a_place_is_told_and_not_paid() -> None:
    async def main() -> list[Ran]:
        scene = Scene({"a": [("ok", 2.0, None)] * 4 + [(BadOutput, 1.0, None)]})
        return await asyncio.gather(*(scene.ask(["a"], task(f"t{n}")) for n in range(5)))

    *_, last = run_virtual(main())
    (attempt,) = last.attempts
    assert attempt.timing.wait_s == pytest.approx(3.0)  # 2 s for a place, 1 s until it failed
    assert attempt.cost.amount == NANO_PER_S


def test_the_wait_for_a_place_is_told_of_an_answer_too_but_is_not_measured() -> None:
    async def main() -> tuple[list[Ran], Scene]:
        scene = Scene(after=2.0)
        return await asyncio.gather(*(scene.ask(["a"], task(f"t{n}")) for n in range(5))), scene

    ran, scene = run_virtual(main())
    assert ran[-1].attempts[0].timing.wait_s == pytest.approx(2.0)
    assert ran[-1].attempts[0].timing.total_s == pytest.approx(4.0)
    # our own queue is told apart (Standing.queue_s), and would count twice
    expected = 2.0 * math.exp(3.09 * math.sqrt(4 * 0.5**2 / (4 + 5 - 1)))  # five equal samples and the prior
    assert scene.health.patience_s(scored("a"), task()) == pytest.approx(expected, rel=0.01)


def test_without_a_free_place_in_time_it_goes_on_and_says_so() -> None:
    async def main() -> Ran:
        scene = Scene({"a": [("ok", 60.0, None)] * 4}, expected_s={"local": 4.0, "a": 1.0})
        others = [asyncio.ensure_future(scene.ask(["a"], task(f"t{n}"))) for n in range(4)]
        await asyncio.sleep(0.1)
        assert not any(o.done() for o in others)
        return await scene.ask(["a", "local"], task(within_s=10))

    ran = run_virtual(main())
    assert ran.output == "from local"
    assert [n for n, _ in ran.calls] == ["local"]
    assert ran.tried == [("a", "NoCapacity"), ("local", "ok")]
    assert "no free place within 4.0 s" in ran.attempts[0].detail  # its share of 5 s, less what it needs
    assert ran.attempts[0].cost == Cost()


# Passing through ----------------------------------------------------------------------------------


def test_a_mistake_in_the_question_is_not_tried_elsewhere() -> None:
    ran = play(["a", "b"], {"a": [(QueryError, 0.1, None)]})
    assert isinstance(ran.error, QueryError)
    assert ran.tried == [("a", "QueryError")]


@pytest.mark.parametrize("what", ["hang", "late"])
def test_a_cancelled_request_is_closed_and_stays_cancelled(what: str) -> None:
    async def main() -> Scene:
        scene = Scene({"a": [(what, 99.0, None)]})
        running = asyncio.ensure_future(scene.ask(["a", "local"], task()))
        await asyncio.sleep(5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        limiter = scene.health.limiter("a")
        assert limiter is not None and limiter.in_flight == 0
        assert scene.health.throttle.active == 0
        return scene

    scene = run_virtual(main())
    (attempt,) = scene.books.closed.values()
    assert (attempt.provider, attempt.outcome) == ("a", Outcome.CANCELLED)
    assert attempt.timing.wait_s == pytest.approx(5.0)
    assert attempt.cost.amount == 5 * NANO_PER_S
    assert [n for n, _ in scene.calls] == ["a"]


def test_cancelled_while_it_waits_for_a_place_nothing_is_opened() -> None:
    async def main() -> Scene:
        scene = Scene({"a": [("ok", 50.0, None)] * 4})
        others = [asyncio.ensure_future(scene.ask(["a"], task(f"t{n}"))) for n in range(4)]
        await asyncio.sleep(1)
        running = asyncio.ensure_future(scene.ask(["a"], task()))
        await asyncio.sleep(5)
        running.cancel()
        await asyncio.gather(running, *others, return_exceptions=True)
        return scene

    scene = run_virtual(main())
    assert len(scene.books.opened) == 4 and scene.books.balanced
    limiter = scene.health.limiter("a")
    assert limiter is not None and (limiter.in_flight, limiter.waiting) == (0, 0)


def test_no_offer_at_all_says_who_refused() -> None:
    ran = play([], {})
    assert isinstance(ran.error, EveryAttemptFailed)
    assert "no offer" in str(ran.error)
    assert ran.attempts == []


# Health at the moment of dispatch -----------------------------------------------------------------


def down(first: float, last: float, *names: str, what: object = Unreachable, after: float = 0.05):  # type: ignore[no-untyped-def]
    return lambda name, now: (what, after, None) if name in names and first <= now < last else None


@pytest.mark.parametrize(("what", "after"), [(Unreachable, 0.05), ("hang", 0.0)])
@pytest.mark.parametrize("seed", range(8))
def test_a_minutes_outage_costs_the_dead_primary_four_calls(what: object, after: float, seed: int) -> None:
    """The outage of litellm#40405: 60 s, one request every 4 s, a fallback that takes 0.3 s."""

    async def main() -> tuple[list[Ran], Scene]:
        scene = Scene(
            does=down(0.0, 60.0, "primary", what=what, after=after), seed=seed,
            expected_s={"primary": 0.3, "fallback": 0.3, "local": 0.3}, after=0.3,
        )  # fmt: skip
        ran = []
        for n in range(20):
            await asyncio.sleep(max(0.0, 4.0 * n - asyncio.get_running_loop().time()))
            ran.append(await scene.ask(["primary", "fallback", "local"], task(f"t{n}", within_s=4.0)))
        return ran, scene

    ran, scene = run_virtual(main())
    assert all(r.output for r in ran)
    assert sum(name == "primary" and now < 60 for name, now in scene.calls) <= 4
    during = [r.took_s for r in ran[:15]]
    assert statistics.median(during) <= 1.2 * 0.3
    for r in ran:  # never twice at the dead one within a request
        assert sum(name == "primary" for name, _ in r.calls) <= 1


def test_after_the_outage_the_primary_is_probed_within_six_minutes_and_used_again() -> None:
    async def main() -> list[Ran]:
        scene = Scene(does=down(0.0, 3600.0, "a"))
        ran = []
        for n in range(1100):
            await asyncio.sleep(max(0.0, 4.0 * n - asyncio.get_running_loop().time()))
            ran.append(await scene.ask(["a", "local"], task(f"t{n}")))
        return ran

    ran = run_virtual(main())
    first = next(n for n, r in enumerate(ran) if r.output == "from a")
    assert 4 * first <= 3600 + 360 + 4
    assert all(r.output == "from a" for r in ran[first:])


def test_who_is_passed_over_is_no_attempt_but_is_named_in_the_error() -> None:
    async def main() -> Ran:
        scene = Scene(does=lambda *_: (Unreachable, 0.01, None))
        for n in range(3):
            await scene.ask(["a", "local"], task(f"t{n}", within_s=0.05))
        return await scene.ask(["a", "local"], task(within_s=5))

    ran = run_virtual(main())
    assert {name for name, _ in ran.calls} == {"local"}
    assert "not tried: a: its breaker opened once, for" in str(ran.error)


def test_a_breaker_that_opens_while_a_call_waits_for_its_place_stops_it() -> None:
    async def main() -> tuple[list[Ran], Scene]:
        scene = Scene(does=down(0.0, 99.0, "a", after=1.0))
        many = [scene.ask(["a", "local"], task(f"t{n}", within_s=30)) for n in range(12)]
        return await asyncio.gather(*many), scene

    ran, scene = run_virtual(main())
    assert all(r.output == "from local" for r in ran)
    assert sum(name == "a" for name, _ in scene.calls) == 4  # those that had a place


@pytest.mark.parametrize("asked", [4, 12])
def test_who_has_nothing_else_left_waits_until_fewer_retries_are_under_way(asked: int) -> None:
    async def main() -> tuple[list[Ran], Scene]:
        scene = Scene(does=down(0.0, 99.0, "a", after=1.0), after=2.0)
        many = [scene.ask(["a", "b"], task(f"t{n}", within_s=60)) for n in range(asked)]
        return await asyncio.gather(*many), scene

    ran, scene = run_virtual(main())
    assert all(r.output == "from b" for r in ran), [str(r.error) for r in ran if r.error]
    if asked == 4:  # all of them were retries
        assert scene.most["b"] == LEAST_RETRIES


def test_only_one_probe_is_sent_however_many_ask() -> None:
    async def main() -> Scene:
        scene = Scene(does=down(0.0, 10.0, "a"), after=2.0)
        for n in range(3):
            await scene.ask(["a", "local"], task(f"t{n}"))
        await asyncio.sleep(45)
        scene.calls.clear()
        await asyncio.gather(*(scene.ask(["a", "local"], task(f"u{n}")) for n in range(20)))
        return scene

    scene = run_virtual(main())
    assert [name for name, _ in scene.calls].count("a") == 1
    assert scene.most["a"] == 1


def test_all_cooling_waits_for_the_earliest_within_the_deadline_and_else_fails_at_once() -> None:
    async def main() -> tuple[Ran, Ran]:
        scene = Scene(does=down(0.0, 10.0, "a", "b"))
        for n in range(3):
            await scene.ask(["a", "b"], task(f"t{n}", within_s=0.2))
        await asyncio.sleep(12)
        hasty = await scene.ask(["a", "b"], task("hasty", within_s=2))
        patient = await scene.ask(["a", "b"], task("patient", within_s=40))
        return hasty, patient

    hasty, patient = run_virtual(main())
    assert isinstance(hasty.error, EveryAttemptFailed)
    assert hasty.took_s == pytest.approx(0.0) and hasty.calls == []
    assert patient.output is not None and len(patient.calls) == 1
    assert 5 < patient.took_s < 37


def test_all_cooling_this_machine_answers_at_once() -> None:
    async def main() -> Ran:
        scene = Scene(does=down(0.0, 10.0, "a"))
        for n in range(3):
            await scene.ask(["a", "local"], task(f"t{n}"))
        return await scene.ask(["a", "local"], task(within_s=100))

    ran = run_virtual(main())
    assert ran.output == "from local" and ran.took_s == pytest.approx(0.1)


def test_many_that_wait_for_a_recovery_are_all_answered() -> None:
    """One probe at a time; the others look again until it is well, or their deadline comes."""

    async def main() -> list[Ran]:
        scene = Scene(does=down(0.0, 10.0, "a"))
        for n in range(3):
            await scene.ask(["a"], task(f"t{n}", within_s=0.01))
        return await asyncio.gather(*(scene.ask(["a"], task(f"u{n}", within_s=60)) for n in range(10)))

    assert all(r.output == "from a" for r in run_virtual(main()))


def test_a_provider_without_retry_tokens_still_gets_first_tries() -> None:
    async def main() -> tuple[Ran, Ran]:
        scene = Scene({"a": [(NoCapacity, 0.1, None)]})
        for _ in range(6):
            scene.health.throttle.told("b", False)
        retry = await scene.ask(["a", "b", "local"], task("t1"))
        first = await scene.ask(["b", "local"], task("t2"))
        return retry, first

    retry, first = run_virtual(main())
    assert [n for n, _ in retry.calls] == ["a", "local"]
    assert [n for n, _ in first.calls] == ["b"]


def test_retries_at_once_are_a_fifth_of_the_requests_or_three() -> None:
    async def main() -> Scene:
        scene = Scene({"a": [(NoCapacity, 0.1, None)] * 100}, after=5.0)
        for limiter in (scene.health.limiter("a"), scene.health.limiter("b")):
            assert limiter is not None
            limiter.limit = 200.0
        await asyncio.gather(*(scene.ask(["a", "b", "local"], task(f"t{n}")) for n in range(40)))
        assert scene.health.throttle.retries == 0
        return scene

    scene = run_virtual(main())
    assert scene.most["b"] == 8
    assert scene.most["local"] == 32


def test_a_told_reset_keeps_everybody_away_until_then() -> None:
    """resets_at is wall clock, and the virtual one begins on 2026-01-01."""

    async def main() -> tuple[Ran, Ran, Ran]:
        reset = QuotaExhausted("used up", provider="a", resets_at=datetime(2026, 1, 1, 10, tzinfo=UTC))
        scene = Scene({"a": [(reset, 0.1, None)]})
        first = await scene.ask(["a", "local"], task("t1"))
        await asyncio.sleep(9.9 * 3600)
        second = await scene.ask(["a", "local"], task("t2"))
        await asyncio.sleep(0.2 * 3600)
        return first, second, await scene.ask(["a", "local"], task("t3"))

    first, second, third = run_virtual(main())
    assert [n for n, _ in first.calls] == ["a", "local"]
    assert [n for n, _ in second.calls] == ["local"]
    assert [n for n, _ in third.calls] == ["a"]


def test_a_reset_without_a_time_zone_is_taken_as_utc() -> None:
    naive = QuotaExhausted("used up", provider="a")
    naive.resets_at = datetime(2026, 1, 1, 10)
    assert play(["a", "local"], {"a": [(naive, 0.1, None)]}).output == "from local"


def test_the_same_seed_gives_the_same_run() -> None:
    def trace(seed: int) -> list[tuple[str, float]]:
        async def main() -> list[tuple[str, float]]:
            scene = Scene(does=down(5.0, 200.0, "a", "b"), seed=seed)
            for n in range(60):
                await scene.ask(["a", "b", "local"], task(f"t{n}", within_s=8))
                await asyncio.sleep(3)
            return scene.calls

        return run_virtual(main())

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_a_slow_provider_times_out_with_its_class() -> None:
    ran = play(["a", "b"], {"a": [("hang", 0, None)], "b": [("hang", 0, None)]}, within_s=2)
    assert [e for _, e in ran.tried] == [TimedOut.__name__] * 2


def test_a_try_that_got_less_than_it_was_expected_to_need_says_nothing_of_the_provider() -> None:
    """The first tries of a cold worker are cut off by short deadlines; that must not close the door to it."""

    async def main(expected_s: float) -> float:
        scene = Scene({"a": [("hang", 0.0, None)] * 2}, {"a": expected_s})
        for _ in range(2):
            await scene.ask(["a"], task(within_s=2.0))
        return scene.health.standing("a", task(), asyncio.get_running_loop().time()).success

    untried = run_virtual(main(12.0))
    assert run_virtual(main(0.5)) < untried
    assert untried == Health(random.Random(1)).standing("a", task(), 0.0).success


def behind(reranks: int, within_s: float | None) -> tuple[Ran, Scene]:
    """A call of 0.1 s at a worker that does one after another, behind calls of another stage, 1 s each."""

    async def main() -> tuple[Ran, Scene]:
        free_at = 0.0

        def one_by_one(name: str, now: float) -> Step:
            nonlocal free_at
            free_at = max(free_at, now) + (1.0 if len(scene.calls) <= reranks else 0.1)
            return "ok", free_at - now, None

        scene = Scene(does=one_by_one)
        measured(scene, "a", [0.1] * 50)
        other = replace(task("r"), spec=Spec(Stage.RERANK, model="m"))
        before = [asyncio.ensure_future(scene.ask([scored("a", 1.0)], other)) for _ in range(reranks)]
        await asyncio.sleep(0.0)
        ran = await scene.ask(["a"], task(within_s=within_s))
        await asyncio.gather(*before)
        return ran, scene

    return run_virtual(main())


def test_who_waits_behind_calls_of_another_stage_does_not_take_it_for_a_hang() -> None:
    ran, scene = behind(3, None)
    assert ran.output == "from a"
    assert ran.took_s == pytest.approx(3.1)
    assert scene.health.ahead_s("a") == pytest.approx(0.0)


def test_a_deadline_too_short_for_those_before_it_says_nothing_of_the_provider() -> None:
    untried = Scene()
    measured(untried, "a", [0.1] * 50)
    ran, scene = behind(3, 2.0)
    assert ran.tried == [("a", "TimedOut")]
    success = [x.health.standing("a", task(), 2.0).success for x in (scene, untried)]
    assert success[0] == pytest.approx(success[1])


def test_what_is_gone_of_a_deadline_already_is_not_given_to_the_tries() -> None:
    scene = Scene({"a": [("hang", 0, None)]})
    route = Route("t", (scored("a"),))

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        with pytest.raises(EveryAttemptFailed, match="deadline"):
            await cascade(
                task(within_s=8.0), route, scene.run, scene.books, scene.health, scene.runtime, left_s=3.0
            )
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main()) == pytest.approx(3.0)
