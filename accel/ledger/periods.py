"""Accounts by period. Guarantee: every limit that applies to a provider has an account before it is used.

The accounts are shared by all processes; which limits apply is this process's own. See ``budgets``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime, timedelta

from accel.ledger.accounts import Account
from accel.ledger.database import instant
from accel.ledger.limits import PERIODS, Limits, Period, span
from accel.ledger.store import Ledger

CREDIT, QUOTA = "credit", "quota"  # kinds of account beside the periods
Known = Mapping[tuple[str, str], Account]  # by provider and period


class Periods:
    """The accounts that one process's limits need, on one ledger. caps: keys by provider, "" for all."""

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger, self._limits = ledger, limits
        self.caps: dict[str, list[tuple[str, Period]]] = {}
        for who, period in limits.caps:
            self.caps.setdefault(who, []).append((who, period))
        self._applying: dict[str, dict[tuple[str, str], int]] = {}

    def current(self, now: datetime, provider: str | None = None) -> Known:
        """Accounts that have not ended, the latest of each provider and period."""
        found = self._ledger.open_accounts(now, provider)  # by beginning: a later one takes the place
        return {(a.provider, a.period): a for a in found}

    def limit(self, account: Account) -> int:
        """This process's own limit for an account, 0 where it has none."""
        if account.period == CREDIT:
            return self._limits.credits.get(account.provider, 0)
        if account.period in PERIODS:
            return self._limits.caps.get((account.provider, Period(account.period)), 0)
        return 0

    def wanted(self, provider: str) -> dict[tuple[str, str], int]:
        """This process's limits that apply to a provider."""
        wanted = self._applying.get(provider)
        if wanted is None:
            keys = (*self.caps.get("", ()), *self.caps.get(provider, ()))
            wanted = self._applying[provider] = {key: self._limits.caps[key] for key in keys}
            if provider in self._limits.credits:
                wanted[provider, CREDIT] = self._limits.credits[provider]
        return wanted

    def opened(self, provider: str, now: datetime) -> Known:
        """Accounts that apply to ``provider``, with the limits of this process; missing ones are opened.

        One for which this process has no limit (another process has, or had) is drawn on all the same: what
        it says of its period stays true.
        """
        known = self.current(now, provider)
        wanted: dict[tuple[str, str], int | None] = {k: None for k in known if k[1] in PERIODS}
        wanted |= self.wanted(provider)
        changed = False
        for (who, period), limit in wanted.items():
            account = known.get((who, period))
            if account is None:
                self._open(who, period, limit, now)
            elif account.wanted != limit:
                self._ledger.limit(account.name, limit)
            changed |= account is None or account.wanted != limit
        return self.current(now, provider) if changed else known

    def _open(self, who: str, period: str, limit: int | None, now: datetime) -> None:
        if period == CREDIT:
            self._ledger.open_account(f"{who}:{CREDIT}", "nano_usd", limit, provider=who, period=CREDIT)
            return
        key, since, until = span(Period(period), now.date())
        self._ledger.open_account(
            f"{who or 'all'}:{period}:{key}", "nano_usd", limit, provider=who, period=period,
            since=instant(since), until=instant(until),
        )  # fmt: skip

    def body(self, account: Account) -> dict[str, str | int | float]:
        return {
            "kind": "budget", "realm": self._ledger.realm.value, "account": account.name,
            "provider": account.provider, "period": account.period, "limit": self.limit(account),
            "used": account.used, "held": account.held,
        }  # fmt: skip


@functools.lru_cache(maxsize=64)  # of many accounts at one instant
def share_over(since: str, until: str, now: datetime) -> float:
    """Share of a period that is over, 0 to 1 also where the clock was set back."""
    begin, length = _period(since, until)
    return min(1.0, max(0.0, (now - begin) / length))


@functools.lru_cache(maxsize=64)
def _period(since: str, until: str) -> tuple[datetime, timedelta]:
    begin = datetime.fromisoformat(since)
    return begin, datetime.fromisoformat(until) - begin
