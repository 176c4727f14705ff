"""Decisions in the ledger. Guarantee: what was written is enough to rank again and get the same route.

``inputs`` holds the task, every offer and refusal as probed, the routing state and the random draw;
``routing`` turns them back into a Route, and ``accel explain ID --replay`` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accel.core.attempt import Route
from accel.core.errors import UsageError
from accel.ledger.database import dump
from accel.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Decision:
    """One ranking, as it was made. inputs: JSON of the policy's arguments. parent: the query's id."""

    id: str
    task_id: str
    parent: str
    inputs: str
    route: Route


def record(ledger: Ledger, decision_id: str, parent: str, inputs: Any, route: Route) -> None:
    """Write a decision. ``inputs`` is a core or routing value that pydantic can dump."""
    with ledger.transaction() as db:
        db.execute(
            "INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?)",
            (decision_id, route.task_id, parent, dump(inputs), dump(route), ledger.at()),
        )


def find(ledger: Ledger, ident: str) -> tuple[Decision, ...]:
    """Decisions by their own id, their task's, or their query's. Raises UsageError when there are none."""
    found = ledger.rows(
        "SELECT id, task_id, parent, inputs, route FROM decision "
        "WHERE ? IN (id, task_id, parent) ORDER BY rowid",
        ident,
    )
    if not found:
        raise UsageError(
            f"the {ledger.realm} ledger has no decision, task or query {ident!r}.",
            hint="The ids are printed by query, push and offers; add --sandbox for rehearsals.",
        )
    return tuple(Decision(i, t, p, inputs, ledger.load(Route, r)) for i, t, p, inputs, r in found)


def latest(ledger: Ledger) -> str | None:
    """The id of the newest query or task, or None in an empty ledger."""
    found = ledger.rows("SELECT parent, task_id FROM decision ORDER BY rowid DESC LIMIT 1")
    return (found[0][0] or found[0][1]) if found else None
