"""Warming. Guarantee: at most one warm-up at a time, reserved and booked like any try; nobody waits for it.

An offer that is late only because it is cold is never used by requests with short deadlines, and so would
stay cold for ever, while they pay more elsewhere or miss their deadlines. What each of them lost by that is
added up per provider; when the sum passes the price of a start, it is started: the ski-rental rule, which
costs at most twice what knowing the future would (Karlin et al., "Competitive snoopy caching", 1988).

A start is the request itself, sent there beside its own route: its answer comes too late for it, goes into
the cache, and leaves the far end warm for those that follow.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from accel.core.attempt import Route, Scored
from accel.core.money import NANO
from accel.core.task import Task
from accel.routing import sure
from accel.routing.estimate import billed_s, in_time

Start = Callable[[Scored], Awaitable[None]]
# How long a far end stays up and bills after its last call, where nobody tells; and how long a loss counts.
IDLE_S = 300.0


class Warmer:
    """Starts warm-ups. worth: dollars that a missed deadline costs."""

    def __init__(self, worth: float) -> None:
        self._worth = worth
        self._running: asyncio.Task[None] | None = None
        self._lost: dict[str, tuple[float, float]] = {}  # by provider: dollars, and when they were counted
        self._not_before: dict[str, float] = {}

    def consider(self, task: Task, route: Route, start: Start) -> None:
        """Count what ``task`` loses to cold offers; begin a warm-up if one is due. ``start`` runs it."""
        cold = [s for s in route.ranked if s.estimate.timing.cold_s and not sure(task, s)]
        if not cold or task.within_s is None:
            return
        now = asyncio.get_running_loop().time()
        chosen = next((s for s in route.ranked if all(s is not c for c in cold)), None)
        due = [(self._add(s, self._loss(task, s, chosen), now), s) for s in cold]
        over, best = max(due, key=lambda d: d[0])
        if self._running is None and over > 0:
            name = best.offer.provider
            self._lost.pop(name, None)
            # refused or failed, it is left alone for a while
            self._not_before[name] = now + 2 * best.estimate.timing.cold_s
            self._running = asyncio.ensure_future(start(best))
            self._running.add_done_callback(self._ended)

    def _add(self, cold: Scored, loss: float, now: float) -> float:
        """Add a loss, in dollars; by how much the sum passes the price of a start (not above 0: not yet)."""
        name, t = cold.offer.provider, cold.estimate.timing
        lost, at = self._lost.get(name, (0.0, now))
        lost = lost * math.exp(-(now - at) / IDLE_S) + max(0.0, loss)
        self._lost[name] = lost, now
        if now < self._not_before.get(name, 0.0):
            return 0.0
        return lost - cold.offer.rate.cost(t.cold_s + IDLE_S) / NANO

    def _loss(self, task: Task, cold: Scored, chosen: Scored | None) -> float:
        """Dollars by which ``chosen``, or missing the deadline, is worse than ``cold`` would be warm.

        What is free goes first when it is warm, so that beside it all the money is lost.
        """
        if chosen is None:
            return self._worth - self._warm_score(task, cold)
        paid = 0.0 if _money(cold) else _money(chosen)
        return max(paid, chosen.score - self._warm_score(task, cold))

    def _warm_score(self, task: Task, cold: Scored) -> float:
        """Its score if it had no cold start, dollars; without the person's and the guide's preferences."""
        e = cold.estimate
        t, billed = e.timing, billed_s(e.timing)
        warm_s = t.total_s - t.cold_s
        chance = e.success * in_time(warm_s, e.spread, task.within_s)
        time = dict(cold.terms)["time"] * warm_s / t.total_s
        return _money(cold) * (1 - t.cold_s / billed) + time + self._worth * (1 - chance)

    async def close(self) -> None:
        """Give up what is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _ended(self, done: asyncio.Task[None]) -> None:
        self._running = None
        if not done.cancelled():
            done.exception()  # it was booked; whoever asked has long gone


def _money(scored: Scored) -> float:
    """Dollars that it takes, and what they are worth now."""
    return sum(value for name, value in scored.terms if name in ("money", "budget", "quota"))
