"""Sweep, then report. Guarantee: what comes back names every file made and every cell that failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accel.core.errors import AccelError
from accel.experiments.breakeven import Assumptions
from accel.experiments.notebook import notebooks_folder
from accel.experiments.report import write_report
from accel.experiments.sweep import CellRun, Progress, Status, load_sweep, run_sweep


@dataclass(frozen=True, slots=True)
class Measured:
    """paths: the report, its pictures, the executed notebooks. table: for a terminal, 80 columns.

    cells: every run of the sweep. problems: one line for each failed cell and each row left out.
    """

    paths: tuple[Path, ...]
    table: str
    cells: tuple[CellRun, ...]
    problems: tuple[str, ...]


def run_measure(
    out_folder: Path, quick: bool = True, progress: Progress = lambda *_: None, *, fresh: bool = False,
    sweep_file: Path | None = None, assumed: Assumptions = Assumptions(),  # noqa: B008 - frozen
) -> Measured:  # fmt: skip
    """Measure this machine and tell: the quick or the full sweep of ``notebooks/sweeps``, or ``sweep_file``.

    Cells that ``out_folder`` holds already are not run again, unless ``fresh``. progress is called as each
    cell ends. Raises AccelError when every cell failed, UsageError for a bad sweep; KeyboardInterrupt
    passes after the running cell was ended, and what was measured stays.
    """
    file = sweep_file or notebooks_folder() / "sweeps" / ("quick.yaml" if quick else "full.yaml")
    cells = run_sweep(load_sweep(file), out_folder, progress, fresh=fresh)
    failed = [f"{c.name}: {c.error}" for c in cells if c.status is Status.FAILED]
    if len(failed) == len(cells):
        raise AccelError(f"nothing could be measured: {failed[0]}")
    report = write_report(out_folder, assumed)
    executed = tuple(c.executed for c in cells if c.executed.exists())
    return Measured((*report.paths, *executed), report.table, cells, (*failed, *report.problems))
