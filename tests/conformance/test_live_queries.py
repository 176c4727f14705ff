"""A question answered at each rented cloud, with the real model, is the answer of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rented import NAMES

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
QUESTION = "in which layer do retries live?"


def ask(home: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "accel", "query", "--corpus", str(ROOT / "CONTRIBUTING.md"), "--no-cache",
         "--json", "--within", "600", *words, QUESTION],
        cwd=ROOT, env={**os.environ, "ACCEL_HOME": str(home)}, capture_output=True, text=True, timeout=800,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ask(tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("name", NAMES)
def test_a_live_query_there_finds_and_says_what_this_machine_does(
    name: str, here: dict[str, Any], tmp_path: Path
) -> None:
    there = ask(tmp_path, "--sandbox", "--provider", name)
    where = {stage["stage"]: stage["where"] for stage in there["stages"]}
    assert (where["embed"], where["search"], where["rerank"]) == (name, name, name), there["stages"]
    assert there["citations"] == here["citations"]
    assert there["answer"] == here["answer"]
    assert (there["realm"], here["realm"]) == ("sandbox", "real")
