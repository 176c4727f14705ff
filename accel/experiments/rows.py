"""Rows on disk. Guarantee: what was written whole is read back equal; a bad line is named, never fatal.

JSON Lines, one file per realm (``rows.real.jsonl``, ``rows.sandbox.jsonl``), so that figures of two
realms cannot meet by accident. Appending takes a file lock, writes all lines at once and syncs; a line
that a crash cut off stays alone on its line, and costs nothing but itself.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.row import ROW_SCHEMA, Row

_FIELDS = frozenset(f.name for f in fields(Row))
_NAMED = 5  # bad lines that are named one by one; the rest are counted


@dataclass(frozen=True, slots=True)
class Read:
    """rows: every good one, in file order. problems: one line of words for each line that is not."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...] = ()


def rows_path(folder: Path, realm: Realm) -> Path:
    """The file of one realm in a results folder."""
    return folder / f"rows.{realm.value}.jsonl"


def append(folder: Path, rows: Iterable[Row]) -> tuple[Path, ...]:
    """Add ``rows`` to their realms' files in ``folder`` (created). Returns the files written.

    Raises ValueError for a row that would not read back equal (a NaN in its cell, say): nothing is
    written then; UsageError when the folder cannot be written.
    """
    lines: dict[Realm, list[bytes]] = {}
    for row in rows:
        lines.setdefault(row.realm, []).append(dump(row))
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for realm, block in sorted(lines.items()):
            path = rows_path(folder, realm)
            with FileLock(str(path) + ".lock"):
                _append(path, b"".join(block))
            written.append(path)
    except OSError as bad:
        raise UsageError(f"{folder}: rows cannot be written there ({bad.strerror}).") from bad
    return tuple(written)


def append_missing(folder: Path, rows: Iterable[Row]) -> None:
    """``append`` those of ``rows`` that ``folder`` does not hold yet."""
    have: set[bytes] = set()
    for realm in Realm:
        if (path := rows_path(folder, realm)).exists():
            have |= {line + b"\n" for line in path.read_bytes().split(b"\n")}
    append(folder, [row for row in rows if dump(row) not in have])


def write(path: Path, rows: Iterable[Row]) -> None:
    """Make ``path`` a file of exactly ``rows``, by rename: there is all of it or nothing.

    What a measuring notebook's last cell calls. Raises ValueError as ``append``.
    """
    block = b"".join(map(dump, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def dump(row: Row) -> bytes:
    """One line of JSON, newline included. Raises ValueError when it would not read back equal."""
    line = _adapter().dump_json(row)
    try:
        same = _adapter().validate_json(line) == row
    except ValidationError:
        same = False
    if not same:
        raise ValueError(f"{row.metric}: this row would not read back equal; is there a NaN in its cell?")
    return line + b"\n"


def read(path: Path) -> Read:
    """Every row of ``path`` that is whole, of this schema and of the file's realm; the rest in words.

    Raises UsageError when the file is missing or holds no row at all but something else.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as bad:
        raise UsageError(f"{path}: no rows can be read there ({bad.strerror}).") from None
    expected = _realm_of(path)
    rows: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        made = parse(line, last=number == len(lines))
        if isinstance(made, Row) and expected in (None, made.realm):
            rows.append(made)
        else:
            why = f"its realm is {made.realm}" if isinstance(made, Row) else made
            problems.append(f"{path.name} line {number}: {why}")
    if problems and not rows and len(problems) > 1:
        raise UsageError(f"{path}: not a file of rows; none of its {len(problems)} lines is one.",
                         hint=f"The first: {problems[0]}.")  # fmt: skip
    return Read(tuple(rows), _shortened(path, problems))


def read_folder(folder: Path) -> Read:
    """The rows of every realm in ``folder``. Raises UsageError when there is no row file at all."""
    found = [p for realm in Realm if (p := rows_path(folder, realm)).exists()]
    if not found:
        raise UsageError(f"{folder}: nothing was measured here yet (no rows.<realm>.jsonl).")
    parts = [read(p) for p in found]
    return Read(
        tuple(r for part in parts for r in part.rows), tuple(p for part in parts for p in part.problems)
    )


def parse(line: bytes, *, last: bool = False) -> Row | str:
    """The row that ``line`` holds, or one sentence that says why it holds none."""
    try:
        raw = json.loads(line)
    except ValueError:
        return "cut off in the middle (an interrupted write); measure it again" if last else "not JSON"
    if not isinstance(raw, dict) or "schema" not in raw or "metric" not in raw:
        return "not a row of ours"
    if raw["schema"] != ROW_SCHEMA:
        age = "an older" if str(raw["schema"]) < str(ROW_SCHEMA) else "another"
        return f"{age} schema ({raw['schema']!r}, this is {ROW_SCHEMA}); measure it again"
    if unknown := sorted(raw.keys() - _FIELDS):
        return f"unknown field {unknown[0]!r}"
    try:
        return _adapter().validate_json(line)
    except ValidationError as bad:
        first = bad.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "row"
        return f"{where}: {first['msg']}"


def latest(rows: Sequence[Row]) -> tuple[Row, ...]:
    """For each realm, device, cell and metric the row measured last, in the order of first appearance."""
    kept: dict[object, Row] = {}
    for row in rows:
        key = (row.realm, row.env.device, row.metric, tuple(sorted(row.cell.items())))
        have = kept.get(key)
        if have is None or have.env.measured_at <= row.env.measured_at:
            kept[key] = row
    return tuple(kept.values())


@functools.cache  # 5 ms to build
def _adapter() -> TypeAdapter[Row]:
    return TypeAdapter(Row)


def _realm_of(path: Path) -> Realm | None:
    """The realm a file is named after; None for a file of another name."""
    return next((r for r in Realm if path.name == rows_path(path.parent, r).name), None)


def _append(path: Path, block: bytes) -> None:
    """Write ``block`` at the end in one go; after a line that was cut off, on a line of its own."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                block = b"\n" + block
        file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _shortened(path: Path, problems: list[str]) -> tuple[str, ...]:
    if len(problems) <= _NAMED:
        return tuple(problems)
    more = len(problems) - _NAMED
    return (*problems[:_NAMED], f"{path.name}: {more} more lines that are no rows")
