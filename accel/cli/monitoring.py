"""``accel monitor``. Guarantee: looking changes nothing; only ``--alert`` writes, and only alerts.

Exit code 3 when a target is missed, so that cron and scripts can tell; 0 when all are met or have not
enough data yet.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from accel import config, contract, environment
from accel.cli import terminal
from accel.cli.inspecting import existing_ledger
from accel.core.errors import UsageError
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.ledger import alerts
from accel.monitoring import prometheus
from accel.monitoring.alerts import Delivered, deliver
from accel.monitoring.channels import Channel
from accel.monitoring.facts import Facts, read
from accel.monitoring.report import Report, Served, report
from accel.monitoring.spend import METHOD, Limit
from accel.monitoring.targets import Judged, Targets, Verdict, judge, raise_missed

MISSED_CODE = 3
LONGEST = timedelta(days=3660)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_MARK = {Verdict.MET: ("ok", "green"), Verdict.MISSED: ("!!", "yellow"), Verdict.UNKNOWN: ("--", "dim")}


def show_monitor(
    since: str, realm: str, *, as_json: bool, as_prometheus: bool, out: Path | None, alert: bool
) -> None:
    """Report on one realm, judge the targets; with ``alert`` write and deliver what is due."""
    if realm not in (Realm.REAL, Realm.SANDBOX):
        raise UsageError(f"there is no ledger of realm {realm!r}.", hint="There are: real, sandbox.")
    if out is not None and not as_prometheus:
        raise UsageError("--out is for --prometheus.")
    if as_json and as_prometheus:
        raise UsageError("--json and --prometheus exclude each other.")
    settings, runtime = config.load_settings(), Runtime.production()
    goals = settings.targets
    targets = Targets(
        goals.simple_s, goals.complex_s, goals.utilisation, goals.cost_per_query, goals.success
    )
    channel = Channel.of(settings.alerts.webhook, settings.alerts.command.get_secret_value())
    now, length = runtime.now(), parse_since(since)
    ledger = existing_ledger(Realm(realm))
    facts = Facts(Realm(realm), now - length, now, now)
    if ledger is not None:
        facts = read(ledger, facts.since, facts.until, now, ever=as_prometheus)
    found = report(facts, environment.gpu_load())
    judged = judge(found, targets)
    told = None
    if alert and ledger is not None:
        raise_missed(ledger, found, judged)
        told = asyncio.run(deliver(ledger, channel, runtime))
        found = replace(found, alerts=tuple(alerts.counts(ledger).items()))
    if ledger is not None:
        ledger.close()
    if as_prometheus and out is not None:
        prometheus.write(out, found, judged)
    elif as_prometheus:
        typer.echo(prometheus.exposition(found, judged), nl=False)
    elif as_json:
        terminal.print_json(contract.report_json(found, judged))
    else:
        _show(found, judged, since)
    if alert:
        terminal.say(_told(told or Delivered(), channel))
    if any(j.verdict is Verdict.MISSED for j in judged):
        raise typer.Exit(MISSED_CODE)


def parse_since(text: str) -> timedelta:
    """"30m", "24h", "7d", "4w" as a length of time. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text.strip().lower())
    length = int(match[1]) * _UNITS[match[2]] if match else timedelta(0)
    if not timedelta(0) < length <= LONGEST:
        raise UsageError(f"--since must be a length of time, not {text!r}.", hint="Such as 30m, 24h, 7d, 4w.")
    return length


def _show(found: Report, judged: Sequence[Judged], since: str) -> None:
    screen = terminal.console()
    title = f"realm {found.realm} · last {since}, until {found.until:%Y-%m-%d %H:%M} UTC"
    screen.print(Text(title, style="bold"))
    if found.empty:
        screen.print(f'Nothing ended in this time in the {found.realm} realm. To see some: accel demo')
    tables = (
        ("targets", _targets(judged)), ("requests; seconds of those that ended well", _served(found)),
        ("providers", _providers(found)), ("failed tries", _failures(found)), ("money", _money(found)),
        ("limits in force", _limits(found.spend.limits)), ("GPUs", _gpus(found)),
        ("batch jobs and alerts", _rest(found)),
    )  # fmt: skip
    for name, table in tables:
        if table.row_count:
            screen.print(Text(f"\n{name}", style="bold"))
            screen.print(table)
    if any(0 < s.seconds.n < 100 for s in (*found.questions, *found.stages)):
        note = "By nearest rank: of fewer than 20, p95, and of fewer than 100, p99 is the slowest."
        screen.print(Text(f"\n{note}", style="dim"))


def _grid(*columns: str, wide: int = -1) -> Table:
    """A table with the first column of text, the rest of figures, and column ``wide`` folding."""
    table = Table(
        box=None, pad_edge=False, header_style="dim", show_header=any(columns), padding=(0, 1, 0, 0)
    )
    for place, name in enumerate(columns):
        if place == wide % len(columns) and wide >= 0:
            table.add_column(name, ratio=1, overflow="fold")
        else:
            table.add_column(name, no_wrap=True, justify="left" if place == 0 else "right")
    return table


def _targets(judged: Iterable[Judged]) -> Table:
    table = _grid("", "", wide=1)
    for j in judged:
        mark, style = _MARK[j.verdict]
        table.add_row(Text(mark, style=style), j.words)
    return table


def _served(found: Report) -> Table:
    table = _grid("", "ended", "well", "p50", "p95", "p99", "cached", "tries")
    questions = [(f"questions, {s.name}", s) for s in found.questions if s.ended or s.cancelled]
    for name, s in (*questions, *((s.name, s) for s in found.stages)):
        seconds = (_s(v) for v in (s.seconds.p50, s.seconds.p95, s.seconds.p99))
        tries = f"{s.attempts:,}" if s in found.stages else ""  # a question's are those of its stages
        table.add_row(name, f"{s.ended:,}", _well(s), *seconds, _percent(s.hit_share), tries)
    return table


def _well(s: Served) -> str:
    return _part(s.ok, s.ended) + (f", {s.cancelled:,} given up" if s.cancelled else "")


def _providers(found: Report) -> Table:
    table = _grid("", "answered", "tries", "of them well", "seconds", "estimated", "billed")
    answered = sum(p.requests for p in found.providers)
    tries, seconds = sum(p.attempts for p in found.providers), sum(p.seconds for p in found.providers)
    for p in found.providers:
        took = f"{p.seconds:,.1f} ({p.seconds / seconds if seconds else 0:.0%})"
        table.add_row(
            p.provider, _part(p.requests, answered), _part(p.attempts, tries), f"{p.ok:,}", took,
            dollars(p.estimated), dollars(p.billed),
        )  # fmt: skip
    return table


def _failures(found: Report) -> Table:
    table = _grid("", "n", "class", wide=2)
    for f in found.failures:
        table.add_row(f.provider, f"{f.n:,}", f.error)
    return table


def _money(found: Report) -> Table:
    table, money = _grid("", "", "", wide=2), found.spend
    if money.settled.n:
        how = f"estimated {dollars(money.settled.estimated)}, billed {dollars(money.settled.billed)}"
        table.add_row("settled", dollars(money.settled.total), f"{money.settled.n:,} charges: {how}")
    if money.per_question is not None and money.per_thousand is not None:
        each, n = dollars(money.per_question), f"mean of {money.n:,}, estimated"
        table.add_row("per question", each, f"{n}; {dollars(money.per_thousand)} per thousand")
    if found.stages:
        table.add_row("avoided", dollars(money.avoided), "a paid offer's price for what was free or cached")
    paid = [p for p in money.projections if p.spent.n]
    for p in paid:
        so_far = f"{dollars(p.spent.total)} {p.spent.basis} of {p.spent.n:,} charges, {p.elapsed:.0%} over"
        table.add_row(
            f"{p.period}'s end", "–" if p.amount is None else dollars(p.amount),
            so_far + (f"; beware: {p.warning}" if p.warning else ""),
        )  # fmt: skip
    if paid:
        table.add_row("", "", Text(f"projected: {METHOD}", style="dim"))
    return table


def _limits(limits: Iterable[Limit]) -> Table:
    table = _grid("", "limit", "charged", "held", "used", "at its end", "beware", wide=6)
    for limit in limits:
        a = limit.account

        def show(amount: int | None, unit: str = a.unit) -> str:
            if amount is None:
                return "none"
            return dollars(NanoUSD(amount)) if unit == "nano_usd" else f"{amount / 3_600_000:.2f} GPU h"

        over = f"{show(a.over)} above what was reserved; " if a.over else ""
        table.add_row(
            f"{a.provider or 'all'}, {a.period or 'ever'}", show(a.wanted), show(a.used), show(a.held),
            _percent(limit.share), show(limit.projected) if limit.projected is not None else "",
            over + limit.warning,
        )  # fmt: skip
    return table


def _gpus(found: Report) -> Table:
    table = _grid("", "", "", wide=2)
    for g in found.gpus:
        busy = _percent(g.busy) if g.busy is not None else "not told"
        table.add_row("here, now", busy, f"{g.name}, by its driver: one moment, not the period")
    if not found.gpus:
        table.add_row("here, now", "–", "no GPU here")
    for name, used in found.leased:
        of = f"{used.computed_s:,.1f} of {used.leased_s:,.1f} s in {used.leases:,} charges computed"
        table.add_row(name, _percent(used.share), f"{of}, by the ledger")
    return table


def _rest(found: Report) -> Table:
    table = _grid("", "", "", wide=2)
    for step, n in found.jobs:
        table.add_row(f"jobs {step}", f"{n:,}", "")
    for state, n in found.alerts:
        table.add_row(f"alerts {state}", f"{n:,}", "")
    return table


def _told(d: Delivered, channel: Channel) -> str:
    if not channel.ways:
        return f"alerts: {d.waiting} waiting; {channel.shown}: set alerts.webhook or alerts.command"
    line = f"alerts: {d.sent} sent to {channel.shown}, {d.again} to be tried again, {d.lost} given up"
    return line + (f" ({d.why})" if d.why else "")


def _part(n: int, of: int) -> str:
    """A number and its share: "12 (40%)"."""
    return f"{n:,} ({n / of:.0%})" if of else f"{n:,}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else terminal.ms(seconds)
