"""What is kept of a provider, in all and per kind of call. Guarantee: plain state; ``health`` changes it."""

from __future__ import annotations

import random

from accel.core.attempt import Timing
from accel.routing.breaker import Breaker
from accel.routing.limiter import Limiter
from accel.routing.standing import Measured, Standing
from accel.routing.track import Ceiling, Success, Track, View


class Place:
    """One provider as a whole."""

    __slots__ = ("account", "ahead_s", "ended", "limiter", "paused_until")

    def __init__(self, chance: random.Random) -> None:
        self.account, self.limiter = Breaker(chance), Limiter()
        self.paused_until = float("-inf")
        self.ended: float | None = None  # the last call
        self.ahead_s = 0.0  # expected of the calls in flight

    def since_s(self, now: float) -> float | None:
        """Seconds since our last call ended, 0 while one is in flight; None when there was none."""
        if self.limiter.in_flight:
            return 0.0
        return None if self.ended is None else max(0.0, now - self.ended)


class Line:
    """One (provider, stage, model). place: the provider as a whole. known, said: what the policy was told."""

    __slots__ = (
        "_last", "beaten", "breaker", "ceiling", "known", "place", "said", "success", "timeouts", "track",
    )  # fmt: skip

    def __init__(self, chance: random.Random, provider: str, place: Place) -> None:
        self._last: tuple[View, int, Measured] | None = None
        self.place = place
        self.breaker, self.ceiling = Breaker(chance), Ceiling()
        self.success, self.track = Success(), Track()
        self.timeouts = 0  # in a row
        self.beaten = False  # by a hedge, and not heard of since
        self.known: tuple[str, float | None, float, float, Measured | None, float | None] | None = None
        self.said = Standing(provider)

    def scaled(self, view: View, size: int) -> Measured:
        """What was measured of the median size, for this one: computing grows with it, the way does not.

        The last is kept: requests of one size come in rows.
        """
        if self._last is not None and self._last[0] is view and self._last[1] == size:
            return self._last[2]
        known, ratio = view.measured, size / view.middle
        t = known.timing
        timing = Timing(t.wait_s, t.cold_s, t.transfer_s, t.compute_s * ratio)
        measured = Measured(known.n, timing, known.spread)
        self._last = (view, size, measured)
        return measured
