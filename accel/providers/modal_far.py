"""What runs in Modal's containers. Guarantee: bytes in, bytes out; nothing of ours is pickled or raised.

Modal's runtime imports this module from /root, where the files of our own wheel are mounted, and calls
``live`` or ``job``. A request is one line of JSON and a body; an answer begins with ``OK`` or ``FAILED``, so
that no exception of ours is ever pickled on its way home.
"""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.worker.engine import Worker

OK, FAILED = b"\x01", b"\x00"
RUN = "run.py"
LOG = "log.txt"
KEPT = 64  # results of a job; a name more is a mistake
_EPOCH = (1980, 1, 1, 0, 0, 0)


def frame(head: dict[str, Any], body: bytes) -> bytes:
    """A request: ``head`` as one line, then ``body``."""
    return json.dumps(head).encode() + b"\n" + body


def failed(error: BaseException) -> bytes:
    """An answer that names an error by its class and words."""
    line = f"{error}".splitlines()[0] if str(error) else ""
    return FAILED + json.dumps({"error": type(error).__name__, "message": line[:500]}).encode()


def pack(files: dict[str, bytes]) -> bytes:
    """A zip that is the same for the same files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return out.getvalue()


def live(request: bytes) -> bytes:
    """One envelope. head: volume, where an index lies that is not attached yet."""
    began = time.time()
    try:
        head, _, body = request.partition(b"\n")
        from accel.wire import Envelope

        envelope = Envelope.from_bytes(body)
        first = not _worker.cache_info().currsize
        worker = _worker()
        index = str(envelope.meta.get("index", ""))
        if index and index not in worker.resident():
            _attach(worker, index, str(json.loads(head)["volume"]))
        answer = worker.handle(envelope)
        meta = dict(answer.meta) | {"container_first": first, "far_s": time.time() - began}
        return OK + Envelope(answer.task_id, answer.spec, answer.tensors, meta).to_bytes()
    except Exception as error:  # whatever it is, it travels as words
        return failed(error)


def job(request: bytes) -> bytes:
    """Run a bundle's ``run.py`` in a folder of its own and return what it leaves there, with its log.

    head: ends_at, epoch seconds, after which nothing runs: Modal starts a preempted input again from the
    beginning, and a lifetime that began anew each time would be none.
    """
    try:
        head, _, body = request.partition(b"\n")
        left_s = float(json.loads(head)["ends_at"]) - time.time()
        if left_s <= 0:
            raise TimeoutError("its lifetime was over before it began")
        with tempfile.TemporaryDirectory(prefix="accel-job-") as place:
            return OK + _run(Path(place), body, left_s)
    except Exception as error:
        return failed(error)


def _run(place: Path, body: bytes, left_s: float) -> bytes:
    bundle, out = place / "bundle", place / "out"
    out.mkdir()
    zipfile.ZipFile(io.BytesIO(body)).extractall(bundle)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    with (place / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(bundle / RUN)], cwd=out, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": path, "ACCEL_BUNDLE": str(bundle)},
        )  # fmt: skip
        try:
            code = process.wait(timeout=left_s)
        except BaseException:  # its time is over, or Modal interrupts us: it does not outlive this call
            process.kill()
            process.wait()
            raise
    names = [p for p in sorted(out.iterdir()) if p.is_file()][:KEPT]
    files = {p.name: p.read_bytes() for p in names}
    files[LOG] = (place / LOG).read_bytes()[-(1 << 20) :] + f"\naccel: exit code {code}\n".encode()
    return pack(files)


@functools.cache
def _worker() -> Worker:
    """The container's one worker: a container runs one input at a time, and ends with its models."""
    from accel.worker.engine import Worker
    from accel.worker.job import best_device

    return Worker(best_device())


def _attach(worker: Worker, index: str, volume: str) -> None:
    """Bring an index from the volume, unpack it, open it under its own hash, and attach it."""
    import modal

    from accel.index.store import HybridIndex

    blob = b"".join(modal.Volume.from_name(volume).read_file(f"{index}.zip"))
    folder = Path(tempfile.mkdtemp(prefix="accel-index-"))
    zipfile.ZipFile(io.BytesIO(blob)).extractall(folder)
    opened = HybridIndex.open(folder)
    if opened.id != index:
        raise ValueError(f"the volume holds another index than {index[:12]}")
    worker.attach(opened)
