"""The far end: what a rented machine serves. Guarantee: one lease, one token, and an end in time.

The same on every provider that rents machines. ``POST /embed /search /rerank /answer`` take an envelope and
give one; ``/blobs/HASH`` and ``/indexes/ID`` hold what came once, by hash; ``/job`` runs one bundle in a
process of its own; ``GET /health`` and ``/metrics`` tell. Started by ``worker.boot``, whose environment it
reads and whose clock it carries on: a hard lifetime, and an end when nobody uses it. Asking for health, or
how a job goes, is no use. After SIGTERM, a provider's notice, nothing new is taken; what runs may end, and
its files may be fetched until the machine is gone.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from accel import environment
from accel.core.errors import AccelError, UsageError
from accel.wire import Envelope, EnvelopeError
from accel.worker import boot
from accel.worker.blobs import MAX_META, MAX_PIECE, Blobs
from accel.worker.door import Body, Door, House, Refused
from accel.worker.engine import Worker
from accel.worker.running import Running
from accel.worker.serving import Serving

MAX_CALL = 64 << 20  # bytes of one envelope; more travels as a blob
MAX_JOB = 1 << 20
MAX_FILE_PIECE = 32 << 20
GRACE_S = 180.0  # beyond the lifetime, before a process that cannot even run Python threads is ended
COUNTED = ("requests", "refused", "errors", "batches", "batched", "batches_apart")
GAUGES = ("uptime_s", "idle_s", "ends_in_s", "waiting", "batch_tokens")
STAGES = ("/embed", "/search", "/rerank", "/answer")


class FarEnd:
    """What one machine holds."""

    def __init__(self, machine: boot.Machine, device: str, folder: Path) -> None:
        self.machine, self.device = machine, device
        self.worker = Worker(device)
        self.serving = Serving(self.worker.handle, self.worker.batch_tokens)
        self.blobs, self.running = Blobs(folder / "blobs"), Running(folder)
        self.wheel = machine.env.get("ACCEL_WHEEL_SHA256", "")
        self.leaving = False
        self._open = 0
        self._lock = threading.Lock()

    def busy(self) -> bool:
        """Whether it works: a request or a job."""
        return self._open > 0 or self.running.busy()

    def leave(self) -> None:
        """The provider's notice: take nothing new; go once there is nothing to lose."""
        self.leaving = True
        while self.busy() or self.running.told()["state"] == "done":
            time.sleep(0.05)
        os._exit(0)

    def using(self, delta: int) -> None:
        """A request that is a use begins (1) or has ended (-1)."""
        with self._lock:
            self._open += delta
        self.machine.used = time.monotonic()

    def health(self) -> dict[str, Any]:
        """JSON. state: ready, or leaving. Seconds are durations; idle_s: since the last use."""
        now, gpu = time.monotonic(), environment.gpu()
        return {
            "state": "leaving" if self.leaving else "ready", "message": "", "wheel": self.wheel,
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}", "device": self.device, "gpu": gpu.name,
            "vram_bytes": gpu.vram_bytes, "resident": sorted(self.worker.resident()),
            "uptime_s": now - self.machine.began, "idle_s": 0.0 if self.busy() else now - self.machine.used,
            "ends_in_s": self.machine.ends - now, "waiting": self.serving.waiting(),
            "batch_tokens": self.worker.batch_tokens(), "job": self.running.told(),
        }  # fmt: skip

    def metrics(self) -> str:
        """Prometheus' text format 0.0.4."""
        health, counts = self.health(), self.serving.counts
        told = {f"{name}_total": counts[name] for name in COUNTED} | {
            "out_of_memory_total": self.worker.out_of_memory(), "job_running": self.running.busy(),
            "resident": len(health["resident"]), **{name: health[name] for name in GAUGES},
        }  # fmt: skip
        lines = []
        for name, value in told.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines.append(f"# TYPE accel_far_end_{name} {kind}\naccel_far_end_{name} {float(value)}\n")
        return "".join(lines)


class Reception(Door):
    """The routes."""

    far_end: FarEnd

    def answer(self, method: str, path: str, query: dict[str, str], body: Body) -> None:
        far, head = self.far_end, path.split("/")[1]
        if method == "GET" and path == "/health":
            return self.reply(200, far.health())
        if method == "GET" and path == "/metrics":
            return self.reply(200, far.metrics().encode(), "text/plain; version=0.0.4")
        if method == "GET" and path == "/job":
            return self.reply(200, far.running.told())
        far.using(1)
        try:
            if far.leaving and method in ("PUT", "POST"):
                raise Refused(503, "Preempted", "this machine is being taken away")
            routes = {"blobs": self._blobs, "indexes": self._indexes, "job": self._job}
            if method == "POST" and path in STAGES:
                return self._stage(path[1:], body)
            if head in routes:
                return routes[head](method, path, query, body)
            if path == "/wheel":
                raise Refused(409, "Rejected", "it has its wheel")
            raise Refused(404, "Rejected", "there is nothing of this name")
        finally:
            far.using(-1)

    def _stage(self, stage: str, body: Body) -> None:
        serving = self.far_end.serving
        try:
            request = Envelope.from_bytes(body.read(MAX_CALL))
            if request.spec.get("stage") != stage:
                raise Refused(400, "QueryError", f"this is not a request to {stage}")
            answer = serving.answer(request).to_bytes()
        except Exception as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise  # the asker is gone
            serving.counts["errors"] += 1
            raise refusal(error) from None
        self.reply(200, answer, "application/octet-stream")

    def _blobs(self, method: str, path: str, query: dict[str, str], body: Body) -> None:
        blobs, name = self.far_end.blobs, path.removeprefix("/blobs/")
        if method in ("GET", "HEAD"):
            whole = blobs.path(name) is not None
            have = blobs.have(name)
            return self.reply(200 if whole or method == "GET" else 404, {"have": have, "whole": whole},
                              X_Accel_Have=str(have))  # fmt: skip
        _only(method, "PUT")
        size = _number(query, "size", body.length)
        have = blobs.put(name, _number(query, "offset", 0), size, body.pieces(MAX_PIECE))
        return self.reply(200, {"have": have, "whole": blobs.path(name) is not None})

    def _indexes(self, method: str, path: str, query: dict[str, str], body: Body) -> None:
        far, ident = self.far_end, path.removeprefix("/indexes/")
        if method in ("GET", "HEAD"):
            attached = ident in far.worker.resident()
            return self.reply(200 if attached or method == "GET" else 404, {"attached": attached})
        _only(method, "PUT")
        far.worker.attach(far.blobs.index(ident, body.read(MAX_META)))
        return self.reply(200, {"attached": True})

    def _job(self, method: str, path: str, query: dict[str, str], body: Body) -> None:
        running = self.far_end.running
        if path == "/job" and method == "PUT":
            return self._start(body)
        if path == "/job" and method == "DELETE":
            return self.reply(200, {"gone": running.stop()})
        _only(method, "GET")
        if path == "/job/files":
            return self.reply(200, {"files": running.files()})
        length = min(_number(query, "length", MAX_FILE_PIECE), MAX_FILE_PIECE)
        data = running.read(path.removeprefix("/job/files/"), _number(query, "offset", 0), length)
        return self.reply(200, data, "application/octet-stream")

    def _start(self, body: Body) -> None:
        far = self.far_end
        try:
            told = json.loads(body.read(MAX_JOB))
            job, inputs, wheel = dict(told["job"]), str(told["inputs"]), str(told["wheel"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(400, "Rejected", "not a job") from None
        if wheel != far.wheel:
            raise Refused(409, "Rejected", "this machine was started with another wheel")
        if (path := far.blobs.path(inputs)) is None:
            raise Refused(409, "Rejected", f"the blob {inputs} is not here")
        left = far.machine.ends - time.monotonic()  # the job says why it ended, the machine cannot
        far.running.start(job, path, max(1.0, left - 10.0))
        self.reply(200, far.running.told())


def refusal(error: Exception) -> Refused:
    """What a stage raised, as an HTTP error with the name of its class."""
    if isinstance(error, Refused):
        return error
    if type(error).__name__ in ("OutOfMemoryError", "DeviceFull"):  # torch's, and the stages' own
        return Refused(507, "OutOfMemory", "the device ran out of memory")
    if isinstance(error, UsageError | EnvelopeError | ValueError | TypeError | KeyError):
        return Refused(400, "QueryError", str(error) if isinstance(error, ValueError | UsageError)
                       else f"not such a request ({type(error).__name__})")  # fmt: skip
    name = type(error).__name__
    if isinstance(error, AccelError):
        return Refused(409 if name == "IndexError_" else 500, name, str(error))
    boot.log(f"a stage failed: {name}")
    return Refused(500, "JobFailed", f"the stage failed ({name})")


def _number(query: dict[str, str], name: str, default: int | None) -> int:
    value = query.get(name, "" if default is None else str(default))
    if not re.fullmatch("[0-9]{1,15}", value):
        raise Refused(400, "Rejected", f"{name} must be a number")
    return int(value)


def _only(method: str, allowed: str) -> None:
    if method != allowed:
        raise Refused(405, "Rejected", f"only {allowed} here", Allow=allowed)


def serve(machine: boot.Machine, folder: Path | None = None) -> House:
    """Open the door of a far end; its ``shutdown`` and ``server_close`` close it. Sets no signal."""
    env: MutableMapping[str, str] = machine.env
    where = folder or Path(tempfile.mkdtemp(prefix="accel-far-end-"))
    far_end = FarEnd(machine, env.get("ACCEL_DEVICE") or _device(), where)
    machine.busy = far_end.busy
    house = House(env, type("Reception", (Reception,), {"far_end": far_end}))
    threading.Thread(target=house.serve_forever, daemon=True, name="door").start()
    return house


def _device() -> str:
    return "cuda" if environment.gpu().capability else "cpu"


def _work(machine: boot.Machine) -> None:
    left = machine.ends - time.monotonic() + GRACE_S
    faulthandler.dump_traceback_later(max(1.0, left), exit=True)  # needs no interpreter lock
    notice = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: notice.set())
    house = serve(machine)
    boot.log(f"serving on {house.server_address[1]}")
    notice.wait()
    house.RequestHandlerClass.far_end.leave()  # type: ignore[attr-defined]


if __name__ == "__main__":
    boot.main(_work)
