"""The sandbox Vast.ai as a whole. Guarantee: when the context ends, nothing of it runs on.

    with VastSandbox() as sandbox:
        VastProvider(endpoint=sandbox.url, ...)
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from accel.core.errors import UsageError
from accel.sandbox.cloud import SandboxCloud
from accel.sandbox.machines import Machine, Machines
from accel.sandbox.serving import Server
from accel.sandbox.vast_instances import DISK_BILLS, Instances
from accel.sandbox.vast_market import NANO
from accel.sandbox.vast_wire import VastApp

COLD_S = 60.0  # nominal seconds for an image that is mostly there; a round number, not a measurement


class VastSandbox(SandboxCloud[VastApp]):
    """A Vast.ai on loopback, in a thread, for as long as the ``with`` block lasts.

    root: folder that keeps its state; None: a temporary one. port: 0 takes a free one. key: what clients
    sign in with; "" keeps that of ``root``, or makes one. time_scale: provisioning and notices last
    1/time_scale of their nominal seconds; billing is by real seconds. cold_s: nominal, None for never.
    credit_usd: paid in. drift, seed: how much prices move at each search. now: epoch seconds. Raises
    UsageError if the port or the folder is taken.
    """

    title, slug = "Vast.ai", "vast"

    def __init__(
        self, root: Path | None = None, *, port: int = 0, key: str = "", time_scale: float = 60.0,
        cold_s: float | None = COLD_S, credit_usd: float = 25.0, drift: float = 0.0, seed: int = 0,
        faults: Iterable[Mapping[str, Any]] = (), now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        super().__init__(root, port=port, time_scale=time_scale, faults=faults)
        self.key, self._now, self._credit = key, now, round(credit_usd * NANO)
        self._options: dict[str, Any] = {"drift": drift, "seed": seed, "cold_s": cold_s}
        self._lock: FileLock | None = None

    def _open(self, root: Path, server: Server) -> VastApp:
        self._lock = _locked(root)
        self.key = _kept_key(root / "account.json", self.key)
        return VastApp(self._make, self._faults, key=self.key, credit=self._credit)

    def _close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _make(self) -> Instances:
        assert self.root is not None
        machines = Machines(
            self.root, time_scale=self.time_scale, now=self._now, disk_bills=DISK_BILLS
        )
        return Instances(machines, **self._options)

    # --- what it knows

    def things(self) -> list[dict[str, Any]]:
        """What is rented now, stopped and exited ones too, as the API shows it."""
        return self._on_loop(lambda: [self._contracts.row(m) for m in self._contracts.rented()])

    def invoice_nano(self) -> int:
        """Nano-dollars charged up to now, over every contract there ever was."""
        return self._on_loop(self.app.machines.invoice)

    def log(self, instance: int | str) -> str:
        """What an instance has printed."""
        return self._on_loop(lambda: self.app.machines.log(self._machine(instance)))

    def describe(self) -> dict[str, Any]:
        """How to point a client here. The key opens this sandbox and nothing else."""
        return super().describe() | {
            "key": self.key,
            # vastai 1.9.1, api/client.py:19 and _base.py:22
            "official_cli_env": {"VAST_URL": self.url, "VAST_API_KEY": self.key},
            "accel": {"provider": "vast", "realm": "sandbox", "endpoint": self.url},
        }  # fmt: skip

    # --- what happens to it

    def reset(self) -> None:
        """Start afresh: everything rented is ended and forgotten, with its charges, faults and requests."""

        async def forget() -> None:
            for machine in self.app.machines.all():
                await self.app.machines.destroy(machine.id)
            shutil.rmtree(self.app.machines.root / "machines", ignore_errors=True)
            await self.app.opened()
            self.app.credit = self._credit
            self._faults.set([])
            self.app.wire.clear()

        self._soon(forget())

    def outbid(self, instance: int | str, notice_s: float = 0.0) -> None:
        """Somebody bids more for the GPU of this instance; nominal ``notice_s`` from SIGTERM to SIGKILL."""
        self._soon(self._contracts.outbid(self._machine(instance), notice_s))

    def compete(self, ask: int, usd_per_hour: float) -> None:
        """Somebody's bid stands on this ask: a bid has to be above it."""
        slot, _ = self._on_loop(lambda: self._contracts.market.find(ask))
        assert slot is not None, f"no ask {ask}"
        slot.rival = round(usd_per_hour * NANO)

    def set_price(self, ask: int, usd_per_hour: float) -> None:
        """The host asks another on-demand price for the GPU alone, from now on."""
        slot, _ = self._on_loop(lambda: self._contracts.market.find(ask))
        assert slot is not None, f"no ask {ask}"
        slot.base = round(usd_per_hour * NANO)

    def set_status(self, instance: int | str, status: str, words: str = "") -> None:
        """Show another ``actual_status``: unknown, offline, created, …; "" shows the truth again."""
        self._machine(instance).words |= {"status": status, "msg": words}

    def set_cold(self, cold_s: float | None) -> None:
        """Nominal seconds until what is rented from now on runs; None: it never does."""
        self._contracts.cold_s = cold_s

    def set_credit(self, usd: float) -> None:
        """What is left on the account from now on. At zero everything running is stopped, as Vast does."""

        async def change() -> None:
            self.app.credit = self.app.machines.invoice() + round(usd * NANO)
            for machine in self._contracts.rented() if usd <= 0 else ():
                await self._contracts.stop(machine)

        self._soon(change())

    def stick(self, instance: int | str, stuck: bool = True) -> None:
        """DELETE says that it destroys this instance, and does not."""
        self._machine(instance).words["stuck"] = stuck

    def kill(self, instance: int | str) -> None:
        """The container's process dies; a moment later the instance has exited."""
        pid = self.app.machines.root / "machines" / str(instance) / "pid"  # ``sandbox.supervise`` notes it
        os.killpg(int(pid.read_text()), signal.SIGKILL)

    def spoil(self, instance: int | str, how: str) -> None:
        """What its job left is "corrupted" (one bit flipped) or "missing" from now on."""
        folder = self.app.machines.root / "machines" / str(instance)
        for file in folder.rglob("result.safetensors"):
            if how == "missing":
                file.unlink()
            else:
                data = bytearray(file.read_bytes())
                data[len(data) // 2] ^= 1
                file.write_bytes(data)

    # --- inside

    @property
    def _contracts(self) -> Instances:
        return self.app.instances

    def _machine(self, instance: int | str) -> Machine:
        machine = self.app.machines.get(str(instance))
        assert machine is not None, f"no instance {instance}"
        return machine


def _locked(root: Path) -> FileLock:
    lock = FileLock(root / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"Another sandbox uses {root}.", hint="Stop it, or give another folder.") from None
    return lock


def _kept_key(file: Path, key: str) -> str:
    """The account's key: the given one, else that of the folder, else a new one. Only its owner reads it."""
    if not key and file.exists():
        key = str(json.loads(file.read_text())["key"])
    key = key or secrets.token_hex(32)
    file.touch(mode=0o600)
    file.write_text(json.dumps({"key": key}))
    return key
