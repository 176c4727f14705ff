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
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from accel.core.errors import LedgerError
from accel.core.offer import Realm
from accel.ledger import migrate
from accel.wire.wal import open_wal

WAIT_S = 10.0  # for another process that is writing
T = TypeVar("T")


@cache
def adapter(kind: Hashable) -> TypeAdapter[Any]:
    """Reads and writes values of a type as JSON; made once per type."""
    return TypeAdapter(cast(Any, kind))


def dump(value: Any) -> str:
    """JSON of a core value, by its own type."""
    return adapter(cast(Hashable, type(value))).dump_json(value).decode()


def instant(at: datetime) -> str:
    """An instant as it is stored: ISO 8601, UTC, six decimals, so that instants sort as their text does."""
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat(timespec="microseconds")


class Database:
    """One open ledger file; safe to use from several threads.

    path: the SQLite file, made if missing, and brought to the present schema if it is of an older one.
    now: wall clock, UTC. Raises LedgerError when the file is not a ledger, of another realm or a later
    schema, or cannot be written.
    """

    def __init__(
        self, path: Path, realm: Realm, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path, self.realm, self.now = path, realm, now
        self._lock = threading.RLock()
        self._depth = 0
        self._shown: tuple[datetime | None, str] = (None, "")
        self._spoilt = False  # a part that joined the innermost transaction failed
        hint = "Check the disk, or set ACCEL_HOME to another folder."
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = open_wal(path, WAIT_S)
        except (sqlite3.Error, OSError) as bad:
            raise LedgerError(f"the ledger {path} cannot be opened ({bad}).", hint=hint) from bad
        try:
            migrate.prepare(self._db, path, realm)
        except sqlite3.Error as bad:
            self._db.close()
            raise LedgerError(f"the ledger {path} cannot be opened ({bad}).", hint=hint) from bad
        except BaseException:
            self._db.close()
            raise

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
                    if self._spoilt:
                        raise LedgerError("a part of a transaction failed: the whole of it is undone.")
                    self._db.execute(f"RELEASE {inner}" if inner else "COMMIT")
                except BaseException:
                    self._spoilt = False
                    # a failed COMMIT leaves the transaction open; some errors have ended it already
                    if self._db.in_transaction:
                        self._db.execute(f"ROLLBACK TO {inner}" if inner else "ROLLBACK")
                        if inner:
                            self._db.execute(f"RELEASE {inner}")
                    self._undone()
                    raise
                finally:
                    self._depth -= 1
            except sqlite3.Error as bad:
                raise self._refused(bad) from bad

    @contextmanager
    def joined(self) -> Iterator[sqlite3.Connection]:
        """Be a part of the transaction that is open, or, where none is, one of its own.

        Cheaper than an inner transaction, which is a savepoint: a part that fails cannot be undone alone. So
        whoever opened the transaction must let it fail, too; one that goes on is undone at its end.
        """
        with self._lock:
            if not self._depth:
                with self.transaction() as db:
                    yield db
                return
            try:
                yield self._db
            except BaseException as bad:
                self._spoilt = True
                if isinstance(bad, sqlite3.Error):
                    raise self._refused(bad) from bad
                raise

    def write(self, sql: str, *args: Any) -> int:
        """One statement, on its own or as a part of the transaction that is open: rows that it changed.

        It needs no savepoint: a statement that fails leaves nothing behind. Raises LedgerError.
        """
        with self._lock:
            if not self._depth:
                with self.transaction() as db:
                    return db.execute(sql, args).rowcount
            try:
                return self._db.execute(sql, args).rowcount
            except sqlite3.Error as bad:
                raise self._refused(bad) from bad

    def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """Read-only rows of ``sql``."""
        with self._lock:
            try:
                return self._db.execute(sql, args).fetchall()
            except sqlite3.Error as bad:
                raise LedgerError(f"the ledger {self.path} could not be read ({bad}).") from bad

    def at(self) -> str:
        """Now, as it is stored."""
        now = self.now()
        if now is not self._shown[0]:  # a clock that stands still shows the same object
            self._shown = (now, instant(now))
        return self._shown[1]

    def load(self, kind: type[T], body: str) -> T:
        """Read back one value. Raises LedgerError when the row does not validate."""
        try:
            return cast(T, adapter(cast(Hashable, kind)).validate_json(body))
        except ValidationError as bad:
            raise LedgerError(f"{self.path} holds a damaged {kind.__name__}.") from bad

    def _undone(self) -> None:
        """Told when a transaction, or a part of one, was rolled back."""

    def _refused(self, bad: sqlite3.Error) -> LedgerError:
        return LedgerError(f"the ledger {self.path} could not be written ({bad}).")
