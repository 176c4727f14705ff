"""Serves a loopback cloud on 127.0.0.1. Guarantee: when the context ends, nothing of it runs on.

A cloud is a context manager with ``alive`` and ``describe()``; ``serve_foreground`` runs one for people,
which is what ``accel sandbox NAME`` calls.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from accel.core.errors import AccelError, UsageError

START_S = 20.0


class Cloud(Protocol):
    """What ``serve_foreground`` needs of a cloud that was entered."""

    @property
    def alive(self) -> bool:
        """Whether it is serving."""
        ...

    def describe(self) -> dict[str, Any]:
        """How to point a client here, as JSON values."""
        ...


class Server:
    """An ASGI application on a free, or the given, port of 127.0.0.1, in a thread of its own.

    Raises UsageError if the port is taken. ``start`` returns once it accepts requests.
    """

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self._listener = _listen(port)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: ASGIApp) -> None:
        """Serve ``app``. Raises AccelError when it does not come up."""
        config = uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="on", log_config=None,
            access_log=False, timeout_graceful_shutdown=1, proxy_headers=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name=self.name, daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise AccelError(f"The {self.name} did not start.")
            time.sleep(0.005)

    def stop(self) -> None:
        """End it; returns when nothing of it runs. May be called again."""
        if self._server is not None and self.alive and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._listener.close()

    @property
    def alive(self) -> bool:
        """Whether it is serving."""
        return self._thread is not None and self._thread.is_alive()


def serve_foreground(
    cloud: AbstractContextManager[Cloud], *, announce: Callable[[str], object] | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, then end cleanly. Call it from the main thread.

    Prints one JSON line (``Cloud.describe``) on standard output once it accepts requests; ``announce``
    takes that line instead if given.
    """
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with cloud as served:
            (announce or _print_line)(json.dumps(served.describe()))
            while served.alive and not stop.wait(0.2):
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as taken:
        listener.close()
        raise UsageError(f"Port {port} cannot be used: {taken.strerror}.") from None
    listener.listen(128)
    return listener
