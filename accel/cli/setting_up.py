"""``accel setup``. Guarantee: what is done is recognised, what is missing is named, and no key is ever shown.

Three phases, as the guide has them: account and key; terms and money; configuration and a smallest test. At a
terminal it asks for what is missing and writes it into the settings file, which only its owner can read;
elsewhere it prints what is left and ends with exit code 1. The smallest test runs only when it is asked for,
and where seconds cost money only with a limit, which is what is reserved for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import typer
from rich.text import Text

from accel import config, environment, keys
from accel.cli import clouds, terminal
from accel.cli.inspecting import existing_ledger
from accel.cli.pushing import SANDBOX_PATIENCE, open_pushing, run_benchmark
from accel.core.errors import AccelError, SettingsError, UsageError
from accel.core.money import NANO, dollars
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.task import Lane, Need, Stage
from accel.fleet.leases import Patience
from accel.fleet.roster import ADAPTERS
from accel.gpu_accelerator import limits
from accel.providers import terms
from accel.providers.accounts import ACCOUNTS, Account, account
from accel.providers.terms import Allowed
from accel.settings_file import change

PHASES = {1: "Account and key", 2: "Terms and money", 3: "Configuration and a smallest test"}
LEAST_TEST_S = 300.0  # what the smallest test may take on a machine that has to be started first


@dataclass(frozen=True, slots=True)
class Step:
    """One step. done: None where nothing has to be done. mend: the one page or command. ask: what a terminal
    asks for: "key", "terms", "money", or ""."""

    phase: int
    what: str
    done: bool | None
    remark: str
    mend: str = ""
    ask: str = ""


def run_setup(
    name: str, *, sandbox: bool, test: bool, limit: float | None, as_json: bool, asking: bool | None = None
) -> None:  # fmt: skip
    """Walk through the phases of one provider. asking: whether a person answers; default: at a terminal.

    Exit code 1 while something is left.
    """
    known = ("local", *ADAPTERS)
    if name not in known:
        more = " accel has no adapter for it yet." if name in ACCOUNTS else ""
        told = f"there is no provider {name!r} to set up.{more}"
        raise UsageError(told, hint=f"There are: {', '.join(known)}.")
    steps = steps_of(name, sandbox=sandbox)
    if not as_json and (at_a_terminal() if asking is None else asking):
        for step in [s for s in steps if s.ask and s.done is not True]:
            _ask(name, step)
        steps = steps_of(name, sandbox=sandbox)
    if test:
        _test(name, sandbox=sandbox, limit=limit, steps=steps)
        steps = steps_of(name, sandbox=sandbox)
    realm = Realm.SANDBOX if sandbox else Realm.REAL
    left = [s for s in steps if s.done is False]
    if as_json:
        terminal.print_json({
            "provider": name, "realm": realm.value, "ready": not left,
            "steps": [{"phase": s.phase, "what": s.what, "done": s.done, "remark": s.remark, "mend": s.mend}
                      for s in steps],
        })  # fmt: skip
    else:
        _show(name, steps, realm)
    if left:
        raise typer.Exit(1)


def at_a_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def steps_of(name: str, *, sandbox: bool) -> list[Step]:
    """Every step, as things stand now. Nothing is changed, and nothing but the provider is asked."""
    how, realm = account(name), Realm.SANDBOX if sandbox else Realm.REAL
    have, wrong = None, ""
    if name in keys.READERS and not sandbox:
        try:
            have = keys.READERS[name]() is not None
        except SettingsError as bad:
            have, wrong = False, str(bad)
    answer = None if have is False else _answer(name, sandbox)
    return [
        *_account_steps(how, answer, sandbox, have, wrong), *_terms_steps(how), *_money_steps(how, realm),
        *_test_steps(how, answer, realm),
    ]  # fmt: skip


def _answer(name: str, sandbox: bool) -> Offer | Unfit | str:
    """What the provider would give for a batch job now; a line when it cannot even be asked."""
    try:
        with open_pushing((name,) if sandbox and name in clouds.CLOUDS else (), sandbox=sandbox,
                          adopt=False, prefer=False) as session:  # fmt: skip
            need = Need(Stage.EMBED, Lane.BATCH, only=frozenset({name}))
            return next((a for a in session.offers(need) if a.provider == name), "it is disabled")
    except AccelError as bad:
        return str(bad)


def _account_steps(
    how: Account, answer: Offer | Unfit | str | None, sandbox: bool, have: bool | None, wrong: str
) -> Iterator[Step]:
    """have: whether there is a key, None where none is needed; wrong: why it cannot be one."""
    refused = answer.reason if isinstance(answer, Unfit) and answer.mendable else ""
    works = isinstance(answer, Offer) or (isinstance(answer, Unfit) and not answer.mendable)
    if how.extra:
        remark = f"{how.module} is installed" if how.installed else f"{how.module} is not installed"
        yield Step(1, "package", how.installed, remark, f"pip install 'accel[{how.extra}]'")
    if how.provider == "local" or not how.variables:
        yield Step(1, "account", None, "none is needed" if how.provider == "local" else "see its notes")
        return
    if sandbox:
        yield Step(1, "account", True, "a loopback copy of it needs none")
        yield Step(1, "key", works, refused or "the sandbox's own")
        return
    told = "its key works" if works else "the key shows that there is one"
    remark = told if have else "make one, if you have none"
    yield Step(1, "account", works or have or None, remark, how.account)
    for note in how.notes:
        yield Step(1, "once", None, note)
    names = " and ".join(how.variables)
    missing = wrong or f"none; set {names}, or enter it in: accel setup {how.provider}"
    yield Step(1, "key", bool(have), f"{names} is set" if have else missing, how.key, "" if have else "key")
    if have:
        said = refused or (answer if isinstance(answer, str) else "")
        yield Step(1, "key accepted", works, "it takes the key" if works else said, how.key,
                   "key" if refused else "")  # fmt: skip


def _terms_steps(how: Account) -> Iterator[Step]:
    try:
        accepted = config.load_settings().accepted_terms
    except SettingsError:
        accepted = ()
    told: dict[tuple[bool, str], list[str]] = {}
    for term in [t for t in terms.TERMS if t.provider == how.provider]:
        second = " [second-hand]" if term.second_hand else ""
        clause = f"{term.clause} {term.url}, read {term.read_on}{second}" if term.url else term.clause
        if term.allowed is not Allowed.ASK:
            told.setdefault((term.allowed is Allowed.YES, clause), []).append(term.use)
        elif term.key in accepted:
            yield Step(2, term.use, True, "you accepted it")
        else:
            line = f'accepted_terms = ["{term.key}"] in your settings'
            yield Step(2, term.use, None, f"only if you accept it: {clause}", line, "terms")
    for (allowed, clause), uses in told.items():
        yield Step(2, "allowed" if allowed else "forbidden", None, f"{', '.join(uses)}: {clause}")


def _money_steps(how: Account, realm: Realm) -> Iterator[Step]:
    if not how.paid:
        yield Step(2, "money", None, "it costs nothing")
        return
    try:
        found = limits(config.load_settings(), realm)
    except SettingsError as bad:
        yield Step(2, "budget", False, str(bad))
        return
    caps = [cap for (name, _), cap in found.caps.items() if name in ("", how.provider)]
    prepaid = found.credits.get(how.provider)
    has = bool(caps) or bool(prepaid)
    remark = "no limit is set, and without one nothing is ever paid for"
    if caps:
        remark = f"at most {dollars(min(caps))} by your limits"
    elif prepaid:
        remark = f"{dollars(prepaid)} of credit"
    line = "month = 10 under [budget] in your settings"
    yield Step(2, "budget", has, remark, "" if has else line, "" if has else "money")
    if how.credit:
        yield Step(2, "credit", None, "its account must hold some", how.credit)


def _test_steps(how: Account, answer: Offer | Unfit | str | None, realm: Realm) -> Iterator[Step]:
    if how.provider in config.load_settings().disabled:
        yield Step(3, "enabled", False, "it is disabled", "take it out of disabled in your settings")
    if isinstance(answer, Offer):
        left = "" if answer.quota_left_s is None else f", {answer.quota_left_s / 3600:.1f} GPU hours left"
        rate = "free" if answer.rate.free else f"{dollars(answer.rate.nano_per_hour)} an hour"
        yield Step(3, "offer", True, f"{answer.gpu.count}× {answer.gpu.name}, {rate}{left}")
    elif answer is not None:
        said = answer.reason if isinstance(answer, Unfit) else answer
        yield Step(3, "offer", False, said, f"accel offers --provider {how.provider}")
    option = " --sandbox" if realm is Realm.SANDBOX else ""
    limit = " --limit 0.50" if how.paid else ""
    when = _tested(how.provider, realm)
    remark = f"a job ran there on {when:.10}" if when else "none has run there yet"
    mend = "" if when else f"accel setup {how.provider} --test{limit}{option}"
    yield Step(3, "smallest test", bool(when), remark, mend)


def _tested(name: str, realm: Realm) -> str:
    """When an attempt there last succeeded, ISO 8601; "" when none did."""
    ledger = existing_ledger(realm)
    if ledger is None:
        return ""
    found = ledger.rows("SELECT max(at) FROM attempt WHERE provider = ? AND outcome = 'ok'", name)
    ledger.close()
    return str(found[0][0] or "")


def _ask(name: str, step: Step) -> None:
    """Ask for what one step needs, and write it down. Empty answers leave it as it is."""
    out = terminal.console()
    out.print(Text(f"{step.what}: {step.remark}", style="bold"))
    if step.mend:
        out.print(Text(f"  {step.mend}", style="cyan"), soft_wrap=True)
    if step.ask == "key":
        given = {}
        for variable in account(name).variables:
            label = f"  {variable} (not shown; Enter skips)"
            given[variable] = typer.prompt(label, default="", hide_input=True, show_default=False).strip()
            if not given[variable]:
                return
        read: Any = keys.READERS[name]
        read(lambda variable: given.get(variable, ""))  # raises, before anything is written
        for variable, value in given.items():
            path = change("keys", variable, value)
        out.print(f"  kept in {path}, which only you can read")
    elif step.ask == "terms" and typer.confirm("  accept it?", default=False):
        have = config.load_settings().accepted_terms
        path = change("", "accepted_terms", [*have, f"{name}/{step.what}"])
        out.print(f"  noted in {path}")
    elif step.ask == "money":
        label = "  dollars a month, over all providers (Enter skips)"
        value = typer.prompt(label, default="", show_default=False)
        if value.strip():
            path = change("budget", "month", _dollars(value))
            out.print(f"  noted in {path}")


def _dollars(text: str) -> float:
    try:
        value = float(text.strip().lstrip("$"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= config.LARGEST_DOLLARS:
        raise UsageError(f"{text!r} is no amount of dollars.")
    return value


def _test(name: str, *, sandbox: bool, limit: float | None, steps: Sequence[Step]) -> None:
    """Run the smallest job there is at ``name`` alone. Raises UsageError without a limit where it costs."""
    wanting = [s for s in steps if s.done is False and s.what not in ("smallest test", "offer")]
    if wanting:
        first = wanting[0]
        raise UsageError(f"{name} is not set up: {first.what}: {first.remark}.", hint=first.mend)
    patience = SANDBOX_PATIENCE if sandbox else Patience()
    answer = _answer(name, sandbox)
    if isinstance(answer, Offer) and answer.billing is Billing.SECONDS:
        if limit is None or not limit > 0:
            raise UsageError(f"{name} costs money: say how much the test may cost.", hint="--limit 0.50")
        # what is reserved is the rate times this, so that no more can be spent
        allowed_s = limit * NANO / max(1, answer.rate.nano_per_hour) * 3600
        if allowed_s < LEAST_TEST_S:
            least = dollars(answer.rate.cost(LEAST_TEST_S))
            raise UsageError(f"a test there may take {LEAST_TEST_S:.0f} s, which costs {least}.",
                             hint=f"Set --limit to that or more, not {limit}.")  # fmt: skip
        patience = replace(patience, lifetime_s=min(patience.lifetime_s, allowed_s))
    with open_pushing((name,), sandbox=sandbox, patience=patience) as session:
        finished, _ = run_benchmark(session, name, passages=1, repetitions=1, batches=(1,), fallback=False)
    (done,) = [a for a in finished.attempts if a.outcome == "ok"]
    cost = f"{dollars(done.cost.amount)} ({done.cost.basis})"
    terminal.say(f"the smallest test ran on {done.provider}, for {cost}")


def _show(name: str, steps: Sequence[Step], realm: Realm) -> None:
    out = terminal.console()
    out.print(Text(f"{name} · realm {realm} · {environment.platform()}", style="bold"))
    for phase, title in PHASES.items():
        out.print(Text(f"\n{phase}. {title}", style="bold"))
        mine = [s for s in steps if s.phase == phase]
        out.print(terminal.checks_table([(s.what, s.done, s.remark) for s in mine]))
        for step in mine:
            if step.done is not True and step.mend:
                out.print(Text(f"   {step.what}: {step.mend}", style="cyan"), soft_wrap=True)
    left = [s.what for s in steps if s.done is False]
    if any("your settings" in s.mend for s in steps):
        out.print(Text(f"\nyour settings: {config.settings_file()}", style="dim"), soft_wrap=True)
    out.print(Text(f"\nleft to do: {', '.join(left)}" if left else f"\n{name} is ready.", style="bold"))
