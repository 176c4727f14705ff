"""Far ends for tests of providers: a wheel with ``stub_server`` in it, a job that sleeps, a certificate."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from accel.keys import lease_certificate
from accel.wire import Envelope, pack_texts
from accel.worker import boot
from accel.worker.bundle import Bundle

TOKEN = "a-token-of-this-lease-0123456789"


@cache
def wheel() -> bytes:
    """The real boot module, and ``stub_server`` as the server."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for package in ("accel", "accel/worker"):
            made.writestr(f"{package}/__init__.py", "")
        made.write(Path(boot.__file__), "accel/worker/boot.py")
        made.write(Path(__file__).with_name("stub_server.py"), "accel/worker/server.py")
    return out.getvalue()


def bundle(folder: Path, seconds: float, task_id: str = "t") -> Path:
    """A job that takes ``seconds``; returns its folder."""
    inputs = Envelope(task_id, {"stage": "embed"}, pack_texts(["a"])).to_bytes()
    Bundle({"schema": 1, "task_id": task_id, "seconds": seconds}, wheel(), inputs).write(folder)
    return folder


@cache
def certificate() -> tuple[str, str]:
    """A certificate and its key, PEM; ``__wrapped__`` makes another."""
    with TemporaryDirectory() as home:
        return lease_certificate(Path(home), "accel-test")
