"""Leases. Guarantee: nothing is created without an intent and a reservation on disk, and none leaks.

A lease ends in one of three ways, each written down: ``released`` (the provider confirmed), ``absent``
(it never came to be), or ``abandoned`` (nobody can confirm; it ends by its own lifetime, and all that it
could cost until then is counted as spent, marked as an estimate). In no case is anything still held.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from accel.core.errors import AccelError, ProviderError, Retry, Unreachable
from accel.core.lease import Intent, Lease, Released
from accel.core.money import Basis, Cost
from accel.core.offer import Offer
from accel.fleet.board import Board
from accel.ledger import Budgets, Ledger
from accel.providers.base import Provider, RunsBatch


class BatchProvider(Provider, RunsBatch, Protocol):
    """What a job needs of a provider."""


LONGEST_ASKED_S = 300.0  # however long a provider asks to wait before it can tell


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: between polls, for a provider that does not answer, for a whole job; and downloads."""

    poll_s: float = 2.0
    unreachable_s: float = 60.0
    lifetime_s: float = 1800.0
    downloads: int = 3


@dataclass(frozen=True, slots=True)
class Ending:
    """How a lease ended: "released", "absent" or "abandoned", why, and the seconds it is charged."""

    state: str
    note: str
    used_s: float


class Leases:
    """Creates, adopts and ends leases, and keeps their money in the ledger."""

    def __init__(self, board: Board, ledger: Ledger, budgets: Budgets, patience: Patience) -> None:
        self._board, self._ledger, self._budgets, self._patience = board, ledger, budgets, patience

    def provider(self, intent: Intent) -> BatchProvider:
        """The adapter of an intent. Raises AccelError when it is not set up in this process."""
        provider = self._board.providers.get(intent.offer.provider)
        if not isinstance(provider, Provider) or not isinstance(provider, RunsBatch):
            raise AccelError(
                f"the job was begun on {intent.offer.provider}, which is not set up now.",
                hint="Set it up again to carry the job on.",
            )
        return provider

    def lifetime_s(self, offer: Offer) -> float:
        """How long a lease on ``offer`` may live: what is reserved for it. Never beyond its free quota."""
        quota_s = self._patience.lifetime_s if offer.quota_left_s is None else math.floor(offer.quota_left_s)
        return min(self._patience.lifetime_s, quota_s)

    async def open(self, intent: Intent, *, fresh: bool) -> Lease:
        """Create what ``intent`` says, or adopt it when it is there already.

        fresh: the intent was written by this very process a moment ago, so that nothing can exist yet.
        """
        provider = self.provider(intent)
        lease = None if fresh else await self._find(provider, intent)
        if lease is None:
            try:
                lease = await provider.create(intent)
            except Unreachable:
                lease = await self._find(provider, intent)  # the answer was lost, perhaps not the thing
                if lease is None:
                    raise
        self._ledger.lease_opened(intent.id, lease)
        return lease

    async def release(
        self, intent: Intent, *, used_s: float, failure: ProviderError | None = None
    ) -> Ending:
        """Give back what ``intent`` made, if it made anything. ``book`` then writes down how that ended.

        used_s: billed seconds, if the provider confirms the end. failure: why the attempt failed. May be
        repeated: a process that died before ``book`` has a successor that releases again.
        """
        state, _, lease = self._ledger.lease(intent.id)
        if lease is not None:
            state, note = await self._release(intent, lease)
        elif isinstance(failure, Unreachable):
            state, note = "abandoned", "whether it was created is not known"
        else:
            state, note, used_s = "absent", str(failure or "never created")[:500], 0.0
        worst_s = intent.lifetime_s
        if state == "abandoned":
            ends = intent.created_at + timedelta(seconds=intent.lifetime_s)
            if lease is not None:
                ends = lease.ends_by  # the provider's own word: it counts a queue, too
            return Ending(state, f"{note}; ends by itself by {ends:%Y-%m-%d %H:%M:%S} UTC", worst_s)
        return Ending(state, note, min(worst_s, used_s))

    def book(self, intent: Intent, ending: Ending) -> None:
        """Settle the reservation and end the lease, in one transaction or as part of the caller's."""
        with self._ledger.transaction():
            cost = Cost(intent.offer.rate.cost(ending.used_s), Basis.ESTIMATED)
            self._budgets.settle(intent.id, intent.offer, ending.used_s, cost)
            self._ledger.lease_ended(intent.id, ending.state, ending.note)

    async def _release(self, intent: Intent, lease: Lease) -> tuple[str, str]:
        try:
            answer = await self.provider(intent).release(lease)
        except ProviderError as failure:
            return "abandoned", str(failure)[:500]
        if isinstance(answer, Released):
            return "released", answer.confirmed_by
        return "abandoned", answer.reason

    async def _find(self, provider: BatchProvider, intent: Intent) -> Lease | None:
        """``find``, asked again while the provider does not answer, and for as long as it says to wait."""
        clock = asyncio.get_running_loop().time
        began = clock()
        ends = began + self._patience.unreachable_s
        while True:
            try:
                return await provider.find(intent)
            except ProviderError as failure:
                asked = failure.retry_after_s or 0.0  # "not shown yet, ask again in …", or a rate limit
                ends = max(ends, min(clock() + asked, began + LONGEST_ASKED_S))
                if failure.retry is not Retry.SAME or clock() >= ends:
                    raise
                await asyncio.sleep(min(max(self._patience.poll_s, asked), ends - clock()))
