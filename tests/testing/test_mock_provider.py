"""MockProvider passes the contract, and tells the truth about what it rents, at any speed of time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import (
    BadOutput,
    NoCapacity,
    Preempted,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Intent
from accel.core.money import Rate, from_dollars
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Spec, Stage
from accel.testing.case import Breakage, ProviderCase
from accel.testing.conformance import ProviderContract
from accel.testing.mock_provider import FREE, MOCK_GPU, MockBatchProvider, MockProvider
from accel.wire import Envelope

AT = datetime(2026, 1, 1, tzinfo=UTC)
OFFER = Offer("o", "mock", Realm.SIMULATED, MOCK_GPU, FREE, AT, "test")
NUMBER = itertools.count()


def intent(lifetime_s: float = 600.0) -> Intent:
    n = next(NUMBER)
    return Intent(f"i{n}", f"t{n}", OFFER, f"accel-i{n}", lifetime_s, AT, Path("bundle"))


def breaker(provider: MockBatchProvider) -> Callable[[Breakage | None], None]:
    def break_(breakage: Breakage | None) -> None:
        provider.mend()
        name = provider.name
        every: dict[Breakage, ProviderError] = {
            Breakage.UNREACHABLE: Unreachable("no connection", provider=name),
            Breakage.RATE_LIMITED: RateLimited("slow down", provider=name, retry_after_s=7),
            Breakage.UNAUTHORISED: Unauthorised("no", provider=name),
        }
        once: dict[Breakage, tuple[str, ProviderError | None]] = {
            Breakage.LOST_ANSWER: ("create", None),
            Breakage.NO_CAPACITY: ("create", NoCapacity("full", provider=name)),
            Breakage.QUOTA: ("create", QuotaExhausted("used up", provider=name)),
            Breakage.MISSING: ("fetch", BadOutput("gone", provider=name)),
        }
        if breakage in every:
            provider.fail("*", every[breakage], times=0)
        elif breakage in once:
            method, error = once[breakage]
            provider.fail(method, error, lost=error is None)

    return break_


BREAKAGES = frozenset(Breakage) - {
    Breakage.SERVER_ERROR, Breakage.NONSENSE, Breakage.ODD_LISTING, Breakage.TRUNCATED,
}  # fmt: skip


class TestMockProvider(ProviderContract):
    @pytest.fixture
    def case(self) -> ProviderCase:
        cloud = MockProvider("mock", Runtime.virtual(1), job_s=0.05)
        return ProviderCase(cloud, lambda seconds: intent(), breaker(cloud), BREAKAGES)


class TestMockBatchProviderThatCannotStop(ProviderContract):
    @pytest.fixture
    def case(self) -> ProviderCase:
        cloud = MockBatchProvider("mock", Runtime.virtual(1), job_s=0.05, confirms=False)
        return ProviderCase(
            cloud, lambda seconds: intent(), breaker(cloud), BREAKAGES, live_clause="no live lane"
        )


@given(
    jobs=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=6),
    confirms=st.booleans(),
    lifetime_s=st.floats(1, 5),
)
def test_nothing_outlives_its_lifetime_and_the_bill_is_what_was_held(
    jobs: list[tuple[float, bool]], confirms: bool, lifetime_s: float
) -> None:
    rate = Rate(from_dollars("3.60"), AT.date(), "test")  # a thousandth of a dollar a second

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        clock = [0.0]
        loop.time = lambda: clock[0]  # type: ignore[method-assign]
        cloud = MockProvider("mock", Runtime.virtual(1), job_s=2.0, rate=rate, confirms=confirms)
        held = 0.0
        for after_s, released in jobs:
            lease = await cloud.create(intent(lifetime_s))
            assert cloud.rented == (lease,)
            clock[0] += after_s
            if released:
                await cloud.release(lease)
            stopped = after_s if released and confirms else float("inf")
            held += min(2.0, lifetime_s, stopped)
            clock[0] += lifetime_s + 1
            assert cloud.rented == ()
        assert abs(cloud.billed - held * 1e6) <= len(jobs) + 1e-3 * held

    asyncio.run(scenario())


def test_the_same_seed_draws_the_same_times() -> None:
    async def draw(seed: int) -> list[float]:
        cloud = MockProvider("mock", Runtime.virtual(1), seed=seed, job_s=5, wait_s=2, jitter=0.5)
        loop = asyncio.get_running_loop()
        loop.time = lambda: 100.0  # type: ignore[method-assign]
        for _ in range(5):
            await cloud.create(intent())
        return [thing.done_at for thing in cloud._things.values()]

    first, again, other = (asyncio.run(draw(seed)) for seed in (7, 7, 8))
    assert first == again != other


def test_faults_fire_on_the_calls_they_name() -> None:
    async def scenario() -> None:
        cloud = MockProvider("mock", Runtime.virtual(1))
        cloud.fail("call", Preempted("taken", provider="mock"), times=2, after=1)
        request = Envelope("t", Spec(Stage.EMBED).fields(), {})
        outcomes = []
        for _ in range(5):
            try:
                await cloud.call(await cloud.create(intent()), request)
                outcomes.append("ok")
            except Preempted:
                outcomes.append("taken")
        assert outcomes == ["ok", "taken", "taken", "ok", "ok"]
        assert cloud.calls == {"call": 5, "create": 5}

    asyncio.run(scenario())


def test_a_fault_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a fault"):
        MockProvider("mock", Runtime.virtual(1)).fail("create")


def test_needs_that_it_cannot_meet() -> None:
    cloud = MockProvider("mock", Runtime.virtual(1), quota_s=0.0)
    found = [
        asyncio.run(cloud.probe(need))
        for need in (
            Need(Stage.EMBED, Lane.BATCH),
            Need(Stage.EMBED, Lane.BATCH, vram_bytes=1 << 40),
            Need(Stage.EMBED, Lane.BATCH, only=frozenset({"other"})),
        )
    ]
    reasons = [getattr(unfit, "reason", "") for unfit in found]
    assert ["quota" in reasons[0], "too small" in reasons[1], "allowed" in reasons[2]] == [True] * 3
