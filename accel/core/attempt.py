"""What was tried, and why. Guarantee: a Result carries every attempt that led to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from accel.core.money import Cost
from accel.core.offer import Offer, Realm

T = TypeVar("T")


class Outcome(StrEnum):
    """How an attempt ended. Only ``ok`` carries an output."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the seconds went. They add up to what the caller waited, but for our own overhead."""

    wait_s: float = 0.0
    cold_s: float = 0.0
    transfer_s: float = 0.0
    compute_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.wait_s + self.cold_s + self.transfer_s + self.compute_s


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try on one offer. ``error`` is the class name of a ProviderError, ``detail`` its line.

    hedge: begun while another try of the same request was still waited for. A try that lost to another
    is cancelled, and its cost counts all the same. used_s: seconds that the provider counts, as money or
    as quota.
    """

    id: str
    task_id: str
    provider: str
    realm: Realm
    offer_id: str
    outcome: Outcome
    timing: Timing
    cost: Cost
    lease_id: str = ""
    error: str = ""
    detail: str = ""
    hedge: bool = False
    used_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected seconds and money of one task on one offer; ``basis`` says "prior" or "measured n=…".

    timing: medians. spread: standard deviation of the logarithm of the seconds, which are taken to be
    log-normal. success: expected share of tries that succeed.
    """

    timing: Timing
    cost: Cost
    basis: str
    spread: float = 0.5
    success: float = 1.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One offer, ranked: its estimate, its score in dollars broken down by named terms."""

    offer: Offer
    estimate: Estimate
    score: float
    terms: tuple[tuple[str, float], ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an offer, or a provider that made none, was not considered.

    again_s: seconds until that may end, None when nobody knows or waiting does not help.
    """

    provider: str
    reason: str
    again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Offers in the order to try them, and what was left out and why. Replayable from its inputs."""

    task_id: str
    ranked: tuple[Scored, ...]
    refused: tuple[Refusal, ...] = ()
    policy: str = ""
    draw: float = 0.0

    @property
    def why(self) -> str:
        """One sentence: why the first offer is first."""
        if not self.ranked:
            return "no offer: " + "; ".join(f"{r.provider}: {r.reason}" for r in self.refused)
        return self.ranked[0].why


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """One answer, with how it came about. hits: items that came from the cache, of ``items``."""

    output: T
    route: Route | None
    attempts: tuple[Attempt, ...] = ()
    hits: int = 0
    items: int = 1
    decision_id: str = ""
    overhead_s: float = field(default=0.0)

    @property
    def where(self) -> str:
        """Provider that answered, or "cache"."""
        done = [a for a in self.attempts if a.outcome is Outcome.OK]
        return done[-1].provider if done else "cache"

    @property
    def timing(self) -> Timing:
        """Seconds over all attempts, failed ones included: that is what the caller waited.

        A hedge ran beside another attempt, and is not waited for once more.
        """
        a = [x for x in self.attempts if not x.hedge]
        if len(a) == 1:
            return a[0].timing
        return Timing(
            sum(x.timing.wait_s for x in a),
            sum(x.timing.cold_s for x in a),
            sum(x.timing.transfer_s for x in a),
            sum(x.timing.compute_s for x in a),
        )
