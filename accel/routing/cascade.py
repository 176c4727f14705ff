"""The cascade. Guarantee: every request ends once, in one valid answer or one error that lists each try.

The only place where anything is tried again. Offers are tried in the route's order, another provider
before the same one again, ``MAX_ATTEMPTS`` in all, and this machine always gets one of them. Each try is
bounded by what is left of the deadline, which spans the whole cascade.
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
    queue, again = list(route.ranked), 0
    done: list[Attempt] = []
    while queue and len(done) < MAX_ATTEMPTS:
        scored = _pick(queue, len(done))
        left = None if ends is None else ends - clock()
        if left is not None and left <= 0:
            break
        began = clock()
        try:
            async with asyncio.timeout(left):
                tried = await attempt(scored)
        except asyncio.CancelledError:
            ended = _ended(route, scored, runtime, Outcome.CANCELLED, clock() - began, None)
            on_attempt(ended)
            raise
        except UsageError as mistake:  # the input is at fault: no other offer would take it
            on_attempt(_ended(route, scored, runtime, Outcome.FAILED, clock() - began, mistake))
            raise
        except Exception as failure:  # an unknown error must also lead to the next offer
            error = failure
            if isinstance(failure, TimeoutError):
                error = TimedOut("no answer before the deadline", provider=scored.offer.provider)
            ended = _ended(route, scored, runtime, Outcome.FAILED, clock() - began, error)
            done.append(ended)
            on_attempt(ended)
            retry = error.retry if isinstance(error, ProviderError) else Retry.NEXT
            if retry is Retry.SAME:
                queue.append(scored)
            if queue and queue[0] is scored:
                await asyncio.sleep(_pause(error, again, runtime, ends, clock))
                again += 1
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


def _pick(queue: list[Scored], used: int) -> Scored:
    """The next offer; the last allowed try belongs to this machine if it has not had one."""
    local = next((s for s in queue if s.offer.provider == LOCAL), None)
    chosen = local if local is not None and used == MAX_ATTEMPTS - 1 else queue[0]
    queue.remove(chosen)
    return chosen


def _pause(
    error: Exception, again: int, runtime: Runtime, ends: float | None, clock: Callable[[], float]
) -> float:
    asked = getattr(error, "retry_after_s", None)
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**again)
    pause = asked if asked is not None else runtime.random.uniform(0, longest)
    return max(0.0, pause if ends is None else min(pause, ends - clock()))


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
