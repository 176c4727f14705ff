"""A runtime's machine: a real Jupyter server and all that comes of it. Guarantee: nothing of it outlives
this.

Started by ``sandbox.colab_runtimes`` as ``python -I colab_vm.py PORT FOLDER``, standard library only. The
server's root is FOLDER/root, as a Colab machine's root is "/"; its "content" is where kernels begin. A
kernel, and what it starts in sessions of their own, are not in the server's process group: on Linux this
process takes over whoever loses its parent (PR_SET_CHILD_SUBREAPER), so that at the end every descendant is
found and killed. The end is that of the server, or of standard input, which the operating system closes even
when the sandbox is killed with SIGKILL. What cannot be caught: a SIGKILL of this very process leaves
kernels, which end when they see that their server is gone, and their jobs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

TICK_S = 0.1


def command(port: int, root: Path) -> list[str]:
    """jupyter_server 2.x, without extensions. Its token comes from JUPYTER_TOKEN (auth/identity.py)."""
    settings = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0,
        "ServerApp.root_dir": str(root), "ServerApp.open_browser": False, "ServerApp.allow_root": True,
        "ServerApp.jpserver_extensions": "{}", "ServerApp.terminals_enabled": False,
        "ServerApp.allow_origin": "*", "ServerApp.allow_remote_access": True, "ServerApp.log_level": "WARN",
        "MappingKernelManager.root_dir": str(root / "content"), "ContentsManager.allow_hidden": True,
    }  # fmt: skip
    return [sys.executable, "-m", "jupyter_server", *(f"--{k}={v}" for k, v in settings.items())]


def main(port: int, folder: Path) -> None:
    """Serve until the server ends or standard input does; then leave nothing."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if prctl is not None:
        prctl(36, 1)  # PR_SET_CHILD_SUBREAPER, <linux/prctl.h>

    def die_with_us() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    log = (folder / "server.log").open("ab")
    server = subprocess.Popen(
        command(port, folder / "root"), cwd=folder / "root" / "content", stdin=subprocess.DEVNULL, stdout=log,
        stderr=log, preexec_fn=die_with_us,
    )  # fmt: skip
    try:
        while True:
            if select.select([sys.stdin.buffer], [], [], TICK_S)[0] and not os.read(0, 1 << 10):
                return
            with contextlib.suppress(ChildProcessError):
                while (gone := os.waitpid(-1, os.WNOHANG)[0]) > 0:
                    if gone == server.pid:
                        return
    finally:
        _kill_all()


def _kill_all() -> None:
    """Kill every descendant, and those that come meanwhile."""
    for _ in range(100):
        found = _descendants(os.getpid())
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] > 0:
                pass
        if not found:
            return
        time.sleep(0.01)


def _descendants(top: int) -> list[int]:
    """Processes below ``top``, of /proc/PID/stat: "pid (name) state ppid"."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found: set[int] = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {top})


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
