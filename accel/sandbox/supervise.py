"""Runs one script to its end. Guarantee: the script never outlives its time or whoever started this.

Started by ``sandbox.runner`` as ``python -I supervise.py FOLDER SCRIPT TIMEOUT_S``, standard library
only. The script runs in FOLDER/working with its own process group. It is killed, group and all, when
the time is over or when standard input reaches its end, which the operating system sees to even if
the sandbox itself is killed with SIGKILL; and if this process is killed, Linux kills the script
(PR_SET_PDEATHSIG). What cannot be caught: a script that starts a process in a session of its own.

Leaves FOLDER/log.jsonl, one ``{stream_name, time, data}`` a line as Kaggle's log has them
(kaggle 2.2.4, kaggle_api_extended.py:6871-6877), and, last and by rename, FOLDER/exit.json:
``{reason: exited | timeout | stopped, code, seconds}``.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

# Characters kept of a log, and of a line before it is cut: guards for this machine, not Kaggle's numbers.
LOG_LIMIT, LINE_LIMIT = 16 << 20, 1 << 13
TICK_S = 0.05
DRAIN_S = 1.0  # a background process of the script may hold its output open, and write for ever


def _die_with_supervisor() -> None:
    """In the child, before exec: SIGKILL when the supervisor goes away (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG, <linux/prctl.h>
        if os.getppid() == 1:  # it was gone before the call above
            os._exit(137)


def _exited(child: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended, without reaping it: its group must stay ours until it is killed."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class _Log:
    """Appends to log.jsonl, a line of output an event, until LOG_LIMIT; then says once that it stopped."""

    def __init__(self, file: TextIO, began: float) -> None:
        self._file, self._began, self._size = file, began, 0
        streams = ("stdout", "stderr")
        self._decoders = {s: codecs.getincrementaldecoder("utf-8")("replace") for s in streams}
        self._rests = dict.fromkeys(streams, "")

    def add(self, stream: str, chunk: bytes) -> None:
        """What was read from ``stream``; empty at its end, which also ends its last line."""
        text = self._rests[stream] + self._decoders[stream].decode(chunk, final=not chunk)
        *lines, rest = re.split(r"(?<=[\n\r])", text)
        if rest and (not chunk or len(rest) > LINE_LIMIT):
            lines, rest = [*lines, rest], ""
        self._rests[stream] = rest
        for line in lines:
            self._write(stream, line)

    def close(self) -> None:
        """End the last lines of streams that something else still holds open."""
        for stream in self._rests:
            self.add(stream, b"")

    def _write(self, stream: str, text: str) -> None:
        if self._size > LOG_LIMIT:
            return
        self._size += len(text)
        if self._size > LOG_LIMIT:
            text = f"[the log stops here: it passed {LOG_LIMIT} characters]\n"
        event = {"stream_name": stream, "time": time.monotonic() - self._began, "data": text}
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()


def supervise(folder: Path, script: Path, timeout_s: float) -> None:
    """Run ``script`` in ``folder``/working; return when it and its process group are gone."""
    working = folder / "working"
    working.mkdir(exist_ok=True)
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-u", str(script)],
        cwd=working,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_supervisor,  # no thread has been started in this process
    )
    (folder / "pid").write_text(str(child.pid))  # its group's, for whoever may send it a signal
    reason = "exited"
    with (
        (folder / "log.jsonl").open("w", encoding="utf-8") as file,
        selectors.DefaultSelector() as ready,
    ):
        log = _Log(file, began)
        assert child.stdout is not None
        assert child.stderr is not None
        ready.register(child.stdout, selectors.EVENT_READ, "stdout")
        ready.register(child.stderr, selectors.EVENT_READ, "stderr")
        ready.register(sys.stdin.buffer, selectors.EVENT_READ, "parent")
        ended_at = 0.0
        while reason == "exited":
            ended = _exited(child)  # asked first: what it wrote before its end is read below
            ended_at = ended_at or (time.monotonic() if ended else 0.0)
            events = ready.select(0 if ended else TICK_S)
            for key, _ in events:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    ready.unregister(key.fileobj)
                if key.data != "parent":
                    log.add(key.data, chunk)
                elif not chunk and not ended:
                    reason = "stopped"
            if ended and (not events or time.monotonic() - ended_at > DRAIN_S):
                break
            if not ended and reason == "exited" and time.monotonic() - began > timeout_s:
                reason = "timeout"
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        log.close()
    seconds = time.monotonic() - began
    part = folder / "exit.json.part"
    part.write_text(json.dumps({"reason": reason, "code": code, "seconds": seconds}))
    part.replace(folder / "exit.json")


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
