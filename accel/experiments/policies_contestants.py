"""The policies that are compared. Guarantee: all meet the same episode, and each gets ``ATTEMPTS`` tries.

A contestant is a ``Play``: a function from an ``Episode`` to its ``Outcome``. Those here live on the virtual
loop and answer request by request (``on_loop``). This is where learned selection and the clairvoyant bound
join later: the first as one more ``Open`` (it sees each request and what became of it), the second as a
``Play`` that looks at the whole episode (``asks``, ``markets``, ``pace``, ``quota_s``) and runs nothing.
"""

from __future__ import annotations

import asyncio
import math
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from accel.core.errors import (
    EveryAttemptFailed,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    TimedOut,
)
from accel.core.money import NANO, from_dollars
from accel.core.offer import Billing, Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Task
from accel.experiments import policies_litellm as litellm
from accel.experiments.policies_places import TraceProvider
from accel.experiments.policies_world import BYTES_PER_TOKEN, Ask, Episode, Place
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.routing.estimate import FLOP_PER_TOKEN
from accel.simulation.loop import run_virtual
from accel.wire import Envelope, pack_texts

ATTEMPTS = 3
NO_DEADLINE_S = 60.0  # a rival's timeout where the request has no deadline
LOCAL = "local"
# Ours pays for nothing without a budget; this one is a month's, and is never near its end.
BUDGET = from_dollars("100")
START = datetime(2026, 11, 16, tzinfo=UTC)  # the middle of a month

Serve = Callable[[Ask], Awaitable[str]]  # the name of the place that answered, "" when none did
Open = Callable[["Scene"], AbstractAsyncContextManager[Serve]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one contestant made of one episode.

    asked, answered: requests. dated, in_time: those with a deadline, and answered within it. tight,
    tight_in_time: the same of the deadlines under ``TIGHT_S``. worked_nano, total_nano: nano-dollars that
    the places invoice, without and with the seconds that workers stood idle but warm. p50_s, p95_s: of
    answered requests. free_s: seconds of the free quota ``quota_s`` that were used. by_place: answers, ""
    for none. calls: tries that reached a place.
    """

    contestant: str
    seed: int
    service: str
    asked: int
    answered: int
    dated: int
    in_time: int
    tight: int
    tight_in_time: int
    worked_nano: int
    total_nano: int
    p50_s: float
    p95_s: float
    free_s: float
    quota_s: float
    by_place: dict[str, int]
    calls: dict[str, int]


Play = Callable[[Episode], Outcome]
TIGHT_S = 4.0


@dataclass(frozen=True, slots=True)
class Scene:
    """An episode on the running loop: its places, and what a contestant may use."""

    episode: Episode
    providers: Mapping[str, TraceProvider]
    runtime: Runtime
    folder: Path


def on_loop(name: str, contestant: Open) -> Play:
    """A ``Play`` from something that serves request by request."""

    def play(episode: Episode) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="accel-policies-") as folder:
            return run_virtual(_play(name, contestant, episode, Path(folder)))

    return play


async def _play(name: str, contestant: Open, episode: Episode, folder: Path) -> Outcome:
    runtime = Runtime.virtual(episode.seed, START)
    providers = {p.name: TraceProvider(episode, p, runtime) for p in episode.places}
    clock = asyncio.get_running_loop().time
    ends: list[tuple[Ask, str, float]] = []

    async def one(serve: Serve, ask: Ask) -> None:
        began = clock()
        where = await serve(ask)
        ends.append((ask, where, clock() - began))

    scene = Scene(episode, providers, runtime, folder)
    async with contestant(scene) as serve, asyncio.TaskGroup() as running:
        for ask in episode.asks:
            await asyncio.sleep(max(0.0, ask.at_s - clock()))
            running.create_task(one(serve, ask))
    for provider in providers.values():
        provider.workers.close()
    return _sum_up(name, episode, ends, list(providers.values()))


def _sum_up(
    name: str, episode: Episode, ends: Sequence[tuple[Ask, str, float]], providers: Sequence[TraceProvider]
) -> Outcome:  # fmt: skip
    took = sorted(s for _, where, s in ends if where) or [math.nan]
    dated = [(a, bool(w) and s <= a.within_s) for a, w, s in ends if a.within_s is not None]
    tight = [good for a, good in dated if a.within_s is not None and a.within_s < TIGHT_S]
    free = [p.invoice.used_s for p in providers if p.place.billing is Billing.QUOTA]
    return Outcome(
        contestant=name, seed=episode.seed, service=episode.service,
        asked=len(ends), answered=sum(bool(w) for _, w, _ in ends),
        dated=len(dated), in_time=sum(good for _, good in dated),
        tight=len(tight), tight_in_time=sum(tight),
        worked_nano=sum(p.invoice.worked for p in providers),
        total_nano=sum(p.invoice.total for p in providers),
        p50_s=_rank(took, 0.5), p95_s=_rank(took, 0.95), free_s=sum(free), quota_s=episode.quota_s,
        by_place=dict(sorted(Counter(w for _, w, _ in ends).items())),
        calls={p.name: p.calls.total() for p in providers},
    )  # fmt: skip


def _rank(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``ordered`` do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


# Ours ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def ours(scene: Scene) -> AsyncIterator[Serve]:
    """The production engine: board, policy, cascade, health, ledger on disk; no cache."""
    ledger = Ledger(scene.folder / "ledger.sqlite3", Realm.SIMULATED, scene.runtime.now)
    board = Board(list(scene.providers.values()), scene.runtime)
    budgets = Budgets(ledger, Limits({("", Period.MONTH): BUDGET}, {}))
    engine = GPUAccelerator(
        board, ledger, budgets, None, scene.runtime, scene.folder / "jobs", Preference(), Patience()
    )

    async def serve(ask: Ask) -> str:
        task, request = task_of(ask)
        try:
            return (await engine.run(task, request)).where
        except EveryAttemptFailed:
            return ""

    try:
        yield serve
    finally:
        await engine.close()
        ledger.close()


def task_of(ask: Ask) -> tuple[Task, Envelope]:
    """``ask`` as the engine takes it."""
    spec = Spec(ask.stage, model="simulated", revision="none", dimension=8)
    need = Need(ask.stage, Lane.LIVE)
    size = Size(1, tokens=ask.tokens, bytes=BYTES_PER_TOKEN * ask.tokens)
    task = Task(
        str(ask.number), Lane.LIVE, spec, size, need, within_s=ask.within_s, complexity=ask.complexity
    )
    return task, Envelope(task.id, spec.fields(), pack_texts([task.id]), {"k": 1})


# Rivals -------------------------------------------------------------------------------------------------


async def _try(provider: TraceProvider, ask: Ask) -> None:
    """One call with the caller's patience for a timeout. Raises ProviderError."""
    try:
        async with asyncio.timeout(ask.within_s / ATTEMPTS if ask.within_s else NO_DEADLINE_S):
            await provider.serve(ask)
    except TimeoutError:
        raise TimedOut("no answer in time", provider=provider.name) from None


def dollars_of(ask: Ask, place: Place) -> float:
    """What ``ask`` costs by price list and data sheet, in dollars, warm."""
    return float(place.dollars_per_hour) * ask.tokens * FLOP_PER_TOKEN / place.prior_flops / 3600


def _in_order(key: Callable[[Ask, Place], tuple[float, ...]]) -> Open:
    """Try the offers that the board shows in the order of ``key``, another one after each failure."""

    @asynccontextmanager
    async def contestant(scene: Scene) -> AsyncIterator[Serve]:
        board = Board(list(scene.providers.values()), scene.runtime)

        async def serve(ask: Ask) -> str:
            answers = await board.offers(Need(ask.stage, Lane.LIVE))
            there = [scene.providers[a.provider] for a in answers if isinstance(a, Offer)]
            for provider in sorted(there, key=lambda p: key(ask, p.place))[:ATTEMPTS]:
                try:
                    await _try(provider, ask)
                    return provider.name
                except ProviderError:
                    continue
            return ""

        yield serve

    return contestant


def _cheapest(ask: Ask, place: Place) -> tuple[float, ...]:
    """Least money first; of free places the one with the faster data sheet."""
    return dollars_of(ask, place), -place.prior_flops


def _free_first(ask: Ask, place: Place) -> tuple[float, ...]:
    """The free quota while it lasts, then the cheapest GPU, this machine last."""
    return place.name == LOCAL, dollars_of(ask, place), -place.prior_flops


def _litellm(strategy: str, fallback: bool) -> Open:
    """LiteLLM's router: one group of deployments, and this machine in it, or as the group to fall back to."""

    @asynccontextmanager
    async def contestant(scene: Scene) -> AsyncIterator[Serve]:
        clock = asyncio.get_running_loop().time
        group = [n for n in scene.providers if not (fallback and n == LOCAL)]
        rest = litellm.Cooldowns()
        chosen: litellm.Strategy
        if strategy == "cost":
            # a free one gets the smallest price there is: litellm takes 0 for "unknown", 5 dollars a token
            prices = {n: _per_token(p.place) or 1e-18 for n, p in scene.providers.items()}
            chosen = litellm.LowestCost(prices)
        else:
            chosen = litellm.LowestLatency(random.Random(f"{scene.episode.seed}:litellm"))

        async def serve(ask: Ask) -> str:
            for _ in range(1 + litellm.NUM_RETRIES):
                healthy = rest.healthy(group, clock())
                if not healthy:
                    break
                name, began = chosen.pick(healthy, clock()), clock()
                try:
                    await _try(scene.providers[name], ask)
                except ProviderError as failure:
                    chosen.failed(name, _status(failure), clock())
                    rest.failed(name, _status(failure), clock())
                    continue
                chosen.succeeded(name, clock() - began, clock())
                rest.succeeded(name, clock())
                return name
            if not fallback:
                return ""
            try:
                await _try(scene.providers[LOCAL], ask)
            except ProviderError:
                return ""
            return LOCAL

        yield serve

    return contestant


def _per_token(place: Place) -> float:
    return float(place.dollars_per_hour) / 3600 * FLOP_PER_TOKEN / place.prior_flops


def _status(failure: ProviderError) -> int:
    """The HTTP status as which litellm sees it (``exceptions.py``; a lost connection is a 500)."""
    if isinstance(failure, TimedOut):
        return litellm.TIMED_OUT
    if isinstance(failure, QuotaExhausted | RateLimited):
        return litellm.TOO_MANY
    return 500


OURS = "accel"
CONTESTANTS: dict[str, Play] = {
    OURS: on_loop(OURS, ours),
    "always-cheapest": on_loop("always-cheapest", _in_order(_cheapest)),
    "free-first-greedy": on_loop("free-first-greedy", _in_order(_free_first)),
    "litellm-cost": on_loop("litellm-cost", _litellm("cost", fallback=False)),
    "litellm-cost-fb": on_loop("litellm-cost-fb", _litellm("cost", fallback=True)),
    "litellm-latency": on_loop("litellm-latency", _litellm("latency", fallback=False)),
    "litellm-latency-fb": on_loop("litellm-latency-fb", _litellm("latency", fallback=True)),
}


def dollars_per_thousand(nano: int, asked: int) -> float:
    """Dollars for a thousand requests."""
    return nano / NANO / asked * 1000
