"""What the command line shows. Guarantee: fits 80 columns, says the realm, and puts data on stdout only.

Progress and remarks go to stderr, so that ``accel … --json`` can be piped. Pure rendering: nothing here
computes anything but text.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from accel.contract import SCHEMA
from accel.core.attempt import Route, Scored
from accel.core.money import dollars
from accel.hybrid_gpu_processor import Answer

WIDE = 100


def console(*, stderr: bool = False) -> Console:
    """A console no wider than ``WIDE``; 80 columns where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = min(Console(stderr=stderr).width, WIDE) if stream.isatty() else _columns()
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def _columns() -> int:
    try:
        return max(40, min(int(os.environ.get("COLUMNS", "80")), WIDE))
    except ValueError:
        return 80


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout. ``schema`` 1 keeps every field it has; fields may be added."""
    sys.stdout.write(json.dumps({"schema": SCHEMA, **value}, indent=2, default=str) + "\n")


def say(line: str) -> None:
    """A remark, on stderr."""
    console(stderr=True).print(Text(line, style="dim"))


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, told of (done, total). Where there is no terminal: a line for each quarter."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        told = -1

        def lines(done: int, total: int) -> None:
            nonlocal told
            quarter = 4 * done // total if total else 0
            if quarter > told:
                told = quarter
                screen.print(f"{label}: {done:,} of {total:,}" if total else f"{label} …")

        yield lines
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def show_answer(answer: Answer, number: str = "") -> None:
    """The answer, its sources, and per stage where, why, what it took and what it cost."""
    out = console()
    out.print(Text(number, style="dim").append(answer.question, style="bold"))
    out.print(Text(answer.text))
    for remark in (f"Written by {answer.written_by}." if answer.written_by else "", answer.note):
        if remark:
            out.print(Text(remark, style="yellow"))
    for citation in answer.citations:
        source = Text(f"  [{citation.number}] {citation.name}", style="cyan")
        out.print(source.append(f"  {citation.source}", style="dim"))
    out.print(stage_table(answer))
    # what came whole from the cache was not routed: there is nothing to explain
    ident = f" · id {answer.id}" if any(s.decision_id for s in answer.stages) else ""
    told = f"{answer.complexity} ({answer.judged}) · {ms(answer.seconds)} in all · {answer.cost}"
    out.print(Text(f"{told} · {answer.realm}{ident}", style="dim"))


def stage_table(answer: Answer) -> Table:
    """One row per stage. Milliseconds are split into wait and cold start, transfer, compute."""
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False, padding=(0, 1, 0, 0))
    for name in ("stage", "where"):
        table.add_column(name, no_wrap=True)
    for name in ("wait+cold", "transfer", "compute", "cost", "cache"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why there", ratio=1, overflow="fold", style="dim")
    for s in answer.stages:
        t = s.timing
        table.add_row(
            s.stage, s.where, ms(t.wait_s + t.cold_s), ms(t.transfer_s), ms(t.compute_s),
            dollars(s.cost.amount), "hit" if s.hits == s.items else f"{s.hits}/{s.items}", s.why,
        )  # fmt: skip
    return table


def show_route(
    route: Route, title: str, told: set[str] | None = None, *, terms: bool = False
) -> None:
    """Every offer that was considered, with its score, and every refusal with its reason.

    told: reasons shown before, which are not repeated; this route's are added to it. terms: with what the
    score is made of.
    """
    known = set() if told is None else told
    out = console()
    out.print(Text(f"{title} · policy {route.policy}", style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in ("provider", "gpu"):
        table.add_column(name, no_wrap=True)
    for name in ("expected", "cost", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", ratio=1, overflow="fold")
    for place, s in enumerate(route.ranked):
        gpu = f"{s.offer.gpu.count}×{s.offer.gpu.name}"
        table.add_row(
            "→" if place == 0 else "", s.offer.provider, gpu, ms(s.estimate.timing.total_s),
            str(s.estimate.cost), f"${s.score:.6f}", _why(s, terms),
        )  # fmt: skip
    for r in route.refused:
        reason = "as above" if r.reason in known else r.reason
        known.add(r.reason)
        table.add_row("✗", r.provider, "", "", "", "", Text(reason, style="dim"))
    out.print(table)


def _why(scored: Scored, terms: bool) -> Text:
    why = Text(scored.why)
    if terms:
        parts = " ".join(f"{name} {value:+.6f}" for name, value in scored.terms)
        why.append(f" = {parts}", style="dim")
    return why


def ms(seconds: float) -> str:
    """A duration for people: milliseconds below ten seconds."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.1f} ms" if seconds else "0"
    return f"{seconds * 1e3:.0f} ms" if seconds < 9.95 else f"{seconds:.1f} s"


def checks_table(rows: Sequence[tuple[str, bool | None, str]]) -> Table:
    """``doctor``'s findings: what, fine or not (None: neither), and what to know or do."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    mark = {True: Text("ok", style="green"), False: Text("!!", style="yellow"), None: Text("--")}
    for what, fine, remark in rows:
        table.add_row(mark[fine], Text(what), Text(remark))  # brackets in them are no markup
    return table
