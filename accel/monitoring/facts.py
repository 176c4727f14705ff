"""What the report counts, read from one ledger. Guarantee: read-only, field by field, each row once.

One statement per table, over indexes by time; no JSON value is validated or kept that is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from accel.core.offer import Realm
from accel.ledger import Ledger, alerts, requests
from accel.ledger.accounts import Account
from accel.ledger.database import instant
from accel.ledger.limits import Period, span
from accel.ledger.requests import Request

WHOLE = ""  # the stage of the row that stands for a whole question


class Tried(NamedTuple):
    """One attempt. Seconds in parts, amount in nano-dollars, basis "estimated" or "billed"."""

    provider: str
    stage: str
    outcome: str
    error: str
    wait_s: float
    cold_s: float
    transfer_s: float
    compute_s: float
    amount: int
    basis: str

    @property
    def seconds(self) -> float:
        return self.wait_s + self.cold_s + self.transfer_s + self.compute_s


class Charge(NamedTuple):
    """One settled hold. fund: "budget" or "credit", in nano-dollars, or "quota", in milliseconds.

    made_at: when it was reserved, which says what window it belongs to; at: when it was settled. leased_s:
    GPU seconds that it was charged for. computed_s: those in which the attempt of that id, or of that
    lease, computed.
    """

    provider: str
    fund: str
    amount: int
    basis: str
    made_at: datetime
    at: datetime
    leased_s: float
    computed_s: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over the whole ledger, for counters that only grow; keys are label values.

    requests: by (stage, outcome), stage "" being whole questions. items, hits: by stage. attempts: by
    (provider, stage, outcome). failures: by (provider, error). seconds: by (provider, part). charged:
    nano-dollars by (provider, fund, basis). quota_ms: by provider. avoided: nano-dollars, estimated.
    """

    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    attempts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    failures: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    charged: dict[tuple[str, str, str], int] = field(default_factory=dict)
    quota_ms: dict[str, int] = field(default_factory=dict)
    avoided: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it, for [since, until) as of ``at``, UTC.

    charges: from the start of the period, the week or the month on, whichever is earliest, until ``at``.
    accounts: the limits in force. jobs: batch jobs that ended in the period, by step. alerts: all, by state.
    """

    realm: Realm
    since: datetime
    until: datetime
    at: datetime
    requests: tuple[Request, ...] = ()
    attempts: tuple[Tried, ...] = ()
    charges: tuple[Charge, ...] = ()
    accounts: tuple[Account, ...] = ()
    jobs: tuple[tuple[str, int], ...] = ()
    alerts: tuple[tuple[str, int], ...] = ()
    ever: Totals = field(default_factory=Totals)


_PARTS = ("wait_s", "cold_s", "transfer_s", "compute_s")
_TRIED = (
    "SELECT provider, stage, outcome, coalesce(json_extract(body, '$.error'), ''), "
    + "".join(f"coalesce(json_extract(body, '$.timing.{part}'), 0.0), " for part in _PARTS)
    + "coalesce(json_extract(body, '$.cost.amount'), 0), "
    "coalesce(json_extract(body, '$.cost.basis'), 'estimated') FROM attempt WHERE at >= ? AND at < ?"
)
# quota is charged in milliseconds; money at the rate that is frozen in the row
_CHARGED = """
SELECT c.provider, c.fund, c.amount, c.basis, c.made_at, c.at,
  CASE WHEN c.fund = 'quota' THEN c.amount / 1000.0
       WHEN json_extract(c.rate, '$.nano_per_hour') > 0
       THEN c.amount * 3600.0 / json_extract(c.rate, '$.nano_per_hour') ELSE 0.0 END,
  coalesce(json_extract(a.body, '$.timing.compute_s'), (
    SELECT sum(json_extract(b.body, '$.timing.compute_s')) FROM attempt b
    WHERE json_extract(b.body, '$.lease_id') = c.hold_id AND json_extract(b.body, '$.lease_id') <> ''), 0.0)
FROM charge c LEFT JOIN attempt a ON a.id = c.hold_id
WHERE c.at >= ? AND c.at < ?
"""


def read(ledger: Ledger, since: datetime, until: datetime, at: datetime, *, ever: bool = False) -> Facts:
    """Read what ended in [since, until). at: now, UTC. ever: count the whole ledger, too.

    Raises LedgerError.
    """
    earliest = min(since, *(span(period, at.date())[1] for period in Period))
    charged = ledger.rows(_CHARGED, instant(earliest), instant(max(until, at)))
    return Facts(
        ledger.realm, since, until, at,
        tuple(request for request, _ in requests.between(ledger, since, until)),
        tuple(Tried(*row) for row in ledger.rows(_TRIED, instant(since), instant(until))),
        tuple(Charge(p, fund, n, basis, datetime.fromisoformat(made), datetime.fromisoformat(ended), *s)
              for p, fund, n, basis, made, ended, *s in charged),
        tuple({(a.provider, a.period): a for a in ledger.open_accounts(at)}.values()),
        _counts(ledger, "SELECT step, count(*) FROM job WHERE step IN ('done', 'failed') "
                        "AND at >= ? AND at < ? GROUP BY step ORDER BY step", instant(since), instant(until)),
        tuple(alerts.counts(ledger).items()), _totals(ledger) if ever else Totals(),
    )  # fmt: skip


def _totals(ledger: Ledger) -> Totals:
    rows = ledger.rows
    by_stage = rows("SELECT stage, outcome, count(*), sum(items), sum(hits) FROM request GROUP BY 1, 2")
    items: dict[str, int] = {}
    hits: dict[str, int] = {}
    for stage, _, _, asked, found in by_stage:
        items[stage], hits[stage] = items.get(stage, 0) + asked, hits.get(stage, 0) + found
    sums = ", ".join(f"sum(json_extract(body, '$.timing.{part}'))" for part in _PARTS)
    return Totals(
        {(stage, outcome): n for stage, outcome, n, _, _ in by_stage}, items, hits,
        {(p, s, o): n for p, s, o, n in rows(
            "SELECT provider, stage, outcome, count(*) FROM attempt GROUP BY 1, 2, 3")},
        {(p, e): n for p, e, n in rows(
            "SELECT provider, coalesce(json_extract(body, '$.error'), ''), count(*) FROM attempt "
            "WHERE outcome = 'failed' GROUP BY 1, 2")},
        {(p, part.removesuffix("_s")): s or 0.0
         for p, *parts in rows(f"SELECT provider, {sums} FROM attempt GROUP BY 1")
         for part, s in zip(_PARTS, parts, strict=True)},
        {(p, f, b): n for p, f, b, n in rows(
            "SELECT provider, fund, basis, sum(amount) FROM charge WHERE fund <> 'quota' GROUP BY 1, 2, 3")},
        dict(rows("SELECT provider, sum(amount) FROM charge WHERE fund = 'quota' GROUP BY 1")),
        rows("SELECT coalesce(sum(avoided), 0) FROM request WHERE stage <> ?", WHOLE)[0][0],
    )  # fmt: skip


def _counts(ledger: Ledger, sql: str, *args: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, n) for name, n in ledger.rows(sql, *args))
