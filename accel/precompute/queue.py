"""Who takes which shard next. Guarantee: no shard is with two places at once, and nobody waits for nothing.

A place first carries on what is under way there; then takes what it has not failed at; then, once everybody
else failed at it as often, what it failed at before, ``MOST_TRIES`` times in all. Who finds nothing waits
while a shard may still come back from elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from accel.core.attempt import Attempt
from accel.precompute.shards import Shard

STRIKES = 3     # failures in a row after which a place is given nothing more
MOST_TRIES = 2  # of one shard at one place


@dataclass(slots=True)
class Work:
    """A shard on its way. number: of its current job. at: the place where that job is under way, or "".

    failed: how often, by place; attempts: of the jobs that failed."""

    shard: Shard
    number: int = 0
    at: str = ""
    failed: Counter[str] = field(default_factory=Counter)
    attempts: list[Attempt] = field(default_factory=list)


class Queue:
    """The shards that are not made. places: who may take new ones. For one event loop.

    left: places that take no more, and why. running: shards that are with a place, by place.
    """

    def __init__(self, places: Iterable[str], waiting: Iterable[Work]) -> None:
        self._places = tuple(places)
        self.waiting = list(waiting)
        self.running: Counter[str] = Counter()
        self.left: dict[str, str] = {}
        self._strikes: Counter[str] = Counter()
        self._paused = 0
        self._changed = asyncio.Condition()

    async def take(self, place: str) -> Work | None:
        """The next shard for ``place``; None when there will be none."""
        async with self._changed:
            while True:
                work = self._next(place)
                if work is not None:
                    self.waiting.remove(work)
                    self.running[place] += 1
                    return work
                if not self.running.total() and not self._paused:
                    return None
                await self._changed.wait()

    async def put(self, work: Work, place: str, *, made: bool) -> None:
        """End what ``take`` began: the shard is made, or waits again."""
        async with self._changed:
            self.running[place] -= 1
            if not made:
                self.waiting.append(work)
                self.waiting.sort(key=lambda w: w.shard.number)
            self._changed.notify_all()

    async def pause(self, seconds: float) -> None:
        """Let a place rest that may still be of use to the others' shards."""
        self._paused += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._paused -= 1
            async with self._changed:
                self._changed.notify_all()

    def succeeded(self, place: str) -> None:
        """A shard was made there."""
        self._strikes[place] = 0

    def failed(self, work: Work, place: str) -> int:
        """A shard failed there; how many did now in a row."""
        work.failed[place] += 1
        self._strikes[place] += 1
        return self._strikes[place]

    def leave(self, place: str, why: str) -> bool:
        """``place`` takes nothing new any more; whether that is new."""
        new = place not in self.left
        self.left.setdefault(place, why)
        return new

    @property
    def active(self) -> tuple[str, ...]:
        """Places that still take shards."""
        return tuple(p for p in self._places if p not in self.left)

    def _next(self, place: str) -> Work | None:
        mine = [w for w in self.waiting if w.at == place]
        if mine or place not in self.active:
            return mine[0] if mine else None
        free = [w for w in self.waiting if not w.at]
        for work in free:
            if not work.failed[place]:
                return work
        others = [p for p in self.active if p != place]
        for work in free:
            n = work.failed[place]
            if n < MOST_TRIES and all(work.failed[p] >= n for p in others):
                return work
        return None
