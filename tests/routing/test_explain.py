"""The words name what decided, and nothing that did not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from routed import ANSWERS, DRAWS, STATES, TASKS, free_hours, offer, priced, task

from accel.core.funds import Funds, Window
from accel.core.money import NANO, NanoUSD
from accel.core.offer import Offer, Unfit
from accel.core.task import Lane, Size, Spec, Stage, Task
from accel.routing import Standing, State, rank
from accel.routing.explain import span

LIVE = task(spec=Spec(Stage.KERNEL))  # a stage for which no GPU is the favourite
AHEAD = Window("w", 0.7, 0.5)
T4 = priced("elsewhere", "T4", "0.35")
A, B = priced("a", "T4", "0.35"), priced("b", "T4", "0.35")


def whys(wanted: Task, state: State, *offers: Offer) -> list[str]:
    """Each offer's sentence, in the order to try them."""
    return [s.why for s in rank(wanted, offers, state, 0.5).ranked]


@pytest.mark.parametrize(
    ("wanted", "state", "offers", "first", "second"),
    [
        (LIVE, State(order=("modal",)), [offer("local"), replace(T4, provider="modal")],
         "asked for first; 51 ms, prior", "fallback: modal was asked for; 19 ms, prior"),
        (replace(LIVE, within_s=1.0), State(), [offer("local", wait_s=2.0), T4],
         "meets the deadline of 1.0 s: 51 ms, prior",
         "fallback: it would miss the deadline of 1.0 s; 2.0 s, prior"),
        (replace(LIVE, target_s=1.0), State(), [offer("kaggle", wait_s=2.0), T4],
         "meets the target of 1.0 s: 51 ms, prior, kaggle 2.0 s",
         "it would miss the target of 1.0 s; 2.0 s, prior"),
        (replace(LIVE, within_s=1.0), State(), [offer("local", wait_s=2.0), replace(T4, cold_s=9.0)],
         "nothing is sure to meet the deadline of 1.0 s: 9.1 s, prior, local 2.0 s",
         "it would most likely miss the deadline of 1.0 s, and elsewhere starts up meanwhile; 2.0 s, prior"),
        (replace(LIVE, within_s=1.0), State(), [offer("local", wait_s=0.9), replace(T4, cold_s=9.0)],
         "nothing is sure to meet the deadline of 1.0 s: 919 ms, prior, elsewhere 9.1 s",
         "last resort: cold, it would miss the deadline of 1.0 s, which it meets warm (51 ms); 9.1 s, prior"),
        (replace(LIVE, spec=Spec(Stage.ANSWER)), State(), [offer("local", wait_s=2.0), T4],
         "answers are written here; 2.0 s, prior", "answers are written on this machine; 51 ms, prior"),
        (LIVE, State(), [offer("local"), T4],
         "free and fastest: 19 ms, prior, elsewhere 51 ms", "paid, and local is free; 51 ms, prior"),
        (LIVE, State(), [offer("local", wait_s=2.0), T4],
         "free: 2.0 s, prior, elsewhere 51 ms", "paid, and local is free; 51 ms, prior"),
        (LIVE, State(funds=(Funds("colab", quota=AHEAD),)), [offer("local", wait_s=2.0), free_hours("colab")],
         "free: 2.0 s, prior, colab 51 ms",
         "its free hours are kept for batch work, and local takes none; 51 ms, prior"),
        (LIVE, State(standings=(Standing("a", success=0.9),)), [offer("a"), offer("b", wait_s=2.0)],
         "free and surer: 2.0 s, prior, a 1 ms", "less sure: score "),
        (LIVE, State(standings=(Standing("a", success=0.5),)), [offer("a"), offer("b", wait_s=2.0)],
         "free: 2.0 s, prior, a 1 ms", "free, but 50% of its calls succeed, and b is sound; 1 ms, prior"),
        (LIVE, State(), [A, priced("b", "T4", "0.45")],
         "best price for the time: 51 ms, prior, b 51 ms",
         "dearer: score $0.000023 against $0.000022; 51 ms, prior"),
        (LIVE, State(), [A, priced("b", "T4", "0.35", round_trip_s=0.5)],
         "best price for the time: 51 ms, prior, b 501 ms", "slower: score "),
        (LIVE, State(standings=(Standing("b", success=0.5),)),
         [A, B], "surer: 51 ms", "less sure: score "),
        (LIVE, State(priorities=(("a", 0.5),)), [A, priced("b", "T4", "0.34")],
         "preferred by your priorities: 51 ms", "behind by your priorities: score "),
        (LIVE, State(), [priced("modal", "T4", "0.35"), priced("b", "T4", "0.35")],
         "best for such work: 51 ms", "another is best for such work: score "),
        (LIVE, State(funds=(Funds("b", NanoUSD(NANO), budget=AHEAD),)),
         [A, B],
         "sparing a budget used ahead of its time: 51 ms",
         "dearer, and a budget is used ahead of its time: score "),
        (LIVE, State(funds=(Funds("colab", quota=AHEAD),), value_of_hour=0.0),
         [free_hours("colab"), priced("a", "T4", "0.1", round_trip_s=0.01), priced("b", "T4", "9")],
         "sparing free hours: 11 ms", "its free hours are kept for batch work: score "),
        (LIVE, State(), [A, B], "by lot: 51 ms", "by lot: score "),
    ],
)  # fmt: skip
def test_what_decided_is_named(
    wanted: Task, state: State, offers: list[Offer], first: str, second: str
) -> None:
    told = whys(wanted, state, *offers)
    assert told[0].startswith(first)
    assert told[1].startswith(second)
    assert whys(wanted, state, *offers[::-1]) == told


def test_an_only_offer_says_so_and_whether_it_is_late() -> None:
    assert whys(LIVE, State(), T4) == ["only fit offer; 51 ms, prior"]
    late = whys(replace(LIVE, within_s=1.0), State(), offer("local", wait_s=2.0))
    assert late == ["only fit offer, and may well miss the deadline of 1.0 s; 2.0 s, prior"]
    asked = whys(
        replace(LIVE, within_s=1.0), State(order=("local",)), offer("local", wait_s=2.0), offer("vast")
    )
    assert asked[0] == "asked for first, and may well miss the deadline of 1.0 s; 2.0 s, prior"


def test_the_first_is_held_against_the_best_of_the_others_not_the_persons_next() -> None:
    offers = [offer("local"), offer("kaggle", wait_s=1.0), priced("modal", "T4", "1")]
    told = whys(LIVE, State(fallback=("modal",)), *offers)
    assert told == [
        "free and fastest: 19 ms, prior, kaggle 1.0 s",
        "paid, and local is free; 51 ms, prior; number 1 in your order of fallbacks",
        "slower: score $0.000315 against $0.000006; 1.0 s, prior",
    ]


def test_batch_hours_are_free_and_say_so() -> None:
    state = State(funds=(Funds("kaggle", quota=Window("q", 0.9, 0.1)),))
    told = whys(replace(LIVE, lane=Lane.BATCH), state, free_hours("kaggle"), T4)
    assert told[1].startswith("paid, and kaggle is free")


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_free_and_fastest_is_both(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    ranked = rank(task, answers, state, draw).ranked
    if not ranked:
        return
    first = ranked[0]
    if "fastest" in first.why:
        assert first.estimate.cost.amount == 0
        assert "quota" not in dict(first.terms)
        assert first.estimate.timing.total_s == min(s.estimate.timing.total_s for s in ranked)
    if len(ranked) == 1 and first.offer.provider not in state.order:
        assert first.why.startswith("only fit offer")
    assert all("\n" not in s.why and s.estimate.basis in s.why for s in ranked)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 ms"), (0.0123, "12 ms"), (1.0, "1.0 s"), (119.0, "119.0 s"), (240.0, "4 min"),
     (9000.0, "2.5 h")],
)  # fmt: skip
def test_seconds_are_told_as_people_do(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_a_refused_large_task_tells_sizes_in_words() -> None:
    big = task(size=Size(1, tokens=10**9), within_s=60.0)
    (refused,) = rank(big, [T4], State(), 0.0).refused
    assert refused.reason == "2.4 h expected, the deadline is 60.0 s"
