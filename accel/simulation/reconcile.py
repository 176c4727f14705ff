"""Money: invariants 2, 3 and 4. Guarantee: the ledger is held against the providers' own invoices."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from accel.core.money import dollars
from accel.core.offer import Billing
from accel.simulation.case import GRACE_S, NO_PLACE, UNSENT, WARM, Case
from accel.simulation.evidence import Call, Rented

NEAR = 1_000  # nano-dollars: to the micro-dollar
# a hold of free hours whose lease nobody confirmed
MAY_RUN = "fund = 'quota' AND id IN (SELECT intent_id FROM lease WHERE state = 'abandoned')"


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge of the ledger, of a hold."""

    task: str
    provider: str
    amount: int


@dataclass(frozen=True, slots=True)
class Booked:
    """An attempt of the ledger."""

    id: str
    amount: int


def invoices_match(case: Case) -> Iterator[str]:
    """2. Every call is one attempt and, where it is paid, one charge of what the provider bills for it.

    To the micro-dollar where the caller can know (``Call.exact``), and never below. What a killed router had
    reserved is charged in full. Accounts add up to their charges; nothing stays held but the free hours of
    what nobody could confirm, which count as charged here: they are settled in full when it has ended itself.
    """
    charges = {
        hold: Charge(task.removesuffix(WARM), provider, amount)
        for hold, task, provider, amount in case.rows(
            "SELECT hold_id, task_id, provider, amount FROM charge "
            f"UNION ALL SELECT id, task_id, provider, amount FROM hold WHERE {MAY_RUN}"
        )
    }
    attempts: dict[tuple[str, str], list[Booked]] = defaultdict(list)
    for (body,) in case.rows("SELECT body FROM attempt ORDER BY rowid"):
        a = json.loads(body)
        if a["error"] not in UNSENT and NO_PLACE not in a["detail"]:
            booked = Booked(a["id"], a["cost"]["amount"])
            attempts[a["task_id"].removesuffix(WARM), a["provider"]].append(booked)
    calls: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in case.evidence.calls:
        calls[call.task_id, call.provider].append(call)
    killed = {e.task_id for e in case.evidence.ends if e.outcome == "killed"}
    for key, sent in calls.items():
        cut = key[0] in killed or any(case.cut_off(c) for c in sent)
        yield from _one_line(case, key, sent, attempts.pop(key, []), charges, cut)
    rented = {r.name.removeprefix("accel-") for r in case.evidence.rented}
    # whether it was created was never known, so that it counts as spent
    unknown = {i for (i,) in case.rows("SELECT intent_id FROM lease WHERE state = 'abandoned'")}
    for (task, provider), left in attempts.items():
        if any(a.id not in rented and a.id not in unknown and a.amount for a in left):
            yield f"{provider} has attempts of {task} in the ledger that were never on the wire"
    for thing in case.evidence.rented:
        yield from _one_lease(case, thing, charges)
    for hold, charge in charges.items():
        if charge.amount and hold not in unknown and charge.task not in killed:
            yield f"{charge.provider} is charged {charge.amount} for {charge.task} ({hold}): never a call"
    yield from _sums(case)


def _one_line(
    case: Case, key: tuple[str, str], sent: list[Call], tried: list[Booked], charges: dict[str, Charge],
    cut: bool,
) -> Iterator[str]:  # fmt: skip
    """The calls of one request at one provider. cut: some may have been lost with their router."""
    task, provider = key
    if len(tried) > len(sent) or (len(tried) < len(sent) and not cut):
        yield f"{provider}: {len(sent)} calls for {task}, and {len(tried)} attempts in the ledger"
    if len(sent) > 1:
        sent, tried = _matched(case, sent, tried)
    for call, booked in zip(sent, tried, strict=False):
        charge = charges.pop(booked.id, None)
        if call.billing is not Billing.SECONDS:
            continue
        if charge is None:
            yield f"{provider}: the attempt {booked.id} for {task} was never charged"
            continue
        if charge.amount != booked.amount and not cut:
            yield f"{provider}: {task} was charged {charge.amount}, and its attempt says {booked.amount}"
        owed = case.owed(call)
        near = any(abs(charge.amount - amount) <= NEAR for amount in owed)
        if not near and (charge.amount < min(owed) or (call.exact and not cut)):
            exact, how = "" if call.exact else "at least ", call.error or "answered"
            yield (
                f"{provider}: {task} is charged {charge.amount} nano-dollars, and billed {exact}{min(owed)} "
                f"({how}, {call.billed_s:.4f} s)"
            )
    mine = [h for h, c in charges.items() if (c.task, c.provider) == key] if cut else []
    for call in sent[len(tried) :]:
        if call.invoice:
            hold = max(mine, key=lambda h: charges[h].amount, default=None)
            if hold is None:
                yield f"{provider}: a call for {task} of a killed router was billed, and is in no charge"
            elif charges.pop(hold).amount + NEAR < min(case.owed(call)):
                yield f"{provider}: {task} of a killed router is charged below its invoice"
            mine = [h for h in mine if h != hold]
    for hold in mine:  # reserved, and the router died before the call
        del charges[hold]


def _matched(case: Case, sent: list[Call], tried: list[Booked]) -> tuple[list[Call], list[Booked]]:
    """Both in one order: those that agree on the amount first, then by amount; the two need not agree on
    which came first. What died with its router, and has no attempt, comes last."""
    calls, left, pairs = [], list(tried), []
    for call in sorted(sent, key=lambda c: not c.exact):
        owed = case.owed(call)
        same = next((b for b in left if any(abs(b.amount - o) <= NEAR for o in owed)), None)
        if same is None:
            calls.append(call)
        else:
            left.remove(same)
            pairs.append((call, same))
    calls.sort(key=lambda c: (case.cut_off(c), min(case.owed(c))))
    left.sort(key=lambda b: b.amount)
    return [c for c, _ in pairs] + calls, [b for _, b in pairs] + left


def _one_lease(
    case: Case, thing: Rented, charges: dict[str, Charge]
) -> Iterator[str]:
    charge = charges.pop(thing.name.removeprefix("accel-"), None)
    billed_s = thing.billed_s(case.ended_s)
    owed = thing.rate.cost(billed_s) if thing.billing is Billing.SECONDS else int(billed_s * 1000)
    if charge is None:
        yield f"{thing.provider}: {thing.name} was rented, and is in no charge"
    elif charge.amount + NEAR < owed and not _jumped(case, thing):
        told = f"is charged {charge.amount}, and was billed {owed} ({billed_s:.1f} s)"
        yield f"{thing.provider}: {thing.name} {told}"


def _jumped(case: Case, thing: Rented) -> bool:
    """Whether the wall clock, by which leases are timed across processes, was set while it ran."""
    return any(thing.made_at - 1 <= at <= thing.end(case.ended_s) + GRACE_S for at, _ in case.evidence.jumps)


def _sums(case: Case) -> Iterator[str]:
    spent: Counter[str] = Counter()
    for names, amount in case.rows("SELECT accounts, amount FROM charge"):
        for name in json.loads(names):
            spent[name] += amount
    held = dict(case.rows(f"SELECT provider, count(*) FROM hold WHERE NOT ({MAY_RUN}) GROUP BY provider"))
    for name, used, over in case.rows("SELECT name, spent, over FROM account"):
        if used + over != spent[name]:
            yield f"account {name} says {used + over}, its charges add up to {spent[name]}"
    if held:
        yield f"at the end something is still held: {held}"


def limits_hold(case: Case) -> Iterator[str]:
    """3. In the ledger: no account above its limit, no charge above what was held for it, an alert for each
    share of a limit that was reached, and for none that was not. (What was really spent: ``watch.Purse``.)"""
    alerts = {key for (key,) in case.rows("SELECT key FROM alert")}
    told = Counter(case.evidence.alerts)
    for key, times in told.items():
        if times > 1:
            yield f"the alert {key} was sent {times} times"
    for name, wanted, spent, held, over, period in case.rows(
        "SELECT name, wanted, spent, held, over, period FROM account WHERE unit = 'nano_usd'"
    ):
        if over:
            yield f"{name}: {dollars(over)} were charged above what was held"
        if wanted is None:
            continue
        if spent + held > wanted:
            yield f"{name}: {dollars(spent)} spent and {dollars(held)} held of {dollars(wanted)}"
        for share in case.limits.alert_at if wanted and period != "quota" else ():
            key = f"budget:{name}:{share:g}"
            reached = spent + over >= share * wanted
            if reached and key not in alerts:
                yield f"{name} reached {share:g} of its limit, and nobody was told"
            if key in alerts and not reached:
                yield f"{name} did not reach {share:g} of its limit, and somebody was told"


def quota_holds(case: Case) -> Iterator[str]:
    """4. What a provider's free hours were used for, calls, leases and idle time, in each of its windows.

    What a call that hung took beyond what was held for it is left out: in truth its provider ends it with
    the quota, which this world's do not. What was never held for counts in full.
    """
    beyond = dict(case.rows("SELECT provider, over FROM account WHERE unit = 'gpu_ms'"))
    for nature in case.natures:
        if nature.quota_s is None:
            continue
        used: dict[int, float] = defaultdict(float)
        for call in case.evidence.calls:
            if call.provider == nature.name:
                used[nature.window(call.began)] += call.billed_s or 0.0
        for thing in case.evidence.rented:
            if thing.provider == nature.name:
                used[nature.window(thing.made_at)] += thing.billed_s(case.ended_s)
        for window, seconds in used.items():
            seconds -= beyond.get(nature.name, 0) / 1000
            if seconds > nature.quota_s + 1e-6:
                yield f"{nature.name}: {seconds:.1f} s of {nature.quota_s:.1f} s in window {window}"
