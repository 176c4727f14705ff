"""Sandbox clouds that rent, and processes of ours that use them, for checks that kill and break things."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.cli import clouds

DRIVER = Path(__file__).with_name("rented_driver.py")
NAMES = ("runpod", "vast", "modal")  # Kaggle rents nothing: what concerns it alone is in tests of its own
KEYS = {
    "kaggle": lambda c: {"KAGGLE_USERNAME": c.username, "KAGGLE_KEY": c.key},
    "runpod": lambda c: {"RUNPOD_API_KEY": c.key},
    "vast": lambda c: {"VAST_API_KEY": c.key},
    "modal": lambda c: {"MODAL_TOKEN_ID": c.token_id, "MODAL_TOKEN_SECRET": c.token_secret},
}


# what goes wrong at any cloud; ORDER: its call that rents
FAULTS: dict[str, list[dict[str, Any]]] = {
    "refused": [{"on": "*", "kind": "drop", "times": 0}],
    "refused midway": [{"on": "*", "kind": "drop", "times": 30, "after": 6}],
    "hangs": [{"on": "*", "kind": "hang", "times": 0, "after": 4}],
    "slow": [{"on": "*", "kind": "delay", "seconds": 0.5, "times": 6}],
    "5xx burst": [{"on": "*", "kind": "http", "status": 503, "times": 8, "after": 3}],
    "429": [{"on": "*", "kind": "http", "status": 429, "seconds": 1, "times": 2, "after": 3}],
    "auth revoked": [{"on": "*", "kind": "auth_revoked", "times": 0}],
    "auth revoked midway": [{"on": "*", "kind": "auth_revoked", "times": 12, "after": 6}],
    "balance gone": [{"on": "ORDER", "kind": "http", "status": 402, "text": "insufficient balance"}],
    "answer lost": [{"on": "ORDER", "kind": "lost_answer"}],
    "nonsense": [{"on": "*", "kind": "odd_body", "text": "[]", "times": 4, "after": 2}],
}


@contextlib.contextmanager
def cloud(name: str, folder: Path) -> Iterator[Any]:
    """A sandbox whose waits take next to no time."""
    with clouds.make(name, root=folder, time_scale=600) as running:
        yield running


@dataclass(frozen=True)
class Process:
    """A process of ours that has ended. told: its JSON, empty where it was killed."""

    code: int
    told: dict[str, Any]
    errors: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def drive(home: Path, running: dict[str, Any], **config: Any) -> Process:
    """Run the driver at ``running`` clouds, by name, on ``home``."""
    done = start(home, running, **config)
    out, errors = done.communicate(timeout=280)
    return Process(done.returncode, json.loads(out) if done.returncode == 0 else {}, errors)


def start(home: Path, running: dict[str, Any], **config: Any) -> subprocess.Popen[str]:
    """The driver, just begun; see ``drive``."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / "config.json"
    urls = [f"{name}={c.url}" for name, c in running.items()]
    file.write_text(json.dumps({"home": str(home), "clouds": urls, **config}))
    keys = {k: v for name, c in running.items() for k, v in KEYS[name](c).items()}
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **keys, "PYTHONPATH": path, "ACCEL_HOME": str(home)},
    )  # fmt: skip
