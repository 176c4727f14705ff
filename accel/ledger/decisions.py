"""Decisions in the ledger. Guarantee: what was written is enough to rank again and get the same route.

The task, every offer and refusal as probed, the routing state and the random draw are kept, each offer once
for all decisions; ``routing`` ranks them again, and ``accel explain ID --replay`` compares the two routes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accel.core.attempt import Estimate, Refusal, Route, Scored, Timing
from accel.core.errors import LedgerError, UsageError
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Offer, Unfit
from accel.core.task import Task
from accel.ledger import offers as stored
from accel.ledger.database import adapter, dump
from accel.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Decision:
    """One ranking, as it was made. inputs: JSON of the policy's arguments. parent: the query's id."""

    id: str
    task_id: str
    parent: str
    inputs: str
    route: Route


class _Ranked(NamedTuple):
    """A ``Scored`` as it is stored, a JSON list. place: of its offer, among those that were ranked.

    timing: seconds of wait, cold start, transfer and compute. cost: nano-dollars and their basis.
    """

    place: int
    score: float
    terms: tuple[tuple[str, float], ...]
    timing: tuple[float, float, float, float]
    cost: tuple[NanoUSD, Basis]
    basis: str
    spread: float
    success: float
    why: str


@dataclass(frozen=True, slots=True)
class _Route:
    """A ``Route`` as it is stored."""

    task_id: str
    ranked: tuple[_Ranked, ...]
    refused: tuple[Refusal, ...]
    policy: str
    draw: float


def record(
    ledger: Ledger, decision_id: str, parent: str, *, task: Task, offers: Sequence[Offer],
    unfit: Sequence[Unfit], state: Any, draw: float, route: Route,
) -> None:  # fmt: skip
    """Write a decision, on its own or as a part of the caller's transaction.

    task, offers, unfit, state and draw are what ``route`` was ranked from; ``state`` is any dataclass that
    pydantic can dump. Raises LedgerError when the route holds an offer that is not among ``offers``.
    """
    places = {id(offer): place for place, offer in enumerate(offers)}
    try:
        ranked = tuple([
            _told(s, places[id(s.offer)] if id(s.offer) in places else offers.index(s.offer))
            for s in route.ranked
        ])  # fmt: skip
    except ValueError:
        raise LedgerError(f"the route of {route.task_id} holds an offer that was not ranked.") from None
    told = _Route(route.task_id, ranked, route.refused, route.policy, route.draw)
    known, drawn = ledger.fragments, json.dumps(draw)
    inputs = (
        f'{{"task":{dump(task)},"unfit":{known.parts(unfit)},"state":{known.whole(state)},"draw":{drawn}}}'
    )
    with ledger.joined() as db:
        names = ledger.offers.store(db, offers)
        db.execute(
            "INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?, ?)",
            (decision_id, route.task_id, parent, names, inputs, dump(told), ledger.at()),
        )


def find(ledger: Ledger, ident: str) -> tuple[Decision, ...]:
    """Decisions by their own id, their task's, or their query's. Raises UsageError when there are none."""
    found = ledger.rows(
        "SELECT id, task_id, parent, offers, inputs, route FROM decision "
        "WHERE id = ?1 OR task_id = ?1 OR parent = ?1 ORDER BY rowid",
        ident,
    )
    if not found:
        raise UsageError(
            f"the {ledger.realm} ledger has no decision, task or query {ident!r}.",
            hint="The ids are printed by query, push and offers; add --sandbox for rehearsals.",
        )
    return tuple(_decision(ledger, *row) for row in found)


def latest(ledger: Ledger) -> str | None:
    """The id of the newest query or task, or None in an empty ledger."""
    found = ledger.rows("SELECT parent, task_id FROM decision ORDER BY rowid DESC LIMIT 1")
    return (found[0][0] or found[0][1]) if found else None


def _decision(
    ledger: Ledger, ident: str, task_id: str, parent: str, names: str, inputs: str, route: str
) -> Decision:
    bodies = dict(
        ledger.rows(
            "SELECT digest, body FROM offer WHERE digest IN "
            "(SELECT json_extract(value, '$[0]') FROM json_each(?))",
            names,
        )
    )
    try:
        whole = stored.read(bodies, names)
        told = ledger.load(_Route, route)
        offers = adapter(tuple[Offer, ...]).validate_json(whole)
        ranked = tuple(_scored(r, offers) for r in told.ranked)
    except (KeyError, IndexError, ValueError) as bad:
        raise LedgerError(f"{ledger.path} holds a damaged decision {ident!r}.") from bad
    return Decision(
        ident, task_id, parent, f'{{"offers":{whole},{inputs[1:]}',
        Route(told.task_id, ranked, told.refused, told.policy, told.draw),
    )  # fmt: skip


def _told(scored: Scored, place: int) -> _Ranked:
    it, t = scored.estimate, scored.estimate.timing
    return _Ranked(
        place, scored.score, scored.terms,
        (t.wait_s, t.cold_s, t.transfer_s, t.compute_s), (it.cost.amount, it.cost.basis), it.basis,
        it.spread, it.success, scored.why,
    )  # fmt: skip


def _scored(told: _Ranked, offers: Sequence[Offer]) -> Scored:
    expected = Estimate(Timing(*told.timing), Cost(*told.cost), told.basis, told.spread, told.success)
    return Scored(offers[told.place], expected, told.score, told.terms, told.why)
