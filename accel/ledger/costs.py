"""What it cost, read from the ledger. Guarantee: per lease, shares and idle time are the charge, exactly.

A job's lease is all its own. A replica's is shared out among the calls that it served, and what is left is
idle. Where processes that do not see each other's calls counted some seconds twice, or the bill came to less
than was estimated, shares are scaled down to the charge.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime

from accel.core.money import Basis, NanoUSD
from accel.ledger import leases
from accel.ledger.leases import Purpose, Rented
from accel.ledger.store import Ledger

IDLE, LOST = "idle", "not told"  # what no stage used; what a process that died had reserved


@dataclass(frozen=True, slots=True)
class LeaseCost:
    """One lease and its money, nano-dollars.

    charge: what it was charged, or while it is open what it has cost so far by its rate. basis: "billed",
    "estimated", or "so far". estimated: what was thought before it was billed. held: still reserved for it.
    shares: by stage; with ``idle`` they are the charge.
    """

    rented: Rented
    charge: NanoUSD
    basis: str
    estimated: NanoUSD | None
    held: NanoUSD
    shares: tuple[tuple[str, NanoUSD], ...]
    idle: NanoUSD


@dataclass(frozen=True, slots=True)
class Line:
    """Money of one provider and stage. by_estimate: the part that nobody has billed yet."""

    provider: str
    stage: str
    billed: NanoUSD
    by_estimate: NanoUSD

    @property
    def total(self) -> NanoUSD:
        return NanoUSD(self.billed + self.by_estimate)


@dataclass(frozen=True, slots=True)
class Told:
    """What was estimated when it was settled, and what was billed then or later, of n charges that were."""

    n: int
    estimated: NanoUSD
    billed: NanoUSD


def leased(ledger: Ledger, last: int = 1000, now: datetime | None = None) -> tuple[LeaseCost, ...]:
    """The last ``last`` leases that bill seconds, oldest first, with their money, as of ``now``, UTC."""
    stages: dict[str, Counter[str]] = defaultdict(Counter)
    for lease, stage, amount in ledger.rows(
        "SELECT json_extract(body, '$.lease_id'), stage, sum(json_extract(body, '$.cost.amount')) "
        "FROM attempt WHERE json_extract(body, '$.lease_id') <> '' GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        stages[lease][stage] += amount
    held = dict(ledger.rows("SELECT id, amount FROM hold WHERE fund <> 'quota'"))
    charged = {
        ident: (amount, basis, estimated)
        for ident, amount, basis, estimated in ledger.rows(
            "SELECT hold_id, amount, basis, estimated FROM charge WHERE fund <> 'quota' "
            "AND hold_id IN (SELECT intent_id FROM lease)"
        )
    }
    now = now or ledger.now()
    return tuple(
        _cost(rented, charged.get(rented.id), held.get(rented.id, 0), stages[rented.id], now)
        for rented in leases.everything(ledger, last)
        if rented.id in charged or rented.id in held
    )


def _cost(
    rented: Rented, charged: tuple[int, str, int | None] | None, held: int, used: Counter[str], now: datetime
) -> LeaseCost:
    since_s = max(0.0, (now - rented.made_at).total_seconds())
    charge, basis, estimated = charged or (min(held, rented.intent.offer.rate.cost(since_s)), "so far", None)
    if rented.purpose is Purpose.JOB:
        shares: tuple[tuple[str, NanoUSD], ...] = tuple((stage, NanoUSD(charge)) for stage in list(used)[:1])
    else:
        shares = tuple(sorted(_scaled(used, charge).items()))
    idle = charge - sum(amount for _, amount in shares)
    return LeaseCost(
        rented, NanoUSD(charge), basis, None if estimated is None else NanoUSD(estimated),
        NanoUSD(held), shares, NanoUSD(idle),
    )  # fmt: skip


def _scaled(used: Counter[str], charge: int) -> dict[str, NanoUSD]:
    total = sum(used.values())
    if total <= charge:
        return {stage: NanoUSD(amount) for stage, amount in used.items()}
    return {stage: NanoUSD(amount * charge // total) for stage, amount in used.items()}


def lines(ledger: Ledger, since: str = "") -> tuple[Line, ...]:
    """Every charge of money made from ``since`` on (an instant as it is stored), by provider and stage."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(provider: str, stage: str, basis: str, amount: int) -> None:
        if amount:
            sums[provider, stage][basis != Basis.BILLED] += amount

    replicas = {c.rented.id: c for c in leased(ledger, 1 << 30) if c.rented.purpose is Purpose.REPLICA}
    for hold, provider, basis, amount, stage in ledger.rows(
        "SELECT c.hold_id, c.provider, c.basis, c.amount, a.stage FROM charge c "
        "LEFT JOIN attempt a ON a.id = c.hold_id WHERE c.fund <> 'quota' AND c.made_at >= ?", since,
    ):  # fmt: skip
        if replica := replicas.get(hold):
            for name, share in (*replica.shares, (IDLE, replica.idle)):
                add(provider, name, basis, share)
        else:
            add(provider, stage or LOST, basis, amount)
    return tuple(
        Line(provider, stage, NanoUSD(billed), NanoUSD(thought))
        for (provider, stage), (billed, thought) in sorted(sums.items())
    )


def told(ledger: Ledger, since: str = "") -> Told:
    """How far estimates were from the bills that came."""
    found = ledger.rows(
        "SELECT count(*), coalesce(sum(estimated), 0), coalesce(sum(amount), 0) FROM charge "
        "WHERE basis = 'billed' AND estimated IS NOT NULL AND made_at >= ?", since,
    )  # fmt: skip
    n, estimated, billed = found[0]
    return Told(n, NanoUSD(estimated), NanoUSD(billed))


def held(ledger: Ledger) -> NanoUSD:
    """What is reserved now, in money."""
    return NanoUSD(ledger.rows("SELECT coalesce(sum(amount), 0) FROM hold WHERE fund <> 'quota'")[0][0])


def avoided(ledger: Ledger, since: str = "") -> NanoUSD:
    """What a paid offer would have cost for what was free or cached, as the requests noted it."""
    found = ledger.rows("SELECT coalesce(sum(avoided), 0) FROM request WHERE stage <> '' AND at >= ?", since)
    return NanoUSD(found[0][0])
