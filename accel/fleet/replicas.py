"""Live replicas on leases. Guarantee: one per provider, paid for before it is made, ended by its last user.

For who serves live (``ServesLive``) but has nothing standing by. A replica is opened when a call is sent to
an offer of such a provider: because routing put it first, or as the warm-up that ``warmth`` decides on. Its
whole lifetime is reserved before its creation, so that no call on it reserves anything. While it serves, the
provider's offers are the replica's own, warm; it is kept while calls come, and given back after
``Patience.idle_s`` without one, at the end of its lifetime, or when this process closes.

One replica serves every process of the same home. Each notes itself as a user (``ledger.leases``); the last
one to leave gives it back, and nobody takes it from one that lives. What dead processes left is adopted, if
it serves, or released. A replica that is found gone is ``Preempted``: the call goes to the next offer.

Money: a call's share is the rate times its seconds on the replica, calls at the same time sharing each
second. Shares are rounded down, so that shares and idle time are what the lease is charged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from accel.core.errors import AccelError, LedgerError, NoCapacity, Preempted, ProviderError, Unreachable
from accel.core.lease import Intent, Unknown
from accel.core.offer import Offer
from accel.core.runtime import Runtime
from accel.core.task import Need
from accel.fleet.board import Answer, Board
from accel.fleet.leases import ANSWER_S, Leases, Patience
from accel.fleet.replica import Replica, Use
from accel.ledger import Budgets, Ledger, leases
from accel.ledger.leases import Purpose, Rented
from accel.providers.base import ServesLive, StandsBy
from accel.wire import Envelope

log = logging.getLogger(__name__)
DRAIN_S = 10.0  # before its lifetime is over a replica gets no new calls: ours, longer than any live call


class Replicas:
    """The replicas that this process uses. ``recover`` once, ``close`` at the end."""

    def __init__(
        self, board: Board, ledger: Ledger, budgets: Budgets, runtime: Runtime, rented: Leases,
        patience: Patience,
    ) -> None:  # fmt: skip
        self._board, self._ledger, self._budgets, self._runtime = board, ledger, budgets, runtime
        self._leases, self._patience = rented, patience
        self._leased = frozenset(
            name for name, p in board.providers.items()
            if isinstance(p, ServesLive) and not isinstance(p, StandsBy)
        )  # fmt: skip
        self._open: dict[str, Replica] = {}
        self._opening: dict[str, asyncio.Task[Replica]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._suspected: set[str] = set()
        self._ending: set[str] = set()  # intents that this process gives back

    # Offers ---------------------------------------------------------------------------------------

    def meter(self, offer: Offer) -> Use | None:
        """A meter for a try on an offer that is served on a lease; None for every other."""
        return Use() if offer.provider in self._leased else None

    def shown(self, answers: tuple[Answer, ...], need: Need) -> tuple[Answer, ...]:
        """The answers of the board, with those of who serves now as it does: warm, and paid for."""
        if not self._open:
            return answers
        return tuple([self._warm(a, need) for a in answers])

    def _warm(self, answer: Answer, need: Need) -> Answer:
        replica = self._open.get(answer.provider)
        if replica is None or replica.ending or self._board.forbids(answer.provider, need):
            return answer
        if (need.only and answer.provider not in need.only) or not replica.meets(need):
            return answer
        return replica.offer(answer, need)

    # Calls ----------------------------------------------------------------------------------------

    async def call(self, use: Use, offer: Offer, need: Need, request: Envelope) -> Envelope:
        """One call on the provider's replica, which is opened first where there is none.

        Raises what opening raises (OverBudget, NoCapacity, …), Preempted when it is gone, and what the
        provider's ``call`` raises.
        """
        clock = asyncio.get_running_loop().time
        provider = self._board.providers[offer.provider]
        assert isinstance(provider, ServesLive)
        began = clock()
        replica = await self._ready(offer, need)
        use.waited_s = clock() - began
        use.begin(replica, clock())
        try:
            answer = await provider.call(replica.lease, request)
        except Preempted:
            self._gone(replica)
            raise
        except Unreachable:
            self._suspect(replica)
            raise
        finally:
            use.end(clock())
        brought = {need.model, need.index} - {""} - replica.resident
        if brought:
            replica.resident |= brought
            replica.shown.clear()
        return answer

    async def _ready(self, offer: Offer, need: Need) -> Replica:
        replica = self._open.get(offer.provider)
        if replica is not None and not replica.ending:
            if not replica.meets(need):
                told = f"its replica, a {replica.intent.offer.gpu.name}, cannot do this"
                raise NoCapacity(told, provider=offer.provider)
            return replica
        opening = self._opening.get(offer.provider)
        if opening is None:
            opening = self._opening[offer.provider] = asyncio.ensure_future(self._acquire(offer))
            opening.add_done_callback(lambda done: self._opened(offer.provider, done))
        # whoever gives up waiting does not stop it: it is paid for, and warm for those behind
        return await asyncio.shield(opening)

    def _opened(self, name: str, done: asyncio.Task[Replica]) -> None:
        self._opening.pop(name, None)
        self._board.doubt(name)
        if not done.cancelled():
            done.exception()  # told to those who waited

    # Opening --------------------------------------------------------------------------------------

    async def _acquire(self, offer: Offer) -> Replica:
        """Join the replica of this home, wait for the one that another process opens, or rent one."""
        clock = asyncio.get_running_loop().time
        ends = clock() + self._patience.stall_s
        while True:
            found = leases.replica(self._ledger, offer.provider)
            if found is None:
                return await self._rent(offer)
            if found.id not in self._ending and leases.join(self._ledger, found.id):
                return self._serve(leases.get(self._ledger, found.id))
            if found.id not in self._ending and not leases.in_use(self._ledger, found.id):
                await self._clear(found)
            elif clock() >= ends:
                raise NoCapacity("one replica is still starting, or ending", provider=offer.provider)
            else:
                await asyncio.sleep(self._patience.poll_s)

    async def _rent(self, offer: Offer) -> Replica:
        ident = f"live-{self._runtime.new_id()}"
        intent = Intent(
            ident, ident, offer, f"accel-{ident}", self._leases.lifetime_s(offer), self._runtime.now()
        )
        with self._ledger.transaction():
            self._budgets.rent(intent, Purpose.REPLICA)
            leases.use(self._ledger, ident)
        try:
            lease = await self._leases.open(intent, fresh=True)
            await self._leases.up(intent, lease)
            leases.ready(self._ledger, ident)
        except BaseException as failed:
            await self._give_back(intent, failed if isinstance(failed, ProviderError) else None)
            raise
        return self._serve(leases.get(self._ledger, ident))

    def _serve(self, rented: Rented) -> Replica:
        assert rented.lease is not None
        now = asyncio.get_running_loop().time()
        left_s = (rented.ends_by - self._runtime.now()).total_seconds()
        replica = Replica(rented.intent, rented.lease, now + max(0.0, left_s - DRAIN_S), now)
        replica.counted = now
        self._open[rented.provider] = replica
        replica.watch = asyncio.ensure_future(self._watch(replica))
        return replica

    async def recover(self) -> None:
        """Take over what processes that are gone have left: what serves is used or given back when it is
        idle; what was on its way is released."""
        for found in leases.replicas(self._ledger):
            if found.provider not in self._leased or leases.in_use(self._ledger, found.id):
                continue
            if leases.join(self._ledger, found.id):
                self._serve(found)
            else:
                self._beside(self._clear(found))

    async def _clear(self, found: Rented) -> None:
        if leases.leave(self._ledger, found.id):
            await self._give_back(found.intent)

    # Ending ---------------------------------------------------------------------------------------

    async def _watch(self, replica: Replica) -> None:
        """Give it back when nobody called for long enough, or its time is over."""
        clock, idle_s = asyncio.get_running_loop().time, self._patience.idle_s
        while True:
            now = clock()
            idle_at = now + idle_s if replica.in_flight else replica.last + idle_s
            if now >= min(idle_at, replica.drains_at):
                break
            await asyncio.sleep(max(1e-3, min(idle_at, replica.drains_at) - now))
        self._beside(self._retire(replica))

    async def _retire(self, replica: Replica) -> None:
        self._forget(replica)
        try:
            mine = leases.leave(self._ledger, replica.intent.id)
            if mine:
                if replica.in_flight and not self._closing:  # only at the end of its lifetime
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(DRAIN_S):
                            await replica.quiet.wait()
                await self._give_back(replica.intent)
        except LedgerError as away:  # whoever can write it next finds it; else it ends itself, idle
            log.warning("a replica at %s cannot be given back now: %s", replica.lease.provider, away)
        finally:
            self._ending.discard(replica.intent.id)

    def _gone(self, replica: Replica) -> None:
        """It was taken away: end its lease, whoever else used it."""
        if replica.ending:
            return
        self._forget(replica)

        async def end() -> None:
            try:
                if leases.leave(self._ledger, replica.intent.id, gone=True):
                    await self._give_back(replica.intent)
            finally:
                self._ending.discard(replica.intent.id)

        self._beside(end())

    def _suspect(self, replica: Replica) -> None:
        """It did not answer: ask its provider whether it is there at all."""
        name = replica.lease.name
        if name in self._suspected or replica.ending:
            return
        self._suspected.add(name)

        async def look() -> None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    listed = await self._board.providers[replica.lease.provider].leases()
            except (ProviderError, TimeoutError):
                return
            finally:
                self._suspected.discard(name)
            if not isinstance(listed, Unknown) and name not in {known.name for known in listed}:
                self._gone(replica)

        self._beside(look())

    async def _give_back(self, intent: Intent, failure: ProviderError | None = None) -> None:
        try:
            await self._leases.end(intent, failure)
        except AccelError as away:  # the ledger, or an adapter that is not set up: `accel reap` ends it
            log.warning("%s could not be given back: %s", intent.name, away)
        self._board.forget(intent.offer.provider)

    def _forget(self, replica: Replica) -> None:
        replica.ending = True
        self._ending.add(replica.intent.id)
        if self._open.get(replica.lease.provider) is replica:
            del self._open[replica.lease.provider]
        self._board.doubt(replica.lease.provider)
        if replica.watch is not None and replica.watch is not asyncio.current_task():
            replica.watch.cancel()

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failed := task.exception()):
            log.warning("a replica could not be looked after: %s", failed)

    async def close(self) -> None:
        """Leave every replica; those that nobody else uses are given back."""
        self._closing = True
        opening = tuple(self._opening.values())
        for task in opening:
            task.cancel()
        if opening:
            await asyncio.wait(opening)
        for replica in tuple(self._open.values()):
            self._beside(self._retire(replica))
        while self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tuple(self._tasks))
