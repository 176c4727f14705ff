"""The board: one answer per provider, whatever a provider does, and the terms before anything is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from accel.core.errors import SettingsError, Unreachable
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.fleet import Board
from accel.fleet.board import FRESH_S, PROBE_S, STALE_S
from accel.fleet.roster import ADAPTERS, roster
from accel.keys import Access, KaggleKey
from accel.providers.base import Provider, RunsBatch
from accel.simulation import run_virtual
from accel.testing.mock_provider import MockProvider
from accel.worker.engine import Worker

T = TypeVar("T")
LIVE, BATCH = Need(Stage.EMBED, Lane.LIVE), Need(Stage.EMBED, Lane.BATCH)


def play(names: list[str], scene: Callable[[Board, list[MockProvider]], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        runtime = Runtime.virtual(1)
        providers = [MockProvider(name, runtime) for name in names]
        return await scene(Board(providers, runtime), providers)

    return run_virtual(main())


def test_all_are_asked_at_the_same_time_and_one_that_hangs_is_told_as_such() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        providers[0].fail("probe", Unreachable("x", provider="a"), delay_s=1e6)
        providers[1].fail("probe", Unreachable("x", provider="b"), delay_s=3.0)
        hung, broken, fine = await board.offers(LIVE)
        assert isinstance(hung, Unfit)
        assert "no answer within 10 s" in hung.reason
        assert isinstance(broken, Unfit)
        assert isinstance(fine, Offer)
        assert asyncio.get_running_loop().time() == pytest.approx(PROBE_S)

    play(["a", "b", "c"], scene)


def test_a_probe_that_breaks_its_promise_takes_nobody_along() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        async def broken(need: Need) -> Offer | Unfit:
            raise ZeroDivisionError("secret in here")

        providers[0].probe = broken  # type: ignore[method-assign]
        first, second = await board.offers(LIVE)
        assert isinstance(first, Unfit)
        assert "ZeroDivisionError" in first.reason
        assert "secret" not in first.reason
        assert isinstance(second, Offer)

    play(["a", "b"], scene)


def test_answers_are_kept_for_a_while_but_this_machine_is_asked_each_time() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        async def asked() -> list[int]:
            await board.offers(LIVE)
            return [p.calls["probe"] for p in providers]

        assert await asked() == [1, 1]
        await asyncio.sleep(FRESH_S * 0.9)
        assert await asked() == [1, 2]
        assert await asked() == [1, 3]
        await asyncio.sleep(FRESH_S * 0.2)
        await asked()
        await asyncio.sleep(0.1)
        assert await asked() == [2, 5]
        board.forget()
        assert await asked() == [3, 6]

    play(["cloud", "local"], scene)


def test_a_stale_answer_serves_live_tasks_while_one_probe_brings_a_new_one() -> None:
    """A control plane that hangs holds up nobody, and is asked once, not once per request."""

    async def scene(board: Board, providers: list[MockProvider]) -> None:
        clock = asyncio.get_running_loop().time
        (first,) = await board.offers(LIVE)
        await asyncio.sleep(FRESH_S * 1.1)
        providers[0].fail("probe", Unreachable("x", provider="a"), delay_s=8.0)
        began = clock()
        for _ in range(20):
            assert await board.offers(LIVE) == (first,)
        assert clock() == began
        await asyncio.sleep(8.1)
        assert providers[0].calls["probe"] == 2
        (now,) = await board.offers(LIVE)
        assert isinstance(now, Unfit)
        assert clock() == began + 8.1

    play(["a"], scene)


def test_a_stale_answer_does_not_serve_batch_tasks_nor_for_ever() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        for need, s in ((BATCH, FRESH_S), (LIVE, STALE_S)):
            await board.offers(need)
            await asyncio.sleep(s * 1.1)
            providers[0].fail("probe", Unreachable("x", provider="a"))
            (now,) = await board.offers(need)
            assert isinstance(now, Unfit)

    play(["a"], scene)


def test_the_caller_waits_no_longer_than_it_can_and_the_answer_is_kept_when_it_comes() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        clock = asyncio.get_running_loop().time
        providers[0].fail("probe", Unreachable("x", provider="a"), delay_s=3.0)
        began = clock()
        silent, fine = await board.offers(LIVE, patience_s=0.5)
        assert clock() == began + 0.5
        assert isinstance(silent, Unfit)
        assert "no answer within 0.5 s" in silent.reason
        assert isinstance(fine, Offer)
        await asyncio.sleep(3.0)
        (told, _) = await board.offers(LIVE, patience_s=0.5)
        assert isinstance(told, Unfit)
        assert "no answer" not in told.reason
        assert providers[0].calls["probe"] == 1

    play(["a", "b"], scene)


def test_a_doubted_provider_is_asked_again_at_once() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        await board.offers(LIVE)
        board.doubt("b")
        await board.offers(LIVE)
        await asyncio.sleep(0.01)
        assert [p.calls["probe"] for p in providers] == [1, 2]

    play(["a", "b"], scene)


def test_what_the_terms_forbid_is_not_even_asked() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        (refused,) = await board.offers(LIVE)
        assert isinstance(refused, Unfit)
        assert "terms" in refused.reason.lower()
        assert providers[0].calls["probe"] == 0
        (offer,) = await board.offers(BATCH)
        assert isinstance(offer, Offer)

    play(["kaggle"], scene)


def test_only_those_that_the_person_allows_are_asked() -> None:
    async def scene(board: Board, providers: list[MockProvider]) -> None:
        need = Need(Stage.EMBED, Lane.LIVE, only=frozenset({"b"}))
        assert [a.provider for a in await board.offers(need)] == ["b"]
        assert providers[0].calls["probe"] == 0

    play(["a", "b"], scene)


def test_a_realm_holds_only_its_own_providers(tmp_path: Path) -> None:
    runtime = Runtime.production()
    keyless = {name: Access() for name in ADAPTERS}
    made = roster(Realm.REAL, Worker(), tmp_path, runtime, access=keyless)
    assert [(p.name, p.realm) for p in made] == [(n, Realm.REAL) for n in ("local", *ADAPTERS)]
    reached = {"kaggle": Access(KaggleKey(username="u"), "http://127.0.0.1:9")}
    sandboxed = roster(Realm.SANDBOX, Worker(), tmp_path, runtime, access=reached)
    assert [(p.name, p.realm) for p in sandboxed] == [("local", Realm.SANDBOX), ("kaggle", Realm.SANDBOX)]
    assert all(isinstance(p, Provider) and isinstance(p, RunsBatch) for p in made)
    with pytest.raises(SettingsError, match="sandbox"):
        roster(Realm.REAL, Worker(), tmp_path, runtime, access=reached)
    with pytest.raises(SettingsError, match="sandbox"):
        roster(Realm.SANDBOX, Worker(), tmp_path, runtime, access=keyless)
