"""The ledger. Guarantee: what it says happened is on disk, and ``spent + held`` never passes a limit.

SQLite in WAL mode, one file per realm, one short transaction per fact; any number of processes. Money
moves in one transaction each: ``reserve`` (IMMEDIATE, so that two processes cannot both see room) and
``settle``, and the limit is a CHECK of the table, which no code path of ours can get around.

Values of ``core`` are stored as JSON through pydantic, which validates them when they are read back.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from accel.core.attempt import Attempt, Timing
from accel.core.errors import LedgerError, OverBudget
from accel.core.lease import Intent, Lease
from accel.core.money import Basis, Rate
from accel.core.offer import Realm
from accel.core.row import Row
from accel.core.task import Size, Stage

SCHEMA_VERSION = "1"
T = TypeVar("T")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def dump(value: Any) -> str:
    """JSON of a core value, by its own type."""
    return _adapter(cast(Hashable, type(value))).dump_json(value).decode()


@dataclass(frozen=True, slots=True)
class Account:
    """A limit and how much of it is used. unit: "nano_usd" or "gpu_ms"."""

    name: str
    unit: str
    cap: int | None
    spent: int
    held: int
    over: int


class Ledger:
    """One realm's record. Open it per process; it is safe to use from several threads.

    path: the SQLite file, made if missing. now: wall clock, UTC. Raises LedgerError when the file is
    not a ledger, of another realm or schema, or cannot be written.
    """

    def __init__(self, path: Path, realm: Realm, now: Any = lambda: datetime.now(UTC)) -> None:
        self.path, self.realm, self._now = path, realm, now
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            # NORMAL may lose the last commits on a power cut, never on a crash of ours
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()
        except (sqlite3.Error, OSError) as bad:
            raise LedgerError(
                f"the ledger {path} cannot be opened ({bad}).",
                hint="Check the disk, or set ACCEL_HOME to another folder.",
            ) from bad

    def _prepare(self) -> None:
        for statement in (
            resources.files("accel.ledger").joinpath("schema.sql").read_text().split(";\n")
        ):
            self._db.execute(statement)
        expected = {"schema": SCHEMA_VERSION, "realm": self.realm.value}
        for key, value in expected.items():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        found = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if {k: found.get(k) for k in expected} != expected:
            raise LedgerError(
                f"{self.path} is a ledger of schema {found.get('schema')}, realm {found.get('realm')}; "
                f"expected {SCHEMA_VERSION}, {self.realm}.",
                hint="Set ACCEL_HOME to another folder.",
            )

    def close(self) -> None:
        """Close the file. Nothing is lost by not calling it."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One IMMEDIATE transaction: all of it or none of it."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as bad:
                raise LedgerError(f"the ledger {self.path} could not be written ({bad}).") from bad

    def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """Read-only rows of ``sql``."""
        with self._lock:
            try:
                return self._db.execute(sql, args).fetchall()
            except sqlite3.Error as bad:
                raise LedgerError(f"the ledger {self.path} could not be read ({bad}).") from bad

    def at(self) -> str:
        """Now, as it is stored: ISO 8601, UTC."""
        return str(self._now().isoformat())

    # Money and quota ------------------------------------------------------------------------------

    def open_account(self, name: str, unit: str, *, left: int | None = None) -> None:
        """Make an account if it is new; with ``left``, its cap becomes what is used plus ``left``."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO account (name, unit) VALUES (?, ?)", (name, unit))
            if left is not None:
                db.execute(
                    "UPDATE account SET cap = spent + held + ? WHERE name = ?", (max(0, left), name)
                )

    def limit(self, name: str, cap: int | None) -> None:
        """Set an account's cap. Raises OverBudget when more than that is spent and held already."""
        with self.transaction() as db:
            try:
                db.execute("UPDATE account SET cap = ? WHERE name = ?", (cap, name))
            except sqlite3.IntegrityError as bad:
                raise OverBudget(f"{name}: a limit of {cap} is below what is spent and held.") from bad

    def account(self, name: str) -> Account:
        """One account. Raises LedgerError when there is none of that name."""
        found = self.rows("SELECT name, unit, cap, spent, held, over FROM account WHERE name = ?", name)
        if not found:
            raise LedgerError(f"the ledger has no account {name!r}.")
        return Account(*found[0])

    def reserve(self, hold_id: str, account: str, amount: int, task_id: str) -> None:
        """Hold ``amount``. Raises OverBudget, and holds nothing, when it would pass the limit."""
        with self.transaction() as db:
            self._reserve(db, hold_id, account, amount, task_id)

    def _reserve(
        self, db: sqlite3.Connection, hold_id: str, account: str, amount: int, task_id: str
    ) -> None:
        try:
            done = db.execute(
                "UPDATE account SET held = held + ? WHERE name = ?", (amount, account)
            ).rowcount
        except sqlite3.IntegrityError as bad:
            have = db.execute(
                "SELECT cap - spent - held FROM account WHERE name = ?", (account,)
            ).fetchone()
            raise OverBudget(
                f"{account}: {amount} is more than the {have[0] if have else 0} left; nothing was started."
            ) from bad
        if not done:
            raise LedgerError(f"the ledger has no account {account!r}.")
        db.execute(
            "INSERT INTO hold VALUES (?, ?, ?, ?, ?)", (hold_id, account, amount, task_id, self.at())
        )

    def settle(self, hold_id: str, amount: int, basis: Basis, rate: Rate) -> bool:
        """Turn a hold into a charge of ``amount``. False when it was settled before: never twice.

        An amount above the hold goes into the account's ``over``, where it cannot hide.
        """
        with self.transaction() as db:
            found = db.execute(
                "SELECT account, amount, task_id FROM hold WHERE id = ?", (hold_id,)
            ).fetchone()
            if found is None:
                return False
            account, held, task_id = found
            db.execute(
                "UPDATE account SET held = held - ?, spent = spent + ?, over = over + ? WHERE name = ?",
                (held, min(amount, held), max(0, amount - held), account),
            )
            db.execute("DELETE FROM hold WHERE id = ?", (hold_id,))
            db.execute(
                "INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?, ?)",
                (hold_id, account, amount, basis.value, dump(rate), task_id, self.at()),
            )
            return True

    def held(self) -> int:
        """Holds that are open, over all accounts."""
        return int(self.rows("SELECT count(*) FROM hold")[0][0])

    # Leases ---------------------------------------------------------------------------------------

    def intend(self, intent: Intent, account: str, amount: int) -> None:
        """Write the intent and reserve for it, in one transaction, before anything is created."""
        with self.transaction() as db:
            self.intend_in(db, intent, account, amount)

    def intend_in(self, db: sqlite3.Connection, intent: Intent, account: str, amount: int) -> None:
        """``intend`` inside a transaction that writes more."""
        self._reserve(db, intent.id, account, amount, intent.task_id)
        db.execute(
            "INSERT INTO lease VALUES (?, ?, ?, 'intended', ?, NULL, '', ?)",
            (intent.id, intent.offer.provider, intent.name, dump(intent), self.at()),
        )

    def lease_opened(self, intent_id: str, lease: Lease) -> None:
        """The provider created it: store its own id at once."""
        self._lease_state(intent_id, "open", lease=dump(lease))

    def lease_ended(self, intent_id: str, state: str, note: str) -> None:
        """``released`` (confirmed), ``absent`` (never existed), ``abandoned`` (ends by itself)."""
        self._lease_state(intent_id, state, note=note)

    def _lease_state(self, intent_id: str, state: str, *, lease: str = "", note: str = "") -> None:
        with self.transaction() as db:
            db.execute(
                "UPDATE lease SET state = ?, lease = coalesce(nullif(?, ''), lease), note = ?, at = ? "
                "WHERE intent_id = ?",
                (state, lease, note, self.at(), intent_id),
            )

    def lease(self, intent_id: str) -> tuple[str, Intent, Lease | None]:
        """State, intent and lease (None until the provider answered) of one intent."""
        found = self.rows("SELECT state, intent, lease FROM lease WHERE intent_id = ?", intent_id)
        if not found:
            raise LedgerError(f"the ledger has no intent {intent_id!r}.")
        state, intent, lease = found[0]
        return state, self.load(Intent, intent), self.load(Lease, lease) if lease else None

    def open_leases(self) -> tuple[Intent, ...]:
        """Everything that may still run somewhere: intended or open, oldest first."""
        found = self.rows("SELECT intent FROM lease WHERE state IN ('intended', 'open') ORDER BY at")
        return tuple(self.load(Intent, body) for (body,) in found)

    # Attempts and measurements --------------------------------------------------------------------

    def record_attempt(self, attempt: Attempt, stage: Stage, size: Size) -> None:
        """Write one try. Writing the same attempt again (after a crash) changes nothing."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (attempt.id, attempt.task_id, attempt.provider, stage.value, attempt.outcome.value,
                 size.items, size.tokens, dump(attempt), self.at()),
            )  # fmt: skip

    def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """Every try for a task, in order."""
        found = self.rows("SELECT body FROM attempt WHERE task_id = ? ORDER BY rowid", task_id)
        return tuple(self.load(Attempt, body) for (body,) in found)

    def measured(self, provider: str, stage: Stage, last: int = 20) -> Sequence[tuple[Size, Timing]]:
        """Sizes and timings of the last successful attempts: what estimates learn from."""
        found = self.rows(
            "SELECT items, tokens, body FROM attempt WHERE provider = ? AND stage = ? "
            "AND outcome = 'ok' ORDER BY at DESC LIMIT ?",
            provider, stage.value, last,
        )  # fmt: skip
        return [(Size(i, t), self.load(Attempt, body).timing) for i, t, body in found]

    def record_rows(self, rows: Sequence[Row], job_id: str = "") -> None:
        """Keep measurements beside the job that made them. Raises LedgerError on a foreign realm."""
        if any(row.realm is not self.realm for row in rows):
            raise LedgerError(f"a ledger of realm {self.realm} keeps no other realm's measurements.")
        with self.transaction() as db:
            db.execute("DELETE FROM measurement WHERE job_id = ? AND job_id <> ''", (job_id,))
            db.executemany(
                "INSERT INTO measurement (job_id, body, at) VALUES (?, ?, ?)",
                [(job_id, dump(row), self.at()) for row in rows],
            )

    def measurements(self, job_id: str = "") -> tuple[Row, ...]:
        """Rows of one job, or of all."""
        found = self.rows("SELECT body FROM measurement WHERE ? IN ('', job_id)", job_id)
        return tuple(self.load(Row, body) for (body,) in found)

    def load(self, kind: type[T], body: str) -> T:
        """Read back one value. Raises LedgerError when the row does not validate."""
        try:
            return cast(T, _adapter(cast(Hashable, kind)).validate_json(body))
        except ValidationError as bad:
            raise LedgerError(f"{self.path} holds a damaged {kind.__name__}.") from bad
