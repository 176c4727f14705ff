"""One try after another, on the books. Guarantee: every try that was opened is closed once, and only once.

A try begins with a reservation (``Books.open``) and a place among the provider's calls in flight; it ends as
answered, failed or cancelled, and each of these closes the books, tells ``Health`` and gives the place back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Generic, Protocol, TypeVar

from accel.core.attempt import Attempt, Outcome, Scored, Timing
from accel.core.errors import NoCapacity, TimedOut
from accel.core.money import Basis, Cost
from accel.core.runtime import Runtime
from accel.core.task import Task
from accel.routing.health import Call, Health

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """What one successful try gave. used_s: seconds that the provider counts."""

    output: T
    timing: Timing
    cost: Cost
    lease_id: str = ""
    used_s: float = 0.0


class Meter(Protocol):
    """Counts what a try takes of a lease that covers it."""

    def read(self) -> tuple[str, Cost, float]:
        """So far: the lease, its share of the money, seconds that the provider counts."""


class Books(Protocol):
    """Where money is reserved and attempts are recorded."""

    def open(self, attempt_id: str, scored: Scored, bound_s: float | None) -> Meter | None:
        """Reserve for a try of at most ``bound_s`` before it is sent; a meter where a lease covers it. Raises
        OverBudget or LedgerError: then nothing is held, and nothing may be sent."""

    def close(self, attempt: Attempt) -> None:
        """Settle and record an ended try, as one. Never raises."""


@dataclass(slots=True)
class Try:
    """One try in flight. waited_s: for its place. bound_s: longest it may run. full: that is as long as such
    a call may well take. retry: not the first of its request. hedge: another is in flight. ahead_s: what our
    calls before it were expected to compute there. unsent: it was given up before it was sent."""

    id: str
    scored: Scored
    call: Call
    began: float
    waited_s: float
    bound_s: float | None
    full: bool
    retry: bool
    hedge: bool
    ahead_s: float = 0.0
    meter: Meter | None = None
    unsent: bool = False

    @property
    def ends(self) -> float | None:
        """When its time is over."""
        return None if self.bound_s is None else self.began + self.bound_s


class Tries:
    """All tries of one request. done: ended ones, in the order of their ends. sent: how many were."""

    def __init__(self, task: Task, books: Books, health: Health, runtime: Runtime) -> None:
        self.done: list[Attempt] = []
        self.sent = 0
        self._task, self._books, self._health, self._runtime = task, books, health, runtime
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    def open(
        self, scored: Scored, bound_s: float | None, *, waited_s: float = 0.0, full: bool = False,
        hedge: bool = False,
    ) -> Try | None:  # fmt: skip
        """Reserve and begin, in the place that the caller took; None, and the place given back, when the
        books would not have it. A hedge that they would not have is no attempt."""
        now, ident = self._clock(), self._runtime.new_id()
        provider, expected = scored.offer.provider, scored.estimate.timing
        ahead_s = self._health.ahead_s(provider)
        # where the far end does not tell what it computed, all of it passed for the way
        call = self._health.begin(provider, self._task, now, expected.compute_s or expected.transfer_s)
        try:
            meter = self._books.open(ident, scored, bound_s)
        except Exception as refused:  # whatever it was, nothing may be sent that is not on the books
            self._health.dropped(call, now)
            if not hedge:
                self.done.append(self._attempt(ident, scored, Outcome.FAILED, waited_s, Cost(), refused))
            return None
        retry = self.sent > 0 and not hedge and self._health.limiter(provider) is not None
        self.sent += 1
        self._health.throttle.retries += retry
        return Try(ident, scored, call, now, waited_s, bound_s, full, retry, hedge, ahead_s, meter)

    def no_place(self, scored: Scored, waited_s: float) -> None:
        """Nothing was sent: no place among its calls in flight became free in time."""
        busy = NoCapacity(f"no free place within {waited_s:.1f} s", provider=scored.offer.provider)
        ident = self._runtime.new_id()
        self.done.append(self._attempt(ident, scored, Outcome.FAILED, waited_s, Cost(), busy))

    def answered(self, one: Try, tried: Tried[T]) -> Attempt:
        """It gave a valid output."""
        self._health.succeeded(one.call, tried.timing, self._clock())
        timing = tried.timing
        if one.waited_s:
            timing = replace(timing, wait_s=timing.wait_s + one.waited_s)
        offer = one.scored.offer
        return self._close(one, Attempt(
            one.id, self._task.id, offer.provider, offer.realm, offer.id, Outcome.OK, timing, tried.cost,
            tried.lease_id, hedge=one.hedge, used_s=tried.used_s,
        ))  # fmt: skip

    def failed(self, one: Try, error: Exception) -> None:
        """It raised, or its time was over (``TimedOut``)."""
        now = self._clock()
        expected_s = one.scored.estimate.timing.total_s + one.ahead_s
        short = isinstance(error, TimedOut) and one.bound_s is not None and one.bound_s < expected_s
        if one.unsent or short:
            # less than it was expected to need, as the first tries of a cold one get, or those of a burst
            # that wait for each other: it says nothing
            self._health.dropped(one.call, now)
        else:
            self._health.failed(
                one.call, error, now, reset_s=self._reset_s(error),
                cut_short=isinstance(error, TimedOut) and not one.full,
            )  # fmt: skip
        # what an unknown error did at the far end is unknown: taken to have run
        used_s = max(0.0, now - one.began) if getattr(error, "ran", True) else 0.0
        cost = getattr(error, "billed", None) or self._cost(one, used_s)
        self._end(one, Outcome.FAILED, now, cost, used_s, error)

    def cancelled(self, one: Try, late: Tried[T] | None = None, *, beaten: bool = False) -> None:
        """The request was cancelled, or another try was faster; late: than this answer of its own. beaten:
        by its hedge."""
        now = self._clock()
        if late is not None:
            self._health.succeeded(one.call, late.timing, now)
        elif beaten:
            self._health.beaten(one.call, now)
        else:
            self._health.dropped(one.call, now)
        used_s = late.used_s if late else max(0.0, now - one.began)
        cost = late.cost if late else self._cost(one, used_s)
        self._end(one, Outcome.CANCELLED, now, cost, used_s, None)

    def _end(
        self, one: Try, outcome: Outcome, now: float, cost: Cost, used_s: float, error: Exception | None
    ) -> None:
        # a try without an answer tells only how long it took; it is counted as waiting
        seconds, lease = one.waited_s + max(0.0, now - one.began), ""
        if one.meter is not None:
            lease, cost, used_s = one.meter.read()
        self._close(one, self._attempt(
            one.id, one.scored, outcome, seconds, cost, error, lease=lease, hedge=one.hedge, used_s=used_s,
        ))  # fmt: skip

    def _close(self, one: Try, attempt: Attempt) -> Attempt:
        self._health.throttle.retries -= one.retry
        self.done.append(attempt)
        self._books.close(attempt)
        return attempt

    @staticmethod
    def _cost(one: Try, used_s: float) -> Cost:
        """Seconds at the offer's rate: what is known of a call that did not say what it cost."""
        return Cost(one.scored.offer.rate.cost(used_s), Basis.ESTIMATED)

    def _reset_s(self, error: Exception) -> float | None:
        at = getattr(error, "resets_at", None)
        if at is None:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return float((at - self._runtime.now()).total_seconds())

    def _attempt(
        self, ident: str, scored: Scored, outcome: Outcome, seconds: float, cost: Cost,
        error: Exception | None, *, lease: str = "", hedge: bool = False, used_s: float = 0.0,
    ) -> Attempt:  # fmt: skip
        offer = scored.offer
        return Attempt(
            ident, self._task.id, offer.provider, offer.realm, offer.id, outcome, Timing(wait_s=seconds),
            cost, lease, error=type(error).__name__ if error else "",
            detail=str(error).splitlines()[0][:500] if error and str(error) else "", hedge=hedge,
            used_s=used_s,
        )  # fmt: skip
