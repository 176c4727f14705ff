"""``accel doctor``. Guarantee: looking changes nothing, and each finding names what mends it.

``--diagnose`` reads one ledger for the guide's three troubles, see ``monitoring.diagnose``.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import typer
from rich.text import Text

from accel import __version__, config, environment, keys
from accel.cli import terminal
from accel.cli.inspecting import existing_ledger
from accel.cli.monitoring import parse_since
from accel.cli.pushing import open_pushing
from accel.core.errors import AccelError, ModelError
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.fleet.roster import ADAPTERS
from accel.gpu_accelerator import limits
from accel.ledger import Ledger, alerts, jobs, leases
from accel.monitoring.diagnose import Trouble, diagnose, gather
from accel.precompute import is_shard
from accel.providers.accounts import ACCOUNTS, account

LEAST_GIB = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. fine: None where nothing is wrong and nothing is there. mend: one command or page."""

    what: str
    fine: bool | None
    remark: str
    mend: str = ""


def show_doctor(*, as_json: bool) -> None:
    """Every check with what to do about it. Exit code 1 when one that matters failed."""
    checks = [*_machine(), *_model(), *_providers(), *_left_behind()]
    if as_json:
        terminal.print_json({
            "checks": [{"what": c.what, "ok": c.fine, "remark": c.remark, "mend": c.mend} for c in checks]
        })  # fmt: skip
    else:
        rows = [(c.what, c.fine, f"{c.remark}\n→ {c.mend}" if c.mend else c.remark) for c in checks]
        terminal.console().print(terminal.checks_table(rows))
    if any(c.fine is False for c in checks):
        raise AccelError("something needs mending: see the lines marked !! above.")


def _machine() -> Iterator[Check]:
    card, home = environment.gpu(), environment.workdir()
    free = shutil.disk_usage(home).free >> 30
    gpu = f"{card.count}× {card.name}" if card.capability else "none: everything runs on the CPU"
    version = f"{__version__}, {environment.commit()}, Python {platform.python_version()}"
    yield Check("accel", True, version)
    here = f"{environment.platform()}: {environment.cores()} cores, {environment.cpu_name()}"
    yield Check("machine", True, here)
    yield Check("GPU", True if card.capability else None, gpu)
    enough = free >= LEAST_GIB
    mend = "" if enough else "set ACCEL_HOME to another disk"
    yield Check("home", enough, f"{home}: {free} GiB free", mend)
    path = config.settings_file()
    try:
        config.load_settings()
    except AccelError as bad:
        yield Check("settings", False, str(bad), f"edit {path}")
    else:
        yield Check("settings", True, f"{path}" if path.exists() else f"none yet ({path})")


def _model() -> Iterator[Check]:
    from accel.stages.embed import default_spec, load_encoder

    spec = default_spec()
    try:
        encoder = load_encoder(spec)
    except ModelError as bad:
        yield Check("model", False, bad.message, bad.hint)
    else:
        told = f"{spec.model}, {encoder.spec.numerics}, weights sha256 {spec.revision[:12]}…"
        yield Check("model", True, told)


def _providers() -> Iterator[Check]:
    """Package, key, budget and offers of each; what it offers is asked of all at once."""
    have: dict[str, bool | str] = {}
    for name, read in keys.READERS.items():
        try:
            have[name] = read() is not None
        except AccelError as bad:
            have[name] = str(bad)
    broken = [name for name, state in have.items() if isinstance(state, str)]
    offers: dict[tuple[str, Lane], Offer | Unfit] = {}
    failure = ""
    if not broken:
        try:
            with open_pushing(sandbox=False, adopt=False) as session:
                for lane in Lane:
                    for answer in session.offers(Need(Stage.EMBED, lane)):
                        offers[answer.provider, lane] = answer
        except AccelError as bad:
            failure = str(bad)
    if failure:
        yield Check("providers", False, failure)
    for name in ("local", *ADAPTERS):
        yield from _provider(name, have.get(name), offers)
    for name in [n for n in ACCOUNTS if n not in ("local", *ADAPTERS)]:
        told = "accel has no adapter for it yet"
        if name in keys.VARIABLES and keys.key(keys.VARIABLES[name].split()[0]):
            told = f"its key is set; {told}"
        yield Check(name, None, told)


def _provider(
    name: str, have: bool | str | None, offers: dict[tuple[str, Lane], Offer | Unfit]
) -> Iterator[Check]:
    """have: whether there is a key, None where none is needed, or why it cannot be one."""
    how, setup = account(name), f"accel setup {name}"
    if isinstance(have, str):
        yield Check(f"{name}, key", False, have, setup)
        return
    if have is False:
        yield Check(f"{name}, key", None, f"none; set {keys.VARIABLES[name]}", setup)
    if have and not how.installed:
        install = f"pip install 'accel[{how.extra}]'"
        yield Check(f"{name}, package", False, f"{how.module} is missing", install)
    for lane in Lane:
        answer = offers.get((name, lane))
        if isinstance(answer, Offer):
            left = "" if answer.quota_left_s is None else f", {answer.quota_left_s / 3600:.1f} GPU hours left"
            yield Check(f"{name}, {lane}", True, f"{answer.gpu.count}× {answer.gpu.name}{left}")
        elif answer is not None and have is not False:
            fine = False if answer.mendable else None
            yield Check(f"{name}, {lane}", fine, answer.reason, setup if answer.mendable else "")
    if how.paid and have:
        yield from _budget(name)


def _budget(name: str) -> Iterator[Check]:
    try:
        found = limits(config.load_settings(), Realm.REAL)
    except AccelError:
        return  # told of already
    if not found.credits.get(name) and not any(who in ("", name) for who, _ in found.caps):
        line = f"month = 10 under [budget] in {config.settings_file()}"
        yield Check(f"{name}, budget", None, "none is set, and without one nothing is ever paid for", line)


def _left_behind() -> Iterator[Check]:
    for realm in (Realm.REAL, Realm.SANDBOX):
        option = " --sandbox" if realm is Realm.SANDBOX else ""
        try:
            ledger = existing_ledger(realm)
        except AccelError as bad:
            yield Check(f"ledger, {realm}", False, str(bad))
            continue
        if ledger is None:
            continue
        yield from _ledger(ledger, realm, option)
        ledger.close()


def _ledger(ledger: Ledger, realm: Realm, option: str) -> Iterator[Check]:
    waiting, opened = jobs.unfinished(ledger), ledger.open_leases()
    remark = f"{len(waiting)} unfinished jobs, {len(opened)} open leases, {ledger.held()} holds"
    shards = [j for j in waiting if is_shard(j.id)]
    mend = f"accel push --resume{option}" if waiting else ""
    if shards and len(shards) == len(waiting):
        mend = f"the same accel precompute again, or: {mend}"
    yield Check(f"ledger, {realm}", not waiting, remark, mend)
    now = ledger.now()
    lost = [r for r in leases.unconfirmed(ledger) if r.state == "abandoned" and r.may_run(now)]
    if lost:
        names = ", ".join(sorted({r.provider for r in lost}))
        told = f"{len(lost)} that may still run ({names}): nobody confirmed their end"
        yield Check(f"leases, {realm}", False, told, f"accel reap --yes{option}")
    failed = alerts.counts(ledger).get("failed", 0)
    if failed:
        told = f"{failed} could not be delivered"
        yield Check(f"alerts, {realm}", False, told, f"see [alerts] in {config.settings_file()}")


def show_diagnosis(since: str, *, sandbox: bool, as_json: bool) -> None:
    """The three troubles in one ledger. Exit code 1 when one is there."""
    realm, span = Realm.SANDBOX if sandbox else Realm.REAL, parse_since(since)
    ledger, found = existing_ledger(realm), tuple[Trouble, ...]()
    if ledger is not None:
        now = Runtime.production().now()
        found = diagnose(gather(ledger, now - span, now))
        ledger.close()
    if as_json:
        terminal.print_json({
            "realm": realm.value, "since": since,
            "troubles": [
                {"name": t.name, "found": t.found, "n": t.n, "symptom": t.symptom, "bottleneck": t.bottleneck,
                 "remedies": [{"command": r.command, "why": r.why} for r in t.remedies]}
                for t in found
            ],
        })  # fmt: skip
    else:
        _show(found, since, realm)
    if any(t.found for t in found):
        raise typer.Exit(1)


def _show(found: tuple[Trouble, ...], since: str, realm: Realm) -> None:
    out = terminal.console()
    out.print(Text(f"the last {since} · realm {realm}", style="bold"))
    if not found:
        out.print("there is no ledger yet: nothing was ever run in this realm.")
    marks = {True: ("!!", "yellow"), False: ("no", "green"), None: ("--", "dim")}
    for t in found:
        mark, style = marks[t.found]
        line = Text(mark, style=style).append(f"  {t.name}", style="bold")
        out.print(line.append(f": {t.symptom}", style=""))
        if t.bottleneck:
            out.print(Text(f"    because: {t.bottleneck}"))
        for r in t.remedies:
            out.print(Text(f"    → {r.command}", style="cyan").append(f"  {r.why}", style="dim"))
