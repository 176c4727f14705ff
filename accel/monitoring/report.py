"""The report: what one realm's ledger says of a period, counted. Guarantee: pure, exact, and with its n.

Every figure is over rows that the ledger holds: nothing is sampled, smoothed or guessed, and where there
is no row there is no figure (None), never a zero. Estimated and billed money stay two numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from accel.core.attempt import Outcome
from accel.core.money import Basis, NanoUSD
from accel.core.offer import Realm
from accel.core.task import Complexity
from accel.environment import GpuLoad
from accel.ledger.requests import Request
from accel.monitoring.facts import WHOLE, Charge, Facts, Totals, Tried
from accel.monitoring.figures import Seconds
from accel.monitoring.spend import Spend, spend


@dataclass(frozen=True, slots=True)
class Served:
    """Requests of one kind that ended in the period.

    ok, failed, cancelled: by how they ended; cancelled ones were given up by whoever asked, and count for
    nothing else. seconds: of those that ended well. items: what was asked for, hits: how many of them came
    from the cache. attempts: tries that it took.
    """

    name: str
    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    items: int = 0
    hits: int = 0
    attempts: int = 0

    @property
    def ended(self) -> int:
        """Those that ended by themselves: well, or with an error."""
        return self.ok + self.failed

    @property
    def success(self) -> float | None:
        """The share of them that ended well."""
        return self.ok / self.ended if self.ended else None

    @property
    def hit_share(self) -> float | None:
        """The share of the items that came from the cache."""
        return self.hits / self.items if self.items else None


@dataclass(frozen=True, slots=True)
class Share:
    """One provider's part. requests: those it answered. seconds: of all its attempts, waiting included.

    estimated, billed: what its attempts cost, nano-dollars, by what the amount rests on.
    """

    provider: str
    requests: int
    attempts: int
    ok: int
    cancelled: int
    seconds: float
    estimated: NanoUSD
    billed: NanoUSD


@dataclass(frozen=True, slots=True)
class Failed:
    """How often attempts at one provider failed with one class of error."""

    provider: str
    error: str
    n: int


@dataclass(frozen=True, slots=True)
class Used:
    """Leased GPU time: what the provider charged for, in seconds, and how much of that computed."""

    leases: int = 0
    leased_s: float = 0.0
    computed_s: float = 0.0

    @property
    def share(self) -> float | None:
        """0 to 1; None when nothing was leased."""
        return self.computed_s / self.leased_s if self.leased_s > 0 else None


@dataclass(frozen=True, slots=True)
class Report:
    """One realm over [since, until), UTC. ``at`` is when it was made.

    questions: all, simple, complex. stages: by name. providers: busiest first. leased: by provider, of
    GPUs that are rented or drawn from a quota. gpus: this machine's own, at this moment, from its driver.
    jobs: batch jobs that ended, by step. alerts: by state. ever: counts over the whole ledger, if asked for.
    """

    realm: Realm
    since: datetime
    until: datetime
    at: datetime
    questions: tuple[Served, ...]
    stages: tuple[Served, ...]
    providers: tuple[Share, ...]
    failures: tuple[Failed, ...]
    spend: Spend
    leased: tuple[tuple[str, Used], ...]
    gpus: tuple[GpuLoad, ...]
    jobs: tuple[tuple[str, int], ...]
    alerts: tuple[tuple[str, int], ...]
    ever: Totals

    @property
    def empty(self) -> bool:
        """Nothing ended in the period."""
        return not (self.stages or self.providers or self.jobs or any(q.ended for q in self.questions))

    def question(self, complexity: str) -> Served:
        """Whole questions: "simple", "complex", or "" for all."""
        return next((q for q in self.questions if q.name == (complexity or "all")), Served(complexity))

    @property
    def used(self) -> Used:
        """All leased GPU time."""
        every = [used for _, used in self.leased]
        return Used(sum(u.leases for u in every), sum(u.leased_s for u in every),
                    sum(u.computed_s for u in every))  # fmt: skip


def report(facts: Facts, gpus: Sequence[GpuLoad] = ()) -> Report:
    """Count ``facts``. gpus: what the driver of this machine says now."""
    whole = [r for r in facts.requests if r.stage == WHOLE]
    single = [r for r in facts.requests if r.stage != WHOLE]
    stages = defaultdict(list)
    for r in single:
        stages[r.stage].append(r)
    charges = [c for c in facts.charges if facts.since <= c.at < facts.until]
    return Report(
        facts.realm, facts.since, facts.until, facts.at,
        (_served("all", whole),
         *(_served(c.value, [r for r in whole if r.complexity == c]) for c in Complexity)),
        tuple(_served(name, stages[name]) for name in sorted(stages)),
        _shares(single, facts.attempts), _failures(facts.attempts), spend(facts, whole, single),
        _leased(charges), tuple(gpus), facts.jobs, facts.alerts, facts.ever,
    )  # fmt: skip


def _served(name: str, rows: Sequence[Request]) -> Served:
    how = Counter(Outcome(r.outcome) for r in rows)
    return Served(
        name, how[Outcome.OK], how[Outcome.FAILED], how[Outcome.CANCELLED],
        Seconds.of(r.seconds for r in rows if r.outcome == Outcome.OK), sum(r.items for r in rows),
        sum(r.hits for r in rows), sum(r.attempts for r in rows),
    )  # fmt: skip


def _shares(requests: Sequence[Request], attempts: Sequence[Tried]) -> tuple[Share, ...]:
    answered = Counter(r.provider for r in requests if r.outcome == Outcome.OK and r.provider)
    tried: dict[str, list[Tried]] = {name: [] for name in answered}
    for a in attempts:
        tried.setdefault(a.provider, []).append(a)
    found = [
        Share(
            name, answered[name], len(rows), sum(a.outcome == Outcome.OK for a in rows),
            sum(a.outcome == Outcome.CANCELLED for a in rows), sum(a.seconds for a in rows),
            _cost(rows, Basis.ESTIMATED), _cost(rows, Basis.BILLED),
        )
        for name, rows in tried.items()
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda s: (-s.requests, -s.attempts, s.provider)))


def _cost(rows: Iterable[Tried], basis: Basis) -> NanoUSD:
    return NanoUSD(sum(a.amount for a in rows if a.basis == basis))


def _failures(attempts: Iterable[Tried]) -> tuple[Failed, ...]:
    counted = Counter((a.provider, a.error or "unnamed") for a in attempts if a.outcome == Outcome.FAILED)
    return tuple(Failed(p, e, n) for (p, e), n in sorted(counted.items(), key=lambda i: (-i[1], i[0])))


def _leased(charges: Iterable[Charge]) -> tuple[tuple[str, Used], ...]:
    """By provider, over the charges of the period: each is one lease, or one call that was charged for."""
    found: dict[str, list[Charge]] = {}
    for c in charges:
        if c.leased_s > 0:
            found.setdefault(c.provider, []).append(c)
    return tuple(
        (name, Used(len(rows), sum(c.leased_s for c in rows), sum(c.computed_s for c in rows)))
        for name, rows in sorted(found.items())
    )
