"""The exact cache. Guarantee: a hit is bit for bit what was stored under the full key, or it is a miss.

SQLite in WAL mode, shared by processes. Values are envelopes, which carry their own digest: a damaged
entry is dropped and counted as a miss. A file that is not ours is set aside, and a new one begun. The
cache may always be deleted; it never makes a request fail.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from accel.wire import Envelope, EnvelopeError

log = logging.getLogger(__name__)
_MANY = 500  # below SQLite's limit of variables in one statement
DEFAULT_BYTES = 2 << 30


class ExactCache:
    """Envelopes by full key (``core.task.cache_key``).

    path: the SQLite file. max_bytes: what the values may take; the least recently used go first.
    """

    def __init__(self, path: Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as bad:
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            path.replace(aside)
            log.warning("the cache %s was damaged (%s): set aside as %s", path, bad, aside.name)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value BLOB NOT NULL, "
                "used REAL NOT NULL) STRICT, WITHOUT ROWID"
            )
            db.execute("SELECT key, used FROM entry LIMIT 1")
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def get_many(self, keys: Sequence[str]) -> dict[str, Envelope]:
        """What is there, by key. Never raises: a locked or failing file is a miss for every key."""
        found: dict[str, bytes] = {}
        try:
            with self._lock:
                for part in _parts(keys):
                    marks = ",".join("?" * len(part))
                    found.update(
                        self._db.execute(f"SELECT key, value FROM entry WHERE key IN ({marks})", part)
                    )
                    self._db.execute(
                        f"UPDATE entry SET used = ? WHERE key IN ({marks})", (time.time(), *part)
                    )
        except sqlite3.Error as bad:
            log.warning("the cache could not be read (%s)", bad)
        return {key: e for key, blob in found.items() if (e := self._parse(key, blob)) is not None}

    def put_many(self, entries: Mapping[str, Envelope]) -> None:
        """Store. Entries with NaN or infinity are not stored; a failing file stores nothing."""
        now = time.time()
        good = [(k, e.to_bytes(), now) for k, e in entries.items() if not e.not_numbers()]
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._db.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", good)
                    self._evict()
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
        except sqlite3.Error as bad:
            log.warning("the cache could not be written (%s)", bad)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _evict(self) -> None:
        pragma = ("page_count", "freelist_count", "page_size")  # O(1), where sum(length) reads it all
        pages, free, page = (self._db.execute(f"PRAGMA {p}").fetchone()[0] for p in pragma)
        size = (pages - free) * page
        while size > self.max_bytes:
            oldest = self._db.execute(
                "SELECT key, length(value) FROM entry ORDER BY used LIMIT 256"
            ).fetchall()
            if not oldest:
                return
            self._db.executemany("DELETE FROM entry WHERE key = ?", [(k,) for k, _ in oldest])
            size -= sum(n for _, n in oldest)

    def _parse(self, key: str, blob: bytes) -> Envelope | None:
        try:
            return Envelope.from_bytes(blob)
        except EnvelopeError as bad:
            log.warning("a damaged cache entry was dropped (%s)", bad)
            with self._lock:
                self._db.execute("DELETE FROM entry WHERE key = ?", (key,))
            return None


def _parts(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[i : i + _MANY] for i in range(0, len(keys), _MANY))
