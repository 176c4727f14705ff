"""Rows as tables. Guarantee: every table says device, versions, commit, date, n, warmth, baseline, realm.

Rows are grouped by how they were made; two realms, machines or sets of versions never share a table. A
speed-up is quoted only for a real row, and only against the fastest rival of the same run.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from accel.core.offer import Realm
from accel.core.row import Row

WIDTH = 80
_SIZES = ("batch", "vectors", "depth", "texts")
_OWN = "accel"
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that were made alike: one realm, one device, one set of versions."""

    realm: Realm
    rows: tuple[Row, ...]

    @property
    def provenance(self) -> str:
        """How they were made, in one line: every commit, and the instants of the first and the last."""
        env = self.rows[0].env
        versions = ", ".join(f"{name} {version}" for name, version in sorted(env.packages.items()))
        driver = f", driver {env.driver}" if env.driver != "none" else ""
        commits = ", ".join(sorted({r.env.commit for r in self.rows}))
        first, last = (f(r.env.measured_at for r in self.rows) for f in (min, max))
        loads = [r.env.load for r in self.rows if r.env.load is not None]
        busy = f", load average {max(loads):.1f} at most" if loads else ""
        until = f" to {last:%Y-%m-%d %H:%M}" if last - first >= _MINUTE else ""
        return (
            f"realm {self.realm}: {_realm_says(self.realm)}; {env.device}, {env.cores} cores{busy}{driver}; "
            f"{env.os}, python {env.python}, {versions}; commit {commits}; "
            f"measured {first:%Y-%m-%d %H:%M}{until} UTC"
        )


def groups(rows: Sequence[Row]) -> tuple[Group, ...]:
    """``rows`` apart by how they were made, in the order of first appearance."""
    found: dict[object, list[Row]] = {}
    for row in rows:
        found.setdefault((machine_of(row), row.env.device, row.env.driver), []).append(row)
    return tuple(Group(g[0].realm, tuple(g)) for g in found.values())


def machine_of(row: Row) -> tuple[object, ...]:
    """Realm, system and versions: what the processor and the GPU of one machine have in common."""
    env = row.env
    return (row.realm, env.os, env.cores, env.python, tuple(sorted(env.packages.items())))


def strongest_rival(row: Row, rows: Sequence[Row]) -> Row | None:
    """The fastest row of another engine on the same work in the same run; None where there is none."""
    rivals = [
        r for r in rows
        if r.metric == row.metric and r.realm is row.realm and r.env == row.env
        and r.cell.get("what") == row.cell.get("what") and size_of(r) == size_of(row)
        and r.cell.get("engine") != row.cell.get("engine")
    ]  # fmt: skip
    return min(rivals, key=lambda r: r.median, default=None)


def speedup(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times faster our engine's row is than its strongest rival in the same run.

    None for a rival's own row, where nothing was measured beside it, and for any realm but ``real``: what
    a sandbox measures is this machine under another name.
    """
    if row.realm is not Realm.REAL or row.unit != "s" or row.cell.get("engine") != _OWN:
        return None
    rival = strongest_rival(row, rows)
    return rival.median / row.median if rival else None


def table(rows: Sequence[Row]) -> str:
    """``rows`` for a terminal, at most 80 columns wide; of several rivals only the fastest is shown."""
    blocks = []
    for group in groups(rows):
        lines = [
            *textwrap.wrap(group.provenance, WIDTH), "",
            f"{'what':<7}{'engine':<22}{'size':>10}{'median':>11}{'fastest–slowest':>19}{'n':>4}{'×':>7}",
        ]  # fmt: skip
        for row in best_engines(group.rows):
            faster = speedup(row, group.rows)
            lines.append(
                f"{row.cell.get('what', '?')!s:<7.6}{row.cell.get('engine', '?')!s:<22.21}"
                f"{_count(size_of(row)):>10}{amount(row.median, row.unit):>11}{_spread(row):>19}{row.n:>4}"
                f"{f'{faster:.2f}' if faster else '':>7}"
            )
        lines += ["", *textwrap.wrap(_legend(group), WIDTH)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def markdown(rows: Sequence[Row]) -> str:
    """``rows`` as Markdown: one table a group, every row of it, under the line that says how it was made."""
    blocks = []
    for group in groups(rows):
        lines = [
            f"**{group.provenance}**", "",
            "| what | engine | size | tokens/text | median | fastest–slowest | texts/s | n | start | × "
            "| baseline |",
            "|---|---|---:|---:|---:|---:|---:|---:|---|---:|---|",
        ]  # fmt: skip
        for row in group.rows:
            faster = speedup(row, group.rows)
            rate = f"{size_of(row) / row.median:,.0f}" if row.unit == "s" and "batch" in row.cell else ""
            cut = f" (batch_size={row.cell['batch_size']})" if "batch_size" in row.cell else ""
            lines.append(
                f"| {row.cell.get('what', '?')} | {row.cell.get('engine', '?')}{cut} | {size_of(row):,} "
                f"| {row.cell.get('tokens_per_text', '')} | {amount(row.median, row.unit)} "
                f"| {_spread(row)} | {rate} | {row.n} | {'warm' if row.warm else 'cold'} "
                f"| {f'{faster:.2f}' if faster else ''} | {row.baseline} |"
            )
        lines += ["", _legend(group)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def size_of(row: Row) -> int:
    """What a row's point is counted by: its batch, vectors, depth or texts."""
    return next((int(row.cell[name]) for name in _SIZES if name in row.cell), row.n)


def amount(value: float, unit: str) -> str:
    """A figure with three significant digits: seconds in a fitting unit, anything else as it is."""
    if unit != "s":
        return f"{value:.6f}"
    for name, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            digits = max(0, 2 - len(str(int(value / scale))) + 1)
            return f"{value / scale:.{digits}f} {name}"
    return f"{value * 1e9:.0f} ns"


def best_engines(rows: Sequence[Row]) -> tuple[Row, ...]:
    """``rows`` without the slower settings of one engine on the same work in the same run."""
    best: dict[object, Row] = {}
    for row in rows:
        key = (row.realm, row.env.measured_at, row.metric, row.cell.get("what"), row.cell.get("engine"),
               row.cell.get("provider"), size_of(row))  # fmt: skip
        if key not in best or row.median < best[key].median:
            best[key] = row
    return tuple(best.values())


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**8 else f"{n:.2e}"


def _spread(row: Row) -> str:
    low, high = amount(min(row.samples), row.unit), amount(max(row.samples), row.unit)
    return low if low == high else f"{low}–{high}".replace(" ", "")


def _legend(group: Group) -> str:
    warm = {r.warm for r in group.rows}
    how = "warm" if warm == {True} else "cold" if warm == {False} else "warm and cold, as marked"
    if group.realm is not Realm.REAL:
        return f"{how}; no speed-up is quoted from the {group.realm} realm."
    return (
        f"{how}, median of n; size: batch (embed), vectors (search), depth (rerank). "
        "×: times faster than sentence-transformers' encode at its fastest batch_size, same texts, same run."
    )


def _realm_says(realm: Realm) -> str:
    return {
        Realm.REAL: "measured on the machine named",
        Realm.SANDBOX: "run on this machine behind a loopback copy of the provider",
        Realm.SIMULATED: "nothing ran",
    }[realm]
