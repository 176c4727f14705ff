"""The outage benchmark told. Guarantee: figures stand beside their rivals of the same run, and say how."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from accel import environment
from accel.core.offer import Realm
from accel.core.row import Provenance, Row, Scalar
from accel.experiments import rows as row_files
from accel.experiments import tables

if TYPE_CHECKING:
    from accel.experiments.outage import Bout

SECONDS = "seconds per request, primary dead"
AFTER_SECONDS = "seconds per request, primary well again"
OWN_SECONDS = "seconds per direct call to the fallback"
ATTEMPTS = "wire attempts at the dead primary"
ANSWERED = "requests answered, primary dead"
BACK = "seconds from the primary's return to its next answer"
REPORT = "report.md"
WIDTH = 80


def table(bouts: Sequence[Bout]) -> str:
    """One outage for a terminal, at most 80 columns wide."""
    lines = [
        *textwrap.wrap(_what(bouts[0]), WIDTH), "",
        f"{'contestant':<21}{'attempts':>9}{'median':>9}{'p95':>9}{'×fallback':>11}{'answered':>10}{'back':>9}",
    ]  # fmt: skip
    for bout in bouts:
        attempts, median, p95, ratio, answered, back = _cells(bout)
        lines.append(f"{bout.contestant:<21}{attempts:>9}{median:>9}{p95:>9}{ratio:>11}{answered:>10}{back:>9}")
    return "\n".join(lines)


def write(folder: Path, bouts: Sequence[Bout], now: datetime) -> tuple[Path, ...]:
    """Append the rows of ``bouts`` to ``folder``, and write its report of exactly these. now: UTC, the start.

    Raises UsageError when the folder cannot be written.
    """
    env = provenance(bouts, now)
    made = [row for bout in bouts for row in rows(bout, env)]
    paths = row_files.append(folder, made)
    report = folder / REPORT
    part = report.with_name(f"{REPORT}.part")
    part.write_text(markdown(bouts, env), encoding="utf-8")
    part.replace(report)
    return (*paths, report)


def provenance(bouts: Sequence[Bout], now: datetime) -> Provenance:
    """Of a whole run: this machine, and the versions that all contestants told."""
    versions = {name: version for bout in bouts for name, version in sorted(bout.versions.items())}
    env = environment.provenance(now)
    return replace(env, device=environment.cpu_name(), driver="none", packages=versions)


def rows(bout: Bout, env: Provenance) -> list[Row]:
    """One bout as rows of realm sandbox; the fallback's own latency, its baseline, among them."""
    plan, env = bout.plan, replace(env, load=bout.load)
    cell: dict[str, Scalar] = {
        "what": "outage", "engine": bout.contestant, "mode": bout.mode.value, "warm_up": plan.warm,
        "met": len(bout.met), "every_s": plan.every_s, "outage_s": plan.dead * plan.every_s,
        "patience_s": plan.patience_s,
    }  # fmt: skip
    own = f"{statistics.median(bout.own_s):.4f} s, median of {len(bout.own_s)} direct calls, same run"
    rivals = "the other engines of this run, same outage"
    found: list[tuple[str, str, tuple[float, ...], str]] = [
        (OWN_SECONDS, "s", bout.own_s, "none: it is the baseline"),
        (SECONDS, "s", bout.waits_s, f"the fallback's own: {own}"),
        (AFTER_SECONDS, "s", bout.after_s, f"the fallback's own: {own}"),
        (ATTEMPTS, "attempts", (float(bout.attempts),), rivals),
        (ANSWERED, "share", tuple(float(not a.error) for a in bout.met), rivals),
    ]
    if bout.back_s is not None:
        found.append((BACK, "s", (bout.back_s,), rivals))
    return [
        Row(cell, metric, unit, samples, baseline, bool(plan.warm), Realm.SANDBOX, env)
        for metric, unit, samples, baseline in found
    ]


def markdown(bouts: Sequence[Bout], env: Provenance) -> str:
    """The report: one table per outage, what its columns mean, and how it was made."""
    blocks = ["# An outage of the preferred server"]
    outages: dict[tuple[str, int], list[Bout]] = {}
    for bout in bouts:
        outages.setdefault((bout.mode.value, bout.plan.warm), []).append(bout)
    for (mode, warm), found in outages.items():
        lines = [
            f"## {mode}, {'warm' if warm else 'cold'}", "", _what(found[0]), "",
            "| contestant | wire attempts | median | p95 | × fallback | answered | back after |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        lines += [f"| {' | '.join((bout.contestant, *_cells(bout)))} |" for bout in found]
        blocks.append("\n".join(lines))
    blocks.append(_LEGEND)
    made = tables.groups([rows(bout, env)[0] for bout in bouts])[0].provenance
    blocks.append(f"**{made}**")
    return "\n\n".join(blocks) + "\n"


_LEGEND = """\
*Wire attempts*: requests that reached the dead primary, and connections that it refused. *Median* and *p95*
are over the requests sent while it was dead; one that got no answer counts as its caller's whole patience.
*× fallback*: that median over the median of direct calls to the fallback in the same run. *Back after*:
seconds from the primary's return to the first request that it answered; requests came every few seconds.

`accel` runs on its defaults. The set-ups of litellm's Router, each in `accel/experiments/outage_litellm.py`:
*fallbacks* (one group each, `fallbacks=[…]`), *order* (one group, `order` 1 and 2) and *shuffle* (one group)
keep every default; *issue 40405* is the remedy found there; *tuned* and *strict* know what is coming: a
timeout of 1 s, one try per server, cool-down after two failures or one."""


def _what(bout: Bout) -> str:
    plan = bout.plan
    how = {"refused": "refuses connections", "hang": "takes requests and never answers",
           "errors": "answers 503"}[bout.mode.value]  # fmt: skip
    warm = f"{plan.warm} warm-up requests" if plan.warm else "no warm-up"
    return (
        f"The primary {how} for {plan.dead * plan.every_s:g} s: {len(bout.met)} requests meet that, one "
        f"every {plan.every_s:g} s, after {warm}; callers wait {plan.patience_s:g} s; realm {Realm.SANDBOX}."
    )


def _cells(bout: Bout) -> tuple[str, str, str, str, str, str]:
    waits = sorted(bout.waits_s)
    p95 = waits[math.ceil(0.95 * len(waits)) - 1]
    back = "not seen" if bout.back_s is None else f"{bout.back_s:.0f} s"
    return (
        str(bout.attempts), tables.amount(statistics.median(waits), "s"), tables.amount(p95, "s"),
        f"{bout.ratio:.2f}", f"{bout.answered}/{len(bout.met)}", back,
    )  # fmt: skip
