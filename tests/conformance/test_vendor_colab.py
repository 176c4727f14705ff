"""Google's own clients drive the sandbox Colab: a second reading of its protocols, not ours.

google-api-python-client with a Jupyter kernel client, and Google's command line for Colab (Python 3.12 or
newer), each in an environment of its own under .venv-conformance, made here with pip if it is missing. Of the
command line one thing is set, for which it has neither flag nor variable: the address of its backend
(colab_cli/common.py:76). Its sign-in is a file of its own kind.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from colab_cloud import RUNTIME, intent_on
from pythons import python_of

from accel.core.errors import NoCapacity, Unreachable
from accel.core.lease import Released, Unknown
from accel.core.offer import Offer, Realm
from accel.core.task import Lane, Need, Stage
from accel.providers.base import JobState
from accel.providers.colab_cli import ColabCliProvider
from accel.sandbox.colab import ColabSandbox

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2] / ".venv-conformance"
CLIENT = ("google-api-python-client==2.202.0", "jupyter-kernel-client==0.9.0")
COMMAND = ("google-colab-cli==0.7.5",)
POINTED = """
import os, sys
from colab_cli import cli, client, common

class Here(client.Prod):
    def __init__(self):
        super().__init__(os.environ["COLAB_URL"], os.environ["COLAB_URL"])

common.Prod = Here
cli.main()
"""
Cli = Callable[..., subprocess.CompletedProcess[str]]


def environment(name: str, python: str, wanted: tuple[str, ...], proof: str) -> Path:
    folder = ROOT / name
    program = folder / "bin" / "python"
    if subprocess.run([str(program), "-c", f"import {proof}"], capture_output=True).returncode if (
        program.exists()
    ) else True:
        subprocess.run([python, "-m", "venv", str(folder)], check=True, timeout=120)
        pip = [str(program), "-m", "pip", "install", "--quiet", *wanted]
        made = subprocess.run(pip, capture_output=True, text=True, timeout=480)
        if made.returncode:
            pytest.skip(f"{wanted[0]} cannot be installed: {made.stderr[-200:]}")
    return program


def newer_python() -> str | None:
    """A Python that the command line asks for."""
    return sys.executable if sys.version_info >= (3, 12) else python_of("3.13", "3.12")


@pytest.fixture(scope="module")
def served() -> Iterator[ColabSandbox]:
    with ColabSandbox(time_scale=60.0) as running:
        yield running


@pytest.fixture
def cloud(served: ColabSandbox) -> ColabSandbox:
    served.reset()
    return served


def test_googles_client_and_a_jupyter_kernel(cloud: ColabSandbox, tmp_path: Path) -> None:
    program = environment("colab-api", sys.executable, CLIENT, "googleapiclient, jupyter_kernel_client")
    done = subprocess.run(
        [str(program), str(Path(__file__).with_name("colab_driver.py"))], capture_output=True, text=True,
        timeout=300, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLAB_URL": cloud.url,
             "COLAB_USER": json.dumps(cloud.authorised_user())},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert told == {
        "version": "2.202.0", "tier": "SUBSCRIPTION_TIER_FREE", "eligible": ["NONE", "T4"],
        "refused": [9, "NOT_ELIGIBLE"], "again": True, "too many": "TOO_MANY_RUNTIMES", "waited": True,
        "listed": ["runtimes/accel-t"], "kernel": ["ok", ["content\n", "42"]], "deleted": {},
        "gone": [404, "runtimes/accel-t was not found."], "wrong": told["wrong"],
    }  # fmt: skip
    assert told["wrong"] in ("RefreshError", "HttpError")
    assert cloud.things() == []


@pytest.fixture
def cli(cloud: ColabSandbox, tmp_path: Path) -> Cli:
    python = newer_python()
    if python is None:
        pytest.skip("google-colab-cli asks for Python 3.12 or newer, and there is none here")
    program = environment("colab-cli", python, COMMAND, "colab_cli.cli")
    kept = tmp_path / ".config" / "colab-cli"
    kept.mkdir(parents=True)
    (kept / "settings.json").write_text('{"enable_update_check": false}')
    signed = cloud.authorised_user() | {"token": cloud.key, "expiry": "2099-01-01T00:00:00Z"}
    (kept / "token.json").write_text(json.dumps(signed))
    (tmp_path / "colab.py").write_text(POINTED)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), str(tmp_path / "colab.py"), *words], capture_output=True, text=True, timeout=200,
            cwd=tmp_path, stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLAB_URL": cloud.url,
                 "COLAB_CLI_ASSIGN_RETRIES": "0"},
        )  # fmt: skip

    return run


def test_the_command_line_makes_uses_and_stops_a_session(
    cli: Cli, cloud: ColabSandbox, tmp_path: Path
) -> None:
    cloud.set_account("PRO", 42.5)
    made = cli("new", "-s", "one", "--gpu", "T4")
    assert (made.returncode, "READY" in made.stdout) == (0, True), made.stdout + made.stderr
    assert "Hardware: T4" in cli("sessions").stdout
    assert "Current balance: 42.50 compute units" in cli("usage").stdout
    data = bytes(range(256)) * 1000
    (tmp_path / "up.bin").write_bytes(data)
    assert cli("upload", "-s", "one", "up.bin", "content/up.bin").returncode == 0
    assert "up.bin" in cli("ls", "-s", "one").stdout
    assert cli("download", "-s", "one", "content/up.bin", "down.bin").returncode == 0
    assert (tmp_path / "down.bin").read_bytes() == data
    assert "terminated" in cli("stop", "-s", "one").stdout
    assert cloud.things() == []


def test_the_command_lines_run_tells_the_exit_code_and_gives_back(
    cli: Cli, cloud: ColabSandbox, tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text("import os, sys\nprint(sys.argv[1], os.environ['WHO'])\nsys.exit(3)\n")
    done = cli("run", "--gpu", "T4", "--env", "WHO=me", "job.py", "hello")
    assert (done.returncode, "hello me" in done.stdout) == (3, True), done.stdout + done.stderr
    assert cloud.things() == []
    assert not Path("/content").exists()  # a kernel here has its own


def test_the_command_line_tells_refusals(cli: Cli, cloud: ColabSandbox) -> None:
    refused = cli("new", "--gpu", "A100")
    assert (refused.returncode, "rejected accelerator 'A100'" in refused.stderr) == (1, True), refused.stderr
    cloud.set_faults({"on": "Assign", "kind": "session_count"})
    full = cli("new", "--gpu", "T4")
    assert (full.returncode, "too many active sessions" in full.stderr) == (1, True), full.stderr


def test_our_adapter_runs_a_job_by_the_command_line(cli: Cli, cloud: ColabSandbox, tmp_path: Path) -> None:
    """The way for an account that the API is not open to; one program stands for the whole command line."""
    program = tmp_path / "colab"
    words = shlex.join([str(ROOT / "colab-cli" / "bin" / "python"), str(tmp_path / "colab.py")])
    program.write_text(f"#!/bin/sh\nHOME={tmp_path} COLAB_URL={cloud.url} exec {words} \"$@\"\n")
    program.chmod(0o755)
    given: dict[str, Any] = {
        "program": [str(program)], "config": tmp_path / "sessions.json", "runtime": RUNTIME,
        "realm": Realm.SANDBOX, "accepted_terms": ("colab/attended",), "confirm": lambda _: True,
        "call_s": 120.0, "boot_s": 200.0,
    }  # fmt: skip
    intent = intent_on(tmp_path, 0.5)

    async def scenario() -> None:
        colab = ColabCliProvider(**given)
        found = await colab.probe(Need(Stage.EMBED, Lane.BATCH))
        assert isinstance(found, Offer), found
        assert "compute units left 0" in found.rate.source
        assert await colab.find(intent) is None
        lease = await colab.create(intent)
        successor = ColabCliProvider(**given)
        assert await successor.find(intent) == lease
        while True:
            progress = await successor.poll(lease)
            if progress.state.terminal:
                break
            await asyncio.sleep(0.1)
        assert progress.state is JobState.DONE
        fetched = await successor.fetch(lease, tmp_path / "home")
        assert fetched.files["big.bin"].stat().st_size == 1 << 20
        full = intent_on(tmp_path, 0.5)
        with pytest.raises(NoCapacity, match="too many active sessions"):
            await successor.create(full)
        # a session of which nobody here knows the name: unknown is not none
        stranger = ColabCliProvider(**{**given, "config": tmp_path / "other.json"})
        assert isinstance(await stranger.leases(), Unknown)
        with pytest.raises(Unreachable, match="without a name"):
            await stranger.find(intent)
        assert isinstance(await successor.release(lease), Released)
        assert await successor.leases() == ()
        assert (await ColabCliProvider(**given).poll(lease)).state is JobState.ABSENT
        hasty = ColabCliProvider(**{**given, "boot_s": 0.3})
        with pytest.raises(Unreachable, match="did not end within"):
            await hasty.create(intent_on(tmp_path, 0.5))

    asyncio.run(scenario())
    assert cloud.things() == []
