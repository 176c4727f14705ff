"""A bundle under a kernel's roof, without the kernel: what is told of it, and that the runtime gives itself
back. The cell itself runs in a real kernel in ``tests/providers/test_colab.py``."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from colab_cloud import bundle

from accel.providers.colab import bundle_files
from accel.worker import kernel_job


def prepared(folder: Path, seconds: float = 0.0, **more: Any) -> Path:
    """A folder as ``providers.colab_jupyter`` leaves it on a runtime."""
    files = bundle_files(bundle(folder / "bundle", seconds, "t", **more))
    there = folder / "there"
    there.mkdir()
    for name, data in files.items():
        (there / name).write_bytes(data)
    return there


def ran(there: Path, lifetime_s: float = 60.0) -> dict[str, Any]:
    command = [sys.executable, "-u", "run.py", str(lifetime_s)]
    subprocess.run(command, cwd=there, check=True, timeout=60, stdin=subprocess.DEVNULL)
    for process in Path("/proc").glob("[0-9]*/cwd"):  # the one that waits to end the runtime
        try:
            if process.resolve() == there.resolve():
                os.kill(int(process.parent.name), 9)
        except (OSError, ValueError):
            continue
    told: dict[str, Any] = json.loads((there / "state.json").read_text())
    return told


def test_what_a_job_leaves_is_told_whole_and_cut(tmp_path: Path) -> None:
    there = prepared(tmp_path, mib=9)
    told = ran(there)
    assert (told["state"], told["message"]) == ("done", "")
    assert set(told["files"]) == {"big.bin", "result.json", kernel_job.LOG}
    entry = told["files"]["big.bin"]
    parts = [(there / "parts" / f"big.bin.{n}").read_bytes() for n in range(entry["parts"])]
    assert max(map(len, parts)) == kernel_job.PIECE
    whole = b"".join(parts)
    assert (len(whole), hashlib.sha256(whole).hexdigest()) == (entry["bytes"], entry["sha256"])


@pytest.mark.parametrize(
    ("seconds", "more", "lifetime_s", "message"),
    [(0.0, {"fails": True}, 60.0, "the job ended with exit code 1"),
     (30.0, {}, 1.0, "its lifetime of 1 s was over")],
)  # fmt: skip
def test_a_job_that_does_not_end_well_says_how_and_leaves_its_log(
    tmp_path: Path, seconds: float, more: dict[str, Any], lifetime_s: float, message: str
) -> None:
    told = ran(prepared(tmp_path, seconds, **more), lifetime_s)
    assert (told["state"], told["message"]) == ("failed", message)
    assert kernel_job.LOG in told["files"]


@pytest.mark.parametrize("name", ["job.json", "accel.whl", "inputs.safetensors"])
def test_what_did_not_arrive_as_it_was_sent_is_not_run(tmp_path: Path, name: str) -> None:
    there = prepared(tmp_path)
    data = bytearray((there / name).read_bytes())
    data[-1] ^= 1
    (there / name).write_bytes(data)
    told = ran(there)
    assert (told["state"], told["message"]) == ("failed", f"{name} did not arrive as it was sent")
    assert not (there / "out").exists()


def test_the_runtime_gives_itself_back_where_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    class Manager(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.command, self.path))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Manager) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("TBE_RUNTIME_ADDR", f"127.0.0.1:{server.server_address[1]}")
        kernel_job.end_runtime(0.0)
        thread.join(10)
    assert asked == [("POST", "/unassign")]
    monkeypatch.delenv("TBE_RUNTIME_ADDR")
    kernel_job.end_runtime(0.0)  # somewhere else: nobody to tell
