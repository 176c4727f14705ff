"""``accel precompute``. Guarantee: what is shown as done is on disk, and the same command goes on from it.

Progress goes to stderr: a bar with the passages done and the time left, and a line for what happens to each
shard. An interrupt ends with one line; jobs that run elsewhere run on, and are found by the next call.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from accel import contract, environment
from accel.cli import terminal
from accel.cli.pushing import SANDBOX_PATIENCE, open_pushing
from accel.core.attempt import Outcome
from accel.core.money import dollars
from accel.index.store import HybridIndex
from accel.precompute import Plan, Precomputed, Shard, Told
from accel.precompute.results import cost_of
from accel.session import Batch, Hooks

SANDBOX_PAUSE_S = 2.0


def run_precompute(
    corpus: Path | None, *, named: tuple[str, ...], sandbox: bool, urls: Sequence[str], full: bool,
    shard: int, keep_hours: float | None, public: bool, as_json: bool,
) -> None:  # fmt: skip
    """Precompute a corpus, and show what was done where. corpus: None is the docstrings."""
    home, rehearsal = environment.workdir(), sandbox or bool(urls)
    clouds = tuple(n for n in named if n != "local")
    # named ones are started only; nobody is preferred, because the shards are dealt out here
    wanted = clouds if named else ()
    with _progress() as tell, terminal.progress("reading") as reading:
        batch = Batch(
            named, shard, None if keep_hours is None else keep_hours * 3600,
            private=corpus is not None and not public, planned=_show_plan, tell=tell,
        )  # fmt: skip
        if rehearsal:
            batch = _in_sandbox(batch)
        with open_pushing(wanted, sandbox=sandbox, urls=urls, home=home, prefer=False) as session:
            index, done = session.precompute(
                corpus, home=home, full=full, hooks=Hooks(reading, remark=terminal.say), batch=batch
            )
            realm = session.accelerator.realm.value
    if as_json:
        terminal.print_json(_summary(index, done, realm))
    else:
        _show(index, done, realm, corpus, full)


def _in_sandbox(batch: Batch) -> Batch:
    from dataclasses import replace

    return replace(batch, lifetime_s=SANDBOX_PATIENCE.lifetime_s, pause_s=SANDBOX_PAUSE_S)


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Told of ``Told``: the bar, and a remark for each thing that happened."""
    shown = terminal.console(stderr=True).is_terminal  # elsewhere the lines say as much
    with terminal.progress("embedding") as bar:

        def tell(told: Told) -> None:
            if shown:
                bar(told.done, told.total)
            if told.line:
                ends = told.left_s is None or told.done == told.total
                left = "" if ends else f", {_span(told.left_s or 0.0)} left"
                cost = f", {dollars(told.cost.amount)}" if told.cost.amount else ""
                terminal.say(f"{told.line}  [{told.done:,} of {told.total:,}{left}{cost}]")

        yield tell


def _show_plan(plan: Plan, shards: tuple[Shard, ...]) -> None:
    passages = sum(s.count for s in shards)
    most = max(s.count for s in shards)
    terminal.say(f"{passages:,} passages in {_count(len(shards))} of at most {most:,}:")
    for place in plan.places:
        at_once = f", {place.sessions} at a time" if place.sessions > 1 else ""
        each = f", about {_span(place.each_s)} a shard" if place.each_s else ""
        terminal.say(f"  {place.name}: {place.why}{at_once}{each}")
    for refused in plan.left_out:
        if refused.reason != "not named":
            terminal.say(f"  not {refused.provider}: {refused.reason}")


def _count(shards: int) -> str:
    return f"{shards} shard{'' if shards == 1 else 's'}"


def _span(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary(index: HybridIndex, done: Precomputed | None, realm: str) -> dict[str, Any]:
    """The stable contract of ``accel precompute --json``. again: made by an earlier call."""
    return {
        "realm": realm, "index": index.id, "folder": str(index.folder), "passages": len(index),
        "vectors_sha256": vectors_sha256(index), "was_there": done is None,
        "seconds": done.seconds if done else 0.0, "devices": list(done.devices) if done else [],
        "cost_nano_usd": done.cost.amount if done else 0,
        "cost_basis": done.cost.basis.value if done else "estimated",
        "given_up": dict(done.left) if done else {},
        "shards": [
            {"shard": m.shard.number, "passages": m.shard.count, "hash": m.shard.hash, "job": m.job_id,
             "where": m.where, "device": m.device, "again": m.again, "lowest_cosine": m.cosine,
             "attempts": [
                 {"provider": a.provider, "outcome": a.outcome.value, "error": a.error, "detail": a.detail,
                  "timing": contract.timing_json(a.timing), "cost_nano_usd": a.cost.amount,
                  "cost_basis": a.cost.basis.value}
                 for a in m.attempts
             ]}
            for m in (done.made if done else ())
        ],
    }  # fmt: skip


def vectors_sha256(index: HybridIndex) -> str:
    """Of the vectors alone, float32, row by row: equal for equal bits."""
    return hashlib.sha256(np.ascontiguousarray(index.vectors).tobytes()).hexdigest()


def _show(
    index: HybridIndex, done: Precomputed | None, realm: str, corpus: Path | None, full: bool
) -> None:
    out = terminal.console()
    if done is None:
        out.print(f"the index of these {len(index):,} passages is there already · realm {realm}")
    else:
        out.print(Text(
            f"{len(index):,} passages, {_count(len(done.made))} in {_span(done.seconds)} · {done.cost} · "
            f"realm {realm}", style="bold",
        ))  # fmt: skip
        out.print(_table(done))
        if len(done.devices) > 1:
            unlike = "on unlike devices fp32 agrees to about 1e-6, not bit for bit"
            out.print(f"made on {', '.join(done.devices)}: {unlike}.")
        for name, why in done.left.items():
            out.print(Text(f"given up: {name}: {why}", style="yellow"))
    out.print(f"index {index.id[:12]}, vectors sha256 {vectors_sha256(index)[:12]}, in:")
    out.print(Text(f"  {index.folder}", style="cyan"), soft_wrap=True)
    option = ("" if corpus is None else f" --corpus {corpus}") + (" --full" if full else "")
    out.print(Text(f'ask it: accel query{option} "…"'), soft_wrap=True)


def _table(done: Precomputed) -> Table:
    """By place: shards, passages, seconds, what it cost, what failed there."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("where", "device"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=24)
    for name in ("shards", "passages", "wait", "compute", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("failed there", ratio=1, overflow="fold", style="yellow")
    failed: dict[str, Counter[str]] = defaultdict(Counter)
    for m in done.made:
        for a in m.attempts:
            if a.outcome is not Outcome.OK:
                failed[a.provider][a.error or a.outcome.value] += 1
    for place in sorted({m.where for m in done.made} | set(failed)):
        mine = [m for m in done.made if m.where == place]
        tries = [a for m in done.made for a in m.attempts if a.provider == place]
        told = ", ".join(f"{n}× {error}" for error, n in failed[place].items())
        table.add_row(
            place, ", ".join(sorted({m.device for m in mine})), str(len(mine)),
            f"{sum(m.shard.count for m in mine):,}",
            _span(sum(a.timing.wait_s + a.timing.cold_s + a.timing.transfer_s for a in tries)),
            _span(sum(a.timing.compute_s for a in tries)), dollars(cost_of(tries).amount), told,
        )  # fmt: skip
    return table
