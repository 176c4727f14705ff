"""The ledger's schema. Guarantee: a ledger of an older schema keeps all that it says, or stays as it was.

Schema 1 had one account per hold, no owners, and every decision with its offers written out twice. Schema 2
has holds on several accounts, owners, offers stored once, requests and alerts. Schema 3 has what was
estimated beside what was billed, launches, claims on exclusive offers, and live replicas with their users.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any

from accel.core.errors import LedgerError
from accel.core.offer import Realm

SCHEMA_VERSION = "3"
FOR_EVER = "9999-12-31T00:00:00.000000+00:00"  # the end of an account that no period closes


def digest(body: str) -> str:
    """The name under which a stored text is found again."""
    return blake2b(body.encode(), digest_size=16).hexdigest()


def prepare(db: sqlite3.Connection, path: Path, realm: Realm) -> None:
    """Make the tables of a new file, or bring those of an older one up to date, in one transaction.

    Raises LedgerError for a ledger of another realm, or of a schema that this program does not know.
    """
    if _meta(db).get("schema") != SCHEMA_VERSION:
        with _immediate(db):
            found = _meta(db)  # again: another process may have been faster
            if not found:
                for statement in _schema():
                    db.execute(statement)
                rows = (("schema", SCHEMA_VERSION), ("realm", realm.value))
                db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            elif found.get("realm") == realm:
                while step := STEPS.get(_meta(db)["schema"]):
                    step(db)
    found = _meta(db)
    if (found.get("schema"), found.get("realm")) != (SCHEMA_VERSION, realm.value):
        raise LedgerError(
            f"{path} is a ledger of schema {found.get('schema')}, realm {found.get('realm')}; "
            f"expected {SCHEMA_VERSION}, {realm}.",
            hint="Set ACCEL_HOME to another folder.",
        )


def _schema() -> list[str]:
    return resources.files("accel.ledger").joinpath("schema.sql").read_text().split(";\n")


def _meta(db: sqlite3.Connection) -> dict[str, str]:
    """What the file says of itself; nothing when it is new."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return {}
    return dict(db.execute("SELECT key, value FROM meta").fetchall())


@contextmanager
def _immediate(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


# Schema 1 to 2 ------------------------------------------------------------------------------------

REMADE = ("hold", "charge", "account", "decision")  # in this order: the first two refer to the third
NO_RATE = json.dumps({"nano_per_hour": 0, "as_of": "1970-01-01", "source": "not kept by schema 1"})
TIMING = ("wait_s", "cold_s", "transfer_s", "compute_s")
SPREAD_AND_SUCCESS = (0.5, 1.0)  # which estimates did not say then: their defaults
# of a row of the old hold or charge, `it`: what it was drawn on, and its provider, from the intent of its id
FUND = "iif(its.unit = 'gpu_ms', 'quota', 'budget')"
QUOTA_OF = "iif(its.unit = 'gpu_ms', replace(its.name, ' quota', ''), '')"
PROVIDER = f"coalesce(lease.provider, {QUOTA_OF})"
FROM = "JOIN old_account its ON its.name = it.account LEFT JOIN lease ON lease.intent_id ="


def _from_one(db: sqlite3.Connection) -> None:
    db.execute("DROP INDEX decision_by_parent")
    for table in REMADE:
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.execute("ALTER TABLE attempt ADD COLUMN model TEXT NOT NULL DEFAULT ''")
    _extend_leases(db)
    _make_missing(db)
    # a limit that the old table enforced is enforced as it was: `cap` is `wanted` less `over`
    db.execute(
        "INSERT INTO account SELECT name, unit, cap + over, cap, spent, held, over, "
        f"{QUOTA_OF}, iif(unit = 'gpu_ms', 'quota', ''), '', iif(unit = 'gpu_ms', ?, ''), '' "
        "FROM old_account its",
        (FOR_EVER,),
    )
    db.execute(
        f"INSERT INTO hold SELECT it.id, json_array(it.account), {FUND}, {PROVIDER}, it.amount, "
        "coalesce(json_extract(intent, '$.offer.rate'), ?), it.task_id, '', it.made_at "
        f"FROM old_hold it {FROM} it.id",
        (NO_RATE,),
    )
    db.execute(
        f"INSERT INTO charge SELECT it.hold_id, json_array(it.account), {FUND}, {PROVIDER}, it.amount, "
        "it.amount, it.basis, it.rate, it.task_id, it.at, it.at, NULL, '' "
        f"FROM old_charge it {FROM} it.hold_id"
    )
    db.execute(ESTIMATED)
    # what is under way on free hours is settled in free hours: then, offers did not say how they are billed
    db.execute(
        "UPDATE lease SET intent = json_set(intent, '$.offer.billing', 'quota') "
        "WHERE json_extract(intent, '$.offer.quota_left_s') IS NOT NULL"
    )
    rows = db.execute("SELECT id, task_id, parent, inputs, route, at FROM old_decision ORDER BY rowid")
    for ident, task_id, parent, inputs, route, at in rows:
        try:
            kept = _compact(db, json.loads(inputs), json.loads(route))
        except (KeyError, TypeError, ValueError) as bad:
            raise LedgerError(f"the ledger holds a damaged decision {ident!r}.") from bad
        db.execute("INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?, ?)", (ident, task_id, parent, *kept, at))
    for table in REMADE:
        db.execute(f"DROP TABLE old_{table}")
    db.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")


def _compact(db: sqlite3.Connection, inputs: dict[str, Any], route: dict[str, Any]) -> tuple[str, str, str]:
    """Offers, inputs and route of an old decision, as schema 2 keeps them; see ``decisions``."""
    offers: list[dict[str, Any]] = inputs.pop("offers")
    names = []
    for offer in offers:
        body = json.dumps({k: v for k, v in offer.items() if k != "as_of"}, separators=(",", ":"))
        db.execute("INSERT INTO offer VALUES (?, ?) ON CONFLICT (digest) DO NOTHING", (digest(body), body))
        names.append([digest(body), offer["as_of"]])
    ranked = []
    for it in route.pop("ranked"):
        expected = it["estimate"]
        timing, cost = [expected["timing"][k] for k in TIMING], expected["cost"]
        ranked.append(
            [offers.index(it["offer"]), it["score"], it["terms"], timing, [cost["amount"], cost["basis"]],
             expected["basis"], *SPREAD_AND_SUCCESS, it["why"]]
        )  # fmt: skip
    return json.dumps(names), json.dumps(inputs), json.dumps({**route, "ranked": ranked})


# Schema 2 to 3 ------------------------------------------------------------------------------------

LEASE = (
    "purpose TEXT NOT NULL DEFAULT 'job'", "made_at TEXT NOT NULL DEFAULT ''",
    "ends_by TEXT NOT NULL DEFAULT ''", "paid INTEGER NOT NULL DEFAULT 0", "claim TEXT",
    "ready_at TEXT NOT NULL DEFAULT ''", "closing TEXT NOT NULL DEFAULT ''",
)  # fmt: skip
# of a bill that came without an estimate nobody knows what had been thought
ESTIMATED = "UPDATE charge SET estimated = iif(basis = 'estimated', amount, NULL), " \
            "billed_at = iif(basis = 'billed', at, '')"


def _from_two(db: sqlite3.Connection) -> None:
    _extend_leases(db)
    db.execute("ALTER TABLE charge ADD COLUMN estimated INTEGER")
    db.execute("ALTER TABLE charge ADD COLUMN billed_at TEXT NOT NULL DEFAULT ''")
    db.execute(ESTIMATED)
    _make_missing(db)
    db.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")


def _extend_leases(db: sqlite3.Connection) -> None:
    """What the new columns say, an old lease says in its intent."""
    for column in LEASE:
        db.execute(f"ALTER TABLE lease ADD COLUMN {column}")
    for ident, intent, lease in db.execute("SELECT intent_id, intent, lease FROM lease").fetchall():
        try:
            told = json.loads(intent)
            made = datetime.fromisoformat(told["created_at"])
            ends = made + timedelta(seconds=told["lifetime_s"])
            if lease:
                ends = datetime.fromisoformat(json.loads(lease)["ends_by"])
            paid = told["offer"].get("billing") == "seconds"
        except (KeyError, TypeError, ValueError) as bad:
            raise LedgerError(f"the ledger holds a damaged lease {ident!r}.") from bad
        db.execute(
            "UPDATE lease SET made_at = ?, ends_by = ?, paid = ? WHERE intent_id = ?",
            (_instant(made), _instant(ends), int(paid), ident),
        )


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _make_missing(db: sqlite3.Connection) -> None:
    """Tables and indexes of the present schema that the file does not have."""
    known = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    for statement in _schema():
        made = re.search(r"CREATE (?:UNIQUE )?(?:TABLE|INDEX) (\w+)", statement)
        if made and made[1] not in known:
            db.execute(statement)


STEPS: dict[str, Callable[[sqlite3.Connection], None]] = {"1": _from_one, "2": _from_two}
