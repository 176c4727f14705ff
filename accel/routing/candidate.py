"""An offer on its way through the policy. Guarantee: what ``explain`` reads is what the order came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from accel.core.attempt import Estimate
from accel.core.funds import Funds
from accel.core.offer import Offer


class Lateness(IntEnum):
    """How an offer stands to the deadline and the target of a task, from best to worst.

    ON_TARGET: both are met (or there are none). IN_TIME: the deadline is, the target is not. LATE: not the
    deadline: this machine, the fallback. COLD: not the deadline, but for its cold start it would: a try
    makes it warm for those that follow, so that it is the last resort, and not refused for ever.
    """

    ON_TARGET = 0
    IN_TIME = 1
    LATE = 2
    COLD = 3


Key = tuple[bool, int, Lateness, bool, bool, float]


@dataclass(slots=True)
class Candidate:
    """A fit offer.

    total_s: expected seconds in all. on_time: P(in time) of what succeeds. place: in the person's own order.
    funds: what may be spent there. awake_s: seconds that the far end stays up, and bills, because of this
    call. starting: it is cold, and a call of ours is in flight there, which pays for the start. quota_price:
    dollars per second of free quota. gratis: it takes no money and no quota that has a price, and is sound.
    terms and score: dollars. key: what it is ordered by.
    """

    offer: Offer
    expected: Estimate
    total_s: float
    on_time: float
    lateness: Lateness
    place: int
    funds: Funds | None
    awake_s: float = 0.0
    starting: bool = False
    quota_price: float = 0.0
    gratis: bool = True
    terms: tuple[tuple[str, float], ...] = ()
    score: float = 0.0
    key: Key = (False, 0, Lateness.ON_TARGET, False, False, 0.0)
