"""``rank`` is pure, replays from the ledger, obeys the person, the limits and deadlines, and never fails."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from routed import ANSWERS, DRAWS, NAMES, OFFERS, STATES, TASKS, free_hours, offer, order, priced, task

from accel.core.attempt import Refusal, Route, Scored, Timing
from accel.core.funds import Funds, Window
from accel.core.money import NANO, NanoUSD, Rate, dollars
from accel.core.offer import CPU, Billing, Offer, Realm, Unfit
from accel.core.task import Complexity, Lane, Need, Size, Spec, Stage, Task
from accel.ledger import Ledger
from accel.ledger.database import dump
from accel.routing import Inputs, Measured, Standing, State, rank, replay, same
from accel.routing.estimate import chance, estimate, in_time

WITHOUT_ORDER = STATES.map(lambda s: replace(s, order=(), fallback=()))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("l") / "ledger.sqlite3", Realm.SIMULATED)


def standing_of(state: State, o: Offer) -> Standing:
    return next((s for s in state.standings if s.provider == o.provider), Standing(o.provider))


def funds_of(state: State, o: Offer) -> Funds:
    return next((f for f in state.funds if f.provider == o.provider), Funds(o.provider))


def lateness(task: Task, state: State, o: Offer) -> str:
    """What the deadline and the target say, told in another way than the policy's."""
    expected = estimate(task, o, standing_of(state, o))
    total_s = expected.timing.total_s
    if in_time(total_s, expected.spread, task.within_s) >= 0.95:
        return "on target" if task.target_s is None or total_s <= task.target_s else "in time"
    if o.provider == "local":
        return "late"
    warm = in_time(total_s - expected.timing.cold_s, expected.spread, task.within_s)
    return "cold" if expected.timing.cold_s > 0 and warm >= 0.95 else "too late"


def names(task: Task, state: State, ranked: Sequence[Scored]) -> tuple[list[str], list[str]]:
    """The class of each of ``ranked``, and the classes in their order: the cold are last, but before this
    machine where nobody is in time and it has no even chance; then only those that are being started, if
    any is."""
    found = [lateness(task, state, s.offer) for s in ranked]
    chances = [chance(s.estimate, task.within_s) for s, f in zip(ranked, found, strict=True) if f == "late"]
    if {"on target", "in time"} & set(found) or max(chances, default=0.0) >= 0.5:
        return found, ["on target", "in time", "late", "cold"]
    found = [
        "starting" if f == "cold" and s.offer.cold_s and standing_of(state, s.offer).since_s == 0.0 else f
        for s, f in zip(ranked, found, strict=True)
    ]
    return found, ["starting", "late", "cold"] if "starting" in found else ["cold", "late"]


def classes(task: Task, state: State, ranked: Sequence[Scored]) -> list[int]:
    """What comes before score and freedom, for each of ``ranked``."""
    found, best = names(task, state, ranked)
    return [best.index(f) for f in found]


def allowed(task: Task, state: State, o: Offer) -> bool:
    """Whether every rule lets ``o`` have ``task``."""
    need, standing, funds = task.need, standing_of(state, o), funds_of(state, o)
    expected = estimate(task, o, standing)
    t, cost = expected.timing, expected.cost.amount
    pays = o.billing is Billing.SECONDS
    left = math.inf if funds.left is None or not pays else funds.left
    return all(
        (
            task.lane in o.lanes, need.numerics in o.numerics, not need.only or o.provider in need.only,
            o.gpu.vram_bytes >= need.vram_bytes, o.gpu.capability >= need.capability,
            not need.index or need.index in o.resident | o.movable, not standing.blocked,
            o.provider not in {f.provider for f in state.failed},
            not (pays and o.rate.free), left > 0, cost <= left,
            o.quota_left_s is None or 0 < o.quota_left_s >= t.cold_s + t.transfer_s + t.compute_s,
            lateness(task, state, o) != "too late",
        )
    )  # fmt: skip


# Properties ---------------------------------------------------------------------------------------


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_a_logged_decision_gives_the_same_route_again(
    ledger: Ledger, task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    """Through JSON, as ``accel explain --replay`` does it."""
    offers = tuple(a for a in answers if isinstance(a, Offer))
    unfit = tuple(a for a in answers if isinstance(a, Unfit))
    inputs = Inputs(task, offers, unfit, state, draw)
    route = rank(task, answers, state, draw)
    stored = ledger.load(Inputs, dump(inputs))
    assert stored == inputs
    assert replay(stored) == route == ledger.load(Route, dump(route))
    assert same(replay(stored), route)


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_every_answer_is_ranked_or_refused_with_a_reason(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    route = rank(task, answers, state, draw)
    met = [*order(route), *(r.provider for r in route.refused)]
    assert sorted(met) == sorted(a.provider for a in answers)
    reasons = [(a.provider, a.reason) for a in answers if isinstance(a, Unfit)]
    assert all(r.reason or (r.provider, "") in reasons for r in route.refused)
    assert set(reasons) <= {(r.provider, r.reason) for r in route.refused}


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_a_score_is_the_sum_of_its_named_terms(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    for scored in rank(task, answers, state, draw).ranked:
        terms = dict(scored.terms)
        assert scored.why
        assert len(terms) == len(scored.terms)
        assert scored.score == pytest.approx(sum(terms.values()))
        assert scored.score >= 0
        assert all(value >= 0 for name, value in terms.items() if name not in ("best_for", "priority"))
        assert -0.2 * sum(v for v in terms.values() if v > 0) <= terms.get("best_for", 0.0) <= 0


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS, seed=st.integers())
def test_the_order_of_the_answers_does_not_matter(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float, seed: int
) -> None:
    shuffled = random.Random(seed).sample(answers, len(answers))
    assert rank(task, shuffled, state, draw) == rank(task, answers, state, draw)


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_what_every_rule_allows_is_ranked_and_nothing_else(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    ranked = {s.offer.id for s in rank(task, answers, state, draw).ranked}
    assert ranked == {a.id for a in answers if isinstance(a, Offer) and allowed(task, state, a)}


@given(task=TASKS, answers=ANSWERS, state=WITHOUT_ORDER, draw=DRAWS)
def test_target_then_deadline_then_free_then_score(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    if task.spec.stage is Stage.ANSWER:
        task = replace(task, spec=Spec(Stage.EMBED))
    ranked = rank(task, answers, state, draw).ranked

    def key(s: Scored) -> tuple[bool, float]:
        sound = s.estimate.success >= 0.8
        free = sound and s.offer.billing is not Billing.SECONDS and "quota" not in dict(s.terms)
        return not free, s.score

    keys = list(zip(classes(task, state, ranked), map(key, ranked), strict=True))
    if "starting" in names(task, state, ranked)[0]:  # the soonest of them is first, be it free or not
        keys = [(c, (False, k[1]) if c == 0 else k) for c, k in keys]
    assert keys == sorted(keys)


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_the_persons_order_holds_for_all_but_the_cold(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    ranked = rank(task, answers, state, draw).ranked
    found = classes(task, state, ranked)
    # "cold" is the fourth class where it comes last, and the first where it comes before this machine
    cold = [c == 3 for c in found]
    assert cold == sorted(cold)
    asked = [state.order.index(s.offer.provider) if s.offer.provider in state.order else 9
             for s, c in zip(ranked, cold, strict=True) if not c]  # fmt: skip
    assert asked == sorted(asked)


# a finite price of finite hours, whose product is not
ENDLESS = replace(
    priced("vast", "T4", "1"), cold_s=1e300, rate=Rate(NanoUSD(10**18), offer("vast").rate.as_of, "odd")
)
odd = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1.0, 2.0, 1e308, 5e-324])


@given(
    task=TASKS, draw=DRAWS, value=st.sampled_from([0.0, 1.0, 1e308]),
    answers=st.lists(OFFERS.flatmap(lambda o: st.builds(
        replace, st.just(o), wait_s=st.sampled_from([0.0, 1e308]), cold_s=st.sampled_from([0.0, 1e308]),
        round_trip_s=st.sampled_from([0.0, 1e308]), seconds_per_byte=st.sampled_from([0.0, 1e308]),
        rate=st.sampled_from([0, 1, 10**18, 10**400]).map(lambda n: Rate(NanoUSD(n), o.rate.as_of, "odd")),
    )), max_size=5),
    standings=st.lists(
        st.builds(Standing, st.sampled_from(NAMES), st.sampled_from(["", "no"]), st.none() | odd, odd, odd,
                  st.none() | st.builds(Measured, st.integers(), st.builds(Timing, odd, odd, odd, odd), odd)),
        max_size=5),
    funds=st.lists(
        st.builds(Funds, st.sampled_from(NAMES), st.none() | st.sampled_from([-(10**30), -1, 0, 1, 10**30]),
                  st.just(""), st.sampled_from([-1, 0, 10**30]),
                  *(st.none() | st.builds(Window, st.just("w"), odd, odd),) * 2), max_size=5),
)  # fmt: skip
@example(task(), 0.0, 1.0, [ENDLESS], [], [])
@example(task(within_s=1.0), 0.0, 1.0, [offer("vast")], [Standing("vast", queue_s=math.nan)], [])
def test_nothing_odd_makes_it_fail(
    task: Task, draw: float, value: float, answers: list[Offer], standings: list[Standing],
    funds: list[Funds],
) -> None:  # fmt: skip
    state = State(
        value_of_hour=value, value_of_deadline=value, standings=tuple(standings), funds=tuple(funds),
        priorities=(("vast", 1e308), ("runpod", 5e-324)), fallback=("modal", "vast"),
    )  # fmt: skip
    route = rank(task, answers, state, draw)
    assert len(route.ranked) + len(route.refused) == len(answers)
    assert all(math.isfinite(s.score) for s in route.ranked)
    assert all(r.reason for r in route.refused)


# Order --------------------------------------------------------------------------------------------


def test_a_slow_free_offer_comes_before_a_fast_cheap_one_that_scores_better() -> None:
    slow, fast = offer("kaggle", wait_s=3600.0), offer("modal", nano=1)
    route = rank(task(), [fast, slow], State(value_of_hour=100.0), 0.5)
    assert order(route) == ["kaggle", "modal"]
    assert route.ranked[0].score > route.ranked[1].score
    assert "kaggle is free" in route.ranked[1].why


def test_of_the_paid_ones_the_cheapest_for_the_time_comes_first() -> None:
    cheap, dear = priced("vast", "T4", "0.20"), priced("modal", "T4", "0.59")
    assert order(rank(task(), [dear, cheap], State(), 0.5)) == ["vast", "modal"]
    quick = priced("modal", "T4", "0.59", round_trip_s=0.01)
    assert order(rank(task(), [quick, cheap], State(), 0.5)) == ["modal", "vast"]
    # whose time is worth nothing waits twice as long
    slower = replace(cheap, round_trip_s=0.02)
    assert order(rank(task(), [quick, slower], State(), 0.5)) == ["modal", "vast"]
    assert order(rank(task(), [quick, slower], State(value_of_hour=0.0), 0.5)) == ["vast", "modal"]


def test_the_persons_own_order_comes_before_free_and_cheap() -> None:
    offers = [offer("local"), offer("kaggle"), offer("modal", nano=10**9)]
    route = rank(task(), offers, State(order=("modal", "kaggle")), 0.5)
    assert order(route) == ["modal", "kaggle", "local"]
    assert route.why.startswith("asked for first")


def test_a_name_twice_in_the_order_counts_where_it_is_first() -> None:
    offers = [offer("local"), offer("vast", nano=1), offer("modal", nano=10**9)]
    for twice in (("modal", "modal", "vast"), ("modal", "vast", "modal"), ("modal", "vast", "vast")):
        assert order(rank(task(), offers, State(order=twice), 0.5)) == ["modal", "vast", "local"]


def test_what_meets_the_target_comes_before_what_only_meets_the_deadline() -> None:
    slow, quick = offer("kaggle", round_trip_s=1.5), offer("modal", nano=10**9)
    both = [slow, quick]
    assert order(rank(task(within_s=60.0), both, State(), 0.5)) == ["kaggle", "modal"]
    route = rank(task(within_s=60.0, target_s=1.0), both, State(), 0.5)
    assert order(route) == ["modal", "kaggle"]
    assert "target" in route.why
    assert order(rank(task(target_s=1.0), both, State(), 0.5)) == ["modal", "kaggle"]


def test_this_machine_is_never_dropped_for_the_deadline_but_goes_behind_who_meets_it() -> None:
    slow = offer("local", wait_s=100.0)
    paid = offer("modal", nano=10**12)
    late = offer("kaggle", wait_s=100.0)
    route = rank(task(within_s=1.0), [slow, late, paid], State(), 0.1)
    assert order(route) == ["modal", "local"]
    assert "deadline" in route.ranked[0].why
    assert "would miss the deadline" in route.ranked[1].why
    assert [(r.provider, "deadline" in r.reason) for r in route.refused] == [("kaggle", True)]
    # without anyone in time it is still there
    assert order(rank(task(within_s=1.0), [slow, late], State(), 0.1)) == ["local"]
    # and first, where it was asked for by name
    assert order(rank(task(within_s=1.0), [slow, paid], State(order=("local",)), 0.1))[0] == "local"


def test_what_would_be_late_only_because_it_is_cold_is_the_last_resort() -> None:
    """Refused, it would never be tried, and so never be warm."""
    cold = offer("kaggle", cold_s=100.0)
    late = offer("local", wait_s=100.0)
    paid = offer("modal", nano=10**12)
    assert order(rank(task(within_s=1.0), [cold, late, paid], State(), 0.1)) == ["modal", "local", "kaggle"]
    # whatever the person's order or fallback order is
    wish = State(order=("kaggle",), fallback=("kaggle", "local"))
    assert order(rank(task(within_s=1.0), [cold, late, paid], wish, 0.1)) == ["modal", "local", "kaggle"]
    # one that is cold, and would be late all the same, is left out
    slow = offer("vast", cold_s=100.0, wait_s=2.0)
    assert order(rank(task(within_s=1.0), [slow, late], State(), 0.1)) == ["local"]
    # without a deadline it is not late
    assert order(rank(task(), [cold, paid], State(), 0.1)) == ["kaggle", "modal"]


def test_the_deadline_must_be_met_19_times_in_20() -> None:
    """An unmeasured provider scatters: 2.3 times its median must fit. A measured one may be surer."""
    far = offer("vast", nano=1, round_trip_s=1.0)
    assert not rank(task(within_s=2.2), [far], State(), 0.0).ranked
    (refused,) = rank(task(within_s=2.2), [far], State(), 0.0).refused
    assert "deadline" in refused.reason
    assert "94 times in 100" in refused.reason
    assert order(rank(task(within_s=2.4), [far], State(), 0.0)) == ["vast"]
    sure = Standing("vast", measured=Measured(20, Timing(compute_s=1.0), 0.05))
    assert order(rank(task(within_s=1.2), [far], State(standings=(sure,)), 0.0)) == ["vast"]


def test_failures_are_priced_not_filtered() -> None:
    """Half of its calls fail: too few for a deadline at 95 %, and yet better than nobody."""
    shaky, sound = priced("vast", "T4", "0.20"), priced("modal", "T4", "0.59")
    state = State(standings=(Standing("vast", success=0.5),))
    assert order(rank(task(within_s=9.0), [shaky], state, 0.0)) == ["vast"]
    route = rank(task(within_s=9.0), [shaky, sound], state, 0.0)
    assert order(route) == ["modal", "vast"]
    expected = estimate(task(), shaky, state.standings[0])
    assert dict(route.ranked[1].terms)["risk"] == pytest.approx(0.05 * (1 - chance(expected, 9.0)))
    # what is in time 19 times of 20, and then fails every second time, is a risk of both
    tight = rank(task(within_s=0.12), [shaky], state, 0.0).ranked[0]
    on_time = in_time(expected.timing.total_s, expected.spread, 0.12)
    assert 0.95 < on_time < 0.99
    assert dict(tight.terms)["risk"] == pytest.approx(0.05 * (1 - 0.5 * on_time))
    # without a deadline an answer that never comes costs the same
    free = dict(rank(task(), [shaky], state, 0.0).ranked[0].terms)
    assert free["risk"] == pytest.approx(0.025)
    # who does not mind takes the cheaper one
    assert order(rank(task(within_s=9.0), [shaky, sound], replace(state, value_of_deadline=0.0), 0.0)) == [
        "vast", "modal",
    ]  # fmt: skip


def test_free_comes_first_among_the_sound() -> None:
    """A free machine that fails every second call costs the deadline of every second request."""
    offers = [offer("local"), priced("vast", "T4", "0.35")]
    for success, expected in ((0.8, ["local", "vast"]), (0.79, ["vast", "local"])):
        state = State(standings=(Standing("local", success=success),))
        assert order(rank(task(within_s=9.0), offers, state, 0.0)) == expected
    # whom a failure costs nothing is served for nothing
    careless = replace(state, value_of_deadline=0.0)
    assert order(rank(task(within_s=9.0), offers, careless, 0.0)) == ["local", "vast"]
    # and where all that is sound has no room, it still serves
    broke = replace(state, funds=(Funds("vast", NanoUSD(0)),))
    assert order(rank(task(within_s=9.0), offers, broke, 0.0)) == ["local"]


def test_a_queue_of_our_own_calls_is_waited_for() -> None:
    offers = [offer("local"), offer("kaggle", round_trip_s=0.1)]
    assert order(rank(task(), offers, State(), 0.0)) == ["local", "kaggle"]
    busy = State(standings=(Standing("local", queue_s=5.0),))
    assert order(rank(task(), offers, busy, 0.0)) == ["kaggle", "local"]


def test_answers_are_written_here_unless_the_person_named_another() -> None:
    answer = task(spec=Spec(Stage.ANSWER), size=Size(1, tokens=10_000))
    here, there = offer("local"), offer("kaggle", gpu=priced("kaggle", "T4", "1").gpu)
    assert rank(answer, [here, there], State(), 0.0).ranked[1].estimate.timing.total_s < 1.0
    assert order(rank(answer, [here, there], State(), 0.0)) == ["local", "kaggle"]
    assert order(rank(answer, [here, there], State(order=("kaggle",)), 0.0)) == ["kaggle", "local"]
    # any other stage goes to the faster
    assert order(rank(replace(answer, spec=Spec(Stage.RERANK)), [here, there], State(), 0.0)) == [
        "kaggle", "local",
    ]  # fmt: skip


def test_a_persons_priority_multiplies_the_score() -> None:
    a, b = priced("runpod", "T4", "0.30"), priced("vast", "T4", "0.30", round_trip_s=0.06)
    assert order(rank(task(), [a, b], State(), 0.0)) == ["runpod", "vast"]
    plain = rank(task(), [a, b], State(), 0.0).ranked[1]
    route = rank(task(), [a, b], State(priorities=(("vast", 0.5),)), 0.0)
    assert order(route) == ["vast", "runpod"]
    assert route.ranked[0].score == pytest.approx(plain.score / 2)
    assert "priorities" in route.why


def test_the_fallback_order_is_for_what_comes_behind_the_first() -> None:
    offers = [offer("local"), offer("kaggle", round_trip_s=1.0), priced("vast", "T4", "0.1"),
              priced("modal", "T4", "0.6")]  # fmt: skip
    assert order(rank(task(), offers, State(), 0.0)) == ["local", "kaggle", "vast", "modal"]
    route = rank(task(), offers, State(fallback=("modal", "kaggle")), 0.0)
    assert order(route) == ["local", "modal", "kaggle", "vast"]
    assert "number 1 in your order of fallbacks" in route.ranked[1].why
    # what was asked for first stays before
    both = State(order=("modal", "vast"), fallback=("kaggle",))
    assert order(rank(task(), offers, both, 0.0)) == ["modal", "vast", "kaggle", "local"]


def test_only_the_draw_breaks_a_tie_and_it_does_not_favour_a_name() -> None:
    twins = [offer("cloud a"), offer("cloud b")]
    firsts = [order(rank(task(), twins, State(), draw / 200))[0] for draw in range(200)]
    assert 60 < firsts.count("cloud a") < 140
    assert {rank(task(), twins, State(), 0.5).ranked[0].offer.id for _ in range(9)} == {
        rank(task(), twins[::-1], State(), 0.5).ranked[0].offer.id
    }
    # one that is better by anything at all wins under every draw
    better = [offer("cloud a"), offer("cloud b", round_trip_s=1e-6)]
    assert {order(rank(task(), better, State(), d / 50))[0] for d in range(50)} == {"cloud a"}


# Money --------------------------------------------------------------------------------------------


def test_money_grows_dearer_while_the_budget_is_ahead_of_its_time() -> None:
    """Half an hour's wait for half the price: worth it only when money is scarce."""
    bulk = task(lane=Lane.BATCH, size=Size(10**4, tokens=10**9))
    quick, cheap = priced("modal", "T4", "0.59"), priced("vast", "T4", "0.20", wait_s=1800.0)

    def told(used: float) -> Route:
        window = Window("all:month", used, 0.5)
        funds = tuple(Funds(n, NanoUSD(100 * NANO), budget=window) for n in ("modal", "vast"))
        return rank(bulk, [quick, cheap], State(value_of_hour=2.5, funds=funds), 0.0)

    assert order(told(0.5)) == ["modal", "vast"]
    assert "budget" not in dict(told(0.5).ranked[0].terms)
    assert order(told(0.9)) == ["vast", "modal"]
    terms = dict(told(0.9).ranked[0].terms)
    assert terms["budget"] == pytest.approx(4 * terms["money"])


def test_prepaid_credit_costs_nothing_while_it_covers_the_whole() -> None:
    a, b = priced("modal", "T4", "0.59"), priced("vast", "T4", "0.20")
    cost = estimate(task(), a).cost.amount
    for credit, first in ((cost, "modal"), (cost - 1, "vast")):
        funds = Funds("modal", NanoUSD(NANO), "", NanoUSD(credit))
        route = rank(task(), [a, b], State(funds=(funds,)), 0.0)
        assert order(route)[0] == first
    # and still comes behind what is free
    credit = State(funds=(Funds("modal", NanoUSD(NANO), "", NanoUSD(NANO)),))
    assert order(rank(task(), [a, offer("kaggle", round_trip_s=9.0)], credit, 0.0)) == ["kaggle", "modal"]


def test_what_is_not_billed_by_the_second_costs_nothing() -> None:
    """A machine of one's own may have a rate in its papers; nobody sends a bill."""
    own = offer("cluster", nano=10**9, billing=Billing.NOTHING)
    (scored,) = rank(task(), [own], State(funds=(Funds("cluster", NanoUSD(0)),)), 0.0).ranked
    assert scored.estimate.cost.amount == 0


@pytest.mark.parametrize(
    ("window", "lane", "first"),
    [
        (Window("q", 0.3, 0.5), Lane.LIVE, "colab"),    # behind uniform progress: free
        (Window("q", 0.7, 0.5), Lane.LIVE, "vast"),     # ahead: as dear as what is paid for, and slower
        (Window("q", 0.99, 0.5), Lane.BATCH, "colab"),  # the hours are kept for batch work
        (None, Lane.LIVE, "colab"),
    ],
)  # fmt: skip
def test_free_hours_are_paced_over_their_window(window: Window | None, lane: Lane, first: str) -> None:
    quota, paid = free_hours("colab"), priced("vast", "RTX 4090", "0.34")
    work = task(lane=lane, size=Size(64, tokens=10**5))
    state = State(funds=(Funds("colab", quota=window),))
    route = rank(work, [quota, paid], state, 0.0)
    assert order(route)[0] == first
    if first == "vast":
        terms = dict(route.ranked[1].terms)
        seconds = route.ranked[1].estimate.timing.total_s * math.exp(0.125)  # the mean of spread 0.5
        assert terms["quota"] == pytest.approx(0.34 / 3600 * seconds)
        # this machine takes no hours at all
        local = offer("local", round_trip_s=10.0)
        assert order(rank(work, [quota, paid, local], state, 0.0))[0] == "local"
        # where nothing else can be had it is taken all the same
        assert order(rank(work, [quota], state, 0.0)) == ["colab"]


def test_free_hours_are_worth_the_cheapest_gpu_that_is_paid_for() -> None:
    """Neither the dearest, nor a machine without a GPU, nor a price that cannot be."""
    state = State(funds=(Funds("colab", quota=Window("q", 1.0, 0.5)),), value_of_hour=0.0)
    odd = [offer("x", nano=1, gpu=CPU), offer("y", nano=10**400), offer("z", billing=Billing.SECONDS)]
    rates = [priced("vast", "A100", "1.19"), priced("runpod", "RTX 4090", "0.34"), *odd]
    for offers, dollars_per_hour in ((rates, 0.34), (odd, 0.16)):
        route = rank(task(), [free_hours("colab"), *offers], state, 0.0)
        quota = next(s for s in route.ranked if s.offer.provider == "colab")
        seconds = quota.estimate.timing.total_s * math.exp(0.125)
        assert dict(quota.terms)["quota"] == pytest.approx(dollars_per_hour / 3600 * seconds)


def test_a_week_of_live_work_leaves_the_hours_that_batch_work_needs() -> None:
    """Live work could use three times the free hours: it keeps to uniform progress."""
    quota, paid = free_hours("colab"), priced("vast", "RTX 4090", "0.34")
    work = task(size=Size(64, tokens=10**5))
    used = worst = 0.0
    for step in range(300):
        window = Window("q", used, step / 300)
        route = rank(work, [quota, paid], State(funds=(Funds("colab", quota=window),)), step / 300)
        if order(route)[0] == "colab":
            used += 3 / 300
        worst = max(worst, used - step / 300)
    assert 0.9 <= used <= 1.01
    assert worst <= 0.12


# Refusals -----------------------------------------------------------------------------------------


def need(**changes: object) -> dict[str, object]:
    return {"need": replace(task().need, **changes)}


FREE_HOURS = {"billing": Billing.QUOTA}


@pytest.mark.parametrize(
    ("change", "wanted", "state", "words"),
    [
        ({"lanes": frozenset({Lane.BATCH})}, {}, State(), "live lane"),
        ({"numerics": frozenset()}, {}, State(), "fp32"),
        ({"quota_left_s": 0.0} | FREE_HOURS, {}, State(), "0 s of quota left"),
        ({"quota_left_s": 1.0, "cold_s": 2.0} | FREE_HOURS, {}, State(), "quota left, 2 s expected"),
        ({}, need(vram_bytes=1 << 40), State(), "T4 has 16 GiB, 1024 needed"),
        ({}, need(capability=80), State(), "capability 7.5, 8.0 needed"),
        ({}, need(index="x"), State(), "index does not lie there"),
        ({}, need(only=frozenset({"nobody"})), State(), "asked for"),
        ({"billing": Billing.SECONDS}, {}, State(), "it says its price is zero"),
        ({"wait_s": 1e308, "cold_s": 1e308}, {}, State(), "beyond all reckoning"),
        ({"rate": ENDLESS.rate, "cold_s": 1e300, "billing": Billing.SECONDS}, {}, State(), "beyond all"),
        ({"wait_s": 9.0}, {"within_s": 1.0}, State(), "9.0 s expected, the deadline is 1.0 s"),
        ({}, {}, State(failed=(Refusal("kaggle", "it broke"),)), "it failed this task: it broke"),
        ({}, {}, State(standings=(Standing("kaggle", "its breaker opened once", 25.0),)),
         "its breaker opened once; again in 25.0 s"),
        ({}, {}, State(standings=(Standing("kaggle", "its key was refused"),)), "its key was refused"),
    ],
)  # fmt: skip
def test_a_refusal_says_why(
    change: dict[str, object], wanted: dict[str, object], state: State, words: str
) -> None:
    route = rank(task(**wanted), [offer("kaggle", **change)], state, 0.0)
    (refused,) = route.refused
    assert words in refused.reason
    assert words in route.why
    assert route.why.startswith("no offer")


def test_even_no_work_at_all_needs_some_quota_or_some_money() -> None:
    nothing = task(size=Size(0))
    for bare in (
        offer("kaggle", quota_left_s=0.0, billing=Billing.QUOTA),
        replace(priced("kaggle", "T4", "1"), round_trip_s=0.0),
    ):
        funds = State(funds=(Funds("kaggle", NanoUSD(0)),))
        assert estimate(nothing, bare).timing.total_s == estimate(nothing, bare).cost.amount == 0
        assert rank(nothing, [bare], funds, 0.0).ranked == ()


def test_waiting_for_a_machine_takes_no_quota() -> None:
    waits = offer("kaggle", quota_left_s=10.0, billing=Billing.QUOTA, wait_s=3600.0)
    assert order(rank(task(), [waits], State(), 0.0)) == ["kaggle"]


def test_a_refusal_says_when_it_may_end() -> None:
    """So that a request without any offer can wait for the first that recovers."""
    state = State(standings=(Standing("kaggle", "its breaker opened once", 25.0), Standing("vast", "no")))
    offers = [offer("kaggle"), offer("vast"), offer("modal", numerics=frozenset())]
    refused = rank(task(), offers, state, 0.0).refused
    assert {r.provider: r.again_s for r in refused} == {"kaggle": 25.0, "vast": None, "modal": None}


def test_what_no_waiting_changes_is_told_before_a_breaker() -> None:
    state = State(standings=(Standing("kaggle", "its breaker opened once", 25.0),))
    (refused,) = rank(task(), [offer("kaggle", lanes=frozenset({Lane.BATCH}))], state, 0.0).refused
    assert "live lane" in refused.reason
    assert refused.again_s is None


@pytest.mark.parametrize(("left", "fits"), [(-1, False), (0, False), (1, False), (10**9, True), (None, True)])
def test_the_money_left_is_a_limit(left: int | None, fits: bool) -> None:
    paid = priced("vast", "T4", "0.35")
    funds = Funds("vast", None if left is None else NanoUSD(left), "the month's budget is used up")
    route = rank(task(), [paid], State(funds=(funds,)), 0.0)
    assert bool(route.ranked) is fits
    if not fits:
        told = f"the month's budget is used up; {dollars(estimate(task(), paid).cost.amount)} expected"
        assert route.refused[0].reason == told
    # what costs no money needs none
    assert order(rank(task(), [free_hours("vast")], State(funds=(funds,)), 0.0)) == ["vast"]


def test_the_last_nano_dollar_may_be_spent() -> None:
    paid = priced("vast", "T4", "0.35")
    cost = estimate(task(), paid).cost.amount
    for left, fits in ((cost, True), (cost - 1, False)):
        route = rank(task(), [paid], State(funds=(Funds("vast", NanoUSD(left)),)), 0.0)
        assert bool(route.ranked) is fits


def test_this_machine_stays_out_where_the_person_ruled_it_out() -> None:
    only = replace(task(), need=Need(Stage.EMBED, Lane.LIVE, only=frozenset({"modal"})))
    assert rank(only, [offer("local")], State(), 0.0).ranked == ()


def test_asked_for_first_and_unfit_is_refused_with_its_reason_and_the_next_one_serves() -> None:
    offers = [offer("kaggle", lanes=frozenset({Lane.BATCH})), offer("local")]
    route = rank(task(), offers, State(order=("kaggle",)), 0.0)
    assert order(route) == ["local"]
    assert "live lane" in route.refused[0].reason


def test_a_score_that_no_number_holds_is_a_refusal() -> None:
    route = rank(task(), [offer("kaggle", wait_s=1e9), offer("local")], State(value_of_hour=1e308), 0.0)
    assert order(route) == ["local"]
    assert [(r.provider, "reckoning" in r.reason) for r in route.refused] == [("kaggle", True)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_state_that_cannot_be_is_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match="value of an hour"):
        State(value_of_hour=bad)
    with pytest.raises(ValueError, match="value of a deadline"):
        State(value_of_deadline=bad)
    with pytest.raises(ValueError, match="priority of vast"):
        State(priorities=(("vast", bad),))
    with pytest.raises(ValueError, match="priority of vast"):
        State(priorities=(("vast", 0.0),))


def test_a_call_pays_for_what_stays_up_because_of_it() -> None:
    """All of the idle time where it starts a worker, what passed since the last call where one is warm."""
    warm = priced("vast", "T4", "3.60", idle_s=60.0)  # a second is a tenth of a cent

    def idle(o: Offer, since_s: float | None) -> float:
        state = State(standings=(Standing("vast", since_s=since_s),))
        return dict(rank(task(), [o], state, 0.0).ranked[0].terms).get("idle", 0.0)

    assert idle(warm, 0.0) == 0.0
    assert idle(warm, 7.0) == pytest.approx(0.007)
    assert idle(warm, 900.0) == idle(warm, None) == pytest.approx(0.06)
    cold = replace(warm, cold_s=12.0)
    assert idle(cold, 7.0) == idle(cold, None) == pytest.approx(0.06)
    assert idle(cold, 0.0) == 0.0  # another call starts it
    assert idle(replace(warm, idle_s=None), 7.0) == 0.0  # nobody tells
    assert idle(replace(free_hours("vast"), idle_s=60.0), 7.0) == 0.0  # nobody bills


def test_work_stays_where_a_worker_is_up_anyway_and_the_words_say_so() -> None:
    """The faster one at the same price would have to stay up for it."""
    busy = priced("vast", "RTX 4090", "0.40", idle_s=300.0)
    quick = priced("modal", "A100", "0.40", idle_s=300.0)
    waits = task(size=Size(1, tokens=100_000))
    fresh = (Standing("vast", since_s=0.5), Standing("modal", since_s=0.5))
    apart = (Standing("vast", since_s=0.5), Standing("modal", since_s=250.0))
    assert order(rank(waits, [busy, quick], State(standings=fresh), 0.0))[0] in ("vast", "modal")
    route = rank(waits, [busy, quick], State(standings=apart), 0.0)
    assert order(route) == ["vast", "modal"]
    assert "stay up" in route.ranked[1].why and "staying up less" in route.ranked[0].why


def test_prepaid_credit_pays_for_idle_seconds_too() -> None:
    warm = priced("vast", "T4", "3.60", idle_s=60.0)
    for credit, paid in ((NANO, False), (NANO // 100, True)):
        state = State(funds=(Funds("vast", None, "", credit, None, None),))
        terms = dict(rank(task(), [warm], state, 0.0).ranked[0].terms)
        assert ("idle" in terms) == paid == (terms["money"] > 0)


def test_while_one_is_being_started_the_lost_wait_there_and_start_no_other() -> None:
    wanted = task(within_s=1.0)
    free = free_hours("colab", cold_s=30.0)
    quick, other = (priced(n, "T4", "0.80", cold_s=9.0, idle_s=60.0) for n in ("modal", "runpod"))
    here = offer("local", wait_s=3.0)
    state = State(standings=(Standing("modal", since_s=0.0),))
    route = rank(wanted, [here, free, quick, other], state, 0.0)
    assert order(route) == ["modal", "local", "colab", "runpod"]
    assert "modal is being started already" in route.ranked[-1].why
    both = State(standings=(Standing("modal", since_s=0.0), Standing("colab", since_s=0.0)))
    assert order(rank(wanted, [here, free, quick, other], both, 0.0)) == ["modal", "colab", "local", "runpod"]


def test_a_decision_that_was_logged_before_idle_seconds_were_known_replays(ledger: Ledger) -> None:
    """By its route: the name of the policy is a later one's."""
    cold = priced("modal", "T4", "0.35", cold_s=9.0), free_hours("colab", cold_s=9.0)
    offers = (offer("local", wait_s=3.0), *cold)
    state = State(standings=(Standing("modal", success=0.9),))
    inputs = Inputs(task(within_s=1.0), offers, (), state, 0.0)
    told = json.loads(dump(inputs))
    for kept in told["offers"]:
        del kept["idle_s"]
    for kept in told["state"]["standings"]:
        del kept["since_s"]
    before = ledger.load(Inputs, json.dumps(told))
    logged = replace(rank(inputs.task, offers, state, 0.0), policy="free-first-2")
    assert order(logged) == ["colab", "modal", "local"]
    assert same(replay(before), logged)


def test_a_complex_question_is_waited_for_three_times() -> None:
    simple, hard = (
        dict(rank(task(complexity=c), [offer("vast", nano=1)], State(), 0.0).ranked[0].terms)
        for c in (Complexity.SIMPLE, Complexity.COMPLEX)
    )
    assert hard["time"] == pytest.approx(3 * simple["time"])
    assert hard["money"] == simple["money"]


def test_where_this_machine_has_no_even_chance_the_cold_go_first_and_start() -> None:
    """The request is as good as lost; those behind it find a worker that runs, and a shorter queue."""
    cold = [priced("modal", "T4", "0.35", cold_s=9.0), free_hours("colab", cold_s=9.0)]
    wanted = task(within_s=1.0)
    for wait_s, expected in ((0.8, ["local", "colab", "modal"]), (3.0, ["colab", "modal", "local"])):
        assert order(rank(wanted, [offer("local", wait_s=wait_s), *cold], State(), 0.0)) == expected
    warm = priced("vast", "T4", "9.0")
    found = order(rank(wanted, [offer("local", wait_s=3.0), *cold, warm], State(), 0.0))
    assert found == ["vast", "local", "colab", "modal"]
