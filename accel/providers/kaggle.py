"""Kaggle: bounded batch jobs on two free T4s. Guarantee: a session is never believed gone without proof.

One private kernel per job, its slug the intent's name, so that the job can be found again by a process
that never saw the answer to the push. Kaggle has no ``ServesLive``: its terms forbid serving.

What Kaggle does not offer, and what that means here:
- A session cannot be stopped: no answer carries its id ("A session ID is like a *nix PID, and is not
  currently exposed outside the server", kaggle-cli pull request 1174, 2026-08-11). ``release`` and
  ``cancel`` confirm a session that has ended and else say until when it can run; every push carries
  ``sessionTimeoutSeconds``, and the job ends itself.
- A refused push is HTTP 200 with ``error`` (kaggle 2.2.4, kaggle_api_extended.py:6465-6499).
- A kernel that does not exist is answered 403 "Permission 'kernels.get' was denied" (or 404), and so is
  one that was pushed moments ago (kaggle_api_extended.py:6798-6805 explains the former; both are in
  public logs of its users, 2026). ``find`` therefore also asks for the list of own kernels, and says
  that it cannot tell while the push is younger than ``settle_s``.
- A script that does not fit into one push is pushed without its package and inputs, which travel as private
  data sets (``providers.kaggle_datasets``) before the order: ``send_ahead``.
- A crashed script may still be reported COMPLETE (a user's note of 2026, not seen by us): whether a job
  succeeded is told by its own ``result.json`` (``worker.artefacts``), never by the status alone.

Wire facts stand in ``providers.kaggle_calls`` and ``providers.kaggle_client``.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from accel.core.errors import (
    JobFailed,
    NoCapacity,
    ProviderError,
    Rejected,
    Unauthorised,
    Unreachable,
    UsageError,
)
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.offer import Billing, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need
from accel.providers.base import Fetched, JobState, Progress
from accel.providers.kaggle_calls import KaggleCalls, utc
from accel.providers.kaggle_client import (
    NAME,
    KaggleCredentials,
    NotFound,
)
from accel.providers.kaggle_datasets import LARGEST, POLL_S, READY_S, Datasets
from accel.providers.kaggle_machine import NUMERICS, RATE, T4X2, unfit
from accel.providers.kaggle_uploads import PAUSE_S, Uploads
from accel.providers.reach import check_endpoint
from accel.worker.attached import FOLDER, Attached, attach
from accel.worker.bundle import Bundle, TooLarge, render_script

T = TypeVar("T")

NO_KEY = "no credentials: set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY"

PREFIX = "accel-"
NAME_RULE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_LIFETIME_S = 12 * 3600  # kaggle 2.2.5 cli.py:2863: "12 hours, the maximum notebook runtime"
# Priors for the router until attempts have measured it; nobody publishes these numbers.
WAIT_PRIOR_S, COLD_PRIOR_S = 30.0, 120.0
SECONDS_PER_BYTE_PRIOR = 1e-6  # 1 MB/s, an ordinary line's upload
QUEUE_ALLOWANCE_S = 3600.0  # our margin for the queue in ``ends_by``: the timeout counts from the start
SEND_S = 3 * 3600.0  # our limit for what is sent ahead; ``ends_by`` counts it where anything is
LATEST = 0.5  # of the allowances: an order that is older is not pushed, so that ``ends_by`` holds
AT_ONCE = 2  # "Maximum batch GPU session count of 2 reached.", in its users' logs
LISTED_FOR = timedelta(hours=48)  # a kernel last run longer ago cannot hold a session of 12 hours


def render_bundle(folder: Path) -> tuple[str, bool]:
    """(script, whether it needs the internet) of a bundle's folder. Raises UsageError."""
    return render_script(folder), Bundle.open(folder).needs_internet


class KaggleProvider:
    """See the module's guarantee. Meets ``Provider`` and ``RunsBatch``.

    credentials: nothing else is used to sign in. endpoint: loopback URL of a sandbox, with realm
    SANDBOX, or None with realm REAL (SettingsError for any other pair). accepted_terms: ``Term.key``
    values. render: bundle folder → (script, needs internet). settle_s: how long Kaggle may not yet
    show a kernel just pushed (default 120, our margin; a sandbox shows it at once). call_s: seconds
    for one request. fetch_s, max_bytes: bounds of one ``fetch``. folder: keeps uploads that are under way
    between processes, None: they end with this one. largest, ready_s, poll_s: see ``Datasets``.
    """

    name = NAME

    def __init__(
        self, *, credentials: KaggleCredentials, runtime: Runtime, realm: Realm = Realm.REAL,
        endpoint: str | None = None, accepted_terms: Collection[str] = (),
        render: Callable[[Path], tuple[str, bool]] = render_bundle, wait_s: float = WAIT_PRIOR_S,
        cold_s: float = COLD_PRIOR_S, settle_s: float | None = None, call_s: float = 30.0,
        fetch_s: float = 3600.0, max_bytes: int = 2 << 30, folder: Path | None = None,
        attach: Callable[[Path], Attached] = attach, largest: int = LARGEST, ready_s: float = READY_S,
        poll_s: float | None = None,
    ) -> None:  # fmt: skip
        check_endpoint("Kaggle", realm, endpoint)
        self.realm: Realm = realm
        self._runtime, self._credentials, self._accepted = runtime, credentials, accepted_terms
        self._calls = KaggleCalls(credentials, endpoint, call_s)
        self._render, self._wait_s, self._cold_s = render, wait_s, cold_s
        self._settle_s = settle_s if settle_s is not None else 0.0 if endpoint else 120.0
        self._call_s, self._fetch_s, self._max_bytes = call_s, fetch_s, max_bytes
        self._attach = attach
        poll_s = poll_s if poll_s is not None else 0.1 if endpoint else POLL_S
        uploads = Uploads(
            self._calls.client, folder, lambda: runtime.now().timestamp(), 0.02 if endpoint else PAUSE_S
        )
        self._datasets = Datasets(
            self._calls.client, credentials, uploads, self._off, largest=largest, ready_s=ready_s,
            poll_s=poll_s, send_s=SEND_S,
        )  # fmt: skip

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """Terms, what a T4 can do, then the quota as Kaggle tells it: one request at most."""
        now = self._runtime.now()
        try:
            if reason := unfit(need, self._accepted):
                return Unfit(self.name, self.realm, reason, now)
            if not self._credentials:
                return Unfit(self.name, self.realm, NO_KEY, now, mendable=True)
            quota = await self._off(self._calls.quota)
        except Unauthorised as error:
            return Unfit(self.name, self.realm, self._words(error), now, mendable=True)
        except ProviderError as error:
            return Unfit(self.name, self.realm, self._words(error), now)
        except Exception as error:  # probe never raises, whatever breaks
            return Unfit(self.name, self.realm, f"cannot be asked: {type(error).__name__}", now)
        if quota.left_s <= 0:
            resets = quota.resets_at
            when = f"; it refreshes at {resets:%Y-%m-%d %H:%M} UTC" if resets else ""
            told = f"the weekly GPU quota is used up{when}"
            again = resets if quota.total_s > 0 else None  # a week of nothing is not waited for
            return Unfit(self.name, self.realm, told, now, again_at=again)
        return Offer(
            id=f"{self.name}-{self.realm}-t4x2", provider=self.name, realm=self.realm, gpu=T4X2,
            rate=RATE, as_of=now,
            source="Kaggle's quota call; wait, cold start and transfer are priors, not measured",
            lanes=frozenset({Lane.BATCH}), numerics=NUMERICS, wait_s=self._wait_s,
            cold_s=self._cold_s, billing=Billing.QUOTA, quota_left_s=quota.left_s,
            quota_s=quota.total_s, quota_resets_at=quota.resets_at, at_once=AT_ONCE,
            seconds_per_byte=SECONDS_PER_BYTE_PRIOR if self.realm is Realm.REAL else 0.0,
        )  # fmt: skip

    async def create(self, intent: Intent) -> Lease:
        """Push the bundle as a private kernel named ``intent.name``; Kaggle starts it by itself.

        Raises NoCapacity (two GPU sessions are under way), QuotaExhausted, Rejected, or what
        ``core.errors`` says of the connection; after Unreachable and JobFailed the kernel may exist.
        """
        self._check(intent)
        self._on_time(intent)
        script, internet, sources = await self._sent(intent)
        self._on_time(intent)
        try:
            remote = await self._off(self._calls.push, intent, script, internet, sources)
        except JobFailed:
            self._datasets.doubt()
            raise
        return self._lease(intent, remote)

    async def send_ahead(self, intent: Intent) -> None:
        """Bring there as data sets what does not fit into the push; no request where all fits."""
        self._check(intent)
        await self._sent(intent)

    async def _sent(self, intent: Intent) -> tuple[str, bool, list[str]]:
        """Script, whether it needs the internet, and the data sets that it reads, which are there."""
        assert intent.bundle is not None
        try:
            return *await self._off(self._render, intent.bundle), []
        except TooLarge:
            parts = await self._off(self._attach, intent.bundle, limit_s=SEND_S)
        except UsageError as bad:
            raise Rejected(bad.message, provider=self.name, hint=bad.hint) from bad
        sources = [await self._datasets.bring(file) for file in parts.files]
        return parts.script, parts.internet, sources

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Confirms a session that has ended; else says until when it may run."""
        try:
            progress = await self.poll(lease)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        if progress.state is JobState.ABSENT:
            return Released(lease.id, "Kaggle neither shows nor lists such a kernel")
        if progress.state.terminal:
            return Released(lease.id, f"Kaggle's session status: {progress.state}")
        reason = (
            f"Kaggle cannot stop a session from outside (it gives out no session id); "
            f"this one is {progress.state} and ends by its own timeout"
        )
        return Unconfirmed(lease.id, reason, lease.ends_by)

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Own kernels named accel-… whose session has not ended. One request a page, one a kernel."""
        try:
            return await self._off(self._running)
        except ProviderError as error:
            return Unknown(str(error))

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """See ``RunsBatch``. One request where the kernel is shown, else also the list of own kernels."""
        self._check(intent)
        user = await self._off(self._calls.username)
        lease = self._lease(intent, f"{user}/{intent.name}")
        progress = await self.poll(lease)
        if progress.state is JobState.QUEUED and progress.message:
            wait_s = self._too_new_s(lease)
            raise Unreachable(progress.message, provider=self.name, retry_after_s=wait_s or None)
        return None if progress.state is JobState.ABSENT else lease

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Nothing: a push starts the session."""

    async def poll(self, lease: Lease) -> Progress:
        """The session's state; ABSENT only if Kaggle neither shows nor lists the kernel.

        QUEUED with a message: the kernel is not shown (yet), and was pushed less than ``settle_s`` ago.
        """
        try:
            return await self._off(self._calls.status, lease.remote_id)
        except NotFound as missing:
            if missing.denied and await self._off(self._calls.is_listed, lease.remote_id):
                raise Unreachable("Kaggle lists this kernel but denies its status.",
                                  provider=self.name) from missing  # fmt: skip
        if wait_s := self._too_new_s(lease):
            return Progress(JobState.QUEUED, "Kaggle does not show this kernel; it may be too new: "
                                             f"ask again in {wait_s} s")  # fmt: skip
        return Progress(JobState.ABSENT)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Every output file; a/b becomes a__b. Raises BadOutput for one that is unsafe or incomplete."""
        return await self._off(
            self._calls.download, lease.remote_id, into, self._max_bytes, limit_s=self._fetch_s
        )

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``: there is nothing that could stop it."""
        return await self.release(lease)

    # --- what runs off the loop

    async def _off(self, fn: Callable[..., T], *args: Any, limit_s: float | None = None) -> T:
        """``fn`` in a thread, for ``limit_s`` at most; a server that trickles must not hold us."""
        limit = limit_s or self._call_s * 4
        try:
            async with asyncio.timeout(limit):
                return await self._runtime.offload(fn, *args)
        except TimeoutError:
            raise Unreachable(f"no answer within {limit:.0f} s.", provider=self.name) from None

    def _too_new_s(self, lease: Lease) -> int:
        """Seconds until Kaggle's silence about a kernel means that there is none; 0 when it does."""
        age_s = (self._runtime.now() - lease.created_at).total_seconds()
        return max(0, math.ceil(self._settle_s - age_s))

    def _words(self, error: Exception) -> str:
        """An error's line without our name in front: an Unfit carries the name beside it."""
        return str(error).removeprefix(f"{self.name}: ")

    def _check(self, intent: Intent) -> None:
        name = intent.name
        if not NAME_RULE.fullmatch(name) or not name.startswith(PREFIX) or not 5 <= len(name) <= 50:
            raise Rejected(f"{name!r} is no kernel name: {PREFIX}…, lower case, at most 50 characters.",
                           provider=self.name)  # fmt: skip
        if intent.bundle is None:
            raise Rejected("it runs bundles, not bare machines.", provider=self.name)
        if not 1 <= intent.lifetime_s <= MAX_LIFETIME_S:
            raise Rejected(f"a session lasts at most 12 hours, asked were {intent.lifetime_s:.0f} s.",
                           provider=self.name)  # fmt: skip

    def _lease(self, intent: Intent, remote_id: str) -> Lease:
        """Equal for ``create`` and ``find``: both know the intent and nothing else."""
        ends_by = intent.created_at + timedelta(seconds=self._allowance_s(intent) + intent.lifetime_s)
        return Lease(intent.id, self.name, self.realm, intent.name, remote_id, intent.created_at, ends_by)

    @staticmethod
    def _allowance_s(intent: Intent) -> float:
        """From the intent to the start of its session, at most."""
        ahead = intent.bundle is not None and (intent.bundle / FOLDER).is_dir()
        return QUEUE_ALLOWANCE_S + (2 * SEND_S if ahead else 0.0)

    def _on_time(self, intent: Intent) -> None:
        """Raises NoCapacity for an order so old that its session might outlive the lease's ``ends_by``."""
        age_s = (self._runtime.now() - intent.created_at).total_seconds()
        if age_s > LATEST * self._allowance_s(intent):
            raise NoCapacity(f"the order is {age_s:.0f} s old; it is made anew.", provider=self.name)

    def _running(self) -> tuple[Lease, ...]:
        now, user = self._runtime.now(), self._calls.username()
        found = []
        for kernel in self._calls.own():
            slug = kernel.ref.rsplit("/", 1)[-1]
            began = utc(kernel.last_run_time) or now
            if not slug.startswith(PREFIX) or now - began > LISTED_FOR:
                continue
            remote = f"{user}/{slug}"
            if not self._calls.status(remote).state.terminal:
                ends_by = began + timedelta(seconds=QUEUE_ALLOWANCE_S + MAX_LIFETIME_S)
                found.append(Lease(slug, self.name, self.realm, slug, remote, began, ends_by))
        return tuple(found)
