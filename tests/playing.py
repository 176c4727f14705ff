"""Requests against scripted providers, on the virtual loop, with books that notice what is left open."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from accel.core.attempt import Attempt, Estimate, Outcome, Route, Scored, Timing
from accel.core.errors import AccelError, ProviderError
from accel.core.money import Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.routing import Health, Tried, cascade

SPEC = Spec(Stage.EMBED, model="m")
NANO_PER_S = 1000  # what every remote provider costs
RATE = Rate(NanoUSD(3600 * NANO_PER_S), date(2026, 11, 23), "test")
FREE = Rate(NanoUSD(0), date(2026, 11, 23), "test")

# what a provider does on one call: "ok", "hang", "late" (answers although it was cancelled), "crash", an
# error or its class; after how many seconds; and what it asks for (Retry-After)
Step = tuple[object, float, float | None]


def task(
    ident: str = "t", *, within_s: float | None = None, tokens: int = 100, lane: Lane = Lane.BATCH
) -> Task:
    return Task(ident, lane, SPEC, Size(1, tokens), Need(Stage.EMBED, lane), within_s=within_s)


def scored(name: str, seconds: float = 0.1, *, cold_s: float = 0.0, offer: str = "") -> Scored:
    rate = FREE if name == "local" else RATE
    made = Offer(
        offer or f"{name}-1", name, Realm.SIMULATED, CPU, rate, datetime(2026, 1, 1, tzinfo=UTC), "test"
    )
    return Scored(made, Estimate(Timing(compute_s=seconds, cold_s=cold_s), Cost(), "prior"), 0.0)


class FakeBooks:
    """Keeps what was opened and closed, and fails the test on anything but one close for each open."""

    def __init__(self, refuse: dict[str, Exception] | None = None) -> None:
        self.refuse = refuse or {}
        self.opened: dict[str, tuple[Scored, float | None]] = {}
        self.closed: dict[str, Attempt] = {}

    def open(self, attempt_id: str, scored: Scored, bound_s: float | None) -> None:
        if scored.offer.provider in self.refuse:
            raise self.refuse[scored.offer.provider]
        assert attempt_id not in self.opened
        self.opened[attempt_id] = (scored, bound_s)

    def close(self, attempt: Attempt) -> None:
        assert attempt.id in self.opened, "closed, but never opened"
        assert attempt.id not in self.closed, "closed twice"
        self.closed[attempt.id] = attempt

    @property
    def balanced(self) -> bool:
        return self.opened.keys() == self.closed.keys()


@dataclass
class Ran:
    """How one request ended, in virtual seconds. calls: (provider, when) as they reached the wire."""

    output: str | None
    error: AccelError | None
    attempts: list[Attempt]
    calls: list[tuple[str, float]]
    took_s: float

    @property
    def tried(self) -> list[tuple[str, str]]:
        return [(a.provider, a.error or a.outcome.value) for a in self.attempts]


@dataclass
class Scene:
    """Providers that follow ``steps``, or ``does`` where given, and the health that all requests share."""

    steps: dict[str, list[Step]] = field(default_factory=dict)
    expected_s: dict[str, float] = field(default_factory=dict)
    refuse: dict[str, Exception] = field(default_factory=dict)
    seed: int = 1
    does: Callable[[str, float], Step | None] = lambda _name, _now: None
    basis: Basis = Basis.ESTIMATED  # of what an answer cost
    after: float = 0.1  # how long a call takes for which nothing is scripted

    def __post_init__(self) -> None:
        self.health = Health(random.Random(self.seed))
        self.runtime = Runtime.virtual(self.seed)
        self.books = FakeBooks(self.refuse)
        self.calls: list[tuple[str, float]] = []
        self.in_flight: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()

    async def run(self, scored: Scored) -> Tried[str]:
        name, now = scored.offer.provider, asyncio.get_running_loop().time()
        self.calls.append((name, now))
        step = self.does(name, now)
        if step is None:
            step = self.steps[name].pop(0) if self.steps.get(name) else ("ok", self.after, None)
        what, seconds, asked = step
        self.in_flight[name] += 1
        self.most[name] = max(self.most[name], self.in_flight[name])
        try:
            await asyncio.sleep(1e9 if what == "hang" else seconds)
        except asyncio.CancelledError:
            if what != "late":
                raise
        finally:
            self.in_flight[name] -= 1
        if what == "crash":
            raise KeyError("a bug of ours")
        if isinstance(what, Exception):
            raise what
        if isinstance(what, type) and issubclass(what, ProviderError):
            error = what("scripted", provider=name)
            error.retry_after_s = asked
            raise error
        if isinstance(what, type):
            raise what("scripted")
        self.delivered[name] += 1
        cost = Cost(scored.offer.rate.cost(seconds), self.basis)
        return Tried(f"from {name}", Timing(compute_s=seconds), cost)

    async def ask(self, names: Sequence[str | Scored], asked: Task) -> Ran:
        clock = asyncio.get_running_loop().time
        began, first = clock(), len(self.calls)
        route = Route(
            asked.id,
            tuple(scored(n, self.expected_s.get(n, 0.1)) if isinstance(n, str) else n for n in names),
        )
        output, error, attempts = None, None, []
        try:
            output, done = await cascade(asked, route, self.run, self.books, self.health, self.runtime)
            attempts = list(done)
        except AccelError as failed:
            error, attempts = failed, list(getattr(failed, "attempts", ()))
            attempts = attempts or list(self.books.closed.values())
        return Ran(output, error, attempts, self.calls[first:], clock() - began)


def measured(scene: Scene, name: str, seconds: Sequence[float], *, tokens: int = 100) -> None:
    """As if ``name`` had answered in these seconds before."""
    for s in seconds:
        past = Attempt(
            "past", "past", name, Realm.SIMULATED, "o", Outcome.OK, Timing(compute_s=s), Cost()
        )
        scene.health.recall(past, SPEC, Size(1, tokens), 0.0)
