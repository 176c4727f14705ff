"""The ledger's file. Guarantee: a transaction is on disk as a whole, or not at all.

SQLite in WAL mode, one file per realm, any number of processes. Values of ``core`` are stored as JSON
through pydantic, which validates them when they are read back.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from accel.core.errors import LedgerError
from accel.core.offer import Realm
from accel.wire.wal import open_wal

SCHEMA_VERSION = "1"
WAIT_S = 10.0  # for another process that is writing
T = TypeVar("T")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def dump(value: Any) -> str:
    """JSON of a core value, by its own type."""
    return _adapter(cast(Hashable, type(value))).dump_json(value).decode()


class Database:
    """One open ledger file; safe to use from several threads.

    path: the SQLite file, made if missing. now: wall clock, UTC. Raises LedgerError when the file is
    not a ledger, of another realm or schema, or cannot be written.
    """

    def __init__(
        self, path: Path, realm: Realm, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path, self.realm, self._now = path, realm, now
        self._lock = threading.RLock()
        self._depth = 0
        hint = "Check the disk, or set ACCEL_HOME to another folder."
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = open_wal(path, WAIT_S)
        except (sqlite3.Error, OSError) as bad:
            raise LedgerError(f"the ledger {path} cannot be opened ({bad}).", hint=hint) from bad
        try:
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()
        except sqlite3.Error as bad:
            self._db.close()
            raise LedgerError(f"the ledger {path} cannot be opened ({bad}).", hint=hint) from bad
        except LedgerError:
            self._db.close()
            raise

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
        """One IMMEDIATE transaction: all of it or none of it. An inner one is a part of the outer.

        Must not be held across an ``await``. Raises LedgerError for whatever SQLite refuses.
        """
        with self._lock:
            inner = f"part{self._depth}" if self._depth else ""
            try:
                self._db.execute(f"SAVEPOINT {inner}" if inner else "BEGIN IMMEDIATE")
                self._depth += 1
                try:
                    yield self._db
                    self._db.execute(f"RELEASE {inner}" if inner else "COMMIT")
                except BaseException:
                    # a failed COMMIT leaves the transaction open; some errors have ended it already
                    if self._db.in_transaction:
                        self._db.execute(f"ROLLBACK TO {inner}" if inner else "ROLLBACK")
                        if inner:
                            self._db.execute(f"RELEASE {inner}")
                    raise
                finally:
                    self._depth -= 1
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
        return self._now().isoformat()

    def load(self, kind: type[T], body: str) -> T:
        """Read back one value. Raises LedgerError when the row does not validate."""
        try:
            return cast(T, _adapter(cast(Hashable, kind)).validate_json(body))
        except ValidationError as bad:
            raise LedgerError(f"{self.path} holds a damaged {kind.__name__}.") from bad
