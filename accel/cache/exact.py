"""The exact cache. Guarantee: a hit is bit for bit what was stored under the full key, or it is a miss.

SQLite in WAL mode, shared by processes. Values are envelopes, which carry their own digest: a damaged
entry is dropped and counted as a miss. A file that is not ours is set aside, and a new one begun. The
cache may always be deleted; it never makes a request fail.

A hit only reads. What was used is noted in memory and written before anything is evicted, once ``NOTES`` are
waiting or one is ``NOTED_S`` old, and at the end: what this process evicts is what was least recently used.
Another process may not know of the last notes yet, and a killed one loses them.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from accel.wire import Envelope, EnvelopeError
from accel.wire.wal import open_wal

log = logging.getLogger(__name__)
# The file is fine, or may be: in use, not ours to open, on a full or failing disk. Never set aside.
_PASSING = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
})  # fmt: skip
_MANY = 500  # below SQLite's limit of variables in one statement
DEFAULT_BYTES = 2 << 30
NOTES, NOTED_S = 1000, 60.0
WAIT_S = 2.0  # for another process; a cache that lets a request wait longer is none


class ExactCache:
    """Envelopes by full key (``core.task.cache_key``).

    path: the SQLite file. max_bytes: what the values may take; the least recently used go first.
    """

    def __init__(self, path: Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._page = 0  # bytes of one, in the file that is open
        self._used: dict[str, float] = {}  # hits that are not written yet, and when they were
        self._noted = 0.0  # when the first of them was
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
        except (sqlite3.Error, OSError) as bad:
            if not isinstance(bad, sqlite3.Error) or getattr(bad, "sqlite_errorcode", 0) & 0xFF in _PASSING:
                log.warning("the cache %s cannot be used now (%s): nothing is cached", path, bad)
            else:
                self._set_aside(bad)

    def _set_aside(self, bad: Exception) -> None:
        """Rename what is not a cache of ours, with its journal, which a new file would replay."""
        name = f"{self.path.name}.damaged-{time.time_ns()}"
        try:
            for suffix in ("-wal", "-shm", ""):
                old = self.path.with_name(self.path.name + suffix)
                if old.exists():
                    old.replace(self.path.with_name(name + suffix))
            log.warning("the cache %s was damaged (%s): set aside as %s", self.path, bad, name)
            self._db = self._open()
        except (sqlite3.Error, OSError) as worse:
            log.warning("the cache %s cannot be used (%s): nothing is cached", self.path, worse)

    def _open(self) -> sqlite3.Connection:
        db = open_wal(self.path, WAIT_S)
        try:
            db.execute(
                "CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value BLOB NOT NULL, "
                "used REAL NOT NULL) STRICT, WITHOUT ROWID"
            )
            db.execute("SELECT key, used FROM entry LIMIT 1")
            self._page = db.execute("PRAGMA page_size").fetchone()[0]
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def get_many(self, keys: Sequence[str]) -> dict[str, Envelope]:
        """What is there, by key. Never raises: a locked or failing file is a miss for every key."""
        found: dict[str, bytes] = {}
        with self._lock, self._failing("read") as db:
            for part in _parts(keys):
                if db is None:
                    break
                marks = ",".join("?" * len(part))
                found.update(db.execute(f"SELECT key, value FROM entry WHERE key IN ({marks})", part))
            self._note(found)
        return {key: e for key, blob in found.items() if (e := self._parse(key, blob)) is not None}

    def put_many(self, entries: Mapping[str, Envelope]) -> None:
        """Store. Entries with NaN or infinity are not stored; a failing file stores nothing."""
        now = time.time()
        good = [(k, blob, now) for k, e in entries.items() if (blob := _bytes(e)) is not None]
        with self._lock, self._failing("written") as db:
            if not db or not good:
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", good)
                self._evict(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                with self._failing("written"):
                    self._write_notes(self._db)
                self._db.close()

    def _note(self, found: Iterable[str]) -> None:
        """These were used now."""
        now = time.time()
        if not self._used:
            self._noted = now
        self._used.update(dict.fromkeys(found, now))
        if self._db and (len(self._used) >= NOTES or not 0 <= now - self._noted <= NOTED_S):
            self._write_notes(self._db)

    def _write_notes(self, db: sqlite3.Connection) -> None:
        """Those that cannot be written are dropped: no request waits for them again."""
        notes, self._used = self._used, {}
        if not notes:
            return
        whole = not db.in_transaction
        if whole:
            db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(
                "UPDATE entry SET used = max(used, ?) WHERE key = ?", [(at, key) for key, at in notes.items()]
            )
        finally:
            if whole and db.in_transaction:
                db.execute("COMMIT")

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[sqlite3.Connection | None]:
        """The connection, or None without one; whatever SQLite refuses inside is logged, not raised."""
        try:
            yield self._db
        except sqlite3.Error as bad:
            log.warning("the cache could not be %s (%s)", what, bad)

    def _evict(self, db: sqlite3.Connection) -> None:
        """Make room, least recently used first."""
        pages = db.execute("PRAGMA page_count").fetchone()[0]  # O(1), where sum(length) reads it all
        if pages * self._page <= self.max_bytes:
            return
        free = db.execute("PRAGMA freelist_count").fetchone()[0]
        excess = (pages - free) * self._page - self.max_bytes
        if excess > 0:
            self._write_notes(db)
        while excess > 0:
            oldest = db.execute(
                "SELECT key, length(value) FROM entry ORDER BY used, key LIMIT 256"
            ).fetchall()
            if not oldest:
                return
            gone = []
            for key, size in oldest:
                if excess > 0:
                    gone.append((key,))
                    excess -= size
            db.executemany("DELETE FROM entry WHERE key = ?", gone)

    def _parse(self, key: str, blob: bytes) -> Envelope | None:
        try:
            return Envelope.from_bytes(blob)
        except EnvelopeError as bad:
            log.warning("a damaged cache entry was dropped (%s)", bad)
            with self._lock, self._failing("mended") as db:
                if db:
                    db.execute("DELETE FROM entry WHERE key = ?", (key,))
            return None


def _bytes(envelope: Envelope) -> bytes | None:
    """What is stored of an envelope; None for one that must not be, or cannot be."""
    try:
        return None if envelope.not_numbers() else envelope.to_bytes()
    except EnvelopeError as bad:
        log.warning("a result is not cached (%s)", bad)
        return None


def _parts(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[i : i + _MANY] for i in range(0, len(keys), _MANY))
