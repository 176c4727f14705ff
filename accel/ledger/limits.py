"""What the person allows to be spent. Guarantee: a limit that cannot be meant is an error."""

from __future__ import annotations

import calendar
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from accel.core.money import NanoUSD
from accel.ledger.accounts import LARGEST


class Period(StrEnum):
    """How often a budget begins anew, at midnight UTC; weeks begin on Monday (ISO 8601)."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


PERIODS = frozenset(Period)
# Machines that may be rented in an hour. Ours: three jobs at once (one per cloud that we rent from), each
# with every machine lost twice, are nine; a person with both hands full stays below twenty, and what a loop
# of launches costs is bounded by twenty lifetimes.
LAUNCHES_PER_HOUR = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What the person allows.

    caps: nano-dollars, by provider ("" for all together) and period. credits: prepaid at a provider.
    alert_at: shares of a limit, above 0 and up to 1. launches: machines that may be rented in an hour, over
    all providers that bill seconds. Raises ValueError for what cannot be meant.
    """

    caps: Mapping[tuple[str, Period], NanoUSD]
    credits: Mapping[str, NanoUSD]
    alert_at: tuple[float, ...] = (0.5, 0.8, 1.0)
    launches: int = LAUNCHES_PER_HOUR

    def __post_init__(self) -> None:
        for amount in (*self.caps.values(), *self.credits.values()):
            if type(amount) is not int or not 0 <= amount <= LARGEST:
                raise ValueError(f"a limit is a whole number of nano-dollars, 0 to {LARGEST}: {amount}")
        if not all(0 < share <= 1 for share in self.alert_at):
            raise ValueError(f"an alert is set at a share above 0 and up to 1: {self.alert_at}")
        if self.launches < 0:
            raise ValueError(f"the launches of an hour are a number from 0 on: {self.launches}")
        if "" in self.credits or "all" in {*self.credits, *(who for who, _ in self.caps)}:
            raise ValueError('no provider is named "" or "all"')


@functools.lru_cache(maxsize=64)
def span(period: Period, day: date) -> tuple[str, datetime, datetime]:
    """The period that ``day`` lies in: its name, where it begins, where the next one begins."""
    if period is Period.DAY:
        key, first, days = day.isoformat(), day, 1
    elif period is Period.WEEK:
        year, week, weekday = day.isocalendar()
        key, first, days = f"{year}-W{week:02}", day - timedelta(days=weekday - 1), 7
    else:
        key, first = f"{day:%Y-%m}", day.replace(day=1)
        days = calendar.monthrange(day.year, day.month)[1]
    since = datetime.combine(first, time(), UTC)
    return key, since, since + timedelta(days=days)


def milliseconds(seconds: float) -> int:
    """Free quota is counted in whole milliseconds, rounded up. Raises ValueError for what is no duration."""
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"not a duration: {seconds} s")
    return math.ceil(seconds * 1000)
