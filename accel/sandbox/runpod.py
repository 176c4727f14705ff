"""The sandbox RunPod as a whole. Guarantee: when the context ends, nothing of it runs on.

    with RunPodSandbox() as sandbox:
        RunPodProvider(endpoint=sandbox.url, ...)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from accel.sandbox.cloud import SandboxCloud
from accel.sandbox.machines import GONE, Machine, Machines
from accel.sandbox.runpod_account import Account
from accel.sandbox.runpod_catalog import NANO
from accel.sandbox.runpod_queue import Queues
from accel.sandbox.runpod_wire import WORKERS, RunPodApp
from accel.sandbox.serving import Server

COLD_S = 60.0  # nominal: a container's image pulled and started; a round number, RunPod publishes none


class RunPodSandbox(SandboxCloud[RunPodApp]):
    """A RunPod on loopback, in a thread, for as long as the ``with`` block lasts.

    root: folder that keeps its machines and their invoice; None: a temporary one. Endpoints, templates and
    keys last as long as the sandbox. port: 0 takes a free one. key: what clients sign in with; "" makes one.
    time_scale: waits last 1/time_scale of their nominal seconds. cold_s: nominal, of a container. credit:
    dollars paid in. proxy_s: real seconds of one request through the proxy. worker_env: what the image brings
    into a serverless worker's environment (PYTHONPATH for packages it holds). now: epoch seconds.
    """

    title, slug, within = "RunPod", "runpod", WORKERS

    def __init__(
        self, root: Path | None = None, *, port: int = 0, key: str = "", time_scale: float = 60.0,
        cold_s: float = COLD_S, credit: int = 100, proxy_s: float = 100.0,
        worker_env: Mapping[str, str] | None = None, faults: Iterable[Mapping[str, Any]] = (),
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        super().__init__(root, port=port, time_scale=time_scale, faults=faults)
        self.key = key or f"rpa_{secrets.token_hex(20)}"
        self._now, self._credit, self._cold_s = now, credit * NANO, cold_s
        self._proxy_s, self._worker_env = proxy_s, dict(worker_env or {})

    def _open(self, root: Path, server: Server) -> RunPodApp:
        return RunPodApp(self._make, self._faults, proxy_s=self._proxy_s)

    def _make(self) -> tuple[Account, Queues]:
        assert self.root is not None
        machines = Machines(self.root, time_scale=self.time_scale, now=self._now)
        account = Account(machines, credit=self._credit, cold_s=self._cold_s, key=self.key)
        return account, Queues(account, f"{self.url}/ai/v2", self.time_scale, self._worker_env)

    def _stop(self) -> None:
        if self._app is not None and self.alive:
            self._app.queues.leaving = True
        super()._stop()

    def reset(self) -> None:
        """Start afresh: everything rented is destroyed, and endpoints, templates, requests and faults are
        forgotten. What was billed stays on the invoice."""

        async def forget() -> None:
            for ident in list(self.app.queues.endpoints):
                await self.app.queues.delete(ident)
            for machine in self.app.account.machines.all():
                await self.app.account.machines.destroy(machine.id, "reset")
            self.app.account.templates.clear()
            self._faults.set([])
            self.app.wire.clear()

        self._soon(forget())

    def things(self) -> list[Machine]:
        """Every container that is not gone: pods, also stopped ones, and serverless workers."""
        machines = self.app.account.machines
        return self._on_loop(lambda: [m for m in machines.all() if m.state != GONE])

    def endpoints(self) -> list[str]:
        """Names of the serverless endpoints."""
        return self._on_loop(lambda: [e.body["name"] for e in self.app.queues.endpoints.values()])

    def preempt(self, ident: str, notice_s: float = 0.0) -> None:
        """Take a container away, nominal ``notice_s`` after it was told; returns when it is gone."""
        keep = not any(m.id == ident and m.words.get("kind") == "worker" for m in self.things())
        self._soon(self.app.account.machines.preempt(ident, notice_s, keep=keep))

    def invoice_nano(self) -> int:
        """Everything that was ever billed, nano-dollars."""
        return self._on_loop(self.app.account.machines.invoice)

    def log(self, ident: str) -> str:
        """What a container has printed."""
        machine = self.app.account.machines.get(ident)
        return self.app.account.machines.log(machine) if machine else ""

    def describe(self) -> dict[str, Any]:
        """How to point a client here. The key opens this sandbox and nothing else."""
        return super().describe() | {
            "key": self.key,
            # runpod 1.12.0: api/graphql.py:33, __init__.py:87-89; its key is read from a file only. 2.0.0rc2:
            # api/rest.py:33, __init__.py:66-109.
            "official_env": {
                "RUNPOD_API_BASE_URL": self.url,
                "RUNPOD_ENDPOINT_BASE_URL": f"{self.url}/ai/v2",
                "RUNPOD_API_KEY": self.key,
            },
            "accel": {"provider": "runpod", "realm": "sandbox", "endpoint": self.url},
        }
