"""What a provider would give now. Guarantee: an offer says when it was true and who said so."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from accel.core.money import Rate
from accel.core.task import Lane, Numerics


class Realm(StrEnum):
    """How real a figure is. Shown wherever a figure is shown; two realms never share a file or a mark.

    real: the provider itself (or this machine). sandbox: a loopback cloud that speaks the provider's
    protocol and really executes the work here. simulated: nothing was executed.
    """

    REAL = "real"
    SANDBOX = "sandbox"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model. ``name`` "cpu" means none. capability: 10 × major + minor, 0 for a CPU."""

    name: str
    count: int = 1
    vram_bytes: int = 0
    capability: int = 0


CPU = Gpu("cpu", 1, 0, 0)


class Billing(StrEnum):
    """What using an offer takes from its user.

    nothing: a machine of one's own. quota: free hours, counted in GPU seconds. seconds: money, at the
    offer's rate. A rate of zero where seconds are billed is a wrong price, not a gift.
    """

    NOTHING = "nothing"
    QUOTA = "quota"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Offer:
    """What one provider would give now.

    rate: money per hour, frozen with its date and source. quota_left_s: free GPU seconds left, None
    where there is no quota; quota_s: what a whole window holds, and quota_resets_at: when the next one
    begins (UTC), where the provider tells. at_once: leases that one account may have there at the same time,
    None where no such limit is known. exclusive: this very offer is one machine, which can be rented
    once. lease_id: of what stands rented already, whose hold covers every call on it. cold_s: expected
    seconds to the first useful instruction; wait_s: expected queue seconds. idle_s: how long the far end
    stays up, and bills where seconds are billed, after its last call; None where nobody tells. round_trip_s
    and seconds_per_byte: the way there and back. resident: content hashes (indexes, models) already there;
    movable: those that can be brought there, which ``cold_s`` counts. as_of: UTC. Raises ValueError for a
    duration that is negative or not finite.
    """

    id: str
    provider: str
    realm: Realm
    gpu: Gpu
    rate: Rate
    as_of: datetime
    source: str
    lanes: frozenset[Lane] = frozenset(Lane)
    numerics: frozenset[Numerics] = frozenset({Numerics.FP32})
    wait_s: float = 0.0
    cold_s: float = 0.0
    round_trip_s: float = 0.0
    seconds_per_byte: float = 0.0
    quota_left_s: float | None = None
    interruptible: bool = False
    resident: frozenset[str] = field(default=frozenset())
    billing: Billing = Billing.SECONDS
    quota_s: float | None = None
    quota_resets_at: datetime | None = None
    exclusive: bool = False
    lease_id: str = ""
    movable: frozenset[str] = field(default=frozenset())
    idle_s: float | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        times = (self.wait_s, self.cold_s, self.round_trip_s, self.seconds_per_byte,
                 self.quota_left_s or 0.0, self.quota_s or 0.0, self.idle_s or 0.0)  # fmt: skip
        if not all(0 <= t < math.inf for t in times):
            raise ValueError(f"the offer of {self.provider} holds a time that cannot be: {times}")


@dataclass(frozen=True, slots=True)
class Unfit:
    """No offer, with the reason in words that a person can act on.

    mendable: only the person can change it (a key that is missing or refused), so that a provider asked
    for by name fails aloud instead of being routed around. again_at: when it ends by itself (UTC), where that
    is known: a batch job may wait for it.
    """

    provider: str
    realm: Realm
    reason: str
    as_of: datetime
    mendable: bool = False
    again_at: datetime | None = None
