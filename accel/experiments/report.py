"""A results folder told. Guarantee: it shows every row that can say how it was made, and names the rest.

Reads the row files of a folder and writes ``report.md`` beside them, with its pictures. Rows of different
realms, machines or versions stand in tables of their own; the break-even picture is drawn from the machine
that was measured last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.row import Row
from accel.experiments import breakeven, plots, tables
from accel.experiments import rows as row_files
from accel.experiments.breakeven import Assumptions, Curve
from accel.experiments.embed_benchmark import SECONDS

REPORT = "report.md"


@dataclass(frozen=True, slots=True)
class Report:
    """paths: ``report.md`` first, then its pictures. table: for a terminal. problems: lines left out."""

    paths: tuple[Path, ...]
    table: str
    problems: tuple[str, ...]


def write_report(folder: Path, assumed: Assumptions = Assumptions()) -> Report:  # noqa: B008 - frozen
    """Read the rows in ``folder`` and write its report. Raises UsageError when there are none."""
    read = row_files.read_folder(folder)
    rows = row_files.latest(read.rows)
    if not rows:
        raise UsageError(f"{folder}: its row files hold no row yet.")
    parts = ["# Measurements", "", tables.markdown(rows)]
    pictures: list[Path] = []
    for group in tables.groups(rows):
        if any(r.metric == SECONDS for r in group.rows):
            name = f"embedding-{group.realm}-{len(pictures) + 1}.png"
            pictures.append(plots.plot_embedding(group.rows, folder / name))
            parts += ["", f"![Embedding throughput by batch size, realm {group.realm}]({name})"]
    if found := breakeven.curves(_newest_machine(rows)):
        pictures.append(plots.plot_breakeven(found, assumed, folder / "break-even.png"))
        parts += ["", *_breakeven_text(found, assumed)]
    if read.problems:
        parts += ["", "## Left out", "", *(f"- {p}" for p in read.problems)]
    report = folder / REPORT
    part = report.with_name(REPORT + ".part")
    part.write_text("\n".join(parts) + "\n", encoding="utf-8")
    part.replace(report)
    return Report((report, *pictures), tables.table(rows), read.problems)


def _newest_machine(rows: Sequence[Row]) -> list[Row]:
    """The real rows of the machine that was measured last."""
    real = [r for r in rows if r.realm is Realm.REAL]
    newest = max(real, key=lambda r: r.env.measured_at, default=None)
    return [r for r in real if newest and tables.machine_of(r) == tables.machine_of(newest)]


def _breakeven_text(found: Sequence[Curve], assumed: Assumptions) -> list[str]:
    lines = [
        "## From what size on would a remote GPU win?", "",
        "![Break-even of this machine and remote GPUs](break-even.png)", "",
        "This machine's side is measured (realm real). The remote side is estimated and nothing of it ran "
        "(realm simulated). It assumes:", "",
        *(f"- {line}" for line in assumed.told()), "",
        "| stage | counts | GPU | start | verdict |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for curve in found:
        for told in breakeven.verdicts([curve], assumed):
            lines.append(
                f"| {curve.load.stage} | {curve.load.axis} | {told.gpu} | {told.start} | {told.why} |"
            )
    return lines
