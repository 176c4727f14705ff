"""The guide's preferences, each against today's prices; they choose a GPU, never another Spec.

Prices per GPU hour are those of late 2026: RunPod community RTX 4090 $0.34, A100 40 GB $1.00 and 80 GB
$1.19, H100 $1.99, B200 $5.98; Vast interruptible A100 $0.40; Modal T4 $0.59, L4 $0.80, A100 $2.50, H100
$3.95.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from routed import ANSWERS, DRAWS, STATES, TASKS, free_hours, offer, order, priced, task

from accel.core.offer import Offer, Unfit
from accel.core.task import Complexity, Lane, Need, Numerics, Size, Spec, Stage, Task
from accel.routing import Standing, State, rank
from accel.routing.best_for import BEST_FOR, GPU_SHARE, PLACE_SHARE, share, suits

RERANK = Spec(Stage.RERANK, model="m", numerics=Numerics.FP16)
MILLION = 10**6


def work(stage: Stage, lane: Lane = Lane.LIVE, **changes: object) -> Task:
    """In half precision, where the GPUs differ most."""
    spec = Spec(stage, model="m", numerics=Numerics.FP16)
    return task(lane=lane, spec=spec, need=Need(stage, lane, Numerics.FP16), **changes)


def first(wanted: Task, *offers: Offer) -> str:
    """The GPU that gets it."""
    return rank(wanted, offers, State(), 0.5).ranked[0].offer.gpu.name


ALL = (
    priced("modal", "T4", "0.59"), priced("modal", "L4", "0.80"), priced("runpod", "RTX 4090", "0.34"),
    priced("runpod", "A100", "1.19"), priced("runpod", "H100", "1.99"), priced("runpod", "B200", "5.98"),
)  # fmt: skip


# What the guide says of each provider -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "best", "not_best"),
    [
        ("kaggle", work(Stage.EMBED, Lane.BATCH), work(Stage.RERANK, Lane.BATCH)),
        ("kaggle", work(Stage.SEARCH), work(Stage.ANSWER)),
        ("colab", work(Stage.KERNEL, Lane.BATCH), work(Stage.EMBED, Lane.BATCH)),
        ("colab", work(Stage.EMBED), work(Stage.EMBED, complexity=Complexity.COMPLEX)),
        ("runpod", work(Stage.RERANK, size=Size(100, tokens=30_000)), work(Stage.RERANK)),
        ("runpod", work(Stage.SEARCH, size=Size(1, read_bytes=8 << 30)), work(Stage.SEARCH)),
        ("runpod", work(Stage.EMBED, size=Size(10**5, tokens=20 * MILLION)), work(Stage.EMBED)),
        ("runpod", work(Stage.RERANK, Lane.BATCH), work(Stage.TRAIN, size=Size(10**5, tokens=20 * MILLION))),
        ("vast", work(Stage.EMBED, Lane.BATCH), work(Stage.EMBED)),
        ("vast", work(Stage.TRAIN), work(Stage.ANSWER)),
        ("modal", work(Stage.EMBED), work(Stage.EMBED, Lane.BATCH)),
        ("cluster", work(Stage.EMBED, Lane.BATCH, size=Size(10**7, tokens=10**9)), work(Stage.EMBED)),
        ("cluster", work(Stage.SEARCH, size=Size(1, read_bytes=1 << 41)), work(Stage.RERANK)),
    ],
)  # fmt: skip
def test_a_provider_is_spared_a_little_on_what_the_guide_calls_it_best_for(
    provider: str, best: Task, not_best: Task
) -> None:
    """Two like offers: what each is best for goes to it, and the other kind is decided by price."""
    assert suits(provider, best)
    assert not suits(provider, not_best)
    for wanted, bare in ((best, -PLACE_SHARE), (not_best, 0.0)):
        offers = [priced(provider, "RTX 4090", "0.3500"), priced("elsewhere", "RTX 4090", "0.3499")]
        route = rank(wanted, offers, State(), 0.5)
        expected = [provider, "elsewhere"] if bare else ["elsewhere", provider]
        if wanted.spec.stage is not Stage.ANSWER:
            assert order(route) == expected
        terms = dict(next(s for s in route.ranked if s.offer.provider == provider).terms)
        others = sum(v for name, v in terms.items() if name != "best_for")
        favourite = -GPU_SHARE if wanted.spec.stage in (Stage.EMBED, Stage.SEARCH) else 0.0
        assert terms.get("best_for", 0.0) == pytest.approx((bare + favourite) * others)


def test_every_provider_of_the_guide_has_its_prior_and_this_machine_none() -> None:
    assert set(BEST_FOR) == {"kaggle", "colab", "runpod", "vast", "modal", "cluster"}
    assert share(work(Stage.EMBED), "local", favourite=False) == 0.0
    assert share(work(Stage.EMBED), "modal", favourite=True) == PLACE_SHARE + GPU_SHARE


def test_a_price_that_is_clearly_lower_outweighs_what_is_best() -> None:
    live = work(Stage.KERNEL)
    dear, cheap = priced("modal", "A100", "2.50"), priced("runpod", "A100", "1.19")
    assert suits("modal", live)
    assert order(rank(live, [dear, cheap], State(), 0.5)) == ["runpod", "modal"]


def test_background_work_goes_to_interruptible_offers_and_live_work_to_what_is_warm() -> None:
    spot = priced("vast", "A100", "0.40", cold_s=60.0, wait_s=30.0, interruptible=True)
    warm = priced("modal", "A100", "2.50")
    bulk = work(Stage.EMBED, Lane.BATCH, size=Size(10**6, tokens=10**10))
    assert order(rank(bulk, [spot, warm], State(), 0.5)) == ["vast", "modal"]
    assert order(rank(work(Stage.EMBED), [spot, warm], State(), 0.5)) == ["modal", "vast"]


# The stages -------------------------------------------------------------------------------------------


def test_embedding_goes_to_the_fastest_feasible_gpu() -> None:
    corpus = work(Stage.EMBED, Lane.BATCH, size=Size(10**5, tokens=100 * MILLION))
    assert first(corpus, *ALL) == "B200"
    assert first(corpus, *ALL[:-1]) == "H100"
    assert first(corpus, *ALL[:-2]) == "A100"
    assert first(corpus, *ALL[:-3]) == "RTX 4090"
    # feasible: what has the memory, and is free
    assert first(replace(corpus, need=replace(corpus.need, capability=90)), *ALL) == "B200"
    assert order(rank(corpus, [*ALL, free_hours("kaggle")], State(), 0.5))[0] == "kaggle"
    # in single precision an RTX 4090 is faster than a B200, says its sheet
    fp32 = replace(corpus, spec=replace(corpus.spec, numerics=Numerics.FP32))
    assert first(fp32, *ALL) == "RTX 4090"


def test_no_cpu_is_a_favourite_gpu() -> None:
    """Here is the fastest place for one text, and still the fastest GPU is the other one."""
    route = rank(task(), [offer("local"), priced("x", "T4", "0.35")], State(), 0.5)
    assert order(route) == ["local", "x"]
    assert ["best_for" in dict(s.terms) for s in route.ranked] == [False, True]


def test_of_two_embedders_about_as_dear_the_faster_one_is_taken() -> None:
    """By the prior alone: the slower one costs 3 % less in all."""
    corpus = work(Stage.EMBED, Lane.BATCH, size=Size(10**5, tokens=100 * MILLION))
    slow, fast = priced("runpod", "A100", "0.56"), priced("runpod", "H100", "4.10")
    route = rank(corpus, [slow, fast], State(), 0.5)
    assert route.ranked[0].offer.gpu.name == "H100"
    assert "best_for" in dict(route.ranked[0].terms)
    without = [sum(v for n, v in s.terms if n != "best_for") for s in route.ranked]
    assert without[0] > without[1]


def test_searching_goes_to_the_most_memory_and_first_to_where_the_index_lies() -> None:
    search = work(Stage.SEARCH, size=Size(64, read_bytes=20 << 30), inputs=("index",))
    large = replace(priced("runpod", "A100", "1.19"), id="80")
    small = replace(priced("runpod", "A100", "1.00"), id="40", gpu=replace(large.gpu, vram_bytes=40 << 30))
    assert [s.offer.id for s in rank(search, [small, large], State(), 0.5).ranked] == ["80", "40"]
    # what it reads must fit at all
    fits = replace(search, need=replace(search.need, vram_bytes=60 << 30))
    assert first(fits, *ALL[:4]) == "A100"
    # the index lies at the smaller one
    there = replace(small, resident=frozenset({"index"}))
    assert [s.offer.id for s in rank(search, [there, large], State(), 0.5).ranked] == ["40", "80"]
    # and where it must lie, nobody else is considered
    must = replace(search, need=replace(search.need, index="index"))
    assert [s.offer.id for s in rank(must, [there, large], State(), 0.5).ranked] == ["40"]
    # two GPUs hold more than one of the same kind
    twice = replace(large, id="2 × 80", gpu=replace(large.gpu, count=2))
    assert rank(search, [large, twice], State(), 0.5).ranked[0].offer.id == "2 × 80"


def test_rerank_batches_go_to_an_a100_class_gpu_where_there_is_one() -> None:
    pairs = work(Stage.RERANK, Lane.BATCH, size=Size(10**5, tokens=30 * MILLION))
    assert first(pairs, *ALL[:4]) == "A100"
    assert first(pairs, *ALL[:5]) == "H100"
    assert first(pairs, *ALL[:3]) == "RTX 4090"
    # by the prior alone: at this price an RTX 4090 comes to a little less
    cheap, a100 = priced("x", "RTX 4090", "0.12"), priced("x", "A100", "1.19")
    route = rank(pairs, [cheap, a100], State(), 0.5)
    assert route.ranked[0].offer.gpu.name == "A100"
    without = [sum(v for n, v in s.terms if n != "best_for") for s in route.ranked]
    assert without[0] > without[1]
    # a handful of pairs is no batch
    few = work(Stage.RERANK, size=Size(10, tokens=2560))
    assert first(few, cheap, a100) == "RTX 4090"
    assert all("best_for" not in dict(s.terms) for s in rank(few, [cheap, a100], State(), 0.5).ranked)


def test_a_large_gpu_for_complex_or_large_work_and_a_t4_for_simple() -> None:
    t4, a100 = priced("x", "T4", "0.35"), priced("x", "A100", "1.60")
    fp32 = Spec(Stage.RERANK, model="m")
    simple = task(spec=fp32, size=Size(50, tokens=50 * 256))
    assert first(simple, t4, a100) == "T4"
    assert first(replace(simple, complexity=Complexity.COMPLEX), t4, a100) == "A100"
    assert first(replace(simple, size=Size(5000, tokens=5000 * 256)), t4, a100) == "A100"


def test_answers_stay_here_although_a_gpu_is_faster() -> None:
    answer = work(Stage.ANSWER, size=Size(1, tokens=5000))
    here = offer("local", numerics=frozenset(Numerics))
    assert order(rank(answer, [here, free_hours("colab"), *ALL], State(), 0.5))[0] == "local"


@given(task=TASKS, answers=ANSWERS, state=STATES, draw=DRAWS)
def test_another_gpu_is_never_another_spec(
    task: Task, answers: list[Offer | Unfit], state: State, draw: float
) -> None:
    """A route holds offers and nothing that computes: the task, and what it asks for, stay as they are."""
    before = repr(task)
    route = rank(task, answers, state, draw)
    assert repr(task) == before
    assert route.task_id == task.id
    assert all(s.offer in answers and task.need.numerics in s.offer.numerics for s in route.ranked)


def test_a_busy_favourite_is_not_the_fastest() -> None:
    corpus = work(Stage.EMBED, size=Size(100, tokens=25_600))
    a, b = priced("runpod", "H100", "1.99"), priced("modal", "L4", "0.80")
    assert order(rank(corpus, [a, b], State(standings=(Standing("runpod", queue_s=2.0),)), 0.5))[0] == "modal"
