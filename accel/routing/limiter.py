"""How much at once. Guarantee: never more calls in flight than the limit; who waits longest goes first.

Additive increase, multiplicative decrease, as Netflix's concurrency-limits (``AIMDLimit``: × 0.9 on a drop
or time-out, + 1 on success where 2 · in flight ≥ limit), from 4, between 1 and 200. Not a gradient on
latency: a GPU that batches answers more slowly by design. A place that was granted is given back exactly
once, and a wait that is cancelled or runs out takes none with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

INITIAL, LEAST, MOST = 4.0, 1.0, 200.0
SHRINK, GROW = 0.9, 1.0
RECENT = 0.1  # weight of the newest call in the mean seconds of a call


class Limiter:
    """The places of one provider."""

    __slots__ = ("_seconds", "_waiting", "in_flight", "limit")

    def __init__(self) -> None:
        self.limit = INITIAL
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._seconds = 0.0  # moving mean of a call

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiting)

    @property
    def queue_s(self) -> float:
        """Expected seconds until a call that comes now has a place: those before it, over the rate of
        calls that ends at ``limit`` at once (Little's law). 0 while one is free."""
        if self.in_flight + 1 <= self.limit:
            return 0.0
        return (len(self._waiting) + 1) * self._seconds / int(self.limit)

    def take(self) -> bool:
        """Take a place if one is free; then nobody waits, for who waits is granted what becomes free."""
        if self.in_flight + 1 > self.limit:
            return False
        self.in_flight += 1
        return True

    async def wait(self, within_s: float) -> bool:
        """Take a place as soon as those before have theirs; False if none came within ``within_s``."""
        if self.take():
            return True
        if within_s <= 0:
            return False
        loop = asyncio.get_running_loop()
        place: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(place)
        timer = loop.call_later(within_s, _too_late, place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.give_back(None, 0.0)  # granted in the moment of the cancellation
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(place)

    def give_back(self, well: bool | None, seconds: float) -> None:
        """A call ended after ``seconds``. well: True a success, False overload (429, time-out), None
        neither."""
        if well:
            if 2 * self.in_flight >= self.limit:
                self.limit = min(MOST, self.limit + GROW)
            self._seconds += (seconds - self._seconds) * (RECENT if self._seconds else 1.0)
        elif well is False:
            self.limit = max(LEAST, self.limit * SHRINK)
        self.in_flight -= 1
        if self._waiting:
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self.in_flight + 1 <= self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(True)


def _too_late(place: asyncio.Future[bool]) -> None:
    if not place.done():
        place.set_result(False)
