"""The bytes that go to Modal's containers and come back. Guarantee: what does not validate is a typed error.

See ``modal_far`` for the other side.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from accel.core import errors
from accel.core.errors import AccelError, BadOutput, JobFailed, ProviderError
from accel.providers import modal_far
from accel.providers.base import Fetched
from accel.providers.modal_client import NAME
from accel.wire import Envelope, EnvelopeError
from accel.worker.bundle import Bundle

# The program of a bundle: the far end's ``worker.job``, on the files beside it.
RUN = b"""import os
from pathlib import Path
from accel.worker.job import main
bundle = Path(os.environ["ACCEL_BUNDLE"])
raise SystemExit(main((bundle / "job.json").read_bytes(), (bundle / "inputs.safetensors").read_bytes()))
"""


def bundled(folder: Path) -> dict[str, bytes]:
    """What travels of a bundle: job, inputs and ``run.py``. Its wheel lies there. Raises UsageError."""
    bundle = Bundle.open(folder)
    job = json.dumps(bundle.job, sort_keys=True).encode()
    return {modal_far.RUN: RUN, "job.json": job, "inputs.safetensors": bundle.inputs}


def index_zip(folder: Path) -> bytes:
    """The files of an index, byte for byte the same each time, so that they are known by their hash."""
    files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.suffix != ".part"}
    return modal_far.pack(files)


def answered(answer: bytes) -> bytes:
    """The body of an answer. Raises the error that the far end named, or BadOutput."""
    kind, body = answer[:1], answer[1:]
    if kind == modal_far.OK:
        return body
    try:
        told = json.loads(body)
        name, message = str(told["error"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        raise BadOutput("an answer that is none of ours.", provider=NAME) from None
    raise _error(name, message)


def envelope(answer: bytes, took_s: float) -> Envelope:
    """The envelope of an answer. The first of a container counts all but its computing as a cold start.

    Raises what the far end named, or BadOutput.
    """
    try:
        found = Envelope.from_bytes(answered(answer))
    except EnvelopeError as bad:
        raise BadOutput(str(bad), provider=NAME) from bad
    meta = dict(found.meta)
    if meta.pop("container_first", False):
        compute_s = float(meta.get("compute_s", 0.0))
        meta["cold_s"] = max(float(meta.get("cold_s", 0.0)), took_s - compute_s)
    meta.pop("far_s", None)
    return Envelope(found.task_id, found.spec, found.tensors, meta)


def unpacked(answer: bytes, into: Path, limit: int, attempts: int) -> Fetched:
    """The files of a job's answer, written into ``into``; names are flat. Raises BadOutput, JobFailed.

    attempts: how often Modal had started it before, which its log then says.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(answered(answer)))
        members = archive.infolist()
        if sum(m.file_size for m in members) > limit:
            raise BadOutput(f"more than {limit:,} bytes.", provider=NAME)
        files = {m.filename: archive.read(m) for m in members}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as bad:
        raise BadOutput(f"its files cannot be read ({type(bad).__name__}).", provider=NAME) from bad
    for name in files:
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise BadOutput("a file with an unsafe name.", provider=NAME)
    log = files.pop(modal_far.LOG, b"").decode(errors="replace")
    if attempts:
        log += f"accel: preempted {attempts} times before this run\n"
    into.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (into / name).write_bytes(data)
    return Fetched({name: into / name for name in files}, log)


def _error(name: str, message: str) -> AccelError:
    """The far end's own error, where it is one of ours that a message is enough for; else JobFailed."""
    if name in ("OutOfMemoryError", "MemoryError"):  # torch's, Python's
        return errors.OutOfMemory(message, provider=NAME)
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, AccelError):
        if issubclass(kind, ProviderError):
            return kind(message, provider=NAME)
        if kind in (errors.QueryError, errors.ModelError, errors.IndexError_, errors.UsageError):
            return kind(message)
    return JobFailed(f"{name}: {message}", provider=NAME)
