"""Rented machines that really run, here. Guarantee: each second is billed once, and none outlives its cloud.

What RunPod calls a pod and Vast.ai an instance: a machine is provisioned, runs its start command in a
supervised subprocess (``sandbox.supervise``, which ends it even when the sandbox dies by SIGKILL), may be
stopped and started, taken away with or without notice, and ends when it is destroyed or its command does. The
cloud's own words for all that are its wire app's.

Time: provisioning and cold starts last 1/``time_scale`` of their nominal seconds. What is billed is not
scaled: every real second from the order to the end at the machine's rate, in whole nano-dollars, rounded up
once per machine, so that an invoice can be compared to the last digit. A stopped machine bills its disk.

Not imitated: the GPU, the image (the command sees this machine's Python as ``python3``) and the network: a
subprocess has no ports of its own, so that ACCEL_PORT in its environment is replaced by a free port of
loopback, which is what ``ports`` maps to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accel.sandbox.runner import PASSED, SUPERVISOR

STOP_S = 5.0  # what a supervisor gets to kill its command before it is killed itself
FOREVER_S = 30 * 86400.0  # a machine's command has no time limit of its own

PROVISIONING, RUNNING, STOPPED, EXITED, GONE = "provisioning", "running", "stopped", "exited", "gone"


@dataclass(slots=True)
class Span:
    """A stretch of one rate: epoch seconds, nano-dollars per hour. ended None: it still runs."""

    began: float
    nano_per_hour: int
    ended: float | None = None


@dataclass(slots=True)
class Machine:
    """One machine. command: for /bin/sh. ports: its own → on loopback, once it runs. spans: what is billed.

    cold_s: nominal seconds until its command begins; None: it never does. why: how it ended, in our words.
    words: whatever its cloud keeps with it, as JSON values. preempted_at: epoch seconds, 0 if never.
    """

    id: str
    name: str
    command: str
    env: dict[str, str]
    ports: dict[int, int]
    nano_per_hour: int
    disk_nano_per_hour: int
    cold_s: float | None
    made_at: float
    words: dict[str, Any] = field(default_factory=dict)
    state: str = PROVISIONING
    spans: list[Span] = field(default_factory=list)
    runs_since: float = 0.0
    ended_at: float = 0.0
    preempted_at: float = 0.0
    why: str = ""

    def invoice(self, now: float) -> int:
        """Nano-dollars up to ``now``: each span's milliseconds at its rate, rounded up once in all."""
        parts = (
            round(1000 * ((now if s.ended is None else s.ended) - s.began)) * s.nano_per_hour
            for s in self.spans
        )
        return -(-sum(parts) // 3_600_000)


class Machines:
    """The machines of one cloud, kept in ``root``. All methods run on the server's event loop.

    A later sandbox on the same folder knows them all; what ran when the former ended has exited. disk_bills:
    the states in which one bills its disk.
    """

    def __init__(
        self, root: Path, *, time_scale: float, now: Callable[[], float],
        disk_bills: Collection[str] = (STOPPED,),
    ) -> None:  # fmt: skip
        self.root, self.time_scale, self.now, self._disk_bills = root, time_scale, now, disk_bills
        self._machines: dict[str, Machine] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        for file in sorted(root.glob("machines/*/machine.json")):
            kept = json.loads(file.read_text())
            kept["ports"] = {int(k): v for k, v in kept["ports"].items()}
            machine = Machine(**kept | {"spans": [Span(**s) for s in kept["spans"]]})
            self._machines[machine.id] = machine
            if machine.state in (PROVISIONING, RUNNING):
                self._over(machine, EXITED, "the sandbox was stopped while it ran")

    def all(self) -> list[Machine]:
        """Every machine that was ever rented, oldest first."""
        return sorted(self._machines.values(), key=lambda m: m.made_at)

    def get(self, ident: str) -> Machine | None:
        """One machine, also when it is gone."""
        return self._machines.get(ident)

    def invoice(self) -> int:
        """Nano-dollars over all machines, up to now."""
        return sum(m.invoice(self.now()) for m in self._machines.values())

    def rent(
        self, ident: str, name: str, *, command: str, env: Mapping[str, str], ports: Sequence[int],
        nano_per_hour: int, disk_nano_per_hour: int = 0, cold_s: float | None, words: Mapping[str, Any] = {},
        stopped: bool = False,
    ) -> Machine:  # fmt: skip
        """Order a machine: billed from now on. Its command begins after ``cold_s``; stopped: never."""
        machine = Machine(
            ident, name, command, dict(env), dict.fromkeys(ports, 0), nano_per_hour, disk_nano_per_hour,
            cold_s, self.now(), dict(words),
        )  # fmt: skip
        self._machines[ident] = machine
        if stopped:
            return self._over(machine, STOPPED, "never started")
        machine.spans.append(Span(machine.made_at, nano_per_hour))
        return self._begin(machine)

    def reprice(self, ident: str, nano_per_hour: int) -> None:
        """Another rate from now on."""
        machine = self._machines[ident]
        machine.nano_per_hour = nano_per_hour
        if machine.state in (PROVISIONING, RUNNING):
            self._bill(machine, nano_per_hour)
        self.save(machine)

    async def stop(self, ident: str, why: str = "stopped") -> None:
        """Its processes are killed; it is kept, and its disk bills."""
        machine = self._machines[ident]
        await self._kill(ident)
        self._over(machine, STOPPED, why)

    def start(self, ident: str) -> None:
        """Run a stopped machine's command again, from the beginning."""
        machine = self._machines[ident]
        self._bill(machine, machine.nano_per_hour)
        machine.state, machine.preempted_at, machine.why = PROVISIONING, 0.0, ""
        self._begin(machine)

    async def destroy(self, ident: str, why: str = "destroyed") -> None:
        """It ends, and bills nothing more."""
        machine = self._machines[ident]
        await self._kill(ident)
        if machine.state != GONE:
            self._over(machine, GONE, why)
            shutil.rmtree(self._folder(machine) / "working", ignore_errors=True)

    async def preempt(self, ident: str, notice_s: float = 0.0, *, keep: bool = False) -> None:
        """Take it away: SIGTERM, nominal ``notice_s``, SIGKILL. keep: it is stopped, and its disk bills."""
        machine = self._machines[ident]
        if machine.state not in (PROVISIONING, RUNNING):
            return
        if notice_s and (process := self._processes.get(ident)) is not None:
            _signal_script(self._folder(machine), signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), notice_s / self.time_scale)
        await self._kill(ident)
        machine.preempted_at = self.now()
        self._over(machine, STOPPED if keep else GONE, "preempted")

    async def close(self) -> None:
        """Kill what runs. It is remembered as exited."""
        for machine in self.all():
            if machine.state in (PROVISIONING, RUNNING):
                await self._kill(machine.id)
                self._over(machine, EXITED, "the sandbox was stopped while it ran")

    def log(self, machine: Machine) -> str:
        """What its command has printed so far."""
        try:
            lines = (self._folder(machine) / "log.jsonl").read_text().splitlines()
            return "".join(json.loads(line)["data"] for line in lines)
        except (OSError, ValueError, KeyError):
            return ""

    def save(self, machine: Machine) -> None:
        """Write it down; by rename, so that a kill leaves the old or the new."""
        folder = self._folder(machine)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "machine.json.part"
        kept = asdict(machine) | {"env": {}}  # the environment holds the lease's token: not on disk
        part.write_text(json.dumps(kept))
        part.replace(folder / "machine.json")

    # --- inside

    def _begin(self, machine: Machine) -> Machine:
        self.save(machine)
        self._tasks[machine.id] = asyncio.get_running_loop().create_task(self._run(machine))
        return machine

    async def _run(self, machine: Machine) -> None:
        if machine.cold_s is None:
            await asyncio.Event().wait()
            return
        await asyncio.sleep(machine.cold_s / self.time_scale)
        machine.ports = {private: free_port() for private in machine.ports}
        machine.state, machine.runs_since = RUNNING, self.now()
        self.save(machine)
        code = await self._execute(machine)
        self._over(machine, EXITED, f"its command ended with exit code {code}")

    async def _execute(self, machine: Machine) -> int | None:
        folder = self._folder(machine)
        for name in ("home", "tmp", "bin", "working"):
            (folder / name).mkdir(exist_ok=True)
        for name in ("python", "python3"):  # a link would lose the virtual environment
            wrapper = folder / "bin" / name
            wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            wrapper.chmod(0o755)
        (folder / "start.py").write_text(
            f"import os\nos.execv('/bin/sh', ['/bin/sh', '-c', {machine.command!r}])\n"
        )
        with (folder / "supervisor.log").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(SUPERVISOR), str(folder), str(folder / "start.py"), str(FOREVER_S),
                stdin=asyncio.subprocess.PIPE, stdout=errors, stderr=errors,
                env=self._environment(machine), start_new_session=True,
            )  # fmt: skip
        self._processes[machine.id] = process
        await process.wait()
        with contextlib.suppress(OSError, ValueError):
            code: int | None = json.loads((folder / "exit.json").read_text())["code"]
            return code
        return None

    def _environment(self, machine: Machine) -> dict[str, str]:
        """Nothing of this machine's environment but ``PASSED``: keys and tokens of the host stay out."""
        folder = self._folder(machine)
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        path = f"{folder / 'bin'}{os.pathsep}{passed.get('PATH', os.defpath)}"
        own = {
            "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONNOUSERSITE": "1",
            "PATH": path, "ACCEL_HOST": "127.0.0.1",
        }  # fmt: skip
        given = dict(machine.env)
        if given.get("ACCEL_PORT", "").isdigit():
            given["ACCEL_PORT"] = str(machine.ports.get(int(given["ACCEL_PORT"]), 0))
        return passed | given | own

    async def _kill(self, ident: str) -> None:
        process = self._processes.pop(ident, None)
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()  # the supervisor kills its command and says so in exit.json
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        task = self._tasks.pop(ident, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _over(self, machine: Machine, state: str, why: str) -> Machine:
        machine.state, machine.why, machine.ended_at = state, why, self.now()
        self._bill(machine, machine.disk_nano_per_hour if state in self._disk_bills else 0)
        self.save(machine)
        return machine

    def _bill(self, machine: Machine, nano_per_hour: int) -> None:
        """End the span that runs, and begin one at another rate (0: none)."""
        now = self.now()
        for span in machine.spans:
            span.ended = now if span.ended is None else span.ended
        if nano_per_hour:
            machine.spans.append(Span(now, nano_per_hour))

    def _folder(self, machine: Machine) -> Path:
        return self.root / "machines" / machine.id


def _signal_script(folder: Path, number: signal.Signals) -> None:
    """Send a signal to the command, whose process id its supervisor noted."""
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((folder / "pid").read_text()), number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
