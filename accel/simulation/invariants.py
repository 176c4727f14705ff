"""The twelve invariants. Guarantee: each is judged by what the world saw, not by what the router says of itself.

Checked at the end of a run over the evidence and the ledger's file; what must hold at every instant is noted by
``watch`` on the way. Each function yields its violations in words; none means that the invariant held.

Two are not whole yet. 10 (no older epoch is served after an invalidation): entries carry no epoch before the
cache has one; what is checked is that another revision is never served. 11 (no paid instance outlives its idle
time): live replicas do not exist yet; what is checked are the leases of jobs.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.money import NanoUSD, dollars
from accel.core.offer import Billing
from accel.ledger import Limits
from accel.simulation.evidence import FOREVER, Call, End, Evidence, Rented
from accel.simulation.natures import LOCAL, Nature
from accel.simulation.scene import Scene

NAMES = {
    1: "every request ends once, by its deadline + 1 s",
    2: "the ledger says what the invoices say",
    3: "spent + held never passes a limit, and alerts come once",
    4: "free hours stay within their quota",
    5: "remote down: local; all down: one error with every attempt",
    6: "open: no call; half-open: one at a time",
    7: "what is well again is asked again within 360 s",
    8: "three attempts a request, few retries, few hedges",
    9: "an answer is bit for bit that of its Spec and texts",
    10: "another revision is never served",
    11: "no rented thing outlives its job",
    12: "free first, and nowhere that cannot do it",
}
LATE_S = 1.0
ASK_AGAIN_S = 360.0
# to the micro-dollar
NEAR = 1_000
# from the end of a job to its release: a poll, its downloads, and a provider that does not answer
GRACE_S = 120.0
# standard deviations from the median to the 95th percentile, and a little
SURE = 1.65
# never dispatched, by the word of the router itself
UNSENT = ("OverBudget", "LedgerError")


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant, in words."""

    invariant: int
    words: str

    def __str__(self) -> str:
        return f"invariant {self.invariant} ({NAMES[self.invariant]}): {self.words}"


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: the world's evidence, the ledger as it was left, and the rules that were set."""

    scene: Scene
    ledger: Path
    limits: Limits
    natures: Sequence[Nature]
    ended_s: float

    @property
    def evidence(self) -> Evidence:
        return self.scene.evidence

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the ledger's file."""
        with closing(sqlite3.connect(self.ledger)) as db:
            return db.execute(sql).fetchall()


def check(case: Case) -> tuple[Violation, ...]:
    """All violations, by invariant."""
    found = [Violation(number, words) for number, words in case.evidence.seen]
    for number, judge in JUDGES.items():
        found += [Violation(number, words) for words in judge(case)]
    return tuple(sorted(found, key=lambda v: v.invariant))


def ends_once(case: Case) -> Iterator[str]:
    """1. Every request that its router lived to end has one outcome, in time, and one row in the ledger."""
    rows = Counter(ident.rsplit("/", 1)[0] for (ident,) in case.rows("SELECT id FROM request"))
    for end in case.evidence.ends:
        if end.outcome not in ("ok", "failed", "killed"):
            yield f"{end.task_id} ended as {end.outcome or 'nothing'} {end.message}"
        elif end.ended - end.began > end.within_s + LATE_S and end.outcome != "killed":
            yield f"{end.task_id} took {end.ended - end.began:.2f} s of {end.within_s:.0f} s"
        count = rows.get(end.task_id, 0)
        if count != 1 and not (end.outcome == "killed" and count == 0):
            yield f"{end.task_id} has {count} rows in the ledger"


def invoices_match(case: Case) -> Iterator[str]:
    """2. Every call is one attempt and, where it is paid, one charge of what the provider bills for it.

    To the micro-dollar where the caller can know (``Call.exact``), and never below. What a killed router had
    reserved is charged in full. Accounts add up to their charges; nothing stays held.
    """
    charges = {
        hold: (task, provider, amount)
        for hold, task, provider, amount in case.rows(
            "SELECT hold_id, task_id, provider, amount FROM charge"
        )
    }
    attempts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for (body,) in case.rows("SELECT body FROM attempt ORDER BY rowid"):
        attempt = json.loads(body)
        if attempt["error"] not in UNSENT and "no free place within" not in attempt["detail"]:
            attempts[attempt["task_id"], attempt["provider"]].append(attempt)
    calls: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in case.evidence.calls:
        calls[call.task_id, call.provider].append(call)
    killed = {e.task_id for e in case.evidence.ends if e.outcome == "killed"}
    for key, sent in calls.items():
        yield from _one_line(case, key, sent, attempts.pop(key, []), charges, key[0] in killed)
    rented = {r.name for r in case.evidence.rented}
    for (task, provider), left in attempts.items():
        if any(f"accel-{a['id']}" not in rented and a["cost"]["amount"] for a in left):
            yield f"{provider} has attempts of {task} in the ledger that were never on the wire"
    for thing in case.evidence.rented:
        yield from _one_lease(case, thing, charges)
    # whether it was created was never known, so that it counts as spent
    unknown = {i for (i,) in case.rows("SELECT intent_id FROM lease WHERE state = 'abandoned'")}
    for hold, (task, provider, amount) in charges.items():
        if not amount or hold in unknown:
            continue
        yield f"a charge {hold} of {dollars(NanoUSD(amount))} to {provider} for {task} that was never a call"
    yield from _sums(case)


def _one_line(
    case: Case, key: tuple[str, str], sent: list[Call], tried: list[dict[str, Any]],
    charges: dict[str, tuple[str, str, int]], killed: bool,
) -> Iterator[str]:  # fmt: skip
    task, provider = key
    sent.sort(key=lambda c: c.ended)
    if len(tried) != len(sent) and not (killed and len(tried) < len(sent)):
        yield f"{provider}: {len(sent)} calls for {task}, and {len(tried)} attempts in the ledger"
    for call, attempt in zip(sent, tried, strict=False):
        charge = charges.pop(attempt["id"], None)
        if call.billing is not Billing.SECONDS:
            continue
        if charge is None:
            yield f"{provider}: the attempt {attempt['id']} for {task} was never charged"
            continue
        booked = attempt["cost"]["amount"]
        if charge[2] != booked:
            yield f"{provider}: {task} was charged {charge[2]}, and its attempt says {booked}"
        owed = [rate.cost(call.billed_s or 0.0) for rate in case.scene.rates_at(call)]
        near = any(abs(booked - amount) <= NEAR for amount in owed)
        if not near and (call.exact or booked < min(owed)):
            exact = "" if call.exact else ", at least"
            yield (
                f"{provider}: {task} is booked at {booked} nano-dollars, and billed{exact} {owed} "
                f"({call.error or 'answered'}, {call.billed_s:.4f} s)"
            )
    for call in sent[len(tried) :]:
        if not call.invoice:
            continue
        hold = next((h for h, c in charges.items() if c[:2] == key), None)
        if hold is None:
            yield f"{provider}: a call for {task} of a killed router was billed, and is in no charge"
        elif charges.pop(hold)[2] + NEAR < call.invoice:
            yield f"{provider}: {task} of a killed router is charged below its invoice"
    if killed:  # reserved, and the router died before the call
        for hold in [h for h, c in charges.items() if c[:2] == key]:
            del charges[hold]


def _one_lease(
    case: Case, thing: Rented, charges: dict[str, tuple[str, str, int]]
) -> Iterator[str]:
    charge = charges.pop(thing.name.removeprefix("accel-"), None)
    billed_s = thing.billed_s(case.ended_s)
    owed = thing.rate.cost(billed_s) if thing.billing is Billing.SECONDS else int(billed_s * 1000)
    if charge is None:
        yield f"{thing.provider}: {thing.name} was rented, and is in no charge"
    elif charge[2] + NEAR < owed and not _jumped(case, thing):
        yield f"{thing.provider}: {thing.name} is charged {charge[2]}, and was billed {owed} ({billed_s:.1f} s)"


def _jumped(case: Case, thing: Rented) -> bool:
    """Whether the wall clock, by which leases are timed across processes, was set while it ran."""
    return any(thing.made_at - 1 <= at <= thing.end(case.ended_s) + GRACE_S for at, _ in case.evidence.jumps)


def _sums(case: Case) -> Iterator[str]:
    spent: Counter[str] = Counter()
    for names, amount in case.rows("SELECT accounts, amount FROM charge"):
        for name in json.loads(names):
            spent[name] += amount
    held = dict(case.rows("SELECT provider, count(*) FROM hold GROUP BY provider"))
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
    """4. What a provider's free hours were used for, calls, leases and idle time, in each of its windows."""
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
            if seconds > nature.quota_s + 1e-6:
                yield f"{nature.name}: {seconds:.1f} s of {nature.quota_s:.1f} s in window {window}"


def nothing_is_lost(case: Case) -> Iterator[str]:
    """5. A request that failed says every call that was made for it, with class, time and cost, and had its
    turn on this machine wherever that can do it."""
    sent: dict[str, Counter[str]] = defaultdict(Counter)
    for call in case.evidence.calls:
        sent[call.task_id][call.provider] += 1
    for end in case.evidence.ends:
        if end.outcome != "failed":
            continue
        listed = Counter(
            a.provider for a in end.attempts
            if a.error not in UNSENT and "no free place within" not in a.detail
        )  # fmt: skip
        if listed != sent[end.task_id]:
            yield f"{end.task_id} called {dict(sent[end.task_id])}, its error lists {dict(listed)}"
        for attempt in end.attempts:
            if not attempt.error and attempt.outcome != "cancelled":
                yield f"{end.task_id}: an attempt at {attempt.provider} without its error"
            if f"{attempt.provider} {attempt.error or attempt.outcome}" not in end.message:
                yield f"{end.task_id}: its message does not name {attempt.provider} {attempt.error}"
        if end.local_fits and LOCAL not in listed and LOCAL not in sent[end.task_id]:
            yield f"{end.task_id} failed without a turn on this machine: {end.message[:200]}"


def asked_again(case: Case) -> Iterator[str]:
    """7. Whoever a router refuses for its breaker was called within the last 360 s (30 s × n up to 300 s,
    ± 20 %): no breaker stays open for longer without a probe."""
    ended: dict[tuple[int, str, str, str], list[float]] = defaultdict(list)
    for call in case.evidence.calls:
        ended[call.engine, call.provider, call.stage, call.model].append(min(call.ended, case.ended_s))
    for times in ended.values():
        times.sort()
    for at, line in case.evidence.blocked:
        before = [t for t in ended.get(line, ()) if t <= at]
        began = case.evidence.lives[line[0]]
        last = max(before[-1] if before else began, began)
        if at - last > ASK_AGAIN_S + LATE_S:
            yield f"{line[1]} was refused for its breaker at {at:.0f} s, {at - last:.0f} s after its last call"


def few_tries(case: Case) -> Iterator[str]:
    """8. At most three calls a request; while everything remote is away at most 1.2 calls there per request,
    and 3; hedges for at most 5 % of the requests."""
    per_task = Counter(c.task_id for c in case.evidence.calls)
    for task, count in per_task.items():
        if count > 3:
            yield f"{task} made {count} calls"
    hedges = sum(a.hedge for e in case.evidence.ends for a in e.attempts)
    if hedges > 0.05 * len(case.evidence.ends) + 1:
        yield f"{hedges} hedges in {len(case.evidence.ends)} requests"
    remote = {n.name for n in case.natures} - {LOCAL}
    for outage in case.evidence.outages:
        if not remote <= outage.providers:
            continue
        began = [e for e in case.evidence.ends if outage.began <= e.began < outage.ends]
        calls = [
            c for c in case.evidence.calls
            if outage.began <= c.began < outage.ends and c.provider in remote
        ]  # fmt: skip
        if len(calls) > 1.2 * len(began) + 3:
            yield f"{len(calls)} calls to dead providers for {len(began)} requests at {outage.began:.0f} s"


def right_answers(case: Case) -> Iterator[str]:
    """9. Every answer, from the cache or not, is that of its own Spec and texts, bit for bit."""
    for end in case.evidence.ends:
        if end.wrong and "revision" not in end.wrong:
            yield f"{end.task_id} from {end.where} ({end.hits} of {end.items} from the cache): {end.wrong}"


def no_other_revision(case: Case) -> Iterator[str]:
    """10. Nothing of another revision of the same model is served. (Epochs: not yet, see above.)"""
    for end in case.evidence.ends:
        if "revision" in end.wrong:
            yield f"{end.task_id} from {end.where}: {end.wrong}"


def nothing_leaks(case: Case) -> Iterator[str]:
    """11. A rented thing is given back soon after its job, or its router's successor, can; or ended itself."""
    for thing in case.evidence.rented:
        away = [o for o in case.evidence.outages if thing.provider in o.providers]
        over = min(thing.done_at, thing.ends_at, thing.gone_at)
        over = max([over, *(o.ends for o in away if o.began <= over + GRACE_S and o.ends >= over)])
        over = max([over, *(life for life in case.evidence.lives if life <= over + GRACE_S)])
        ended = min(thing.gone_at, thing.ends_at)
        if thing.billing is Billing.SECONDS and ended > over + GRACE_S and ended > thing.done_at:
            yield f"{thing.provider}: {thing.name} ran until {ended:.0f} s, its job was over at {over:.0f} s"
        if thing.gone_at == FOREVER and thing.ends_at > case.ended_s and thing.billing is Billing.SECONDS:
            yield f"{thing.provider}: {thing.name} still runs at the end"


def free_first(case: Case) -> Iterator[str]:
    """12. Where the first choice costs money, no free offer of the same route is as good: it would be late, or
    its quota is kept for later at a price that the route says."""
    for end in case.evidence.ends:
        if words := _passed_over(end):
            yield f"{end.task_id}: {words}"


def _passed_over(end: End) -> str:
    if end.route is None or not end.route.ranked:
        return ""
    first = end.route.ranked[0]
    if first.offer.billing is not Billing.SECONDS:
        return ""
    for other in end.route.ranked[1:]:
        if other.offer.billing is Billing.SECONDS or dict(other.terms).get("quota", 0.0) > 0:
            continue
        expected = other.estimate
        sure_s = expected.timing.total_s * math.exp(SURE * expected.spread)
        if sure_s < 0.99 * end.within_s and expected.timing.total_s <= (end.target_s or math.inf):
            return f"{first.offer.provider} is paid, and {other.offer.provider} is free and in time"
    return ""


JUDGES: dict[int, Callable[[Case], Iterator[str]]] = {
    1: ends_once, 2: invoices_match, 3: limits_hold, 4: quota_holds, 5: nothing_is_lost, 7: asked_again,
    8: few_tries, 9: right_answers, 10: no_other_revision, 11: nothing_leaks, 12: free_first,
}  # fmt: skip
