"""Several providers at once: the vectors of one, in order; whoever fails leaves its slices to the others."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.cache import ExactCache
from accel.core.errors import EveryAttemptFailed, Preempted
from accel.core.lease import Lease
from accel.core.money import NANO, NanoUSD
from accel.core.offer import CPU, Realm
from accel.core.runtime import Runtime
from accel.core.task import Spec, Stage
from accel.fanout import embed_texts
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.simulation import run_virtual
from accel.simulation.world import Nature, SimulatedProvider, vectors_of
from accel.wire import Envelope

SPEC = Spec(Stage.EMBED, model="m", dimension=4)
THREE = ("a", "b", "c")


class Mortal(SimulatedProvider):
    """Answers ``lives`` calls, and then is taken away for ever."""

    lives = 1 << 30

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        if self.lives <= 0:
            raise Preempted("the machine was taken away", provider=self.name)
        self.lives -= 1
        return await super().call(lease, request)


def play(scene: Callable[[GPUAccelerator, dict[str, Mortal]], Coroutine[Any, Any, None]]) -> None:
    async def main(folder: Path) -> None:
        runtime = Runtime.virtual(1)
        speeds = {"a": 0.01, "b": 0.02, "c": 0.04, "local": 0.05}
        places = {
            name: Mortal(Nature(name, CPU, "0", per_text_s=s, spread=0.0), runtime, 0)
            for name, s in speeds.items()
        }
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        cache = ExactCache(folder / "cache.sqlite3")
        limits = Limits({("", Period.MONTH): NanoUSD(NANO)}, {})
        engine = GPUAccelerator(
            Board(list(places.values()), runtime), ledger, Budgets(ledger, limits), cache, runtime, folder,
            Preference(), Patience(),
        )  # fmt: skip
        try:
            await scene(engine, places)
        finally:
            await engine.close()
            ledger.close()
            cache.close()

    with tempfile.TemporaryDirectory() as folder:
        run_virtual(main(Path(folder)))


def texts_of(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


@settings(max_examples=15)
@given(st.integers(0, 60), st.integers(1, 20), st.dictionaries(st.sampled_from(THREE), st.integers(0, 2)))
def test_whoever_dies_when_the_vectors_are_those_of_one_provider(
    count: int, slice_: int, lives: dict[str, int]
) -> None:
    async def scene(engine: GPUAccelerator, places: dict[str, Mortal]) -> None:
        for name, left in lives.items():
            places[name].lives = left
        seen: list[tuple[int, int]] = []
        made = await embed_texts(
            engine, SPEC, texts_of(count), over=THREE, slice_=slice_, progress=lambda *d: seen.append(d)
        )
        assert np.array_equal(made.vectors, vectors_of(texts_of(count), 4))
        assert made.vectors.shape == (count, 4)
        assert [p.start for p in made.pieces] == list(range(0, count, slice_))
        assert set(made.left) <= set(lives)
        assert seen == sorted(seen)
        assert (seen[-1] if seen else (0, 0)) == (count, count)

    play(scene)


def test_they_work_at_the_same_time_and_the_fastest_does_most() -> None:
    async def scene(engine: GPUAccelerator, places: dict[str, Mortal]) -> None:
        made = await embed_texts(engine, SPEC, texts_of(280), over=THREE, slice_=10)
        by = {name: [p for p in made.pieces if p.where == name] for name in THREE}
        assert len(by["a"]) > len(by["b"]) > len(by["c"]) > 0
        latest, earliest = max(p[0].began for p in by.values()), min(p[0].ended for p in by.values())
        assert latest < earliest
        assert not places["local"].scene.evidence.calls

    play(scene)


def test_one_that_is_taken_away_in_the_middle_says_why_and_the_others_finish() -> None:
    async def scene(engine: GPUAccelerator, places: dict[str, Mortal]) -> None:
        places["b"].lives = 2
        made = await embed_texts(engine, SPEC, texts_of(200), over=THREE, slice_=10)
        assert "taken away" in made.left["b"]
        assert sum(p.where == "b" for p in made.pieces) == 2
        assert {p.where for p in made.pieces} == set(THREE)

    play(scene)


def test_when_all_are_gone_this_machine_does_the_rest_and_without_it_the_error_lists_every_try() -> None:
    async def scene(engine: GPUAccelerator, places: dict[str, Mortal]) -> None:
        for name in THREE:
            places[name].lives = 1
        made = await embed_texts(engine, SPEC, texts_of(60), over=THREE, slice_=10)
        assert {p.where for p in made.pieces} == {*THREE, "local"}
        places["local"].lives = 0
        with pytest.raises(EveryAttemptFailed, match="local Preempted"):
            await embed_texts(engine, SPEC, ["another"], over=THREE)

    play(scene)


def test_an_interrupt_keeps_what_was_embedded() -> None:
    async def scene(engine: GPUAccelerator, places: dict[str, Mortal]) -> None:
        running = asyncio.create_task(embed_texts(engine, SPEC, texts_of(200), over=THREE, slice_=10))
        await asyncio.sleep(0.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        made = await embed_texts(engine, SPEC, texts_of(200), slice_=10)
        assert any(p.where == "cache" for p in made.pieces)
        assert np.array_equal(made.vectors, vectors_of(texts_of(200), 4))

    play(scene)
