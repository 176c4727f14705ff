"""Modal's live lane: a deployed function that stands by. Guarantee: an index and a wheel travel once.

The app's name says what it is: GPU, bounds, packages and wheel; who finds it deployed uses it. Nothing bills
until it is called, and its containers end ``idle_s`` after their last call.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from accel.core.errors import IndexError_
from accel.core.runtime import Runtime
from accel.providers import modal_bytes, modal_far
from accel.providers.modal_app import LIVE, Deployments, Plan
from accel.providers.modal_client import NotFound
from accel.wire import Envelope

PREFIX = "accel-live-"
DEPLOY_S = 900.0  # an image is built with the first deployment: minutes


class LiveFunction:
    """See the module's guarantee. live_s: seconds for one call, its cold start counted."""

    def __init__(
        self, apps: Deployments, runtime: Runtime, wheel: Callable[[], bytes],
        blobs: Callable[[str], Path | None], *, gpu: str, needs: Sequence[str], most: int,
        idle_s: float, live_s: float,
    ) -> None:  # fmt: skip
        self._apps, self._runtime, self._pack, self.blobs = apps, runtime, wheel, blobs
        self.gpu, self._needs, self._most, self._idle_s = gpu, tuple(needs), most, idle_s
        self._live_s = live_s
        self._wheel = b""
        self._sent: set[tuple[str, str]] = set()  # (app, index) that lie in its volume
        self._deploying: asyncio.Task[None] | None = None

    def wheel(self) -> bytes:
        """Our package, packed once."""
        self._wheel = self._wheel or self._pack()
        return self._wheel

    def plan(self) -> Plan:
        """The app, by everything that makes it what it is."""
        wheel = hashlib.sha256(self.wheel()).hexdigest()
        said = (self.gpu, str(self._most), str(self._idle_s), *self._needs, wheel)
        digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]
        name = f"{PREFIX}{self.gpu.lower().strip('!')}-{digest}"
        return Plan(name, LIVE, self.gpu, self._live_s, self._idle_s, self._most)

    def sent(self, app: str) -> frozenset[str]:
        """The indexes that lie there, as far as this process has seen to it."""
        return frozenset(index for known, index in self._sent if known == app)

    def forget(self, app: str) -> None:
        """The app and its volume are gone."""
        self._apps.forget(app)
        self._sent = {(known, index) for known, index in self._sent if known != app}

    async def call(self, app: str, request: Envelope) -> Envelope:
        """One envelope there and back. Raises ProviderError, and what the far end's stages raise."""
        (answer,), took_s = await self._run(app, [request])
        return modal_bytes.envelope(answer, took_s)

    async def call_many(self, app: str, requests: Sequence[Envelope]) -> list[Envelope]:
        """Many of them, on as many containers as there may be; answers in their order."""
        answers, took_s = await self._run(app, requests)
        return [modal_bytes.envelope(answer, took_s) for answer in answers]

    async def _run(self, app: str, requests: Sequence[Envelope]) -> tuple[list[bytes], float]:
        await self._standing(app)
        for index in dict.fromkeys(str(r.meta.get("index", "")) for r in requests):
            if index and (app, index) not in self._sent:
                await self._send(app, index)
        bodies = [modal_far.frame({"volume": app}, r.to_bytes()) for r in requests]
        clock = asyncio.get_running_loop().time
        began = clock()
        if len(bodies) == 1:
            answers = [await self._apps.remote(app, bodies[0], limit_s=self._live_s)]
        else:
            answers = await self._apps.map(app, bodies, limit_s=self._live_s)
        return answers, clock() - began

    async def _standing(self, app: str) -> None:
        try:
            await self._apps.known(app, LIVE)
        except NotFound:
            task = self._deploying
            if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
                task = self._deploying = asyncio.ensure_future(self._deploy(app))
            await asyncio.shield(task)  # one deployment, however many wait for it, or give up waiting

    async def _deploy(self, app: str) -> None:
        plan = await self._runtime.offload(self.plan)
        if plan.name != app:
            raise NotFound(f"{app} is not deployed; this version of accel deploys another.", provider="modal")
        await self._apps.deploy(plan, self.wheel(), limit_s=DEPLOY_S)

    async def _send(self, app: str, index: str) -> None:
        folder = self.blobs(index)
        if folder is None:
            raise IndexError_(f"the index {index[:12]} is not here to be sent.")
        blob = await self._runtime.offload(modal_bytes.index_zip, folder)
        await self._apps.put(app, f"{index}.zip", blob, limit_s=DEPLOY_S)
        self._sent.add((app, index))
