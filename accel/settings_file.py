"""Changes to the settings file. Guarantee: one value changes and the rest stays as it was, or nothing does.

The file is edited as text, so that comments stay; what came out is read again and must hold just the change.
It is written whole, by rename, and only its owner may read it: it may hold keys. No value is ever shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accel.config import settings_file
from accel.core.errors import SettingsError

Value = str | float | Sequence[str]
_HEADER = re.compile(r"^\s*\[")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def change(table: str, name: str, value: Value) -> Path:
    """Set ``name`` in ``[table]`` ("" is the top) to ``value``; the file, which is made if it is not there.

    Raises SettingsError when it cannot be written, or holds ``name`` in a form that is not changed here.
    """
    path = settings_file()
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    except (OSError, UnicodeDecodeError) as bad:
        raise SettingsError(f"{path} cannot be read ({type(bad).__name__}).") from None
    after = changed(before, table, name, value)
    if after is None:
        raise SettingsError(
            f"{path} holds {table or 'settings'} in a form that is not edited here.",
            hint=f"Set {name} there by hand.",
        )
    _write(path, after)
    return path


def changed(text: str, table: str, name: str, value: Value) -> str | None:
    """``text`` with the change; None when that cannot be done without touching anything else."""
    if not _NAME.fullmatch(name) or (table and not _NAME.fullmatch(table)):
        return None
    line, lines = f"{name} = {_toml(value)}\n", text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    heads = [i for i, x in enumerate(lines) if _HEADER.match(x)]
    begin = 0
    if table:
        found = [i for i in heads if re.match(rf"^\s*\[\s*{re.escape(table)}\s*\]", lines[i])]
        if not found:
            lines += ([] if not lines or lines[-1].strip() == "" else ["\n"]) + [f"[{table}]\n"]
            found = [len(lines) - 1]
        begin = found[0] + 1
    end = next((i for i in heads if i >= begin), len(lines))
    mine = [i for i in range(begin, end) if re.match(rf"^\s*{re.escape(name)}\s*=", lines[i])]
    if mine:
        lines[mine[0]] = line
    else:
        while end > begin and not lines[end - 1].strip():
            end -= 1  # before the empty lines of the next table
        lines.insert(end, line)
    made = "".join(lines)
    return made if _only(text, made, table, name, value) else None


def _only(before: str, after: str, table: str, name: str, value: Value) -> bool:
    """Whether ``after`` says what ``before`` did, with just this change."""
    try:
        wanted, made = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    inner: Any = wanted.setdefault(table, {}) if table else wanted
    if not isinstance(inner, dict):
        return False
    inner[name] = value if isinstance(value, str | float | int) else list(value)
    return bool(wanted == made)


def _toml(value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(value)  # a JSON string of printable ASCII is a basic string of TOML
    if isinstance(value, float | int):
        return repr(value)
    return "[" + ", ".join(json.dumps(v) for v in value) + "]"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as bad:
        with contextlib.suppress(OSError):
            part.unlink()
        raise SettingsError(f"{path} cannot be written ({type(bad).__name__}).") from None
