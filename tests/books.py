"""What the tests of money share: offers whose second costs one nano-dollar, and what must always be true."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

from accel.core.money import Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Billing, Offer, Realm
from accel.ledger import Ledger
from accel.ledger.accounts import Draw

# 2026-11-23 is a Monday: a day, and an ISO week, begin with it
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RATE = Rate(NanoUSD(3600), date(2026, 11, 23), "test")


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


def offer(provider: str = "cloud", billing: Billing = Billing.SECONDS, **changes: Any) -> Offer:
    fields = {"rate": RATE, "as_of": NOW, "source": "test", **changes}
    return Offer(f"{provider}-1", provider, Realm.REAL, CPU, billing=billing, **fields)


def free_hours(left_s: float, as_of: datetime = NOW, provider: str = "kaggle", **changes: Any) -> Offer:
    return offer(provider, Billing.QUOTA, quota_left_s=left_s, as_of=as_of, **changes)


def cost(amount: int) -> Cost:
    return Cost(NanoUSD(amount), Basis.ESTIMATED)


def draw(amount: int, *accounts: str) -> Draw:
    return Draw(accounts or ("money",), amount, "budget", "cloud", RATE)


def books_agree(ledger: Ledger) -> None:
    """Every account is within its limit, and is the sum of its open holds and of its charges."""
    holds = [(json.loads(a), n) for a, n in ledger.rows("SELECT accounts, amount FROM hold")]
    charges = [(json.loads(a), n, h) for a, n, h in ledger.rows("SELECT accounts, amount, held FROM charge")]
    for account in ledger.accounts():
        assert account.cap is None or account.spent + account.held <= account.cap, account
        assert account.held == sum(n for a, n in holds if account.name in a), account
        assert account.spent == sum(min(n, h) for a, n, h in charges if account.name in a), account
        assert account.over == sum(max(0, n - h) for a, n, h in charges if account.name in a), account
    ids = [i for (i,) in ledger.rows("SELECT id FROM hold UNION ALL SELECT hold_id FROM charge")]
    assert len(ids) == len(set(ids))
