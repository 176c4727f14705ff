"""The first program of a queue's worker (RunPod serverless). Guarantee: it runs the one wheel it was told.

This very source is the container's start command (``worker.start`` packs it): Python 3.10 and its standard
library, and ``runpod`` where it is there. It takes jobs; a job that comes before the wheel is answered with
what is missing, and whoever sent it sends it again with the wheel: so the wheel travels once per worker. What
it then does with a job stands in the wheel (``worker.queue``).

Jobs are taken by the ``runpod`` package. Where that can neither be imported nor installed, the same protocol
is spoken here, without its heartbeat of a second process and its stop channel: take, run, done (runpod 1.12.0
and 2.0.0rc2, serverless/modules/{rp_job,rp_http,rp_ping}.py). Every answer says which it was.

Environment: ACCEL_WHEEL_SHA256; ACCEL_NEEDS as in ``boot``; RunPod's own, RUNPOD_WEBHOOK_GET_JOB and others.
"""

import base64
import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from typing import Any

held: dict[str, Any] = {"how": "", "queue": None}
lock = threading.Lock()


def log(line):
    """One line into the container's log."""
    print("accel: " + line, flush=True)  # noqa: T201


def handler(job):
    """What one job is answered with: JSON. Never raises for what a job holds."""
    given = job["input"]
    try:
        with lock:
            if held["queue"] is None and given.get("wheel"):
                held["queue"] = unpack(base64.b64decode(given["wheel"]))
        if held["queue"] is None:
            return {"need": ["wheel"], "how": held["how"]}
        return {**held["queue"].answer(given), "how": held["how"]}
    except Exception as error:  # the class alone: a message may hold what was sent
        log("a job failed: " + type(error).__name__)
        message = f"the worker failed ({type(error).__name__})"
        return {"refused": {"error": "JobFailed", "message": message}, "how": held["how"]}


def unpack(wheel):
    """The queue of this wheel. Raises ValueError for another one than was told."""
    if hashlib.sha256(wheel).hexdigest() != os.environ["ACCEL_WHEEL_SHA256"]:
        raise ValueError("not the wheel this worker was made for")
    folder = tempfile.mkdtemp(prefix="accel-wheel-")
    zipfile.ZipFile(io.BytesIO(wheel)).extractall(folder)
    sys.path.insert(0, folder)
    return importlib.import_module("accel.worker.queue").Queue()


def install():
    """What the wheel needs and the image lacks."""
    needs = [n.partition("=") for n in os.environ.get("ACCEL_NEEDS", "").split()]
    missing = [wanted for module, _, wanted in needs if importlib.util.find_spec(module) is None]
    if missing:
        log("installing " + " ".join(missing))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        env = {**os.environ, "PIP_BREAK_SYSTEM_PACKAGES": "1"}
        if subprocess.run([*pip, *missing], env=env).returncode:
            log("pip failed")
        importlib.invalidate_caches()


def ask(url, data=None):
    """One request as the worker; (status, body)."""
    headers = {"Authorization": os.environ.get("RUNPOD_AI_API_KEY", ""),
               "Content-Type": "application/x-www-form-urlencoded"}  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, data, headers), timeout=90) as answer:
        return answer.status, answer.read()


def ping(url):
    """A heartbeat, every ten seconds."""
    while url:
        with contextlib.suppress(OSError):
            ask(url + ("&" if "?" in url else "?") + "runpod_version=accel")
        time.sleep(10)


def take_and_do():
    """The worker's protocol, one job at a time, until SIGTERM."""
    me = os.environ["RUNPOD_POD_ID"]
    take = os.environ["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", me) + "&job_in_progress=0"
    done = os.environ["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", me)
    beat = os.environ.get("RUNPOD_WEBHOOK_PING", "").replace("$RUNPOD_POD_ID", me)
    threading.Thread(target=ping, args=(beat,), daemon=True).start()
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    while not leave.is_set():
        try:
            status, body = ask(take)
            job = json.loads(body) if status == 200 else None
        except (OSError, ValueError) as error:
            time.sleep(5 if getattr(error, "code", 0) == 429 else 1)
            continue
        if not job or "id" not in job:
            continue
        answer = json.dumps({"output": handler(job)}).encode()
        for pause in (1, 2, 0):
            try:
                ask(done.replace("$ID", job["id"]) + "&isStream=false", answer)
                break
            except OSError:
                time.sleep(pause)


def main():
    """Take jobs until this worker is taken down."""
    install()
    try:
        import runpod
    except ImportError:
        held["how"] = "stdlib"
        take_and_do()
    else:
        held["how"] = "runpod " + str(getattr(runpod, "__version__", ""))
        runpod.serverless.start({"handler": handler})


if __name__ == "__main__":
    main()
