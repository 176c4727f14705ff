"""What the sandbox Modal knows: apps, functions, calls, content. Guarantee: an input ends once per attempt.

Everything lives in memory, contents in a folder: a sandbox that is started again is an empty account.
Ids look as Modal's do: a prefix and 22 letters or digits (modal 1.6.4, cli/app.py:90).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ALPHABET = string.ascii_letters + string.digits
HEX = re.compile(r"[0-9a-f]{64}")
# modal 1.6.4, modal_proto/api.proto as generated: enum AppState, and GenericResult.GenericStatus.
EPHEMERAL, DETACHED, DEPLOYED, STOPPED, INITIALIZING = 1, 2, 3, 5, 6
SUCCESS, FAILURE, TERMINATED, TIMEOUT, INIT_FAILURE, INTERNAL_FAILURE, OOM_KILL = 1, 2, 3, 4, 5, 6, 10


def protocol() -> Any:
    """``modal_proto.api_pb2``, imported where it is used: it comes with Modal's SDK."""
    from modal_proto import api_pb2

    return api_pb2


def new_id(prefix: str) -> str:
    """ "ap-…" and the like."""
    return f"{prefix}-" + "".join(secrets.choice(ALPHABET) for _ in range(22))


@dataclass(slots=True)
class App:
    """One app. name: of its deployment, "" before it is published. Instants are epoch seconds."""

    id: str
    description: str
    state: int
    created_at: float
    name: str = ""
    deployed_at: float = 0.0
    stopped_at: float = 0.0
    heartbeat_at: float = 0.0
    version: int = 0
    functions: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Function:
    """definition: ``api_pb2.Function``, data: ``api_pb2.FunctionData``, handle: its metadata; settings: of
    the autoscaler, as they are now."""

    id: str
    app_id: str
    tag: str
    definition: Any = None
    data: Any = None
    handle: Any = None
    settings: Any = None
    pending: list[Input] = field(default_factory=list)


@dataclass(slots=True)
class Input:
    """One input of a call. ``result`` is a ``GenericResult`` once it has ended."""

    id: str
    call_id: str
    idx: int
    payload: Any
    enqueued_at: float
    attempt: int = 0
    task_id: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    cold_s: float = 0.0
    result: Any = None
    cancelled: bool = False


@dataclass(slots=True)
class Call:
    """A function call: its inputs, and its outputs in the order they came."""

    id: str
    function_id: str
    kind: int
    created_at: float
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    seen: int = 0  # outputs ever: their entry ids count on when one is taken back


@dataclass(slots=True)
class State:
    """One account. ``changed`` is notified whenever a call, an input or a container changes."""

    root: Path
    now: Callable[[], float]
    apps: dict[str, App] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    mounts: dict[str, list[Any]] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)  # id → path → sha256
    volume_names: dict[str, str] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def clear(self) -> None:
        """Forget everything but contents: what is content-addressed does no harm."""
        for kept in (self.apps, self.functions, self.calls, self.inputs, self.mounts, self.blobs,
                     self.volumes, self.volume_names):  # fmt: skip
            kept.clear()

    async def notify(self) -> None:
        """Wake everybody who waits for a change."""
        async with self.changed:
            self.changed.notify_all()

    def deployed(self, name: str) -> App | None:
        """The app that is deployed under ``name``."""
        return next((a for a in self.apps.values() if a.name == name and a.state == DEPLOYED), None)

    def stopped(self, name: str) -> App | None:
        """The app that was last stopped under ``name``."""
        found = [a for a in self.apps.values() if a.name == name and a.state == STOPPED]
        return max(found, key=lambda a: a.stopped_at, default=None)

    def put(self, data: bytes) -> str:
        """Keep ``data``; returns its sha256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.content(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{digest}.part")
            part.write_bytes(data)
            part.replace(path)
        return digest

    def content(self, digest: str) -> Path:
        """Where the content of a hash lies, if it is there."""
        assert HEX.fullmatch(digest), "not a sha256"
        return self.root / "content" / digest

    def end(self, given: Input, result: Any, *, data_format: int = 0) -> Any:
        """Write down the end of an input's attempt; returns the output, or None if it had ended."""
        if given.result is not None:
            return None
        given.result, given.ended_at = result, self.now()
        call = self.calls[given.call_id]
        output = protocol().FunctionGetOutputsItem(
            result=result, idx=given.idx, input_id=given.id, data_format=data_format, task_id=given.task_id,
            input_started_at=given.started_at, output_created_at=given.ended_at, retry_count=given.attempt,
        )  # fmt: skip
        call.seen += 1
        call.outputs.append((call.seen, output))
        return output

    def again(self, given: Input) -> None:
        """Put an input back in its function's queue, as its next attempt."""
        call = self.calls[given.call_id]
        call.outputs = [o for o in call.outputs if o[1].input_id != given.id]
        given.attempt += 1
        given.result, given.task_id, given.started_at, given.ended_at = None, "", 0.0, 0.0
        self.functions[call.function_id].pending.append(given)
