"""What a provider has shown at one stage. Guarantee: figures of its own successes, and of similar size.

One track per (provider, stage, model). Timings are medians of the last ``KEPT`` successes within a factor of
``SIMILAR`` of the middle of the asked size's octave (sizes in tokens, or items where no tokens are counted).
They are worked out when asked for and kept until an eighth of them is new.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

from accel.core.attempt import Estimate, Timing
from accel.core.errors import OutOfMemory
from accel.core.task import Size
from accel.routing.standing import Measured

KEPT = 50
SIMILAR = 4.0
LEAST = 3  # samples, for a median
LEAST_TAIL = 20  # samples, for a 95th percentile
# The scatter is the posterior of a normal's variance under a scaled inverse chi-squared prior (Gelman et
# al., Bayesian Data Analysis, 2.6): as if PRIOR_N samples had shown the PRIOR_SPREAD of an estimate without
# any. It is never taken to be below LEAST_SPREAD.
PRIOR_SPREAD, PRIOR_N, LEAST_SPREAD = 0.5, 4, 0.05
Z_999 = 3.0902  # the standard normal's 99.9th percentile
# Share of successes: Beta prior of five tries at the 95 % that we aim for. Each new result makes the older
# ones count 2 % less, and time makes them fade, by 1/e in FORGET_S: who was bad is tried again.
PRIOR_OK, PRIOR_FAILED = 4.75, 0.25
UNTRIED = PRIOR_OK / (PRIOR_OK + PRIOR_FAILED)
FORGET, FORGET_S = 0.98, 300.0
# how long a size is taken not to fit
TOO_LARGE_S, REJECTED_S = 1800.0, 300.0


def amount(size: Size) -> int:
    """The one number that sizes are compared by: tokens, or items where none are counted; at least 1."""
    return size.tokens or size.items or 1


def tail_s(estimate: Estimate) -> float:
    """The 99.9th percentile of an estimate, in seconds."""
    return estimate.timing.total_s * math.exp(Z_999 * estimate.spread)


@dataclass(frozen=True, slots=True)
class View:
    """A track as a task of one size sees it.

    middle: median amount of the samples. p50_s, p95_s and p999_s: seconds without cold start and without our
    own queue; p95_s is None below ``LEAST_TAIL`` samples, p999_s that of the fitted log-normal, at least
    2 · p50_s. cold_s: longest cold start among the samples.
    """

    measured: Measured
    middle: float
    p50_s: float
    p95_s: float | None
    p999_s: float
    cold_s: float

    def stretch(self, size: Size) -> float:
        """How much longer this size may take than the median one, if seconds grew in proportion."""
        return max(1.0, amount(size) / self.middle)


class Track:
    """The last successes, newest last."""

    __slots__ = ("_added", "_samples", "_views")

    def __init__(self) -> None:
        self._samples: deque[tuple[int, Timing]] = deque(maxlen=KEPT)
        self._added = 0
        self._views: dict[int, tuple[int, View | None]] = {}  # octave → (good until, what it is)

    def add(self, size: Size, timing: Timing) -> None:
        """One success. A far end that tells impossible seconds teaches nothing."""
        if not 0.0 <= timing.total_s < math.inf:
            return
        self._samples.append((amount(size), timing))
        self._added += 1

    def view(self, size: Size) -> View | None:
        """What is known of such sizes; None below ``LEAST`` samples."""
        if self._added < LEAST:
            return None
        octave = amount(size).bit_length()
        kept = self._views.get(octave)
        if kept is None or kept[0] <= self._added:
            seen = self._look(2.0 ** (octave - 0.5))
            new = seen.measured.n // 8 if seen else 0
            self._views[octave] = kept = (self._added + max(1, new), seen)
        return kept[1]

    def _look(self, middle: float) -> View | None:
        low, high = middle / SIMILAR, middle * SIMILAR
        similar = [
            (n, t.wait_s, t.cold_s, t.transfer_s, t.compute_s) for n, t in self._samples if low <= n <= high
        ]
        count = len(similar)
        if count < LEAST:
            return None
        at, *parts = map(statistics.median, zip(*similar, strict=True))
        timing = Timing(*parts)
        warm = sorted([w + t + c for _, w, _, t, c in similar])
        # scattered as if all were of one size: what a larger size explains is no chance
        logs = [math.log(max(w + t + c * at / n, 1e-6)) for n, w, _, t, c in similar]
        mean = sum(logs) / count
        squares = sum((x - mean) ** 2 for x in logs)
        spread = math.sqrt((PRIOR_N * PRIOR_SPREAD**2 + squares) / (PRIOR_N + count - 1))
        spread = max(LEAST_SPREAD, spread)
        p50 = statistics.median(warm)
        return View(
            Measured(count, timing, spread), at, p50,
            warm[math.ceil(0.95 * count) - 1] if count >= LEAST_TAIL else None,
            p50 * max(2.0, math.exp(Z_999 * spread)), max([cold for _, _, cold, _, _ in similar]),
        )  # fmt: skip


class Success:
    """Expected share of calls that succeed: the mean of a Beta posterior that forgets."""

    __slots__ = ("_at", "_failed", "_ok")

    def __init__(self) -> None:
        self._ok = self._failed = self._at = 0.0

    def add(self, ok: bool, now: float) -> None:
        """One more result."""
        fade = FORGET * math.exp(-max(0.0, now - self._at) / FORGET_S)
        self._ok = self._ok * fade + ok
        self._failed = self._failed * fade + (not ok)
        self._at = now

    def share(self, now: float) -> float:
        """From 0 to 1."""
        if not self._ok and not self._failed:
            return UNTRIED
        fade = math.exp(-max(0.0, now - self._at) / FORGET_S)
        ok, failed = PRIOR_OK + self._ok * fade, PRIOR_FAILED + self._failed * fade
        return ok / (ok + failed)

    def reset(self) -> None:
        """Forget all results."""
        self._ok = self._failed = 0.0


class Ceiling:
    """The amount from which on work does not fit, for a while.

    An ``OutOfMemory`` is physics: that amount and more is out for ``TOO_LARGE_S`` at once. A ``Rejected`` may
    be about that one request (a bad field, a model that is not there) and not about how large it is, so
    it takes two different tasks, and the smaller amount of the two is out for the shorter ``REJECTED_S``.
    Only a success of that amount or more lifts either before.
    """

    __slots__ = ("_from", "_suspect", "_until")

    def __init__(self) -> None:
        self._from = 0
        self._until = float("-inf")
        self._suspect: tuple[str, int, float] | None = None  # task, amount, when: the last one rejected

    def refusal(self, size: Size, now: float) -> tuple[str, float] | None:
        """Why this size does not fit, and the seconds until it may be asked again."""
        if now >= self._until or amount(size) < self._from:
            return None
        return f"work of this size ({self._from:,} or more) was too large there", self._until - now

    def failed(self, kind: type[BaseException], size: Size, now: float, task_id: str) -> None:
        """It failed for its size, or may have."""
        if issubclass(kind, OutOfMemory):
            self.too_large(size, now)
        else:
            self.rejected(size, now, task_id)

    def too_large(self, size: Size, now: float) -> None:
        """It ran out of memory."""
        self._bar(amount(size), now, TOO_LARGE_S)

    def rejected(self, size: Size, now: float, task_id: str) -> None:
        """It would not take it."""
        before = self._suspect
        if before and before[0] != task_id and now - before[2] <= REJECTED_S:
            self._bar(min(before[1], amount(size)), now, REJECTED_S)
        self._suspect = (task_id, amount(size), now)

    def fitted(self, size: Size) -> None:
        """It was done."""
        if amount(size) >= self._from:
            self._until = float("-inf")
        if self._suspect and amount(size) >= self._suspect[1]:
            self._suspect = None

    def _bar(self, least: int, now: float, seconds: float) -> None:
        self._from = min(self._from, least) if now < self._until else least
        self._until = max(self._until, now + seconds)
