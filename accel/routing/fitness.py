"""The filter. Guarantee: an offer that may not, cannot or would not do the task in time is left out, and why.

A provider's success rate is priced and not filtered by: a provider that fails often and answers in time when
it does not can still be the best of a bad lot, behind every sound one, while one that answers too late is of
no use however sound it is. So the deadline is held against the time alone (``estimate.in_time``), and
failures go into the score.
"""

from __future__ import annotations

import math

from accel.core.attempt import Estimate, Refusal, Scored
from accel.core.funds import Funds
from accel.core.money import dollars
from accel.core.offer import Billing, Offer
from accel.core.task import Task
from accel.routing.candidate import Lateness
from accel.routing.estimate import LOCAL, UNPAYABLE, billed_s, in_time
from accel.routing.explain import span
from accel.routing.standing import Standing

SURE = 0.95  # least probability of meeting a deadline: the guide's target for success


def unfit(
    task: Task, offer: Offer, expected: Estimate, total_s: float, standing: Standing | None,
    funds: Funds | None, failed: dict[str, str],
) -> Refusal | None:  # fmt: skip
    """Why ``offer`` cannot take ``task`` now, but for the deadline; None when it can. total_s: expected."""
    if reason := _never(task, offer, failed):
        return Refusal(offer.provider, reason)
    if standing is not None and standing.blocked:
        again_s = standing.again_s
        again = "" if again_s is None else f"; again in {span(again_s)}"
        return Refusal(offer.provider, f"{standing.blocked}{again}", again_s)
    reason = _too_dear(offer, expected, total_s, funds)
    return Refusal(offer.provider, reason) if reason else None


def _never(task: Task, offer: Offer, failed: dict[str, str]) -> str:
    """What no waiting changes."""
    need, gpu = task.need, offer.gpu
    if offer.provider in failed:
        return f"it failed this task: {failed[offer.provider]}"
    if need.only and offer.provider not in need.only:
        return "not among the providers asked for"
    if task.lane not in offer.lanes:
        return f"it does not serve the {task.lane} lane"
    if need.numerics not in offer.numerics:
        return f"it cannot compute in {need.numerics}"
    if gpu.vram_bytes < need.vram_bytes:
        return f"{gpu.name} has {gpu.vram_bytes / 2**30:.0f} GiB, {need.vram_bytes / 2**30:.0f} needed"
    if gpu.capability < need.capability:
        return f"compute capability {gpu.capability / 10}, {need.capability / 10} needed"
    if need.index and need.index not in offer.resident and need.index not in offer.movable:
        return "the index does not lie there"
    return ""


def _too_dear(offer: Offer, expected: Estimate, total_s: float, funds: Funds | None) -> str:
    """Prices, times and limits."""
    cost = expected.cost.amount
    if offer.billing is Billing.SECONDS and offer.rate.free:
        return "it says its price is zero and bills by the second: that cannot be"
    if cost >= UNPAYABLE or not math.isfinite(total_s):
        return "its expected time or price is beyond all reckoning"
    left_s = offer.quota_left_s
    if left_s is not None and (left_s <= 0 or billed_s(expected.timing) > left_s):
        return f"{left_s:.0f} s of quota left, {billed_s(expected.timing):.0f} s expected"
    # what is rented already has its money reserved
    asks = offer.billing is Billing.SECONDS and not offer.lease_id
    left = funds.left if funds is not None and asks else None
    if left is not None and (left <= 0 or cost > left):
        told = funds.reason if funds and funds.reason else f"{dollars(left)} may still be spent there"
        return f"{told}; {dollars(cost)} expected"
    return ""


def lateness(
    task: Task, offer: Offer, expected: Estimate, total_s: float, on_time: float
) -> Lateness | None:
    """How it stands to deadline and target; None when it would be late, and warm too.

    on_time: P(in ``total_s``). The target is a wish, not a promise: it is enough that the median meets it.
    """
    if on_time >= SURE:
        wish = task.target_s is None or total_s <= task.target_s
        return Lateness.ON_TARGET if wish else Lateness.IN_TIME
    if offer.provider == LOCAL:
        return Lateness.LATE
    warm_s = total_s - expected.timing.cold_s
    return Lateness.COLD if in_time(warm_s, expected.spread, task.within_s) >= SURE else None


def sure(task: Task, scored: Scored, *, warm: bool = False) -> bool:
    """Whether a try that succeeds would meet the deadline; warm: if it had no cold start."""
    t = scored.estimate.timing
    seconds = t.total_s - (t.cold_s if warm else 0.0)
    return in_time(seconds, scored.estimate.spread, task.within_s) >= SURE
