"""One call is one request to a far end, and nothing that comes back is trusted; with real machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from machines import TOKEN, Box, looped, machine, wheel

from accel.core.errors import NoCapacity, Rejected, Unauthorised, Unreachable
from accel.providers.base import JobState, Progress
from accel.providers.far_end import FarEnd
from accel.stages.embed import default_spec
from accel.wire import Envelope, pack_texts
from accel.worker.artefacts import read_result
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

TEXTS = ["a first text", "", "the third"]


def far_end(box: Box, token: str = TOKEN) -> FarEnd:
    return FarEnd(box.url, token, provider="rented")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A machine that is up, for tests that leave it as they found it."""
    with machine(tmp_path_factory.mktemp("machine")) as box:

        async def wait() -> None:
            async with far_end(box) as far:
                await far.come_up(wheel, 60, 0.1)

        asyncio.run(wait())
        yield box


async def until(far: FarEnd, state: str) -> None:
    """Wait until its health says ``state``."""
    while True:
        with contextlib.suppress(Unreachable):
            if (await far.health()).state == state:
                return
        await asyncio.sleep(0.05)


async def ended(far: FarEnd) -> Progress:
    """How its job ended."""
    while True:
        progress = await far.poll_job()
        if progress.state.terminal:
            return progress
        await asyncio.sleep(0.1)


def request() -> Envelope:
    return Envelope("t", default_spec().fields(), pack_texts(TEXTS))


@looped
async def test_a_machine_comes_up_with_its_wheel_and_embeds_as_here(tmp_path: Path) -> None:
    with machine(tmp_path / "m") as box:
        async with far_end(box) as far:
            assert not await far.ready()
            health = await far.come_up(wheel, 60, 0.1)
            assert (health.state, health.device) == ("ready", "cpu")
            await far.deliver(wheel())  # once more: nothing happens
            answer = await far.call(request())
            here = Worker().handle(request())
            assert answer.task_id == "t"
            assert np.array_equal(answer.tensors["vectors"], here.tensors["vectors"])
            assert default_spec().revision in (await far.health()).resident


@looped
async def test_a_job_runs_there_and_comes_home_whole(up: Box, tmp_path: Path) -> None:
    spec = default_spec()
    job = {"task_id": "t", "kind": "embed_benchmark", "spec": spec.fields(), "batch_sizes": [1],
           "repetitions": 1, "lifetime_s": 200}  # fmt: skip
    bundle = Bundle({"schema": 1, **job}, wheel(), request().to_bytes())
    bundle.write(tmp_path / "b")
    async with far_end(up) as far:
        await far.start_job(tmp_path / "b")
        await far.start_job(tmp_path / "b")  # safe to repeat
        progress = await ended(far)
        assert progress.state is JobState.DONE, progress
        fetched = await far.fetch_job(tmp_path / "home")
        found = read_result(tmp_path / "home", task_id="t", spec=spec.fields(), provider="rented")
        assert found.output.tensors["vectors"].shape == (3, spec.dimension)
        assert "model ready" in fetched.log
        assert await far.stop_job()


@looped
async def test_without_the_token_nothing_is_told(up: Box) -> None:
    async with far_end(up, "another-token-0123456789") as far:
        for ask in (far.health(), far.call(request()), far.poll_job(), far.deliver(wheel())):
            with pytest.raises(Unauthorised, match="token of this lease"):
                await ask


@looped
async def test_nobody_there_is_not_ready_and_in_time_no_capacity(tmp_path: Path) -> None:
    with machine(tmp_path / "m") as box:
        pass
    async with far_end(box) as far:
        assert not await far.ready()
        with pytest.raises(Unreachable):
            await far.health()
        with pytest.raises(NoCapacity, match="nobody answered"):
            await far.come_up(wheel, 0.2, 0.1)


@looped
async def test_another_wheel_is_not_taken(tmp_path: Path) -> None:
    with machine(tmp_path / "m") as box:
        async with far_end(box) as far:
            await until(far, "waiting")
            with pytest.raises(Rejected, match="not the wheel"):
                await far.deliver(b"PK another")
            assert (await far.health()).state == "waiting"
            await far.come_up(wheel, 60, 0.1)
