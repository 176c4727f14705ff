"""Ledgers to report on, filled through the ledger's own functions; the clock is the test's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.money import Basis, Cost, NanoUSD, Rate, from_dollars
from accel.core.offer import Billing, Gpu, Offer, Realm
from accel.core.task import Numerics, Size, Spec, Stage
from accel.ledger import Ledger, requests
from accel.ledger.budgets import Budgets
from accel.ledger.limits import Limits, Period
from accel.ledger.requests import Request

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)  # a Wednesday: 2.5 of 7 days, 17.5 of 30
SIZE = Size(1, tokens=8)


@dataclass
class Clock:
    """A wall clock that stands until it is moved."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def back(self, **by: float) -> None:
        self.now = NOW - timedelta(**by)


def open_ledger(folder: Path, clock: Clock | None = None, realm: Realm = Realm.REAL) -> Ledger:
    return Ledger(folder / "ledger.sqlite3", realm, clock or Clock())


def question(
    ident: str, seconds: float = 0.5, *, outcome: Outcome = Outcome.OK, complexity: str = "simple",
    cost: int = 0, stage: str = "", provider: str = "local", hits: int = 0, items: int = 1,
    avoided: int = 0, attempts: int = 1,
) -> Request:  # fmt: skip
    """A whole question, or with a ``stage`` a part of one."""
    parent = f"q-{ident}" if stage else ""
    return Request(ident, parent, stage, complexity, outcome.value, provider, seconds, items, hits, attempts,
                   NanoUSD(cost), NanoUSD(avoided))  # fmt: skip


def attempt(
    ident: str, provider: str = "local", *, outcome: Outcome = Outcome.OK, error: str = "",
    timing: Timing = Timing(0.0, 0.0, 0.1, 0.4),  # noqa: B008 - frozen
    cost: int = 0, basis: Basis = Basis.ESTIMATED, realm: Realm = Realm.REAL,
) -> Attempt:  # fmt: skip
    return Attempt(ident, f"t-{ident}", provider, realm, f"{provider}/x", outcome, timing,
                   Cost(NanoUSD(cost), basis), error=error)  # fmt: skip


def try_it(ledger: Ledger, made: Attempt, stage: Stage = Stage.EMBED) -> None:
    ledger.record_attempt(made, Spec(stage), SIZE)


def offer(provider: str = "runpod", dollars: str = "0.36", billing: Billing = Billing.SECONDS) -> Offer:
    rate = Rate(from_dollars(dollars), date(2026, 11, 1), "a price list")
    made = Offer(f"{provider}/t4", provider, Realm.REAL, Gpu("Tesla T4", 1, 16 << 30, 75), rate, NOW, "test",
                 numerics=frozenset({Numerics.FP32}), billing=billing)  # fmt: skip
    return made if billing is Billing.SECONDS else replace(made, quota_left_s=3600.0, quota_s=108_000.0)


def pay(
    budgets: Budgets, ident: str, seconds: float, *, at: Offer | None = None, basis: Basis = Basis.ESTIMATED
) -> None:
    """Reserve and settle just ``seconds``."""
    where = at or offer()
    budgets.reserve(ident, where, seconds, f"t-{ident}")
    budgets.settle(ident, where, seconds, Cost(where.rate.cost(seconds), basis))


def budgets(ledger: Ledger, **dollars: str) -> Budgets:
    """Limits over all providers: ``day="1"``, ``month="10"``; and "runpod_day" at one of them."""
    caps = {}
    for name, amount in dollars.items():
        provider, _, period = name.rpartition("_")
        caps[provider, Period(period)] = from_dollars(amount)
    return Budgets(ledger, Limits(caps, {}))


def ask(ledger: Ledger, *made: Request) -> None:
    for request in made:
        requests.record(ledger, request)
