"""Leases. Guarantee: nothing is created without an intent and a reservation on disk, and none leaks.

A lease ends in one of three ways, each written down: ``released`` (the provider confirmed), ``absent``
(it never came to be), or ``abandoned`` (nobody can confirm; it ends by its own lifetime, and all that it
could cost until then is counted as spent, marked as an estimate). No money is still held then. Free hours of
an abandoned lease stay held until it has ended itself, or somebody learns how it ended. What is abandoned
stays in sight as what may still run, and ``fleet.reap`` goes on asking for it.

Money: a lease that ends is charged what the provider bills for it, to the nano-dollar, where it tells; else
an estimate, which a bill that comes later corrects (``late_bill``).

Nothing waits for ever: a machine that is not up within ``Patience.stall_s`` is given back, and a provider
that does not answer when it should release counts as one that did not confirm.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from accel.core.errors import AccelError, NoCapacity, ProviderError, Retry, Unreachable
from accel.core.lease import Intent, Lease, Released
from accel.core.money import Basis, Cost
from accel.core.offer import Billing, Offer
from accel.fleet.board import Board
from accel.ledger import Budgets, Ledger
from accel.ledger.leases import Rented, unconfirmed
from accel.providers.base import Provider, RunsBatch, SendsAhead, TellsBill


class BatchProvider(Provider, RunsBatch, Protocol):
    """What a lease needs of a provider."""


LONGEST_ASKED_S = 300.0  # however long a provider asks to wait before it can tell
# For the answer to a release or to the question for a bill: adapters have time limits of their own, this one
# is for those that break them.
ANSWER_S = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: between polls, for a provider that does not answer, for a whole job; and downloads.

    stall_s: for a machine to come up. Ours: cold starts of rented machines take 10 to 180 s, and an image
    that was never pulled there some minutes more; who is not up after ten will most likely never be (RunPods
    that stay "provisioning", skypilot#7336). releases: how often a release is asked for until it is
    confirmed. idle_s: how long a live replica is kept without a call. again_s: between two looks of a job
    that waits for a place or for free hours.
    """

    poll_s: float = 2.0
    unreachable_s: float = 60.0
    lifetime_s: float = 1800.0
    downloads: int = 3
    again_s: float = 30.0
    stall_s: float = 600.0
    releases: int = 3
    idle_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a lease ended: "released", "absent" or "abandoned", why, and the seconds it is charged.

    billed: what the provider charged, where it told.
    """

    state: str
    note: str
    used_s: float
    billed: Cost | None = None

    def cost(self, offer: Offer) -> Cost:
        """What it cost, at the best that is known now."""
        return self.billed or self.estimate(offer)

    def estimate(self, offer: Offer) -> Cost:
        """Its seconds at the offer's rate."""
        return Cost(offer.rate.cost(self.used_s), Basis.ESTIMATED)


class Leases:
    """Creates, adopts and ends leases, and keeps their money in the ledger."""

    def __init__(self, board: Board, ledger: Ledger, budgets: Budgets, patience: Patience) -> None:
        self._board, self._ledger, self._budgets, self._patience = board, ledger, budgets, patience
        # intents that this process asked for and has no lease of: whether it knows that there is nothing
        self._absent: dict[str, bool] = {}

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
        lease = None if fresh else await self._found(provider, intent)
        if lease is None:
            lease = await self._create(provider, intent)
        self._ledger.lease_opened(intent.id, lease)
        self._absent.pop(intent.id, None)
        return lease

    async def _create(self, provider: BatchProvider, intent: Intent) -> Lease:
        if isinstance(provider, SendsAhead):
            self._absent[intent.id] = True  # nothing is ordered yet, whatever goes wrong
            await provider.send_ahead(intent)
        self._absent[intent.id] = False
        try:
            async with asyncio.timeout(self._patience.stall_s):
                return await provider.create(intent)
        except ProviderError as failure:
            if not failure.ran and not isinstance(failure, Unreachable):
                self._absent[intent.id] = True  # it was refused
                raise
            lost = failure
        except TimeoutError:
            lost = Unreachable("no answer to an order", provider=provider.name)
        lease = await self._found(provider, intent)  # the answer was lost, perhaps not the thing
        if lease is None:
            raise lost
        return lease

    async def up(self, intent: Intent, lease: Lease, bundle: Path | None = None) -> None:
        """Wait until what was rented is up and has what it is to run.

        Raises NoCapacity for one that is not up in time, and what ``start`` raises.
        """
        provider = self.provider(intent)
        try:
            async with asyncio.timeout(self._patience.stall_s):
                await provider.start(lease, bundle)
        except TimeoutError:
            told = f"the machine was not up within {self._patience.stall_s:.0f} s"
            raise NoCapacity(told, provider=provider.name) from None

    async def release(
        self, intent: Intent, *, used_s: float, failure: ProviderError | None = None
    ) -> Ending:
        """Give back what ``intent`` made, if it made anything. ``book`` then writes down how that ended.

        used_s: billed seconds, if the provider confirms the end. failure: why the attempt failed. May be
        repeated: a process that died before ``book`` has a successor that releases again. An intent of which
        nobody knows whether it was carried out is asked for first.
        """
        _, _, lease = self._ledger.lease(intent.id)
        clock, worst_s = asyncio.get_running_loop().time, intent.lifetime_s
        if lease is None:
            if intent.id not in self._absent:  # whatever another process did of it
                try:
                    lease = await self._found(self.provider(intent), intent)
                except ProviderError as silent:
                    failure = failure or silent
            absent = self._absent.pop(intent.id, False)
            if lease is None and not absent:
                told = f"whether it was created is not known ({failure or 'no answer'})"
                return Ending("abandoned", self._by_itself(told, intent, None), worst_s)
            if lease is None:
                return Ending("absent", str(failure or "never created")[:500], 0.0)
            self._ledger.lease_opened(intent.id, lease)
        began = clock()
        state, note = await self._release(intent, lease)
        if state == "abandoned":
            return Ending(state, self._by_itself(note, intent, lease), worst_s)
        if intent.offer.billing is Billing.SECONDS:
            used_s += clock() - began  # it ran until it was confirmed that it does not
        return Ending(state, note, min(worst_s, used_s), await self.bill(intent, lease))

    @staticmethod
    def _by_itself(note: str, intent: Intent, lease: Lease | None) -> str:
        ends = intent.created_at + timedelta(seconds=intent.lifetime_s)
        if lease is not None:
            ends = lease.ends_by  # the provider's own word: it counts a queue, too
        return f"{note[:400]}; ends by itself by {ends:%Y-%m-%d %H:%M:%S} UTC"

    def book(self, intent: Intent, ending: Ending) -> None:
        """Settle the reservation and end the lease, in one transaction or as part of the caller's."""
        cost, estimate = ending.cost(intent.offer), ending.estimate(intent.offer).amount
        with self._ledger.transaction():
            held = ending.state == "abandoned" and intent.offer.billing is Billing.QUOTA
            if not held:
                settled = self._budgets.settle(intent.id, intent.offer, ending.used_s, cost, estimate)
                if not settled and ending.state != "abandoned":  # charged before: this is known better
                    self._budgets.correct(intent.id, cost)
            self._ledger.lease_ended(intent.id, ending.state, ending.note)
            self._ledger.expire()  # one that was never confirmed may have ended itself long ago

    async def end(self, intent: Intent, failure: ProviderError | None = None) -> Ending:
        """Release and book, as of now."""
        ending = await self.release(intent, used_s=self.elapsed_s(intent), failure=failure)
        self.book(intent, ending)
        return ending

    async def recheck(self, provider: str) -> None:
        """Ask again for what holds free hours there and nobody confirmed: has it ended, it holds none."""
        for rented in unconfirmed(self._ledger):
            free = rented.intent.offer.billing is Billing.QUOTA and rented.may_run(self._ledger.now())
            if rented.provider == provider and free and rented.state == "abandoned":
                ending = await self.release(rented.intent, used_s=self.elapsed_s(rented.intent))
                if ending.state != "abandoned":
                    self.book(rented.intent, ending)

    def elapsed_s(self, intent: Intent) -> float:
        """Seconds since the intent, by the wall clock: a lease outlives processes."""
        return max(0.0, (self._ledger.now() - intent.created_at).total_seconds())

    async def bill(self, intent: Intent, lease: Lease) -> Cost | None:
        """What the provider charged for a lease that was released; None while, or where, it does not tell."""
        provider = self._board.providers.get(intent.offer.provider)
        if intent.offer.billing is not Billing.SECONDS or not isinstance(provider, TellsBill):
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                told = await provider.bill(lease)
        except (ProviderError, TimeoutError):
            return None
        return told if told is not None and told.basis is Basis.BILLED and told.amount >= 0 else None

    async def late_bill(self, rented: Rented) -> Cost | None:
        """Ask for the bill of what was charged by an estimate; it takes the estimate's place, once."""
        if rented.lease is None:
            return None
        bill = await self.bill(rented.intent, rented.lease)
        if bill is not None and self._budgets.correct(rented.id, bill):
            return bill
        return None

    async def _release(self, intent: Intent, lease: Lease) -> tuple[str, str]:
        """Ask until it is confirmed; what costs nothing by the second is asked once."""
        tries = max(1, self._patience.releases) if intent.offer.billing is Billing.SECONDS else 1
        note = ""
        for left in reversed(range(tries)):
            try:
                async with asyncio.timeout(ANSWER_S):
                    answer = await self.provider(intent).release(lease)
            except ProviderError as failure:
                note = str(failure)
            except TimeoutError:
                note = f"no answer to a release within {ANSWER_S:.0f} s"
            else:
                if isinstance(answer, Released):
                    return "released", answer.confirmed_by
                note = answer.reason
            if left:
                await asyncio.sleep(self._patience.poll_s)
        return "abandoned", note

    async def _found(self, provider: BatchProvider, intent: Intent) -> Lease | None:
        """``find``, asked again while the provider does not answer, and for as long as it says to wait."""
        self._absent[intent.id] = False
        clock = asyncio.get_running_loop().time
        began = clock()
        ends = began + self._patience.unreachable_s
        while True:
            try:
                lease = await provider.find(intent)
            except ProviderError as failure:
                asked = failure.retry_after_s or 0.0  # "not shown yet, ask again in …", or a rate limit
                ends = max(ends, min(clock() + asked, began + LONGEST_ASKED_S))
                if failure.retry is not Retry.SAME or clock() >= ends:
                    raise
                await asyncio.sleep(min(max(self._patience.poll_s, asked), ends - clock()))
            else:
                self._absent[intent.id] = lease is None
                return lease
