"""The runtimes of a loopback Colab. Guarantee: one that is gone runs nothing, and each token opens one of
them.

A runtime is ordered, is being made for its nominal cold start (and is shown to nobody meanwhile), and then
is a Jupyter server behind the proxy (``sandbox.colab_proxy``). It ends when it is deleted or unassigned,
also by itself (TBE_RUNTIME_ADDR, see ``worker.kernel_job``'s evidence), or when it is taken away. Runtimes
end with their sandbox: Colab's, too, keep nothing.

Not imitated: the GPU and the image (code sees this machine's Python), idle limits, Drive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.sandbox.machines import free_port
from accel.sandbox.runner import PASSED

VM = Path(__file__).with_name("colab_vm.py")
STOP_S = 5.0
# Google's command line begins with os.makedirs("/content") and os.chdir("/content") (commands/run.py): in a
# kernel here, that is the runtime's own folder. Nothing else of that path is imitated.
CONTENT = """\
import os as _os
def _inside(do, here={content!r}):
    def done(path, *more, **named):
        text = _os.fspath(path) if isinstance(path, (str, _os.PathLike)) else path
        if isinstance(text, str) and (text + "/").startswith("/content/"):
            path = here + text[len("/content"):]
        return do(path, *more, **named)
    return done
_os.chdir, _os.makedirs = _inside(_os.chdir), _inside(_os.makedirs)
del _inside, _os
"""
BOOT_S = 90.0  # real, for a Jupyter server to listen


@dataclass(slots=True)
class Vm:
    """One runtime. ready_at: epoch seconds; None: never. endpoint: the name that the command line's wire has.

    token, expires_at: what opens it now. secret: by which it may end itself. port, up: of its server, and
    whether that listens.
    """

    id: str
    spec: dict[str, Any]
    version: str
    made_at: float
    ready_at: float | None
    port: int
    token: str = ""
    expires_at: float = 0.0
    endpoint: str = ""
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    jupyter_token: str = field(default_factory=lambda: secrets.token_hex(16))
    process: asyncio.subprocess.Process | None = None
    up: bool = False
    booting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Runtimes:
    """The runtimes of one account. All methods run on the server's event loop.

    cold_s: nominal seconds of one's making; token_s: nominal seconds that a token lasts; both last
    1/``time_scale`` of that. eager: a runtime is made once its server listens, too; else the server is
    started by the first request to it (starting one takes 4 s of a slow processor).
    """

    def __init__(
        self, root: Path, *, time_scale: float, cold_s: float, token_s: float, now: Callable[[], float],
        eager: bool = True,
    ) -> None:  # fmt: skip
        self.root, self.now, self.address = root, now, ""
        self.time_scale, self.cold_s, self.token_s = time_scale, cold_s, token_s
        self._eager = eager
        self._vms: dict[str, Vm] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- what there is

    def shown(self) -> list[Vm]:
        """Those that are made."""
        return [vm for vm in self._vms.values() if self.made(vm)]

    def all(self) -> list[Vm]:
        """Also those in the making."""
        return list(self._vms.values())

    def get(self, ident: str) -> Vm | None:
        """One that is made."""
        vm = self._vms.get(ident)
        return vm if vm is not None and self.made(vm) else None

    def made(self, vm: Vm) -> bool:
        """Whether its making is over."""
        return vm.ready_at is not None and self.now() >= vm.ready_at and (vm.up or not self._eager)

    def ordered(self, ident: str) -> Vm | None:
        """One by its id, made or in the making."""
        return self._vms.get(ident)

    def fresh(self, vm: Vm) -> Vm:
        """Give it a new token once half of the old one's time is over; returns it."""
        lasts = self.token_s / self.time_scale
        if not vm.token or self.now() > vm.expires_at - lasts / 2:
            vm.token, vm.expires_at = f"rt-{secrets.token_hex(24)}", self.now() + lasts
        return vm

    # --- what happens

    async def make(
        self, ident: str, spec: dict[str, Any], version: str = "", *, cold_s: float | None = -1.0
    ) -> Vm:
        """Order one. cold_s: nominal, None for never, −1 for the usual."""
        wait = self.cold_s if cold_s == -1.0 else cold_s
        now = self.now()
        ready = None if wait is None else now + wait / self.time_scale
        vm = Vm(ident, spec, version, now, ready, free_port())
        self._vms[ident] = vm
        if self._eager:
            self._do(self.listening(vm))
        return vm

    async def ready(self, vm: Vm) -> None:
        """Wait for its server, where runtimes are made with one."""
        if self._eager:
            await self.listening(vm)

    async def listening(self, vm: Vm) -> bool:
        """Start its server, if nobody has; whether it listens in the end."""
        async with vm.booting:
            if vm.process is None:
                await self._boot(vm)
        clock = asyncio.get_running_loop().time
        ends = clock() + BOOT_S
        while not vm.up and self._vms.get(vm.id) is vm and clock() < ends:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", vm.port)
                writer.close()
                vm.up = True
            except OSError:
                await asyncio.sleep(0.05)
        return vm.up

    async def end(self, ident: str) -> None:
        """It is gone, with all that ran on it."""
        vm = self._vms.pop(ident, None)
        if vm is None:
            return
        process, vm.process = vm.process, None
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()  # colab_vm kills everything below it
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await asyncio.to_thread(shutil.rmtree, self._folder(vm), True)

    def later(self, ident: str, seconds: float) -> None:
        """Take it away in ``seconds``, real ones."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await self.end(ident)

        self._do(wait())

    async def close(self) -> None:
        """End all of them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self.end(ident) for ident in list(self._vms)))

    def log(self, ident: str) -> str:
        """What its Jupyter server has printed."""
        vm = self._vms.get(ident)
        file = self._folder(vm) / "server.log" if vm else None
        return file.read_text(errors="replace") if file and file.exists() else ""

    def content(self, ident: str) -> Path:
        """The folder that is a runtime's /content."""
        return self.root / "runtimes" / ident / "root" / "content"

    # --- inside

    def _do(self, doing: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _boot(self, vm: Vm) -> None:
        folder = self._folder(vm)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier sandbox on this folder
        for name in ("root/content", "home", "tmp"):
            (folder / name).mkdir(parents=True)
        startup = folder / "home" / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "00-content.py").write_text(CONTENT.format(content=str(folder / "root" / "content")))
        with (folder / "vm.log").open("wb") as errors:
            vm.process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(VM), str(vm.port), str(folder), stdin=asyncio.subprocess.PIPE,
                stdout=errors, stderr=errors, env=self._environment(vm), start_new_session=True,
            )  # fmt: skip

    def _environment(self, vm: Vm) -> dict[str, str]:
        """Nothing of this machine's environment but ``PASSED``: keys and tokens of the host stay out."""
        folder = self._folder(vm)
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        home = folder / "home"
        return passed | {
            "HOME": str(home), "TMPDIR": str(folder / "tmp"), "PYTHONNOUSERSITE": "1",
            "JUPYTER_TOKEN": vm.jupyter_token, "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "IPYTHONDIR": str(home / "ipython"), "JUPYTER_PLATFORM_DIRS": "1", "JUPYTER_NO_CONFIG": "1",
            "TBE_RUNTIME_ADDR": f"{self.address}/_vm/{vm.secret}",
        }  # fmt: skip

    def _folder(self, vm: Vm) -> Path:
        return self.root / "runtimes" / vm.id
