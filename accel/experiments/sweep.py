"""A grid of notebook runs. Guarantee: what a finished cell measured is kept, whatever happens to the rest.

Each cell of the grid is one run of one notebook in a process of its own, which writes its rows to a file
named after the notebook's text, this package's commit and the parameters. A cell whose file is there is
not run again; a cell that fails is reported and stops no other; an interrupt ends the processes that run
and loses only what they were at.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from accel import environment
from accel.core.errors import UsageError
from accel.core.row import Row
from accel.experiments import rows as row_files
from accel.experiments.notebook import checked

OUT = "out"  # the parameter that every measuring notebook has: where its last cell writes its rows
_POLL_S = 0.05
_KEYS = frozenset({"notebook", "workers", "fixed", "cells", "grid"})


class Status(StrEnum):
    """What became of a cell: measured now, measured before, or failed."""

    DONE = "done"
    KEPT = "kept"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sweep:
    """notebook: what each cell runs. cells: its parameters, one dict a cell, without ``out``.

    workers: how many run at once. Where they measure time, one: two would measure each other.
    """

    notebook: Path
    cells: tuple[Mapping[str, Any], ...]
    workers: int = 1


@dataclass(frozen=True, slots=True)
class CellRun:
    """One cell: its parameters and their short name, what became of it, wall seconds, and its rows.

    executed: the executed copy of the notebook. error: one line, for a failed cell.
    """

    name: str
    parameters: Mapping[str, Any]
    status: Status
    seconds: float
    executed: Path
    rows: tuple[Row, ...] = ()
    error: str = ""


Progress = Callable[[CellRun, int, int], None]
"""Called as each cell ends with (it, cells ended, cells in all)."""


def load_sweep(path: Path) -> Sweep:
    """Read YAML: ``notebook`` (relative to the file), ``workers``, ``fixed``, ``cells`` and ``grid``.

    fixed: parameters of every cell. grid: parameter names with lists, of which every combination is a
    cell. cells: a list of parameter sets, each combined with the grid. Raises UsageError for anything
    else, and for parameters that the notebook does not have.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as bad:
        raise UsageError(f"{path}: cannot be read ({bad.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as bad:
        raise UsageError(f"{path}: not YAML: {str(bad).splitlines()[0]}.") from None
    if not isinstance(content, dict) or "notebook" not in content:
        raise UsageError(f"{path}: a sweep names its notebook.")
    if unknown := sorted(content.keys() - _KEYS):
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; a sweep has {', '.join(sorted(_KEYS))}.")
    fixed, grid = content.get("fixed") or {}, content.get("grid") or {}
    sets = content.get("cells") or [{}]
    workers = content.get("workers", 1)
    if not isinstance(fixed, dict) or not isinstance(grid, dict):
        raise UsageError(f"{path}: fixed and grid map parameter names to values.")
    if not isinstance(sets, list) or not all(isinstance(each, dict) for each in sets):
        raise UsageError(f"{path}: cells is a list of parameter names with values.")
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise UsageError(f"{path}: workers must be a whole number from 1, not {workers!r}.")
    empty = [name for name, values in grid.items() if not isinstance(values, list) or not values]
    if empty:
        raise UsageError(f"{path}: grid.{empty[0]} must be a list with at least one value.")
    cells = tuple(
        {**fixed, **each, **dict(zip(grid, values, strict=True))}
        for each in sets
        for values in itertools.product(*grid.values())
    )
    notebook = (path.parent / str(content["notebook"])).resolve()
    for cell in cells:
        checked(notebook, {**cell, OUT: ""})
    return Sweep(notebook, cells, workers)


def run_sweep(
    sweep: Sweep, out: Path, progress: Progress = lambda *_: None, *, fresh: bool = False
) -> tuple[CellRun, ...]:
    """Run every cell that ``out`` does not hold yet, and append the new rows to its row files.

    fresh: measure all again. Returns the cells in the grid's order, failed ones included. An interrupt
    (KeyboardInterrupt) ends the running cells and passes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    ended: dict[int, CellRun] = {}
    todo: list[tuple[int, _Paths]] = []
    for i, cell in enumerate(sweep.cells):
        paths = _Paths.of(sweep.notebook, cell, out)
        kept = () if fresh else _rows_in(paths.rows)
        if kept:
            ended[i] = CellRun(paths.name, cell, Status.KEPT, 0.0, paths.executed, kept)
            row_files.append_missing(out, kept)  # an interrupt may have come before they were
            progress(ended[i], len(ended), len(sweep.cells))
        else:
            todo.append((i, paths))
    with contextlib.closing(_run_all(sweep, todo)) as running:
        for i, run in running:
            ended[i] = run
            row_files.append(out, run.rows)
            progress(run, len(ended), len(sweep.cells))
    return tuple(ended[i] for i in range(len(sweep.cells)))


@dataclass(frozen=True, slots=True)
class _Paths:
    """The files of one cell: its rows, its executed notebook, its process's words."""

    name: str
    rows: Path
    executed: Path
    log: Path

    @classmethod
    def of(cls, notebook: Path, cell: Mapping[str, Any], out: Path) -> _Paths:
        name = " ".join(str(v) for v in cell.values() if isinstance(v, str)) or notebook.stem
        identity = [notebook.read_text(encoding="utf-8"), environment.commit(), sorted(cell.items())]
        digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=5).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{notebook.stem} {name}")[:80] + f"-{digest}"
        folder = out.resolve() / "cells"
        return cls(name, folder / f"{stem}.jsonl", folder / f"{stem}.ipynb", folder / f"{stem}.log")


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    paths: _Paths
    began: float = field(default_factory=time.perf_counter)


def _run_all(sweep: Sweep, todo: Sequence[tuple[int, _Paths]]) -> Generator[tuple[int, CellRun], None, None]:
    """Cells as they end, at most ``workers`` running. However it is left, no process of it stays."""
    waiting, running = list(todo), dict[int, _Running]()
    try:
        while waiting or running:
            while waiting and len(running) < sweep.workers:
                i, paths = waiting.pop(0)
                running[i] = _Running(_spawn(sweep.notebook, sweep.cells[i], paths), paths)
            for i in [i for i, r in running.items() if r.process.poll() is not None]:
                yield i, _outcome(sweep.cells[i], running.pop(i))
            time.sleep(_POLL_S)
    finally:
        for left in running.values():
            _end(left.process)


def _spawn(notebook: Path, cell: Mapping[str, Any], paths: _Paths) -> subprocess.Popen[bytes]:
    """A fresh interpreter for one cell, in a session of its own: a terminal's Ctrl-C is ours to handle."""
    paths.rows.parent.mkdir(parents=True, exist_ok=True)
    paths.rows.unlink(missing_ok=True)
    asked = {
        "notebook": str(notebook), "executed": str(paths.executed),
        "parameters": {**cell, OUT: str(paths.rows)},
    }  # fmt: skip
    with paths.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "accel.experiments.notebook"], stdin=subprocess.PIPE, stdout=log,
            stderr=log, cwd=paths.rows.parent, start_new_session=True,
            env={**os.environ, "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(asked).encode())
    return process


def _outcome(cell: Mapping[str, Any], ran: _Running) -> CellRun:
    paths, seconds = ran.paths, time.perf_counter() - ran.began
    if ran.process.returncode:
        said = paths.log.read_text(errors="replace").strip().splitlines()
        error = said[-1] if said else f"its process ended with status {ran.process.returncode}"
        return CellRun(paths.name, cell, Status.FAILED, seconds, paths.executed, error=error)
    if found := _rows_in(paths.rows):
        return CellRun(paths.name, cell, Status.DONE, seconds, paths.executed, found)
    return CellRun(paths.name, cell, Status.FAILED, seconds, paths.executed, error="it wrote no rows")


def _rows_in(path: Path) -> tuple[Row, ...]:
    """The rows of a cell's file, or none unless every line of it is one."""
    try:
        read = row_files.read(path)
    except UsageError:
        return ()
    return () if read.problems else read.rows


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a cell's process and its notebook kernel."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.Error:
        family = []
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()
