"""A job's tries as attempts. Guarantee: what a try is said to have cost is what its lease was charged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from accel.core.attempt import Attempt, Outcome, Refusal, Timing
from accel.core.errors import AccelError, OfferTaken, Reaped
from accel.core.lease import Intent
from accel.core.money import Cost
from accel.fleet.leases import Ending
from accel.ledger import Job

RACES = 5  # offers of one provider that may be lost to other processes before it is passed over


def done(job: Job, intent: Intent, timing: Timing, ending: Ending) -> Attempt:
    """A try that gave a verified result."""
    offer = intent.offer
    return Attempt(
        intent.id, job.task.id, offer.provider, offer.realm, offer.id, Outcome.OK, timing,
        ending.cost(offer), lease_id=intent.id, used_s=ending.used_s,
    )  # fmt: skip


def failed(
    job: Job, intent: Intent, failure: AccelError, elapsed_s: float, ending: Ending | None
) -> Attempt:
    """A try that did not; ending: of what it rented, None when nothing was."""
    offer = intent.offer
    return Attempt(
        intent.id, job.task.id, offer.provider, offer.realm, offer.id, Outcome.FAILED,
        Timing(wait_s=elapsed_s), ending.cost(offer) if ending else Cost(),
        lease_id=intent.id if ending else "", error=type(failure).__name__, detail=str(failure)[:500],
        used_s=ending.used_s if ending else 0.0,
    )  # fmt: skip


def left_out(attempts: Sequence[Attempt]) -> tuple[Refusal, ...]:
    """Who is not asked again for this job. What was reaped did no wrong, and neither did who was outrun for
    an offer, but for the last of ``RACES``."""
    outrun = Counter(a.provider for a in attempts if a.error == OfferTaken.__name__)
    return tuple(
        Refusal(a.provider, a.detail or a.error)
        for a in attempts
        if a.outcome is not Outcome.OK and a.error != Reaped.__name__
        and (a.error != OfferTaken.__name__ or outrun[a.provider] >= RACES)
    )  # fmt: skip
