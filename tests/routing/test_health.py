"""Each kind of failure goes where its blame points, and nowhere else; what is measured is of similar size."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playing import SPEC, scored, task

from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.errors import (
    BadOutput,
    Blame,
    JobFailed,
    NoCapacity,
    OutOfMemory,
    OverBudget,
    Preempted,
    ProviderError,
    QueryError,
    QuotaExhausted,
    RateLimited,
    Rejected,
    TimedOut,
    Unauthorised,
    Unreachable,
)
from accel.core.money import Cost
from accel.core.offer import Realm
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.routing.health import DISABLED_S, FIRST_S, GENEROUS_S, Health
from accel.routing.limiter import INITIAL
from accel.routing.throttle import TOKENS
from accel.routing.track import KEPT, LEAST_SPREAD, PRIOR_SPREAD, REJECTED_S, TOO_LARGE_S

ALL = (Unreachable, RateLimited, NoCapacity, QuotaExhausted, Unauthorised, Rejected, OutOfMemory, Preempted,
       JobFailed, BadOutput, TimedOut)  # fmt: skip


def health() -> Health:
    return Health(random.Random(1))


def fail(h: Health, error: Exception, now: float = 0.0, *, asked: Task | None = None, **how: object) -> None:
    """One call that fails, if it may be sent at all."""
    asked = asked or task()
    assert h.refusal("a", asked, now) is None
    limiter = h.limiter("a")
    assert limiter is not None and limiter.take()
    h.failed(h.begin("a", asked, now), error, now, **how)  # type: ignore[arg-type]


def succeed(h: Health, now: float = 0.0, *, asked: Task | None = None, seconds: float = 0.1) -> None:
    limiter = h.limiter("a")
    assert limiter is not None and limiter.take()
    h.succeeded(h.begin("a", asked or task(), now), Timing(compute_s=seconds), now)


def attempt(error: str = "", *, seconds: float = 0.1, provider: str = "a", ident: str = "t") -> Attempt:
    outcome = Outcome.FAILED if error else Outcome.OK
    return Attempt(
        "x", ident, provider, Realm.SIMULATED, "o", outcome, Timing(compute_s=seconds), Cost(), error=error
    )


# Where blame goes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in ALL if k.blame is Blame.PROVIDER])
def test_the_providers_own_failures_open_its_breaker_for_that_stage_and_model_alone(
    kind: type[ProviderError],
) -> None:
    h = health()
    needed = 3 if kind in (Unreachable, TimedOut) else 5
    for n in range(needed):
        assert h.standing("a", task(), float(n)).blocked == ""
        fail(h, kind("no", provider="a"), float(n))
    standing = h.standing("a", task(), float(needed))
    assert "breaker" in standing.blocked
    assert standing.again_s is not None and 20 < standing.again_s < 37
    other = Task("t", Lane.LIVE, Spec(Stage.EMBED, model="n"), Size(1, 100), Need(Stage.EMBED, Lane.LIVE))
    assert h.standing("a", other, float(needed)).blocked == ""
    assert h.standing("b", task(), float(needed)).blocked == ""


@pytest.mark.parametrize("kind", [k for k in ALL if k.blame is not Blame.PROVIDER])
def test_other_failures_never_open_a_breaker(kind: type[ProviderError]) -> None:
    h = health()
    for n in range(30):
        if h.refusal("a", task(), float(n)) is None:
            fail(h, kind("no", provider="a"), float(n))
        assert "breaker" not in h.standing("a", task(), float(n)).blocked


def test_an_error_that_is_none_of_ours_counts_as_the_providers() -> None:
    h = health()
    for n in range(5):
        fail(h, KeyError("a bug"), float(n))
    assert "breaker" in h.standing("a", task(), 5.0).blocked


@pytest.mark.parametrize("error", [QueryError("no"), OverBudget("no")])
def test_a_mistake_in_the_question_or_an_empty_purse_says_nothing_of_the_provider(error: Exception) -> None:
    h = health()
    for n in range(30):
        fail(h, error, float(n))
    standing = h.standing("a", task(), 30.0)
    assert standing.blocked == "" and standing.success > 0.94
    assert h.throttle.tokens("a") == TOKENS


def test_a_timeout_cut_short_by_the_deadline_is_one_failure_and_a_full_one_is_silence() -> None:
    short, full = health(), health()
    for n in range(3):
        fail(short, TimedOut("late", provider="a"), float(n), cut_short=True)
        fail(full, TimedOut("late", provider="a"), float(n))
    assert short.standing("a", task(), 3.0).blocked == ""
    assert full.standing("a", task(), 3.0).blocked != ""


@pytest.mark.parametrize("kind", ALL)
def test_load_and_timeouts_shrink_the_limit_and_nothing_else_does(kind: type[ProviderError]) -> None:
    h = health()
    fail(h, kind("no", provider="a"))
    limiter = h.limiter("a")
    assert limiter is not None and limiter.in_flight == 0
    shrunk = kind.blame is Blame.LOAD or kind is TimedOut
    assert limiter.limit == pytest.approx(INITIAL * 0.9 if shrunk else INITIAL)


@pytest.mark.parametrize("kind", ALL)
def test_the_providers_failures_and_its_load_cost_retry_tokens(kind: type[ProviderError]) -> None:
    h = health()
    fail(h, kind("no", provider="a"))
    assert h.throttle.tokens("a") == TOKENS - (kind.blame in (Blame.PROVIDER, Blame.LOAD))


def test_who_asks_to_be_left_alone_is() -> None:
    h = health()
    fail(h, RateLimited("slow down", provider="a", retry_after_s=7.0))
    other = Task("t", Lane.LIVE, Spec(Stage.RERANK), Size(1), Need(Stage.RERANK, Lane.LIVE))
    for asked in (task(), other):
        standing = h.standing("a", asked, 1.0)
        assert "left alone" in standing.blocked and standing.again_s == pytest.approx(6.0)
        assert h.standing("a", asked, 7.0).blocked == ""


@pytest.mark.parametrize("asked", [float("nan"), -5.0, float("inf")])
def test_an_absurd_retry_after_locks_nobody_out(asked: float) -> None:
    h = health()
    fail(h, RateLimited("slow down", provider="a", retry_after_s=asked))
    assert h.standing("a", task(), 3601.0).blocked == ""


# Accounts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [QuotaExhausted, Unauthorised])
def test_a_refused_account_is_left_alone_for_every_stage_and_then_asked_by_one_probe(
    kind: type[ProviderError],
) -> None:
    h = health()
    fail(h, kind("no", provider="a"))
    other = Task("t", Lane.LIVE, Spec(Stage.RERANK), Size(1), Need(Stage.RERANK, Lane.LIVE))
    for asked in (task(), other):
        standing = h.standing("a", asked, 1.0)
        assert "key or quota" in standing.blocked
        assert standing.again_s == pytest.approx(DISABLED_S - 1.0)
    now = DISABLED_S + 1.0
    assert h.refusal("a", task(), now) is None
    probe = h.begin("a", task(), now)
    assert h.refusal("a", other, now) is not None, "two probes"
    probe.place.limiter.in_flight += 1
    h.failed(probe, kind("no", provider="a"), now)
    assert h.standing("a", task(), now).again_s == pytest.approx(DISABLED_S)
    for _ in range(2):
        now += DISABLED_S + 1.0
        succeed(h, now)
    first, second = h.begin("a", task(), now), h.begin("a", task(), now)
    assert first is not second and h.refusal("a", task(), now) is None


def test_a_told_reset_is_when_it_is_asked_again() -> None:
    h = health()
    error = QuotaExhausted("used up", provider="a", resets_at=datetime(2026, 1, 2, tzinfo=UTC))
    fail(h, error, reset_s=86_400.0)
    assert h.standing("a", task(), 86_399.0).blocked != ""
    assert h.standing("a", task(), 86_401.0).blocked == ""


@pytest.mark.parametrize("reset_s", [-10.0, 0.0])
def test_a_reset_in_the_past_is_no_reset(reset_s: float) -> None:
    h = health()
    fail(h, QuotaExhausted("used up", provider="a"), reset_s=reset_s)
    assert h.standing("a", task(), DISABLED_S - 1).blocked != ""


# Sizes --------------------------------------------------------------------------------------------


def test_out_of_memory_bars_that_size_and_larger_and_a_smaller_success_does_not_lift_it() -> None:
    h = health()
    fail(h, OutOfMemory("no", provider="a"), asked=task(tokens=1000))
    for tokens, barred in ((999, False), (1000, True), (50_000, True)):
        assert bool(h.standing("a", task(tokens=tokens), 1.0).blocked) is barred
    succeed(h, 2.0, asked=task(tokens=999))
    assert "too large" in h.standing("a", task(tokens=1000), 3.0).blocked
    assert h.standing("a", task(tokens=1000), TOO_LARGE_S + 1).blocked == ""


def test_a_success_of_that_size_lifts_it() -> None:
    h = health()
    flying = h.begin("a", task(tokens=2000), 0.0)
    flying.place.limiter.in_flight += 1
    fail(h, OutOfMemory("no", provider="a"), asked=task(tokens=1000))
    h.succeeded(flying, Timing(compute_s=1.0), 1.0)
    assert h.standing("a", task(tokens=1000), 1.0).blocked == ""


def test_one_rejected_request_bars_nobody_and_two_bar_the_smaller_size_and_larger() -> None:
    h = health()
    fail(h, Rejected("no", provider="a"), asked=task("poison", tokens=500))
    fail(h, Rejected("no", provider="a"), asked=task("poison", tokens=500))
    assert h.standing("a", task(tokens=500), 0.0).blocked == ""
    fail(h, Rejected("no", provider="a"), 1.0, asked=task("another", tokens=300))
    for tokens, barred in ((299, False), (300, True), (501, True)):
        assert bool(h.standing("a", task(tokens=tokens), 1.0).blocked) is barred
    assert h.standing("a", task(tokens=300), REJECTED_S + 2).blocked == ""


def test_a_larger_success_between_two_rejected_ones_shows_that_it_was_not_the_size() -> None:
    h = health()
    fail(h, Rejected("no", provider="a"), asked=task("one", tokens=10))
    succeed(h, asked=task(tokens=5000))
    fail(h, Rejected("no", provider="a"), asked=task("two", tokens=10))
    assert h.standing("a", task(tokens=10), 0.0).blocked == ""


# This machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_this_machine_is_never_refused(kind: type[ProviderError]) -> None:
    h = health()
    for n in range(20):
        h.failed(h.begin("local", task(), float(n)), kind("no", provider="local"), float(n))
        assert h.refusal("local", task(), float(n)) is None
        assert h.standing("local", task(), float(n)).blocked == ""
    assert h.limiter("local") is None
    assert h.standing("local", task(), 20.0).queue_s == 0.0


def test_nor_after_what_other_processes_recorded() -> None:
    h = health()
    for error in ("Unreachable", "Unreachable", "Unreachable", "Unauthorised", "OutOfMemory"):
        h.recall(attempt(error, provider="local"), SPEC, Size(1, 100), 0.0)
    assert h.refusal("local", task(), 1.0) is None
    assert h.standing("local", task(), 1.0).blocked == ""


# What is measured ---------------------------------------------------------------------------------


def test_nothing_is_measured_below_three_successes_and_failures_do_not_count() -> None:
    h = health()
    succeed(h)
    succeed(h)
    fail(h, BadOutput("no", provider="a"))
    assert h.standing("a", task(), 0.0).measured is None
    succeed(h)
    measured = h.standing("a", task(), 0.0).measured
    assert measured is not None and measured.n == 3


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.01, 5)), min_size=3, max_size=120),
       st.integers(1, 5000))  # fmt: skip
def test_measured_is_the_median_of_recent_successes_of_similar_size_for_this_one(
    done: list[tuple[int, float]], tokens: int
) -> None:
    h = health()
    for size, seconds in done:
        succeed(h, asked=task(tokens=size), seconds=seconds)
    middle = 2.0 ** (tokens.bit_length() - 0.5)
    near = [(n, s) for n, s in done[-KEPT:] if middle / 4 <= n <= middle * 4]
    similar = [s for _, s in near]
    measured = h.standing("a", task(tokens=tokens), 0.0).measured
    if len(similar) < 3:
        assert measured is None
        return
    assert measured is not None
    assert measured.n == len(similar)
    ratio = tokens / statistics.median([n for n, _ in near])  # computing grows with the work
    assert measured.timing.compute_s == pytest.approx(statistics.median(similar) * ratio)
    assert measured.spread >= LEAST_SPREAD


def test_sizes_of_another_order_do_not_tell() -> None:
    h = health()
    for _ in range(10):
        succeed(h, asked=task(tokens=100), seconds=0.1)
    assert h.standing("a", task(tokens=100), 0.0).measured is not None
    assert h.standing("a", task(tokens=10_000), 0.0).measured is None


def test_a_view_is_kept_but_never_long() -> None:
    """At most an eighth of its samples is newer than what is told."""
    h = health()
    for _ in range(KEPT):
        succeed(h, seconds=1.0)
    assert h.standing("a", task(), 0.0).measured is not None
    for n in range(1, 40):
        succeed(h, seconds=9.0)
        measured = h.standing("a", task(), 0.0).measured
        assert measured is not None
        if n > 25 + KEPT // 8:
            assert measured.timing.compute_s == 9.0


def test_the_scatter_begins_wide_and_follows_the_samples() -> None:
    h, rng = health(), random.Random(3)
    for _ in range(3):
        succeed(h, seconds=1.0)
    few = h.standing("a", task(), 0.0).measured
    for _ in range(KEPT):
        succeed(h, seconds=rng.lognormvariate(0.0, 0.2))
    many = h.standing("a", task(), 0.0).measured
    assert few is not None and many is not None
    assert 0.3 < few.spread < PRIOR_SPREAD
    assert 0.15 < many.spread < 0.3


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_impossible_seconds_teach_nothing(seconds: float) -> None:
    h = health()
    for _ in range(5):
        succeed(h, seconds=seconds)
    assert h.standing("a", task(), 0.0).measured is None


def test_success_falls_with_failures_rises_with_successes_and_fades_with_time() -> None:
    h = health()
    fresh = h.standing("a", task(), 0.0).success
    assert fresh == pytest.approx(0.95)
    for n in range(20):
        (fail(h, BadOutput("no", provider="a"), float(n)) if n % 3 == 0 else succeed(h, float(n)))
    bad = h.standing("a", task(), 20.0).success
    assert 0.6 < bad < 0.8
    assert bad < h.standing("a", task(), 500.0).success < fresh
    for n in range(200):
        succeed(h, 20.0 + n)
    assert h.standing("a", task(), 220.0).success > 0.97


def test_once_the_breaker_opened_it_alone_stands_for_the_failures() -> None:
    """Else a provider that is well again would never be preferred, and so never be probed."""
    h = health()
    for n in range(5):
        fail(h, BadOutput("no", provider="a"), float(n))
    standing = h.standing("a", task(), 45.0)
    assert standing.blocked == "" and standing.success == pytest.approx(0.95)


def test_this_machine_has_a_queue_too() -> None:
    """It takes everything; what is under way is worked off before what comes next."""
    h = health()
    assert h.standing("local", task(), 0.0).queue_s == 0.0
    calls = [h.begin("local", task(), 3.0, 2.0) for _ in range(4)]
    assert h.standing("local", task(), 3.0).queue_s == 8.0
    assert h.standing("local", task(), 4.5).queue_s == 6.5
    h.succeeded(calls[0], Timing(compute_s=2.0), 5.0)
    h.failed(calls[1], Unreachable("x", provider="local"), 5.0)
    h.dropped(calls[2], 5.0)
    assert h.standing("local", task(), 5.0).queue_s == 0.0  # the last has had its time, and is still running
    h.dropped(calls[3], 5.0)
    assert h.begin("local", task(), 6.0, 1.0)
    assert h.standing("local", task(), 6.0).queue_s == 1.0
    assert h.standing("a", task(), 6.0).queue_s == 0.0


def test_the_queue_is_told() -> None:
    h = health()
    limiter = h.limiter("a")
    assert limiter is not None and limiter.take()
    h.succeeded(h.begin("a", task(), 0.0), Timing(compute_s=2.0), 2.0)
    while limiter.take():
        pass
    assert h.standing("a", task(), 2.0).queue_s == pytest.approx(0.5)


# How long a try may take --------------------------------------------------------------------------


def test_where_nothing_is_measured_patience_begins_short_and_grows_to_a_minute() -> None:
    """A server that hangs from the start must not cost every caller a minute."""
    h = health()
    for asked in (task(), task(within_s=500.0)):
        assert h.patience_s(scored("a"), asked) == FIRST_S
        assert h.patience_s(scored("a", 100.0), asked) == 1000.0
        assert h.patience_s(scored("a", cold_s=30.0), asked) == pytest.approx(300.0, rel=0.02)
        assert h.patience_s(scored("local"), asked) is None
    for n in range(1, 5):
        fail(h, TimedOut("slow", provider="a"), n * 1000.0)
        assert h.patience_s(scored("a"), task()) == min(FIRST_S * 2**n, GENEROUS_S)


def test_patience_is_twice_the_median_or_the_far_tail_and_a_cold_start_comes_on_top() -> None:
    even, scattered, rng = health(), health(), random.Random(5)
    for _ in range(KEPT):
        succeed(even, seconds=1.0)
        succeed(scattered, seconds=rng.lognormvariate(0.0, 0.5))
    assert even.patience_s(scored("a"), task()) == pytest.approx(2.0)
    assert even.patience_s(scored("a", cold_s=30.0), task()) == pytest.approx(62.0)
    tail = scattered.patience_s(scored("a"), task())
    assert tail is not None and 3.0 < tail < 8.0  # exp(3.09 * 0.5) = 4.7


def test_cold_starts_seen_are_no_part_of_the_scatter_but_are_waited_for() -> None:
    h = health()
    for n in range(KEPT):
        limiter = h.limiter("a")
        assert limiter is not None and limiter.take()
        h.succeeded(h.begin("a", task(), 0.0), Timing(cold_s=8.0 * (n % 5 == 0), compute_s=1.0), 0.0)
    measured = h.standing("a", task(), 0.0).measured
    assert measured is not None and measured.spread < 0.2
    assert h.hedge_after_s(scored("a"), task()) == pytest.approx(1.0)
    assert h.patience_s(scored("a"), task()) == pytest.approx(2.0 + 16.0)


def test_each_other_call_in_flight_there_may_be_served_before() -> None:
    """Else a burst at one worker passes for a worker that hangs. What it takes of whatever stage counts."""
    h = health()
    for _ in range(KEPT):
        succeed(h, seconds=1.0)
    limiter = h.limiter("a")
    assert limiter is not None
    rerank = replace(task(), spec=Spec(Stage.RERANK, model="m"))
    calls = []
    for others in range(3):
        assert limiter.take()
        assert h.patience_s(scored("a"), task()) == pytest.approx(2.0 + 5.0 * others)
        calls.append(h.begin("a", rerank, 0.0, 5.0))
    for call in calls:
        h.dropped(call, 1.0)
    assert h.patience_s(scored("a"), task()) == pytest.approx(2.0)


def test_it_is_known_how_long_no_call_of_ours_was_there() -> None:
    h = health()
    assert h.standing("a", task(), 5.0).since_s is None
    succeed(h, 7.0)
    assert h.standing("a", task(), 9.0).since_s == 2.0
    limiter = h.limiter("a")
    assert limiter is not None and limiter.take()
    call = h.begin("a", task(), 10.0)
    assert h.standing("a", task(), 60.0).since_s == 0.0
    h.dropped(call, 61.0)
    assert h.standing("a", task(), 64.0).since_s == 3.0


def test_a_larger_task_of_the_same_order_gets_more_time() -> None:
    h = health()
    for _ in range(KEPT):
        succeed(h, asked=task(tokens=100), seconds=1.0)
    assert h.patience_s(scored("a"), task(tokens=200)) == pytest.approx(4.0)


def test_patience_doubles_with_each_timeout_until_one_answers() -> None:
    h = health()
    for _ in range(KEPT):
        succeed(h, seconds=1.0)
    for expected in (2.0, 4.0, 8.0):
        assert h.patience_s(scored("a"), task()) == pytest.approx(expected)
        fail(h, TimedOut("late", provider="a"), cut_short=True)
    for _ in range(40):
        h.failed(h.begin("a", task(), 0.0), TimedOut("late", provider="a"), 0.0)
    assert h.patience_s(scored("a"), task()) == GENEROUS_S
    h.succeeded(h.begin("a", task(), 0.0), Timing(compute_s=1.0), 0.0)
    assert h.patience_s(scored("a"), task()) == pytest.approx(2.0)


def test_the_95th_percentile_needs_twenty_successes() -> None:
    h = health()
    for n in range(20):
        assert h.hedge_after_s(scored("a"), task()) is None
        succeed(h, seconds=1.0 + n)
    assert h.hedge_after_s(scored("a"), task()) == 19.0
    assert h.hedge_after_s(scored("a", cold_s=2.0), task()) == 21.0


# Recall -------------------------------------------------------------------------------------------


def test_what_other_processes_recorded_opens_disables_bars_and_measures() -> None:
    h = health()
    for n in range(3):
        h.recall(attempt("Unreachable"), SPEC, Size(1, 100), float(n))
    assert "breaker" in h.standing("a", task(), 3.0).blocked
    h = health()
    h.recall(attempt("Unauthorised"), SPEC, Size(1, 100), 0.0)
    assert "key or quota" in h.standing("a", task(), 3.0).blocked
    assert h.standing("a", task(), DISABLED_S + 1).blocked == ""
    h = health()
    h.recall(attempt("OutOfMemory"), SPEC, Size(1, 100), 0.0)
    assert "too large" in h.standing("a", task(), 3.0).blocked
    h = health()
    for _ in range(3):
        h.recall(attempt(seconds=2.0), SPEC, Size(1, 100), 0.0)
    measured = h.standing("a", task(), 3.0).measured
    assert measured is not None and measured.timing.compute_s == 2.0


@pytest.mark.parametrize("error", ["NoCapacity", "Preempted", "OverBudget", "LedgerError", "QueryError"])
def test_recalled_failures_that_are_nobodys_change_nothing(error: str) -> None:
    h = health()
    for n in range(20):
        h.recall(attempt(error), SPEC, Size(1, 100), float(n))
    assert h.standing("a", task(), 20.0).blocked == ""


def test_recalled_tries_that_were_cancelled_say_nothing() -> None:
    h = health()
    lost = replace(attempt(), outcome=Outcome.CANCELLED)
    for n in range(20):
        h.recall(lost, SPEC, Size(1, 100), float(n))
    standing = h.standing("a", task(), 20.0)
    assert (standing.blocked, standing.measured) == ("", None)


@pytest.mark.parametrize("error", ["KeyError", "datetime", "no such name", "NotFound"])
def test_a_recalled_error_of_unknown_name_counts_as_the_providers(error: str) -> None:
    h = health()
    for n in range(5):
        h.recall(attempt(error), SPEC, Size(1, 100), float(n))
    assert "breaker" in h.standing("a", task(), 5.0).blocked


def test_a_recalled_failure_of_a_call_that_began_before_the_breaker_opened_is_ignored() -> None:
    h = health()
    for _ in range(3):
        h.recall(attempt("Unreachable"), SPEC, Size(1, 100), 0.0)
    again_s = h.standing("a", task(), 0.0).again_s
    assert again_s is not None
    h.recall(attempt("Unreachable", seconds=again_s + 5), SPEC, Size(1, 100), again_s + 1)
    assert h.standing("a", task(), again_s + 1).blocked == ""


STEP = st.tuples(st.floats(0.2, 40), st.sampled_from(["", *(k.__name__ for k in ALL if k is not Rejected)]))


@given(st.lists(STEP, max_size=50))
def test_another_process_comes_to_the_same_standing_from_the_record_alone(
    steps: list[tuple[float, str]],
) -> None:
    own, other, now = health(), health(), 0.0
    kinds = {k.__name__: k for k in ALL}
    for gap, name in steps:
        now += gap
        if own.refusal("a", task(), now) is not None:
            continue
        if name:
            fail(own, kinds[name]("no", provider="a"), now)
        else:
            succeed(own, now)
        other.recall(attempt(name, seconds=0.1), SPEC, Size(1, 100), now)
        a, b = own.standing("a", task(), now), other.standing("a", task(), now)
        assert (a.blocked, a.again_s, a.measured) == (b.blocked, b.again_s, b.measured)


def test_a_provider_of_which_nothing_new_is_known_stands_as_the_very_same_object() -> None:
    h = health()
    before = h.standing("a", task(), 0.0)
    assert h.standing("a", task("another"), 5.0) is before
    succeed(h, 6.0)
    assert h.standing("a", task(), 6.0) is not before
    assert h.standing("a", task(), 6.0).success > before.success
