"""The live lane. Guarantee: a request ends once, in a valid answer or in one error that lists every try.

What is in the cache is taken from there; for the rest the fresh offers are ranked, tried in their order and
booked, and the cache is filled. How it ended is one row of the ledger, whatever happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

from accel.cache import ExactCache, items
from accel.core.attempt import Attempt, Outcome, Result, Route, Scored, Timing
from accel.core.errors import EveryAttemptFailed, ProviderError
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Billing, Offer, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Need, Stage, Task
from accel.fleet.answers import validate
from accel.fleet.board import PROBE_S, Board
from accel.fleet.journal import Books, Entry, Journal
from accel.fleet.replica import Use
from accel.fleet.replicas import Replicas
from accel.fleet.warmth import Warmer
from accel.ledger.requests import Request
from accel.providers.base import Provider, StandsBy
from accel.routing import Health, Inputs, State, Tried, cascade, rank
from accel.wire import Envelope

# Share of a deadline that may go by until every provider has made its first offer.
PATIENCE = 0.25
# For somebody to come back where nobody is left, without a deadline; and between two looks.
LONGEST_WAIT_S, LEAST_WAIT_S = 60.0, 0.01


class LiveRunner:
    """Runs live tasks. state: the routing state for a task and the offers of the moment."""

    def __init__(
        self, board: Board, journal: Journal, health: Health, cache: ExactCache | None, runtime: Runtime,
        state: Callable[[Task, Sequence[Offer]], State], warmer: Warmer, replicas: Replicas,
    ) -> None:  # fmt: skip
        self._replicas = replicas
        self._board, self._journal, self._health, self._cache = board, journal, health, cache
        self._runtime, self._state, self._warmer = runtime, state, warmer
        self._prices: dict[Stage, float] = {}  # nano-dollars an item, of the cheapest paid offer last seen

    async def run(self, task: Task, request: Envelope, parent: str) -> Result[Envelope]:
        """See ``GPUAccelerator.run``."""
        clock = asyncio.get_running_loop().time
        began = clock()
        entry = Entry(task, parent)
        outcome, result = Outcome.FAILED, None
        try:
            result = await self._answer(task, request, entry)
            outcome = Outcome.OK
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        except EveryAttemptFailed as failure:
            self._note(entry, failure.attempts)
            raise
        finally:
            entry.request = self._end(task, entry, outcome, result, clock() - began)
            self._journal.write(entry)
        overhead_s = max(0.0, clock() - began - result.timing.total_s)
        return Result(
            result.output, result.route, result.attempts, result.hits, result.items, result.decision_id,
            overhead_s,
        )  # fmt: skip

    async def _answer(self, task: Task, request: Envelope, entry: Entry) -> Result[Envelope]:
        clock = asyncio.get_running_loop().time
        ends = None if task.within_s is None else clock() + task.within_s
        keys = items.keys_of(task, request)
        found = await self._runtime.offload(self._cache.get_many, keys) if self._cache else {}
        misses = [i for i, k in enumerate(keys) if k not in found]
        if not misses:
            return Result(items.merge(task, keys, found), None, hits=len(keys), items=len(keys))
        part, missing = items.only(task, request, misses)
        entry.task = part
        route, decision = await self._route_in_time(part, entry, ends)
        wanted = [keys[i] for i in misses]
        self._warmer.consider(part, route, lambda cold: self._warm_up(part, missing, wanted, cold))
        # what reading the cache and asking the providers took is gone
        left_s = None if ends is None else max(ends - clock(), 1e-3)
        books = self._journal.of(entry, self._replicas.meter)
        output, attempts = await cascade(
            part, route, lambda scored: self._call(missing, scored, part.need, books), books, self._health,
            self._runtime, left_s=left_s,
        )  # fmt: skip
        self._note(entry, attempts)
        answer = items.whole(task, output)
        if self._cache:
            fresh = items.split(task, output, wanted)
            await self._runtime.offload(self._cache.put_many, fresh)
            answer = items.merge(task, keys, found | fresh) if found else answer
        return Result(
            answer, route, attempts, hits=len(keys) - len(misses), items=len(keys), decision_id=decision
        )

    def _note(self, entry: Entry, attempts: Sequence[Attempt]) -> None:
        """Book what was never sent, too (no room in a budget, no free place); who failed is asked again."""
        for attempt in attempts:
            if attempt.id not in entry.tried:
                entry.ended.append(attempt)
            if attempt.outcome is Outcome.FAILED:
                self._board.doubt(attempt.provider)

    async def _route_in_time(self, task: Task, entry: Entry, ends: float | None) -> tuple[Route, str]:
        """A route with an offer in it: while there is none, and one is said to come back in time, wait."""
        clock = asyncio.get_running_loop().time
        ends = clock() + LONGEST_WAIT_S if ends is None else ends
        while True:
            route, decision = await self.route(task, entry)
            if route.ranked:
                return route, decision
            again_s = min((r.again_s for r in route.refused if r.again_s is not None), default=math.inf)
            if clock() + again_s >= ends:
                return route, decision
            await asyncio.sleep(max(again_s, LEAST_WAIT_S))

    async def _warm_up(self, task: Task, request: Envelope, keys: Sequence[str], cold: Scored) -> None:
        """Run a request where it comes too late for its asker, to its end."""
        task = dataclasses.replace(task, id=f"{task.id}-warm", within_s=None, target_s=None)
        entry = Entry(task, "")
        books = self._journal.of(entry, self._replicas.meter)
        try:
            output, _ = await cascade(
                task, Route(task.id, (cold,)), lambda scored: self._call(request, scored, task.need, books),
                books, self._health, self._runtime, most=1,
            )  # fmt: skip
            if self._cache:
                await self._runtime.offload(self._cache.put_many, items.split(task, output, keys))
        finally:
            self._board.doubt(cold.offer.provider)
            self._journal.write(entry)

    async def route(self, task: Task, entry: Entry | None = None) -> tuple[Route, str]:
        """Where ``task`` would go now, and the id of that decision; noted in ``entry`` if there is one."""
        patience_s = PROBE_S if task.within_s is None else min(PROBE_S, PATIENCE * task.within_s)
        answers = self._replicas.shown(await self._board.offers(task.need, patience_s), task.need)
        offers = tuple([a for a in answers if isinstance(a, Offer)])
        unfit = tuple([a for a in answers if isinstance(a, Unfit)]) if len(offers) < len(answers) else ()
        draw = self._runtime.random.random()
        inputs = Inputs(task, offers, unfit, self._state(task, offers), draw)
        route = rank(task, answers, inputs.state, draw)
        decision = f"{task.id}-{self._runtime.new_id()}"
        if entry is not None:
            entry.decisions.append((decision, inputs, route))
            self._note_price(task, route)
        return route, decision

    async def _call(
        self, request: Envelope, scored: Scored, need: Need, books: Books
    ) -> Tried[Envelope]:
        """One try: one call on the wire, validated."""
        offer = scored.offer
        provider = self._board.providers[offer.provider]
        if use := books.use(scored):
            return await self._call_on_lease(request, offer, need, use)
        if not _stands_by(provider):
            raise ProviderError("it serves no live tasks", provider=offer.provider)
        clock = asyncio.get_running_loop().time
        began = clock()
        output = await provider.call(provider.standing_lease(), request)
        elapsed = clock() - began
        validate(request, output, offer.provider)
        cold, compute = float(output.meta.get("cold_s", 0.0)), float(output.meta.get("compute_s", 0.0))
        timing = Timing(0.0, cold, max(0.0, elapsed - cold - compute), compute)
        return Tried(output, timing, Cost(offer.rate.cost(elapsed), Basis.ESTIMATED), used_s=elapsed)

    async def _call_on_lease(
        self, request: Envelope, offer: Offer, need: Need, use: Use
    ) -> Tried[Envelope]:
        """The same on a replica; what was waited for it to open is its cold start."""
        clock = asyncio.get_running_loop().time
        began = clock()
        output = await self._replicas.call(use, offer, need, request)
        elapsed = clock() - began - use.waited_s
        validate(request, output, offer.provider)
        cold, compute = float(output.meta.get("cold_s", 0.0)), float(output.meta.get("compute_s", 0.0))
        timing = Timing(0.0, use.waited_s + cold, max(0.0, elapsed - cold - compute), compute)
        lease, cost, used_s = use.read()
        return Tried(output, timing, cost, lease, used_s)

    def _note_price(self, task: Task, route: Route) -> None:
        paid = [
            s.estimate.cost.amount for s in route.ranked if s.offer.billing is Billing.SECONDS
        ]  # fmt: skip
        if paid:
            self._prices[task.spec.stage] = min(paid) / max(1, task.size.items)

    def _end(
        self, task: Task, entry: Entry, outcome: Outcome, result: Result[Envelope] | None, seconds: float
    ) -> Request:
        """How the request ended. avoided: what the cheapest paid offer would have cost for all that was
        computed free or taken from the cache; 0 where no paid offer was ever seen."""
        cost, avoided = NanoUSD(entry.spent), 0
        if result is not None:
            price = self._prices.get(task.spec.stage, 0.0)
            free = result.hits if cost else result.items
            avoided = round(price * free)
        return Request(
            f"{task.id}/{self._runtime.new_id()}", entry.parent, task.spec.stage.value,
            task.complexity.value, outcome.value, result.where if result else "", max(0.0, seconds),
            result.items if result else task.size.items, result.hits if result else 0, len(entry.tried), cost,
            NanoUSD(avoided),
        )  # fmt: skip


def _stands_by(provider: Provider) -> TypeGuard[StandsBy]:
    """Asked of its class, where Python remembers the answer; an object is looked through each time."""
    return issubclass(type(provider), StandsBy)
