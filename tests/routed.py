"""Offers, tasks and routing states for tests, plain and drawn."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

from hypothesis import strategies as st

from accel.core.attempt import Refusal, Route, Timing
from accel.core.funds import Funds, Window
from accel.core.money import NanoUSD, Rate, from_dollars
from accel.core.offer import CPU, Billing, Gpu, Offer, Realm, Unfit
from accel.core.task import Complexity, Lane, Need, Numerics, Size, Spec, Stage, Task
from accel.routing import Measured, Standing, State
from accel.routing.gpus import SHEETS

NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAMES = ("local", "kaggle", "runpod", "vast", "modal")
SECONDS = st.floats(0, 1e5)
SHARES = st.floats(0, 1.5)
DRAWS = st.floats(0, 1, exclude_max=True)


def offer(name: str, *, nano: int = 0, **changes: object) -> Offer:
    """Free of charge where ``nano`` per hour is 0, billed by the second else."""
    base = Offer(
        f"{name}-1", name, Realm.SIMULATED, CPU if name == "local" else Gpu("T4", 1, 16 << 30, 75),
        Rate(NanoUSD(nano), date(2026, 11, 23), "test"), NOW, "test",
        billing=Billing.SECONDS if nano else Billing.NOTHING,
    )  # fmt: skip
    return replace(base, **changes)


def priced(name: str, gpu: str, dollars_per_hour: str, **changes: object) -> Offer:
    """One GPU of a data sheet at a price, warm, 50 ms away, in any numerics."""
    data = SHEETS[gpu]
    changes = {"round_trip_s": 0.05, "numerics": frozenset(Numerics)} | changes
    return offer(
        name, nano=from_dollars(dollars_per_hour), id=f"{name}/{gpu}",
        gpu=Gpu(gpu, 1, data.vram_bytes, data.capability), **changes,
    )  # fmt: skip


def free_hours(name: str, gpu: str = "T4", **changes: object) -> Offer:
    """One GPU of free quota, warm, 50 ms away."""
    base = priced(name, gpu, "1", **changes)
    return replace(
        base, rate=Rate(NanoUSD(0), date(2026, 11, 23), "test"), billing=Billing.QUOTA,
        quota_left_s=1e5, quota_s=108_000.0,
    )  # fmt: skip


def task(**changes: object) -> Task:
    """One short text to embed, live."""
    spec = Spec(Stage.EMBED)
    base = Task("t", Lane.LIVE, spec, Size(1, tokens=100), Need(Stage.EMBED, Lane.LIVE))
    return replace(base, **changes)


def order(route: Route) -> list[str]:
    """Providers, in the order to try them."""
    return [s.offer.provider for s in route.ranked]


GPUS = st.sampled_from([CPU, Gpu("Tesla T4", 2, 15 << 30, 75), Gpu("B200", 8, 180 << 30, 100)])
OFFERS = st.builds(
    offer, st.sampled_from(NAMES), nano=st.integers(0, 10**10), wait_s=SECONDS, cold_s=SECONDS,
    round_trip_s=SECONDS, seconds_per_byte=st.floats(0, 1e-3), quota_left_s=st.none() | SECONDS,
    lanes=st.frozensets(st.sampled_from(Lane)), numerics=st.frozensets(st.sampled_from(Numerics)),
    idle_s=st.none() | SECONDS, resident=st.frozensets(st.sampled_from(["i", "j"])),
    movable=st.frozensets(st.sampled_from(["i", "k"])), billing=st.sampled_from(Billing), gpu=GPUS,
)  # fmt: skip
# what some task at least can use: else few properties would ever see two ranked offers
FIT = st.builds(
    offer, st.sampled_from(NAMES), nano=st.integers(0, 10**10), wait_s=st.sampled_from([0.0, 0.0, 2.0]),
    cold_s=st.sampled_from([0.0, 0.0, 30.0]), round_trip_s=st.floats(0, 0.1),
    billing=st.sampled_from(Billing), gpu=GPUS, numerics=st.just(frozenset(Numerics)),
    idle_s=st.sampled_from([None, 60.0]),
)  # fmt: skip
UNFIT = st.builds(
    Unfit, st.sampled_from(NAMES), st.just(Realm.SIMULATED), st.text(max_size=9), st.just(NOW)
)


def _told_apart(answers: list[Offer | Unfit]) -> list[Offer | Unfit]:
    """A provider may have several offers; their ids differ."""
    return [replace(a, id=f"{a.provider}-{i}") if isinstance(a, Offer) else a for i, a in enumerate(answers)]


ANSWERS = st.lists(OFFERS | FIT | FIT | UNFIT, max_size=6).map(_told_apart)
NEEDS = st.builds(
    Need, st.just(Stage.EMBED), st.sampled_from(Lane), st.sampled_from(Numerics),
    vram_bytes=st.sampled_from([0, 0, 16 << 30]), capability=st.sampled_from([0, 0, 80]),
    index=st.sampled_from(["", "", "i"]), only=st.frozensets(st.sampled_from(NAMES), max_size=2),
)  # fmt: skip
WISHES = st.none() | st.floats(0.001, 1e6)
TASKS = st.builds(
    Task, st.text(max_size=5), st.sampled_from(Lane),
    st.builds(Spec, st.sampled_from(Stage), numerics=st.sampled_from(Numerics)),
    st.builds(Size, *(st.integers(0, 10**n) for n in (6, 9, 9, 12))),
    NEEDS | st.builds(Need, st.just(Stage.EMBED), st.sampled_from(Lane)), within_s=WISHES, target_s=WISHES,
    complexity=st.sampled_from(Complexity), inputs=st.sampled_from([(), ("i",)]),
)  # fmt: skip
TIMINGS = st.builds(Timing, SECONDS, SECONDS, SECONDS, SECONDS)
MEASURED = st.builds(Measured, st.integers(3, 99), TIMINGS, st.floats(0, 3))
STANDINGS = st.builds(
    Standing, st.sampled_from(NAMES), st.sampled_from(["", "", "its breaker opened once"]),
    st.none() | SECONDS, st.floats(0, 9), st.floats(0, 1), st.none() | MEASURED,
    st.sampled_from([None, 0.0, 9.0]),
)  # fmt: skip
WINDOWS = st.none() | st.builds(Window, st.just("w"), SHARES, SHARES)
FUNDS = st.builds(
    Funds, st.sampled_from(NAMES), st.none() | st.integers(-(10**9), 10**12), st.text(max_size=5),
    st.integers(0, 10**9), WINDOWS, WINDOWS,
)  # fmt: skip
STATES = st.builds(
    State, order=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
    fallback=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
    priorities=st.dictionaries(st.sampled_from(NAMES), st.floats(0.1, 10)).map(lambda d: tuple(d.items())),
    failed=st.lists(st.builds(Refusal, st.sampled_from(NAMES), st.text(max_size=5)), max_size=1).map(tuple),
    value_of_hour=st.floats(0, 100), value_of_deadline=st.floats(0, 10),
    standings=st.lists(STANDINGS, max_size=5, unique_by=lambda s: s.provider).map(tuple),
    funds=st.lists(FUNDS, max_size=5, unique_by=lambda f: f.provider).map(tuple),
)  # fmt: skip
