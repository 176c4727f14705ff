"""Wall clock, randomness and off-loading, injected. Guarantee: nothing below reads them any other way.

Durations inside the engine come from ``asyncio.get_running_loop().time()``, so that the simulation can
run the production router on a virtual-time loop; only instants that are stored or shown come from here.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Offload(Protocol):
    """Runs a plain synchronous function off the event loop and returns its value."""

    def __call__(self, fn: Callable[..., T], /, *args: Any) -> Awaitable[T]: ...


async def _inline(fn: Callable[..., T], /, *args: Any) -> T:
    return fn(*args)


@dataclass(frozen=True, slots=True)
class Runtime:
    """now: the wall clock, UTC. random: the one source of chance. new_id: fresh identifiers.

    offload: how a synchronous stage leaves the loop (a thread in production, inline in simulation).
    """

    now: Callable[[], datetime]
    random: random.Random
    new_id: Callable[[], str]
    offload: Offload

    @classmethod
    def production(cls) -> Runtime:
        """The machine's clock, a freshly seeded generator, threads."""
        return cls(
            now=lambda: datetime.now(UTC),
            random=random.Random(),
            new_id=lambda: os.urandom(6).hex(),
            offload=asyncio.to_thread,
        )

    @classmethod
    def virtual(cls, seed: int, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> Runtime:
        """Everything from ``seed`` and the running loop's clock: the same seed gives the same run."""
        rng = random.Random(seed)

        def now() -> datetime:
            return start + timedelta(seconds=asyncio.get_running_loop().time())

        return cls(now=now, random=rng, new_id=lambda: f"{rng.getrandbits(48):012x}", offload=_inline)
