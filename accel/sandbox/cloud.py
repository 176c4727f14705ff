"""What every sandbox cloud is. Guarantee: when the context ends, nothing of it runs on, and nothing is left.

A cloud is a folder, a fault script and an ASGI application on a server of its own, for as long as a ``with``
block lasts. What differs is in ``_open``.
"""

from __future__ import annotations

import asyncio
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from accel.core.errors import UsageError
from accel.sandbox.faults import FaultScript
from accel.sandbox.serving import Server
from accel.sandbox.wire import LoopbackApp, WireRecord

A = TypeVar("A", bound=LoopbackApp)
T = TypeVar("T")


class SandboxCloud(ABC, Generic[A]):
    """A cloud on loopback, in a thread.

    root: folder that keeps its state; None: a temporary one. port: 0 takes a free one. time_scale: waits last
    1/time_scale of their nominal seconds. faults: see ``sandbox.faults``. Raises UsageError for a scale that
    is not positive, and on entering if the port or the folder is taken.
    """

    title: ClassVar[str]
    slug: ClassVar[str]
    within: ClassVar[Collection[str]] = ()  # calls of the cloud's own machines

    def __init__(
        self, root: Path | None, *, port: int, time_scale: float, faults: Iterable[Mapping[str, Any]]
    ) -> None:
        if not time_scale > 0:
            raise UsageError(f"time_scale must be positive, not {time_scale}")
        self.root, self.time_scale, self.url = root, time_scale, ""
        self._port = port
        self._faults = FaultScript(faults, within=self.within)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._app: A | None = None
        self._server: Server | None = None

    @abstractmethod
    def _open(self, root: Path, server: Server) -> A:
        """Make the application. What it holds is let go in ``_close``."""

    def _close(self) -> None:
        """Let go what ``_open`` took; after the server has ended, also when ``_open`` failed."""

    def __enter__(self) -> Self:
        server = self._server = Server(f"sandbox {self.title}", self._port)
        try:
            if self.root is None:
                self._temporary = tempfile.TemporaryDirectory(prefix=f"accel-{self.slug}-")
                self.root = Path(self._temporary.name)
            self.root.mkdir(parents=True, exist_ok=True)
            self.url = server.url
            self._app = self._open(self.root, server)
            server.start(self._app)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._close()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self.root = None

    @property
    def alive(self) -> bool:
        """Whether the server is serving."""
        return self._server is not None and self._server.alive

    @property
    def app(self) -> A:
        """The ASGI application."""
        assert self._app is not None, "the sandbox has not been started"
        return self._app

    def set_faults(self, *rules: Mapping[str, Any]) -> None:
        """Replace the fault script (see ``sandbox.faults``); no rules: everything works."""
        self._faults.set(rules)

    def requests(self, call: str = "") -> list[WireRecord]:
        """What clients sent, oldest first; only ``call`` if given. The cloud's own machines' calls are there
        by name only."""
        return [r for r in list(self.app.wire) if (r.call == call if call else r.call not in self.within)]

    def _soon(self, doing: Coroutine[Any, Any, T]) -> T:
        """What a coroutine comes to, on the server's loop; called from other threads."""
        return asyncio.run_coroutine_threadsafe(doing, self.app.loop).result()

    def _on_loop(self, look: Callable[[], T]) -> T:
        """``look()`` on the server's loop, so that nothing changes under it."""

        async def call() -> T:
            return look()

        return self._soon(call())

    def describe(self) -> dict[str, Any]:
        """How to point a client here, as JSON values. Keys open this sandbox and nothing else."""
        return {"url": self.url, "realm": "sandbox", "folder": str(self.root), "time_scale": self.time_scale}
