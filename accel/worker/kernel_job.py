"""One bundle under a Jupyter kernel's roof. Guarantee: it ends by its time, and what it left is told with
sha256.

Travels as a file of its own (``run.py``) into a folder of the runtime, beside the bundle's files and
``manifest.json`` (name → {"bytes", "sha256"}); standard library only. ``CELL`` is what the kernel executes:
it begins the job once, however often it is sent, and stays busy for as long as the job runs, so that the
runtime counts as used for just that long. ``state.json`` always says where it is: {"state", "message",
"files"}; the files of a job that ended lie in ``parts/``, cut to ``PIECE`` bytes, because a Jupyter server
hands out a file whole and in memory.

The runtime itself ends ``GRACE_S`` after the job's lifetime, however it went: ``POST
http://$TBE_RUNTIME_ADDR/unassign`` is what ``google.colab.runtime.unassign`` does (googlecolab/colabtools,
google/colab/runtime.py, commit 0eb2923).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

PIECE = 8 << 20  # bytes of a part: base64 in JSON, it is held four times over on its way
GRACE_S = 900.0  # after the lifetime, for whoever fetches; then the runtime gives itself back
BEGUN = "accel: begun"
LOG = "job.log"
# {folder}, {seconds}: a name below the kernel's working folder, and the job's lifetime
BEGIN = """\
import json, os, pathlib, subprocess, sys
_f, _p = pathlib.Path({folder!r}).resolve(), None
try:
    os.close(os.open(_f / "begun", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    print("accel: begun")
else:
    (_f / "state.part").write_text(json.dumps({{"state": "running", "message": "", "files": {{}}}}))
    (_f / "state.part").replace(_f / "state.json")
    _p = subprocess.Popen([sys.executable, "-u", "run.py", {seconds!r}], cwd=_f, stdin=subprocess.DEVNULL,
        stdout=open(_f / "run.log", "ab"), stderr=subprocess.STDOUT, start_new_session=True)
    print("accel: begun", flush=True)
"""
CELL = BEGIN + """\
if _p is not None:
    _p.wait()
    if json.loads((_f / "state.json").read_text())["state"] == "running":
        (_f / "state.part").write_text(json.dumps({{"state": "failed", "message":
            f"the runtime killed the job (exit code {{_p.returncode}})", "files": {{}}}}))
        (_f / "state.part").replace(_f / "state.json")
"""


def manifest(files: dict[str, bytes]) -> bytes:
    """What ``run`` checks the uploaded files against."""
    told = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}
    return json.dumps(told, sort_keys=True).encode()


def run(folder: Path, lifetime_s: float) -> None:
    """Check, run, cut and tell. The job's working directory is ``folder``/out; its output is its log."""
    began = time.monotonic()
    _own([sys.executable, "-u", "run.py", "--end", str(lifetime_s + GRACE_S)], folder / "run.log", folder)
    told = json.loads((folder / "manifest.json").read_text())
    for name, entry in told.items():
        if _digest(folder / name) != entry["sha256"]:
            _tell(folder, "failed", f"{name} did not arrive as it was sent")
            return
    out = folder / "out"
    out.mkdir()
    job = _own([sys.executable, "-u", "../run.py", "--job"], out / LOG, out)
    try:
        code = job.wait(max(1.0, lifetime_s - (time.monotonic() - began)))
        message = "" if code == 0 else f"the job ended with exit code {code}"
    except subprocess.TimeoutExpired:
        message = f"its lifetime of {lifetime_s:.0f} s was over"
        os.killpg(job.pid, 9)
        job.wait()
    # A job that failed has said why in its result.json, which comes home as that of one that did not.
    _tell(folder, "failed" if message else "done", message, _cut(out, folder / "parts"))


def work(folder: Path) -> int:
    """The job itself, in a process of its own: unpack the wheel, and run its ``worker.job``."""
    unpacked = tempfile.mkdtemp(prefix="accel-wheel-")
    zipfile.ZipFile(folder / "accel.whl").extractall(unpacked)
    sys.path.insert(0, unpacked)
    from accel.worker.job import main

    return main((folder / "job.json").read_bytes(), (folder / "inputs.safetensors").read_bytes())


def end_runtime(after_s: float) -> None:
    """Give the runtime back once ``after_s`` have passed; nothing where it is none of Colab's."""
    time.sleep(after_s)
    if address := os.environ.get("TBE_RUNTIME_ADDR"):
        request = urllib.request.Request(f"http://{address}/unassign", method="POST")
        urllib.request.urlopen(request, timeout=60)


def _own(command: list[str], log: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """A process in a session of its own: no signal that is meant for the kernel reaches it."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _cut(out: Path, parts: Path) -> dict[str, dict[str, object]]:
    """Name → {"bytes", "sha256", "parts"} of the regular files in ``out``; part i of NAME is parts/NAME.i."""
    parts.mkdir()
    files: dict[str, dict[str, object]] = {}
    for path in sorted(p for p in out.iterdir() if p.is_file() and not p.is_symlink()):
        count = 0
        with path.open("rb") as file:
            while (data := file.read(PIECE)) or not count:
                (parts / f"{path.name}.{count}").write_bytes(data)
                count += 1
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _digest(path), "parts": count}
    return files


def _tell(folder: Path, state: str, message: str, files: dict[str, dict[str, object]] | None = None) -> None:
    part = folder / "state.part"
    part.write_text(json.dumps({"state": state, "message": message, "files": files or {}}))
    part.replace(folder / "state.json")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--job"]:
            raise SystemExit(work(Path.cwd().parent))
        case ["--end", _seconds]:
            end_runtime(float(_seconds))
        case [_seconds]:
            run(Path.cwd(), float(_seconds))
