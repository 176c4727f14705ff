"""A task ends once: what is cached is not computed again, a wrong answer leads on, all is on record."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.cache import ExactCache
from accel.core.errors import EveryAttemptFailed, NoCapacity, QueryError, TermsError, UsageError
from accel.core.lease import Lease
from accel.core.money import NANO, NanoUSD
from accel.core.offer import CPU, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference, open_accelerator
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.simulation import run_virtual
from accel.simulation.world import Nature, SimulatedProvider, vectors_of
from accel.testing.mock_provider import MockProvider
from accel.wire import Envelope, pack_texts, unpack_texts

T = TypeVar("T")
SPEC = Spec(Stage.EMBED, model="m", dimension=4)
LIMITS = Limits({("", Period.MONTH): NanoUSD(100 * NANO)}, {})
Change = Callable[[Envelope], Envelope]


class Scripted(SimulatedProvider):
    """A simulated provider that notes the texts it was asked for, and may spoil its answers."""

    def __init__(self, name: str, runtime: Runtime, spoil: Change | None = None) -> None:
        super().__init__(Nature(name, CPU, "0", per_text_s=0.01, spread=0.0), runtime, 0)
        self.spoil = spoil
        self.error: Exception | None = None
        self.asked: list[list[str]] = []

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        self.asked.append(unpack_texts(request.tensors))
        if self.error:
            raise self.error
        answer = await super().call(lease, request)
        return self.spoil(answer) if self.spoil else answer


@dataclass
class World:
    """One accelerator on the virtual clock, with two providers: "cloud" is preferred, "local" follows."""

    engine: GPUAccelerator
    cloud: Scripted
    local: Scripted


def play(
    scene: Callable[[World], Coroutine[Any, Any, T]], *, spoil: Change | None = None, cached: bool = True,
    preference: Preference = Preference(order=("cloud",)),  # noqa: B008 - a frozen value
) -> T:  # fmt: skip
    async def main(folder: Path) -> T:
        runtime = Runtime.virtual(1)
        cloud, local = Scripted("cloud", runtime, spoil), Scripted("local", runtime)
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        cache = ExactCache(folder / "cache.sqlite3") if cached else None
        engine = GPUAccelerator(
            Board([cloud, local], runtime), ledger, Budgets(ledger, LIMITS), cache, runtime, folder,
            preference, Patience(),
        )  # fmt: skip
        try:
            return await scene(World(engine, cloud, local))
        finally:
            ledger.close()
            if cache:
                cache.close()

    with tempfile.TemporaryDirectory() as folder:
        return run_virtual(main(Path(folder)))


def embed(texts: Sequence[str], ident: str = "t", spec: Spec = SPEC) -> tuple[Task, Envelope]:
    need = Need(Stage.EMBED, Lane.LIVE)
    task = Task(ident, Lane.LIVE, spec, Size(len(texts), 10 * len(texts)), need, within_s=10.0)
    return task, Envelope(ident, spec.fields(), pack_texts(texts))


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=6), max_size=4))
def test_only_what_is_not_known_is_computed_and_every_row_is_in_its_place(batches: list[list[str]]) -> None:
    async def scene(world: World) -> None:
        known: set[str] = set()
        for number, texts in enumerate(batches):
            before = len(world.cloud.asked)
            result = await world.engine.run(*embed(texts, f"t{number}"))
            assert np.array_equal(result.output.tensors["vectors"], vectors_of(texts, 4))
            assert result.output.task_id == f"t{number}"
            missing = [t for t in texts if t not in known]
            assert world.cloud.asked[before:] == ([missing] if missing else [])
            assert (result.hits, result.items) == (len(texts) - len(missing), len(texts))
            assert result.where == ("cloud" if missing else "cache")
            assert bool(result.attempts) == bool(missing) == (result.route is not None)
            known |= set(texts)

    play(scene)


def test_another_spec_never_gets_anothers_vector() -> None:
    async def scene(world: World) -> None:
        await world.engine.run(*embed(["a"], "t1"))
        other = await world.engine.run(*embed(["a"], "t2", replace(SPEC, prompt="query: ")))
        assert other.hits == 0

    play(scene)


def with_tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda e: replace(e, tensors={**e.tensors, name: change(e.tensors[name])})


WRONG: dict[str, Change] = {
    "NaN": with_tensor("vectors", lambda v: np.where(v == v[0, 0], np.nan, v).astype(np.float32)),
    "infinity": with_tensor("vectors", lambda v: np.full_like(v, np.inf)),
    "minus infinity": with_tensor("vectors", lambda v: np.full_like(v, -np.inf)),
    "a row too few": with_tensor("vectors", lambda v: v[:-1]),
    "another dimension": with_tensor("vectors", lambda v: v[:, :-1]),
    "flat": with_tensor("vectors", lambda v: v.ravel()),
    "float64": with_tensor("vectors", lambda v: v.astype(np.float64)),
    "no vectors": lambda e: replace(e, tensors={}),
    "another task's": lambda e: replace(e, task_id="other"),
    "another Spec's": lambda e: replace(e, spec={**e.spec, "model": "n"}),
    "a timing that is none": lambda e: replace(e, meta={"cold_s": "soon"}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_leads_to_the_next_offer_and_is_not_cached(wrong: str) -> None:
    async def scene(world: World) -> None:
        result = await world.engine.run(*embed(["a", "b"]))
        assert [a.provider for a in result.attempts] == ["cloud", "local"]
        assert result.where == "local"
        assert np.array_equal(result.output.tensors["vectors"], vectors_of(["a", "b"], 4))
        again = await world.engine.run(*embed(["a", "b"], "again"))
        assert again.where == "cache"
        assert np.array_equal(again.output.tensors["vectors"], vectors_of(["a", "b"], 4))

    play(scene, spoil=WRONG[wrong])


@pytest.mark.parametrize("stage", [Stage.SEARCH, Stage.RERANK, Stage.ANSWER])
def test_the_other_stages_answers_are_checked_too(stage: Stage) -> None:
    """The simulated cloud answers everything with vectors, which is no answer to these."""

    async def scene(world: World) -> None:
        spec = Spec(stage, dimension=4)
        task = Task("t", Lane.LIVE, spec, Size(1), Need(stage, Lane.LIVE))
        tensors = pack_texts(["q"]) | {"ids": np.zeros((1, 3), np.int64)}
        with pytest.raises(EveryAttemptFailed) as caught:
            await world.engine.run(task, Envelope("t", spec.fields(), tensors, {"k": 3}))
        assert {a.error for a in caught.value.attempts} == {"BadOutput"}

    play(scene)


@pytest.mark.parametrize("score", [0.5, -np.inf, np.nan, np.inf])
def test_hits_may_be_padded_with_minus_infinity_and_hold_nothing_else_odd(score: float) -> None:
    def hits(answer: Envelope) -> Envelope:
        floats = {n: np.full((1, 3), score, np.float32) for n in ("scores", "dense", "lexical")}
        return replace(answer, tensors={"ids": np.zeros((1, 3), np.int64), **floats})

    async def scene(world: World) -> None:
        spec = Spec(Stage.SEARCH, dimension=4)
        task = Task("t", Lane.LIVE, spec, Size(1), Need(Stage.SEARCH, Lane.LIVE))
        request = Envelope("t", spec.fields(), pack_texts(["q"]), {"k": 3})
        world.local.error = NoCapacity("full", provider="local")
        if score in (0.5, -np.inf):
            assert (await world.engine.run(task, request)).where == "cloud"
        else:
            with pytest.raises(EveryAttemptFailed, match="NaN or infinity"):
                await world.engine.run(task, request)

    play(scene, spoil=hits)


def test_every_try_and_decision_is_on_record_and_replays() -> None:
    async def scene(world: World) -> None:
        world.cloud.error = NoCapacity("full", provider="cloud")
        result = await world.engine.run(*embed(["a"]), parent="q1")
        ledger = world.engine.ledger
        assert ledger.attempts("t") == result.attempts
        assert [a.error for a in result.attempts] == ["NoCapacity", ""]
        for ident in (result.decision_id, "t", "q1"):
            (decision,) = world.engine.explain(ident)
            assert decision.route == result.route
            assert world.engine.replay(decision)
        changed = replace(decision, inputs=decision.inputs.replace('["cloud"]', '["local"]'))
        assert not world.engine.replay(changed)

    play(scene)


def test_the_same_task_may_be_run_twice() -> None:
    async def scene(world: World) -> None:
        first = await world.engine.run(*embed(["a"]))
        second = await world.engine.run(*embed(["a"]))
        assert first.decision_id != second.decision_id
        assert len(world.engine.explain("t")) == 2

    play(scene, cached=False)


def test_a_mistake_of_the_caller_passes_through_once() -> None:
    async def scene(world: World) -> None:
        world.cloud.error = QueryError("no such thing")
        with pytest.raises(QueryError):
            await world.engine.run(*embed(["a"]))
        assert world.local.asked == []

    play(scene)


def test_a_provider_that_only_rents_cannot_be_called_live() -> None:
    async def main(folder: Path) -> None:
        runtime = Runtime.virtual(1)
        rents, local = MockProvider("rents", runtime), Scripted("local", runtime)
        ledger = Ledger(folder / "l.sqlite3", Realm.SIMULATED, runtime.now)
        engine = GPUAccelerator(
            Board([rents, local], runtime), ledger, Budgets(ledger, LIMITS), None, runtime, folder,
            Preference(order=("rents",)), Patience(),
        )  # fmt: skip
        result = await engine.run(*embed(["a"]))
        assert [(a.provider, a.error) for a in result.attempts] == [("rents", "ProviderError"), ("local", "")]
        assert rents.calls["create"] == 0

    with tempfile.TemporaryDirectory() as folder:
        run_virtual(main(Path(folder)))


def test_who_is_asked_for_by_name_must_exist_and_be_allowed(tmp_path: Path) -> None:
    async def unknown(world: World) -> None:
        with pytest.raises(UsageError, match="no provider 'colab9'"):
            await world.engine.run(*embed(["a"]))
        assert world.local.asked == []

    play(unknown, preference=Preference(asked=("colab9",)))

    async def forbidden() -> None:
        async with open_accelerator(asked=["kaggle"], home=tmp_path) as engine:
            with pytest.raises(TermsError, match="live serving") as caught:
                await engine.run(*embed(["a"]))
            assert caught.value.clause

    asyncio.run(forbidden())


def test_opening_makes_one_folder_per_realm_and_no_model_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_accelerator(home=tmp_path) as engine:
            assert engine.realm is Realm.REAL
            offers = await engine.offers(Need(Stage.EMBED, Lane.LIVE))
            assert [o.provider for o in offers] == ["local", "kaggle", "runpod", "vast", "modal", "colab"]

    asyncio.run(main())
    assert [p.name for p in tmp_path.iterdir()] == ["real"]


def test_a_live_request_ends_by_its_deadline() -> None:
    async def scene(world: World) -> None:
        for provider in (world.cloud, world.local):
            provider.nature = replace(provider.nature, hanging=1.0)
        with pytest.raises(EveryAttemptFailed, match="deadline"):
            await world.engine.run(*embed(["a"]))
        assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.1)

    play(scene)
