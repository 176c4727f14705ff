"""What RunPod is rented for, in its sandbox: the real job on a pod, and real embeddings by its serverless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from accel.core.lease import Intent, Released
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.experiments.embed_benchmark import benchmark_texts, prepare
from accel.providers.base import JobState
from accel.providers.runpod import RunPodProvider
from accel.providers.runpod_calls import Credentials
from accel.sandbox.runpod import RunPodSandbox
from accel.stages.embed import default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import read_result
from accel.worker.engine import Worker

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

RUNTIME = Runtime.production()
TOKEN = "marked-token-of-a-lease-0123456789"


def provider(sandbox: RunPodSandbox) -> RunPodProvider:
    return RunPodProvider(
        credentials=Credentials(sandbox.key), runtime=RUNTIME, realm=Realm.SANDBOX, token=lambda _: TOKEN,
        endpoint=sandbox.url, poll_s=0.1, live_idle_s=3600,
    )  # fmt: skip


def test_a_job_is_run_on_a_pod_and_its_result_verifies(tmp_path: Path) -> None:
    async def scenario(sandbox: RunPodSandbox) -> None:
        runpod = provider(sandbox)
        task, bundle = prepare(
            benchmark_texts(4), default_spec(), batch_sizes=(1,), repetitions=1, only=("runpod",),
            runtime=RUNTIME, lifetime_s=500,
        )  # fmt: skip
        bundle.write(tmp_path / "bundle")
        offer = await runpod.probe(task.need)
        assert isinstance(offer, Offer), offer
        intent = Intent("i", task.id, offer, "accel-i", 500.0, RUNTIME.now(), tmp_path / "bundle")
        lease = await runpod.create(intent)
        await runpod.start(lease, intent.bundle)
        while True:
            if (progress := await runpod.poll(lease)).state.terminal:
                break
            await asyncio.sleep(0.1)
        assert progress.state is JobState.DONE, progress
        await runpod.fetch(lease, tmp_path / "home")
        assert isinstance(await runpod.release(lease), Released)
        assert sandbox.things() == []
        bill = await runpod.bill(lease)
        assert bill is not None
        assert bill.amount == sandbox.invoice_nano()
        result = read_result(
            tmp_path / "home", task_id=task.id, spec=task.spec.fields(), provider="runpod"
        )
        wanted = Worker().handle(
            Envelope("t", task.spec.fields(), pack_texts(benchmark_texts(4)))
        ).tensors["vectors"]  # fmt: skip
        assert np.allclose(result.output.tensors["vectors"], wanted, atol=1e-6)

    with RunPodSandbox(tmp_path / "cloud", time_scale=600) as sandbox:
        asyncio.run(scenario(sandbox))
        kept = b"".join(p.read_bytes() for p in (tmp_path / "cloud").rglob("*") if p.is_file())
        assert TOKEN.encode() not in kept
        assert sandbox.key.encode() not in kept


def test_a_query_is_embedded_as_here() -> None:
    async def scenario(sandbox: RunPodSandbox) -> None:
        runpod = provider(sandbox)
        request = Envelope("t", default_spec().fields(), pack_texts(["what is a lease?"]))
        answer = await runpod.call(runpod.standing_lease(), request)
        wanted = Worker().handle(request)
        assert np.allclose(answer.tensors["vectors"], wanted.tensors["vectors"], atol=1e-6)
        assert isinstance(await runpod.release(runpod.standing_lease()), Released)
        assert sandbox.things() == []

    with RunPodSandbox(time_scale=600) as sandbox:
        asyncio.run(scenario(sandbox))
