"""Who takes part: what is free by itself, what is paid where it is worth it, and whom the person names."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from precompute.farend import SPEC, TEXTS, World, play

from accel.core.errors import TermsError, UsageError
from accel.core.money import Rate, from_dollars
from accel.precompute import cut, plan
from accel.precompute.shards import task_of

FREE = {"quota_s": 72_000.0}
PAID = {"rate": Rate(from_dollars("0.36"), date(2026, 11, 23), "test")}
Scene = Callable[[World], Coroutine[Any, Any, None]]


def names(found: Any) -> set[str]:
    return {p.name for p in found.places}


def test_by_itself_everything_free_takes_part_and_what_is_paid_is_named_with_its_price(
    tmp_path: Path,
) -> None:
    async def scene(world: World) -> None:
        found = await world.plan(world.engine())
        assert names(found) == {"local", "kaggle"}
        (out,) = found.left_out
        assert out.provider == "vast" and "$" in out.reason and "--to" in out.reason
        (kaggle,) = [p for p in found.places if p.name == "kaggle"]
        assert (kaggle.sessions, kaggle.keep_s) == (2, 10_800.0)  # a tenth of the week's 30 hours
        assert kaggle.why == "free: 20.0 GPU hours left, 3.0 of them are kept"
        assert names(await world.plan(world.engine(), named=("vast", "kaggle"))) == {"vast", "kaggle"}

    play(tmp_path, scene, local={}, kaggle=FREE, vast=PAID)


def test_what_is_paid_takes_part_where_the_router_scores_it_better_than_this_machine(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.plan(world.engine())
        assert names(found) == {"local", "vast"}

    play(tmp_path, scene, local={"wait_s": 7200.0}, vast=PAID)


def test_the_hours_to_keep_can_be_said(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        found = await world.plan(world.engine(), keep_s=3600.0)
        assert {p.name: p.keep_s for p in found.places} == {"kaggle": 3600.0, "local": 0.0}

    play(tmp_path, scene, local={}, kaggle=FREE)


def test_a_name_that_is_not_there_or_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        with pytest.raises(UsageError, match=r"no provider 'nobody'.*kaggle, local"):
            await world.plan(world.engine(), named=("nobody",))
        with pytest.raises(UsageError, match="quota is used up"):
            await world.plan(world.engine(), named=("kaggle",))
        assert names(await world.plan(world.engine())) == {"local"}

    play(tmp_path, scene, local={}, kaggle={"quota_s": 0.0})


def test_private_texts_go_to_kaggle_only_with_consent(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        (shard, *_), engine = cut(SPEC, TEXTS), world.engine()
        task = task_of(shard, SPEC, TEXTS[: shard.count], "plan", only=frozenset(), private=True)
        with pytest.raises(TermsError, match="private data"):
            await plan(engine, task, named=("kaggle",))
        found = await plan(engine, task)
        assert names(found) == {"local"}
        assert "private data" in found.left_out[0].reason

    play(tmp_path, scene, local={}, kaggle=FREE)
