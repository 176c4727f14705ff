"""When a batch job waits. Guarantee: only for what ends by itself, and nothing is spent or tried meanwhile.

A place or free hours come back: a session ends, a week begins anew. Where nothing else can take a job, it
waits for that instead of failing. Whatever another offer can do is done there at once; what is paid for is
never waited for (there, the next offer or an error is the answer).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from accel.core.attempt import Attempt, Outcome, Route
from accel.core.errors import NoCapacity, OverBudget, QuotaExhausted, Reaped
from accel.core.offer import Billing, Offer, Unfit
from accel.core.task import Task
from accel.routing import State, rank

# Failures of one push that say nothing of the next: no place, no hours.
PASSING = frozenset({NoCapacity.__name__, QuotaExhausted.__name__})
# A look costs one question; hours that were reserved may come back before the week does. A push that was
# refused for want of hours is made again at the refresh, not before.
LONGEST_S = 3600.0
# Between pushes that may be refused, at most: what others of the same account run ends within 12 hours.
LONGEST_PUSH_S = 600.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Whom a job waits for, why, and how long until the next look, in seconds."""

    provider: str
    reason: str
    seconds: float


def waits_for(
    task: Task, answers: Sequence[Offer | Unfit], route: Route, state: State, attempts: Sequence[Attempt],
    now: datetime, again_s: float,
) -> Wait | None:  # fmt: skip
    """The shortest wait that may help; None where something can be tried now, or nothing ends by itself.

    attempts: the job's, but for those that it has waited for since. again_s: seconds between two looks.
    """
    if route.ranked:
        return None
    why = {r.provider: r for r in route.refused}
    found = []
    for answer in answers:
        reason, seconds = why[answer.provider].reason if answer.provider in why else "", None
        if isinstance(answer, Unfit):
            until = _until(answer.again_at, now)
            seconds = None if until is None else min(until, LONGEST_S)
        elif answer.billing is Billing.QUOTA:
            failed = [a for a in attempts if a.provider == answer.provider and _counts(a)]
            if failed and all(a.error in PASSING for a in failed):
                seconds = _after(failed, answer, now, again_s)
            elif not failed and why[answer.provider].again_s is not None:
                seconds = why[answer.provider].again_s
            elif not failed and _only_hours(task, answer, state):
                seconds = _until(answer.quota_resets_at, now)
        if seconds is not None:
            found.append(Wait(answer.provider, reason, max(again_s, seconds)))
    return min(found, key=lambda w: w.seconds) if found else None


def held_back(offer: Offer, refused: OverBudget | NoCapacity, now: datetime, again_s: float) -> Unfit:
    """An offer that our own books have no room for now, as an answer of its provider's."""
    reason = str(refused).removeprefix(f"{offer.provider}: ")
    return Unfit(offer.provider, offer.realm, reason, now, again_at=now + timedelta(seconds=again_s))


def _counts(attempt: Attempt) -> bool:
    return attempt.outcome is not Outcome.OK and attempt.error != Reaped.__name__


def _after(failed: Sequence[Attempt], offer: Offer, now: datetime, again_s: float) -> float:
    """Seconds until another push: at the refresh, or twice as long each time that no place was free."""
    if failed[-1].error == QuotaExhausted.__name__:
        until = _until(offer.quota_resets_at, now)
        return LONGEST_S if until is None else until
    return min(LONGEST_PUSH_S, again_s * 2 ** min(16, len(failed) - 1))


def _only_hours(task: Task, offer: Offer, state: State) -> bool:
    """Whether a whole window of free hours is all that the offer lacks."""
    if offer.quota_s is None:
        return False
    whole = dataclasses.replace(offer, quota_left_s=offer.quota_s)
    return bool(rank(task, (whole,), state, 0.0).ranked)


def _until(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else (at - now).total_seconds()
