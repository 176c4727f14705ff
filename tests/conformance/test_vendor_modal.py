"""Modal's own client, unmodified, drives the sandbox: a second reading of the protocol, not ours.

It runs in its own environment under .venv-conformance/modal (made here with pip if it is missing), with a
home folder of its own and no MODAL_ variable but the three that point it here. The program is one of the
vendor's own style; the command line is the vendor's. Our adapter then runs the real embedding benchmark and
a live query, with the real model.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.lease import Intent, Released
from accel.core.offer import Offer, Realm
from accel.core.passage import Passage
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.index.store import HybridIndex
from accel.providers.base import JobState
from accel.providers.modal import ModalProvider
from accel.providers.modal_client import ModalCredentials
from accel.sandbox.modal import ModalSandbox
from accel.stages.embed import default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import read_result
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(420)]

pytest.importorskip("modal", reason="Modal's SDK is not installed (pip install 'accel[modal]')")

ENVIRONMENT = Path(__file__).parents[2] / ".venv-conformance" / "modal"
PROGRAM = '''
import json, sys
import modal

app = modal.App("vendors-own")
image = modal.Image.debian_slim(python_version="3.11").pip_install("numpy")

@app.function(image=image, gpu="T4", timeout=60, scaledown_window=300)
def square(x: int) -> int:
    print(f"squaring {x}")
    return x * x

@app.function(retries=2)
def fails(x: int):
    raise ValueError(f"no {x}")

@app.function(image=image)
def echo(data: bytes) -> bytes:
    return data[::-1]

if __name__ == "__main__":
    found = modal.Function.from_name("vendors-own", "square")
    call = found.spawn(7)
    told = {"remote": found.remote(5), "spawn": call.get(timeout=60), "map": list(found.map(range(6)))}
    told["again"] = modal.FunctionCall.from_id(call.object_id).get(timeout=5)
    big = bytes(range(256)) * 20_000  # above what goes inline: by way of a blob, both ways
    told["big"] = modal.Function.from_name("vendors-own", "echo").remote(big) == big[::-1]
    try:
        modal.Function.from_name("vendors-own", "fails").remote(3)
    except ValueError as error:
        told["error"] = str(error)
    told["rate"] = str(modal.Workspace.from_context().billing.rates()["gpu:T4"])
    told["runners"] = found.get_current_stats().num_total_runners
    volume = modal.Volume.from_name("vendors-volume", create_if_missing=True, version=1)
    with volume.batch_upload(force=True) as batch:
        batch.put_file(sys.argv[0], "program.py")
    told["volume"] = b"".join(volume.read_file("program.py")) == open(sys.argv[0], "rb").read()
    print(json.dumps(told))
'''
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def python() -> Path:
    made = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "bin" / "modal").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, timeout=120)
        done = subprocess.run(
            [str(made), "-m", "pip", "install", "--quiet", "modal>=1.6.4,<1.7"], capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"Modal's client cannot be installed: {done.stderr[-200:]}")
    return made


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ModalSandbox]:
    with ModalSandbox(time_scale=500, cold_s=1.0) as running:
        yield running


@pytest.fixture
def run(python: Path, sandbox: ModalSandbox, tmp_path: Path) -> Run:
    def done(*words: str) -> subprocess.CompletedProcess[str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(tmp_path),
            **sandbox.describe()["official_client_env"],
        }  # fmt: skip
        finished = subprocess.run(
            [str(python), *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        assert finished.returncode == 0, finished.stderr[-2000:]
        return finished

    return done


def test_a_program_of_the_vendors_own_style_runs_unmodified(
    run: Run, sandbox: ModalSandbox, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run("-m", "modal", "deploy", "program.py")
    told = json.loads(run("program.py").stdout.splitlines()[-1])
    assert told == {
        "remote": 25, "spawn": 49, "again": 49, "map": [0, 1, 4, 9, 16, 25], "big": True, "error": "no 3",
        "rate": "0.59", "runners": told["runners"], "volume": True,
    }  # fmt: skip
    (app,) = json.loads(run("-m", "modal", "app", "list", "--json").stdout)
    assert "vendors-own" in app.values()
    run("-m", "modal", "app", "stop", "vendors-own", "--yes")
    assert sandbox.things() == []
    assert sandbox.invoice_nano("vendors-own") > 0
    assert {r.call for r in sandbox.requests() if r.status == 501} == set()


@pytest.fixture
def adapter(sandbox: ModalSandbox) -> Iterator[ModalProvider]:
    indexes: dict[str, Path] = {}
    made = ModalProvider(
        realm=Realm.SANDBOX, endpoint=sandbox.url, runtime=Runtime.production(), idle_s=3600,
        credentials=ModalCredentials(sandbox.token_id, sandbox.token_secret), blobs=indexes.get,
        billing_interval_s=sandbox.billing_interval_s,
    )  # fmt: skip
    made.indexes = indexes  # type: ignore[attr-defined]
    yield made
    asyncio.run(made.aclose())


def test_the_embedding_benchmark_really_runs_and_its_bill_is_the_invoice(
    adapter: ModalProvider, sandbox: ModalSandbox, tmp_path: Path
) -> None:
    spec = default_spec()
    texts = [f"text number {n}" for n in range(8)]
    inputs = Envelope("t1", spec.fields(), pack_texts(texts))
    job = {
        "task_id": "t1", "kind": "embed_benchmark", "spec": spec.fields(), "batch_sizes": [1],
        "repetitions": 2, "lifetime_s": 300,
    }  # fmt: skip
    Bundle.make(job, inputs).write(tmp_path / "bundle")

    async def scenario() -> Any:
        offer = await adapter.probe(Need(Stage.EMBED, Lane.BATCH))
        assert isinstance(offer, Offer)
        intent = Intent("i1", "t1", offer, "accel-i1", 300.0, datetime.now(UTC), tmp_path / "bundle")
        lease = await adapter.create(intent)
        await adapter.start(lease, intent.bundle)
        ends = time.monotonic() + 240
        while not (state := (await adapter.poll(lease)).state).terminal:
            assert time.monotonic() < ends
            await asyncio.sleep(0.2)
        assert state is JobState.DONE
        await adapter.fetch(lease, tmp_path / "home")
        assert isinstance(await adapter.release(lease), Released)
        await asyncio.sleep(2 * sandbox.billing_interval_s)
        return await adapter.bill(lease)

    cost = asyncio.run(scenario())
    assert cost.amount == sandbox.invoice_nano("accel-i1") > 0
    result = read_result(tmp_path / "home", task_id="t1", spec=spec.fields(), provider="modal")
    here = Worker().handle(inputs).tensors["vectors"]
    assert np.allclose(result.output.tensors["vectors"], here, atol=1e-5)
    assert result.output.meta["cold_s"] > 0


def test_a_live_query_finds_the_same_ids_as_here_and_the_index_travels_once(
    adapter: ModalProvider, sandbox: ModalSandbox, tmp_path: Path
) -> None:
    spec = default_spec()
    here = Worker()
    texts = [f"passage {n} about {'cats' if n % 2 else 'ships'}" for n in range(300)]
    passages = [Passage(str(n), t, "made here", "test") for n, t in enumerate(texts)]
    vectors = here.handle(Envelope("v", spec.fields(), pack_texts(texts))).tensors["vectors"]
    index = HybridIndex.build(tmp_path / "index", passages, vectors, spec)
    here.attach(index)
    adapter.indexes[index.id] = tmp_path / "index"  # type: ignore[attr-defined]
    query = pack_texts(["who sails?"])
    there = asyncio.run(adapter.call(adapter.standing_lease(), Envelope("q", spec.fields(), query)))
    search = {**spec.fields(), "stage": "search"}
    tensors = {**query, "vectors": there.tensors["vectors"]}
    asked = Envelope("s", search, tensors, {"index": index.id, "k": 10})
    size = sum(p.stat().st_size for p in (tmp_path / "index").iterdir())
    sent = []
    for _ in range(2):
        before = len(sandbox.requests())
        found = asyncio.run(adapter.call(adapter.standing_lease(), asked))
        sent.append(sum(r.sent for r in sandbox.requests()[before:]))
        for name, tensor in here.handle(asked).tensors.items():
            assert (found.tensors[name] == tensor).all(), name
    assert sent[0] > size > sent[1] * 10
    for lease in asyncio.run(adapter.leases()):  # type: ignore[union-attr]
        assert isinstance(asyncio.run(adapter.release(lease)), Released)
    assert sandbox.things() == []
