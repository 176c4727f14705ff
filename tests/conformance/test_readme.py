"""Every command that the README shows is run, in its order, as a new user would: nothing is left to belief.

``make test`` is what runs the tests themselves, so that it is only asked what it would do; the page is
started, read and ended.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of the README's shell blocks, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = (line for block in BLOCK.findall(text) for line in block.splitlines())
    return [told for line in lines if (told := re.sub(r"\s+#.*", "", line).strip())]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One home for all commands, so that what one made the next one finds; this interpreter's tools."""
    home = tmp_path_factory.mktemp("readme-home")
    tools = str(Path(sys.executable).parent)
    yield os.environ | {
        "ACCEL_HOME": str(home), "ACCEL_SETTINGS": str(home / "settings.toml"),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        # the Makefile uses an activated environment as it is
        "VIRTUAL_ENV": str(Path(sys.executable).parents[1]),
    }  # fmt: skip


def run(line: str, environment: dict[str, str], limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shlex.split(line), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.conformance
@pytest.mark.timeout(2400)
def test_every_command_of_the_readme_runs(environment: dict[str, str]) -> None:
    shown = commands()
    assert {"make demo", "make test", "make app"} <= set(shown)
    for line in shown:
        if line == "make test":
            asked = run("make -n test", environment, 60)
            assert asked.returncode == 0 and "pytest" in asked.stdout
        elif line == "make app":
            _page_answers(environment)
        else:
            done = run(line, environment, 1200)
            # a busy machine may miss the target of a second: `accel monitor` says so, and by 3
            # a set-up says by 1 that something is left, and a diagnosis that it found something
            said = {"accel monitor": 3, "accel setup": 1, "accel doctor --diagnose": 1}
            fine = {0, *(code for command, code in said.items() if line.startswith(command))}
            assert done.returncode in fine, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert "Traceback" not in done.stderr, line
            widest = max(map(len, done.stdout.splitlines()), default=0)
            assert widest <= 80 or line.startswith("make kernels"), f"{line}: {widest} columns"


def _page_answers(environment: dict[str, str]) -> None:
    page = subprocess.Popen(
        [sys.executable, "gradio_app.py", "--port", "7899"], cwd=ROOT, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(240):
            assert page.poll() is None, "the page ended by itself"
            try:
                with opener.open("http://127.0.0.1:7899/", timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(0.5)
        pytest.fail("the page did not answer within two minutes")
    finally:
        page.send_signal(signal.SIGINT)
        page.wait(60)


def test_the_readme_shows_only_commands_that_exist() -> None:
    """The quick half: each is a target of the Makefile or a command of ours with options it knows."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    from typer.main import get_command

    from accel.cli.app import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    for line in commands():
        first, second, *rest = shlex.split(line)
        assert first in {"make", "accel"}, line
        if first == "make":
            assert second in targets, line
            continue
        options = {o for p in known[second].params for o in p.opts}
        assert {r for r in rest if r.startswith("--")} <= options, line
