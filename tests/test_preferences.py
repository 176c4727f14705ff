"""What the settings say reaches the next route: order, fallback, priorities, targets, budgets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from accel import config
from accel.config import load_settings
from accel.core.errors import UsageError
from accel.core.money import NANO
from accel.core.offer import Realm
from accel.core.task import Complexity, Lane, Need, Size, Spec, Stage, Task
from accel.gpu_accelerator import PLAY_MONEY, limits, open_accelerator, preference
from accel.ledger import Period

BATCH = Task("t", Lane.BATCH, Spec(Stage.EMBED), Size(8, 80), Need(Stage.EMBED, Lane.BATCH))


def write(text: str) -> None:
    path = config.settings_file()
    path.write_text(text)
    path.chmod(0o600)


def test_every_setting_of_routing_reaches_the_preference() -> None:
    write(
        'providers = ["kaggle"]\nfallback = ["modal", "local"]\nvalue_of_hour = 2\nvalue_of_deadline = 0.1\n'
        'accepted_terms = ["x"]\n[priorities]\nrunpod = 0.5\n[targets]\nsimple_s = 0.5\n'
    )
    found = preference(load_settings(), ["colab"])
    assert (found.asked, found.order, found.fallback) == (("colab",), ("kaggle",), ("modal", "local"))
    assert (found.value_of_hour, found.value_of_deadline) == (2.0, 0.1)
    assert dict(found.priorities) == {"runpod": 0.5}
    assert dict(found.target_s) == {Complexity.SIMPLE: 0.5, Complexity.COMPLEX: 3.0}
    assert found.accepted == ("x",)


def test_budgets_credits_and_alerts_become_limits() -> None:
    write('[budget]\nday = 1\n[budget.modal]\nmonth = 2\n[credits]\nmodal = 30\n[alerts]\nat = [0.9]\n')
    found = limits(load_settings(), Realm.REAL)
    assert dict(found.caps) == {("", Period.DAY): NANO, ("modal", Period.MONTH): 2 * NANO}
    assert (dict(found.credits), found.alert_at) == ({"modal": 30 * NANO}, (0.9,))
    assert limits(config.Settings(), Realm.REAL).caps == {}


def test_a_rehearsal_has_play_money_unless_a_budget_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits(config.Settings(), Realm.SANDBOX).caps == {("", Period.MONTH): PLAY_MONEY}
    monkeypatch.setenv("ACCEL_BUDGET__DAY", "1")
    assert set(limits(load_settings(), Realm.SANDBOX).caps) == {("", Period.DAY)}


def test_what_is_disabled_is_not_on_the_board_and_cannot_be_asked_for(tmp_path: Path) -> None:
    write('disabled = ["kaggle"]\n')

    async def scene() -> None:
        async with open_accelerator(Realm.REAL, home=tmp_path) as accelerator:
            assert set(accelerator.board.providers) == {"local", "runpod", "vast", "modal", "colab"}
        with pytest.raises(UsageError, match="disabled in your settings"):
            async with open_accelerator(Realm.REAL, home=tmp_path, asked=("kaggle",)):
                pass

    asyncio.run(scene())


def test_the_order_of_the_settings_is_the_next_routes() -> None:
    """Obeyed as soon as the file is written, and forgotten as soon as it is not."""

    async def first(home: Path) -> str:
        async with open_accelerator(Realm.REAL, home=home) as accelerator:
            _, route = await accelerator.preview(BATCH)
            return route.ranked[0].why

    write('providers = ["local"]\n')
    home = config.settings_file().parent / "home"
    assert "asked for first" in asyncio.run(first(home))
    write("")
    assert "only fit offer" in asyncio.run(first(home))


def test_contradictory_wishes_are_an_error(tmp_path: Path) -> None:
    async def scene() -> None:
        async with open_accelerator(Realm.REAL, home=tmp_path, asked=("local",)) as accelerator:
            need = Need(Stage.EMBED, Lane.BATCH, only=frozenset({"kaggle"}))
            with pytest.raises(UsageError, match="that cannot be met"):
                await accelerator.preview(Task("t", Lane.BATCH, Spec(Stage.EMBED), Size(1), need))

    asyncio.run(scene())
