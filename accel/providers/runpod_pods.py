"""RunPod's pods. Guarantee: a pod is owned from the order on, and gone only by RunPod's word.

One pod per intent, its name the intent's. Its start command is ``worker.boot``; it is reached through
RunPod's HTTP proxy with the lease's token, and given its wheel and its job there. It ends itself by the key
that RunPod gives it for itself (RUNPOD_API_KEY, "Pod-scoped API key", docs pods/templates/
environment-variables.mdx, 2026-08-20): REST v2 has no lifetime to ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from accel.core.errors import (
    BadOutput,
    NoCapacity,
    Preempted,
    ProviderError,
    RateLimited,
    Rejected,
    Unreachable,
)
from accel.core.lease import Intent, Lease, Released, Unconfirmed
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.providers.base import Fetched, JobState, Progress
from accel.providers.far_end import FarEnd
from accel.providers.runpod_calls import NAME, RunPodCalls, nano
from accel.providers.runpod_market import KINDS, LONGEST
from accel.providers.transport import NotFound
from accel.worker import start

PREFIX = "accel-"
NAME_RULE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# The image that [createPod]'s own examples use; torch, CUDA 12.8.
IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
MIN_CUDA = "12.8"
LOOK_S = 10.0  # at the far end of a pod that runs, before RunPod is asked again whether it does


@dataclass(frozen=True, slots=True)
class Container:
    """What a pod is made of. template: id of a pod template instead of ``image``. Seconds: idle_s until it
    ends itself unused; up_s until it must be up; blind_s RunPod may not answer meanwhile; settle_s it may not
    list one just made; poll_s between two looks."""

    image: str
    template: str
    disk_gb: int
    idle_s: float
    up_s: float
    blind_s: float
    settle_s: float
    poll_s: float


class Pods:
    """token: a lease's name → its bearer. wheel: for an intent without a bundle."""

    def __init__(
        self, calls: RunPodCalls, made_of: Container, runtime: Runtime, realm: Realm,
        token: Callable[[str], str], wheel: Callable[[], bytes],
    ) -> None:  # fmt: skip
        self._calls, self._of, self._runtime, self._realm = calls, made_of, runtime, realm
        self._token, self._wheel = token, wheel
        self.mine: set[str] = set()  # made or found here, and not released
        self._up: set[str] = set()  # of them, those whose far end has the job

    async def create(self, intent: Intent) -> Lease:
        """Rent a pod named ``intent.name``. One request, and one more where it must be given back at once:
        RunPod asks more for it than was offered.

        Raises NoCapacity, Unauthorised (also for want of money), Rejected, or what ``core.errors`` says of
        the connection; after Unreachable the pod may exist.
        """
        body = self._body(intent)
        pod = await self._calls.create_pod(body)
        lease = self._lease(intent, pod["id"])
        self.mine.add(pod["id"])
        try:
            asked = nano(pod.get("cost"))
        except ValueError:
            asked = NanoUSD(0)  # not told: the offer's rate stands
        if asked > intent.offer.rate.nano_per_hour:
            await self._give_back(lease, asked)
        return lease

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Delete it; ``Released`` once RunPod also says that it knows it no more. Two requests."""
        try:
            with contextlib.suppress(NotFound):  # asked once more
                await self._calls.delete_pod(lease.remote_id)
            pod = await self._calls.pod(lease.remote_id)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        if pod is not None and pod.get("status") != "TERMINATED":
            return Unconfirmed(lease.id, f"RunPod still says {pod.get('status')} of it", lease.ends_by)
        self.mine.discard(lease.remote_id)
        self._up.discard(lease.remote_id)
        return Released(lease.id, "RunPod deleted the pod, and knows it no more")

    async def find(self, intent: Intent) -> Lease | None:
        """See ``RunsBatch``. Not there is said only when two lists say so, and the pod cannot be too new."""
        self._check(intent)
        for _ in range(2):
            for pod in sorted(await self._calls.pods(), key=lambda p: str(p.get("createdAt"))):
                if pod["name"] == intent.name and pod.get("status") != "TERMINATED":
                    self.mine.add(pod["id"])
                    return self._lease(intent, pod["id"])
        wait_s = self._of.settle_s - (self._runtime.now() - intent.created_at).total_seconds()
        if wait_s > 0:
            raise Unreachable("RunPod lists no such pod; it may be too new.", provider=NAME,
                              retry_after_s=wait_s)  # fmt: skip
        return None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Wait until the pod runs and its far end answers, give it its wheel and the bundle, begin the job.

        Raises NoCapacity for a pod that never came up, Preempted for one that was taken away.
        """
        if bundle is None:
            raise Rejected("a pod is told its job by a bundle.", provider=NAME)
        wheel = await self._runtime.offload(_wheel_of, bundle)
        async with self.far_end(lease) as far_end:
            await self._come_up(lease, far_end, wheel)
            await far_end.start_job(bundle)
        self._up.add(lease.remote_id)

    async def _come_up(self, lease: Lease, far_end: FarEnd, wheel: bytes) -> None:
        clock = asyncio.get_running_loop().time
        ends, heard, seen = clock() + self._of.up_s, clock(), False
        while clock() < ends:
            try:
                pod = await self._calls.pod(lease.remote_id)
                status, heard = "gone" if pod is None else str(pod.get("status")), clock()
            except (Unreachable, RateLimited):
                if clock() - heard >= self._of.blind_s:
                    raise
                status = "unknown"
            if status in ("gone", "EXITED", "ERROR", "TERMINATED"):
                if seen:
                    raise Preempted(f"the pod was taken away ({status}).", provider=NAME)
                raise NoCapacity(f"the pod never came up ({status}).", provider=NAME)
            if status == "RUNNING":
                seen = True
                try:  # the proxy answers 404 and 502 until the port is there
                    look_s = min(LOOK_S, max(0.1, ends - clock()))
                    await far_end.come_up(lambda: wheel, look_s, self._of.poll_s)
                    return
                except (NoCapacity, NotFound):
                    pass
            await asyncio.sleep(self._of.poll_s)
        raise NoCapacity(f"the pod was not up within {self._of.up_s:.0f} s.", provider=NAME)

    async def poll(self, lease: Lease) -> Progress:
        """The job's state by its far end; before that has it, or when it is silent, the pod's by RunPod.

        ABSENT when RunPod knows no such pod. Raises Preempted for one that stopped, or went, under us.
        """
        if lease.remote_id not in self._up and (progress := await self._asleep(lease)) is not None:
            return progress
        try:
            async with self.far_end(lease) as far_end:
                return await far_end.poll_job()
        except (Unreachable, NotFound) as silent:
            if (progress := await self._asleep(lease)) is not None:
                return progress
            raise self._as_unreachable(silent) from silent

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Every file of the job, each checked. Raises Preempted for a pod that is gone."""
        try:
            async with self.far_end(lease) as far_end:
                return await far_end.fetch_job(into)
        except (Unreachable, NotFound, BadOutput) as silent:
            if await self._asleep(lease) is not None:
                raise Preempted("the pod was gone before its files were fetched.",
                                provider=NAME) from silent  # fmt: skip
            raise self._as_unreachable(silent) from silent

    # --- inside

    def far_end(self, lease: Lease) -> FarEnd:
        url = self._calls.proxy.format(pod=lease.remote_id, port=start.PORT)
        return FarEnd(url, self._token(lease.name), provider=NAME)

    async def _asleep(self, lease: Lease) -> Progress | None:
        """What the pod's own state says of the job; None where its far end must tell."""
        pod = await self._calls.pod(lease.remote_id)
        if pod is None or pod["name"] != lease.name or pod.get("status") == "TERMINATED":
            if lease.remote_id in self._up:
                raise Preempted("the pod was taken away.", provider=NAME)
            return Progress(JobState.ABSENT)
        status = str(pod.get("status"))
        if status in ("EXITED", "ERROR"):
            raise Preempted(f"the pod was taken away ({status}).", provider=NAME)
        return None if status == "RUNNING" else Progress(JobState.QUEUED, f"the pod is {status}")

    def _as_unreachable(self, silent: ProviderError) -> ProviderError:
        """The proxy's 404 says nothing of the job: the pod runs, and its port is not there."""
        if isinstance(silent, NotFound):
            return Unreachable("the pod runs, but its far end is not there.", provider=NAME)
        return silent

    async def _give_back(self, lease: Lease, asked: NanoUSD) -> None:
        """End a pod that costs more than was offered. Raises NoCapacity once it is gone."""
        answer = await self.release(lease)
        text = f"it asks {dollars(asked)} an hour now, more than it offered"
        if isinstance(answer, Released):
            raise NoCapacity(f"{text}; the pod was given back.", provider=NAME)
        raise Unreachable(f"{text}, and the pod is not given back: {answer.reason}", provider=NAME)

    def _body(self, intent: Intent) -> dict[str, Any]:
        """[CreatePodRequest]."""
        self._check(intent)
        _, _, cloud, gpu = [*intent.offer.id.split("/", 3), "", "", ""][:4]
        if cloud not in KINDS or not gpu:
            raise Rejected(f"{intent.offer.id!r} is none of its offers.", provider=NAME)
        wheel = _wheel_of(intent.bundle) if intent.bundle else self._wheel()
        control = self._calls.control_url
        env = start.environment(
            token=self._token(intent.name), wheel=wheel, lifetime_s=intent.lifetime_s, idle_s=self._of.idle_s,
            ends_by=self._ends_by(intent),
            end={"method": "DELETE", "url": f"{control}/v2/pods/{{RUNPOD_POD_ID}}",
                 "headers": {"Authorization": "Bearer {RUNPOD_API_KEY}"}},
        )  # fmt: skip
        image = {"templateId": self._of.template} if self._of.template else {"image": self._of.image}
        return {
            "name": intent.name, "cloud": cloud, "disk": self._of.disk_gb, "ports": [f"{start.PORT}/http"],
            "gpu": {"id": gpu, "count": 1, "minCudaVersion": MIN_CUDA}, "env": env,
            "args": shlex.join(start.command()), **image,
        }  # fmt: skip

    def _check(self, intent: Intent) -> None:
        name = intent.name
        if not NAME_RULE.fullmatch(name) or not name.startswith(PREFIX) or len(name) > 100:
            raise Rejected(f"{name!r} is no name of ours: {PREFIX}…, lower case.", provider=NAME)
        if not 1 <= intent.lifetime_s <= LONGEST.total_seconds():
            raise Rejected(f"a pod of {intent.lifetime_s:.0f} s is not rented.", provider=NAME)

    def _ends_by(self, intent: Intent) -> datetime:
        return intent.created_at + timedelta(seconds=intent.lifetime_s)

    def _lease(self, intent: Intent, remote_id: str) -> Lease:
        """Equal for ``create`` and ``find``: both know the intent and the pod's id."""
        return Lease(
            intent.id, NAME, self._realm, intent.name, remote_id, intent.created_at, self._ends_by(intent)
        )


def _wheel_of(bundle: Path) -> bytes:
    try:
        return (bundle / "accel.whl").read_bytes()
    except OSError as bad:
        raise Rejected(f"{bundle} is no bundle ({type(bad).__name__}).", provider=NAME) from None
