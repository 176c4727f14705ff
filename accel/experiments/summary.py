"""The README's table. Guarantee: every figure in it comes from committed rows; a test fails when they part.

``python -m accel.experiments.summary`` writes it between the README's two marks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accel.core.errors import AccelError, UsageError
from accel.core.offer import Realm
from accel.experiments import breakeven, rows, tables
from accel.experiments.breakeven import Assumptions, Curve, Start

BEGIN, END = "<!-- measured:begin -->\n", "<!-- measured:end -->"
GPU = "T4"  # the one that is to be had for nothing
_SIZES = {"embed": (1, 64), "search": (100_000, 1_000_000), "rerank": (20,)}
_WHAT = {
    "embed": "embed {} passages", "search": "search {} vectors", "rerank": "rerank {} passages",
}  # fmt: skip


def readme_table(folder: Path) -> str:
    """Markdown: what this machine takes, and from what size on a remote T4 would be faster.

    folder: a results folder with real rows. Raises UsageError when it has no curve.
    """
    found = rows.read_folder(folder).rows
    curves = breakeven.curves(rows.latest(found))
    if not curves:
        raise UsageError(f"{folder} holds no measured curve.")
    lines = [
        f"| stage | this machine (measured) | a warm {GPU} would win from | a cold one |",
        "|---|---|---|---|",
    ]
    for curve in curves:
        stage = curve.load.stage.value
        took = "<br>".join(
            f"{_WHAT[stage].format(f'{size:,}')}: **{tables.amount(curve.at(size), 's')}**".replace(
                "1 passages", "1 passage"
            )
            for size in _SIZES[stage]
            if curve.sizes[0] <= size <= curve.sizes[-1]
        )
        lines.append(f"| {stage} | {took} | {_from(curve, Start.WARM)} | {_from(curve, Start.COLD)} |")
    group = tables.groups(found)[0]
    n = min(r.n for r in found)
    assumed = Assumptions()
    return "\n".join(
        [
            *lines, "",
            f"Medians of n = {n}, warm, fp32, fastest engine at each size. {group.provenance}. The right "
            f"half is an estimate (realm simulated: nothing of it ran) from the {GPU}'s data sheet with "
            f"{assumed.round_trip_s * 1e3:.0f} ms round trip, {assumed.overhead_s * 1e3:.0f} ms overhead, "
            f"{assumed.bytes_per_s * 8 / 1e6:.0f} Mbit/s and {assumed.cold_s:.0f} s cold start, all assumed; "
            f"[every assumption, GPU and size]({folder.as_posix()}/report.md).", "",
            f"![From what size on would a remote GPU beat this machine?]({folder.as_posix()}/break-even.png)",
            "",
        ]
    )  # fmt: skip


def write_readme(readme: Path, folder: Path) -> None:
    """Put the table of ``folder`` between the marks of ``readme``."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(f"{readme} has not one pair of marks for its table.")
    head, rest = text.split(BEGIN)
    readme.write_text(head + BEGIN + readme_table(folder) + END + rest.split(END)[1], encoding="utf-8")


def newest(committed: Path = Path("results/committed")) -> Path:
    """The committed run of real figures whose name, which begins with its date, comes last."""
    runs = sorted(p for p in committed.glob("*") if rows.rows_path(p, Realm.REAL).exists())
    if not runs:
        raise UsageError(f"{committed} holds no run.")
    return runs[-1]


def _from(curve: Curve, start: Start) -> str:
    told = breakeven.verdict(curve, GPU, start, Assumptions())
    if told.at is None:
        return "never"
    extended = " (extended)" if told.extended else ""
    return f"{breakeven.number(told.at)} {curve.load.axis.split(',')[0]}{extended}"


def main() -> int:
    """Write the README of the current folder."""
    try:
        write_readme(Path("README.md"), newest())
    except AccelError as failure:
        sys.stderr.write(f"accel: {failure}\n")
        return failure.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
