"""Percentiles and projections. Guarantee: exact, and a figure that rests on little says so.

No sketches and no buckets: a percentile is one of the values that were measured, by nearest rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from accel.core.money import NanoUSD

EARLY = 0.1     # of a window: before that one charge moves the projection by more than ten times itself
FEW_CHARGES = 5


def nearest_rank(ordered: list[float], percent: int) -> float | None:
    """The smallest of ``ordered`` that at least ``percent`` % of them do not exceed; None of nothing.

    ordered: ascending. percent: 1 to 100. Source: the nearest-rank definition, rank = ⌈percent·n / 100⌉,
    in whole numbers, so that no rounding of a product moves a rank.
    """
    if not 1 <= percent <= 100:
        raise ValueError(f"a percentile is a whole number from 1 to 100, not {percent}")
    return ordered[-(-percent * len(ordered) // 100) - 1] if ordered else None


@dataclass(frozen=True, slots=True)
class Seconds:
    """n durations and their percentiles, seconds; None of nothing.

    With fewer than 20 of them p95, with fewer than 100 p99, is the slowest.
    """

    n: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, durations: Iterable[float]) -> Seconds:
        """Percentiles of ``durations``, seconds, in any order."""
        ordered = sorted(durations)
        return cls(len(ordered), *(nearest_rank(ordered, p) for p in (50, 95, 99)))


def elapsed(since: datetime, until: datetime, now: datetime) -> float:
    """The share of a window that is over, 0 to 1."""
    whole = (until - since).total_seconds()
    return min(1.0, max(0.0, (now - since).total_seconds() / whole)) if whole > 0 else 1.0


def project(spent: int, share: float, charges: int) -> tuple[NanoUSD | None, str]:
    """Nano-dollars at the end of a window of which ``share`` is over, and a warning or "".

    Method: spent so far ÷ elapsed share: it takes the rest of the window to go on like what is over. None
    while nothing of it is over. charges: how many make up ``spent``.
    """
    if share <= 0:
        return None, "the window has only begun"
    warning = ""
    if share < EARLY:
        warning = f"only {share:.1%} of the window is over"
    elif 0 < charges < FEW_CHARGES:
        warning = f"rests on {charges} charge{'s' if charges > 1 else ''}"
    return NanoUSD(round(spent / Fraction(share))), warning


def mean(total: int, n: int, per: int = 1) -> NanoUSD | None:
    """``total`` nano-dollars over ``n``, for each ``per`` of them, rounded to a whole one; None of none."""
    return NanoUSD(round(Fraction(total * per, n))) if n else None
