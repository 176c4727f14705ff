"""An event loop in virtual time. Guarantee: time passes only by being slept, and then all at once.

The loop asks its selector to wait for at most t seconds; this one does not wait, it adds t to the clock.
So hours pass in milliseconds and everything happens in the same order in every run. What runs on it must
wait on the loop's clock alone: no threads, no sockets, no ``time.sleep``. The selector never looks at a
file: asking the operating system for events that cannot come was a tenth of a simulation's time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
RESOLUTION_S = time.get_clock_info("monotonic").resolution  # what asyncio's base loop adds


class DeadlockError(RuntimeError):
    """Every coroutine waits, and nothing is scheduled that could wake one."""


class _Jump(selectors.SelectSelector):
    """A selector that moves ``now`` on, seconds since the loop was made, instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("every task waits for something that will never happen")
        if timeout > 0:
            self.now += timeout
        if self.now + RESOLUTION_S == self.now:
            # Months from zero a float can no longer hold the nanosecond that the loop adds to find what
            # is due: what is due exactly now would wait for ever.
            self.now = math.nextafter(self.now, math.inf)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and jumps to whatever is due next."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jump.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` in virtual time. Raises DeadlockError where the real one would hang for ever."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
