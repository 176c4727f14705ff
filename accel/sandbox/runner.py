"""Really runs pushed scripts, here. Guarantee: nothing it started outlives its timeout or the sandbox.

Each session waits (queue), takes a slot, waits again (cold start) and then runs in a subprocess under
``sandbox.supervise``, which holds the guarantee even when the sandbox is killed with SIGKILL. The
script's working directory is what a script's is on Kaggle: the folder whose files become the output.

Time: queue, cold start and the quota week last 1/``time_scale`` of their nominal length. Computing is
not scaled (but for ``compute_s``): a session is charged its nominal cold seconds plus the seconds its
script really took, and its timeout counts the latter. Like the nominal waits, this is our model: Kaggle
does not publish its own. (That a session is charged its wall clock once, not once per card, has been measured
by others: github.com/unslothai/unsloth, pull request 9538, 2026-08-23.)

Not imitated: the machine (there is no GPU; the script sees this machine's processor), the images, and
the network, which cannot be cut for a plain subprocess: ``enable_internet: false`` only sets
HF_HUB_OFFLINE. KAGGLE_KERNEL_RUN_TYPE is not set, so that no script takes this machine for Kaggle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accel.sandbox.store import WEEK_S, Session, Store

SUPERVISOR = Path(__file__).with_name("supervise.py")
STOP_S = 5.0  # what a supervisor gets to kill its script before it is killed itself
# Nothing else of the environment reaches a script: keys and tokens of the host stay out.
PASSED = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "VIRTUAL_ENV", "CONDA_PREFIX", "SSL_CERT_FILE",
)  # fmt: skip


class Runner:
    """The sessions of one sandbox. All methods run on the server's event loop.

    queue_s, cold_s: nominal seconds. slots: scripts running at once; further ones stay queued.
    allowance_s: GPU seconds of one week. inputs: the files of a data set, by "user/slug". compute_s: nominal
    seconds that every script counts as, whatever it took; None: what it took.
    """

    def __init__(
        self, store: Store, *, time_scale: float, queue_s: float, cold_s: float, slots: int,
        allowance_s: float, inputs: Callable[[str], Path | None] = lambda _: None,
        compute_s: float | None = None,
    ) -> None:  # fmt: skip
        self.store, self._inputs, self._compute_s = store, inputs, compute_s
        self.allowance_s = allowance_s
        self.week_s = WEEK_S / time_scale
        self._queue_s, self._cold_s = queue_s / time_scale, cold_s / time_scale
        self._nominal_cold_s = cold_s
        self._slots = asyncio.Semaphore(slots)
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def resume(self) -> None:
        """Take up what an earlier sandbox on this folder left: queued runs again, running has failed."""
        for session in list(self.store.sessions()):
            if session.state == "QUEUED":
                self.submit(session)
            elif session.state == "RUNNING":
                self._finish(session)

    def submit(self, session: Session) -> None:
        """Queue a session."""
        key = (session.slug, session.version)
        task = asyncio.get_running_loop().create_task(self._run(session))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def stop(self, slug: str) -> None:
        """Kill every session of one kernel; returns when they are gone."""
        await self._cancel([t for (s, _), t in self._tasks.items() if s == slug])

    async def close(self) -> None:
        """Kill every running session. Queued ones stay queued on disk."""
        await self._cancel(list(self._tasks.values()))

    @property
    def gpu_sessions(self) -> int:
        """GPU sessions queued or running now."""
        return sum(s.gpu and s.active for s in self.store.sessions())

    @property
    def reserved_s(self) -> float:
        """GPU seconds held for sessions under way: each one's timeout, less what it has used.

        The SDK calls it "quota reserved by currently-running sessions" (kagglesdk 0.1.37,
        kernels_api_service.py:12); how Kaggle counts it is not published.
        """
        now = self.store.now()
        return sum(
            max(0.0, s.timeout_s - (now - s.started_at))
            for s in self.store.sessions() if s.gpu and s.state == "RUNNING"
        )  # fmt: skip

    @staticmethod
    async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, session: Session) -> None:
        await asyncio.sleep(self._queue_s)
        async with self._slots:
            session.state, session.started_at = "RUNNING", self.store.now()
            self.store.save(session)
            try:
                await asyncio.sleep(self._cold_s)
                await self._execute(session)
            finally:
                self._finish(session)

    async def _execute(self, session: Session) -> None:
        folder = self.store.folder(session)
        self._lay_out(session)
        with (folder / "supervisor.log").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(SUPERVISOR), str(folder), str(folder / "script.py"),
                str(session.timeout_s),
                stdin=asyncio.subprocess.PIPE, stdout=errors, stderr=errors,
                env=self._environment(session), start_new_session=True,
            )  # fmt: skip
        try:
            await process.wait()
        except asyncio.CancelledError:
            assert process.stdin is not None
            process.stdin.close()  # the supervisor kills its script and says so in exit.json
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
            raise

    def _lay_out(self, session: Session) -> None:
        """Data sets where a script in ``working`` finds them as ``../input``. Kaggle has mounted them as
        /kaggle/input/SLUG and deeper; nobody may rely on either, so that the sandbox takes the deeper."""
        for ref in session.sources:
            files = self._inputs(ref)
            into = self.store.folder(session) / "input" / "datasets" / ref
            into.mkdir(parents=True, exist_ok=True)
            for file in files.iterdir() if files else ():
                (into / file.name).symlink_to(file.resolve())

    def _environment(self, session: Session) -> dict[str, str]:
        folder = self.store.folder(session)
        home, temporary = folder / "home", folder / "tmp"
        home.mkdir(exist_ok=True)
        temporary.mkdir(exist_ok=True)
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        own = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONNOUSERSITE": "1"}
        return passed | own | ({} if session.internet else {"HF_HUB_OFFLINE": "1"})

    def _finish(self, session: Session) -> None:
        """Settle a session that has ended, however it did: state, failure message, quota."""
        folder = self.store.folder(session)
        now = self.store.now()
        ending: dict[str, Any] = {"reason": "stopped", "code": None, "seconds": now - session.started_at}
        with contextlib.suppress(OSError, ValueError):
            ending = json.loads((folder / "exit.json").read_text())
        session.ended_at = now
        # The words of a failure are ours; Kaggle's own are not documented.
        match ending["reason"], ending["code"]:
            case "exited", 0:
                session.state, session.failure = "COMPLETE", ""
            case "exited", code:
                session.state, session.failure = "ERROR", f"The script ended with exit code {code}."
            case "timeout", _:
                session.state = "ERROR"
                session.failure = f"The session timeout of {session.timeout_s:.0f} s was reached."
            case _:
                session.state = "ERROR"
                session.failure = "The sandbox was stopped while this session was running."
        if session.gpu:
            took_s = float(ending["seconds"]) if self._compute_s is None else self._compute_s
            seconds = min(took_s, session.timeout_s)
            self.store.charge(self._nominal_cold_s + seconds)
        self.store.save(session)
        for scratch in ("home", "tmp"):
            shutil.rmtree(folder / scratch, ignore_errors=True)
