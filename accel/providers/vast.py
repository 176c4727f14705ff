"""Vast.ai: machines of many hosts, on demand or by bid. Guarantee: nothing of ours stays there unasked for.

One instance a lease, labelled with the intent's name, so that a process that never saw the answer to the
order finds it. What Vast.ai does, and what that means here:
- An ask can be rented once: offers are ``exclusive``, and those that ``taken`` names are not offered again.
- A bid that is too low is refused and yet leaves a stopped contract: it is destroyed.
- Who is outbid is stopped, and his disk billed on. A stopped instance is never ours: we stop none. It is
  destroyed, and the job is ``Preempted``. The rate of an offer counts the disk, so that it is reserved.
- A host asks what it likes: an on-demand instance dearer than its offer is destroyed before it is used.
- Nothing stands between us and the machine's port: it speaks TLS with a certificate that we made for this
  lease, and only that one is taken.
- The machine destroys itself by its own key (CONTAINER_API_KEY) when its time is over or nobody uses it. One
  whose container never starts cannot: only ``start``, ``release`` and ``leases`` see to that.

Wire facts stand in ``providers.vast_calls`` and ``providers.vast_offers``. Never run live.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from accel.core.errors import NoCapacity, ProviderError, Rejected, Unauthorised, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import Basis, Cost, NanoUSD, dollars
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.providers import terms
from accel.providers.base import Fetched, Progress
from accel.providers.reach import check_endpoint
from accel.providers.vast_calls import CREDIT_HINT, NAME, REAL, LeftBehind, VastCalls
from accel.providers.vast_machine import VastMachines, body, lease_of, listed_lease, wheel_of
from accel.providers.vast_offers import Quote, Wishes, offer_id, offered, query, quotes
from accel.wire import Envelope
from accel.worker.bundle import pack_wheel
from accel.worker.start import NEEDS

NO_KEY = "no key: set VAST_API_KEY"
PREFIX = "accel-"
# The image holds torch, and python3 is its own: the rest of ``worker.start.NEEDS`` is installed at boot.
IMAGE = "pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
COLD_PRIOR_S = 150.0  # until attempts have measured it: an image of 4 GB at 900 Mbit/s, wheels, a model
CREDIT_FRESH_S = 60.0
DEFAULT_WISHES = Wishes()


class VastProvider:
    """See the module's guarantee. Meets ``Provider``, ``RunsBatch``, ``ServesLive`` and ``TellsBill``.

    key: the account's. endpoint: loopback URL of a sandbox with realm SANDBOX, None with realm REAL
    (SettingsError for any other pair). token, certificate: a lease's name → its bearer, its certificate and
    key (PEM). blobs: an index's id → its folder here, or None. taken: ids of offers that somebody of us has
    rented. bids: lanes whose work goes to interruptible machines. idle_s: unused for so long, a machine ends
    itself. boot_s: a machine that is not up by then is given up. call_s: one request. settle_s: how long an
    order may not yet be listed (real: 10, our margin). poll_s: between two looks (real: 3).
    """

    name = NAME

    def __init__(
        self, *, key: str, runtime: Runtime, token: Callable[[str], str],
        certificate: Callable[[str], tuple[str, str]], realm: Realm = Realm.REAL, endpoint: str | None = None,
        wheel: Callable[[], bytes] = pack_wheel, blobs: Callable[[str], Path | None] = lambda _: None,
        accepted_terms: Collection[str] = (), taken: Callable[[], frozenset[str]] = frozenset,
        bids: Collection[Lane] = (Lane.BATCH,), wishes: Wishes = DEFAULT_WISHES, image: str = IMAGE,
        needs: str = NEEDS, cold_s: float | None = None, idle_s: float = 600.0, boot_s: float = 900.0,
        call_s: float = 30.0, settle_s: float | None = None, poll_s: float | None = None,
    ) -> None:  # fmt: skip
        check_endpoint("Vast.ai", realm, endpoint)
        here = endpoint is not None
        self.realm: Realm = realm
        self._has_key, self._url = bool(key), endpoint or REAL
        self._calls = VastCalls(key, self._url, call_s)
        self._runtime, self._token, self._certificate = runtime, token, certificate
        self._wheel, self._blobs, self._accepted, self._taken = wheel, blobs, accepted_terms, taken
        self._bids, self._wishes, self._image, self._needs = frozenset(bids), wishes, image, needs
        self._cold_s = (1.0 if here else COLD_PRIOR_S) if cold_s is None else cold_s
        self._idle_s, self._call_s = idle_s, call_s
        self._settle_s = (0.0 if here else 10.0) if settle_s is None else settle_s
        self._poll_s = (0.1 if here else 3.0) if poll_s is None else poll_s
        self._machines = VastMachines(
            self._calls, token=token, certificate=certificate, here=here, boot_s=boot_s, poll_s=self._poll_s
        )
        self._credit: tuple[datetime, NanoUSD] | None = None
        self._quotes: dict[str, Quote] = {}  # by offer id: what the last search for bids told
        self._ordered: dict[str, Intent] = {}  # by lease name: what it may cost, and its bundle
        self._open: set[str] = set()  # instances that this process ordered and did not see end

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._calls.aclose()
        await self._machines.aclose()

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """The ask whose work is cheapest now: one request, and one more a minute for the credit."""
        now = self._runtime.now()
        try:
            if reason := self._unfit(need):
                return Unfit(self.name, self.realm, reason, now)
            if not self._has_key:
                return Unfit(self.name, self.realm, NO_KEY, now, mendable=True)
            credit, bid = await self._known_credit(now), need.lane in self._bids
            if credit <= 0:
                return Unfit(self.name, self.realm, f"no credit is left. {CREDIT_HINT}", now, mendable=True)
            rows = await self._calls.search(query(need, self._wishes, bid=bid))
            fit = quotes(rows, need, self._wishes, bid=bid, taken=self._taken())
        except Unauthorised as error:
            return Unfit(self.name, self.realm, self._words(error), now, mendable=True)
        except ProviderError as error:
            return Unfit(self.name, self.realm, self._words(error), now)
        except Exception as error:  # probe never raises, whatever breaks
            return Unfit(self.name, self.realm, f"cannot be asked: {type(error).__name__}", now)
        if not fit:
            kind = "to bid on" if bid else "on demand"
            return Unfit(self.name, self.realm, f"nothing that fits is there {kind} now", now)
        if bid:
            self._quotes = {offer_id(quote.ask): quote for quote in fit}
        told = f"credit left {dollars(credit)}"
        return offered(fit[0], need, self._wishes, self.realm, now, cold_s=self._cold_s, told=told)

    async def create(self, intent: Intent) -> Lease:
        """Order the intent's ask. After Unreachable it may exist. Raises NoCapacity (rented meanwhile, or
        outbid), Unauthorised (no credit), Rejected, or what ``core.errors`` says of the connection."""
        ask = self._ask(intent)
        order = body(
            intent, image=self._image, token=self._token(intent.name), url=self._url, needs=self._needs,
            certificate=self._certificate(intent.name), idle_s=self._idle_s, disk_gb=self._wishes.disk_gb,
            wheel=await self._runtime.offload(wheel_of, intent.bundle, self._wheel),
            bid=await self._bid(intent, ask),
        )  # fmt: skip
        self._ordered[intent.name] = intent
        try:
            contract = await self._calls.create(ask, order)
        except LeftBehind as left:
            try:
                await self._calls.destroy(left.contract)
            except ProviderError as error:
                words = f"refused, and contract {left.contract} it left cannot be destroyed now"
                raise Unreachable(f"{words}: {self._words(error)}", provider=self.name) from error
            raise NoCapacity(f"{self._words(left)} (The contract it left was destroyed.)",
                             provider=self.name) from None  # fmt: skip
        self._open.add(str(contract))
        return lease_of(intent, contract, self.realm)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Destroy the instance, and whatever else bears its label; ``Released`` once none is listed."""
        ends = asyncio.get_running_loop().time() + self._call_s
        try:
            await self._calls.destroy(lease.remote_id)
            while True:
                shown = await self._calls.instance(lease.remote_id)
                same = [i for i in await self._calls.instances() if i.label == lease.name]
                if shown is None and not same:
                    break
                if asyncio.get_running_loop().time() > ends:
                    reason = "Vast.ai says that it destroys the instance, and still shows it"
                    return Unconfirmed(lease.id, reason, lease.ends_by)
                for twin in same:
                    if str(twin.id) != lease.remote_id:
                        await self._calls.destroy(twin.id)
                await asyncio.sleep(self._poll_s)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        self._open.discard(lease.remote_id)
        self._ordered.pop(lease.name, None)
        await self._machines.drop(lease.remote_id)
        return Released(lease.id, f"Vast.ai neither shows instance {lease.remote_id} nor lists {lease.name}")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Every instance labelled accel-…, stopped ones too. A list that lacks what exists is ``Unknown``."""
        try:
            listed = await self._calls.instances()
            for ident in self._open - {str(instance.id) for instance in listed}:
                if await self._calls.instance(ident) is not None:
                    return Unknown(f"Vast.ai does not list instance {ident}, and yet shows it")
                self._open.discard(ident)
        except ProviderError as error:
            return Unknown(str(error))
        return tuple(listed_lease(i, self.realm) for i in listed if i.label.startswith(PREFIX))

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """See ``RunsBatch``. One request a page of instances."""
        self._ask(intent)
        same = sorted(i.id for i in await self._calls.instances() if i.label == intent.name)
        if same:
            self._ordered[intent.name] = intent
            self._open.add(str(same[0]))
            return lease_of(intent, same[0], self.realm)
        age_s = (self._runtime.now() - intent.created_at).total_seconds()
        if age_s < self._settle_s:
            raise Unreachable("an order this young may not be listed yet.", provider=self.name,
                              retry_after_s=self._settle_s - age_s)  # fmt: skip
        return None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Wait for the machine, give it its wheel and the bundle, if there is one. Safe to repeat.

        Raises NoCapacity for a machine that does not come up, or that costs more than was agreed: it is
        destroyed then; Preempted for one that was outbid.
        """
        ordered = self._ordered.get(lease.name)
        bundle = bundle or (ordered.bundle if ordered else None)
        wheel = await self._runtime.offload(wheel_of, bundle, self._wheel)
        # a bid is what is paid; only a host's own price can be another than it was
        agreed = ordered.offer.rate.nano_per_hour if ordered and not ordered.offer.interruptible else None
        far = await self._machines.up(lease, wheel, agreed)
        if bundle is not None:
            await far.start_job(bundle)

    async def poll(self, lease: Lease) -> Progress:
        """The job as its machine tells it; before there is one, QUEUED."""
        return await self._machines.progress(lease)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Every file of the job, from its machine, checked."""
        return await (await self._machines.reached(lease)).fetch_job(into)

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``: the machine has no other work."""
        return await self.release(lease)

    # --- ServesLive and TellsBill

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """One request to the machine; before the first that needs an index, the index."""
        far = self._machines.known(lease) or await self._machines.reached(lease)
        try:
            index = str(request.meta.get("index") or "")
            if index and (folder := self._blobs(index)) is not None:
                await far.ensure(index, folder)
            return await far.call(request)
        except Unreachable:
            await self._machines.drop(lease.remote_id)
            await self._machines.reached(lease)  # raises Preempted for one that was outbid
            raise

    async def bill(self, lease: Lease) -> Cost | None:
        """What Vast.ai has charged for the instance, disk and all; None while it runs or is not told."""
        amount = await self._calls.charged(lease.remote_id, lease.created_at, self._runtime.now())
        return None if amount is None else Cost(amount, Basis.BILLED)

    async def balance(self) -> NanoUSD:
        """The account's credit: what can still be spent."""
        return await self._calls.credit()

    # --- inside

    def _unfit(self, need: Need) -> str:
        """Why ``need`` cannot be met whatever the market holds; "" if nothing speaks against it."""
        if need.only and self.name not in need.only:
            return "not among the providers that were allowed"
        if refusal := terms.check(self.name, need, self._accepted):
            return self._words(refusal)
        if need.index and self._blobs(need.index) is None:
            return "the index is not here, and so cannot be brought there"
        return ""

    async def _known_credit(self, now: datetime) -> NanoUSD:
        if self._credit is None or not 0 <= (now - self._credit[0]).total_seconds() < CREDIT_FRESH_S:
            self._credit = (now, await self._calls.credit())
        return self._credit[1]

    async def _bid(self, intent: Intent, ask: int) -> int | None:
        """What to bid, so that bid and disk are the offer's rate; None on demand.

        Another process may have made the offer: then the market is asked once more what the disk costs.
        """
        if not intent.offer.interruptible:
            return None
        quote = self._quotes.get(intent.offer.id)
        if quote is None or quote.total != intent.offer.rate.nano_per_hour:
            need = Need(Stage.EMBED, Lane.BATCH)
            rows = await self._calls.search(query(need, self._wishes, bid=True, ask=ask))
            found = [q for q in quotes(rows, need, self._wishes, bid=True) if q.ask == ask]
            if not found:
                raise NoCapacity("the offer is gone.", provider=self.name)
            quote = found[0]
        return intent.offer.rate.nano_per_hour - quote.disk

    def _ask(self, intent: Intent) -> int:
        found = re.fullmatch(r"vast/(\d{1,15})", intent.offer.id)
        if not found or not intent.name.startswith(PREFIX):
            raise Rejected(f"{intent.name!r} on {intent.offer.id!r} is no order for Vast.ai.",
                           provider=self.name)  # fmt: skip
        return int(found[1])

    def _words(self, error: Exception) -> str:
        """An error's line without our name in front: an Unfit carries the name beside it."""
        return str(error).removeprefix(f"{self.name}: ")
