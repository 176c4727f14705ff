"""Offers in the ledger. Guarantee: a stored decision's offers are stored; each different one, once.

An offer is probed every few seconds and ranked in every decision: writing it out each time took most of a
decision's time and space. It is kept under the digest of all that it says but for ``as_of``, which goes
with the decision.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from accel.core.offer import Offer
from accel.ledger.database import adapter
from accel.ledger.migrate import digest

REMEMBERED = 1024  # offers that are kept in memory


class Offers:
    """What this process knows to be in the table ``offer``."""

    def __init__(self) -> None:
        # by identity, which is quicker than by value: the board hands out one object for seconds
        self._known: dict[int, tuple[Offer, str]] = {}
        self._stored: set[str] = set()  # digests

    def forget(self) -> None:
        """A transaction was undone: what it wrote is not there."""
        self._known.clear()
        self._stored.clear()

    def store(self, db: sqlite3.Connection, offers: Sequence[Offer]) -> str:
        """Write those that are new. JSON: the digest and ``as_of`` of each, in order."""
        known = self._known
        names = []
        for offer in offers:
            found = known.get(id(offer))
            if found is None:
                body = adapter(Offer).dump_json(offer, exclude={"as_of"}).decode()
                name = digest(body)
                if name not in self._stored:
                    db.execute("INSERT INTO offer VALUES (?, ?) ON CONFLICT DO NOTHING", (name, body))
                    self._stored.add(name)
                if len(known) >= REMEMBERED:
                    self.forget()
                # kept with its name, so that no other object can get its identity
                found = known[id(offer)] = offer, f'["{name}","{offer.as_of.isoformat()}"]'
            names.append(found[1])
        return f"[{','.join(names)}]"


def read(db_rows: dict[str, str], names: str) -> str:
    """The JSON list of the offers that ``store`` named, from their bodies by digest."""
    return "[" + ",".join(
        f'{db_rows[name][:-1]},"as_of":{json.dumps(as_of)}}}' for name, as_of in json.loads(names)
    ) + "]"  # fmt: skip
