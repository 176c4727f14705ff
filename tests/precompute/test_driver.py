"""Every shard is made once, whatever goes wrong, and the vectors are bit for bit those of one piece."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from precompute.farend import TEXTS, World, play, whole

from accel.core.errors import EveryAttemptFailed, UsageError
from accel.core.offer import Realm
from accel.ledger import JobStep, Ledger, jobs
from accel.precompute import SHARD, Precomputed

pytestmark = pytest.mark.usefixtures("tiny")
FREE = {"quota_s": 100_000.0}


def same(found: Precomputed) -> bool:
    return found.vectors.tobytes() == whole().tobytes()


@pytest.mark.parametrize("size", [1, 128, 200, 384, SHARD])
def test_any_shard_size_gives_the_bits_of_one_piece(tmp_path: Path, size: int) -> None:
    async def scene(world: World) -> None:
        found = await world.go(size)
        assert same(found)
        blocks = max(1, -(-size // 128))
        assert len(found.made) == world.runs == -(-6 // blocks)
        world.settled()

    play(tmp_path, scene, local={}, kaggle=FREE)


def test_all_places_work_at_once_and_kaggle_has_two_sessions_at_most(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.go()
        assert {m.where for m in found.made} == {"local", "kaggle", "other"}
        assert world.providers["kaggle"].at_once == 2 and world.providers["local"].at_once == 1
        assert same(found) and found.devices == ("a kaggle GPU", "a local GPU", "a other GPU")
        assert all(m.cosine is None or m.cosine > 0.9999 for m in found.made)
        assert [t.done for t in world.told] == sorted(t.done for t in world.told)
        assert world.told[-1].done == len(TEXTS) and world.told[-1].left_s == 0
        assert any(t.left_s and t.where.get("kaggle") == 2 for t in world.told)

    play(tmp_path, scene, local={}, kaggle=FREE, other={})


@pytest.mark.parametrize("how", ["error", "short", "cut", "other"])
def test_a_run_that_goes_wrong_is_made_at_the_next_place(tmp_path: Path, how: str) -> None:
    async def scene(world: World) -> None:
        found = await world.go()
        assert same(found)
        (bad,) = [m for m in found.made if len(m.attempts) > 1 or m.job_id.endswith("-1")]
        assert bad.where == "local" and bad.attempts[0].provider == "kaggle"
        assert world.runs == len(found.made) + 1
        world.settled()

    def spoil(number: int) -> str:
        return how if number == 1 else ""

    play(tmp_path, scene, local={}, kaggle={**FREE, "spoil": spoil})


def test_a_run_that_outlives_its_time_is_made_at_the_next_place(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.go(SHARD)
        assert same(found) and found.made[0].where == "local"
        assert [a.provider for a in found.made[0].attempts] == ["kaggle", "local"]
        world.settled()

    play(tmp_path, scene, kaggle={**FREE, "job_s": 10_000.0}, local={"job_s": 30.0, "wait_s": 1.0})


def test_a_place_that_always_fails_is_given_up_and_says_why(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.go()
        assert same(found) and {m.where for m in found.made} == {"local"}
        assert "boom" in found.left["kaggle"]
        assert len(world.providers["kaggle"].begun) <= 4  # three in a row, and one under way meanwhile

    play(tmp_path, scene, local={}, kaggle={**FREE, "spoil": lambda n: "error"})


def test_a_full_place_is_asked_again_and_no_shard_counts_as_failed(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.go()
        assert same(found) and found.left == {}
        assert world.providers["kaggle"].at_once == 1
        assert any("waits: " in t.line for t in world.told)
        world.settled()

    play(tmp_path, scene, kaggle={**FREE, "most": 1, "job_s": 20.0}, local={"job_s": 20.0})


def test_what_no_place_can_make_ends_with_every_attempt_and_keeps_the_rest(tmp_path: Path) -> None:
    spoiled = {1}

    async def scene(world: World) -> None:
        with pytest.raises(EveryAttemptFailed, match=r"5 of 6 shards are made and kept") as failed:
            await world.go(named=("kaggle",))
        assert {a.error for a in failed.value.attempts} == {"JobFailed"}
        assert len(failed.value.attempts) == 2
        before = world.runs
        spoiled.clear()  # somebody mended it
        found = await world.go(named=("kaggle",))
        assert same(found) and world.runs == before + 1
        assert sum(m.again for m in found.made) == 5
        world.settled()

    # the second job fails, and so does its second try, which comes when the queue is empty
    def spoil(number: int) -> str:
        return "error" if number in spoiled or (number == 6 and spoiled) else ""

    play(tmp_path, scene, kaggle={**FREE, "spoil": spoil, "most": 2})


def test_finished_shards_are_never_made_again_and_changed_ones_are(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        await world.go()
        assert world.runs == 6
        again = await world.go()
        assert world.runs == 6 and same(again) and all(m.again for m in again.made)
        changed = [*TEXTS[:300], "another text", *TEXTS[301:]]
        found = await world.go(texts=changed)
        assert world.runs == 7 and found.vectors.tobytes() == whole(changed).tobytes()

    play(tmp_path, scene, local={}, kaggle=FREE)


def test_lost_or_altered_results_are_made_again(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        first = await world.go()
        folder = jobs.get(world.ledger, first.made[2].job_id).folder
        (file,) = folder.glob("result-*/result.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
        found = await world.go()
        assert same(found) and world.runs == 7

    play(tmp_path, scene, local={}, kaggle=FREE)


@pytest.mark.parametrize("after_s", [0.5, 3.0, 4.0, 6.0])
def test_an_interrupt_keeps_what_runs_and_the_next_call_carries_it_on(tmp_path: Path, after_s: float) -> None:
    async def scene(world: World) -> None:
        first = asyncio.create_task(world.go())
        await asyncio.sleep(after_s)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        found = await world.go()
        assert same(found)
        assert world.runs == 6, "what was under way was begun once"
        world.settled()

    play(tmp_path, scene, local={}, kaggle=FREE)


def test_what_runs_at_a_place_that_is_not_named_now_is_carried_on_there(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        first = asyncio.create_task(world.go())
        await asyncio.sleep(2.0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        begun = set(world.providers["kaggle"].begun)
        assert len(begun) == 2
        found = await world.go(named=("local",))
        assert same(found) and {m.job_id for m in found.made if m.where == "kaggle"} == begun

    play(tmp_path, scene, local={}, kaggle=FREE)


def test_free_hours_are_kept_and_it_says_until_when(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        engine = world.engine()
        chosen = await world.plan(engine)
        (kaggle,) = [p for p in chosen.places if p.name == "kaggle"]
        assert kaggle.keep_s == 10_800 and "are kept" in kaggle.why
        found = await world.go()
        assert same(found)
        assert sum(m.where == "kaggle" for m in found.made) <= 2
        assert "GPU hours are left, of which 3.0 are kept" in found.left["kaggle"]

    play(tmp_path, scene, local={"job_s": 40.0}, kaggle={"quota_s": 10_900.0, "job_s": 40.0})


def test_with_nobody_else_the_pause_of_a_quota_is_one_line_and_the_work_is_kept(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        with pytest.raises(EveryAttemptFailed, match=r"kept.*goes on from there") as stopped:
            await world.go(named=("kaggle",))
        assert "GPU hours are left" in str(stopped.value)
        before = world.runs
        assert 0 < before < 6
        world.providers["kaggle"]._quota_s = 108_000.0  # a new week
        found = await world.go(named=("kaggle",))
        assert same(found) and world.runs == 6

    play(tmp_path, scene, kaggle={"quota_s": 10_900.0, "job_s": 40.0})


def test_two_calls_at_once_make_each_shard_once(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        a, b = await asyncio.gather(world.go(), world.go(), return_exceptions=True)
        for found in (a, b):
            if isinstance(found, BaseException):  # one may have met the other's submission
                assert isinstance(found, UsageError) and "submitted before" in str(found)
            else:
                assert same(found)
        assert any(isinstance(found, Precomputed) for found in (a, b))
        assert same(await world.go()) and world.runs == 6

    play(tmp_path, scene, local={}, kaggle=FREE)


def test_nothing_of_it_is_left_open_in_the_ledger(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        await world.go()

    play(tmp_path, scene, local={}, kaggle={**FREE, "spoil": lambda n: "cut" if n == 0 else ""})
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.SIMULATED)
    assert jobs.unfinished(ledger) == ()
    steps = [s for (s,) in ledger.rows("SELECT step FROM job")]
    assert steps.count(JobStep.DONE) == 6 and steps.count(JobStep.FAILED) == 1
    ledger.close()


def test_the_vectors_are_float32_rows_in_the_texts_order(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.go(256)
        assert found.vectors.dtype == np.float32 and found.vectors.shape == (len(TEXTS), 8)
        assert [m.shard.start for m in found.made] == sorted(m.shard.start for m in found.made)

    play(tmp_path, scene, local={}, kaggle=FREE)
