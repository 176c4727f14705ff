"""Warming. Guarantee: a start is begun only for what was lost by its want; on the books, and nobody waits.

An offer that is late only because it is cold is never used by requests with short deadlines, and so would
stay cold for ever, while they pay more elsewhere or miss their deadlines. What each of them lost by that is
added up per provider; when the sum passes the price of a start, its idle time included, it is started: the
ski-rental rule, which costs at most twice what knowing the future would (Karlin et al., "Competitive snoopy
caching", 1988).

A start settles all accounts, since it takes over what the others were wanted for: one loss is not paid for
by several starts. What is lost while something starts counts for another only by the chance that the other
would have been warm first, had the two begun together.

A start is the request itself, sent there beside its own route: its answer comes too late for it, goes into
the cache, and leaves the far end warm for those that follow.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from accel.core.attempt import Route, Scored
from accel.core.money import NANO
from accel.core.task import Task
from accel.routing import sure
from accel.routing.estimate import REMOTE_SPREAD, billed_s, in_time

Start = Callable[[Scored], Awaitable[None]]
# How long a far end stays up and bills after its last call, where nobody tells.
IDLE_S = 300.0


@dataclass(slots=True)
class _Account:
    """What was lost by one provider's being cold: dollars, and when the last was counted."""

    lost: float
    at: float


@dataclass(slots=True)
class _Warming:
    """A start under way, and the seconds that it was expected to take."""

    task: asyncio.Task[None]
    cold_s: float


class Warmer:
    """Starts warm-ups. worth: dollars that a missed deadline costs."""

    def __init__(self, worth: float) -> None:
        self._worth = worth
        self._running: dict[str, _Warming] = {}
        self._accounts: dict[str, _Account] = {}  # by provider, as all of these
        self._not_before: dict[str, float] = {}

    def consider(self, task: Task, route: Route, start: Start) -> None:
        """Count what ``task`` loses to cold offers; begin a warm-up if one is due. ``start`` runs it."""
        cold = [s for s in route.ranked if s.estimate.timing.cold_s and not sure(task, s)]
        if not cold or task.within_s is None:
            return
        now = asyncio.get_running_loop().time()
        chosen = next((s for s in route.ranked if all(s is not c for c in cold)), None)
        idle = [s for s in cold if s.offer.provider not in self._running]
        due = [(self._over(task, s, chosen, now), s) for s in idle]
        over, best = max(due, key=lambda d: d[0], default=(0.0, None))
        if best is not None and over > 0:
            self._begin(best, now, start)

    def _begin(self, best: Scored, now: float, start: Start) -> None:
        name, cold_s = best.offer.provider, best.estimate.timing.cold_s
        self._accounts.clear()
        # refused or failed, it is left alone for a while
        self._not_before[name] = now + 2 * cold_s
        self._running[name] = begun = _Warming(asyncio.ensure_future(start(best)), cold_s)
        begun.task.add_done_callback(lambda done: self._ended(name, done))

    def _over(self, task: Task, cold: Scored, chosen: Scored | None, now: float) -> float:
        """Add a loss; by how many dollars the sum passes the price of a start (not above 0: not yet)."""
        name, cold_s, idle_s = cold.offer.provider, cold.estimate.timing.cold_s, _idle_s(cold)
        account = self._accounts.setdefault(name, _Account(0.0, now))
        # had it been warm, it would have stayed up since the last that would have gone there
        since_s = min(now - account.at, idle_s)
        if (loss := self._loss(task, cold, chosen, since_s)) > 0:
            first = math.prod(_first(cold_s, w.cold_s) for w in self._running.values())
            account.lost = account.lost * math.exp(-(now - account.at) / idle_s) + loss * first
            account.at = now
        if now < self._not_before.get(name, 0.0):
            return 0.0
        return account.lost - cold.offer.rate.cost(cold_s + idle_s) / NANO

    def _loss(self, task: Task, cold: Scored, chosen: Scored | None, since_s: float) -> float:
        """Dollars by which ``chosen``, or missing the deadline, is worse than ``cold`` would be warm.

        What is free goes first when it is warm, so that beside it all the money is lost.
        """
        warm = self._warm_score(task, cold)
        if _money(cold):
            warm += cold.offer.rate.cost(since_s) / NANO
        if chosen is None:
            return self._worth - warm
        paid = 0.0 if _money(cold) else _money(chosen)
        return max(paid, chosen.score - warm)

    def _warm_score(self, task: Task, cold: Scored) -> float:
        """Its score if it had no cold start, dollars; without the person's and the guide's preferences."""
        e = cold.estimate
        t, billed = e.timing, billed_s(e.timing)
        warm_s = t.total_s - t.cold_s
        chance = e.success * in_time(warm_s, e.spread, task.within_s)
        terms = dict(cold.terms)
        time = terms["time"] * warm_s / t.total_s
        money = _money(cold) - terms.get("idle", 0.0)
        return money * (1 - t.cold_s / billed) + time + self._worth * (1 - chance)

    async def close(self) -> None:
        """Give up what is under way."""
        running = [w.task for w in self._running.values()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _ended(self, name: str, done: asyncio.Task[None]) -> None:
        self._running.pop(name, None)
        if not done.cancelled():
            done.exception()  # it was booked; whoever asked has long gone


def _idle_s(scored: Scored) -> float:
    told = scored.offer.idle_s
    return IDLE_S if told is None else told


def _first(cold_s: float, other_s: float) -> float:
    """P(a start of ``cold_s`` ends before one of ``other_s``, begun together), both log-normal."""
    return in_time(cold_s, REMOTE_SPREAD * math.sqrt(2.0), other_s)


def _money(scored: Scored) -> float:
    """Dollars that it takes, and what they are worth now."""
    return sum(value for name, value in scored.terms if name in ("money", "idle", "budget", "quota"))
