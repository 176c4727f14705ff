"""What is rented. Guarantee: an Intent exists on disk before anything is created under its name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from accel.core.offer import Offer, Realm


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be created.

    name: deterministic, made from the id, so that a crashed process's successor can find the thing.
    lifetime_s: hard limit after which the far end must end itself. bundle: folder holding what the far
    end is to run (see ``worker.bundle``), or None for a bare machine.
    """

    id: str
    task_id: str
    offer: Offer
    name: str
    lifetime_s: float
    created_at: datetime
    bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Anything rented that costs money or quota until released. remote_id is the provider's own name."""

    id: str
    provider: str
    realm: Realm
    name: str
    remote_id: str
    created_at: datetime
    ends_by: datetime


@dataclass(frozen=True, slots=True)
class Released:
    """The provider confirmed that nothing of this lease runs any more."""

    lease_id: str
    confirmed_by: str


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """The provider did not, or cannot, confirm. The lease stays on the books until ``ends_by``."""

    lease_id: str
    reason: str
    ends_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A listing that cannot be trusted. Unknown is not none."""

    reason: str
