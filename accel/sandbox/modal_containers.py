"""Modal's containers, really running. Guarantee: each bills once, to the nano-dollar, and none outlives us.

A container is a subprocess of this machine under ``sandbox.supervise``, running Modal's own runtime
(``python -m modal._container_entrypoint``, modal 1.6.4), which fetches its inputs over the wire as it does
there. Its folder ``working`` plays /root: files mounted under /root lie in it, and it is the first place
where modules are looked for.

Time: a cold start waits 1/``time_scale`` of its nominal seconds, and so does an idle container before it
ends; timeouts of inputs and computing are not scaled. Billed is every real second from the order of a
container to its end at the rate of its GPU, processor cores and memory, frozen at the order, in whole
nano-dollars, rounded up once per container. How Modal rounds is not published.

Not imitated: images (the runtime sees this machine's Python), the GPU, mounts outside /root, mounted
volumes, secrets, web endpoints, schedules and snapshots.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from accel.sandbox.modal_billing import RATES, Container, rate_of
from accel.sandbox.modal_state import (
    DEPLOYED,
    FAILURE,
    INIT_FAILURE,
    INTERNAL_FAILURE,
    OOM_KILL,
    TIMEOUT,
    Function,
    Input,
    State,
    new_id,
    protocol,
)
from accel.sandbox.runner import PASSED, SUPERVISOR

STOP_S = 5.0  # what a supervisor gets to kill its container before it is killed itself
MOST = 8  # containers of one function where it names no bound: this machine is small
IDLE_S = 60.0  # modal 1.6.4 leaves scaledown_window to the server; its docs' default is 60 s
TICK_S = 0.02
FOREVER_S = 30 * 86400.0

START = """import os, runpy, sys
sys.path[0] = os.getcwd()
sys.argv = ["modal"]
runpy.run_module("modal._container_entrypoint", run_name="__main__", alter_sys=True)
"""


class Containers:
    """The containers of one account. All methods run on the server's event loop.

    cold_s: nominal seconds of a cold start; None: it never ends. rates: nano-dollars an hour by name.
    """

    def __init__(self, state: State, *, time_scale: float, cold_s: float | None) -> None:
        self.state, self.time_scale, self.cold_s = state, time_scale, cold_s
        self.rates = dict(RATES)
        self.all: dict[str, Container] = {}
        self.url = ""
        self.changed: Callable[[], None] = lambda: None  # called when a container has begun or ended

    def live(self, function_id: str = "") -> list[Container]:
        """Those that exist now."""
        return [c for c in self.all.values() if not c.ended_at and function_id in ("", c.function_id)]

    def invoice(self) -> int:
        """Nano-dollars over all of them, up to now."""
        return sum(c.invoice(self.state.now()) for c in self.all.values())

    def scale(self, function: Function) -> None:
        """Start containers for what waits, within the function's bounds."""
        app = self.state.apps[function.app_id]
        settings = function.settings
        live = [c for c in self.live(function.id) if not c.draining]
        least = settings.min_containers if app.state == DEPLOYED else 0
        most = settings.max_containers or MOST
        busy = sum(bool(c.running) for c in live)
        wanted = max(least, min(most, busy + len(function.pending)))
        for _ in range(wanted - len(live)):
            self._order(function)

    async def next_input(self, container: Container) -> Input | None:
        """What the container is to run next; None when it is to end: idle for too long, or drained."""
        function = self.state.functions[container.function_id]
        first = not container.ready_at
        container.idle_since = self.state.now()
        container.ready_at = container.ready_at or container.idle_since
        window_s = (function.settings.scaledown_window or IDLE_S) / self.time_scale
        while not container.draining and not container.ended_at:
            if function.pending:
                given = function.pending.pop(0)
                given.task_id, given.started_at = container.id, self.state.now()
                given.cold_s = given.started_at - container.began_at if first else 0.0
                container.running.append(given)
                await self.state.notify()
                return given
            idle_s = self.state.now() - container.idle_since
            least = len(self.live(function.id)) <= function.settings.min_containers
            if idle_s >= window_s and not least:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(TICK_S, min(window_s - idle_s, 1.0))), self.state.changed:
                    await self.state.changed.wait()
        return None

    async def finished(self, given: Input, result: Any, data_format: int) -> None:
        """An output came from a container."""
        container = self.all.get(given.task_id)
        if container is not None and given in container.running:
            container.running.remove(given)
            container.idle_since = self.state.now()
        call = self.state.calls[given.call_id]
        function = self.state.functions[call.function_id]
        policy = function.definition.retry_policy
        # calls that nobody waits for are tried again by the server: modal 1.6.4, _functions.py:300-320
        if result.status == FAILURE and call.kind != 4 and given.attempt < policy.retries:
            self.state.again(given)
        else:
            self.state.end(given, result, data_format=data_format)
        await self.state.notify()
        self.scale(function)

    async def preempt(self, notice_s: float = 0.0, *, lost: bool = False, why: str = "preempted") -> int:
        """Take every running container away: SIGINT, nominal ``notice_s``, SIGKILL. Returns how many.

        Its input starts again elsewhere ("restarted with the same input", Modal's docs), or, lost, ends as
        INTERNAL_FAILURE, which is how the SDK is told (modal 1.6.4, _functions.py:487).
        """
        taken = [c for c in self.live() if c.process is not None]
        for container in taken:
            inputs = list(container.running)
            await self._take_over(container)
            if notice_s:
                self._signal(container, signal.SIGINT)
                if container.process is not None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(container.process.wait(), notice_s / self.time_scale)
            await self.kill(container, why, INTERNAL_FAILURE if lost else 0)
            for given in inputs:
                if not lost and given.result is None:
                    self.state.again(given)
                    self.scale(self.state.functions[container.function_id])
        await self.state.notify()
        return len(taken)

    async def out_of_memory(self) -> None:
        """Every running container is killed as one that took more memory than it may."""
        for container in self.live():
            await self.kill(container, "out of memory", OOM_KILL)

    async def kill(self, container: Container, why: str, status: int = 0) -> None:
        """End it; what it was running ends with ``status``, if any."""
        process = container.process
        await self._take_over(container)
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()  # the supervisor kills the container and its group
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._over(container, why, status)
        await self.state.notify()

    async def _take_over(self, container: Container) -> None:
        """Whoever ends it says how it ended: its own task no longer looks."""
        container.draining = True
        task = container.task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Kill all of them."""
        await asyncio.gather(*(self.kill(c, "the sandbox was stopped") for c in self.live()))

    # --- inside

    def _order(self, function: Function) -> None:
        container = Container(
            new_id("ta"), function.id, rate_of(function.definition.resources, self.rates), self.state.now(),
            secrets.token_hex(16), self.cold_s,
        )  # fmt: skip
        self.all[container.id] = container
        self.changed()
        container.task = asyncio.get_running_loop().create_task(self._run(container, function))

    async def _run(self, container: Container, function: Function) -> None:
        if container.cold_s is None:
            await asyncio.Event().wait()
            return
        await asyncio.sleep(container.cold_s / self.time_scale)
        folder = self._lay_out(container, function)
        with (folder / "supervisor.log").open("wb") as errors:
            container.process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(SUPERVISOR), str(folder), str(folder / "start.py"), str(FOREVER_S),
                stdin=asyncio.subprocess.PIPE, stdout=errors, stderr=errors, start_new_session=True,
                env=self._environment(container, folder),
            )  # fmt: skip
        limit_s = function.definition.timeout_secs or 300
        waiting = asyncio.ensure_future(container.process.wait())
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=TICK_S * 5)
                now = self.state.now()
                if any(now - given.started_at > limit_s for given in container.running):
                    await self.kill(container, f"an input took more than {limit_s} s", TIMEOUT)
                    return
        finally:
            waiting.cancel()
        self._over(container, "its runtime ended", INTERNAL_FAILURE)
        if not container.ready_at and function.pending:  # it cannot start: whoever waits is told
            unknown = protocol().GenericResult(status=INIT_FAILURE, exception="it did not start")
            self.state.end(function.pending.pop(0), container.result or unknown)
        await self.state.notify()
        self.scale(function)

    def _lay_out(self, container: Container, function: Function) -> Path:
        """Its folder: working with the mounted files, and the protocol's arguments."""
        folder = self.state.root / "containers" / container.id
        root = folder / "working"
        for name in ("home", "tmp", "working"):
            (folder / name).mkdir(parents=True)
        for mount in function.definition.mount_ids:
            for file in self.state.mounts.get(mount, []):
                path = PurePosixPath(file.filename)
                if path.is_relative_to("/root") and ".." not in path.parts:
                    target = root / path.relative_to("/root")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.state.content(file.sha256_hex), target)
        app = self.state.apps[function.app_id]
        layout = protocol().AppLayout(function_ids=app.functions or {function.tag: function.id})
        for ident in layout.function_ids.values():
            known = self.state.functions[ident]
            layout.objects.append(protocol().Object(object_id=ident, function_handle_metadata=known.handle))
        for other in function.definition.object_dependencies:  # the image, by its id alone
            layout.objects.append(protocol().Object(object_id=other.object_id))
        arguments = protocol().ContainerArguments(
            task_id=container.id, function_id=function.id, app_id=app.id, function_def=function.definition,
            app_layout=layout, environment_name="main",
        )  # fmt: skip
        (folder / "arguments").write_bytes(arguments.SerializeToString())
        (folder / "start.py").write_text(START)
        return folder

    def _environment(self, container: Container, folder: Path) -> dict[str, str]:
        """Nothing of this machine's but ``PASSED``; the container's own secret is what it signs in with."""
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        return passed | {
            "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONNOUSERSITE": "1",
            "MODAL_SERVER_URL": self.url, "MODAL_TASK_ID": container.id, "MODAL_IS_REMOTE": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(folder / "arguments"), "MODAL_ENVIRONMENT": "main",
            "MODAL_OVERRIDE_HEADERS": f"x-task-id:{container.id},x-task-secret:{container.secret}",
        }  # fmt: skip

    def _over(self, container: Container, why: str, status: int) -> None:
        if container.ended_at:
            return
        container.ended_at, container.why = self.state.now(), why
        if status:
            for given in container.running:
                self.state.end(given, protocol().GenericResult(status=status, exception=why))
        container.running.clear()
        self.changed()
        shutil.rmtree(self.state.root / "containers" / container.id / "working", ignore_errors=True)

    def _signal(self, container: Container, number: signal.Signals) -> None:
        with contextlib.suppress(OSError, ValueError):
            folder = self.state.root / "containers" / container.id
            os.killpg(int((folder / "pid").read_text()), number)
