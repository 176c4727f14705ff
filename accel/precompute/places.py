"""Who takes part. Guarantee: nobody's free hours are used up, and nothing is paid for unasked.

By itself a corpus goes to everything that is free, this machine among it; to what bills by the second only
where nothing free but this machine is to be had, and the router scores it better than this machine, which
needs a budget. Named providers are used as named, and no others. What the terms forbid is left out, or
refused when it was named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.attempt import Refusal, Scored
from accel.core.errors import UsageError
from accel.core.money import dollars
from accel.core.offer import Billing, Offer, Unfit
from accel.core.task import Need, Task
from accel.gpu_accelerator import GPUAccelerator
from accel.providers import terms

LOCAL = "local"
# Sessions of one account at a time; Kaggle allows two with a GPU ("Maximum batch GPU session count of 2
# reached", its answer to a third push, quoted in public issues; ``providers.kaggle_calls``).
SESSIONS = {"kaggle": 2}
# Of a week's free hours this share is left for what comes up until they are given anew.
KEEP = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """One provider. sessions: jobs at a time. keep_s: free GPU seconds that are left there. why: in words.

    each_s: seconds that one shard is expected to take there.
    """

    name: str
    sessions: int
    keep_s: float
    why: str
    each_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Who takes part, and who does not and why."""

    places: tuple[Place, ...]
    left_out: tuple[Refusal, ...] = ()


def permitted(accelerator: GPUAccelerator, need: Need, named: Sequence[str]) -> None:
    """See that who is named is there, and may do it. Raises UsageError, TermsError."""
    for name in named:
        if name not in accelerator.board.providers:
            have = ", ".join(sorted(accelerator.board.providers))
            raise UsageError(f"there is no provider {name!r} here.", hint=f"There are: {have}.")
        if refusal := terms.check(name, need, accelerator.preference.accepted):
            raise refusal


async def plan(
    accelerator: GPUAccelerator, task: Task, *, named: Sequence[str] = (), keep_s: float | None = None
) -> Plan:
    """Choose for ``task``, which stands for all shards. keep_s: free GPU seconds to leave at each provider
    that has a quota; None: ``KEEP`` of a whole window.

    Raises UsageError for a name that is not there or cannot be used, TermsError for what its terms forbid.
    """
    permitted(accelerator, task.need, named)
    answers, route = await accelerator.preview(task)
    mendable = {a.provider for a in answers if isinstance(a, Unfit) and a.mendable}
    for refused in route.refused:
        if refused.provider in named and refused.provider in mendable:
            raise UsageError(
                f"{refused.provider} cannot be used: {refused.reason}.",
                hint=f"See: accel setup {refused.provider}",
            )
    places: list[Place] = []
    out = list(route.refused)
    here = next((s.score for s in route.ranked if s.offer.provider == LOCAL), None)
    gift = any(s.offer.billing is not Billing.SECONDS and s.offer.provider != LOCAL for s in route.ranked)
    for scored in route.ranked:
        offer = scored.offer
        if any(p.name == offer.provider for p in places):
            continue  # the better of its offers stands there already
        if named and offer.provider not in named:
            out.append(Refusal(offer.provider, "not named"))
            continue
        worth = not gift and here is not None and scored.score < here
        if named or offer.billing is not Billing.SECONDS or worth:
            places.append(_place(scored, keep_s))
        else:
            cost = dollars(scored.estimate.cost.amount)
            because = "others are free" if gift else "the time won is not worth it"
            why = f"it costs about {cost} a shard, and {because}; --to names it"
            out.append(Refusal(offer.provider, why))
    chosen = tuple(places)
    if not chosen:
        why = "; ".join(f"{r.provider}: {r.reason}" for r in out if not named or r.provider in named)
        raise UsageError(f"nobody can embed this corpus now: {why or 'no offer'}.", hint="See: accel doctor")
    return Plan(chosen, tuple(out))


def _place(scored: Scored, keep_s: float | None) -> Place:
    offer, timing = scored.offer, scored.estimate.timing
    kept = keep(offer, keep_s)
    if offer.billing is Billing.NOTHING:
        why = "this machine, free" if offer.provider == LOCAL else "free"
    elif offer.billing is Billing.QUOTA:
        left = "" if offer.quota_left_s is None else f" {offer.quota_left_s / 3600:.1f} GPU hours left,"
        why = f"free:{left} {kept / 3600:.1f} of them are kept"
    else:
        why = f"about {dollars(scored.estimate.cost.amount)} a shard ({scored.estimate.basis})"
    sessions = SESSIONS.get(offer.provider, 1)
    return Place(offer.provider, sessions, kept, why, timing.total_s)


def keep(offer: Offer, keep_s: float | None) -> float:
    """Free GPU seconds that must be left at ``offer``'s provider; 0 where nothing is counted."""
    if offer.billing is not Billing.QUOTA or offer.quota_left_s is None:
        return 0.0
    return KEEP * (offer.quota_s or offer.quota_left_s) if keep_s is None else keep_s


def paced(offer: Offer, place: Place, running: int, each_s: float) -> str:
    """Why ``place`` should not begin one more shard, or "". running: its sessions under way, which may not
    be counted there yet; each_s: GPU seconds of one."""
    if offer.billing is not Billing.QUOTA or offer.quota_left_s is None:
        return ""
    after_s = offer.quota_left_s - each_s * (running + 1)
    if after_s >= place.keep_s:
        return ""
    again = f", until {offer.quota_resets_at:%Y-%m-%d %H:%M} UTC" if offer.quota_resets_at else ""
    left, kept = offer.quota_left_s / 3600, place.keep_s / 3600
    return f"{left:.1f} GPU hours are left, of which {kept:.1f} are kept{again} (--keep-hours)"
