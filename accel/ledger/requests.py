"""Requests in the ledger. Guarantee: every request that ended has one row, and only one.

Monitoring reads latency, success, cost and each provider's share from here; see ``Request``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from accel.core.errors import LedgerError
from accel.core.money import NanoUSD
from accel.ledger.database import instant
from accel.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Request:
    """How a live request, or a whole query, ended.

    parent: the query that it was a stage of. stage: "" for a whole query. complexity and outcome: as in
    ``core``. provider: who answered, "cache", or "" when nobody did. seconds: that the caller waited.
    hits: items that came from the cache, of ``items``. cost: of all attempts. avoided: what
    the hits, and what was computed free, would have cost at the cheapest paid offer.
    """

    id: str
    parent: str
    stage: str
    complexity: str
    outcome: str
    provider: str
    seconds: float
    items: int
    hits: int
    attempts: int
    cost: NanoUSD
    avoided: NanoUSD


COLUMNS = ", ".join(Request.__dataclass_fields__)
_INSERT = f"INSERT INTO request ({COLUMNS}, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def record(ledger: Ledger, request: Request) -> None:
    """Write how a request ended, on its own or as a part of the caller's transaction.

    Raises LedgerError when it ended before, or holds what cannot be (negative or not finite).
    """
    r = request
    try:
        ledger.write(
            _INSERT, r.id, r.parent, r.stage, r.complexity, r.outcome, r.provider, r.seconds, r.items, r.hits,
            r.attempts, r.cost, r.avoided, ledger.at(),
        )  # fmt: skip
    except LedgerError as bad:
        cause = bad.__cause__
        if getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
            raise LedgerError(f"the request {r.id!r} ended before.") from bad
        raise


def between(ledger: Ledger, since: datetime, until: datetime) -> list[tuple[Request, datetime]]:
    """Requests that ended from ``since`` on and before ``until``, and when, oldest first."""
    found = ledger.rows(
        f"SELECT {COLUMNS}, at FROM request WHERE at >= ? AND at < ? ORDER BY at, rowid",
        instant(since), instant(until),
    )  # fmt: skip
    return [(Request(*row[:-1]), datetime.fromisoformat(row[-1])) for row in found]
