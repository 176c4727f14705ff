"""A provider for a sandbox Colab, and orders for it: what its tests share.

The job is a stub in the place of ``worker.job``, in a wheel of its own: it sleeps and leaves files, in a
tenth of the time that torch takes to start. Kernel, upload, ``worker.kernel_job`` and download are the real
ones.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from accel.core.lease import Intent
from accel.core.money import ZERO, Rate
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.providers.cards import card
from accel.providers.colab import ColabProvider
from accel.providers.colab_auth import ColabCredentials
from accel.sandbox.colab import ColabSandbox
from accel.wire import Envelope, pack_texts
from accel.worker.bundle import Bundle

RUNTIME = Runtime.production()
_NUMBER = itertools.count()
JOB = """
import json, pathlib, time

def main(job, inputs, out=None):
    told = json.loads(job)
    print("the job speaks", flush=True)
    time.sleep(told["seconds"])
    if told.get("fails"):
        return 1
    pathlib.Path("big.bin").write_bytes(bytes(range(256)) * 4096 * told.get("mib", 1))
    pathlib.Path("result.json").write_text(json.dumps({"schema": 1, "task_id": told["task_id"]}))
    return 0
"""


@cache
def wheel() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("accel/__init__.py", "")
        made.writestr("accel/worker/__init__.py", "")
        made.writestr("accel/worker/job.py", JOB)
    return out.getvalue()


def bundle(folder: Path, seconds: float, task_id: str, **more: Any) -> Path:
    inputs = Envelope(task_id, {"stage": "embed"}, pack_texts(["a"])).to_bytes()
    Bundle({"schema": 1, "task_id": task_id, "seconds": seconds, **more}, wheel(), inputs).write(folder)
    return folder


def provider_for(sandbox: ColabSandbox, **more: Any) -> ColabProvider:
    """An adapter with short waits, and a person who says yes; more: other arguments."""
    given: dict[str, Any] = {
        "credentials": ColabCredentials(sandbox.key), "runtime": RUNTIME, "realm": Realm.SANDBOX,
        "endpoint": sandbox.url, "confirm": lambda _: True, "accepted_terms": ("colab/attended",),
        "call_s": 20, "boot_s": 30, "settle_s": 0.0, "poll_s": 0.02,
    }  # fmt: skip
    return ColabProvider(**{**given, **more})


def offer(accelerator: str = "T4") -> Offer:
    gpu = card({"A100": "A100 40GB"}.get(accelerator, accelerator))
    assert gpu is not None
    ident = f"colab-sandbox-{accelerator.lower()}"
    rate = Rate(ZERO, RUNTIME.now().date(), "test")
    return Offer(ident, "colab", Realm.SANDBOX, gpu, rate, RUNTIME.now(), "test")


def intent_on(
    folder: Path, seconds: float = 0.05, *, lifetime_s: float = 120.0, accelerator: str = "T4", **more: Any
) -> Intent:
    """A fresh intent with a bundle in ``folder``, whose job takes ``seconds``."""
    n = next(_NUMBER)
    made = bundle(folder / f"bundle-{n}", seconds, f"t{n}", **more)
    return Intent(f"i{n}", f"t{n}", offer(accelerator), f"accel-i{n}", lifetime_s, RUNTIME.now(), made)
