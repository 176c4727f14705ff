"""The policy. Guarantee: ``rank`` is a pure function; the same inputs give the same route, for ever.

Filter, then order. Filtered out, each with its reason: providers that made no offer, the wrong lane,
numerics, memory or capability, an index that is not there, too little quota or budget, a deadline that
would be missed. What is left is ordered: the person's own order first, then free before paid, then by
score in dollars: the money it costs plus the time it takes at ``value_of_hour``.

This machine is the fallback: where it would miss the deadline it is not dropped, as another provider
would be, but goes behind those that meet it (unless the person asked for it by name).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.attempt import Estimate, Refusal, Route, Scored
from accel.core.funds import Funds
from accel.core.money import NANO
from accel.core.offer import Offer, Unfit
from accel.core.task import Task
from accel.routing.estimate import estimate
from accel.routing.standing import Standing

POLICY = "free-first-1"
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class State:
    """What routing knows besides the offers.

    order: provider names the person wants first. failed: providers that failed this task before, and
    how: a batch job goes on to another. budget_left: nano-dollars, None without a limit.
    value_of_hour: dollars that an hour of waiting is worth. history: measured attempts of this realm.
    """

    order: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    priorities: tuple[tuple[str, float], ...] = ()
    failed: tuple[Refusal, ...] = ()
    value_of_hour: float = 1.0
    value_of_deadline: float = 0.05
    standings: tuple[Standing, ...] = ()
    funds: tuple[Funds, ...] = ()


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
    """Whether two routes are the same decision: order, scores and refusals. Wording may change."""

    def decided(route: Route) -> tuple[object, ...]:
        ranked = tuple((s.offer.id, s.score, s.estimate) for s in route.ranked)
        return route.task_id, route.policy, ranked, sorted(r.provider for r in route.refused)

    return decided(a) == decided(b)


def rank(task: Task, offers: Sequence[Offer | Unfit], state: State, draw: float) -> Route:
    """Order ``offers`` for ``task``. ``draw`` in [0, 1) breaks exact ties, and nothing else."""
    ranked: list[Scored] = []
    refused: list[Refusal] = []
    for offer in offers:
        if isinstance(offer, Unfit):
            refused.append(Refusal(offer.provider, offer.reason))
            continue
        standing = {s.provider: s for s in state.standings}.get(offer.provider, Standing(offer.provider))
        expected = estimate(task, offer, standing)
        if standing.blocked:
            refused.append(Refusal(offer.provider, standing.blocked))
            continue
        if reason := _unfit(task, offer, expected, state):
            refused.append(Refusal(offer.provider, reason))
        else:
            ranked.append(_score(offer, expected, state))
    ranked.sort(key=lambda s: _key(task, s, state, draw))
    explained = tuple(_explain(task, i, s, ranked, state) for i, s in enumerate(ranked))
    return Route(task.id, explained, tuple(refused), POLICY, draw)


def _unfit(task: Task, offer: Offer, expected: Estimate, state: State) -> str:
    """Why ``offer`` cannot take ``task``, or ""."""
    need = task.need
    for before in state.failed:
        if before.provider == offer.provider:
            return f"it failed this task: {before.reason}"
    if need.only and offer.provider not in need.only:
        return "not among the providers asked for"
    if task.lane not in offer.lanes:
        return f"it does not serve the {task.lane} lane"
    if need.numerics not in offer.numerics:
        return f"it cannot compute in {need.numerics}"
    if offer.gpu.vram_bytes < need.vram_bytes:
        return f"{offer.gpu.name} has {offer.gpu.vram_bytes >> 30} GiB, {need.vram_bytes >> 30} needed"
    if offer.gpu.capability < need.capability:
        return f"compute capability {offer.gpu.capability / 10}, {need.capability / 10} needed"
    if need.index and need.index not in offer.resident:
        return "the index does not lie there"
    seconds = expected.timing.total_s
    if offer.quota_left_s is not None and offer.quota_left_s < seconds:
        return f"{offer.quota_left_s:.0f} s of quota left, {seconds:.0f} s expected"
    for f in state.funds:
        if f.provider == offer.provider and f.left is not None and expected.cost.amount > f.left:
            return f.reason
    if offer.provider != LOCAL and _late(task, expected):
        return f"{seconds:.1f} s expected, the deadline is {task.within_s:.1f} s"
    return ""


def _late(task: Task, expected: Estimate) -> bool:
    return task.within_s is not None and expected.timing.total_s > task.within_s


def _score(offer: Offer, expected: Estimate, state: State) -> Scored:
    money = expected.cost.amount / NANO
    time = expected.timing.total_s * state.value_of_hour / 3600
    return Scored(offer, expected, money + time, (("money", money), ("time", time)))


def _key(task: Task, scored: Scored, state: State, draw: float) -> tuple[int, bool, bool, float, bytes]:
    name = scored.offer.provider
    place = state.order.index(name) if name in state.order else len(state.order)
    # hashed, not compared by name: a tie must not always fall to the first of the alphabet
    tie = hashlib.blake2b(f"{draw!r}|{scored.offer.id}".encode(), digest_size=8).digest()
    return place, _late(task, scored.estimate), not scored.offer.rate.free, scored.score, tie


def _explain(
    task: Task, place: int, scored: Scored, ranked: Sequence[Scored], state: State
) -> Scored:
    """The same, with one sentence: why it is first, or why it lost to the first."""
    name, seconds = scored.offer.provider, scored.estimate.timing.total_s
    told = f"{_s(seconds)}, {scored.estimate.basis}"
    first = ranked[0]
    if place == 0:
        if name in state.order:
            why = f"asked for first; {told}"
        elif len(ranked) == 1:
            why = f"only fit offer; {told}"
        elif _late(task, ranked[1].estimate) and not _late(task, scored.estimate):
            why = f"meets the deadline of {_s(task.within_s or 0.0)}: {told}"
        else:
            kind = "free and fastest" if scored.offer.rate.free else "best price for the time"
            runner = ranked[1]
            why = f"{kind}: {told}, {runner.offer.provider} {_s(runner.estimate.timing.total_s)}"
    elif first.offer.provider in state.order and name not in state.order:
        why = f"fallback: {first.offer.provider} was asked for; {told}"
    elif _late(task, scored.estimate) and not _late(task, first.estimate):
        why = f"fallback: it would miss the deadline of {_s(task.within_s or 0.0)}; {told}"
    elif first.offer.rate.free and not scored.offer.rate.free:
        why = f"paid, and {first.offer.provider} is free; {told}"
    else:
        why = f"score ${scored.score:.6f} against ${first.score:.6f}; {told}"
    return Scored(scored.offer, scored.estimate, scored.score, scored.terms, why)


def _s(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
