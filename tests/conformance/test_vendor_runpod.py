"""RunPod's own package drives the sandbox, and works in it: a second reading of its protocols, not ours.

1.12.0, which speaks GraphQL, and 2.0.0rc2, which speaks REST v2, each in an environment of its own under
.venv-conformance (made here with pip if it is missing): they exclude each other, and the other clouds' pins.
Nothing of them is patched. Their worker (``runpod.serverless.start``) runs in the sandbox's containers.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.lease import Released
from accel.core.offer import Realm
from accel.core.passage import Passage
from accel.core.runtime import Runtime
from accel.core.task import Spec, Stage
from accel.index.store import HybridIndex
from accel.providers.runpod import RunPodProvider
from accel.providers.runpod_calls import Credentials
from accel.sandbox.runpod import RunPodSandbox
from accel.wire import Envelope, pack_texts
from accel.worker.engine import Worker

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2] / ".venv-conformance"
VERSIONS = ("1.12.0", "2.0.0rc2")


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Path:
    folder = ROOT / f"runpod-{request.param}"
    program = folder / "bin" / "python"
    if not (folder / "bin" / "runpod").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
        pip = [str(program), "-m", "pip", "install", "--quiet", f"runpod=={request.param}"]
        made = subprocess.run(pip, capture_output=True, text=True, timeout=480)
        if made.returncode:
            pytest.skip(f"runpod {request.param} cannot be installed: {made.stderr[-200:]}")
    return program


@pytest.fixture(scope="module")
def packages(python: Path) -> str:
    """Where that environment keeps its packages: what the image of a worker holds."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.fixture(scope="module")
def sandbox(packages: str) -> Iterator[RunPodSandbox]:
    with RunPodSandbox(time_scale=600, worker_env={"PYTHONPATH": packages}) as running:
        yield running


@pytest.fixture(scope="module")
def told(python: Path, sandbox: RunPodSandbox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("runpod_driver.py"))], capture_output=True, text=True,
        timeout=300, cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **sandbox.describe()["official_env"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def test_it_is_the_version_that_was_read(told: dict[str, Any], python: Path) -> None:
    assert told["version"] in str(python)


def test_it_reads_the_catalogue(told: dict[str, Any]) -> None:
    assert "NVIDIA L4" in told["gpus"]
    assert told["gpu"]["id"] == "NVIDIA GeForce RTX 4090"
    assert told["user"]


def test_a_pod_lives_as_it_says(told: dict[str, Any]) -> None:
    env = told["pods"].pop("env")
    assert env in ({"A": "b"}, ["A=b"])  # REST v2, GraphQL
    assert told["pods"] == {
        "listed": True, "up": "RUNNING", "stopped": "EXITED", "again": "RUNNING", "after": None, "left": [],
    }  # fmt: skip


def test_what_is_refused_is_an_error_of_its_own(told: dict[str, Any]) -> None:
    assert told["refused"]["none free"].startswith("QueryError: This machine does not have the resources")
    assert told["refused"]["unknown"].split(":")[0] in ("QueryError", "ValueError")


def test_its_worker_answers_its_client(told: dict[str, Any]) -> None:
    assert told["serverless"]["sync"] == {"twice": 42}
    assert told["serverless"]["async"] == {"twice": 8}
    assert (told["serverless"]["status"], told["serverless"]["failed"]) == ("COMPLETED", "FAILED")
    assert told["serverless"]["times"] == ["delayTime", "executionTime"]
    assert sum(told["serverless"]["health"].values()) >= 1
    assert told["serverless"]["endpoints"] == ["e"]


def test_its_worker_runs_ours(sandbox: RunPodSandbox, tmp_path: Path) -> None:
    """Our handler, by the vendor's package: the same answers as by our own reading of its protocol."""
    vectors = np.eye(8, dtype=np.float32)
    passages = [Passage(f"p{i}", f"passage number {i}", "test", "test") for i in range(8)]
    spec = Spec(Stage.EMBED, "m", "r", normalise=True, dimension=8)
    index = HybridIndex.build(tmp_path / "index", passages, vectors, spec)
    tensors = {**pack_texts(["number 3"]), "vectors": vectors[3:4]}
    request = Envelope("t", Spec(Stage.SEARCH).fields(), tensors, {"index": index.id, "k": 3})
    here = Worker()
    here.attach(index)
    runpod = RunPodProvider(
        credentials=Credentials(sandbox.key), runtime=Runtime.production(), realm=Realm.SANDBOX, token=str,
        endpoint=sandbox.url, poll_s=0.1, live_idle_s=3600, blobs=lambda _: index.folder,
    )  # fmt: skip

    async def ask() -> None:
        for _ in range(2):
            answer = await runpod.call(runpod.standing_lease(), request)
        wanted = here.handle(request)
        assert all(np.array_equal(answer.tensors[n], wanted.tensors[n]) for n in wanted.tensors)
        assert answer.meta["runpod"]["how"].startswith("runpod ")
        assert isinstance(await runpod.release(runpod.standing_lease()), Released)

    asyncio.run(ask())
