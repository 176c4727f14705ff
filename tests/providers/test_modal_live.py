"""Modal's live lane: what stands by is deployed once, an index travels once, errors come home as words."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal_cases
import numpy as np
import pytest

pytest.importorskip("modal", reason="Modal's SDK is not installed (pip install 'accel[modal]')")

from accel.core.errors import IndexError_, OutOfMemory, Preempted, QueryError, TimedOut, Unreachable
from accel.core.lease import Released
from accel.core.offer import Offer, Unfit
from accel.core.task import Lane, Need, Stage
from accel.providers.base import Provider, RunsBatch, StandsBy, TellsBill
from accel.sandbox.modal import ModalSandbox
from accel.wire import Envelope

INDEX = "ab" * 32
SIZE = 3_000_000  # above what Modal sends inline


@pytest.fixture(scope="module")
def served() -> Iterator[ModalSandbox]:
    with ModalSandbox(time_scale=20) as running:  # an idle container waits for seconds: calls find it warm
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("index")
    (made / "meta.json").write_text(json.dumps({"id": INDEX}))
    (made / "vectors.bin").write_bytes(os.urandom(SIZE))
    return made


@pytest.fixture(scope="module")
def shared(served: ModalSandbox, folder: Path) -> Iterator[Any]:
    served.set_cold(0.1)
    made = modal_cases.provider(
        served, most=2, idle_s=600, live_s=60, blobs=lambda h: folder if h == INDEX else None
    )
    yield made
    asyncio.run(made.aclose())


@pytest.fixture
def adapter(served: ModalSandbox, shared: Any) -> Any:
    served.set_faults()
    return shared


def request(n: int = 0, **meta: Any) -> Envelope:
    return Envelope(f"t{n}", {"stage": "embed"}, {"x": np.arange(3)}, meta)


def call(adapter: Any, *requests: Envelope) -> list[Envelope]:
    async def scenario() -> list[Envelope]:
        lease = adapter.standing_lease()
        if len(requests) == 1:
            return [await adapter.call(lease, requests[0])]
        found: list[Envelope] = await adapter.call_many(lease, requests)
        return found

    return asyncio.run(scenario())


def test_it_is_what_its_protocols_say(adapter: Any) -> None:
    for protocol in (Provider, RunsBatch, StandsBy, TellsBill):
        assert isinstance(adapter, protocol)


def test_it_is_deployed_with_the_first_call_and_warm_with_the_second(
    adapter: Any, served: ModalSandbox
) -> None:
    first = call(adapter, request())[0]
    assert first.task_id == "t0"
    assert first.meta["cold_s"] > 0, "the container's start is told"
    deployed = len(served.requests("AppPublish"))
    before = len(served.requests())
    second = call(adapter, request(1))[0]
    assert second.meta["cold_s"] == 0
    assert [r.call for r in served.requests()[before:]] == ["FunctionMap", "FunctionGetOutputs"]
    assert len(served.requests("AppPublish")) == deployed <= 1
    assert (first.tensors["pid"] == second.tensors["pid"]).all()


def test_another_process_finds_it_deployed(adapter: Any, served: ModalSandbox) -> None:
    call(adapter, request())
    deployed = len(served.requests("AppPublish"))
    other = modal_cases.provider(served, most=2, idle_s=600, live_s=60)
    assert other.standing_lease().name == adapter.standing_lease().name
    call(other, request())
    assert len(served.requests("AppPublish")) == deployed
    asyncio.run(other.aclose())


def test_another_bound_or_wheel_is_another_app(served: ModalSandbox, adapter: Any) -> None:
    names = {adapter.standing_lease().name}
    others = ({"most": 3}, {"idle_s": 5}, {"live_gpu": "L4"}, {"wheel": lambda: b"other"}, {"needs": ()})
    for options in others:
        given = {"most": 2, "idle_s": 600, "live_s": 60} | options
        names.add(modal_cases.provider(served, **given).standing_lease().name)
    assert len(names) == 6


def test_the_bounds_are_what_was_asked_for(adapter: Any, served: ModalSandbox) -> None:
    call(adapter, request())
    function = next(f for f in served.app.state.functions.values() if f.tag == "live")
    settings = function.settings
    assert (settings.min_containers, settings.max_containers, settings.scaledown_window) == (0, 2, 600)
    assert function.definition.timeout_secs == 60
    assert function.definition.retry_policy.retries == 0
    assert function.definition.definition_type == 2, "named by module, not pickled"
    assert not function.definition.function_serialized


def test_an_index_travels_once(adapter: Any, served: ModalSandbox, folder: Path) -> None:
    before = len(served.requests())
    (first,) = call(adapter, request(index=INDEX))
    assert first.meta["resident"] == [INDEX]
    assert sum(r.sent for r in served.requests()[before:]) > SIZE
    before = len(served.requests())
    call(adapter, request(index=INDEX))
    assert sum(r.sent for r in served.requests()[before:]) < 3000
    # a process that has not sent it asks by its hash, and sends nothing
    other = modal_cases.provider(served, most=2, idle_s=600, live_s=60, blobs=lambda _: folder)
    before = len(served.requests())
    call(other, request(index=INDEX))
    assert sum(r.sent for r in served.requests()[before:]) < 5000
    asyncio.run(other.aclose())


def test_an_offer_says_whether_the_index_is_there(adapter: Any) -> None:
    async def scenario() -> None:
        known = await adapter.probe(Need(Stage.SEARCH, Lane.LIVE, index=INDEX))
        assert isinstance(known, Offer)
        assert INDEX in known.resident | known.movable
        assert isinstance(await adapter.probe(Need(Stage.SEARCH, Lane.LIVE, index="cd" * 32)), Unfit)
        with pytest.raises(IndexError_):
            await adapter.call(adapter.standing_lease(), request(index="cd" * 32))

    asyncio.run(scenario())


def test_many_are_mapped_over_the_containers_and_come_back_in_order(adapter: Any) -> None:
    answers = call(adapter, *(request(n, sleep=0.2) for n in range(8)))
    assert [a.task_id for a in answers] == [f"t{n}" for n in range(8)]
    assert 1 <= len({int(a.tensors["pid"][0]) for a in answers}) <= 2


def test_the_far_ends_errors_are_ours_and_are_not_pickled(adapter: Any) -> None:
    with pytest.raises(QueryError, match="told to fail"):
        call(adapter, request(fail="QueryError"))
    with pytest.raises(OutOfMemory):
        call(adapter, request(die=True))


@pytest.mark.parametrize("rule", [
    {"kind": "http", "status": 503}, {"kind": "http", "status": 429, "seconds": 3600}, {"kind": "drop"},
    {"kind": "lost_answer"},
])  # fmt: skip
@pytest.mark.parametrize("rpc", ["FunctionMap", "FunctionGetOutputs"])
def test_a_failed_call_is_sent_once(
    adapter: Any, served: ModalSandbox, rule: dict[str, Any], rpc: str
) -> None:
    call(adapter, request())
    before = len(served.requests(rpc))
    served.set_faults({"on": rpc, "times": 0, **rule})
    with pytest.raises(Exception, match="modal"):
        call(adapter, request())
    assert len(served.requests(rpc)) - before == 1


def test_a_container_that_is_taken_away_in_a_call_is_preempted(adapter: Any, served: ModalSandbox) -> None:
    async def scenario() -> None:
        lease = adapter.standing_lease()
        running = asyncio.ensure_future(adapter.call(lease, request(sleep=30)))
        while not any(c.running for c in served.app.containers.live()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.to_thread(lambda: served.preempt(lost=True))
        with pytest.raises(Preempted):
            await running

    asyncio.run(scenario())


def test_a_cold_start_that_never_ends_is_our_deadlines(served: ModalSandbox) -> None:
    adapter = modal_cases.provider(served, most=1, idle_s=2, live_s=1.0)
    served.set_cold(None)
    try:
        with pytest.raises((Unreachable, TimedOut)):
            call(adapter, request())
        leases = asyncio.run(adapter.leases())
        mine = [x for x in leases if x.name == adapter.standing_lease().name]
        assert isinstance(asyncio.run(adapter.release(mine[0])), Released)
    finally:
        served.set_cold(0.1)
        asyncio.run(adapter.aclose())


def test_what_stands_by_is_listed_and_its_release_leaves_nothing(adapter: Any, served: ModalSandbox) -> None:
    """Last in this file: it takes the function that the others share."""
    call(adapter, request(index=INDEX))

    async def scenario() -> None:
        for lease in await adapter.leases():
            assert lease.name == adapter.standing_lease().name
            assert isinstance(await adapter.release(lease), Released)
        assert await adapter.leases() == ()
        assert isinstance(await adapter.release(adapter.standing_lease()), Released)

    asyncio.run(scenario())
    assert served.things() == []
    assert served.app.state.volumes == {}
    assert call(adapter, request())[0].meta["cold_s"] > 0, "and the next call deploys it again"
