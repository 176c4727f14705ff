"""On a machine of the sandbox Vast.ai the real worker runs: a job and live requests, the same as here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from bundled import encoder
from machines import looped, wheel
from vast_cloud import intent_on, provider_for

from accel.core.errors import BadOutput
from accel.core.lease import Released
from accel.core.offer import Offer
from accel.core.passage import Passage
from accel.core.task import Lane, Need, Spec, Stage
from accel.index.store import HybridIndex
from accel.providers.base import JobState
from accel.sandbox.vast import VastSandbox
from accel.stages.embed import default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import read_result
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

TEXTS = ["a cat sleeps", "rain falls on the sea", "money is lent", "a dog barks"]


@pytest.mark.timeout(240)
@looped
async def test_a_job_and_live_requests_on_one_rented_machine(vast: VastSandbox, tmp_path: Path) -> None:
    spec, task = default_spec(), "t-real"
    job = {"task_id": task, "kind": "embed_benchmark", "spec": spec.fields(), "batch_sizes": [1],
           "repetitions": 1, "lifetime_s": 200}  # fmt: skip
    inputs = Envelope(task, spec.fields(), pack_texts(TEXTS)).to_bytes()
    Bundle({"schema": 1, **job}, wheel(), inputs).write(tmp_path / "bundle")
    vectors = encoder().embed(TEXTS)
    passages = [Passage("", text, "test", "test") for text in TEXTS]
    index = HybridIndex.build(tmp_path / "index", passages, vectors, spec)

    provider = provider_for(vast, wheel=wheel, boot_s=120, blobs={index.id: index.folder}.get)
    offer = await provider.probe(Need(Stage.EMBED, Lane.BATCH))
    assert isinstance(offer, Offer)
    lease = await provider.create(intent_on(offer, lifetime_s=230))
    await provider.start(lease, tmp_path / "bundle")
    while not (progress := await provider.poll(lease)).state.terminal:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    assert progress.state is JobState.DONE, progress
    fetched = await provider.fetch(lease, tmp_path / "home")
    expected = {"task_id": task, "spec": spec.fields(), "provider": "vast"}
    result = read_result(tmp_path / "home", **expected)
    np.testing.assert_allclose(result.output.tensors["vectors"], vectors, atol=1e-6)
    assert "model ready" in fetched.log

    search = Spec(Stage.SEARCH, model=spec.model, revision=spec.revision, dimension=spec.dimension)
    request = Envelope("q", search.fields(), {**pack_texts(TEXTS[:2]), "vectors": vectors[:2]},
                       {"index": index.id, "k": 3})  # fmt: skip
    here = Worker()
    here.attach(index)
    want = here.handle(request)
    for _ in range(2):
        found = await provider.call(lease, request)
        for name, tensor in want.tensors.items():
            np.testing.assert_array_equal(found.tensors[name], tensor)

    vast.spoil(lease.remote_id, "corrupted")
    await provider.fetch(lease, tmp_path / "spoilt")
    with pytest.raises(BadOutput):
        read_result(tmp_path / "spoilt", **expected)
    vast.spoil(lease.remote_id, "missing")
    await provider.fetch(lease, tmp_path / "gone")
    with pytest.raises(BadOutput):
        read_result(tmp_path / "gone", **expected)
    assert isinstance(await provider.release(lease), Released)
    assert vast.things() == []
    bill = await provider.bill(lease)
    assert bill is not None
    assert bill.amount == vast.invoice_nano()
