"""A provider under test, and how to break it. Guarantee: what a case cannot bring about is skipped."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest

from accel.core.errors import (
    NoCapacity,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Intent, Lease
from accel.core.task import Lane, Need, Stage
from accel.providers.base import JobState, Provider, RunsBatch


class Breakage(StrEnum):
    """What can be wrong at the other end, as a case is asked to bring it about."""

    UNREACHABLE = "unreachable"      # every call: no connection
    SERVER_ERROR = "server_error"    # every call: 5xx
    RATE_LIMITED = "rate_limited"    # every call: 429, asking for 7 s
    UNAUTHORISED = "unauthorised"    # every call: the key is not accepted
    NONSENSE = "nonsense"            # every call: an answer that makes no sense
    LOST_ANSWER = "lost_answer"      # the next create takes effect, its answer is lost
    NO_CAPACITY = "no_capacity"      # the next create: nothing free now
    QUOTA = "quota"                  # the next create: the free quota is used up
    ODD_LISTING = "odd_listing"      # the next listing is empty in an odd way
    TRUNCATED = "truncated"          # the next download is cut off
    MISSING = "missing"              # the next download is not there


EVERY_CALL = (
    Breakage.UNREACHABLE, Breakage.SERVER_ERROR, Breakage.RATE_LIMITED, Breakage.UNAUTHORISED,
    Breakage.NONSENSE,
)  # fmt: skip
CLASSES: dict[Breakage, type[ProviderError]] = {
    Breakage.UNREACHABLE: Unreachable,
    Breakage.SERVER_ERROR: Unreachable,
    Breakage.RATE_LIMITED: RateLimited,
    Breakage.UNAUTHORISED: Unauthorised,
    Breakage.NONSENSE: Unreachable,
    Breakage.NO_CAPACITY: NoCapacity,
    Breakage.QUOTA: QuotaExhausted,
}


@dataclass(slots=True)
class ProviderCase:
    """One provider under test, fresh for each test.

    intent: a new intent, whose job takes about the seconds given. break_: bring a breakage about; None
    mends everything. breakages: those it can. requests: how many requests the other end has seen, or
    None where there is no wire. secrets: what must never be shown. live_clause: words of the term that
    forbids serving, for a provider without ``ServesLive``. patience_s: longest a job may take.
    """

    provider: Provider
    intent: Callable[[float], Intent]
    break_: Callable[[Breakage | None], None]
    breakages: frozenset[Breakage]
    need: Need = field(default_factory=lambda: Need(Stage.EMBED, Lane.BATCH))
    requests: Callable[[], int] | None = None
    secrets: tuple[str, ...] = ()
    live_clause: str = ""
    patience_s: float = 30.0
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run

    @property
    def batch(self) -> Any:
        """The provider, as one that ``RunsBatch``; skips the test for one that does not."""
        if not isinstance(self.provider, RunsBatch):
            pytest.skip(f"{self.provider.name} has no batch lane")
        return self.provider

    def broken(self, breakage: Breakage) -> None:
        """Bring ``breakage`` about, or skip the test."""
        if breakage not in self.breakages:
            pytest.skip(f"{self.provider.name} cannot be made {breakage} here")
        self.break_(breakage)

    async def ended(self, lease: Lease) -> JobState:
        """Start the job if it needs that, and wait for its end."""
        await self.batch.start(lease)
        deadline = asyncio.get_running_loop().time() + self.patience_s
        while not (progress := await self.batch.poll(lease)).state.terminal:
            assert asyncio.get_running_loop().time() < deadline, f"still {progress}"
            await asyncio.sleep(0.03)
        return progress.state


def assert_no_secret(case: ProviderCase, *shown: str | BaseException) -> None:
    """None of the case's secrets stands in a text, an error, its trace, or what caused it."""
    for item in shown:
        text = item if isinstance(item, str) else "".join(traceback.format_exception(item)) + repr(item)
        for secret in case.secrets:
            assert secret not in text, "a secret is shown"
