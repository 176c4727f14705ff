"""The wall clock of a simulation. Guarantee: it shows what it was set to; durations never come from it.

It begins before midnight at the end of a month, so that a day and a month end during a run, and it can be
set, as a person or NTP does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from accel.core.runtime import Runtime

T = TypeVar("T")
START = datetime(2026, 1, 31, 23, 40, tzinfo=UTC)  # a Saturday: the week ends a day later


class WallClock:
    """Wall time: the loop's, and what it was set on or back by."""

    def __init__(self, start: datetime = START) -> None:
        self._start, self.offset_s = start, 0.0
        self.latest = start  # that it ever showed
        self._shown = (-1.0, start)  # the engine asks several times in one instant

    def now(self) -> datetime:
        """What it shows."""
        seconds = asyncio.get_running_loop().time() + self.offset_s
        if self._shown[0] != seconds:
            self._shown = (seconds, self._start + timedelta(seconds=seconds))
        return self._shown[1]

    def jump(self, seconds: float) -> None:
        """Set it on, or back."""
        self.mark()
        self.offset_s += seconds
        self.mark()

    def mark(self) -> datetime:
        """The latest instant it has shown by now."""
        self.latest = max(self.latest, self.now())
        return self.latest


async def _inline(fn: Callable[..., T], /, *args: Any) -> T:
    return fn(*args)


def runtime(seed: int, clock: WallClock) -> Runtime:
    """``Runtime.virtual`` with a wall clock that can be set."""
    chance = random.Random(seed)

    def offload(fn: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        return _inline(fn, *args)

    return Runtime(clock.now, chance, lambda: f"{chance.getrandbits(48):012x}", offload)
