"""SQLite files of ours. Guarantee: any number of processes may open, and make, the same file at once.

Write-ahead logging lets readers and one writer go on together. Turning it on needs the file for a moment,
and there SQLite answers "database is locked" at once instead of waiting: the waiting is done here.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

PAUSE_S = 0.02


def open_wal(path: Path, wait_s: float) -> sqlite3.Connection:
    """Open or make ``path``, in autocommit mode, usable from several threads (which must take turns).

    wait_s: how long this call, and each statement later, waits for other processes. Raises sqlite3.Error.
    """
    db = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
    ends = time.monotonic() + wait_s
    try:
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as bad:
                if bad.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                    raise
                time.sleep(PAUSE_S)
        # NORMAL may lose the last commits on a power cut, never on a crash of ours
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db
