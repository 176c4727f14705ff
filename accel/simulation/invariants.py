"""The twelve invariants. Guarantee: judged by what the world saw, not by what the router says of itself.

Checked at the end of a run over the evidence and the ledger's file; what must hold at every instant is noted
by ``watch`` on the way. Each function yields its violations in words; none means that the invariant held.
Those of money are in ``reconcile``. 12 also says that the same seed gives the same trace: two runs show that,
and the tests compare them.

Two are not whole yet. 10 (no older epoch is served after an invalidation): entries carry no epoch before the
cache has one; what is checked is that another revision is never served. 11 (no paid instance outlives its
idle time): the providers of this world serve live without a lease, so that what is checked are the leases of
jobs; live replicas are held to it by the state machine of ``tests/fleet/test_lease_machine.py``.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from accel.core.offer import Billing
from accel.simulation.case import GRACE_S, NO_PLACE, UNSENT, Case
from accel.simulation.evidence import FOREVER, End
from accel.simulation.natures import LOCAL
from accel.simulation.reconcile import invoices_match, limits_hold, quota_holds

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
# standard deviations from the median to the 95th percentile, and a little
SURE = 1.65
# share of its calls that must succeed before free goes first
SOUND = 0.8


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant, in words."""

    invariant: int
    words: str

    def __str__(self) -> str:
        return f"invariant {self.invariant} ({NAMES[self.invariant]}): {self.words}"


def check(case: Case) -> tuple[Violation, ...]:
    """All violations, by invariant."""
    found = [Violation(number, words) for number, words in case.evidence.seen]
    for number, judge in JUDGES.items():
        found += [Violation(number, words) for words in judge(case)]
    return tuple(sorted(found, key=lambda v: v.invariant))


def ends_once(case: Case) -> Iterator[str]:
    """1. Every request that its router lived to end has one outcome, in time, and one row in the ledger; but
    for a warm-up, nothing is called for it any more."""
    rows = Counter(ident.rsplit("/", 1)[0] for (ident,) in case.rows("SELECT id FROM request"))
    ended = {}
    for end in case.evidence.ends:
        ended[end.task_id] = end.ended
        if end.outcome not in ("ok", "failed", "killed"):
            yield f"{end.task_id} ended as {end.outcome or 'nothing'} {end.message}"
        elif end.ended - end.began > end.within_s + LATE_S and end.outcome != "killed":
            yield f"{end.task_id} took {end.ended - end.began:.2f} s of {end.within_s:.0f} s"
        count = rows.get(end.task_id, 0)
        if count != 1 and not (end.outcome == "killed" and count == 0):
            yield f"{end.task_id} has {count} rows in the ledger"
    warmed = case.warmed()
    for call in case.evidence.calls:
        if call.began > ended[call.task_id] and call.task_id not in warmed and not case.cut_off(call):
            yield f"{call.provider} was called for {call.task_id} after it had ended"


def nothing_is_lost(case: Case) -> Iterator[str]:
    """5. A request that failed says every call that was made for it, with class, time and cost, and had its
    turn on this machine wherever that can do it and time was left."""
    sent: dict[str, Counter[str]] = defaultdict(Counter)
    beside = case.warmed()  # a warm-up is no attempt of the request; one that a kill cut off left no trace
    for call in case.evidence.calls:
        sent[call.task_id][call.provider] += 1
        if case.cut_off(call):
            beside.add(call.task_id)
    for end in case.evidence.ends:
        if end.outcome != "failed":
            continue
        listed = Counter(
            a.provider for a in end.attempts
            if a.error not in UNSENT and NO_PLACE not in a.detail
        )  # fmt: skip
        unlisted = sent[end.task_id] - listed
        if listed - sent[end.task_id] or unlisted.total() > (end.task_id in beside):
            yield f"{end.task_id} called {dict(sent[end.task_id])}, its error lists {dict(listed)}"
        for attempt in end.attempts:
            if not attempt.error and attempt.outcome != "cancelled":
                yield f"{end.task_id}: an attempt at {attempt.provider} without its error"
            if f"{attempt.provider} {attempt.error or attempt.outcome}" not in end.message:
                yield f"{end.task_id}: its message does not name {attempt.provider} {attempt.error}"
        in_time = end.ended < end.began + end.within_s - 1e-6
        if end.local_fits and in_time and LOCAL not in listed:
            yield f"{end.task_id} failed without a turn on this machine: {end.message[:200]}"


def asked_again(case: Case) -> Iterator[str]:
    """7. Whoever a router refuses for its breaker was called within the last 360 s (30 s × n up to 300 s,
    ± 20 %): no breaker stays open for longer without a probe."""
    asked: dict[tuple[int, str, str, str], list[float]] = defaultdict(list)
    for call in case.evidence.calls:
        asked[call.engine, call.provider, call.stage, call.model] += [call.began, call.ended]
    for times in asked.values():
        times.sort()
    for at, line in case.evidence.blocked:
        times = asked[line]
        place = bisect.bisect_right(times, at)
        last = max(times[place - 1] if place else 0.0, case.evidence.lives[line[0]])
        if at - last > ASK_AGAIN_S + LATE_S:
            told = f"at {at:.0f} s, {at - last:.0f} s after its last call"
            yield f"{line[1]} was refused for its breaker {told}"


def few_tries(case: Case) -> Iterator[str]:
    """8. At most three calls a request, and one for its warm-up if it has one; while everything remote is
    away at most 1.2 calls there per request, and 3; hedges for at most 5 % of the requests. (Retry-After:
    ``watch``.)"""
    per_task = Counter(c.task_id for c in case.evidence.calls)
    warmed = case.warmed()
    for task, count in per_task.items():
        if count > 3 + (task in warmed):
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
    """11. A rented thing is given back soon after its job, or by its router's successor, or ended itself. Its
    lifetime is all that ends one whose provider could not be reached meanwhile: nobody reaps those yet."""
    for thing in case.evidence.rented:
        if thing.billing is not Billing.SECONDS:
            continue
        over = min(thing.done_at, thing.ends_at, thing.gone_at)
        over = max([over, *(life for life in case.evidence.lives if life <= over + GRACE_S)])
        away = any(
            thing.provider in o.providers and o.began <= over + GRACE_S and thing.made_at <= o.ends
            for o in case.evidence.outages
        )
        ended = min(thing.gone_at, thing.ends_at)
        if ended > over + GRACE_S and ended > thing.done_at and not away:
            yield f"{thing.provider}: {thing.name} ran until {ended:.0f} s, its job was over at {over:.0f} s"
        if thing.gone_at == FOREVER and thing.ends_at > case.ended_s:
            yield f"{thing.provider}: {thing.name} still runs at the end"


def free_first(case: Case) -> Iterator[str]:
    """12. Where the first choice costs money, no free offer of the same route is as good: it would be late,
    too many of its calls fail, or its quota is kept for later at a price that the route says."""
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
        if expected.success < SOUND:
            continue
        sure_s = expected.timing.total_s * math.exp(SURE * expected.spread)
        if sure_s < 0.99 * end.within_s and expected.timing.total_s <= (end.target_s or math.inf):
            return f"{first.offer.provider} is paid, and {other.offer.provider} is free and in time"
    return ""


JUDGES: dict[int, Callable[[Case], Iterator[str]]] = {
    1: ends_once, 2: invoices_match, 3: limits_hold, 4: quota_holds, 5: nothing_is_lost, 7: asked_again,
    8: few_tries, 9: right_answers, 10: no_other_revision, 11: nothing_leaks, 12: free_first,
}  # fmt: skip
