"""The break-even is where the two sides really cross, "never" is said when they do not, realms stay apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.row import Row
from accel.core.task import Numerics, Stage
from accel.experiments.breakeven import (
    GPUS,
    Assumptions,
    Curve,
    Load,
    Start,
    curves,
    reach,
    remote_seconds,
    verdict,
    verdicts,
)
from accel.routing.gpus import SHEETS

ASSUMED = Assumptions()
LOADS = [
    Load(Stage.EMBED, "passages", tokens=100, bytes=400),
    Load(Stage.SEARCH, "vectors", dimension=384),
    Load(Stage.RERANK, "passages", tokens=100, bytes=400),
]
assumptions = st.builds(
    Assumptions, round_trip_s=st.floats(0, 1), overhead_s=st.floats(0, 0.1),
    bytes_per_s=st.floats(1e4, 1e9), cold_s=st.floats(0, 300),
)  # fmt: skip
several = st.tuples(st.sampled_from(LOADS), st.sampled_from(GPUS), st.sampled_from(Start), assumptions)


def line(load: Load, fixed: float, each: float, sizes: tuple[float, ...] = (1, 10, 100)) -> Curve:
    """A machine that takes fixed + each · x seconds."""
    return Curve(load, sizes, tuple(fixed + each * x for x in sizes), (), Numerics.FP32)


@given(several, st.floats(1, 1e6), st.floats(1, 100))
def test_more_work_never_takes_a_remote_gpu_less(
    case: tuple[Load, str, Start, Assumptions], x: float, times: float
) -> None:
    load, gpu, start, assumed = case
    less = remote_seconds(load, x, gpu, start, Numerics.FP32, assumed)
    assert less <= remote_seconds(load, x * times, gpu, start, Numerics.FP32, assumed)
    assert less >= assumed.round_trip_s + assumed.overhead_s


@given(several, st.floats(1, 1e5))
def test_a_cold_start_is_never_the_faster_one(case: tuple[Load, str, Start, Assumptions], x: float) -> None:
    load, gpu, _, assumed = case
    warm, cold = (remote_seconds(load, x, gpu, s, Numerics.FP32, assumed) for s in (Start.WARM, Start.COLD))
    assert cold >= warm + assumed.cold_s * (1 - 1e-9)


@settings(max_examples=25)  # each looks at hundreds of sizes
@given(several, st.floats(0, 1), st.floats(1e-8, 1))
def test_the_verdict_is_where_the_sides_cross(
    case: tuple[Load, str, Start, Assumptions], fixed: float, each: float
) -> None:
    load, gpu, start, assumed = case
    curve = line(load, fixed, each)
    told = verdict(curve, gpu, start, assumed)

    def gain(x: float) -> float:
        return curve.at(x) - remote_seconds(load, x, gpu, start, Numerics.FP32, assumed)

    end = reach(curve, gpu)
    if told.at is None:
        assert gain(end) <= 0
        assert told.why.startswith("never up to")
        return
    for share in (0.02, 0.3, 1):  # it wins from there on, to the end of what is looked at
        x = told.at * (end / told.at) ** share
        assert gain(x) > -1e-6 * curve.at(x)
    if told.at > curve.sizes[0]:
        # whole items and bytes are sent: a step of one of them on either side
        assert gain(max(0.0, told.at - 1.01)) <= 1e-6 * curve.at(told.at)
        assert told.extended == (told.at > curve.sizes[-1])


def test_the_crossing_agrees_with_the_arithmetic() -> None:
    """Embedding at 20 ms a passage against 50 ms and 154.88 µs to send plus the GPU's own seconds."""
    load = Load(Stage.EMBED, "passages", tokens=100, bytes=400)
    each_there = (400 + 384 * 4) / ASSUMED.bytes_per_s + 100 * 21.4e6 / (SHEETS["T4"].fp32 * 0.3)
    exact = 0.05 / (0.020 - each_there)
    told = verdict(line(load, 0.0, 0.020), "T4", Start.WARM, ASSUMED)
    assert told.at == pytest.approx(exact, abs=0.51)  # tokens and bytes are those of whole passages
    cold = verdict(line(load, 0.0, 0.020), "T4", Start.COLD, ASSUMED)
    assert cold.at == pytest.approx(20.05 / (0.020 - each_there), rel=0.001)
    assert cold.extended and not told.extended
    assert "extended past 100" in cold.why


def test_never_is_said_when_the_way_there_alone_takes_longer() -> None:
    told = verdict(line(LOADS[0], 0.001, 0.0), "H100", Start.WARM, ASSUMED)
    assert told.at is None
    assert "this machine needs 1 ms, the way there and the start alone 50 ms" in told.why


def test_never_is_said_when_sending_costs_more_than_computing_here() -> None:
    slow_line = Assumptions(bytes_per_s=1e4)
    told = verdict(line(LOADS[0], 0.0, 0.020), "H100", Start.WARM, slow_line)
    assert told.at is None
    assert "most of it to send" in told.why


def test_an_index_that_must_be_sent_first_never_pays_for_one_query() -> None:
    search = line(LOADS[1], 1e-4, 2e-7, (1e3, 1e4, 1e5))
    assert verdict(search, "H100", Start.COLD, ASSUMED).at is None
    warm = verdict(search, "H100", Start.WARM, ASSUMED)
    assert warm.at is not None and warm.at > 1e5


@pytest.mark.parametrize(
    ("load", "x", "more_bytes"),
    [(LOADS[0], 1000, 0), (LOADS[1], 10**6, 10**6 * 384 * 4), (LOADS[2], 50, 50 * 400)],
)
def test_a_cold_machine_is_sent_what_it_lacks(load: Load, x: int, more_bytes: int) -> None:
    warm, cold = (remote_seconds(load, x, "T4", s, Numerics.FP32, ASSUMED) for s in (Start.WARM, Start.COLD))
    assert cold - warm == pytest.approx(ASSUMED.cold_s + more_bytes / ASSUMED.bytes_per_s)


def test_no_index_is_larger_than_the_gpus_memory() -> None:
    search = line(LOADS[1], 1e-4, 2e-7, (1e3, 1e7))
    assert reach(search, "T4") * 384 * 4 <= SHEETS["T4"].vram_bytes
    assert reach(search, "T4") < reach(search, "H100")


def test_a_gpu_that_wins_at_once_wins_from_the_smallest_size_measured() -> None:
    told = verdict(line(LOADS[2], 5.0, 0.1, (5, 10, 20)), "T4", Start.WARM, ASSUMED)
    assert told.at == 5 and not told.extended


@given(st.lists(st.floats(1e-5, 10), min_size=2, max_size=6), st.floats(0.5, 1e5))
def test_the_curve_goes_through_what_was_measured_and_stays_between(seconds: list[float], x: float) -> None:
    sizes = tuple(float(4**i) for i in range(len(seconds)))
    curve = Curve(LOADS[0], sizes, tuple(seconds), (), Numerics.FP32)
    for size, measured in zip(sizes, seconds, strict=True):
        assert curve.at(size) == pytest.approx(measured)
    if x >= sizes[-1]:
        assert curve.at(x) >= seconds[-1]
    else:
        i = max(i for i, s in enumerate(sizes) if s <= max(x, 1))
        low, high = sorted(seconds[i : i + 2])
        assert low * (1 - 1e-9) <= curve.at(x) <= high * (1 + 1e-9)


def test_curves_take_the_fastest_engine_measured_at_each_size(row: Callable[..., Row]) -> None:
    rows = [
        row(batch=1, seconds=[0.3]), row(batch=1, seconds=[0.1], engine="rival"),
        row(batch=8, seconds=[0.4]), row(batch=8, seconds=[0.9], engine="rival"),
    ]  # fmt: skip
    (curve,) = curves(rows)
    assert curve.sizes == (1, 8) and curve.seconds == (0.1, 0.4)
    assert [r.cell["engine"] for r in curve.rows] == ["rival", "accel"]
    assert curve.load.tokens == 100 and curve.load.bytes == 400


def test_only_what_was_really_measured_here_is_a_curve(row: Callable[..., Row]) -> None:
    assert curves([row(batch=1, realm=Realm.SANDBOX), row(batch=1, provider="kaggle")]) == ()
    with pytest.raises(UsageError, match="two devices"):
        curves([row(batch=1), row(batch=8, device="another CPU")])


def test_every_curve_gpu_and_start_has_a_verdict(row: Callable[..., Row]) -> None:
    found = curves([row(batch=1), row("search", vectors=1000), row("rerank", depth=5)])
    told = verdicts(found, ASSUMED)
    assert len(told) == 3 * len(GPUS) * 2
    assert all(v.at is None or math.isfinite(v.at) for v in told)


def test_every_assumption_is_told() -> None:
    told = " ".join(Assumptions(0.123, 0.045, 1e6, 77).told())
    for figure in ("123 ms", "45 ms", "8 Mbit/s", "77 s", "30%", "50%", *(SHEETS[g].source for g in GPUS)):
        assert figure in told
    with pytest.raises(ValueError):
        Assumptions(round_trip_s=-1)
    with pytest.raises(ValueError):
        Assumptions(bytes_per_s=0)
