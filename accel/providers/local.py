"""This machine as a provider. Guarantee: it is never refused for the lane, and costs nothing.

Live requests go to a ``Worker`` in this process, off the event loop. Batch jobs run the very script that
a far end would run, as a process of its own in a folder named after the intent, so that a job outlives
the process that began it and is found again by its name. A job lives exactly as long as the lock on its
``job.lock`` is held: the lock is handed to its process when that is made, and the operating system drops
it with the process, so that no crash of ours can leave a job running that nobody knows of.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from accel import environment
from accel.core.errors import JobFailed, ProviderError, Rejected, Unreachable, UsageError
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import ZERO, Rate
from accel.core.offer import Billing, Gpu, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Numerics
from accel.providers.base import Fetched, JobState, Progress
from accel.wire import Envelope
from accel.worker.artefacts import MANIFEST
from accel.worker.attached import render_here
from accel.worker.engine import Worker

SCRIPT, LOG, PID, LOCK = "job.py", "job.log", "job.pid", "job.lock"
# The new process notes its own id, which is its group's, before it becomes the script.
_BEGIN = f"""
import os, pathlib, sys
pathlib.Path("{PID}.part").write_text(str(os.getpid()))
os.replace("{PID}.part", "{PID}")
os.execv(sys.executable, [sys.executable, "{SCRIPT}"])
"""
STOP_S = 5.0  # for a killed process group to go
# load of the bundled model in a fresh process: 0.9 s of it, plus importing torch; only a prior
COLD_S = 4.0


class LocalProvider:
    """Live and batch on this machine.

    folder: where batch jobs run. worker: what answers live. render: bundle folder → script.
    """

    name = "local"

    def __init__(
        self, realm: Realm, worker: Worker, folder: Path, runtime: Runtime,
        render: Callable[[Path], str] = render_here,
    ) -> None:  # fmt: skip
        self.realm, self.worker, self._folder, self._runtime = realm, worker, folder, runtime
        self._render = render
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def probe(self, need: Need) -> Offer | Unfit:
        """Always an offer: the fallback does not refuse."""
        now, card = self._runtime.now(), environment.gpu()
        numerics = {Numerics.FP32, Numerics.BF16}
        if card.capability:
            numerics |= {Numerics.FP16, Numerics.TF32}
        resident = self.worker.resident()
        warm = need.lane is Lane.LIVE and (not need.model or need.model in resident)
        return Offer(
            id=f"local/{card.name}", provider=self.name, realm=self.realm,
            gpu=card if card.capability else Gpu("cpu", environment.cores()),
            rate=Rate(ZERO, now.date(), "this machine"), as_of=now, source="this machine",
            numerics=frozenset(numerics), cold_s=0.0 if warm else COLD_S, resident=resident,
            billing=Billing.NOTHING,
        )  # fmt: skip

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """Answer one envelope in a thread. Errors of the stages pass through as they are."""
        return await self._runtime.offload(self.worker.handle, request)

    def standing_lease(self) -> Lease:
        """The lease of live calls: nothing is rented."""
        now = self._runtime.now()
        return Lease("local", self.name, self.realm, "local", "this process", now, now + timedelta(days=1))

    # Batch ----------------------------------------------------------------------------------------

    async def create(self, intent: Intent) -> Lease:
        """Make the folder and write the script. Nothing runs yet."""
        if intent.bundle is None:
            raise ProviderError("a batch job needs a bundle", provider=self.name)
        folder = self._job_folder(intent.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{SCRIPT}.part"
            part.write_text(self._render(intent.bundle))
            part.replace(folder / SCRIPT)
        except UsageError as bad:
            raise Rejected(bad.message, provider=self.name, hint=bad.hint) from bad
        except OSError as bad:
            raise Unreachable(f"{folder} cannot be written ({bad})", provider=self.name) from bad
        return self._lease(intent)

    async def find(self, intent: Intent) -> Lease | None:
        """The lease of an intent whose folder was made."""
        made = (self._job_folder(intent.name) / SCRIPT).is_file()
        return self._lease(intent) if made else None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Start the script as a process group of its own, unless it was started before."""
        await self._runtime.offload(self._spawn, self._job_folder(lease.name))

    def _spawn(self, folder: Path) -> None:
        if (folder / PID).exists() or (folder / MANIFEST).exists():
            return
        with (folder / LOCK).open("ab") as lock, (folder / LOG).open("ab") as log:
            if not _take(lock.fileno()):
                return  # it runs, and has not noted its id yet
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BEGIN], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, pass_fds=(lock.fileno(),),
                env=environment.without_secrets(),
            )  # fmt: skip
        self._children[folder.name] = process  # held, so that the interpreter reaps it

    async def poll(self, lease: Lease) -> Progress:
        """Running while its process lives; done when its manifest is there."""
        folder = self._job_folder(lease.name)
        if (folder / MANIFEST).exists():
            return Progress(JobState.DONE)
        if not (folder / SCRIPT).exists():
            return Progress(JobState.ABSENT)
        if _running(folder):
            return Progress(JobState.RUNNING, _last_line(folder / LOG))
        if not (folder / PID).exists():
            return Progress(JobState.QUEUED)
        if (folder / MANIFEST).exists():  # it ended between the two looks
            return Progress(JobState.DONE)
        return Progress(JobState.FAILED, _last_line(folder / LOG) or "it ended without a result")

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Copy the result files."""
        return await self._runtime.offload(self._copy, self._job_folder(lease.name), into)

    def _copy(self, folder: Path, into: Path) -> Fetched:
        into.mkdir(parents=True, exist_ok=True)
        files = {}
        try:
            for file in sorted(folder.glob("result.*")):
                files[file.name] = Path(shutil.copyfile(file, into / file.name))
        except OSError as bad:
            raise Unreachable(f"the result cannot be copied ({bad})", provider=self.name) from bad
        if not files:
            raise JobFailed("the job left no result", provider=self.name, log_tail=_last_line(folder / LOG))
        return Fetched(files, (folder / LOG).read_text(errors="replace") if (folder / LOG).exists() else "")

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """Kill the job's process group."""
        folder = self._job_folder(lease.name)
        if not await self._runtime.offload(_stop, folder):
            return Unconfirmed(lease.id, f"its process did not end within {STOP_S:.0f} s", lease.ends_by)
        child = self._children.pop(lease.name, None)
        if child is not None:
            child.poll()
        return Released(lease.id, "no process of it runs")

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Stop what runs, and delete the folder: its result was fetched, or is not wanted."""
        answer = await self.cancel(lease)
        if isinstance(answer, Released):
            shutil.rmtree(self._job_folder(lease.name), ignore_errors=True)
        return answer

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Jobs whose process lives."""
        now, found = self._runtime.now(), []
        for folder in sorted(self._folder.glob("accel-*")):
            if _running(folder):
                found.append(
                    Lease(folder.name, self.name, self.realm, folder.name, str(folder), now, now)
                )
        return tuple(found)

    def _lease(self, intent: Intent) -> Lease:
        ends = intent.created_at + timedelta(seconds=intent.lifetime_s)
        where = str(self._job_folder(intent.name))
        return Lease(intent.id, self.name, self.realm, intent.name, where, intent.created_at, ends)

    def _job_folder(self, name: str) -> Path:
        return self._folder / name


def _take(lock: int, how: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file now, if nobody else has."""
    for pause in (0.02, 0.1, None):  # somebody may just be looking, with a shared lock
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if pause is None or how == fcntl.LOCK_SH:
                return False
            time.sleep(pause)
    return False


def _running(folder: Path) -> bool:
    """Whether a process of the job lives: only then is its lock held exclusively."""
    try:
        with (folder / LOCK).open("rb") as lock:
            return not _take(lock.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def _stop(folder: Path) -> bool:
    """Kill what runs of the job; True once nothing does. The group's id cannot have passed to another
    process while the lock is held, because a member of the group holds it."""
    ends = time.monotonic() + STOP_S
    while _running(folder):
        with contextlib.suppress(OSError, ValueError):  # it may not have noted its id yet
            os.killpg(int((folder / PID).read_text()), signal.SIGKILL)
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:200] if lines else ""
