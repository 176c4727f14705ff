"""RunPod's serverless as our live lane. Guarantee: one endpoint under one name, and no job left behind.

The endpoint is made at the first call, under a name that says what it is made of, so that every process finds
the same; it scales from ``workers.min`` 0 and bills nothing while nobody calls. The wheel, and an index, go
with the first job that a worker lacks them for. A call that is given up cancels its job.

What a queue cannot do: choose a worker, and take more than 20 MB (``runpod_calls.RUNSYNC_BYTES``). An index
that is larger, with the call, is refused with its size.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
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
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
)
from accel.providers.runpod_calls import NAME, RUNSYNC_BYTES, RunPodCalls
from accel.providers.transport import NotFound
from accel.wire import Envelope, EnvelopeError
from accel.worker import start

LIVE = "accel-live-"
WORKER_NEED = "runpod=runpod>=1.10,<3"  # what takes the jobs; see ``worker.queue_boot``
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")  # runpod 2.0.0rc2, endpoint/helpers.py:15-17
JOB_S = 300.0  # one job's execution, and a request's life in the queue: limits that RunPod enforces
STUCK_S = 20.0  # in the queue, before we ask whether any worker is coming
_MEANT: dict[str, type[ProviderError]] = {
    "OutOfMemory": OutOfMemory, "Rejected": Rejected, "QueryError": Rejected, "RateLimited": RateLimited,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What an endpoint is made of. pools: RunPod's GPU pools, any of which will do. idle_s: until an idle
    worker goes; billed. disk_gb: of a container."""

    image: str
    pools: Sequence[str]
    needs: str
    disk_gb: int
    idle_s: int = 60
    max_workers: int = 3
    min_workers: int = 0

    def name(self, wheel: bytes) -> str:
        """Equal settings and an equal wheel make an equal name."""
        told = json.dumps([dataclasses.asdict(self), hashlib.sha256(wheel).hexdigest()], sort_keys=True)
        return LIVE + hashlib.sha256(told.encode()).hexdigest()[:12]

    def body(self, wheel: bytes) -> dict[str, Any]:
        """[CreateEndpointRequest]."""
        env = {"ACCEL_WHEEL_SHA256": hashlib.sha256(wheel).hexdigest(), "ACCEL_NEEDS": self.needs}
        return {
            "name": self.name(wheel), "type": "QUEUE", "image": self.image, "disk": self.disk_gb,
            "args": shlex.join(start.command("queue_boot.py")), "env": env, "ports": [],
            "gpu": {"pools": list(self.pools), "count": 1},
            "workers": {"min": self.min_workers, "max": self.max_workers, "idleTimeout": self.idle_s},
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 1}, "timeout": int(JOB_S * 1000),
            "flashboot": "OFF",
        }  # fmt: skip


class Serverless:
    """The endpoint of one ``Setup``. blobs: id of an index → its folder, None for one that is not here.

    poll_s: seconds between two looks at a job.
    """

    def __init__(
        self, calls: RunPodCalls, setup: Setup, wheel: Callable[[], bytes],
        blobs: Callable[[str], Path | None], *, poll_s: float, call_s: float,
    ) -> None:  # fmt: skip
        self._calls, self.setup, self._pack, self._blobs = calls, setup, wheel, blobs
        self._poll_s, self._call_s, self.stuck_s = poll_s, call_s, STUCK_S
        self._wheel = b""
        self._id = ""
        self._making: asyncio.Lock | None = None
        self.resident: frozenset[str] = frozenset()  # at the worker that answered last
        self.warm_until = 0.0  # event loop's seconds

    @property
    def name(self) -> str:
        """The endpoint's. Packs the wheel."""
        self._wheel = self._wheel or self._pack()
        return self.setup.name(self._wheel)

    @property
    def id(self) -> str:
        """The endpoint's id, as far as it is known here."""
        return self._id

    def forget(self) -> None:
        """It was deleted."""
        self._id, self.resident, self.warm_until = "", frozenset(), 0.0

    async def found(self) -> list[dict[str, Any]]:
        """Endpoints of our name, the oldest first. One request."""
        rows = [e for e in await self._calls.endpoints() if e["name"] == self.name]
        return sorted(rows, key=lambda e: (str(e.get("createdAt")), e["id"]))

    async def ensure(self) -> str:
        """The endpoint's id; it is made where there is none."""
        if self._making is None:
            self._making = asyncio.Lock()
        async with self._making:
            if not self._id:
                rows = await self.found()
                self._id = rows[0]["id"] if rows else await self._make()
            return self._id

    async def _make(self) -> str:
        name = self.name
        mine = (await self._calls.create_endpoint(self.setup.body(self._wheel)))["id"]
        rows = [e for e in await self.found() if e["name"] == name]  # somebody else may have been as fast
        if rows and rows[0]["id"] != mine and any(e["id"] == mine for e in rows):
            with contextlib.suppress(ProviderError):  # else it is listed, and costs nothing until it is
                await self._calls.delete_endpoint(mine)
            mine = rows[0]["id"]
        return str(mine)

    async def call(self, request: Envelope) -> Envelope:
        """Run one envelope. Its answer's meta: cold_s (in the queue, and loading), compute_s, and ``runpod``
        with delay_ms, execution_ms and how the worker takes its jobs."""
        endpoint = await self.ensure()
        given: dict[str, Any] = {"envelope": base64.b64encode(request.to_bytes()).decode()}
        told: dict[str, Any] = {}
        delay_ms = 0.0
        for _ in range(4):  # another worker may lack what this one has just been given
            told, delay, execution = await self._job(endpoint, given)
            delay_ms += delay
            needs = told.get("need")
            if not needs:
                return self._answer(told, delay_ms, execution)
            delay_ms += execution
            for need in needs if isinstance(needs, list) else ():
                given |= await self._brought(str(need))
        raise Unreachable("its workers keep asking for what they were sent.", provider=NAME)

    async def _brought(self, need: str) -> dict[str, Any]:
        """What a worker lacks, to be sent with the job."""
        if need == "wheel":
            return {"wheel": base64.b64encode(self._wheel or self._pack()).decode()}
        kind, _, ident = need.partition(":")
        folder = self._blobs(ident) if kind == "index" else None
        if folder is None:
            raise IndexError_(f"the index {ident[:12]} is not here, and cannot be sent.")
        return {"index": await asyncio.to_thread(packed_index, ident, folder)}

    def _answer(self, told: Mapping[str, Any], delay_ms: float, execution_ms: float) -> Envelope:
        self.resident = frozenset(map(str, told.get("resident") or ()))
        self.warm_until = asyncio.get_running_loop().time() + self.setup.idle_s
        if isinstance(refused := told.get("refused"), dict):
            made = _MEANT.get(str(refused.get("error")), JobFailed)
            raise made(str(refused.get("message"))[:300], provider=NAME)
        try:
            answer = Envelope.from_bytes(base64.b64decode(told["envelope"], validate=True))
        except (EnvelopeError, KeyError, TypeError, ValueError) as bad:
            raise BadOutput(f"its answer is no envelope ({type(bad).__name__}).", provider=NAME) from None
        loading = float(answer.meta.get("cold_s", 0.0))
        meta = {
            **answer.meta, "cold_s": delay_ms / 1000 + loading,
            "compute_s": max(0.0, execution_ms / 1000 - loading),
            "runpod": {"delay_ms": delay_ms, "execution_ms": execution_ms, "how": str(told.get("how", ""))},
        }  # fmt: skip
        return dataclasses.replace(answer, meta=meta)

    # --- one job

    async def _job(self, endpoint: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], float, float]:
        """(output, milliseconds in the queue, milliseconds of execution) of one job, run to its end."""
        limit_ms = int(JOB_S * 1000)
        body = {"input": given, "policy": {"executionTimeout": limit_ms, "ttl": 2 * limit_ms}}
        size = len(json.dumps(body))
        if size > RUNSYNC_BYTES:
            raise Rejected(f"a request of {size / 1e6:.1f} MB: RunPod's queues take 20 MB.", provider=NAME)
        try:
            job = await self._calls.run_sync(endpoint, body, self._call_s)
        except NotFound:
            self.forget()  # deleted by somebody else: the next call makes it again
            raise Unreachable("its endpoint is gone.", provider=NAME) from None
        try:
            job = await self._ended(endpoint, job)
        except BaseException:  # given up, or lost: what still runs is stopped
            with contextlib.suppress(ProviderError, TimeoutError):
                await asyncio.wait_for(self._calls.cancel(endpoint, job["id"]), 5.0)
            raise
        return _output(job)

    async def _ended(self, endpoint: str, job: dict[str, Any]) -> dict[str, Any]:
        clock = asyncio.get_running_loop().time
        began = asked = clock()
        while job["status"] not in ENDS:
            if clock() - began > JOB_S:
                raise TimedOut(f"a request was not answered within {JOB_S:.0f} s.", provider=NAME)
            if job["status"] == "IN_QUEUE" and clock() - asked > self.stuck_s:
                asked = clock()
                workers = await self._calls.health(endpoint)
                coming = sum(workers.get(k, 0) for k in ("idle", "initializing", "ready", "running"))
                if workers.get("throttled", 0) and not coming:
                    raise NoCapacity("its workers wait for a GPU.", provider=NAME)
            await asyncio.sleep(self._poll_s)
            job = await self._calls.job(endpoint, job["id"])
        return job


def _output(job: Mapping[str, Any]) -> tuple[dict[str, Any], float, float]:
    """Raises what a job that did not complete means (docs serverless/endpoints/job-states.mdx)."""
    status, error = job["status"], str(job.get("error") or "")
    if status == "TIMED_OUT":
        raise Preempted("a request's worker did not report back in time.", provider=NAME)
    if status == "CANCELLED":
        raise Unreachable("a request was cancelled by somebody else.", provider=NAME)
    if status == "FAILED":
        if "OutOfMemory" in error or "out of memory" in error:
            raise OutOfMemory("the worker's device ran out of memory.", provider=NAME)
        if "worker" in error and "lost" in error:
            raise Preempted("a request's worker was lost.", provider=NAME)
        raise JobFailed(f"a request failed: {_words(error)}", provider=NAME)
    output = job.get("output")
    if not isinstance(output, dict):
        raise BadOutput("a request completed without an answer.", provider=NAME)
    try:
        return output, float(job.get("delayTime") or 0.0), float(job.get("executionTime") or 0.0)
    except (TypeError, ValueError):
        raise Unreachable("a request's times cannot be read.", provider=NAME) from None


def _words(error: str) -> str:
    """The message alone of what RunPod's package makes of an exception (2.0.0rc2, rp_job.py:289-304)."""
    with contextlib.suppress(ValueError, AttributeError):
        error = str(json.loads(error).get("error_message") or "")
    return " ".join(error.split())[:200] or "no reason given"


def packed_index(ident: str, folder: Path) -> dict[str, Any]:
    """An index as JSON. Raises Rejected for one that is larger than a queue takes, IndexError_."""
    try:
        meta = (folder / "meta.json").read_bytes()
        files = {str(f["sha256"]): folder / str(f["name"]) for f in json.loads(meta)["files"].values()}
        size = index_bytes(folder)
        if size > RUNSYNC_BYTES:
            raise Rejected(f"the index takes {size / 1e6:.1f} MB on the way: RunPod's queues take 20 MB.",
                           provider=NAME)  # fmt: skip
        data = {digest: base64.b64encode(path.read_bytes()).decode() for digest, path in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as bad:
        raise IndexError_(f"{folder}: it cannot be sent ({type(bad).__name__}).") from None
    return {"id": ident, "meta": base64.b64encode(meta).decode(), "files": data}


def index_bytes(folder: Path) -> int:
    """Bytes of an index as text on the way."""
    meta = json.loads((folder / "meta.json").read_bytes())
    sizes = [(folder / str(f["name"])).stat().st_size for f in meta["files"].values()]
    return sum(4 * (size + 2) // 3 for size in sizes)
