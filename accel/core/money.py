"""Money as integers. Guarantee: no float ever holds an amount, and an amount always says its basis.

The unit is the nano-dollar (1e-9 US dollar): five milliseconds of a $0.16/h GPU cost 222 of them,
and would round to zero micro-dollars. SQLite integers and Python ints carry 9.2e9 dollars exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import NewType

NanoUSD = NewType("NanoUSD", int)
NANO = 1_000_000_000
ZERO = NanoUSD(0)


def dollars(amount: NanoUSD) -> str:
    """``amount`` for people: cents and up with two decimals, smaller amounts exactly, zero as $0."""
    if amount == 0:
        return "$0"
    sign, whole = ("-", -amount) if amount < 0 else ("", int(amount))
    if whole >= NANO // 100:
        return f"{sign}${whole / NANO:,.2f}"
    return f"{sign}${whole / NANO:.9f}".rstrip("0")


def from_dollars(value: str | int) -> NanoUSD:
    """Parse a decimal dollar amount exactly ("0.16"). Raises ValueError on floats' leftovers or NaN."""
    from decimal import Decimal, InvalidOperation

    try:
        nano = Decimal(value) * NANO
    except InvalidOperation as bad:
        raise ValueError(f"not a dollar amount: {value!r}") from bad
    if not nano.is_finite() or nano != nano.to_integral_value():
        raise ValueError(f"not a whole number of nano-dollars: {value!r}")
    return NanoUSD(int(nano))


class Basis(StrEnum):
    """Where an amount comes from. The two are never added without saying so."""

    ESTIMATED = "estimated"
    BILLED = "billed"


@dataclass(frozen=True, slots=True)
class Rate:
    """What an hour costs: nano-dollars per hour, the day it was true, and who said so."""

    nano_per_hour: NanoUSD
    as_of: date
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.nano_per_hour, int):  # NaN is a float
            raise ValueError(f"a rate is a whole number of nano-dollars, not {self.nano_per_hour}")
        if self.nano_per_hour < 0:
            raise ValueError(f"a rate cannot be negative: {self.nano_per_hour}")
        if not self.source:
            raise ValueError("a rate needs its source")

    def cost(self, seconds: float) -> NanoUSD:
        """Nano-dollars for ``seconds``, rounded up, so that an estimate is never below the charge."""
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"not a duration: {seconds} s")
        return NanoUSD(math.ceil(self.nano_per_hour * seconds / 3600))

    @property
    def free(self) -> bool:
        return self.nano_per_hour == 0


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount and its basis. ``Cost()`` is an honest zero: nothing was billed."""

    amount: NanoUSD = ZERO
    basis: Basis = Basis.ESTIMATED

    def __str__(self) -> str:
        return dollars(self.amount) if self.amount == 0 else f"{dollars(self.amount)} {self.basis}"
