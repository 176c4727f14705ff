"""The cascade. Guarantee: every request ends once, in one valid answer or one error that lists each try.

The only place where anything is tried again. Offers are tried in the route's order, another provider
before the same one again, ``MAX_ATTEMPTS`` in all, and this machine always gets one of them. The deadline
spans the whole cascade: a try must leave the time that the quickest other offer is expected to need, if
that fits at all, and gets at least half of what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from accel.core.attempt import Attempt, Outcome, Route, Scored, Timing
from accel.core.errors import EveryAttemptFailed, ProviderError, Retry, TimedOut, UsageError
from accel.core.money import Cost
from accel.core.runtime import Runtime
from accel.routing.policy import LOCAL

T = TypeVar("T")
MAX_ATTEMPTS = 3
# full jitter between tries at the same provider (AWS, "Exponential backoff and jitter")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
# what a provider may ask us to wait (Retry-After) where there is no deadline; it loses its turn above it
LONGEST_ASKED_S = 30.0


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """What one successful try gave."""

    output: T
    timing: Timing
    cost: Cost
    lease_id: str = ""


async def cascade(
    route: Route, attempt: Callable[[Scored], Awaitable[Tried[T]]], runtime: Runtime, *,
    within_s: float | None = None, on_attempt: Callable[[Attempt], None] = lambda _: None,
) -> tuple[T, tuple[Attempt, ...]]:  # fmt: skip
    """Try the offers of ``route`` until one gives an output.

    attempt: one try; raises ProviderError, and must validate its own output. on_attempt: told of every
    ended try. Raises EveryAttemptFailed; UsageError and cancellation pass through, after their attempt was
    told.
    """
    clock = asyncio.get_running_loop().time
    ends = None if within_s is None else clock() + within_s
    turns = _Turns(route, runtime)
    done: list[Attempt] = []
    while turns.waiting and len(done) < MAX_ATTEMPTS and (ends is None or clock() < ends):
        scored = turns.take(last=len(done) == MAX_ATTEMPTS - 1)
        pause = turns.pause_s(scored, clock())
        if ends is not None and clock() + pause >= ends:
            continue  # it asked for more than what is left
        await asyncio.sleep(pause)
        began = clock()
        bound = asyncio.timeout(None if ends is None else turns.share_s(ends - began))
        try:
            async with bound:
                tried = await attempt(scored)
        except asyncio.CancelledError:
            on_attempt(_ended(route, scored, runtime, Outcome.CANCELLED, clock() - began, None))
            raise
        except UsageError as mistake:  # the input is at fault: no other offer would take it
            on_attempt(_ended(route, scored, runtime, Outcome.FAILED, clock() - began, mistake))
            raise
        except Exception as failure:  # an unknown error must also lead to the next offer
            error = failure
            if bound.expired():
                error = TimedOut("no answer in the time it had", provider=scored.offer.provider)
            ended = _ended(route, scored, runtime, Outcome.FAILED, clock() - began, error)
            done.append(ended)
            on_attempt(ended)
            turns.failed(scored, error, clock())
            continue
        ended = _ok(route, scored, runtime, tried)
        on_attempt(ended)
        return tried.output, (*done, ended)
    subject = "every offer failed"
    if ends is not None and clock() >= ends:
        subject = "the deadline passed"
    elif not route.ranked:
        subject = route.why
    raise EveryAttemptFailed(subject, tuple(done))


class _Turns:
    """Whose turn it is: the offers still to be tried, and how long each asked to be left alone."""

    def __init__(self, route: Route, runtime: Runtime) -> None:
        self.waiting = list(route.ranked)
        self._runtime = runtime
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def take(self, *, last: bool) -> Scored:
        """The next offer; the last allowed try belongs to this machine if it has not had one."""
        local = self._untried_local()
        chosen = local if local is not None and last else self.waiting[0]
        self.waiting.remove(chosen)
        return chosen

    def failed(self, scored: Scored, error: Exception, now: float) -> None:
        """Put the offer at the end of the queue, if it may be tried again."""
        asked = getattr(error, "retry_after_s", None)
        if not isinstance(error, ProviderError) or error.retry is not Retry.SAME:
            return
        if asked is not None and asked > LONGEST_ASKED_S:
            return
        again = self._failures.get(scored.offer.id, 0)
        self._failures[scored.offer.id] = again + 1
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**again)
        pause = asked if asked is not None else self._runtime.random.uniform(0, longest)
        self._not_before[scored.offer.id] = now + max(0.0, pause)
        self.waiting.append(scored)

    def pause_s(self, scored: Scored, now: float) -> float:
        """Seconds until the offer may be tried: its Retry-After, or jitter after its last failure."""
        return max(0.0, self._not_before.get(scored.offer.id, now) - now)

    def share_s(self, left_s: float) -> float:
        """How much of the time left this try may take, so that a hang does not cost the whole request."""
        needed = min(
            (s.estimate.timing.total_s for s in self.waiting if s.offer.id not in self._failures),
            default=left_s,
        )
        return left_s if needed >= left_s else max(left_s / 2, left_s - needed)

    def _untried_local(self) -> Scored | None:
        return next(
            (s for s in self.waiting if s.offer.provider == LOCAL and s.offer.id not in self._failures),
            None,
        )


def _ended(
    route: Route, scored: Scored, runtime: Runtime, outcome: Outcome, seconds: float,
    error: Exception | None,
) -> Attempt:  # fmt: skip
    return Attempt(
        id=runtime.new_id(), task_id=route.task_id, provider=scored.offer.provider,
        realm=scored.offer.realm, offer_id=scored.offer.id, outcome=outcome,
        # a failed try tells only how long it took; it is counted as waiting
        timing=Timing(wait_s=max(seconds, 0.0)), cost=Cost(),
        error=type(error).__name__ if error else "",
        detail=str(error).splitlines()[0][:500] if error and str(error) else "",
    )  # fmt: skip


def _ok(route: Route, scored: Scored, runtime: Runtime, tried: Tried[T]) -> Attempt:
    return Attempt(
        id=runtime.new_id(), task_id=route.task_id, provider=scored.offer.provider,
        realm=scored.offer.realm, offer_id=scored.offer.id, outcome=Outcome.OK,
        timing=tried.timing, cost=tried.cost, lease_id=tried.lease_id,
    )  # fmt: skip
