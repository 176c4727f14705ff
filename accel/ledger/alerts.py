"""Alerts in the ledger. Guarantee: each is raised once and sent by one process, across restarts.

An alert is written with what it is about, in one transaction, and sent afterwards by whoever claims it:

    pending ─► sending ─► done
       ▲          │
       └──────────┴─► failed, after ``TRIES``, or when its sender died and nobody can say if it was sent
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accel.ledger.store import Ledger

TRIES = 5


@dataclass(frozen=True, slots=True)
class Alert:
    """What somebody should be told. key: what it is about, such as "budget:all:month:2026-11:0.8".

    tries: how often it was to be sent, this time included.
    """

    key: str
    body: dict[str, Any]
    made_at: datetime
    tries: int


def raise_(ledger: Ledger, key: str, body: Mapping[str, Any]) -> bool:
    """Write an alert, on its own or in the caller's transaction. False when it was raised before."""
    at = ledger.at()
    return bool(
        ledger.write(
            "INSERT INTO alert (key, body, made_at, at) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            key, json.dumps(dict(body)), at, at,
        )
    )  # fmt: skip


def claim(ledger: Ledger) -> Alert | None:
    """The oldest alert that waits to be sent, now this process's to send; None when there is none."""
    if not pending(ledger):
        return None
    with ledger.transaction() as db:
        found = db.execute(
            "UPDATE alert SET state = 'sending', owner = ?, tries = tries + 1, at = ? WHERE key = "
            "(SELECT key FROM alert WHERE state = 'pending' ORDER BY tries, made_at, rowid LIMIT 1) "
            "RETURNING key, body, made_at, tries",
            (ledger.owner, ledger.at()),
        ).fetchone()
    if found is None:
        return None
    key, body, made_at, tries = found
    return Alert(key, json.loads(body), datetime.fromisoformat(made_at), tries)


def ended(ledger: Ledger, key: str, ok: bool, note: str = "") -> None:
    """What became of an alert that this process claimed. Not sent, it waits again, up to ``TRIES``."""
    ledger.write(
        "UPDATE alert SET state = CASE WHEN ?1 THEN 'done' WHEN tries < ?2 THEN 'pending' ELSE 'failed' END, "
        "note = ?3, at = ?4 WHERE key = ?5 AND state = 'sending' AND owner = ?6",
        ok, TRIES, note, ledger.at(), key, ledger.owner,
    )  # fmt: skip


def pending(ledger: Ledger) -> int:
    """How many wait to be sent."""
    return int(ledger.rows("SELECT count(*) FROM alert WHERE state = 'pending'")[0][0])


def recover(ledger: Ledger) -> int:
    """Give up alerts whose sender died while it sent them. Sending again could tell it twice."""
    lost = [
        (ledger.at(), key)
        for key, owner in ledger.rows("SELECT key, owner FROM alert WHERE state = 'sending'")
        if not ledger.alive(owner)
    ]
    with ledger.transaction() as db:
        db.executemany(
            "UPDATE alert SET state = 'failed', note = 'its sender died; it may have been sent', at = ? "
            "WHERE key = ? AND state = 'sending'",
            lost,
        )
    return len(lost)
