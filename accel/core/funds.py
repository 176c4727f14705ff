"""What may still be spent at a provider. Guarantee: facts of the ledger at one moment, and no decision.

``ledger`` fills these in, ``routing`` filters and prices by them, and the decision's log keeps them. The
hard limit is the reservation in the ledger, not this.
"""

from __future__ import annotations

from dataclasses import dataclass

from accel.core.money import ZERO, NanoUSD


@dataclass(frozen=True, slots=True)
class Window:
    """One limit and its time window, both in use: shares from 0 to 1 (and above, when overrun).

    used: spent and held, as a share of the limit. elapsed: the share of the window that is over.
    """

    name: str
    used: float
    elapsed: float


@dataclass(frozen=True, slots=True)
class Funds:
    """What the limits leave for one provider.

    left: nano-dollars that may still be reserved, over every budget that applies and prepaid credit; None
    where money has no limit. reason: in words, which limit binds (or that no budget was set). credit:
    nano-dollars of ``left`` that are prepaid. budget: the budget window that is used most in proportion
    to its elapsed time, None without one. quota: the same of the free hours, None without a quota.
    """

    provider: str
    left: NanoUSD | None = None
    reason: str = ""
    credit: NanoUSD = ZERO
    budget: Window | None = None
    quota: Window | None = None
