"""Alerts in the ledger. Guarantee: each is raised once and sent by one process, across restarts.

An alert is written with what it is about, in one transaction, and sent afterwards by whoever claims it:

    pending ─► sending ─► done
       ▲          │
       └──────────┴─► failed, after ``TRIES``, or when nobody can say if it was taken

``monitoring.alerts`` sends them. Whether one was taken is noted per way (webhook, command), so that a second
try goes only where the first one certainly failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from accel.ledger.database import instant
from accel.ledger.store import Ledger

# Eight tries with these pauses outlast an outage of a night (17 hours), and do not hammer what is down.
TRIES = 8
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = timedelta(minutes=1), 4, timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Alert:
    """What somebody should be told. key: what it is about, such as "budget:all:month:2026-11:0.8".

    tries: how often it was to be sent, this time included. ways: what became of it, for each way that it
    must not go again.
    """

    key: str
    body: dict[str, Any]
    made_at: datetime
    tries: int
    ways: dict[str, str] = field(default_factory=dict)


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
    """The oldest alert that is due, now this process's to send; None when there is none."""
    if not pending(ledger):
        return None
    at = ledger.at()
    with ledger.transaction() as db:
        found = db.execute(
            "UPDATE alert SET state = 'sending', owner = ?, tries = tries + 1, at = ? WHERE key = "
            "(SELECT key FROM alert WHERE state = 'pending' AND due <= ? ORDER BY made_at, rowid LIMIT 1) "
            "RETURNING key, body, made_at, tries, ways",
            (ledger.owner, at, at),
        ).fetchone()
    if found is None:
        return None
    key, body, made_at, tries, ways = found
    return Alert(key, json.loads(body), datetime.fromisoformat(made_at), tries, json.loads(ways))


def ended(
    ledger: Ledger, key: str, ok: bool, note: str = "", *, ways: Mapping[str, str] | None = None,
    again: bool = True,
) -> str:  # fmt: skip
    """What became of an alert that this process claimed; its state from here on, "" if it was not its own.

    ok: everybody took it. again: it certainly was not taken somewhere, so that it waits and is tried again,
    ``TRIES`` times in all. ways: as in ``Alert``.
    """
    now = ledger.now()
    with ledger.transaction() as db:
        found = db.execute(
            "SELECT tries FROM alert WHERE key = ? AND state = 'sending' AND owner = ?", (key, ledger.owner)
        ).fetchone()
        if found is None:
            return ""
        state = "done" if ok else "pending" if again and found[0] < TRIES else "failed"
        db.execute(
            "UPDATE alert SET state = ?, note = ?, ways = ?, due = ?, at = ? WHERE key = ?",
            (state, note, json.dumps(dict(ways or {})), instant(now + pause(found[0])), instant(now), key),
        )
    return state


def pause(tries: int) -> timedelta:
    """How long an alert waits after so many tries."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * int(GROWTH ** (min(tries, TRIES) - 1)))


def pending(ledger: Ledger) -> int:
    """How many wait to be sent, now or later."""
    return counts(ledger).get("pending", 0)


def counts(ledger: Ledger) -> dict[str, int]:
    """How many there are in each state."""
    return dict(ledger.rows("SELECT state, count(*) FROM alert GROUP BY state ORDER BY state"))


def recover(ledger: Ledger) -> int:
    """Give up alerts whose sender died while it sent them. Sending again could tell it twice."""
    lost = [
        (ledger.at(), key, owner)
        for key, owner in ledger.rows("SELECT key, owner FROM alert WHERE state = 'sending'")
        if not ledger.alive(owner)
    ]
    with ledger.transaction() as db:
        db.executemany(
            "UPDATE alert SET state = 'failed', note = 'its sender died; it may have been sent', at = ? "
            "WHERE key = ? AND state = 'sending' AND owner = ?",
            lost,
        )
    return len(lost)
