"""The client of one far end (``worker.server``). Guarantee: one call is one request, and nothing is trusted.

What comes back is checked: JSON of the shape told, envelopes by their digest, files by size and sha256 under
names that cannot leave their folder. Nothing is retried; what is sent in pieces goes on where an earlier
sender stopped, and what is there already is not sent again. Errors are ``core.errors`` under the provider's
name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.errors import (
    BadOutput,
    IndexError_,
    JobFailed,
    NoCapacity,
    OutOfMemory,
    Preempted,
    ProviderError,
    Rejected,
    Unreachable,
    UsageError,
)
from accel.index.store import META
from accel.providers.base import Fetched, JobState, Progress
from accel.providers.fetching import bring_home
from accel.providers.transport import Conflict, Transport, sha256_of
from accel.wire import Envelope, EnvelopeError
from accel.wire.envelope import MAX_BYTES
from accel.worker.bundle import Bundle

CALL_S = 95.0  # RunPod's proxy cuts a request at 100 s (docs.runpod.io "expose ports", 2026-08-20)
PIECE = 32 << 20  # of an upload or download: 100 s suffice at 3 Mbit/s

_NAMED: dict[str, type[ProviderError]] = {
    "OutOfMemory": OutOfMemory, "Preempted": Preempted, "JobFailed": JobFailed, "ModelError": JobFailed,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Health:
    """What a far end tells of itself.

    state: installing, waiting (for its wheel), starting, ready, leaving (it is being taken away), failed.
    message: why it failed. wheel: sha256 of the one it takes. idle_s, ends_in_s: seconds. resident: ids of
    indexes and revisions of models. job: as ``poll_job``,
    None before there is a server.
    """

    state: str
    message: str = ""
    wheel: str = ""
    device: str = ""
    gpu: str = ""
    resident: frozenset[str] = frozenset()
    uptime_s: float = 0.0
    idle_s: float = 0.0
    ends_in_s: float = 0.0
    job: Progress | None = None


class FarEnd:
    """One machine that runs ``worker.boot`` or ``worker.server``. To be closed.

    token: the lease's (``keys.lease_token``). verify: see ``Transport``; ``pinned`` for a certificate of
    ours. timeout_s: of a small request; call_s: of a stage, an upload's or a download's piece.
    """

    def __init__(
        self, base_url: str, token: str, *, provider: str, verify: ssl.SSLContext | bool = True,
        timeout_s: float = 20.0, call_s: float = CALL_S, piece: int = PIECE,
    ) -> None:  # fmt: skip
        self.provider, self._call_s, self._piece = provider, call_s, piece
        self._transport = Transport(
            base_url, provider=provider, headers={"Authorization": f"Bearer {token}"}, timeout_s=timeout_s,
            verify=verify, classify=self._classify,
        )  # fmt: skip
        self._known: set[str] = set()
        self._sending: dict[str, asyncio.Lock] = {}

    async def __aenter__(self) -> FarEnd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._transport.aclose()

    # Up -------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """What it tells now. Raises Unreachable while nothing listens there, Unauthorised for a machine that
        is not this lease's."""
        told = (await self._transport.request("GET", "/health")).mapping()
        try:
            job = told.get("job")
            return Health(
                str(told["state"]), str(told.get("message", "")), str(told.get("wheel", "")),
                str(told.get("device", "")), str(told.get("gpu", "")),
                frozenset(map(str, told.get("resident", ()))), float(told.get("uptime_s", 0.0)),
                float(told.get("idle_s", 0.0)), float(told.get("ends_in_s", 0.0)),
                None if job is None else self._progress(job),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise Unreachable("its health cannot be read.", provider=self.provider) from None

    async def ready(self) -> bool:
        """Whether stages and jobs are taken now; False as long as nobody answers.

        Raises JobFailed when it said that it never will be, Preempted when it is being taken away.
        """
        try:
            return self._is_ready(await self.health())
        except (Unreachable, BadOutput):  # nobody, or cut off while it becomes the server
            return False

    async def deliver(self, wheel: bytes) -> None:
        """Give it its wheel; does nothing where it has one. Raises Rejected for another wheel's machine."""
        if (await self.health()).state in ("installing", "waiting"):
            with contextlib.suppress(Conflict):  # somebody else was faster
                await self._transport.request("PUT", "/wheel", content=wheel, timeout_s=self._call_s)

    async def come_up(
        self, wheel: Callable[[], bytes], within_s: float, pause_s: float = 1.0
    ) -> Health:  # fmt: skip
        """Wait until it is ready, and give it its wheel on the way. within_s: seconds from now.

        Raises NoCapacity when it never came up in time, JobFailed when it came up and failed, Preempted,
        Unauthorised, Rejected.
        """
        clock = asyncio.get_running_loop().time
        ends, said, sent = clock() + within_s, "nobody answered", False
        while True:
            try:
                health = await self.health()
                if self._is_ready(health):
                    return health
                said = f"it said {health.state!r} at last"
                if health.state in ("installing", "waiting") and not sent:
                    await self._transport.request("PUT", "/wheel", content=wheel(), timeout_s=self._call_s)
                    sent = True
            except (Unreachable, BadOutput):  # not yet, or just becoming the server
                sent = False
            except Conflict:
                pass
            if clock() + pause_s > ends:
                raise NoCapacity(f"the machine was not up within {within_s:g} s: {said}.",
                                 provider=self.provider)  # fmt: skip
            await asyncio.sleep(pause_s)

    def _is_ready(self, health: Health) -> bool:
        if health.state == "failed":
            raise JobFailed(f"the machine came up and failed: {health.message}", provider=self.provider)
        if health.state == "leaving":
            raise Preempted("the machine is being taken away.", provider=self.provider)
        return health.state == "ready"

    # Live -----------------------------------------------------------------------------------------

    async def call(self, request: Envelope) -> Envelope:
        """Run one envelope's stage there. Raises OutOfMemory, Preempted, RateLimited, Rejected, JobFailed,
        and Unreachable when what was sent before (an index) is not there any more."""
        try:
            answer = await self._transport.request(
                "POST", f"/{request.spec['stage']}", content=request.to_bytes(), timeout_s=self._call_s,
                max_bytes=MAX_BYTES,
            )
            return Envelope.from_bytes(answer.body)
        except EnvelopeError as bad:
            raise BadOutput(str(bad), provider=self.provider) from None

    async def ensure(self, name: str, source: Path) -> int:
        """See that a blob (a file, by its sha256) or an index (its folder, by its id) is there.

        Returns the bytes sent for it: 0 when it was there. Asks the far end once, then remembers.
        """
        async with self._sending.setdefault(name, asyncio.Lock()):
            if name in self._known:
                return 0
            folder = await asyncio.to_thread(source.is_dir)
            sent = await (self._send_index if folder else self._send_blob)(name, source)
            self._known.add(name)
            return sent

    async def _send_index(self, ident: str, folder: Path) -> int:
        told = (await self._transport.request("GET", f"/indexes/{ident}")).mapping()
        if told.get("attached") is True:
            return 0
        try:
            meta = (folder / META).read_bytes()
            files = [(str(f["sha256"]), folder / str(f["name"])) for f in json.loads(meta)["files"].values()]
        except (OSError, ValueError, KeyError, TypeError) as bad:
            raise IndexError_(f"{folder}: it cannot be sent ({type(bad).__name__}).") from None
        sent = len(meta)
        for digest, path in files:
            sent += await self._send_blob(digest, path)
        await self._transport.request("PUT", f"/indexes/{ident}", content=meta, timeout_s=self._call_s)
        return sent

    async def _send_blob(self, digest: str, path: Path) -> int:
        size, sent = (await asyncio.to_thread(path.stat)).st_size, 0
        clock = asyncio.get_running_loop().time
        patience = clock() + 10 * self._call_s  # for somebody else who sends the same
        told = (await self._transport.request("GET", f"/blobs/{digest}")).mapping()
        while told.get("whole") is not True:
            have = told.get("have")
            if not isinstance(have, int) or not 0 <= have <= size:
                raise BadOutput("it holds more of a blob than there is.", provider=self.provider)
            data = await asyncio.to_thread(_piece, path, have, self._piece)
            try:
                told = (await self._transport.request(
                    "PUT", f"/blobs/{digest}", params={"offset": have, "size": size}, content=data,
                    timeout_s=self._call_s,
                )).mapping()  # fmt: skip
                sent += len(data)
            except Conflict:
                if clock() > patience:
                    raise Unreachable("somebody else's upload does not end.",
                                      provider=self.provider) from None  # fmt: skip
                await asyncio.sleep(0.5)
                told = (await self._transport.request("GET", f"/blobs/{digest}")).mapping()
                continue
            if told.get("whole") is not True and told.get("have") == have:
                raise BadOutput("it does not keep what is sent.", provider=self.provider)
        return sent

    # Batch ----------------------------------------------------------------------------------------

    async def start_job(self, bundle: Path) -> None:
        """Send the bundle in this folder and begin it; does nothing where it was begun already.

        Raises Rejected for a machine that was started with another wheel, or that runs another job.
        """
        try:
            made = await asyncio.to_thread(Bundle.open, bundle)
        except UsageError as bad:
            raise Rejected(bad.message, provider=self.provider, hint=bad.hint) from bad
        inputs = bundle / "inputs.safetensors"
        digest = await asyncio.to_thread(sha256_of, inputs)
        await self.ensure(digest, inputs)
        wheel = await asyncio.to_thread(sha256_of, bundle / "accel.whl")
        await self._transport.request("PUT", "/job", body={"job": made.job, "inputs": digest, "wheel": wheel})

    async def poll_job(self) -> Progress:
        """Where the job is; ABSENT when the machine knows of none (it was started anew)."""
        return self._progress((await self._transport.request("GET", "/job")).mapping())

    def _progress(self, told: Any) -> Progress:
        try:
            return Progress(JobState(told["state"]), self._transport.clean(str(told.get("message") or "")))
        except (KeyError, TypeError, ValueError):
            raise Unreachable("what it tells of its job cannot be read.", provider=self.provider) from None

    async def fetch_job(self, into: Path) -> Fetched:
        """Every file of the job, in ``into`` (created). Raises BadOutput for one that is not what was told,
        JobFailed when there is none."""
        answer = await self._transport.request("GET", "/job/files", timeout_s=self._call_s)
        files = await bring_home(
            self._transport, "/job/files", answer.mapping().get("files"), into, piece=self._piece,
            timeout_s=self._call_s,
        )  # fmt: skip
        log = ""
        if (path := files.pop("job.log", None)) is not None:
            log = await asyncio.to_thread(path.read_text, errors="replace")
            path.unlink()
        if not files:
            raise JobFailed("the job left no result", provider=self.provider, log_tail=log[-2000:])
        return Fetched(files, log)

    async def stop_job(self) -> bool:
        """Kill the job; True once it is gone."""
        told = (await self._transport.request("DELETE", "/job")).mapping()
        return told.get("gone") is True

    def _classify(self, status: int, told: Mapping[str, Any], words: str) -> ProviderError | None:
        """The class that the far end names, where HTTP's status alone does not say it."""
        text = words.removesuffix(f"; {told.get('error')}") or f"HTTP {status}."
        if told.get("error") == "IndexError_":
            self._known.clear()  # it was started anew: the next call sends it again
            return Unreachable(text, provider=self.provider)
        made = _NAMED.get(str(told.get("error")))
        return made(text, provider=self.provider) if made else None


def _piece(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
