"""Machines for tests: the start command in a process of its own, as a container would run it.

Guarantee: nothing of a machine outlives its ``with``. Each has a folder, a port and a token of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from accel.environment import without_secrets
from accel.worker import boot, server, start
from accel.worker.bundle import pack_wheel
from accel.worker.door import House

TOKEN = "a-token-of-this-lease-0123456789"


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An ``async def`` test, run on a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


@cache
def wheel() -> bytes:
    """This package, packed once."""
    return pack_wheel()


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Box:
    """A started machine."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def ended(self, within_s: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(within_s)


@contextlib.contextmanager
def machine(
    folder: Path, *, extra: Mapping[str, str] | None = None, path: str = "", **said: Any
) -> Iterator[Box]:
    """Run the start command. said: arguments of ``start.environment``. path: its PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    port = said.pop("port", 0) or free_port()
    asked: dict[str, Any] = {"token": TOKEN, "wheel": wheel(), "lifetime_s": 300, "idle_s": 0, "needs": ""}
    env = without_secrets() | start.environment(**{**asked, "port": port, **said})
    env |= {"ACCEL_HOST": "127.0.0.1", "TMPDIR": str(folder), "PYTHONPATH": path, **(extra or {})}
    source = start.command()[2]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", source], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield Box(process, port, folder, "https" if said.get("certificate") else "http")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Inside:
    """A far end in this process: the same server, on a real socket. Its machine's clock is not watched."""

    house: House
    far: server.FarEnd

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.house.server_address[1]}"

    def door(self, **limits: float) -> None:
        """Set limits of the door: ``head_s``, ``keep_s``, ``request_s``."""
        for name, value in limits.items():
            setattr(self.house.RequestHandlerClass, name, value)

    def raw(self, data: bytes, *, end: bool = False, within_s: float = 30.0) -> bytes:
        """What comes back for these bytes, until the far end closes. end: nothing more will be sent."""
        with socket.create_connection(self.house.server_address[:2], within_s) as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            parts = []
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(1 << 16):
                    parts.append(part)
            return b"".join(parts)


@contextlib.contextmanager
def inside(folder: Path, **env: str) -> Iterator[Inside]:
    """Serve from this process."""
    said = {"ACCEL_TOKEN": TOKEN, "ACCEL_HOST": "127.0.0.1", "ACCEL_PORT": "0", "ACCEL_DEVICE": "cpu",
            "ACCEL_WHEEL_SHA256": hashlib.sha256(wheel()).hexdigest(), **env}  # fmt: skip
    house = server.serve(boot.Machine(said), folder)
    far: server.FarEnd = house.RequestHandlerClass.far_end  # type: ignore[attr-defined]
    try:
        yield Inside(house, far)
    finally:
        house.shutdown()
        house.server_close()
        far.running.stop()
