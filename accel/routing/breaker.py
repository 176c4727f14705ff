"""The circuit breaker. Guarantee: nothing is begun while it is open; half-open, one probe at a time.

Closed → open after failures worth ``CONSECUTIVE`` in a row, or when at least half of at least
``WINDOW_CALLS`` results of the last ``WINDOW_S`` are failures. Open → half-open after ``OPEN_S`` × n, n
being how often it opened without closing between, at most ``LONGEST_OPEN_S``, ± ``JITTER``. Half-open →
closed after ``SUCCESSES`` successful probes, → open after a failed one. The result of a call that was begun
before the last of these changes is ignored: a late success closes nothing, a late failure opens nothing.

Five in a row, and 30 s × n up to 300 s, are Envoy's outlier detection (``consecutive_5xx``,
``base_ejection_time``, ``max_ejection_time``). Envoy also tells errors the far end answered with from those
where nothing usable came back (no connection, a reset, a time-out: "locally originated"); these say more,
since nobody was there to answer. gRPC takes a connection off its picks at the first of them
(TRANSIENT_FAILURE), HAProxy takes a server for dead after three failed checks (``fall``). So a ``SILENCE``
weighs 2, and three of them open. A primary that is away for a minute, asked every 4 s, then costs three
tries until it opens, one probe 24 to 36 s later, and none for another 48 s at least: four in all.

Everything is a fold over results in time; ``recall`` folds in results that other processes recorded.
Times are ``loop.time()`` of the caller.
"""

from __future__ import annotations

import random
from collections import deque
from enum import Enum

CONSECUTIVE = 5
WINDOW_S, WINDOW_CALLS, WINDOW_SHARE = 30.0, 10, 0.5
OPEN_S, LONGEST_OPEN_S, JITTER = 30.0, 300.0, 0.2
SUCCESSES = 2
# weights of a result; None says nothing of the provider
SUCCESS, FAILURE, SILENCE = 0, 1, 2
# when to ask again while somebody else's probe is under way
PROBE_S = 0.5


class Phase(Enum):
    """Closed: calls pass. Open: none. Half-open: one at a time, to see whether it is well again."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """One breaker. ``begin`` may be called only when ``refusal`` gave None at the same moment."""

    __slots__ = (
        "_failed", "_fresh", "_opened", "_probing", "_random", "_row", "_since", "_until", "_weight", "_well",
        "generation", "phase",
    )  # fmt: skip

    def __init__(self, chance: random.Random) -> None:
        self.phase = Phase.CLOSED
        self.generation = 0  # counts the changes of phase
        self._random = chance
        self._since = float("-inf")  # when the phase began
        self._until = 0.0  # when open ends
        self._opened = 0  # times in a row
        self._probing = False
        self._well = 0  # successful probes
        self._row, self._weight = 0, 0  # failures in a row, and their weight
        self._fresh: deque[tuple[float, bool]] = deque()  # (time, failed) within the window
        self._failed = 0  # of these

    def refusal(self, now: float) -> tuple[str, float] | None:
        """Why nothing may be begun now, and the seconds until that may end; None when a call may begin."""
        if self.phase is Phase.CLOSED:
            return None
        self._advance(now)
        if self.phase is Phase.OPEN:
            times = "once" if self._opened == 1 else f"{self._opened} times in a row"
            return f"its breaker opened {times}", self._until - now
        return ("its breaker is half-open, and a probe is under way", PROBE_S) if self._probing else None

    def begin(self, now: float) -> int:
        """A call begins: the generation to hand to ``end``. Half-open, it takes the probe's place."""
        self._advance(now)
        self._probing = self.phase is Phase.HALF_OPEN
        return self.generation

    def end(self, generation: int, now: float, weight: int | None) -> None:
        """The call of ``begin`` ended: SUCCESS, FAILURE, SILENCE, or None for what says nothing."""
        if generation == self.generation:
            self._probing = False
            self._result(now, weight)

    def recall(self, began: float, ended: float, weight: int) -> None:
        """Fold in a result that another process recorded. Call in the order of ``ended``."""
        self._advance(began)
        if began >= self._since:
            self._result(ended, weight)

    def trip(self, now: float, seconds: float) -> None:
        """Open it for just that long, whatever was counted; if it is open for longer, leave it."""
        until = now + seconds
        if self.phase is Phase.OPEN and self._until >= until:
            return
        self._opened += 1
        self._change(Phase.OPEN, now)
        self._until = until

    def _advance(self, now: float) -> None:
        if self.phase is Phase.OPEN and now >= self._until:
            self._change(Phase.HALF_OPEN, self._until)

    def _result(self, now: float, weight: int | None) -> None:
        if weight is None or self.phase is Phase.OPEN:
            return
        if self.phase is Phase.HALF_OPEN:
            if weight:
                self._open(now)
                return
            self._well += 1
            if self._well >= SUCCESSES:
                self._opened = 0
                self._change(Phase.CLOSED, now)
            return
        fresh = self._fresh
        fresh.append((now, weight > 0))
        while fresh[0][0] <= now - WINDOW_S:
            self._failed -= fresh.popleft()[1]
        if not weight:
            self._row = self._weight = 0
            return
        self._failed += 1
        self._row += 1
        self._weight += weight
        many = len(fresh) >= WINDOW_CALLS and self._failed >= WINDOW_SHARE * len(fresh)
        if many or self._weight >= CONSECUTIVE:
            self._open(now)

    def _open(self, now: float) -> None:
        self._opened += 1
        longest = min(LONGEST_OPEN_S, OPEN_S * self._opened)
        self._change(Phase.OPEN, now)
        self._until = now + longest * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _change(self, phase: Phase, now: float) -> None:
        self.phase, self._since = phase, now
        self.generation += 1
        self._probing = False
        self._well = self._row = self._weight = self._failed = 0
        self._fresh.clear()
