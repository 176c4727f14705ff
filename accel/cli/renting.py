"""``accel leases | cost | reap``. Guarantee: looking changes nothing; only ``reap --yes`` ends anything.

What is shown of money says if it was billed, estimated, or is what the rate says so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import typer
from rich.table import Table
from rich.text import Text

from accel import contract
from accel.cli import terminal
from accel.cli.inspecting import existing_ledger
from accel.cli.monitoring import parse_since
from accel.cli.pushing import open_pushing
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.fleet.reap import Finding
from accel.ledger import Period, costs, leases
from accel.ledger.costs import LeaseCost
from accel.ledger.database import instant
from accel.ledger.leases import Purpose, Rented
from accel.ledger.limits import span
from accel.monitoring.facts import read
from accel.monitoring.report import report
from accel.monitoring.spend import METHOD, Spend

UNCONFIRMED_CODE = 1


def show_leases(*, sandbox: bool, everything: bool, as_json: bool) -> None:
    """What is rented now, or may still run; with ``everything`` also what was."""
    realm, now = _realm(sandbox), Runtime.production().now()
    ledger = existing_ledger(realm)
    rows: list[tuple[Rented, LeaseCost | None]] = []
    if ledger is not None:
        money = {c.rented.id: c for c in costs.leased(ledger, now=now)}
        found = leases.everything(ledger) if everything else leases.unconfirmed(ledger)
        rows = [(r, money.get(r.id)) for r in found if everything or r.may_run(now)]
        ledger.close()
    if as_json:
        listed = [contract.lease_json(r, money, now) for r, money in rows]
        terminal.print_json({"realm": realm.value, "leases": listed})
        return
    out = terminal.console()
    if not rows:
        out.print(f"nothing is rented in the {realm} realm, as far as its ledger knows.")
        return
    what = "in all" if everything else "rented now"
    out.print(Text(f"{len(rows)} {what} · realm {realm}", style="bold"))
    out.print(_lease_table(rows, now))
    if any(r.state == "abandoned" for r, _ in rows):
        out.print(Text("What may still run is asked for, and ended, by: accel reap --yes", style="yellow"))


def _lease_table(rows: Sequence[tuple[Rented, LeaseCost | None]], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("provider", "gpu", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("age", "rate", "so far", "ends by (UTC)"):
        table.add_column(name, justify="right", no_wrap=True)
    for rented, money in rows:
        offer = rented.intent.offer
        rate = "free" if offer.rate.free else f"{dollars(offer.rate.nano_per_hour)}/h"
        table.add_row(
            rented.provider, f"{offer.gpu.count}×{offer.gpu.name}", contract.lease_state(rented, now),
            _age((now - rented.made_at).total_seconds()), rate,
            dollars(money.charge) if money else "–", f"{rented.ends_by:%m-%d %H:%M}",
        )  # fmt: skip
    lines = Table.grid(padding=0)
    lines.add_row(table)
    for rented, money in rows:
        price = rented.intent.offer.rate
        days = (now.date() - price.as_of).days
        told = f"{rented.intent.name}: {rented.purpose}"
        if not price.free:
            told += f"; price of {price.as_of} ({days} {'day' if days == 1 else 'days'} old), {price.source}"
        if money and money.basis != "so far":
            told += f"; {money.basis}"
        if rented.note:
            told += f"; {rented.note}"
        lines.add_row(Text(told, style="dim"))
    return lines


def show_cost(since: str, *, sandbox: bool, as_json: bool) -> None:
    """What was spent, is held, and would have been: of this month, or of ``since``."""
    realm, now = _realm(sandbox), Runtime.production().now()
    begin = now - parse_since(since) if since else span(Period.MONTH, now.date())[1]
    ledger = existing_ledger(realm)
    if ledger is None:
        if as_json:
            terminal.print_json({"realm": realm.value, "since": begin.isoformat(), "empty": True})
        else:
            terminal.console().print(f"nothing was spent in the {realm} realm: it has no ledger yet.")
        return
    at = instant(begin)
    lines, told, held = costs.lines(ledger, at), costs.told(ledger, at), costs.held(ledger)
    each = tuple(c for c in costs.leased(ledger, now=now) if c.rented.made_at >= begin or c.held)
    spend = report(read(ledger, begin, now, now)).spend
    avoided = costs.avoided(ledger, at)
    ledger.close()
    if as_json:
        terminal.print_json(
            {"realm": realm.value, "since": begin.isoformat(), "empty": False,
             **contract.cost_json(lines, told, held, avoided, each, spend)}
        )  # fmt: skip
        return
    out = terminal.console()
    out.print(Text(f"realm {realm} · since {begin:%Y-%m-%d %H:%M} UTC", style="bold"))
    billed, thought = sum(x.billed for x in lines), sum(x.by_estimate for x in lines)
    out.print(
        f"spent {dollars(NanoUSD(billed + thought))}: billed {dollars(NanoUSD(billed))}, "
        f"estimated {dollars(NanoUSD(thought))} · held {dollars(held)}"
    )
    if told.n:
        out.print(
            f"where both are known ({told.n}): estimated {dollars(told.estimated)}, "
            f"billed {dollars(told.billed)}"
        )
    if lines:
        out.print(_line_table(lines))
    if each:
        out.print(_shares_table(each))
    out.print(f"avoided {dollars(avoided)}: a paid offer's price for what was free or cached, estimated")
    _show_projection(spend)


def _line_table(lines: Sequence[costs.Line]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("provider", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    for name in ("billed", "estimated"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(line.provider, line.stage, dollars(line.billed), dollars(line.by_estimate))
    return table


def _shares_table(each: Sequence[LeaseCost]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("lease", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("charge", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("shares and idle time", ratio=1, overflow="fold")
    for cost in each[-20:]:
        parts = [f"{stage} {dollars(amount)}" for stage, amount in cost.shares]
        if cost.rented.purpose is Purpose.REPLICA or cost.idle:
            parts.append(f"idle {dollars(cost.idle)}")
        name = cost.rented.intent.name.removeprefix("accel-")
        table.add_row(f"{cost.rented.provider} {name}", dollars(cost.charge), cost.basis, ", ".join(parts))
    return table


def _show_projection(spend: Spend) -> None:
    month = next(p for p in spend.projections if p.period is Period.MONTH)
    if month.amount is not None and month.spent.n:
        beware = f"; beware: {month.warning}" if month.warning else ""
        terminal.console().print(
            f"at the month's end {dollars(month.amount)}, if it goes on like this ({METHOD}){beware}"
        )


def show_reap(*, yes: bool, others: bool, sandbox: bool, as_json: bool) -> None:
    """What nobody works with any more; with ``yes`` it is ended. Exit code 1 when something may still run."""
    with open_pushing(sandbox=sandbox, adopt=False) as session:
        found = session.reap(act=yes, others=others)
        realm = session.accelerator.realm
    todo = [f for f in found if f.action != "keep"]
    if as_json:
        terminal.print_json(
            {"realm": realm.value, "dry_run": not yes, "findings": [contract.finding_json(f) for f in found]}
        )
    else:
        _show_findings(found, realm)
        if not todo:
            terminal.console().print(f"nothing is to be ended in the {realm} realm.")
        elif not yes:
            option = " --sandbox" if sandbox else ""
            terminal.console().print(
                Text(f"nothing was done yet. To do it: accel reap --yes{option}", style="yellow")
            )
    if yes and any(not f.ended for f in todo):
        raise typer.Exit(UNCONFIRMED_CODE)


def _show_findings(found: Sequence[Finding], realm: Realm) -> None:
    out = terminal.console()
    out.print(Text(f"realm {realm}", style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("", ratio=1, overflow="fold")
    for f in found:
        verb = f.done.split(":")[0] or f.action
        line = Text(f"{f.provider} {f.name}".strip(), style="bold").append(f": {f.why}", style="")
        if f.done:
            line.append(f"; {f.done}")
        if f.charge is not None:
            line.append(f"; charged {dollars(f.charge)}")
        good = f.ended or f.action == "keep"
        table.add_row(Text(verb, style="dim" if f.action == "keep" else "green" if good else "yellow"), line)
    if found:
        out.print(table)


def _realm(sandbox: bool) -> Realm:
    return Realm.SANDBOX if sandbox else Realm.REAL


def _age(seconds: float) -> str:
    """A length of time for people: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
