"""What recent attempts say of a provider. Guarantee: plain facts of one moment, enough to rank again.

``routing.health`` makes them from attempts as they end; ``routing.policy`` only reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.core.attempt import Timing


@dataclass(frozen=True, slots=True)
class Measured:
    """What ``n`` successful attempts of a similar size came to.

    timing: the median of each part. spread: standard deviation of the logarithm of their total seconds
    without cold start, which the offer tells, and which would otherwise pass for scatter.
    """

    n: int
    timing: Timing
    spread: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One provider, for one task, now.

    blocked: why nothing may be sent there, in words, or "". again_s: seconds until that may end, None when
    nobody knows or nothing is blocked. queue_s: expected wait for a free place among its calls in flight.
    success: expected share of calls that succeed. measured: None until there are enough attempts. since_s:
    seconds since our last call there ended, 0 while one is in flight, None when there was none.
    """

    provider: str
    blocked: str = ""
    again_s: float | None = None
    queue_s: float = 0.0
    success: float = 1.0
    measured: Measured | None = None
    since_s: float | None = None
