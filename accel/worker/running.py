"""The one job of a machine. Guarantee: its crash is its own, and its files are only those it wrote.

A job is ``worker.job`` in a process group of its own, so that whatever it does to itself leaves the server
standing. It ends with the server: the server holds the other end of its standard input. Files are told by
name, size and sha256, and read by a name that was told; no path is made from what a client sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from accel.environment import without_secrets
from accel.worker.artefacts import MANIFEST
from accel.worker.door import Refused

LOG = "job.log"
STOP_S = 5.0


class Running:
    """States are those of ``providers.base.JobState``, as text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._id, self._out, self._cancelled = "", folder, False

    def start(self, job: dict[str, Any], inputs: Path, lifetime_s: float = math.inf) -> None:
        """Begin ``job``, unless this very job was begun. Raises Refused (409) while another one runs.

        lifetime_s: what is left here; it differs from call to call, and so is no part of what job it is.
        """
        told = json.dumps(job, sort_keys=True).encode()
        ident = hashlib.sha256(told + inputs.name.encode()).hexdigest()
        with self._lock:
            if ident == self._id:
                return
            if self.busy():
                raise Refused(409, "Rejected", "another job is running")
            out = self._folder / f"job-{ident[:16]}"
            out.mkdir(parents=True, exist_ok=True)
            lifetime_s = min(float(job.get("lifetime_s", math.inf)), lifetime_s)
            limited = job if math.isinf(lifetime_s) else {**job, "lifetime_s": lifetime_s}
            (out / "job.json").write_text(json.dumps(limited, sort_keys=True))
            # keys are stripped by their names; what is left of ours is no business of the job's
            env = {k: v for k, v in without_secrets().items()
                   if not k.startswith("ACCEL_") or k == "ACCEL_HOME"}  # fmt: skip
            with (out / LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-u", "-m", "accel.worker.job", "job.json", str(inputs), str(out)],
                    cwd=out, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=env,
                )  # fmt: skip
            self._id, self._out, self._cancelled = ident, out, False

    def busy(self) -> bool:
        """Whether a job runs now."""
        return self._process is not None and self._process.poll() is None

    def told(self) -> dict[str, Any]:
        """state; message: its last words; code: how its process ended, None while it has not."""
        process = self._process
        if process is None:
            return {"state": "absent", "message": "", "code": None}
        code, done = process.poll(), (self._out / MANIFEST).exists()
        if code is None and not done:
            state = "running"
        elif self._cancelled:
            state = "cancelled"
        else:  # a manifest is written last: with it, the files are whole
            state = "done" if done else "failed"
        message = self._last_words()
        if state == "failed":
            how = f"signal {-code}" if code < 0 else f"exit code {code}"  # type: ignore[operator]
            message = f"it ended with {how}" + (f": {message}" if message else "")
        return {"state": state, "message": message, "code": code}

    def files(self) -> dict[str, dict[str, Any]]:
        """Name → bytes and sha256 of what a finished job left, and its log. Empty for no job."""
        if self._process is None:
            return {}
        found = {}
        for path in (*sorted(self._out.glob("result.*")), self._out / LOG):
            if path.is_file() and not path.is_symlink() and not path.name.endswith(".part"):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
        return found

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A piece of one file. Raises Refused (404) for a name that was not told."""
        known = {p.name: p for p in (*self._out.glob("result.*"), self._out / LOG)}
        path = known.get(name) if self._process is not None else None
        if path is None or not path.is_file() or path.is_symlink():
            raise Refused(404, "Rejected", "no such file of the job")
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def stop(self) -> bool:
        """Kill it, group and all; True once it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return True
        self._cancelled = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        return process.poll() is not None

    def _last_words(self) -> str:
        try:
            with (self._out / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:200] if lines else ""
