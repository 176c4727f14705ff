"""A Modal under test: the sandbox, a provider at it, and jobs that take the seconds asked for."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path
from typing import Any

from accel.core.lease import Intent
from accel.core.money import NanoUSD, Rate
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.providers.cards import card
from accel.testing.case import Breakage, ProviderCase

RUNTIME = Runtime.production()
NUMBER = itertools.count()
NEEDS = ("numpy",)  # the sandbox builds no image
RULES: dict[Breakage, dict[str, Any]] = {
    Breakage.UNREACHABLE: {"on": "*", "kind": "drop", "times": 0},
    Breakage.SERVER_ERROR: {"on": "*", "kind": "http", "status": 503, "times": 0},
    Breakage.RATE_LIMITED: {"on": "*", "kind": "http", "status": 429, "seconds": 7, "times": 0},
    Breakage.UNAUTHORISED: {"on": "*", "kind": "auth_revoked", "times": 0},
    Breakage.NONSENSE: {"on": "*", "kind": "odd_body", "text": "\xff\xff", "times": 0},
    Breakage.LOST_ANSWER: {"on": "AppPublish", "kind": "lost_answer"},
    Breakage.ODD_LISTING: {"on": "AppList", "kind": "odd_body", "text": "\n\0"},  # a row with nothing in it
    Breakage.TRUNCATED: {"on": "Download", "kind": "truncated"},
    Breakage.MISSING: {"on": "Download", "kind": "missing"},
}


ROOT = Path(__file__).resolve().parents[1]
# A live function's engine without models: it answers with what it knows, or fails as it is told to.
ENGINE = """
import os, time
import numpy as np
from accel.core import errors
from accel.wire import Envelope
class Worker:
    def __init__(self, device):
        self.ids = {}
    def resident(self):
        return frozenset(self.ids)
    def attach(self, index):
        self.ids[index.id] = index
    def handle(self, request):
        began = time.perf_counter()
        time.sleep(float(request.meta.get("sleep", 0)))
        if name := request.meta.get("fail"):
            raise getattr(errors, name)("told to fail")
        if request.meta.get("die"):
            raise MemoryError("too much")
        meta = {"resident": sorted(self.ids), "cold_s": 0.0, "compute_s": time.perf_counter() - began}
        return Envelope(request.task_id, request.spec, {"pid": np.array([os.getpid()])}, meta)
"""
STORE = """
import json
class HybridIndex:
    @classmethod
    def open(cls, folder):
        found = cls()
        found.id = json.loads((folder / "meta.json").read_text())["id"]
        return found
"""


def tiny_wheel() -> bytes:
    """The far end's module and what it imports at once; in place of the engine one without models."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as wheel:
        names = ["accel/__init__.py", "accel/providers/__init__.py", "accel/providers/modal_far.py"]
        rooms = [*(ROOT / "accel" / "core").glob("*.py"), *(ROOT / "accel" / "wire").glob("*.py")]
        names += [p.relative_to(ROOT).as_posix() for p in rooms]
        for name in names:
            wheel.writestr(zipfile.ZipInfo(name), (ROOT / name).read_bytes())
        for name, text in (
            ("worker/__init__.py", ""), ("worker/engine.py", ENGINE), ("index/__init__.py", ""),
            ("worker/job.py", "def best_device():\n    return 'cpu'\n"), ("index/store.py", STORE),
        ):  # fmt: skip
            wheel.writestr(zipfile.ZipInfo(f"accel/{name}"), text)
    return out.getvalue()


def sleeping(folder: Path) -> dict[str, bytes]:
    """A job that sleeps for the seconds its "bundle" is named after."""
    return {"run.py": (
        f"import time\ntime.sleep({float(folder.name)})\n"
        "open('result.json', 'w').write('{}' + ' ' * 100_000)\n"
    ).encode()}  # fmt: skip


def provider(sandbox: Any, **options: Any) -> Any:
    """An adapter at the sandbox."""
    from accel.providers.modal import ModalProvider
    from accel.providers.modal_client import ModalCredentials

    given: dict[str, Any] = {
        "credentials": ModalCredentials(sandbox.token_id, sandbox.token_secret), "runtime": RUNTIME,
        "realm": Realm.SANDBOX, "endpoint": sandbox.url, "needs": NEEDS, "wheel": tiny_wheel,
        "bundle": sleeping, "call_s": 10.0, "billing_interval_s": sandbox.billing_interval_s,
    }  # fmt: skip
    return ModalProvider(**(given | options))


def offer(gpu: str = "T4") -> Offer:
    """An offer of ours, as ``probe`` makes one."""
    known = card(gpu)
    assert known is not None
    rate = Rate(NanoUSD(716_600_000), RUNTIME.now().date(), "test")
    ident = f"modal-sandbox-{gpu.lower().replace(' ', '-')}"
    return Offer(ident, "modal", Realm.SANDBOX, known, rate, RUNTIME.now(), "test")


def intent(seconds: float | Path, lifetime_s: float = 60.0, gpu: str = "T4") -> Intent:
    """A new one, whose job takes ``seconds``; or with a real bundle's folder."""
    n = next(NUMBER)
    folder = seconds if isinstance(seconds, Path) else Path(str(seconds))
    return Intent(f"i{n}", f"t{n}", offer(gpu), f"accel-i{n}", lifetime_s, RUNTIME.now(), folder)


def case(sandbox: Any, adapter: Any) -> ProviderCase:
    """What the contract asks for."""

    def break_(breakage: Breakage | None) -> None:
        sandbox.set_faults(*([RULES[breakage]] if breakage else []))

    return ProviderCase(
        provider=adapter, intent=intent, break_=break_, breakages=frozenset(RULES),
        need=Need(Stage.EMBED, Lane.BATCH), requests=lambda: len(sandbox.requests()),
        secrets=(sandbox.token_id, sandbox.token_secret), patience_s=60.0,
    )  # fmt: skip
