"""Rows come back as they were written; whatever else is in a file is named, and costs nothing but itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.attempt import Timing
from accel.core.errors import UsageError
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Realm
from accel.core.row import Provenance, Row
from accel.experiments.rows import append, append_missing, dump, latest, read, read_folder, rows_path, write

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(min_size=1, max_size=12)
scalars = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), finite, st.text(max_size=12))
instants = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda d: d.replace(tzinfo=UTC))
rows = st.builds(
    Row,
    cell=st.dictionaries(words, scalars, min_size=1, max_size=4),
    metric=words, unit=words, baseline=words, warm=st.booleans(), realm=st.sampled_from(Realm),
    samples=st.lists(finite, min_size=1, max_size=4).map(tuple),
    env=st.builds(
        Provenance, device=words, cores=st.integers(1, 256), driver=words, os=words, python=words,
        packages=st.dictionaries(words, words, min_size=1, max_size=3), commit=words, measured_at=instants,
    ),
    timing=st.builds(Timing, *[st.floats(0, 1e6)] * 4),
    cost=st.builds(Cost, st.integers(0, 10**15).map(NanoUSD), st.sampled_from(Basis)),
)  # fmt: skip


@given(st.lists(rows, min_size=1, max_size=4))
def test_rows_come_back_equal_each_from_its_realms_file(made: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        append(folder, made)
        for realm in {r.realm for r in made}:
            found = read(rows_path(folder, realm))
            assert list(found.rows) == [r for r in made if r.realm is realm]
            assert [[type(v) for v in r.cell.values()] for r in found.rows] == [
                [type(v) for v in r.cell.values()] for r in made if r.realm is realm
            ]
            assert not found.problems


def test_a_cut_off_last_line_is_named_and_the_next_row_survives_it(
    tmp_path: Path, row: Callable[..., Row]
) -> None:
    good, later = row(batch=1), row(batch=2)
    append(tmp_path, [good])
    path = rows_path(tmp_path, Realm.REAL)
    path.write_bytes(path.read_bytes() + dump(good)[:40])
    found = read(path)
    assert found.rows == (good,)
    assert found.problems == (
        "rows.real.jsonl line 2: cut off in the middle (an interrupted write); measure it again",
    )
    append(tmp_path, [later])
    assert read(path).rows == (good, later)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 0}, "line 2: an older schema (0, this is 1); measure it again"),
        ({"schema": 2}, "line 2: another schema (2, this is 1); measure it again"),
        ({"speed": 3}, "line 2: unknown field 'speed'"),
        ({"env": None}, "line 2: env: Input should be"),
        ({"samples": []}, "a row needs at least one finite sample"),
        ({"realm": "sandbox"}, "line 2: its realm is sandbox"),
    ],
)
def test_a_bad_line_is_named_with_its_reason_and_the_rest_is_kept(
    tmp_path: Path, row: Callable[..., Row], change: dict[str, object], said: str
) -> None:
    good, path = row(batch=1), rows_path(tmp_path, Realm.REAL)
    path.write_bytes(dump(good) + json.dumps(json.loads(dump(good)) | change).encode() + b"\n" + dump(good))
    found = read(path)
    assert found.rows == (good, good)
    assert len(found.problems) == 1 and said in found.problems[0]
    assert "\n" not in found.problems[0]


def test_a_row_without_provenance_is_no_row(tmp_path: Path, row: Callable[..., Row]) -> None:
    raw = json.loads(dump(row()))
    raw["env"]["commit"] = ""
    path = rows_path(tmp_path, Realm.REAL)
    path.write_bytes(dump(row()) + json.dumps(raw).encode() + b"\n")
    found = read(path)
    assert len(found.rows) == 1
    assert "a measurement needs its device, its library versions and its commit" in found.problems[0]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n3,4\n", bytes(range(256)) * 8, b'[1]\n{"x": 1}\n'])
def test_a_foreign_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a file of rows") as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_no_folder_and_no_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was measured here yet"):
        read_folder(tmp_path)
    with pytest.raises(UsageError, match="no rows can be read there"):
        read(tmp_path / "rows.real.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        append(tmp_path / "file" / "below", [])


def test_many_long_problems_are_counted_not_listed(tmp_path: Path, row: Callable[..., Row]) -> None:
    path = rows_path(tmp_path, Realm.REAL)
    path.write_bytes(dump(row()) + b"nonsense\n" * 100)
    assert len(read(path).problems) == 6
    assert read(path).problems[-1].endswith("95 more lines that are no rows")


def test_a_row_that_would_not_read_back_is_refused_and_nothing_is_written(
    tmp_path: Path, row: Callable[..., Row]
) -> None:
    with pytest.raises(ValueError, match="would not read back equal"):
        append(tmp_path, [row(), row(share=float("nan"))])
    assert not rows_path(tmp_path, Realm.REAL).exists()


def test_appending_from_many_threads_loses_and_breaks_nothing(
    tmp_path: Path, row: Callable[..., Row]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append(tmp_path, [row(batch=i), row(batch=1000 + i)]), range(40)))
    found = read(rows_path(tmp_path, Realm.REAL))
    assert not found.problems
    assert sorted(int(r.cell["batch"]) for r in found.rows) == sorted([*range(40), *range(1000, 1040)])


def test_append_missing_adds_only_what_is_not_there(tmp_path: Path, row: Callable[..., Row]) -> None:
    one, two = row(batch=1), row(batch=2)
    append_missing(tmp_path, [one])
    append_missing(tmp_path, [one, two])
    assert read(rows_path(tmp_path, Realm.REAL)).rows == (one, two)


def test_write_replaces_a_file_whole(tmp_path: Path, row: Callable[..., Row]) -> None:
    path = tmp_path / "below" / "cell.jsonl"
    write(path, [row(batch=1), row(batch=2)])
    write(path, [row(batch=3)])
    assert [r.cell["batch"] for r in read(path).rows] == [3]
    assert [p.name for p in path.parent.iterdir()] == ["cell.jsonl"]


def test_latest_keeps_the_newest_row_of_a_cell_on_a_device(row: Callable[..., Row]) -> None:
    old = row(batch=1)
    env = old.env
    newer = row(batch=1, env=Provenance(env.device, 2, "none", env.os, env.python, env.packages, "other",
                                        env.measured_at + timedelta(hours=1)))  # fmt: skip
    elsewhere = row(batch=1, env=Provenance("GPU", 2, "1", env.os, env.python, env.packages, "c",
                                            env.measured_at))  # fmt: skip
    sandbox = row(batch=1, realm=Realm.SANDBOX)
    assert latest([old, newer, elsewhere, sandbox]) == (newer, elsewhere, sandbox)
    assert latest([newer, old]) == (newer,)
