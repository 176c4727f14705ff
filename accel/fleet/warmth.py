"""Warming. Guarantee: at most one warm-up at a time, reserved and booked like any try; nobody waits for it.

An offer that is late only because it is cold is never used by requests with short deadlines, and so would
stay cold for ever. When nothing else is sure to meet a deadline, or all that is costs money while cold free
hours would do, the request itself is sent there too, beside its own route: its answer comes too late for
it, goes into the cache, and leaves the far end warm for those that follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from accel.core.attempt import Route, Scored
from accel.core.money import NANO
from accel.core.offer import Billing
from accel.core.task import Task
from accel.routing import sure

Start = Callable[[Scored], Awaitable[None]]


class Warmer:
    """Starts warm-ups. worth: dollars that one may cost at most: what a missed deadline costs."""

    def __init__(self, worth: float) -> None:
        self._worth = worth
        self._running: asyncio.Task[None] | None = None

    def consider(self, task: Task, route: Route, start: Start) -> None:
        """Begin a warm-up of the offer that would help most, if one would; ``start`` runs it to its end."""
        if self._running is not None or task.within_s is None or not route.ranked:
            return
        if (cold := self.candidate(task, route)) is not None:
            self._running = asyncio.ensure_future(start(cold))
            self._running.add_done_callback(self._ended)

    def candidate(self, task: Task, route: Route) -> Scored | None:
        """The first offer of ``route`` that is worth warming for tasks like ``task``, or None."""
        in_time = [s for s in route.ranked if sure(task, s)]
        for scored in route.ranked:
            if not scored.estimate.timing.cold_s or sure(task, scored) or not sure(task, scored, warm=True):
                continue
            gratis = scored.offer.billing is not Billing.SECONDS
            if scored.estimate.cost.amount > self._worth * NANO:
                continue
            if not in_time or (gratis and all(s.offer.billing is Billing.SECONDS for s in in_time)):
                return scored
        return None

    async def close(self) -> None:
        """Give up what is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _ended(self, done: asyncio.Task[None]) -> None:
        self._running = None
        if not done.cancelled():
            done.exception()  # it was booked; whoever asked has long gone
