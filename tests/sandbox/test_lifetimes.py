"""Nothing a sandbox started outlives it: not its end, not SIGTERM, not SIGKILL; and nothing is forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from accel.core.errors import UsageError
from accel.sandbox.server import KaggleSandbox

LONG = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])\n"
    "open('pids.part', 'w').write(f'{os.getpid()} {child.pid}')\n"
    "os.rename('pids.part', 'pids')\n"
    "time.sleep(120)\n"
)
SERVE = (
    "import sys; from pathlib import Path; from accel.sandbox.server import KaggleSandbox; "
    "from accel.sandbox.serving import serve_foreground; "
    "serve_foreground(KaggleSandbox(Path(sys.argv[1]), time_scale=10_000))"
)


def ask(at: KaggleSandbox | dict[str, Any], method: str, **body: Any) -> dict[str, Any]:
    told = at.describe() if isinstance(at, KaggleSandbox) else at
    answer = httpx.post(
        f"{told['url']}/v1/kernels.KernelsApiService/{method}", json=body, timeout=10,
        auth=(told["username"], told["key"]),
    )  # fmt: skip
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def push(at: KaggleSandbox | dict[str, Any], slug: str, code: str, **more: Any) -> None:
    user = at.username if isinstance(at, KaggleSandbox) else at["username"]
    pushed = ask(
        at, "SaveKernel", slug=f"{user}/{slug}", newTitle=slug, text=code, language="python",
        kernelType="script", enableGpu=True, sessionTimeoutSeconds=100, **more,
    )  # fmt: skip
    assert "error" not in pushed, pushed


def status(at: KaggleSandbox | dict[str, Any], slug: str) -> dict[str, Any]:
    user = at.username if isinstance(at, KaggleSandbox) else at["username"]
    return ask(at, "GetKernelSessionStatus", userName=user, kernelSlug=slug)


def until(check: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"no {what} within {within_s} s"
        time.sleep(0.02)
    return found


def pids(root: Path, slug: str) -> list[int]:
    file = root / "kernels" / slug / "v1" / "working" / "pids"
    until(file.exists, "running script")
    return [int(pid) for pid in file.read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def test_sigterm_ends_it_cleanly_with_everything_it_ran(
    served: tuple[subprocess.Popen[str], dict[str, Any]], tmp_path: Path
) -> None:
    process, told = served
    push(told, "accel-long", LONG)
    running = pids(tmp_path, "accel-long")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0
    for pid in running:
        until(lambda pid=pid: gone(pid), f"end of {pid}")  # type: ignore[misc]


def test_sigkill_ends_everything_it_ran_and_a_new_one_knows(
    served: tuple[subprocess.Popen[str], dict[str, Any]], tmp_path: Path
) -> None:
    process, told = served
    push(told, "accel-long", LONG)
    running = pids(tmp_path, "accel-long")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for pid in running:
        until(lambda pid=pid: gone(pid), f"end of {pid}")  # type: ignore[misc]
    with KaggleSandbox(tmp_path, time_scale=10_000) as again:
        assert (again.username, again.key) == (told["username"], told["key"])
        found = status(again, "accel-long")
        assert found["status"] == "ERROR"
        assert "stopped" in found["failureMessage"]
        quota = ask(again, "GetAcceleratorQuotaStatistics")
        assert float(quota["gpuQuota"]["timeUsed"].rstrip("s")) >= 60  # its nominal cold start


def test_killing_the_supervisor_kills_the_script(tmp_path: Path) -> None:
    with KaggleSandbox(tmp_path, time_scale=10_000) as sandbox:
        push(sandbox, "accel-long", LONG)
        script, _ = pids(tmp_path, "accel-long")
        stat = Path(f"/proc/{script}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(stat[1]), signal.SIGKILL)
        until(lambda: gone(script), "end of the script")
        until(lambda: status(sandbox, "accel-long")["status"] == "ERROR", "failed session")


def test_the_end_of_the_block_ends_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    with KaggleSandbox(tmp_path, time_scale=10_000, slots=1) as sandbox:
        push(sandbox, "accel-long", LONG)
        running = pids(tmp_path, "accel-long")
        push(sandbox, "accel-next", "open('ran', 'w').write('yes')")
        assert status(sandbox, "accel-next")["status"] == "QUEUED"
    assert all(gone(pid) for pid in running)
    with KaggleSandbox(tmp_path, time_scale=10_000) as again:
        until(lambda: status(again, "accel-next")["status"] == "COMPLETE", "resumed session")
        user = again.username
        listed = ask(again, "ListKernelSessionOutput", userName=user, kernelSlug="accel-next")
        assert httpx.get(listed["files"][0]["url"]).text == "yes"


def test_deleting_a_kernel_ends_its_session(tmp_path: Path) -> None:
    with KaggleSandbox(tmp_path, time_scale=10_000) as sandbox:
        push(sandbox, "accel-long", LONG)
        running = pids(tmp_path, "accel-long")
        ask(sandbox, "DeleteKernel", userName=sandbox.username, kernelSlug="accel-long")
        assert all(gone(pid) for pid in running)
        assert ask(sandbox, "ListKernels")["kernels"] == []


def test_a_reset_ends_and_forgets_everything(tmp_path: Path) -> None:
    with KaggleSandbox(tmp_path, time_scale=10_000) as sandbox:
        push(sandbox, "accel-long", LONG)
        running = pids(tmp_path, "accel-long")
        sandbox.set_faults({"on": "ListKernels", "kind": "drop", "times": 0})
        sandbox.reset()
        assert all(gone(pid) for pid in running)
        assert sandbox.requests() == []
        assert ask(sandbox, "ListKernels")["kernels"] == []
        quota = ask(sandbox, "GetAcceleratorQuotaStatistics")
        assert float(quota["gpuQuota"]["timeUsed"].rstrip("s")) == 0


def test_a_finished_script_leaves_no_process_behind(tmp_path: Path) -> None:
    with KaggleSandbox(tmp_path, time_scale=10_000) as sandbox:
        push(sandbox, "accel-long", LONG.replace("time.sleep(120)\n", "print('leaving')\n"))
        _, child = pids(tmp_path, "accel-long")
        until(lambda: status(sandbox, "accel-long")["status"] == "COMPLETE", "end")
        assert gone(child)


def test_a_script_sees_its_folder_and_nothing_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "not for scripts")
    code = "import json, os\njson.dump([os.getcwd(), dict(os.environ)], open('seen.json', 'w'))\n"
    with KaggleSandbox(tmp_path, time_scale=10_000) as sandbox:
        push(sandbox, "accel-env", code, enableInternet=False)
        until(lambda: status(sandbox, "accel-env")["status"] == "COMPLETE", "end")
    folder, environment = json.loads((tmp_path / "kernels/accel-env/v1/working/seen.json").read_text())
    assert Path(folder) == tmp_path / "kernels/accel-env/v1/working"
    assert "not for scripts" not in environment.values()
    assert not [name for name in environment if name.startswith("KAGGLE")]
    assert environment["HOME"] != os.environ.get("HOME")
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_the_log_holds_every_line_of_both_streams_in_order(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for i in range(50):\n"
        "    print('out', i, flush=True); print('err', i, file=sys.stderr)\n"
        "sys.stdout.buffer.write('g\u00fcn'.encode()[:2]); sys.stdout.flush()\n"
        "sys.stdout.buffer.write('g\u00fcn'.encode()[2:] + b' \\xff no newline'); sys.stdout.flush()\n"
    )
    with KaggleSandbox(tmp_path, time_scale=10_000) as sandbox:
        push(sandbox, "accel-log", code)
        until(lambda: status(sandbox, "accel-log")["status"] == "COMPLETE", "end")
        body = {"userName": sandbox.username, "kernelSlug": "accel-log"}
        events = json.loads(ask(sandbox, "ListKernelSessionOutput", **body)["log"])
    out = [e["data"] for e in events if e["stream_name"] == "stdout"]
    assert out == [f"out {i}\n" for i in range(50)] + ["g\u00fcn \ufffd no newline"]
    assert [e["data"] for e in events if e["stream_name"] == "stderr"] == [f"err {i}\n" for i in range(50)]
    times = [e["time"] for e in events]
    assert times == sorted(times)


def test_a_folder_or_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with KaggleSandbox(tmp_path) as sandbox:
        with pytest.raises(UsageError, match="Another sandbox"), KaggleSandbox(tmp_path):
            pass
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"Port {port}"), KaggleSandbox(port=port):
            pass
        assert sandbox.alive
    assert not sandbox.alive
