"""Money in the report. Guarantee: what was billed and what was estimated are never one number.

Spent is what was settled in the ledger. A question's cost is the sum of its attempts, each at the rate of
its offer: an estimate, even where the provider later bills. Avoided cost is what a paid offer would have
cost for what was free or came from the cache, as the requests noted it: an estimate, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from accel.core.money import ZERO, Basis, NanoUSD
from accel.ledger.accounts import Account
from accel.ledger.limits import Period, span
from accel.ledger.requests import Request
from accel.monitoring.facts import Charge, Facts
from accel.monitoring.figures import elapsed, mean, project

METHOD = "spent so far ÷ the share of the window that is over"


@dataclass(frozen=True, slots=True)
class Amount:
    """Nano-dollars of n charges, by what they rest on."""

    n: int = 0
    estimated: NanoUSD = ZERO
    billed: NanoUSD = ZERO

    @property
    def total(self) -> NanoUSD:
        """Both together; ``basis`` says of what."""
        return NanoUSD(self.estimated + self.billed)

    @property
    def basis(self) -> str:
        """"estimated", "billed", or "part estimated"; "" of nothing."""
        if not self.total:
            return ""
        return "part estimated" if self.estimated and self.billed else (
            Basis.ESTIMATED.value if self.estimated else Basis.BILLED.value
        )  # fmt: skip

    @classmethod
    def of(cls, charges: Sequence[Charge]) -> Amount:
        """Of what was charged in money; quota is none."""
        money = [c for c in charges if c.fund != "quota"]
        return cls(
            len(money), NanoUSD(sum(c.amount for c in money if c.basis == Basis.ESTIMATED)),
            NanoUSD(sum(c.amount for c in money if c.basis == Basis.BILLED)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Projection:
    """What the current day, week or month will have cost, over all providers, if it goes on like this.

    spent: so far. elapsed: share of the window that is over. amount: nano-dollars at its end, None while
    nothing is over. warning: why it rests on little, or "". prepaid credit counts like money.
    """

    period: Period
    spent: Amount
    elapsed: float
    amount: NanoUSD | None
    warning: str


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit that is in force, and where it would stand at its end.

    Amounts are nano-dollars, or milliseconds where ``account.unit`` is "gpu_ms". projected: None where the
    limit has no end, or nothing of its window is over.
    """

    account: Account
    elapsed: float | None
    projected: int | None
    warning: str

    @property
    def share(self) -> float | None:
        """Of the limit as it was set, charged and held; None without one or of one of nothing."""
        a = self.account
        return (a.used + a.held) / a.wanted if a.wanted else None


@dataclass(frozen=True, slots=True)
class Spend:
    """Money over the period of the report. per_question, per_thousand: mean estimated cost of ``n`` whole
    questions that ended, failed ones with what they cost; None of none."""

    settled: Amount
    n: int
    per_question: NanoUSD | None
    per_thousand: NanoUSD | None
    avoided: NanoUSD
    projections: tuple[Projection, ...]
    limits: tuple[Limit, ...]


def spend(facts: Facts, questions: Sequence[Request], requests: Sequence[Request]) -> Spend:
    """Count the money of ``facts``. questions: whole ones that ended; requests: of single stages."""
    cost, n = sum(q.cost for q in questions), len(questions)
    return Spend(
        Amount.of([c for c in facts.charges if facts.since <= c.at < facts.until]), n,
        mean(cost, n), mean(cost, n, per=1000), NanoUSD(sum(r.avoided for r in requests)),
        tuple(_projection(facts, period) for period in Period),
        tuple(_limit(facts, account) for account in facts.accounts),
    )  # fmt: skip


def _projection(facts: Facts, period: Period) -> Projection:
    _, since, until = span(period, facts.at.date())
    spent = Amount.of([c for c in facts.charges if since <= c.made_at < until])
    share = elapsed(since, until, facts.at)
    return Projection(period, spent, share, *project(spent.total, share, spent.n))


def _limit(facts: Facts, account: Account) -> Limit:
    if account.period not in tuple(Period):
        return Limit(account, None, None, "")
    since, until = datetime.fromisoformat(account.since), datetime.fromisoformat(account.until)
    share = elapsed(since, until, facts.at)
    charges = sum(
        c.fund == "budget" and account.provider in ("", c.provider) and since <= c.made_at < until
        for c in facts.charges
    )
    return Limit(account, share, *project(account.used, share, charges))
