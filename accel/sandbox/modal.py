"""The sandbox Modal as a whole. Guarantee: when the context ends, nothing of it runs on.

    with ModalSandbox() as sandbox:
        ModalProvider(endpoint=sandbox.url, ...)

It needs Modal's own SDK (``pip install 'accel[modal]'``), whose stubs it serves and whose container runtime
it starts: see ``modal_wire``, ``modal_calls``, ``modal_invocations`` and ``modal_containers``.
"""

from __future__ import annotations

import importlib.util
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from accel.core.errors import UsageError
from accel.sandbox import modal_journal as journal
from accel.sandbox.cloud import SandboxCloud
from accel.sandbox.modal_containers import Containers
from accel.sandbox.modal_state import DEPLOYED, INITIALIZING, App, State
from accel.sandbox.modal_wire import ModalApp
from accel.sandbox.serving import Server

COLD_S = 10.0  # nominal; Modal's docs speak of seconds for a container and more for a large image
HOUR_S = 3600.0  # resolution of the billing report, nominal
BILLING_S = 5.0  # and what it lasts here at most: a bill comes late, and within a command's patience


class ModalSandbox(SandboxCloud[ModalApp]):
    """A Modal on loopback, in a thread, for as long as the ``with`` block lasts.

    root: folder that keeps its state; None: a temporary one. port: of gRPC, 0 takes a free one. token_id,
    token_secret: what clients sign in with; "" keeps those of ``root``, or makes new ones. time_scale: cold
    starts, idle windows and the billing hour (``BILLING_S`` at most) last 1/time_scale of their nominal
    length. cold_s: nominal
    seconds of a cold start; None: it never ends. now: the sandbox's clock, epoch seconds. Raises UsageError
    if the port is taken or Modal's SDK is missing.
    """

    title, slug = "Modal", "modal"

    def __init__(
        self, root: Path | None = None, *, port: int = 0, token_id: str = "", token_secret: str = "",
        time_scale: float = 60.0, cold_s: float | None = COLD_S, faults: Iterable[Mapping[str, Any]] = (),
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        if importlib.util.find_spec("modal") is None:
            raise UsageError("The sandbox Modal needs Modal's SDK.", hint="pip install 'accel[modal]'")
        super().__init__(root, port=0, time_scale=time_scale, faults=faults)
        self.token_id, self.token_secret = token_id, token_secret
        self.control_url = ""
        self.billing_interval_s = min(BILLING_S, HOUR_S / time_scale)
        self._grpc_port, self._cold_s, self._now = port, cold_s, now

    def _open(self, root: Path, server: Server) -> ModalApp:
        ident, secret = journal.token(root, self.token_id, self.token_secret)
        self.token_id = ident or "ak-" + secrets.token_hex(11)
        self.token_secret = secret or "as-" + secrets.token_hex(11)
        state = State(root, self._now)
        containers = Containers(state, time_scale=self.time_scale, cold_s=self._cold_s)
        app = ModalApp(
            state, containers, self._faults, token=(self.token_id, self.token_secret),
            interval_s=self.billing_interval_s, port=self._grpc_port, kept=self._temporary is None,
        )  # fmt: skip
        app.calls.url = self.control_url = server.url
        return app

    def __enter__(self) -> Self:
        super().__enter__()
        self.url = f"http://127.0.0.1:{self.app.port}"  # of gRPC, which is what clients are pointed at
        return self

    # --- what goes wrong

    def set_cold(self, cold_s: float | None) -> None:
        """How long cold starts take from now on, nominal seconds; None: for ever."""
        self.app.containers.cold_s = cold_s

    def set_rates(self, rates: Mapping[str, int]) -> None:
        """Change prices, nano-dollars an hour; what runs keeps the rate it was ordered at."""
        self.app.containers.rates.update(rates)

    def preempt(self, notice_s: float = 0.0, *, lost: bool = False) -> int:
        """Take the running containers away; see ``Containers.preempt``. Returns how many there were."""
        count: int = self.app.run(lambda: self.app.containers.preempt(notice_s, lost=lost))
        return count

    def out_of_memory(self) -> None:
        """Kill the running containers as ones that took too much memory."""
        self.app.run(self.app.containers.out_of_memory)

    def reset(self) -> None:
        """Start afresh: containers are killed, and apps, calls, charges, faults and requests forgotten."""

        async def forget() -> None:
            await self.app.containers.close()
            self.app.containers.all.clear()
            self.app.containers.cold_s = self._cold_s
            self.app.state.clear()

        self.app.run(forget)
        self._faults.set([])
        self.app.wire.clear()

    # --- what happened

    def things(self) -> list[dict[str, Any]]:
        """What exists now and may cost money: apps that are not stopped, and containers that run."""
        state, containers = self.app.state, self.app.containers

        def look() -> list[dict[str, Any]]:
            alive = [a for a in state.apps.values() if a.state in (DEPLOYED, INITIALIZING)]
            found = [_thing("app", a.id, a, "deployed" if a.state == DEPLOYED else "begun") for a in alive]
            for c in containers.live():
                app = state.apps[state.functions[c.function_id].app_id]
                found.append(_thing("container", c.id, app, "running" if c.ready_at else "starting"))
            return found

        found: list[dict[str, Any]] = self.app.run(look)
        return found

    def invoice_nano(self, name: str = "") -> int:
        """Nano-dollars of all containers up to now; of the apps called ``name`` only, if given."""
        state, containers = self.app.state, self.app.containers

        def add() -> int:
            named = {a.id for a in state.apps.values() if name in ("", a.name or a.description)}
            theirs = [c for c in containers.all.values() if state.functions[c.function_id].app_id in named]
            return sum(c.invoice(state.now()) for c in theirs)

        total: int = self.app.run(add)
        return total

    def describe(self) -> dict[str, Any]:
        """How to point a client here. The token opens this sandbox and nothing else."""
        return super().describe() | {
            "token_id": self.token_id,
            "token_secret": self.token_secret,
            "control_url": self.control_url,
            "billing_interval_s": self.billing_interval_s,
            "official_client_env": {
                "MODAL_SERVER_URL": self.url,
                "MODAL_TOKEN_ID": self.token_id,
                "MODAL_TOKEN_SECRET": self.token_secret,
            },
            "accel": {"provider": "modal", "realm": "sandbox", "endpoint": self.url},
        }


def _thing(kind: str, ident: str, app: App, state: str) -> dict[str, Any]:
    return {"kind": kind, "id": ident, "name": app.name or app.description, "state": state}
