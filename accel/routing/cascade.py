"""The cascade. Guarantee: every request ends once, in one valid answer or one error that lists each try.

The only place where anything is tried again. Offers are tried in the route's order, another provider
before the same one again, ``MAX_ATTEMPTS`` sent in all (SRE book: 3), and this machine always gets one of
them. The deadline spans the whole cascade: a try leaves time for those after it (``Turns.share_s``).
``Health`` is asked again at the moment of dispatch. An offer that may not be used now is passed over; when
only such are left, the earliest is waited for, if its time comes within the deadline.

Hedge (Dean and Barroso, "The Tail at Scale"): a live try that takes longer than 95 % of similar ones is
joined by one at another provider; the first valid answer wins, the other try is cancelled and closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from accel.core.attempt import Attempt, Route, Scored
from accel.core.errors import EveryAttemptFailed, NoCapacity, TimedOut, UsageError
from accel.core.runtime import Runtime
from accel.core.task import Lane, Task
from accel.routing.health import Health
from accel.routing.policy import LOCAL
from accel.routing.track import tail_s
from accel.routing.tries import Books, Tried, Tries, Try
from accel.routing.turns import LONGEST_ASKED_S, Turns

T = TypeVar("T")
MAX_ATTEMPTS = 3
# how long a place is waited for where there is no deadline
LONGEST_QUEUE_S = 60.0
LEAST_SLEEP_S = 1e-3  # while a recovery is waited for


async def cascade(
    task: Task, route: Route, run: Callable[[Scored], Awaitable[Tried[T]]], books: Books, health: Health,
    runtime: Runtime, *, most: int = MAX_ATTEMPTS, left_s: float | None = None,
) -> tuple[T, tuple[Attempt, ...]]:  # fmt: skip
    """Try the offers of ``route`` until one gives an output; all attempts come with it, in order of end.

    most: tries that may be sent. left_s: of the task's deadline, where some of it is gone. run: one try;
    raises ProviderError, must validate its own output, and must end soon when it is cancelled. Raises
    EveryAttemptFailed; UsageError and cancellation pass through, after their attempt was closed.
    """
    health.throttle.begin(live=task.lane is Lane.LIVE)
    try:
        tries, within_s = Tries(task, books, health, runtime), task.within_s if left_s is None else left_s
        request = _Request(task, route, run, tries, health, runtime, most, within_s)
        return await request.answer()
    finally:
        health.throttle.end()


class _Request(Generic[T]):
    """One request on its way."""

    def __init__(
        self, task: Task, route: Route, run: Callable[[Scored], Awaitable[Tried[T]]], tries: Tries,
        health: Health, runtime: Runtime, most: int, within_s: float | None,
    ) -> None:  # fmt: skip
        self._most = most
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._began = self._clock()
        self._ends = None if within_s is None else self._began + within_s
        self._task, self._route, self._run = task, route, run
        self._tries, self._health = tries, health
        self._turns = Turns(route, runtime)
        self._hedged = task.lane is not Lane.LIVE
        self._me = asyncio.current_task()
        self._stops = self._me.cancelling() if self._me else 0

    async def answer(self) -> tuple[T, tuple[Attempt, ...]]:
        tries, turns = self._tries, self._turns
        while tries.sent < self._most and (self._ends is None or self._clock() < self._ends):
            if not turns.waiting and not await self._recovery():
                break
            one = await self._dispatch(turns.take(last=tries.sent == self._most - 1))
            if one is None:
                continue
            after_s = self._hedge_after_s(one)
            won = await (self._alone(one) if after_s is None else self._raced(one, after_s))
            if won is not None:
                return won.output, tuple(tries.done)
        raise self._failure()

    async def _recovery(self) -> bool:
        """Every offer left may not be used now: sleep until the first may, if that is in time."""
        now = self._clock()
        ends = self._began + LONGEST_ASKED_S if self._ends is None else self._ends
        at = self._turns.earliest()
        if at is None or at >= ends:
            return False
        await asyncio.sleep(max(LEAST_SLEEP_S, at - now))
        self._turns.again()
        return True

    async def _dispatch(self, scored: Scored) -> Try | None:
        """Wait for the offer's turn and place, ask all who may refuse, and begin; None: not this one."""
        provider, now = scored.offer.provider, self._clock()
        if pause := self._turns.pause_s(scored, now):
            if self._ends is not None and now + pause >= self._ends:
                return None  # it asked for more than what is left
            await asyncio.sleep(pause)
            now = self._clock()
        if self._refused(scored, now):
            return None
        limiter, share_s, waited_s = self._health.limiter(provider), self._share_s(scored, now), 0.0
        if limiter is not None and not limiter.take():
            expected_s = scored.estimate.timing.total_s
            patience_s = LONGEST_QUEUE_S if share_s is None else max(0.0, share_s - expected_s)
            got = await limiter.wait(patience_s)
            waited_s = self._clock() - now
            if not got:
                self._tries.no_place(scored, waited_s)
                return None
            if self._refused(scored, self._clock()):
                limiter.give_back(None, 0.0)
                return None
        bound_s, full = self._bound_s(scored, None if share_s is None else max(0.0, share_s - waited_s))
        return self._tries.open(scored, bound_s, waited_s=waited_s, full=full)

    def _refused(self, scored: Scored, now: float) -> bool:
        """Whether nothing may be sent there now; why is kept for the error, and when it may be again."""
        provider = scored.offer.provider
        if provider == LOCAL:
            return False
        refusal = self._health.refusal(provider, self._task, now)
        if refusal is None and self._tries.sent:
            refusal = self._health.throttle.refusal(provider)
        if refusal is None:
            return False
        reason, again_s = refusal
        self._turns.skip(scored, reason, None if again_s is None else now + again_s)
        return True

    def _share_s(self, scored: Scored, now: float) -> float | None:
        if self._ends is None:
            return None
        return self._turns.share_s(
            scored, self._ends - now, self._ends - self._began, self._most - self._tries.sent - 1,
            known=self._health.known(scored, self._task),
        )  # fmt: skip

    def _bound_s(self, scored: Scored, share_s: float | None) -> tuple[float | None, bool]:
        """Seconds that a try may run, and whether the deadline leaves it all that it may well need."""
        patience_s = self._health.patience_s(scored, self._task)
        if share_s is None or (patience_s is not None and patience_s <= share_s):
            return patience_s, True
        return share_s, share_s >= tail_s(scored.estimate) + self._health.ahead_s(scored.offer.provider)

    async def _alone(self, one: Try) -> Tried[T] | None:
        """Run one try here, without a task of its own."""
        bound = asyncio.timeout(one.bound_s)
        try:
            async with bound:
                tried = await self._run(one.scored)
        except UsageError as mistake:  # the input is at fault: no other offer would take it
            self._tries.failed(one, mistake)
            raise
        except Exception as failure:  # an unknown error must also lead to the next offer
            ended: Tried[T] | Exception = failure
        except BaseException:
            self._tries.cancelled(one)
            raise
        else:
            ended = tried
        if self._me and self._me.cancelling() > self._stops:  # ``run`` swallowed it
            self._tries.cancelled(one)
            raise asyncio.CancelledError
        if bound.expired():  # a late answer is no answer
            ended = _timed_out(one)
        if isinstance(ended, Exception):
            self._failed(one, ended)
            return None
        self._tries.answered(one, ended)
        return ended

    def _failed(self, one: Try, error: Exception) -> None:
        self._tries.failed(one, error)
        self._turns.failed(one.scored, error, self._clock())

    # Hedging --------------------------------------------------------------------------------------

    def _hedge_after_s(self, one: Try) -> float | None:
        """Seconds after which ``one`` is joined by a hedge; None where none can be."""
        if self._hedged or self._tries.sent >= self._most or not self._health.throttle.can_hedge:
            return None
        if all(s.offer.provider == one.scored.offer.provider for s in self._turns.waiting):
            return None
        after_s = self._health.hedge_after_s(one.scored, self._task)
        return after_s if after_s is not None and (one.bound_s is None or after_s < one.bound_s) else None

    async def _raced(self, first: Try, after_s: float) -> Tried[T] | None:
        """Run one try, and after ``after_s`` another beside it; the first valid answer wins."""
        running, won = [(self._start(first), first)], False
        hedge_at: float | None = first.began + after_s
        try:
            while running:
                wakes = [one.ends for _, one in running if one.ends is not None]
                wakes += [] if hedge_at is None else [hedge_at]
                left_s = max(0.0, min(wakes) - self._clock()) if wakes else None
                await _first([t for t, _ in running], left_s)
                now = self._clock()
                for task, one in tuple(running):  # in the order they were sent
                    if task.done():
                        running.remove((task, one))
                        if (tried := self._ended(task, one)) is not None:
                            won = True
                            return tried
                    elif one.ends is not None and now >= one.ends:
                        running.remove((task, one))
                        _drop(task)
                        self._failed(one, _timed_out(one))
                if hedge_at is not None and running and now >= hedge_at:
                    hedge_at = None
                    if spare := self._hedge(first, now):
                        running.append((self._start(spare), spare))
            return None
        finally:
            for task, one in running:
                _drop(task)
                well = task.done() and not task.cancelled() and task.exception() is None
                self._tries.cancelled(one, task.result() if well else None, beaten=won and one is first)

    def _start(self, one: Try) -> asyncio.Task[Tried[T]]:
        async def call() -> Tried[T]:
            # a task begins a moment after it is made: what ended in between may have opened the breaker
            if self._health.overtaken(one.call):
                one.unsent = True
                raise NoCapacity("its breaker opened meanwhile", provider=one.scored.offer.provider)
            return await self._run(one.scored)

        return asyncio.create_task(call())

    def _ended(self, task: asyncio.Task[Tried[T]], one: Try) -> Tried[T] | None:
        try:
            tried = task.result()
        except UsageError as mistake:
            self._tries.failed(one, mistake)
            raise
        except Exception as failure:
            self._failed(one, failure)
            return None
        except BaseException:
            self._tries.cancelled(one)
            raise
        self._tries.answered(one, tried)
        return tried

    def _hedge(self, first: Try, now: float) -> Try | None:
        """Another provider's try beside ``first``: the next of the route that may, can and is in time."""
        throttle, last = self._health.throttle, self._tries.sent == self._most - 1
        if not throttle.can_hedge:
            return None
        for scored in self._turns.others(first.scored, last=last):
            provider = scored.offer.provider
            limiter, share_s = self._health.limiter(provider), self._share_s(scored, now)
            if share_s is not None and scored.estimate.timing.total_s >= share_s:
                continue
            if limiter is not None and (
                self._health.refusal(provider, self._task, now) or throttle.refusal(provider)
                or not limiter.take()
            ):  # fmt: skip
                continue
            bound_s, full = self._bound_s(scored, share_s)
            if spare := self._tries.open(scored, bound_s, full=full, hedge=True):
                self._turns.remove(scored)
                self._hedged = True
                throttle.hedged()
                return spare
        return None

    def _failure(self) -> EveryAttemptFailed:
        subject = "every offer failed"
        if self._ends is not None and self._clock() >= self._ends:
            subject = "the deadline passed"
        elif not self._route.ranked:
            subject = self._route.why
        if skipped := self._turns.skipped(self._clock()):
            subject += f" (not tried: {skipped})"
        return EveryAttemptFailed(subject, tuple(self._tries.done))


async def _first(tasks: Sequence[asyncio.Task[Tried[T]]], left_s: float | None) -> None:
    """``asyncio.wait`` until the first is done, in a third of its time: most calls are raced."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    timer = None if left_s is None else loop.call_later(left_s, wake)
    for task in tasks:
        task.add_done_callback(wake)
    try:
        await woken
    finally:
        if timer is not None:
            timer.cancel()
        for task in tasks:
            task.remove_done_callback(wake)


def _timed_out(one: Try) -> TimedOut:
    return TimedOut("no answer in the time it had", provider=one.scored.offer.provider)


def _drop(task: asyncio.Task[Tried[T]]) -> None:
    """Cancel it, and let go of whatever it still answers or raises."""
    task.cancel()
    task.add_done_callback(lambda t: t.cancelled() or t.exception())
