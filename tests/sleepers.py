"""Bundles whose job only sleeps, for tests of what carries jobs. Guarantee: the rest of the wheel is ours.

The far end's boot and server are the real ones; ``worker/job.py`` alone is replaced, because the real job
takes seconds to load its model, and this is not about the job.
"""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from machines import wheel

from accel.wire import Envelope

JOB = '''
import json, os, sys, threading, time
from pathlib import Path

def end_with_parent():
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
job, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[3])
print("sleeping", flush=True)
time.sleep(job["seconds"])
if job["seconds"] < 0.02:
    sys.exit("it fails")
(out / "result.json").write_text("{}" + " " * 100_000)
'''


@cache
def sleeper_wheel() -> bytes:
    """Our wheel with the sleeping job."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(wheel())) as ours,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in ours.infolist():
            new.writestr(info, JOB if info.filename == "accel/worker/job.py" else ours.read(info))
    return made.getvalue()


def sleeper(folder: Path, seconds: float) -> Path:
    """A bundle of a job that takes ``seconds``; below 0.02 it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {"schema": 1, "task_id": folder.name, "kind": "sleep", "seconds": seconds}
    (folder / "job.json").write_text(json.dumps(job))
    inputs = Envelope(folder.name, {"stage": "embed"}, {"x": np.zeros(1, np.float32)})
    (folder / "inputs.safetensors").write_bytes(inputs.to_bytes())
    (folder / "accel.whl").write_bytes(sleeper_wheel())
    return folder
