"""Far ends for tests of providers: a wheel with ``stub_server`` in it, a job that sleeps, a certificate."""

from __future__ import annotations

import io
import subprocess
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

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
    """A certificate and its key, PEM, made once a run by openssl."""
    with TemporaryDirectory() as folder:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", "key", "-out", "certificate", "-days", "30", "-subj", "/CN=accel"],
            check=True, capture_output=True, cwd=folder, timeout=60,
        )  # fmt: skip
        return Path(folder, "certificate").read_text(), Path(folder, "key").read_text()
