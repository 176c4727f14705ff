"""This machine: free, never refused; a job outlives its parent, is found again, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from accel.core.errors import JobFailed, ProviderError
from accel.core.lease import Intent, Lease, Released
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Numerics, Stage
from accel.providers.base import JobState, RunsBatch, StandsBy
from accel.providers.local import LOCK, PID, LocalProvider
from accel.testing.mock_provider import FREE, MOCK_GPU
from accel.worker.engine import Worker

OFFER = Offer("o", "local", Realm.REAL, MOCK_GPU, FREE, datetime(2026, 11, 23, tzinfo=UTC), "test")
DONE = "from pathlib import Path; Path('result.json').write_text('{}'); print('done', flush=True)"
SLEEP = "import time; print('sleeping', flush=True); time.sleep(600)"


def provider(folder: Path, script: str = DONE) -> LocalProvider:
    return LocalProvider(Realm.REAL, Worker(), folder / "jobs", Runtime.production(), lambda _: script)


def intent(folder: Path, name: str = "accel-x") -> Intent:
    return Intent("i", "t", OFFER, name, 60.0, OFFER.as_of, folder)


async def until(local: LocalProvider, lease: Lease, state: JobState, message: str = "") -> str:
    ends = time.monotonic() + 20.0
    while (progress := await local.poll(lease)).state is not state or message not in progress.message:
        assert time.monotonic() < ends, f"{progress} never became {state}"
        await asyncio.sleep(0.02)
    return progress.message


def pids_in(folder: Path) -> list[int]:
    """Processes that work in ``folder``, as the system sees them."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize("lane", Lane)
def test_there_is_always_an_offer_and_it_is_free(tmp_path: Path, lane: Lane) -> None:
    local = provider(tmp_path)
    offer = asyncio.run(local.probe(Need(Stage.EMBED, lane, Numerics.INT8, vram_bytes=1 << 50)))
    assert isinstance(offer, Offer)
    assert offer.rate.free
    assert lane in offer.lanes
    assert isinstance(local, RunsBatch)
    assert isinstance(local, StandsBy)


def test_a_job_runs_to_its_end_and_is_given_back(tmp_path: Path) -> None:
    async def main() -> None:
        local = provider(tmp_path)
        lease = await local.create(intent(tmp_path))
        assert (await local.poll(lease)).state is JobState.QUEUED
        await local.start(lease)
        await local.start(lease)  # a second start does nothing
        await until(local, lease, JobState.DONE)
        got = await local.fetch(lease, tmp_path / "out")
        assert got.files.keys() == {"result.json"}
        assert got.log.split() == ["done"]
        assert isinstance(await local.release(lease), Released)
        assert (await local.poll(lease)).state is JobState.ABSENT
        assert await local.find(intent(tmp_path)) is None
        assert isinstance(await local.release(lease), Released)  # again: still nothing runs

    asyncio.run(main())


def test_another_process_finds_the_job_again_and_can_stop_it(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = provider(tmp_path, SLEEP), provider(tmp_path, SLEEP)
        lease = await first.create(intent(tmp_path))
        await first.start(lease)
        assert await second.find(intent(tmp_path)) == lease
        assert await until(second, lease, JobState.RUNNING) in ("", "sleeping")
        assert [found.name for found in await second.leases()] == ["accel-x"]  # type: ignore[union-attr]
        await second.start(lease)
        assert len(pids_in(tmp_path / "jobs" / "accel-x")) == 1
        assert isinstance(await second.release(lease), Released)
        assert pids_in(tmp_path / "jobs" / "accel-x") == []
        assert await first.leases() == ()

    asyncio.run(main())


def test_the_job_outlives_the_process_that_began_it(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_local import SLEEP, intent, provider
folder = Path({str(tmp_path)!r})
async def main():
    local = provider(folder, SLEEP)
    await local.start(await local.create(intent(folder)))
asyncio.run(main())
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9

    async def main() -> None:
        local = provider(tmp_path)
        lease = await local.find(intent(tmp_path))
        assert lease is not None
        await until(local, lease, JobState.RUNNING)
        assert isinstance(await local.release(lease), Released)
        assert pids_in(tmp_path / "jobs" / "accel-x") == []

    asyncio.run(main())


def test_a_job_that_had_no_time_to_note_its_id_is_still_known_and_stopped(tmp_path: Path) -> None:
    """Killed between start and note, a parent leaves a lock that is held, and no id yet."""

    async def main() -> None:
        local = provider(tmp_path, SLEEP)
        lease = await local.create(intent(tmp_path))
        await local.start(lease)
        folder = tmp_path / "jobs" / "accel-x"
        await until(local, lease, JobState.RUNNING)
        await until(local, lease, JobState.RUNNING, message="sleeping")
        (folder / PID).rename(folder / "hidden")
        assert (await local.poll(lease)).state is JobState.RUNNING
        await local.start(lease)
        assert len(pids_in(folder)) == 1  # no second one was begun
        asyncio.get_running_loop().call_later(0.3, (folder / "hidden").rename, folder / PID)
        assert isinstance(await local.cancel(lease), Released)
        assert pids_in(folder) == []

    asyncio.run(main())


def test_a_process_id_that_was_used_again_is_not_killed(tmp_path: Path) -> None:
    """The lock is free, so whoever has that id now is not ours."""
    stranger = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        folder = tmp_path / "jobs" / "accel-x"
        folder.mkdir(parents=True)
        (folder / PID).write_text(str(stranger.pid))
        (folder / LOCK).touch()
        (folder / "job.py").write_text(DONE)

        async def main() -> None:
            local = provider(tmp_path)
            lease = await local.find(intent(tmp_path))
            assert lease is not None
            assert (await local.poll(lease)).state is JobState.FAILED
            assert isinstance(await local.release(lease), Released)

        asyncio.run(main())
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n", timeout=10)


def test_a_failed_job_says_its_last_line(tmp_path: Path) -> None:
    async def main() -> None:
        local = provider(tmp_path, "print('step 1', flush=True); raise SystemExit('no disk left')")
        lease = await local.create(intent(tmp_path))
        await local.start(lease)
        assert await until(local, lease, JobState.FAILED) == "no disk left"
        with pytest.raises(JobFailed) as caught:
            await local.fetch(lease, tmp_path / "out")
        assert caught.value.log_tail == "no disk left"
        await local.start(lease)  # it ran; it is not run again behind the ledger's back
        assert (await local.poll(lease)).state is JobState.FAILED

    asyncio.run(main())


def test_no_key_reaches_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "KAGGLE_KEY", "RUNPOD_API_KEY", "HF_TOKEN", "MODAL_TOKEN_SECRET", "MY_PASSWORD", "aws_credentials",
    ):  # fmt: skip
        monkeypatch.setenv(name, "sesame")
    script = "import os; print([k for k, v in os.environ.items() if v == 'sesame']);" + DONE

    async def main() -> str:
        local = provider(tmp_path, script)
        lease = await local.create(intent(tmp_path))
        await local.start(lease)
        await until(local, lease, JobState.DONE)
        log = (await local.fetch(lease, tmp_path / "out")).log
        await local.release(lease)
        return log

    assert asyncio.run(main()).splitlines()[0] == "[]"


def test_a_bare_machine_cannot_be_had_here(tmp_path: Path) -> None:
    bare = Intent("i", "t", OFFER, "accel-x", 60.0, OFFER.as_of, None)
    with pytest.raises(ProviderError, match="bundle"):
        asyncio.run(provider(tmp_path).create(bare))


def test_a_folder_that_cannot_be_written_is_a_provider_error(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(ProviderError, match="cannot be written"):
        asyncio.run(provider(tmp_path).create(intent(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == ["jobs"]
