"""Traces are read as they are told, or refused; a window is the same market, seen for a while."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import UsageError
from accel.experiments.traces import Arrival, Collection, Market, read_arrivals, read_market, read_markets

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MORNING = "2023-11-16 18:17:0"


def azure(folder: Path, body: str, head: str = HEAD) -> Path:
    path = folder / "trace.csv"
    path.write_text(head + body)
    return path


def spot(folder: Path, ticks: object, gap: object = 10, name: str = "us-east-1a_v100_1.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {"gap_seconds": gap}, "data": ticks}))
    return path


def test_arrivals_are_seconds_since_the_first(tmp_path: Path) -> None:
    body = f"{MORNING}3.9799600,4808,10\n{MORNING}4.0319600,3180,8\n{MORNING}4.0319600,7,1\n"
    found = read_arrivals(azure(tmp_path, body))
    assert [a.tokens for a in found] == [4808, 3180, 7]
    assert [round(a.at_s, 6) for a in found] == [0.0, 0.052, 0.052]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "no request"),
        (f"{MORNING}3.0,many,1\n", "line 2"),
        (f"{MORNING}3.0,0,1\n", "no tokens"),
        (f"{MORNING}3.0\n", "line 2"),
        (f"{MORNING}4.0,1,1\n{MORNING}3.0,1,1\n", "line 3"),
    ],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_arrivals(azure(tmp_path, body))


def test_another_table_is_not_taken_for_a_trace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column ContextTokens"):
        read_arrivals(azure(tmp_path, "x\n", head="TIMESTAMP\n"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_arrivals(tmp_path / "nowhere.csv")


def test_a_tick_counts_what_is_available(tmp_path: Path) -> None:
    """1 is available, as the traces' own README says; the multi-node files count up to 16."""
    market = read_market(spot(tmp_path, [0, 1, 16, 0, 0, 2]))
    assert market.zone == "us-east-1a"
    assert market.ups == ((10.0, 30.0), (50.0, 60.0))
    assert market.share == pytest.approx(0.5)
    ends = {0.0: 0.0, 10.0: 30.0, 29.9: 30.0, 30.0: 30.0, 35.0: 35.0, 55.0: 60.0, 60.0: 60.0}
    assert {t: market.until(t) for t in ends} == ends


@pytest.mark.parametrize(
    ("ticks", "gap"), [([], 10), ([1, -1], 10), ([0.5], 10), ("10", 10), ([1], 0), ([1], "nan"), ([1], None)]
)
def test_what_is_no_market_is_refused(tmp_path: Path, ticks: object, gap: object) -> None:
    with pytest.raises(UsageError):
        read_market(spot(tmp_path, ticks, gap))


def test_a_folder_without_traces_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no spot trace"):
        read_markets(tmp_path)
    with pytest.raises(UsageError, match="does not hold azure"):
        Collection.read(tmp_path)


@given(
    ticks=st.lists(st.integers(0, 2), min_size=4, max_size=40), begin=st.floats(0, 1),
    length=st.floats(0.05, 1), speed=st.sampled_from([0.5, 1.0, 7.0]), look=st.floats(0, 0.999),
)  # fmt: skip
def test_a_window_shows_the_market_at_its_time(
    ticks: list[int], begin: float, length: float, speed: float, look: float
) -> None:
    ups = tuple((i * 10.0, i * 10.0 + 10.0) for i, t in enumerate(ticks) if t)
    market = Market("zone", ups, len(ticks) * 10.0)
    from_s = begin * market.length_s * 0.9
    length_s = length * (market.length_s - from_s) / speed
    window = market.window(from_s, length_s, speed)
    at = look * length_s
    there = from_s + at * speed
    if min((abs(there - edge) for up in ups for edge in up), default=1.0) > 1e-6:
        assert (window.until(at) > at) == (market.until(there) > there)
    assert all(0 <= a < b <= length_s + 1e-6 for a, b in window.ups)


def test_a_window_lies_in_its_trace() -> None:
    market = Market("zone", ((0.0, 50.0),), 100.0)
    for begin, length, speed in ((-1.0, 5.0, 1.0), (90.0, 11.0, 1.0), (0.0, 60.0, 2.0), (0.0, 0.0, 1.0)):
        with pytest.raises(ValueError, match="zone"):
            market.window(begin, length, speed)


def collection() -> Collection:
    arrivals = tuple(Arrival(float(i), i + 1) for i in range(50))
    markets = tuple(Market(z, ((0.0, 400.0),), 1000.0) for z in "abc")
    return Collection((("code", arrivals), ("conv", arrivals[:30])), markets)


def test_windows_follow_from_the_seed_alone() -> None:
    made = [collection().requests(random.Random(3), 20) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0][1][0].at_s == 0.0 and len(made[0][1]) == 20
    assert len({collection().requests(random.Random(s), 20) for s in range(9)}) > 3
    assert {collection().requests(random.Random(s), 40)[0] for s in range(9)} == {"code"}
    zones = collection().zones(random.Random(3), 2, 100.0, speed=3.0)
    assert zones == collection().zones(random.Random(3), 2, 100.0, speed=3.0)
    assert len({z.zone for z in zones}) == 2


def test_more_than_the_traces_hold_is_told() -> None:
    with pytest.raises(UsageError, match="1 to 50"):
        collection().requests(random.Random(1), 51)
    with pytest.raises(UsageError, match="1 to 50"):
        collection().requests(random.Random(1), 0)
    with pytest.raises(UsageError, match="the spot traces hold 3"):
        collection().zones(random.Random(1), 4, 100.0)
    with pytest.raises(UsageError, match="hold 0"):
        collection().zones(random.Random(1), 1, 100.0, speed=11.0)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the traces are not beside this project")
def test_the_published_traces_are_read_the_right_way_round() -> None:
    """Inverted copies exist: a V100 was to be had nine days in ten in us-west-2b, one in 6 in us-east-1a."""
    found = Collection.read(TRACES)
    assert [(name, len(all_)) for name, all_ in found.arrivals] == [("conv", 19366), ("code", 8819)]
    share = {m.zone: m.share for m in found.markets}
    assert len(share) == 9
    assert share["us-west-2b"] == pytest.approx(0.905, abs=0.005)
    assert share["us-east-1a"] == pytest.approx(0.167, abs=0.005)
