"""Modal's batch lane: the one input of an app's function. Guarantee: it is queued once, and ends as told.

The app is found by the lease's name, its call by asking Modal for the function's inputs: any process can
carry a job on that another began.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from accel.core.errors import (
    BadOutput,
    OutOfMemory,
    Preempted,
    Rejected,
    UsageError,
)
from accel.core.lease import Lease
from accel.core.money import ZERO, Basis, Cost
from accel.core.runtime import Runtime
from accel.providers import modal_far
from accel.providers.base import Fetched, JobState, Progress
from accel.providers.modal_app import JOB, Deployments
from accel.providers.modal_bytes import unpacked
from accel.providers.modal_calls import (
    EVICTED,
    INTERNAL_FAILURE,
    SUCCESS,
    TERMINATED,
    TIMEOUT,
    Ended,
    ModalCalls,
)
from accel.providers.modal_client import NAME, NotFound

UPLOAD_S = 600.0  # for a bundle's inputs to be sent


class JobFunction:
    """See the module's guarantee. bundle: folder → files. interval_s: of the billing report."""

    def __init__(
        self, calls: ModalCalls, apps: Deployments, runtime: Runtime,
        bundle: Callable[[Path], dict[str, bytes]], *, interval_s: float, max_bytes: int,
    ) -> None:  # fmt: skip
        self._calls, self._apps, self._runtime, self._bundle = calls, apps, runtime, bundle
        self._interval_s, self._max_bytes = interval_s, max_bytes
        self._functions: dict[str, str] = {}  # lease name → function
        self._call_ids: dict[str, str] = {}  # lease name → function call

    def forget(self, name: str) -> None:
        """The app is gone."""
        self._functions.pop(name, None)
        self._call_ids.pop(name, None)
        self._apps.forget(name)

    async def start(self, lease: Lease, bundle: Path | None) -> None:
        """Queue the input, unless there is one. Raises Preempted when the app is no longer deployed."""
        try:
            if await self._call(lease):
                return
        except NotFound:
            raise Preempted("its app is no longer deployed.", provider=NAME) from None
        if bundle is None:
            raise Rejected("it was given no bundle to run.", provider=NAME)
        try:
            files = await self._runtime.offload(self._bundle, bundle)
        except UsageError as bad:
            raise Rejected(bad.message, provider=NAME, hint=bad.hint) from bad
        request = modal_far.frame({"ends_at": lease.ends_by.timestamp()}, modal_far.pack(files))
        self._call_ids[lease.name] = await self._apps.spawn(lease.name, request, limit_s=UPLOAD_S)

    async def poll(self, lease: Lease) -> Progress:
        """QUEUED until a container has the input. Raises Preempted or OutOfMemory for what was taken away."""
        try:
            call_id = await self._call(lease)
        except NotFound:
            return Progress(JobState.ABSENT)
        if not call_id:
            return Progress(JobState.QUEUED, "deployed, not started")
        ended = await self._calls.ended(call_id)
        if ended is not None:
            return _told(ended)
        seen = [s for s in await self._calls.inputs(self._functions[lease.name]) if s.call_id == call_id]
        if not seen or seen[0].waiting:
            return Progress(JobState.QUEUED, "waits for a container")
        cold = f"its container took {seen[0].cold_s:.1f} s to start" if seen[0].cold_s else ""
        return Progress(JobState.RUNNING, cold)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Bring home what the function returned. Raises BadOutput for what is not whole, or not there."""
        try:
            call_id = await self._call(lease)
        except NotFound:
            call_id = ""
        ended = await self._calls.ended(call_id) if call_id else None
        if ended is None or ended.status != SUCCESS:
            raise BadOutput("the job has returned nothing.", provider=NAME)
        answer = await self._calls.returned(ended, self._max_bytes)
        return await self._runtime.offload(unpacked, answer, into, self._max_bytes, ended.attempts)

    async def bill(self, lease: Lease) -> Cost | None:
        """What Modal's report says of the app, once the hour in which it was stopped is over and shown."""
        try:
            stopped = await self._calls.stopped_at(lease.remote_id)
        except NotFound:
            return None
        now = self._runtime.now()
        if stopped is None:
            return None
        interval_s = self._interval_s
        whole = (math.floor(stopped.timestamp() / interval_s) + 1) * interval_s
        if now.timestamp() < whole:
            return None
        begin = lease.created_at - timedelta(seconds=2 * interval_s)
        amount = await self._calls.billed(lease.remote_id, begin, now)
        if amount is None:
            if await self._calls.has_run(lease.remote_id):
                return None  # and the report does not show it yet
            amount = ZERO
        return Cost(amount, Basis.BILLED)

    async def _call(self, lease: Lease) -> str:
        """The id of the function's call, "" before there is one. Raises NotFound."""
        if (known := self._call_ids.get(lease.name)) and lease.name in self._functions:
            return known
        found = await self._calls.function(lease.name, JOB)
        self._functions[lease.name] = found.function_id
        seen = await self._calls.inputs(found.function_id)
        if seen:
            self._call_ids[lease.name] = seen[-1].call_id  # the oldest
        return self._call_ids.get(lease.name, "")


def _told(ended: Ended) -> Progress:
    if ended.status == SUCCESS:
        return Progress(JobState.DONE)
    if ended.status == TERMINATED:
        return Progress(JobState.CANCELLED, ended.words)
    if ended.status == INTERNAL_FAILURE:
        raise Preempted(f"Modal gave the input up ({ended.words}).", provider=NAME)
    if ended.status in EVICTED:
        raise OutOfMemory(f"its container was killed for its memory ({ended.words}).", provider=NAME)
    words = "it ran past its lifetime" if ended.status == TIMEOUT else ended.words
    return Progress(JobState.FAILED, words)


async def confirmed_gone(calls: ModalCalls, app_id: str, patience_s: float, tick_s: float) -> str:
    """Why it is not certain that nothing of the app runs; "" once it is."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience_s
    while True:
        if await calls.stopped_at(app_id) is None:
            left = "Modal does not say that the app is stopped"
        elif app_id in await calls.containers(app_id):
            left = "containers of the stopped app still run"
        else:
            return ""
        if loop.time() >= ends:
            return left
        await asyncio.sleep(tick_s)
