"""Machines for tests: the start command in a process of its own, as a container would run it.

Guarantee: nothing of a machine outlives its ``with``. Each has a folder, a port and a token of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
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
from accel.worker import start
from accel.worker.bundle import pack_wheel

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
    port = free_port()
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
