"""Modal: functions on rented GPUs. Guarantee: what ``create`` made is found by its name, or has cost nothing.

Batch: one app per job, its name the intent's. Deploying it costs nothing; ``start`` queues the one input of
its function, after asking whether there is one already, so that a lost answer never runs a job twice.
Releasing stops the app, which ends its containers and its queue, and is confirmed by Modal's own word and an
empty list of its containers. Live: one app that stands by, see ``modal_live``; it is listed and released as
any other, and an index that was sent there goes with it.

A container ends at its function's timeout, and a job also at the lifetime it was created with, however often
Modal starts it again (``modal_far.job``). A preempted input that Modal gives up is ``Preempted``.

Wire facts stand in ``providers.modal_client``, ``modal_calls`` and ``modal_app``.
"""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from accel.core.errors import ProviderError, Rejected, SettingsError, Unauthorised
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import Cost
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.providers import terms
from accel.providers.base import Fetched, Progress
from accel.providers.cards import numerics
from accel.providers.modal_app import JOB, NEEDS, Deployments, Plan
from accel.providers.modal_batch import JobFunction, confirmed_gone
from accel.providers.modal_bytes import bundled
from accel.providers.modal_calls import ModalCalls, named
from accel.providers.modal_client import NAME, Denied, ModalClient, ModalCredentials, NotFound
from accel.providers.modal_live import DEPLOY_S, LiveFunction
from accel.providers.modal_live import PREFIX as LIVE_PREFIX
from accel.providers.modal_rates import NAMES, Sold, catalogue, fitting
from accel.providers.reach import check_endpoint
from accel.wire import Envelope
from accel.worker.bundle import pack_wheel

NO_KEY = "no credentials: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
PREFIX = "accel-"
NAME_RULE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_LIFETIME_S = 24 * 3600  # Modal's docs on timeouts (2026): at most 24 hours
# Priors until attempts have measured it: Modal speaks of seconds, and a large image takes longer.
WAIT_PRIOR_S, COLD_PRIOR_S = 5.0, 20.0
SECONDS_PER_BYTE_PRIOR = 1e-7  # 10 MB/s
QUEUE_ALLOWANCE_S = 3600.0  # for a container to be had: the timeout counts from its start
CONFIRM_S, TICK_S = 10.0, 0.2  # for containers to go after their app was stopped


class ModalProvider:
    """See the module's guarantee. Meets ``Provider``, ``RunsBatch``, ``StandsBy`` and ``TellsBill``.

    credentials: nothing else is used to sign in. endpoint: loopback URL of a sandbox, with realm SANDBOX, or
    None with realm REAL (SettingsError for any other pair). wheel: the package, where a bundle brings none.
    bundle: folder → the files of a job, ``run.py`` among them. blobs: an index's hash → its folder here.
    needs: packages that the far end imports. live_gpu: Modal's name of the GPU for live calls; most: its
    containers at once; idle_s: how long one waits for the next call. environment: Modal's. call_s: seconds
    for one request; live_s: for a live call with its cold start. billing_interval_s: of Modal's report, which
    a sandbox scales. max_bytes: of what a job may return.
    """

    name = NAME

    def __init__(
        self, *, realm: Realm, credentials: ModalCredentials, runtime: Runtime, endpoint: str | None = None,
        wheel: Callable[[], bytes] = pack_wheel, accepted_terms: Collection[str] = (),
        bundle: Callable[[Path], dict[str, bytes]] = bundled,
        blobs: Callable[[str], Path | None] = lambda _: None, needs: Sequence[str] = NEEDS,
        live_gpu: str = "T4", most: int = 1, idle_s: float = 60.0, environment: str = "main",
        wait_s: float = WAIT_PRIOR_S, cold_s: float = COLD_PRIOR_S, call_s: float = 30.0,
        live_s: float = 300.0, billing_interval_s: float = 3600.0, max_bytes: int = 1 << 30,
    ) -> None:  # fmt: skip
        check_endpoint("Modal", realm, endpoint)
        if live_gpu not in NAMES:
            raise SettingsError(f"Modal: no GPU {live_gpu!r}; one of {', '.join(NAMES)}.")
        self.realm: Realm = realm
        self._runtime, self._credentials, self._accepted = runtime, credentials, accepted_terms
        self._idle_s = idle_s
        self._client = ModalClient(credentials, endpoint, call_s=call_s)
        self._calls = ModalCalls(self._client, environment)
        python = ".".join(platform.python_version_tuple()[:2])
        self._apps = Deployments(self._client, environment, needs, python)
        self._live = LiveFunction(
            self._apps, runtime, wheel, blobs, gpu=live_gpu, needs=needs, most=most, idle_s=idle_s,
            live_s=live_s,
        )  # fmt: skip
        self._jobs = JobFunction(
            self._calls, self._apps, runtime, bundle, interval_s=billing_interval_s, max_bytes=max_bytes
        )
        self._wait_s, self._cold_s = wait_s, cold_s
        self._bundles: dict[str, Path] = {}  # what create was given, for a start that is not
        self._held: dict[str, str] = {}  # lease name → app, of what this process made and has not released

    async def aclose(self) -> None:
        """Let go of the connection. The provider may be used again."""
        await self._client.close()

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """Terms, then the cheapest GPU that will do, at Modal's own rate where it tells: one request."""
        now = self._runtime.now()
        told: Mapping[str, str] = {}
        try:
            if reason := self._unfit(need):
                return Unfit(self.name, self.realm, reason, now)
            if not self._credentials:
                return Unfit(self.name, self.realm, NO_KEY, now, mendable=True)
            with contextlib.suppress(Denied, NotFound):  # who may not see bills may still run things
                told = await self._calls.rates()
            rows = catalogue(told, now.date())
            if need.lane is Lane.LIVE:
                rows = [sold for sold in rows if sold.name == self._live.gpu]
                await self._runtime.offload(self._live.wheel)  # what ``standing_lease`` needs
            sold = fitting(rows, need)
            if isinstance(sold, str):
                return Unfit(self.name, self.realm, sold, now)
            return self._offer(need, sold, now)
        except ProviderError as error:
            return Unfit(self.name, self.realm, self._words(error), now,
                         mendable=isinstance(error, Unauthorised))  # fmt: skip
        except Exception as error:  # probe never raises, whatever breaks
            return Unfit(self.name, self.realm, f"cannot be asked: {type(error).__name__}", now)

    async def create(self, intent: Intent) -> Lease:
        """Deploy the intent's app. Nothing runs in it, and nothing bills, until ``start``.

        Raises what ``core.errors`` says of the connection; after Unreachable it may be deployed.
        """
        self._check(intent)
        assert intent.bundle is not None
        carried = intent.bundle / "accel.whl"
        wheel = await self._runtime.offload(carried.read_bytes if carried.is_file() else self._live.wheel)
        plan = Plan(intent.name, JOB, self._gpu(intent), intent.lifetime_s)
        self._bundles[intent.name] = intent.bundle
        await self._apps.deploy(plan, wheel, limit_s=DEPLOY_S)
        found = await self._calls.function(intent.name, JOB)
        self._held[intent.name] = found.app_id
        return self._lease(intent, found.app_id)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Stop the app; Released once Modal says that it is, and lists no container of it."""
        try:
            word = await self._stop(lease)
            if lease.name.startswith(LIVE_PREFIX):
                with contextlib.suppress(NotFound):
                    await self._apps.drop_volume(lease.name)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        if word:
            return Unconfirmed(lease.id, word, lease.ends_by)
        self._jobs.forget(lease.name)
        self._live.forget(lease.name)
        self._held.pop(lease.name, None)
        self._bundles.pop(lease.name, None)
        return Released(lease.id, "Modal says that the app is stopped, and lists no container of it")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Our apps that are not stopped. Unknown if that contradicts the containers, or what we have made."""
        try:
            rows = await self._calls.apps()
            running = await self._calls.containers()
            ours = named(rows, PREFIX)
            listed = {row.id for row in rows}
            if strange := running - listed:
                return Unknown(f"containers of {len(strange)} apps run that are not in the list of apps")
            for name, app_id in [h for h in self._held.items() if h[1] not in listed]:
                if not await self._is_gone(app_id):
                    return Unknown(f"{name} was made, and is not in the list of apps")
                del self._held[name]
        except ProviderError as error:
            return Unknown(str(error))
        longest, made = timedelta(seconds=QUEUE_ALLOWANCE_S + MAX_LIFETIME_S), (self.name, self.realm)
        return tuple(Lease(r.name, *made, r.name, r.id, r.created_at, r.created_at + longest) for r in ours)

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """See ``RunsBatch``: one request, for the function of the app of that name."""
        self._check(intent)
        try:
            found = await self._calls.function(intent.name, JOB)
        except NotFound:
            return None
        self._held[intent.name] = found.app_id
        return self._lease(intent, found.app_id)

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Queue the job, unless it was queued before."""
        await self._jobs.start(lease, bundle or self._bundles.get(lease.name))

    async def poll(self, lease: Lease) -> Progress:
        """See ``RunsBatch``. Raises Preempted or OutOfMemory for a container that was taken away."""
        return await self._jobs.poll(lease)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Every file that the job left. Raises BadOutput for what is unsafe, incomplete or not there."""
        return await self._jobs.fetch(lease, into)

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``: stopping the app ends the job."""
        return await self.release(lease)

    async def bill(self, lease: Lease) -> Cost | None:
        """See ``TellsBill``. None until the hour in which the app was stopped is over."""
        return await self._jobs.bill(lease)

    # --- StandsBy

    def standing_lease(self) -> Lease:
        """The lease of live calls. Nothing is created by asking for it."""
        now, name = self._runtime.now(), self._live.plan().name
        return Lease(name, self.name, self.realm, name, "", now, now + timedelta(seconds=MAX_LIFETIME_S))

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """One envelope; the function is deployed and the index sent first, where they are not there."""
        return await self._live.call(lease.name, request)

    async def call_many(self, lease: Lease, requests: Sequence[Envelope]) -> list[Envelope]:
        """Many envelopes on as many containers as may run, in their order (Modal's ``map``)."""
        return await self._live.call_many(lease.name, requests)

    # --- inside

    async def _stop(self, lease: Lease) -> str:
        """Stop the lease's app; why it is not certain that it is gone, or ""."""
        try:
            app_id = lease.remote_id or (await self._calls.app(lease.name)).id
            if await self._calls.stopped_at(app_id) is None:
                await self._calls.stop(app_id)
            return await confirmed_gone(self._calls, app_id, CONFIRM_S, TICK_S)
        except NotFound:
            return ""

    async def _is_gone(self, app_id: str) -> bool:
        try:
            return await self._calls.stopped_at(app_id) is not None
        except NotFound:
            return True

    def _unfit(self, need: Need) -> str:
        """Why ``need`` cannot be met whatever Modal has; "" if nothing speaks against it."""
        if need.only and self.name not in need.only:
            return "not among the providers that were allowed"
        if refusal := terms.check(self.name, need, self._accepted):
            return self._words(refusal)
        if need.index and (need.lane is Lane.BATCH or self._live.blobs(need.index) is None):
            return "the index is not here to be sent" if need.lane is Lane.LIVE else "a job brings no index"
        return ""

    def _offer(self, need: Need, sold: Sold, now: datetime) -> Offer:
        live, short = need.lane is Lane.LIVE, sold.name.lower().strip("!")
        resident = self._live.sent(self._live.plan().name) if live else frozenset()
        movable = {need.index} - resident if need.index else set()
        return Offer(
            id=f"{self.name}-{self.realm}-{short}", provider=self.name, realm=self.realm,
            gpu=sold.gpu, rate=sold.rate, as_of=now,
            source="Modal's billing rates where they are clear; wait, cold start and transfer are priors",
            lanes=frozenset({need.lane}), numerics=numerics(sold.gpu.capability), wait_s=self._wait_s,
            cold_s=self._cold_s, billing=Billing.SECONDS, interruptible=True, resident=resident,
            movable=frozenset(movable), idle_s=self._idle_s if need.lane is Lane.LIVE else None,
            seconds_per_byte=SECONDS_PER_BYTE_PRIOR if self.realm is Realm.REAL else 0.0,
        )  # fmt: skip

    def _words(self, error: Exception) -> str:
        """An error's line without our name in front: an Unfit carries the name beside it."""
        return str(error).removeprefix(f"{self.name}: ")

    def _check(self, intent: Intent) -> None:
        name = intent.name
        if not NAME_RULE.fullmatch(name) or not name.startswith(PREFIX) or not 5 <= len(name) <= 63:
            raise Rejected(f"{name!r} is no name of an app: {PREFIX}…, lower case, at most 63 characters.",
                           provider=self.name)  # fmt: skip
        if intent.bundle is None:
            raise Rejected("it runs bundles, not bare machines.", provider=self.name)
        if not 1 <= intent.lifetime_s <= MAX_LIFETIME_S:
            raise Rejected(f"a function runs at most 24 hours, asked were {intent.lifetime_s:.0f} s.",
                           provider=self.name)  # fmt: skip

    def _gpu(self, intent: Intent) -> str:
        """Modal's name of the GPU that was offered."""
        told = intent.offer.id.rsplit(f"{self.realm}-", 1)[-1]
        names = [name for name in NAMES if name.lower().strip("!") == told]
        if not names:
            raise Rejected(f"the offer {intent.offer.id!r} names no GPU of Modal's.", provider=self.name)
        return names[0]

    def _lease(self, intent: Intent, app_id: str) -> Lease:
        """Equal for ``create`` and ``find``."""
        ends_by = intent.created_at + timedelta(seconds=QUEUE_ALLOWANCE_S + intent.lifetime_s)
        return Lease(intent.id, self.name, self.realm, intent.name, app_id, intent.created_at, ends_by)
