"""``accel push`` on a sandbox Colab, killed with SIGKILL and carried on: one runtime, one result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accel.sandbox.colab import ColabSandbox

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
ARGUMENTS = ("--passages", "2", "--repetitions", "1", "--attended")


@pytest.mark.parametrize("said", ["intent and reservation written", ": pushed", ": started"])
def test_a_killed_push_is_carried_on(tmp_path: Path, said: str) -> None:
    with ColabSandbox(time_scale=10.0) as cloud:  # three seconds until a runtime is shown

        def command(*more: str) -> list[str]:
            words = [sys.executable, "-m", "accel", "push", "--sandbox-url", f"colab={cloud.url}"]
            return [*words, *ARGUMENTS, *more]

        variables = os.environ | {"ACCEL_HOME": str(tmp_path), "COLAB_API_KEY": cloud.key}
        first = subprocess.Popen(
            command("--to", "colab"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            stdin=subprocess.DEVNULL, env=variables,
        )  # fmt: skip
        assert first.stderr is not None
        for line in first.stderr:
            if said in line:
                break
        first.kill()
        first.wait()
        second = subprocess.run(
            command("--resume", "--json"), capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env=variables, timeout=400,
        )  # fmt: skip
        assert second.returncode == 0, second.stderr
        told: dict[str, Any] = json.loads(second.stdout)
        (done,) = told["done"]
        assert [(a["provider"], a["outcome"]) for a in done["attempts"]] == [("colab", "ok")]
        assert done["held"] in (0, {}, [])
        assert cloud.things() == []
        assert len({o.runtime_id for o in cloud.app.orders.values() if o.error is None}) == 1
        assert cloud.key not in second.stdout + second.stderr
