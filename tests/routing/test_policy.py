"""``rank`` is pure, replays from the ledger, prefers free, obeys deadlines, and never drops this machine."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.attempt import Refusal, Route, Timing
from accel.core.money import NanoUSD, Rate
from accel.core.offer import CPU, Gpu, Offer, Realm, Unfit
from accel.core.task import Lane, Need, Numerics, Size, Spec, Stage, Task
from accel.ledger import Ledger
from accel.ledger.database import dump
from accel.routing import Inputs, Measured, State, rank, replay
from accel.routing.estimate import MIN_SAMPLES, estimate
from accel.routing.gpus import SHEETS, sheet

NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAMES = ("local", "kaggle", "runpod", "vast", "modal")
SECONDS = st.floats(0, 1e5)


def offer(name: str, *, nano: int = 0, **changes: object) -> Offer:
    base = Offer(
        f"{name}-1", name, Realm.SIMULATED, CPU if name == "local" else Gpu("T4", 1, 16 << 30, 75),
        Rate(NanoUSD(nano), date(2026, 11, 23), "test"), NOW, "test",
    )  # fmt: skip
    return replace(base, **changes)


def task(**changes: object) -> Task:
    spec = Spec(Stage.EMBED)
    base = Task("t", Lane.LIVE, spec, Size(1, tokens=100), Need(Stage.EMBED, Lane.LIVE))
    return replace(base, **changes)


OFFERS = st.builds(
    offer, st.sampled_from(NAMES), nano=st.integers(0, 10**10), wait_s=SECONDS, cold_s=SECONDS,
    round_trip_s=SECONDS, seconds_per_byte=st.floats(0, 1e-3), quota_left_s=st.none() | SECONDS,
    lanes=st.frozensets(st.sampled_from(Lane)), numerics=st.frozensets(st.sampled_from(Numerics)),
    resident=st.frozensets(st.sampled_from(["i", "j"])),
    gpu=st.sampled_from([CPU, Gpu("Tesla T4", 2, 15 << 30, 75), Gpu("B200", 8, 180 << 30, 100)]),
)  # fmt: skip
UNFIT = st.builds(
    Unfit, st.sampled_from(NAMES), st.just(Realm.SIMULATED), st.text(max_size=9), st.just(NOW)
)
ANSWERS = st.lists(OFFERS | UNFIT, max_size=5, unique_by=lambda o: o.provider)
NEEDS = st.builds(
    Need, st.just(Stage.EMBED), st.sampled_from(Lane), st.sampled_from(Numerics),
    vram_bytes=st.sampled_from([0, 16 << 30]), capability=st.sampled_from([0, 80]),
    index=st.sampled_from(["", "i"]), only=st.frozensets(st.sampled_from(NAMES), max_size=2),
)  # fmt: skip
TASKS = st.builds(
    Task, st.text(max_size=5), st.sampled_from(Lane),
    st.builds(Spec, st.sampled_from([Stage.EMBED, Stage.SEARCH]), numerics=st.sampled_from(Numerics)),
    st.builds(Size, *(st.integers(0, 10**n) for n in (6, 9, 9, 12))),
    NEEDS, within_s=st.none() | st.floats(0.001, 1e6),
)  # fmt: skip
TIMINGS = st.builds(Timing, SECONDS, SECONDS, SECONDS, SECONDS)
STATES = st.builds(
    State, order=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
    failed=st.lists(st.builds(Refusal, st.sampled_from(NAMES), st.text(max_size=5)), max_size=1).map(tuple),
    budget_left=st.none() | st.integers(0, 10**12), value_of_hour=st.floats(0, 100),
    history=st.lists(
        st.builds(Measured, st.sampled_from(NAMES), st.just(Stage.EMBED),
                  st.builds(Size, st.integers(0, 9), st.integers(0, 10**6)), TIMINGS), max_size=8,
    ).map(tuple),
)  # fmt: skip
DRAWS = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("l") / "ledger.sqlite3", Realm.SIMULATED)


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_a_logged_decision_gives_the_same_route_again(
    ledger: Ledger, task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    """Through JSON, as ``accel explain --replay`` does it."""
    offers = tuple(a for a in answers if isinstance(a, Offer))
    unfit = tuple(a for a in answers if isinstance(a, Unfit))
    inputs = Inputs(task, offers, unfit, state, draw)
    route = rank(task, (*offers, *unfit), state, draw)
    stored = ledger.load(Inputs, dump(inputs))
    assert stored == inputs
    assert replay(stored) == route == ledger.load(Route, dump(route))


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_every_answer_is_ranked_or_refused_with_a_reason(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    route = rank(task, answers, state, draw)
    ranked = [s.offer.provider for s in route.ranked]
    refused = [r.provider for r in route.refused]
    assert sorted(ranked + refused) == sorted(a.provider for a in answers)
    unfit = {a.provider: a.reason for a in answers if isinstance(a, Unfit)}
    assert all(r.reason == unfit[r.provider] if r.provider in unfit else r.reason for r in route.refused)
    for scored in route.ranked:
        assert scored.why
        assert scored.score == pytest.approx(sum(value for _, value in scored.terms))


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS, seed=st.integers())
def test_the_order_of_the_answers_does_not_matter(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float, seed: int
) -> None:
    shuffled = random.Random(seed).sample(answers, len(answers))
    assert rank(task, shuffled, state, draw).ranked == rank(task, answers, state, draw).ranked


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_what_is_ranked_meets_every_need(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    for scored in rank(task, answers, state, draw).ranked:
        o, need, seconds = scored.offer, task.need, scored.estimate.timing.total_s
        assert task.lane in o.lanes
        assert need.numerics in o.numerics
        assert not need.only or o.provider in need.only
        assert o.gpu.vram_bytes >= need.vram_bytes
        assert o.gpu.capability >= need.capability
        assert not need.index or need.index in o.resident
        assert o.quota_left_s is None or o.quota_left_s >= seconds
        assert state.budget_left is None or scored.estimate.cost.amount <= state.budget_left
        assert task.within_s is None or seconds <= task.within_s or o.provider == "local"
        assert o.provider not in {f.provider for f in state.failed}


@given(task=TASKS, answers=ANSWERS, draw=DRAWS)
def test_free_comes_before_paid_where_both_meet_the_deadline(
    task: Task, answers: list[Offer | Unfit], draw: float
) -> None:
    in_time = [
        s.offer.rate.free
        for s in rank(task, answers, State(), draw).ranked
        if task.within_s is None or s.estimate.timing.total_s <= task.within_s
    ]
    assert in_time == sorted(in_time, reverse=True)


def test_a_slow_free_offer_comes_before_a_fast_cheap_one_that_scores_better() -> None:
    slow, fast = offer("kaggle", wait_s=3600.0), offer("modal", nano=1)
    route = rank(task(), [fast, slow], State(value_of_hour=100.0), 0.5)
    assert [s.offer.provider for s in route.ranked] == ["kaggle", "modal"]
    assert route.ranked[0].score > route.ranked[1].score
    assert "kaggle is free" in route.ranked[1].why


def test_the_persons_own_order_comes_before_free_and_cheap() -> None:
    offers = [offer("local"), offer("kaggle"), offer("modal", nano=10**9)]
    route = rank(task(), offers, State(order=("modal",)), 0.5)
    assert route.ranked[0].offer.provider == "modal"
    assert route.why.startswith("asked for first")


def test_this_machine_is_never_dropped_for_the_deadline_but_goes_behind_who_meets_it() -> None:
    slow = offer("local", cold_s=100.0)
    paid = offer("modal", nano=10**12)
    late = offer("kaggle", cold_s=100.0)
    route = rank(task(within_s=1.0), [slow, late, paid], State(), 0.1)
    assert [s.offer.provider for s in route.ranked] == ["modal", "local"]
    assert "deadline" in route.ranked[0].why
    assert "would miss the deadline" in route.ranked[1].why
    assert [(r.provider, "deadline" in r.reason) for r in route.refused] == [("kaggle", True)]
    # without anyone in time it is still there
    alone = rank(task(within_s=1.0), [slow, late], State(), 0.1)
    assert [s.offer.provider for s in alone.ranked] == ["local"]


def test_this_machine_stays_out_where_the_person_ruled_it_out() -> None:
    only = replace(task(), need=Need(Stage.EMBED, Lane.LIVE, only=frozenset({"modal"})))
    assert rank(only, [offer("local")], State(), 0.0).ranked == ()


def test_only_the_draw_breaks_a_tie_and_it_does_not_favour_a_name() -> None:
    twins = [offer("runpod"), offer("vast")]
    firsts = [rank(task(), twins, State(), draw / 200).ranked[0].offer.provider for draw in range(200)]
    assert 60 < firsts.count("vast") < 140
    # one that is better by anything at all wins under every draw
    better = [offer("runpod"), offer("vast", round_trip_s=1e-6)]
    assert {rank(task(), better, State(), d / 50).ranked[0].offer.provider for d in range(50)} == {"runpod"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lanes": frozenset({Lane.BATCH})}, "live lane"), ({"numerics": frozenset()}, "fp32"),
        ({"quota_left_s": 0.0, "cold_s": 1.0}, "quota"),
    ],
)  # fmt: skip
def test_a_refusal_says_why(change: dict[str, object], words: str) -> None:
    (refused,) = rank(task(), [offer("kaggle", **change)], State(), 0.0).refused
    assert words in refused.reason


def test_measured_attempts_replace_the_prior_once_there_are_enough() -> None:
    done = Measured("kaggle", Stage.EMBED, Size(1, tokens=100), Timing(1.0, 2.0, 3.0, 4.0))
    few = estimate(task(), offer("kaggle", cold_s=9.0), [done] * (MIN_SAMPLES - 1))
    enough = estimate(task(), offer("kaggle", cold_s=9.0), [done] * MIN_SAMPLES)
    assert few.basis == "prior"
    assert enough.basis == f"measured n={MIN_SAMPLES}"
    assert enough.timing == done.timing
    # others' attempts, other stages and other sizes teach nothing about this one
    for other in (
        replace(done, provider="vast"), replace(done, stage=Stage.RERANK),
        replace(done, size=Size(1, tokens=1000)),
    ):
        assert estimate(task(), offer("kaggle"), [other] * 9).basis == "prior"
    # a machine that is warm now has no cold start, whatever it had before
    assert estimate(task(), offer("kaggle", cold_s=0.0), [done] * 9).timing.cold_s == 0.0


@given(st.integers(0, 10**8), st.integers(0, 10**8))
def test_more_work_is_never_expected_to_take_less(a: int, b: int) -> None:
    low, high = sorted((a, b))

    def seconds(tokens: int, name: str) -> float:
        gpu = CPU if name == "cpu" else Gpu(name, 1, 16 << 30, 75)
        return estimate(task(size=Size(1, tokens=tokens)), offer("x", gpu=gpu), ()).timing.total_s

    for name in ("cpu", "T4", "B200", "some GPU nobody knows"):
        assert seconds(low, name) <= seconds(high, name)


@pytest.mark.parametrize(
    ("driver", "name"),
    [("Tesla T4", "T4"), ("NVIDIA L4", "L4"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H200", "H200"),
     ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA B200", "B200"), ("cpu", None), ("Tesla T40", None)],
)  # fmt: skip
def test_the_data_sheet_is_found_by_whole_words(driver: str, name: str | None) -> None:
    assert sheet(driver) is (SHEETS[name] if name else None)
