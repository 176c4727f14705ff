"""The policy. Guarantee: ``rank`` is a pure function; the same inputs give the same route, for ever.

Filter, score in money, order. **Free first, then the cheapest that still meets the deadline.**

Filter (``fitness``): each offer that is left out has its reason. Terms are refused before, by the board.

Score, in dollars, as a sum of named terms:

=========  ============================================================================================
money      mean cost; 0 where nothing is billed, or prepaid credit covers it
idle       the seconds that the far end stays up because of this call (``estimate.awake_s``), at its rate
budget     λ · (money + idle): money is dearer while a budget is used ahead of its time (``pacing``)
quota      μ · mean seconds of free quota: free hours have a price while live work uses them up too soon
time       mean seconds at ``value_of_hour``, ``COMPLEX_TIME`` times that for a complex question
risk       ``value_of_deadline`` · P(no answer in time); without a deadline P(no answer)
best_for   a small discount where the guide says so (``best_for``)
priority   what the person's multiplier adds to the sum of the others, or takes off
=========  ============================================================================================

Order: the person's own order; then who meets target and deadline before who meets only the deadline; answers
here before elsewhere (they quote the person's documents, and a generator is quickest where it runs already);
then what is free, and mostly succeeds, before the rest; then by score. ``draw`` breaks exact ties. The
person's ``fallback`` orders what comes behind the first. This machine is the fallback: where it would miss
the deadline it is not dropped, but goes behind who meets it (unless it was asked for by name); behind it come
those that would be late only because they are cold (see ``candidate``), or before it where it has no even
chance itself (``HOPELESS``).

Learned selection plugs in at ``Standing``: a bandit draws a provider's seconds and success from what it
believes, by ``draw``, where now their medians stand. All that is below them stays as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.attempt import Refusal, Route
from accel.core.funds import Funds
from accel.core.money import NANO
from accel.core.offer import Billing, Offer, Unfit
from accel.core.task import Complexity, Lane, Stage, Task
from accel.routing.best_for import favourites, share
from accel.routing.candidate import Candidate, Key, Lateness
from accel.routing.estimate import (
    LOCAL,
    UNPAYABLE,
    awake_s,
    billed_s,
    estimate,
    in_time,
    mean_factor,
)
from accel.routing.explain import explain, too_late
from accel.routing.fitness import lateness, unfit
from accel.routing.pacing import budget_price, quota_price
from accel.routing.standing import Standing

__all__ = ["LOCAL", "POLICY", "Inputs", "State", "rank", "replay", "same"]

POLICY = "free-first-3"
# The guide's targets give a complex question three times the seconds of a simple one: it is about three
# times the work, stage after stage, so that what a slow GPU costs is waited for three times.
COMPLEX_TIME = 3.0
# What fails more often than one call in five is no gift: it costs the time of a second try elsewhere, and the
# deadline with it. Free comes first among the sound; behind them its price of nothing counts like any other.
SOUND = 0.8
# Below an even chance here, trying elsewhere is the better bet. Measured on real arrivals: 0.5 and 0.8 came
# to the same, 0.2 to less.
HOPELESS = 0.5


@dataclass(frozen=True, slots=True)
class State:
    """What routing knows besides the offers.

    order: provider names the person wants first, in this order. fallback: the order of the offers behind
    the first one. priorities: a multiplier of the score per provider; below 1 prefers. failed: providers
    that failed this task before, and how: a batch job goes on to another. value_of_hour: dollars that an
    hour of waiting is worth. value_of_deadline: dollars that a missed deadline costs. standings, funds:
    at most one per provider; without one, nothing is known against it, and no limit is known.
    Raises ValueError for a value that is negative or not finite, and a priority that is not above 0.
    """

    order: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    priorities: tuple[tuple[str, float], ...] = ()
    failed: tuple[Refusal, ...] = ()
    value_of_hour: float = 1.0
    value_of_deadline: float = 0.05
    standings: tuple[Standing, ...] = ()
    funds: tuple[Funds, ...] = ()

    def __post_init__(self) -> None:
        for what, value in (("an hour", self.value_of_hour), ("a deadline", self.value_of_deadline)):
            if not 0 <= value < math.inf:
                raise ValueError(f"the value of {what} is dollars from 0 on, not {value}")
        for name, priority in self.priorities:
            if not 0 < priority < math.inf:
                raise ValueError(f"the priority of {name} must be a number above 0, not {priority}")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything ``rank`` looks at: what the ledger keeps, so that a decision can be replayed."""

    task: Task
    offers: tuple[Offer, ...]
    unfit: tuple[Unfit, ...]
    state: State
    draw: float


def replay(inputs: Inputs) -> Route:
    """Rank a logged decision again."""
    return rank(inputs.task, (*inputs.offers, *inputs.unfit), inputs.state, inputs.draw)


def same(a: Route, b: Route) -> bool:
    """Whether two routes are the same decision: order, scores and refusals. Wording may change, and the
    policy's name: a later one must still decide as the earlier did, on what that one knew."""

    def decided(route: Route) -> tuple[object, ...]:
        ranked = tuple((s.offer.id, s.score, s.estimate) for s in route.ranked)
        return route.task_id, ranked, sorted(r.provider for r in route.refused)

    return decided(a) == decided(b)


def rank(task: Task, offers: Sequence[Offer | Unfit], state: State, draw: float) -> Route:
    """Order ``offers`` for ``task``. ``draw`` in [0, 1) breaks exact ties, and nothing else."""
    fit, refused = _filter(task, offers, state)
    hour = state.value_of_hour * (COMPLEX_TIME if task.complexity is Complexity.COMPLEX else 1.0)
    paid_per_s = _cheapest_per_s(offers) if task.lane is Lane.LIVE else None
    favoured = favourites(task, fit)
    priorities = dict(state.priorities)
    answering = task.spec.stage is Stage.ANSWER
    for place, c in enumerate(fit):
        name, billing = c.offer.provider, c.offer.billing
        if billing is Billing.QUOTA and c.funds is not None:
            c.quota_price = quota_price(c.funds.quota, task.lane, paid_per_s)
        c.gratis = c.expected.success >= SOUND and billing is not Billing.SECONDS and c.quota_price == 0.0
        spared = share(task, name, favourite=place in favoured)
        _weigh(c, hour, state.value_of_deadline, spared, priorities.get(name, 1.0))
        away = answering and name != LOCAL
        c.key = (c.lateness is Lateness.COLD, c.place, c.lateness, away, not c.gratis, c.score)
    _give_up_here(fit)
    reckoned = fit
    if not math.isfinite(sum([c.score for c in fit])):
        reckoned = [c for c in fit if math.isfinite(c.score)]
        beyond = "its score in dollars is beyond all reckoning"
        refused += [Refusal(c.offer.provider, beyond) for c in fit if not math.isfinite(c.score)]
    ordered = _order(reckoned, state, draw)
    refused.sort(key=_REFUSAL_KEY)  # whatever order they were asked in
    explained = explain(task, ordered, state.order, state.fallback)
    return Route(task.id, explained, tuple(refused), POLICY, draw)


def _filter(
    task: Task, offers: Sequence[Offer | Unfit], state: State
) -> tuple[list[Candidate], list[Refusal]]:
    standings = {s.provider: s for s in state.standings}
    funds = {f.provider: f for f in state.funds}
    failed = {f.provider: f.reason for f in state.failed}
    places = _places(state.order)
    last = len(state.order)
    fit: list[Candidate] = []
    refused: list[Refusal] = []
    for offer in offers:
        if isinstance(offer, Unfit):
            refused.append(Refusal(offer.provider, offer.reason))
            continue
        name = offer.provider
        standing, purse = standings.get(name), funds.get(name)
        expected = estimate(task, offer, standing)
        total_s = expected.timing.total_s
        if refusal := unfit(task, offer, expected, total_s, standing, purse, failed):
            refused.append(refusal)
            continue
        on_time = in_time(total_s, expected.spread, task.within_s)
        late = lateness(task, offer, expected, total_s, on_time)
        if late is None:
            refused.append(Refusal(name, too_late(task, total_s, on_time)))
        else:
            place = places.get(name, last)
            candidate = Candidate(offer, expected, total_s, on_time, late, place, purse)
            candidate.awake_s = awake_s(offer, standing)
            candidate.starting = standing is not None and standing.since_s == 0.0 and offer.cold_s > 0
            fit.append(candidate)
    return fit, refused


def _give_up_here(fit: list[Candidate]) -> None:
    """Put the cold before this machine, where nobody is in time and it would most likely fail, too.

    The request is as good as lost here, and would only lengthen the queue for those behind it; sent to the
    cold one, it starts a worker for them. While one is being started, the others are left alone.
    """
    # the first is in time, as a rule, and settles it
    if any(c.lateness < Lateness.LATE for c in fit) or any(
        c.lateness is Lateness.LATE and c.on_time * c.expected.success >= HOPELESS for c in fit
    ):
        return
    cold = [c for c in fit if c.lateness is Lateness.COLD]
    starting = [c for c in cold if c.starting]
    for c in starting or cold:
        # of those on their way the soonest warm, be it free or not: what its start costs is spent
        free = c.gratis or c.starting
        c.key = (False, c.place, Lateness.IN_TIME, False, not free, c.score)


def _weigh(c: Candidate, hour: float, deadline: float, spared: float, priority: float) -> None:
    """Fill in ``terms`` and ``score``; terms that are zero are left out, but for money and time."""
    expected, mean = c.expected, mean_factor(c.expected.spread)
    cost, funds = expected.cost.amount, c.funds
    idle = c.offer.rate.cost(c.awake_s) if c.awake_s and c.offer.billing is Billing.SECONDS else 0
    prepaid = funds is not None and cost + idle <= funds.credit
    money = 0.0 if prepaid else cost / NANO * mean
    time = c.total_s * mean * hour / 3600
    terms = [("money", money), ("time", time)]
    total = money + time
    if idle and not prepaid:
        terms.append(("idle", idle / NANO))
        total += idle / NANO
        money += idle / NANO
    if money and funds is not None and (dearer := budget_price(funds.budget) * money):
        terms.append(("budget", dearer))
        total += dearer
    if c.quota_price:
        quota = c.quota_price * billed_s(expected.timing) * mean
        terms.append(("quota", quota))
        total += quota
    if risk := deadline * (1.0 - expected.success * c.on_time):
        terms.append(("risk", risk))
        total += risk
    if spared:
        terms.append(("best_for", -spared * total))
        total -= spared * total
    if priority != 1.0:
        terms.append(("priority", (priority - 1.0) * total))
        total *= priority
    c.terms, c.score = tuple(terms), total


def _order(fit: list[Candidate], state: State, draw: float) -> list[Candidate]:
    def tie(c: Candidate) -> tuple[Key, bytes]:
        # hashed, not compared by name: a tie must not always fall to the first of the alphabet
        told = f"{draw!r}|{c.offer.provider}|{c.offer.id}".encode()
        return c.key, hashlib.blake2b(told, digest_size=8).digest()

    ordered = sorted(fit, key=_KEY)
    if any(a.key == b.key for a, b in itertools.pairwise(ordered)):
        ordered = sorted(fit, key=tie)
    if state.fallback and len(ordered) > 2:
        wanted, last = _places(state.fallback), len(state.fallback)
        # what the person asked for first stays before, what is cold behind; else as it was
        ordered[1:] = sorted(
            ordered[1:], key=lambda c: (c.key[0], c.place, wanted.get(c.offer.provider, last))
        )
    return ordered


_KEY = operator.attrgetter("key")
_REFUSAL_KEY = operator.attrgetter("provider", "reason")


def _places(names: Sequence[str]) -> dict[str, int]:
    """Where each name stands first."""
    return {name: place for place, name in reversed(list(enumerate(names)))}


def _cheapest_per_s(offers: Sequence[Offer | Unfit]) -> float | None:
    """Dollars per second of the cheapest GPU that is paid for."""
    rates = [
        o.rate.nano_per_hour
        for o in offers
        if isinstance(o, Offer) and o.billing is Billing.SECONDS and o.gpu.capability
        and 0 < o.rate.nano_per_hour < UNPAYABLE
    ]  # fmt: skip
    return min(rates) / NANO / 3600 if rates else None
