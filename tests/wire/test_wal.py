"""A SQLite file that somebody else is just making: opening it waits, where SQLite itself would not."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from accel.wire.wal import open_wal


def test_a_new_file_in_use_is_waited_for(tmp_path: Path) -> None:
    """A writer of a file that has no WAL yet: the switch is answered "locked" at once."""
    other = sqlite3.connect(tmp_path / "db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ("COMMIT",))
    release.start()
    opened = open_wal(tmp_path / "db", 20.0)
    assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    release.join()


def test_waiting_has_an_end(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_wal(tmp_path / "db", 0.1)


def test_what_is_no_database_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"no database at all, and long enough to be looked at" * 50)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        open_wal(tmp_path / "db", 1e9)
