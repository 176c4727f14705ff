"""The exact cache: bit for bit what was stored, or a miss; and never a reason for a request to fail."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accel.cache import ExactCache
from accel.cache.exact import NOTED_S, NOTES
from accel.wire import Envelope

ROWS = hnp.arrays(st.sampled_from(["<f4", "<f2", "<i8"]), st.integers(0, 5)).filter(
    lambda a: a.dtype.kind != "f" or bool(np.isfinite(a).all())
)


def entry(values: object = (1.0, 2.0)) -> Envelope:
    return Envelope("", {"stage": "embed"}, {"vector": np.asarray(values, np.float32)})


@given(st.dictionaries(st.text("0123456789abcdef", min_size=1, max_size=8), ROWS, max_size=6))
@settings(max_examples=25)
def test_a_hit_is_bit_identical(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("c") / "cache.sqlite3"
    cache = ExactCache(path)
    entries = {k: Envelope("", {"stage": "embed"}, {"vector": v}, {"n": 1}) for k, v in rows.items()}
    cache.put_many(entries)
    cache.close()
    again = ExactCache(path)  # from disk, as another process would
    found = again.get_many([*rows, "missing"])
    again.close()
    assert {k: e.to_bytes() for k, e in found.items()} == {k: e.to_bytes() for k, e in entries.items()}


def test_many_more_keys_than_sql_takes_at_once(tmp_path: Path) -> None:
    cache = ExactCache(tmp_path / "c")
    cache.put_many({str(n): entry([n]) for n in range(1300)})
    found = cache.get_many([str(n) for n in range(1300)])
    assert [found[str(n)].tensors["vector"][0] for n in range(1300)] == list(range(1300))


@pytest.mark.parametrize("bad", [[np.nan], [1.0, np.inf]])
def test_what_is_not_a_number_is_never_stored(tmp_path: Path, bad: list[float]) -> None:
    cache = ExactCache(tmp_path / "c")
    cache.put_many({"bad": entry(bad), "good": entry([-np.inf])})
    assert cache.get_many(["bad", "good"]).keys() == {"good"}


def test_a_damaged_entry_is_dropped_and_its_neighbours_stay(tmp_path: Path) -> None:
    cache = ExactCache(tmp_path / "c")
    cache.put_many({"a": entry(), "b": entry()})
    with sqlite3.connect(tmp_path / "c") as db:
        (blob,) = db.execute("SELECT value FROM entry WHERE key = 'a'").fetchone()
        db.execute("UPDATE entry SET value = ? WHERE key = 'a'", (blob[:-1] + bytes([blob[-1] ^ 1]),))
    assert cache.get_many(["a", "b"]).keys() == {"b"}
    with sqlite3.connect(tmp_path / "c") as db:
        assert db.execute("SELECT key FROM entry").fetchall() == [("b",)]


def test_a_foreign_file_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite3"
    path.write_bytes(b"somebody's notes, not a database at all " * 50)
    cache = ExactCache(path)
    cache.put_many({"a": entry()})
    assert cache.get_many(["a"]).keys() == {"a"}
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes().startswith(b"somebody's notes")


def test_another_programs_table_is_set_aside_too(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "c") as db:
        db.execute("CREATE TABLE entry (name TEXT)")
    cache = ExactCache(tmp_path / "c")
    cache.put_many({"a": entry()})
    assert cache.get_many(["a"])
    assert len(list(tmp_path.glob("c.damaged-*"))) == 1


def test_a_locked_file_is_a_miss_and_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c"
    cache = ExactCache(path)
    cache.put_many({"a": entry()})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    cache.close()
    other.execute("BEGIN EXCLUSIVE")
    locked = ExactCache(path)  # nobody else can even open it now
    locked.put_many({"b": entry()})
    assert locked.get_many(["a", "b"]) == {}
    other.execute("COMMIT")
    other.close()
    assert list(tmp_path.glob("*.damaged-*")) == []
    assert ExactCache(path).get_many(["a", "b"]).keys() == {"a"}


def test_a_folder_where_the_file_should_be_means_no_cache_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    cache = ExactCache(tmp_path / "c")
    cache.put_many({"a": entry()})
    assert cache.get_many(["a"]) == {}
    cache.close()
    assert (tmp_path / "c").is_dir()


def test_a_closed_or_failing_cache_never_makes_a_request_fail(tmp_path: Path) -> None:
    cache = ExactCache(tmp_path / "c")
    cache.put_many({"a": entry()})
    cache.close()
    cache.put_many({"b": entry()})
    assert cache.get_many(["a"]) == {}


def test_what_cannot_travel_is_not_stored_and_not_an_error(tmp_path: Path) -> None:
    cache = ExactCache(tmp_path / "c")
    odd = Envelope("", {}, {"vector": np.array(["text"])})
    cache.put_many({"odd": odd, "good": entry()})
    assert cache.get_many(["odd", "good"]).keys() == {"good"}


def test_eviction_is_bounded_and_takes_the_least_recently_used(tmp_path: Path) -> None:
    limit = 400_000
    cache = ExactCache(tmp_path / "c", max_bytes=limit)
    for n in range(30):
        cache.put_many({str(n): entry(np.full(5_000, n))})  # 20 kB each
        assert cache.get_many(["0"]), "the one in use must stay"
    found = cache.get_many([str(n) for n in range(30)])
    assert {"0", "29"} <= found.keys()  # the one used all along, and the newest
    assert 10 <= len(found) < 21
    assert "1" not in found
    with sqlite3.connect(tmp_path / "c") as db:
        assert db.execute("SELECT sum(length(value)) FROM entry").fetchone()[0] <= limit


WRITER = """
import sys
from pathlib import Path
import numpy as np
from accel.cache import ExactCache
from accel.wire import Envelope
cache, who = ExactCache(Path(sys.argv[1])), sys.argv[2]
for n in range(60):
    cache.put_many({f"{who}-{n}": Envelope("", {}, {"vector": np.full(64, n, np.float32)}),
                    "shared": Envelope("", {}, {"vector": np.full(64, 7, np.float32)})})
    found = cache.get_many(["shared", f"{who}-{n}"])
    assert all(len(set(e.tensors["vector"])) == 1 for e in found.values())
"""


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "c"), who]) for who in "ab"]
    assert [p.wait(60) for p in running] == [0, 0]
    found = ExactCache(tmp_path / "c").get_many([f"{who}-{n}" for who in "ab" for n in range(60)])
    assert len(found) == 120
    assert all(set(e.tensors["vector"]) == {float(k.split("-")[1])} for k, e in found.items())


def used(path: Path) -> dict[str, float]:
    with sqlite3.connect(path) as db:
        return dict(db.execute("SELECT key, used FROM entry"))


def test_a_hit_writes_nothing_until_the_file_is_closed(tmp_path: Path) -> None:
    cache = ExactCache(tmp_path / "c")
    cache.put_many({"a": entry(), "b": entry()})
    before = used(tmp_path / "c")
    with sqlite3.connect(tmp_path / "c", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # somebody else writes, and a hit does not wait for that
        assert cache.get_many(["a"]).keys() == {"a"}
        other.execute("ROLLBACK")
    assert used(tmp_path / "c") == before
    cache.close()
    after = used(tmp_path / "c")
    assert after["a"] > before["a"]
    assert after["b"] == before["b"]


def test_what_was_used_is_written_once_enough_is_noted_or_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, now = ExactCache(tmp_path / "c"), 2e9
    monkeypatch.setattr("accel.cache.exact.time.time", lambda: now)
    cache.put_many({str(n): entry([n]) for n in range(NOTES)})
    now += 1.0
    cache.get_many(["0"])
    now += NOTED_S + 1.0
    assert set(used(tmp_path / "c").values()) == {2e9}
    cache.get_many(["1"])  # an old note is waiting
    assert [used(tmp_path / "c")[key] for key in ("0", "1", "2")] == [2e9 + 1.0, now, 2e9]
    now += 1.0
    cache.get_many([str(n) for n in range(NOTES)])
    assert set(used(tmp_path / "c").values()) == {now}


def test_notes_that_cannot_be_written_make_no_request_wait_twice(tmp_path: Path) -> None:
    cache = ExactCache(tmp_path / "c")
    cache.put_many({str(n): entry([n]) for n in range(NOTES)})
    cache._db.execute("PRAGMA busy_timeout = 0")  # type: ignore[union-attr] - waiting is not the point here
    with sqlite3.connect(tmp_path / "c", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(cache.get_many([str(n) for n in range(NOTES)])) == NOTES
        assert not cache._used
        other.execute("ROLLBACK")
