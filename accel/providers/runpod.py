"""RunPod: pods for batch, serverless for live. Guarantee: nothing is believed gone without RunPod's own word.

Batch: one pod per intent (``runpod_pods``), on the secure or the community cloud. Live: one endpoint
(``runpod_serverless``), made at the first call, which bills nothing while nobody calls. Both run our wheel.

What RunPod does not offer, and what that means here:
- Names are not unique, and creating is not idempotent: after a lost answer ``find`` looks through the list.
- A 404 counts only with RunPod's own words, and a list without a pod that is known to be there is odd.
- Want of capacity is a 400 with words (``runpod_calls.NO_CAPACITY``). There are no interruptible pods any
  more (docs commit 8e5aebdb, 2026-05-06); one that stops under us (EXITED) was taken away.
- The catalogue says GPU prices; a container's disk costs $0.10 a GB and month more (docs pods/pricing.mdx).
- The proxy to a pod cuts a request at 100 s, a queue takes 20 MB: ``far_end`` sends in pieces, what does not
  fit a queue is refused with its size.

Wire facts stand in ``runpod_calls``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from accel.core.errors import ProviderError, Rejected, SettingsError, Unauthorised
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import Basis, Cost, NanoUSD, Rate
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.providers import runpod_market as market
from accel.providers import terms
from accel.providers.base import Fetched, Progress
from accel.providers.reach import check_endpoint
from accel.providers.runpod_calls import NAME, Credentials, RunPodCalls
from accel.providers.runpod_pods import IMAGE, PREFIX, Container, Pods
from accel.providers.runpod_serverless import LIVE, WORKER_NEED, Serverless, Setup
from accel.providers.transport import NotFound
from accel.wire import Envelope
from accel.worker import start
from accel.worker.bundle import pack_wheel

NO_KEY = "no credentials: set RUNPOD_API_KEY"
ENDPOINT = "endpoint/"  # before an endpoint's id in a lease's remote_id
# Until attempts have measured it: nobody publishes how long an image's pull takes.
COLD_PRIOR_S = 90.0
SECONDS_PER_BYTE_PRIOR = 1e-6  # 1 MB/s, an ordinary line's upload
STANDS_FOR = timedelta(days=1)
SETTLE_S = 30.0  # our margin: how long RunPod may not list a pod just made
BILL_S = 600.0  # "Billing runs every 5 minutes" (docs accounts-billing/billing.mdx): twice that is final


class RunPodProvider:
    """See the module's guarantee. Meets ``Provider``, ``RunsBatch``, ``StandsBy`` and ``TellsBill``.

    endpoint: loopback URL of a sandbox, with realm SANDBOX, or None with realm REAL (SettingsError for any
    other pair). token: a lease's name → its bearer. blobs: id of an index → its folder. cloud: SECURE, or
    COMMUNITY (cheaper machines of strangers). template: id of a pod template instead of ``image``. pools: GPU
    pools of the live endpoint, whose workers go after live_idle_s unused. idle_s: seconds until a pod that
    nobody uses ends itself. up_s: until a pod must be up; blind_s: RunPod may not answer meanwhile.
    settle_s, bill_s: see ``SETTLE_S``, ``BILL_S``; None: those, or 0 in a sandbox.
    """

    name = NAME

    def __init__(
        self, *, credentials: Credentials, runtime: Runtime, token: Callable[[str], str],
        realm: Realm = Realm.REAL, endpoint: str | None = None, wheel: Callable[[], bytes] = pack_wheel,
        blobs: Callable[[str], Path | None] = lambda _: None, accepted_terms: Collection[str] = (),
        cloud: str = "SECURE", image: str = IMAGE, template: str = "", disk_gb: int = 20,
        pools: Sequence[str] = ("AMPERE_24",), max_workers: int = 3, idle_s: float = 300.0,
        live_idle_s: int = 60, cold_s: float = COLD_PRIOR_S, call_s: float = 30.0, poll_s: float = 1.0,
        up_s: float = 900.0, blind_s: float = 60.0, settle_s: float | None = None,
        bill_s: float | None = None,
    ) -> None:  # fmt: skip
        check_endpoint("RunPod", realm, endpoint)
        if cloud not in market.KINDS:
            raise SettingsError(f"RunPod: its clouds are SECURE and COMMUNITY, not {cloud}.")
        real = endpoint is None
        settle_s = SETTLE_S * real if settle_s is None else settle_s
        self.realm: Realm = realm
        self._runtime, self._credentials, self._accepted = runtime, credentials, accepted_terms
        self._live_idle_s = live_idle_s
        self._cloud, self._blobs, self._disk_gb, self._cold_s = cloud, blobs, disk_gb, cold_s
        self._bill_s = BILL_S * real if bill_s is None else bill_s
        self._calls = RunPodCalls(credentials, endpoint, call_s)
        made_of = Container(image, template, disk_gb, idle_s, up_s, blind_s, settle_s, poll_s)
        self._pods = Pods(self._calls, made_of, runtime, realm, token, wheel)
        needs = f"{start.NEEDS} {WORKER_NEED}" if real else start.NEEDS  # a sandbox installs nothing
        setup = Setup(image, tuple(pools), needs, disk_gb, live_idle_s, max_workers)
        self._serverless = Serverless(
            self._calls, setup, wheel, blobs, poll_s=min(poll_s, 0.5), call_s=call_s
        )
        self._asked: dict[str, float] = {}  # when a bill was first asked for, event loop's seconds

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._calls.aclose()

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """Terms, then the catalogue with its prices and stock: one request. Never raises."""
        now = self._runtime.now()
        try:
            if need.only and self.name not in need.only:
                return Unfit(self.name, self.realm, "not among the providers that were allowed", now)
            if refusal := terms.check(self.name, need, self._accepted):
                return Unfit(self.name, self.realm, self._words(refusal), now)
            if not self._credentials:
                return Unfit(self.name, self.realm, NO_KEY, now, mendable=True)
            return await self._offer(need, now)
        except Unauthorised as error:
            return Unfit(self.name, self.realm, self._words(error), now, mendable=True)
        except ProviderError as error:
            return Unfit(self.name, self.realm, self._words(error), now)
        except Exception as error:  # probe never raises, whatever breaks
            return Unfit(self.name, self.realm, f"cannot be asked: {type(error).__name__}", now)

    async def _offer(self, need: Need, now: datetime) -> Offer | Unfit:
        live = need.lane is Lane.LIVE
        if need.index and (live is False or (reason := market.too_large(self._blobs(need.index)))):
            reason = reason if live else "no index stays on a pod between jobs"
            return Unfit(self.name, self.realm, reason, now)
        rows = await self._calls.gpus("SERVERLESS" if live else "POD", self._cloud)
        pools = self._serverless.setup.pools if live else ()
        found = market.choose(rows, need, "SERVERLESS" if live else self._cloud, pools, now.date())
        if isinstance(found, str):
            return Unfit(self.name, self.realm, found, now)
        warm = live and asyncio.get_running_loop().time() < self._serverless.warm_until
        disk = NanoUSD(self._disk_gb * market.DISK_NANO)
        return Offer(
            id=f"{self.name}/{self.realm}/{found.kind}/{found.id}", provider=self.name, realm=self.realm,
            gpu=found.gpu, as_of=now, lanes=frozenset({need.lane}), numerics=found.numerics,
            rate=Rate(NanoUSD(found.rate.nano_per_hour + disk), found.rate.as_of, found.rate.source),
            source=f"{found.rate.source}, and its disk; cold start and transfer are priors until measured",
            cold_s=0.0 if warm else self._cold_s,
            resident=self._serverless.resident if warm else frozenset(),
            movable=frozenset({need.index} if need.index else ()),
            idle_s=float(self._live_idle_s) if need.lane is Lane.LIVE else None,
            seconds_per_byte=SECONDS_PER_BYTE_PRIOR if self.realm is Realm.REAL else 0.0,
        )  # fmt: skip

    async def create(self, intent: Intent) -> Lease:
        """See ``Pods.create``."""
        return await self._pods.create(intent)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Delete the pod, or the endpoint with its workers; ``Released`` once RunPod knows it no more."""
        if not (lease.remote_id.startswith(ENDPOINT) or lease.name.startswith(LIVE)):
            return await self._pods.release(lease)
        try:
            return await self._release_endpoints(lease)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Our pods, also stopped ones, and our endpoints. A list without a pod of ours that RunPod shows when
        it is asked for that one is ``Unknown``."""
        try:
            pods, endpoints = await asyncio.gather(self._calls.pods(), self._calls.endpoints())
            for missing in self._pods.mine - {p["id"] for p in pods}:
                pod = await self._calls.pod(missing)
                if pod is not None and pod.get("status") != "TERMINATED":
                    return Unknown("RunPod's list lacks a pod that it shows")
                self._pods.mine.discard(missing)
        except ProviderError as error:
            return Unknown(str(error))
        rented = [p for p in pods if p["name"].startswith(PREFIX) and p.get("status") != "TERMINATED"]
        serving = [e for e in endpoints if e["name"].startswith(LIVE)]
        return (
            *(market.listed(p, self.realm, p["id"], self._runtime.now()) for p in rented),
            *(market.listed(e, self.realm, ENDPOINT + e["id"], self._runtime.now()) for e in serving),
        )

    async def balance(self) -> NanoUSD | None:
        """Nano-dollars paid in and not used, or None where RunPod does not tell."""
        return await self._calls.balance()

    async def bill(self, lease: Lease) -> Cost | None:
        """What RunPod billed; None while it has no record, or may not have written all of them yet."""
        clock = asyncio.get_running_loop().time
        kind, ident = "pods", lease.remote_id
        if lease.remote_id.startswith(ENDPOINT):
            kind, ident = "serverless", lease.remote_id.removeprefix(ENDPOINT)
        first = self._asked.setdefault(ident, clock())
        if not ident or clock() - first < self._bill_s:
            return None
        amount = await self._calls.billed(kind, ident, lease.created_at)
        return None if amount is None else Cost(amount, Basis.BILLED)

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """See ``Pods.find``."""
        return await self._pods.find(intent)

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """See ``Pods.start``."""
        await self._pods.start(lease, bundle)

    async def poll(self, lease: Lease) -> Progress:
        """See ``Pods.poll``."""
        return await self._pods.poll(lease)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """See ``Pods.fetch``."""
        return await self._pods.fetch(lease, into)

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``: a pod without its job is nothing."""
        return await self.release(lease)

    # --- StandsBy

    def standing_lease(self) -> Lease:
        """The live endpoint's. Its remote_id holds its id once that is known here."""
        now, name = self._runtime.now(), self._serverless.name
        remote = ENDPOINT + self._serverless.id if self._serverless.id else ""
        return Lease(name, self.name, self.realm, name, remote, now, now + STANDS_FOR)

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """By the endpoint, or, on a pod's lease, by its far end."""
        if lease.name.startswith(LIVE):
            return await self._serverless.call(request)
        async with self._pods.far_end(lease) as far_end:
            if index := str(request.meta.get("index", "")):
                if (folder := self._blobs(index)) is None:
                    raise Rejected(f"the index {index[:12]} is not here.", provider=self.name)
                await far_end.ensure(index, folder)
            return await far_end.call(request)

    async def _release_endpoints(self, lease: Lease) -> Released | Unconfirmed:
        ident = lease.remote_id.removeprefix(ENDPOINT)
        rows = await self._calls.endpoints()
        names = [e["id"] for e in rows if e["name"] == lease.name or e["id"] == ident]
        for found in names:
            with contextlib.suppress(NotFound):
                await self._calls.delete_endpoint(found)
        left = [found for found in names if await self._calls.endpoint(found) is not None]
        if ident and ident not in names and await self._calls.endpoint(ident) is not None:
            left.append(ident)
        if left:
            return Unconfirmed(lease.id, "RunPod still shows the endpoint", lease.ends_by)
        self._serverless.forget()
        return Released(lease.id, "RunPod deleted the endpoint with its workers, and knows it no more")

    def _words(self, error: Exception) -> str:
        """An error's line without our name in front: an Unfit carries the name beside it."""
        return str(error).removeprefix(f"{self.name}: ")
