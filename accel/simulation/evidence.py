"""What really happened. Guarantee: written down by the world, never by the engine that is judged by it.

Providers note every call (``Call``) and every rented thing (``Rented``) with what they would bill for it; the
traffic notes how every request ended (``End``). ``invariants`` compares them with what the engine put into
its ledger. Times are loop seconds; money is nano-dollars.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from accel.core.attempt import Attempt, Route
from accel.core.money import ZERO, NanoUSD, Rate
from accel.core.offer import Billing

FOREVER = float("inf")


@dataclass(slots=True)
class Call:
    """One call on the wire of one provider.

    engine: which router's life it belongs to, from 0. rate: what the provider charges. error: class of what
    it raised, "" for an answer, "cancelled" when the caller hung up. told: the error says what it cost.
    billed_s: seconds that the provider counts, cold start included; None while they run.
    """

    engine: int
    provider: str
    task_id: str
    stage: str
    model: str
    billing: Billing
    rate: Rate
    began: float
    ended: float = FOREVER
    error: str = ""
    told: bool = False
    retry_after_s: float = 0.0
    billed_s: float | None = None

    @property
    def invoice(self) -> NanoUSD:
        """What the provider asks for it, once it has ended."""
        if self.billing is not Billing.SECONDS or self.billed_s is None:
            return ZERO
        return self.rate.cost(self.billed_s)

    @property
    def exact(self) -> bool:
        """Whether the caller can know what was billed: it was told, or saw every counted second.

        It does not where a connection broke, and where an answer came late: there it may only be above.
        """
        if self.error not in ("", "cancelled"):
            return self.told or self.billed_s == self.ended - self.began
        return self.billed_s == self.ended - self.began


@dataclass(slots=True)
class Rented:
    """One rented thing. ends_at: its hard lifetime. gone_at: when it really ended."""

    engine: int
    provider: str
    name: str
    billing: Billing
    rate: Rate
    made_at: float
    runs_at: float
    done_at: float
    ends_at: float
    gone_at: float = FOREVER
    preempted: bool = False

    def end(self, now: float) -> float:
        """When it stopped counting, or ``now`` while it still runs."""
        return min(now, self.gone_at, self.ends_at)

    def billed_s(self, now: float) -> float:
        """Money: from creation to release. Free quota: while the job runs; the session then ends itself."""
        if self.billing is Billing.SECONDS:
            return max(0.0, self.end(now) - self.made_at)
        return max(0.0, min(self.end(now), self.done_at) - min(self.runs_at, self.end(now)))


@dataclass(slots=True)
class End:
    """How one request ended.

    outcome: "ok", "failed", "killed" with its router, or the class of an error that is none of ours.
    wrong: an answer that is not what its Spec and texts come to. where: who answered. local_fits: whether
    this machine can do it at all.
    """

    engine: int
    task_id: str
    began: float
    within_s: float
    target_s: float | None
    local_fits: bool
    ended: float = FOREVER
    outcome: str = ""
    where: str = ""
    wrong: str = ""
    hits: int = 0
    items: int = 1
    attempts: tuple[Attempt, ...] = ()
    route: Route | None = None
    message: str = ""


@dataclass(slots=True)
class Outage:
    """What was away, and when."""

    providers: frozenset[str]
    began: float
    ends: float


@dataclass(slots=True)
class Evidence:
    """All of it, of one run.

    lives: when each router began. blocked: decisions that left out (engine, provider, stage, model) for its
    breaker, and when. seen: what was found wrong on the way, by invariant. alerts: keys, as they were sent.
    jumps: when the wall clock was set, and by what. jobs: how each ended.
    """

    calls: list[Call] = field(default_factory=list)
    rented: list[Rented] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)
    blocked: list[tuple[float, tuple[int, str, str, str]]] = field(default_factory=list)
    seen: list[tuple[int, str]] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    jumps: list[tuple[float, float]] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
