"""RunPod's live lane: the same answers as here, wheel and index travel once, and no job is left behind.

Search is what is asked: it needs an index at the far end and no model, so that a worker answers in moments.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machines import looped, wheel

from accel.core.errors import (
    BadOutput,
    IndexError_,
    NoCapacity,
    OutOfMemory,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorised,
    Unreachable,
)
from accel.core.lease import Lease, Released
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Offer, Realm, Unfit
from accel.core.passage import Passage
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Spec, Stage
from accel.index.store import HybridIndex
from accel.providers.runpod import RunPodProvider
from accel.providers.runpod_calls import Credentials
from accel.sandbox.runpod import RunPodSandbox
from accel.wire import Envelope, pack_texts
from accel.worker.engine import Worker

RUNTIME = Runtime.production()
DIMENSION = 8


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((40, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    passages = [Passage(f"p{i}", f"passage number {i} of the forty", "test", "test") for i in range(40)]
    spec = Spec(Stage.EMBED, "m", "r", normalise=True, dimension=DIMENSION)
    return HybridIndex.build(tmp_path_factory.mktemp("index") / "it", passages, vectors, spec)


@pytest.fixture(scope="module")
def served() -> Iterator[RunPodSandbox]:
    with RunPodSandbox(time_scale=1000) as running:
        yield running


@pytest.fixture
def sandbox(served: RunPodSandbox) -> RunPodSandbox:
    served.reset()
    return served


@pytest.fixture
def runpod(sandbox: RunPodSandbox, index: HybridIndex) -> RunPodProvider:
    return provider(sandbox, index)


def provider(sandbox: RunPodSandbox, index: HybridIndex | None, **how: Any) -> RunPodProvider:
    given = {
        "credentials": Credentials(sandbox.key), "runtime": RUNTIME, "realm": Realm.SANDBOX, "token": str,
        "endpoint": sandbox.url, "call_s": 20.0, "poll_s": 0.05, "live_idle_s": 3600, "wheel": wheel,
        "blobs": lambda ident: index.folder if index is not None and ident == index.id else None,
    }  # fmt: skip
    return RunPodProvider(**given | how)


def search(index: HybridIndex, text: str = "passage number 7") -> Envelope:
    vector = np.ones((1, DIMENSION), np.float32) / np.sqrt(np.float32(DIMENSION))
    return Envelope("t", Spec(Stage.SEARCH).fields(), {**pack_texts([text]), "vectors": vector},
                    {"index": index.id, "k": 5})  # fmt: skip


async def gone(runpod: RunPodProvider, sandbox: RunPodSandbox) -> None:
    """Released, nothing runs, and the bill is what the sandbox charges."""
    lease = runpod.standing_lease()
    assert isinstance(await runpod.release(lease), Released)
    assert (sandbox.things(), sandbox.endpoints(), await runpod.leases()) == ([], [], ())
    machines = sandbox.app.account.machines.all()
    ident = lease.remote_id.removeprefix("endpoint/")
    billed = sum(m.invoice(0.0) for m in machines if m.words.get("endpoint") == ident)
    assert await runpod.bill(lease) == Cost(NanoUSD(billed), Basis.BILLED)


@looped
async def test_it_answers_as_here_and_what_is_large_travels_once(
    runpod: RunPodProvider, sandbox: RunPodSandbox, index: HybridIndex
) -> None:
    need = Need(Stage.SEARCH, Lane.LIVE, index=index.id)
    cold = await runpod.probe(need)
    assert isinstance(cold, Offer)
    assert cold.movable == {index.id}
    assert cold.cold_s > 0
    assert runpod.standing_lease().remote_id == ""  # asking makes nothing
    assert sandbox.endpoints() == []

    here = Worker()
    here.attach(index)
    for text in ("passage number 7", "forty"):
        answer = await runpod.call(runpod.standing_lease(), search(index, text))
        wanted = here.handle(search(index, text))
        assert set(answer.tensors) == set(wanted.tensors)
        assert all(np.array_equal(answer.tensors[n], wanted.tensors[n]) for n in wanted.tensors)
    told = answer.meta["runpod"]
    assert told["how"] == "stdlib"  # the vendor's own package: tests/conformance/test_vendor_runpod.py
    assert answer.meta["cold_s"] >= told["delay_ms"] / 1000
    assert answer.meta["compute_s"] <= told["execution_ms"] / 1000

    sent = [r.sent for r in sandbox.requests("RunSync")]
    # as it is; with the wheel; with wheel and index; then only what is asked
    assert len(sent) == 4
    assert sent[0] < 4_000
    assert sent[1] > len(wheel())
    assert sent[2] > sent[1]
    assert sent[3] < 4_000

    warm = await runpod.probe(need)
    assert isinstance(warm, Offer)
    assert index.id in warm.resident
    assert warm.cold_s == 0
    (listed,) = await runpod.leases()  # type: ignore[misc]
    assert isinstance(listed, Lease)
    assert listed.name == runpod.standing_lease().name
    await gone(runpod, sandbox)


@looped
async def test_another_process_finds_the_same_endpoint(
    runpod: RunPodProvider, sandbox: RunPodSandbox, index: HybridIndex
) -> None:
    await asyncio.gather(*(runpod.call(runpod.standing_lease(), search(index)) for _ in range(2)))
    await provider(sandbox, index).call(runpod.standing_lease(), search(index))
    assert len(sandbox.endpoints()) == 1
    assert len(sandbox.requests("CreateEndpoint")) == 1
    await gone(runpod, sandbox)


@looped
async def test_of_two_that_were_made_at_once_the_older_stays(
    runpod: RunPodProvider, sandbox: RunPodSandbox, index: HybridIndex
) -> None:
    other = provider(sandbox, index)
    await other._serverless.ensure()
    # ours does not see it before it has made its own
    sandbox.set_faults({"on": "ListEndpoints", "kind": "odd_body", "text": '{"endpoints": []}'})
    await runpod._serverless.ensure()
    assert runpod.standing_lease().remote_id == other.standing_lease().remote_id
    assert len(sandbox.endpoints()) == 1
    await gone_unused(runpod, sandbox)


@looped
async def test_a_lost_answer_to_its_making_leaves_one_endpoint(
    runpod: RunPodProvider, sandbox: RunPodSandbox, index: HybridIndex
) -> None:
    sandbox.set_faults({"on": "CreateEndpoint", "kind": "lost_answer"})
    with pytest.raises(Unreachable):
        await runpod.call(runpod.standing_lease(), search(index))
    await runpod.call(runpod.standing_lease(), search(index))
    assert len(sandbox.endpoints()) == 1
    await gone(runpod, sandbox)


@pytest.mark.parametrize(("fault", "made"), [
    ({"on": "JobDone", "kind": "out_of_memory"}, OutOfMemory),
    ({"on": "JobDone", "kind": "corrupted"}, BadOutput),
    ({"on": "JobDone", "kind": "missing"}, BadOutput),
    ({"on": "RunSync", "kind": "http", "status": 429, "seconds": 7}, RateLimited),
    ({"on": "RunSync", "kind": "http", "status": 502}, Unreachable),
    ({"on": "RunSync", "kind": "auth_revoked"}, Unauthorised),
    ({"on": "RunSync", "kind": "odd_body", "text": "{}"}, Unreachable),
    ({"on": "RunSync", "kind": "lost_answer"}, Unreachable),
])  # fmt: skip
@looped
async def test_a_fault_is_one_typed_error_and_the_next_call_answers(
    warm: tuple[RunPodProvider, RunPodSandbox], index: HybridIndex, fault: dict[str, Any],
    made: type[ProviderError],
) -> None:  # fmt: skip
    runpod, sandbox = warm
    sandbox.set_faults(fault)
    with pytest.raises(made) as caught:
        await runpod.call(runpod.standing_lease(), search(index))
    assert type(caught.value) is made
    assert sandbox.key not in str(caught.value)
    sandbox.set_faults()
    assert (await runpod.call(runpod.standing_lease(), search(index))).tensors


@pytest.fixture(scope="module")
def warm(served: RunPodSandbox, index: HybridIndex) -> Iterator[tuple[RunPodProvider, RunPodSandbox]]:
    """An endpoint of its own that has answered once."""
    with RunPodSandbox(time_scale=1000) as sandbox:
        runpod = provider(sandbox, index)
        asyncio.run(_once(runpod, index))
        yield runpod, sandbox


async def _once(runpod: RunPodProvider, index: HybridIndex) -> None:
    await runpod.call(runpod.standing_lease(), search(index))


@looped
async def test_a_worker_taken_away_gives_its_job_back(
    warm: tuple[RunPodProvider, RunPodSandbox], index: HybridIndex
) -> None:
    runpod, sandbox = warm
    sandbox.set_faults({"on": "JobDone", "kind": "drop", "times": 0})  # it works, and cannot say so
    asked = asyncio.ensure_future(runpod.call(runpod.standing_lease(), search(index)))
    endpoint = next(iter(sandbox.app.queues.endpoints.values()))
    for _ in range(1500):
        if endpoint.working():
            break
        await asyncio.sleep(0.02)
    (worker,) = sandbox.things()
    await asyncio.to_thread(sandbox.preempt, worker.id)
    sandbox.set_faults()
    assert (await asked).tensors
    assert sandbox.things()[0].id != worker.id


@looped
async def test_a_call_that_is_given_up_cancels_its_job(
    warm: tuple[RunPodProvider, RunPodSandbox], index: HybridIndex
) -> None:
    runpod, sandbox = warm
    before = len(sandbox.requests("Cancel"))
    sandbox.set_faults({"on": "JobTake", "kind": "delay", "seconds": 30, "times": 0})
    asked = asyncio.ensure_future(runpod.call(runpod.standing_lease(), search(index)))
    endpoint = next(iter(sandbox.app.queues.endpoints.values()))
    # until RunPod has told the job's id, which takes a second, there is nothing to cancel it by
    while not any(j.state == "IN_QUEUE" for j in endpoint.jobs.values()) or not sandbox.requests("Status"):
        if asked.done():
            break
        await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.wait([asked])
    sandbox.set_faults()
    assert asked.cancelled() or asked.result().tensors  # a call for work may have been under way before
    if asked.cancelled():
        assert len(sandbox.requests("Cancel")) == before + 1
        assert {j.state for j in endpoint.jobs.values()} <= {"COMPLETED", "CANCELLED", "FAILED"}


@looped
async def test_workers_that_wait_for_a_gpu_are_no_capacity(
    runpod: RunPodProvider, sandbox: RunPodSandbox, index: HybridIndex
) -> None:
    runpod._serverless.stuck_s = 0.1
    sandbox.set_faults({"on": "RunSync", "kind": "cold_start"})
    with pytest.raises(NoCapacity, match="wait for a GPU"):
        await runpod.call(runpod.standing_lease(), search(index))
    assert len(sandbox.requests("Cancel")) == 1
    await gone(runpod, sandbox)


@looped
async def test_an_endpoint_deleted_by_somebody_is_made_again(
    runpod: RunPodProvider, sandbox: RunPodSandbox, index: HybridIndex
) -> None:
    await runpod._serverless.ensure()
    other = provider(sandbox, index)
    assert isinstance(await other.release(runpod.standing_lease()), Released)
    with pytest.raises(Unreachable, match="endpoint is gone"):
        await runpod.call(runpod.standing_lease(), search(index))
    await runpod._serverless.ensure()
    assert len(sandbox.endpoints()) == 1
    await gone_unused(runpod, sandbox)


async def gone_unused(runpod: RunPodProvider, sandbox: RunPodSandbox) -> None:
    """Released, and nothing was billed: no worker ever ran."""
    lease = runpod.standing_lease()
    assert isinstance(await runpod.release(lease), Released)
    assert (sandbox.things(), sandbox.endpoints()) == ([], [])
    assert await runpod.bill(lease) is None


@looped
async def test_an_index_that_is_not_here_is_said(
    warm: tuple[RunPodProvider, RunPodSandbox], index: HybridIndex
) -> None:
    runpod, _ = warm
    absent = search(index)
    absent = dataclasses.replace(absent, meta={**absent.meta, "index": "0" * 64})
    with pytest.raises(IndexError_, match="cannot be sent"):
        await runpod.call(runpod.standing_lease(), absent)


@looped
async def test_what_a_queue_does_not_take_is_refused_with_its_size(
    warm: tuple[RunPodProvider, RunPodSandbox], index: HybridIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    runpod, sandbox = warm
    before = len(sandbox.requests("RunSync"))
    large = Envelope("t", Spec(Stage.SEARCH).fields(), {"x": np.zeros(6_000_000, np.float32)})
    with pytest.raises(Rejected, match=r"32\.0 MB: RunPod's queues take 20 MB"):
        await runpod.call(runpod.standing_lease(), large)
    assert len(sandbox.requests("RunSync")) == before
    monkeypatch.setattr("accel.providers.runpod_market.RUNSYNC_BYTES", 100)
    found = await runpod.probe(Need(Stage.SEARCH, Lane.LIVE, index=index.id))
    assert isinstance(found, Unfit)
    assert "20 MB" in found.reason


@looped
async def test_a_bad_request_is_the_askers(
    warm: tuple[RunPodProvider, RunPodSandbox], index: HybridIndex
) -> None:
    runpod, _ = warm
    bad = dataclasses.replace(search(index), tensors=pack_texts(["no vectors"]))
    with pytest.raises(Rejected):
        await runpod.call(runpod.standing_lease(), bad)


@looped
async def test_a_worker_takes_no_other_wheel(
    sandbox: RunPodSandbox, index: HybridIndex, tmp_path: Path
) -> None:
    runpod = provider(sandbox, index)
    await runpod._serverless.ensure()
    runpod._serverless._wheel = b"PK another"
    with pytest.raises(ProviderError, match="ValueError"):
        await runpod.call(runpod.standing_lease(), search(index))
    await gone(runpod, sandbox)
