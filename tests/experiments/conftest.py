"""Rows and notebooks to test with: made up where only their handling is tested, small where they run."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from accel.core.offer import Realm
from accel.core.row import Provenance, Row

WHEN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def provenance(device: str, when: datetime, commit: str) -> Provenance:
    return Provenance(device, 2, "none", "Linux", "3.11.7", {"torch": "2.13.0"}, commit, when)


@pytest.fixture
def row() -> Callable[..., Row]:
    """A made-up row: row("embed", batch=4, seconds=[…], realm=…, device=…, **other cell entries)."""

    def make(
        what: str = "embed", seconds: list[float] | None = None, realm: Realm = Realm.REAL,
        env: Provenance | None = None, metric: str = "", engine: str = "accel",
        device: str = "a made-up CPU", commit: str = "0123456789ab", when: datetime = WHEN, **cell: Any,
    ) -> Row:  # fmt: skip
        names = {"embed": "seconds per batch", "search": "seconds per query"}
        full = {"what": what, "engine": engine, "provider": "local", "model": "m", "numerics": "fp32", **cell}
        if what != "search":
            full = {"tokens_per_text": 100.0, "bytes_per_text": 400.0, **full}
        return Row(
            full, metric or names.get(what, "seconds per question"), "s", tuple(seconds or [0.1, 0.2, 0.3]),
            "none: made up", True, realm, env or provenance(device, when, commit),
        )  # fmt: skip

    return make


_PARAMETERS = """\
what: str = "a"  # name of the cell
size: int = 1  # how large
sizes: list[int] = []  # several
share: float = 0.5  # a part
out: str = "rows.jsonl"  # file for the rows
"""
_BODY = """\
import time
from datetime import UTC, datetime
from pathlib import Path

from accel.core.offer import Realm
from accel.core.row import Provenance, Row
from accel.experiments import rows

if what == "broken":
    raise RuntimeError("this cell is broken\\non purpose")
if what == "slow":
    Path(out).with_name("slow-began").touch()
    time.sleep(600)
env = Provenance("here", 1, "none", "os", "3", {"p": "1"}, "c", datetime.now(UTC))
cell = {"what": what, "size": size}
if what != "silent":
    rows.write(Path(out), [Row(cell, "m", "s", (1.0,), "none: a test", True, Realm.REAL, env)])
"""


def code_cell(source: str, *tags: str) -> dict[str, Any]:
    return {
        "cell_type": "code", "id": f"c{abs(hash(source)) % 10**8}", "metadata": {"tags": list(tags)},
        "execution_count": None, "outputs": [], "source": source.splitlines(keepends=True),
    }  # fmt: skip


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that writes one made-up row, fails, sleeps or stays silent, as ``what`` says."""
    path = tmp_path / "made.ipynb"
    content = {
        "cells": [code_cell(_PARAMETERS, "parameters"), code_cell(_BODY)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path
