"""What a provider would give now. Guarantee: an offer says when it was true and who said so."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Offer:
    """What one provider would give now.

    rate: money per hour, frozen with its date and source. quota_left_s: free GPU seconds left, None
    where there is no quota. cold_s: expected seconds to the first useful instruction; wait_s: expected
    queue seconds. round_trip_s and seconds_per_byte: the way there and back. resident: content hashes
    (indexes, models) already there. as_of: UTC.
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


@dataclass(frozen=True, slots=True)
class Unfit:
    """No offer, with the reason in words that a person can act on.

    mendable: only the person can change it (a key that is missing or refused), so that a provider asked
    for by name fails aloud instead of being routed around.
    """

    provider: str
    realm: Realm
    reason: str
    as_of: datetime
    mendable: bool = False
