"""What a provider is. Guarantee: ``create`` is the only call that rents, and ``probe`` never raises.

Every provider has the four calls of ``Provider``; what else it can do is told by the protocols it also
meets: ``RunsBatch``, ``ServesLive``, ``StandsBy`` and ``TellsBill``. Kaggle has no ``ServesLive``: its
terms forbid serving.
All calls raise only ``core.errors.ProviderError`` subclasses (``TermsError`` for a forbidden use).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import Cost
from accel.core.offer import Offer, Realm, Unfit
from accel.core.task import Need
from accel.wire import Envelope


@runtime_checkable
class Provider(Protocol):
    """A place that runs work."""

    name: str
    realm: Realm

    async def probe(self, need: Need) -> Offer | Unfit:
        """What it would give now for ``need``, or why nothing. Never raises, never rents."""
        ...

    async def create(self, intent: Intent) -> Lease:
        """Rent. If the answer is lost (``Unreachable``), the thing may exist under ``intent.name``."""
        ...

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Give back. ``Released`` only when the provider itself confirms that nothing runs."""
        ...

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Everything of ours that still exists there. An odd or empty-looking answer is ``Unknown``."""
        ...


class JobState(StrEnum):
    """A far-end job as its provider tells it."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABSENT = "absent"  # the provider says it knows no such job

    @property
    def terminal(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Progress:
    """One poll: the state, and the provider's own words where it has any."""

    state: JobState
    message: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Files brought home: name → path under the folder asked for. ``log`` is the job's own output."""

    files: Mapping[str, Path]
    log: str = ""


@runtime_checkable
class RunsBatch(Protocol):
    """Runs a bundle (``Intent.bundle``, see ``worker.bundle``) to its end and keeps its artefacts."""

    async def find(self, intent: Intent) -> Lease | None:
        """The lease that ``create(intent)`` made, if it did: how a crashed process's successor learns.

        None only when the provider positively says that there is none; raises ``Unreachable`` when it
        cannot tell.
        """
        ...

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Begin the job on the lease, as soon as what was rented is up; returns when the far end has it.

        bundle: the intent's folder, for a machine that is rented first and told what to do afterwards.
        Does nothing where the job was begun already, by ``create`` (Kaggle) or by an earlier call.
        """
        ...

    async def poll(self, lease: Lease) -> Progress:
        """Where the job is now."""
        ...

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Download every artefact into ``into`` (created); file names are flat and safe."""
        ...

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """Stop it. ``Unconfirmed`` with the time it will end by itself where it cannot be stopped."""
        ...


@runtime_checkable
class SendsAhead(Protocol):
    """Takes what is too large for an order before it, which rents nothing and may take long."""

    async def send_ahead(self, intent: Intent) -> None:
        """Bring there what ``create(intent)`` will need; nothing where it is there already.

        May be repeated: an earlier call, of this process or of one that died, is carried on. Bounded by the
        adapter: it raises Unreachable when nothing moves any more, and TimedOut after its own limit.
        """
        ...


@runtime_checkable
class ServesLive(Protocol):
    """Answers one envelope with one envelope, in milliseconds to seconds.

    Who does not stand by (``StandsBy``) serves on a lease that ``fleet.replicas`` opens: ``create`` of an
    intent without a bundle, then ``RunsBatch.start`` without one, which returns when the far end answers. A
    call on a machine that is gone raises Preempted.
    """

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """Run ``request`` (``meta["op"]``: embed, search, rerank, answer) and return its answer."""
        ...


@runtime_checkable
class KeepsConnections(Protocol):
    """Holds sockets between its calls."""

    async def aclose(self) -> None:
        """Let go of them; the next call opens others."""
        ...


@runtime_checkable
class TellsBill(Protocol):
    """Says what it charged."""

    async def bill(self, lease: Lease) -> Cost | None:
        """What the provider charged for the lease, ``billed``; None while it does not tell.

        Asked after the release: a bill of something that still runs is not final.
        """
        ...


@runtime_checkable
class StandsBy(ServesLive, Protocol):
    """Serves live without anything being rented first: this machine, or a service billed per call."""

    def standing_lease(self) -> Lease:
        """The lease that such calls go under. Nothing is created by asking for it."""
        ...
