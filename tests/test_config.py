"""Settings: the environment before the file, exact money, and one clear line for what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel import config
from accel.config import Settings, load_settings
from accel.core.errors import SettingsError
from accel.core.money import NANO


def write(text: str, mode: int = 0o600) -> Path:
    path = config.settings_file()
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_a_file_there_are_defaults() -> None:
    assert load_settings() == Settings()
    assert Settings().providers == ()


def test_a_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    write('providers = ["kaggle", "local"]\nvalue_of_hour = 2.5\naccepted_terms = ["kaggle/private data"]\n')
    found = load_settings()
    assert (found.providers, found.value_of_hour) == (("kaggle", "local"), 2.5)
    assert found.accepted_terms == ("kaggle/private data",)
    monkeypatch.setenv("ACCEL_PROVIDERS", " local , kaggle,")
    monkeypatch.setenv("ACCEL_VALUE_OF_HOUR", "0")
    found = load_settings()
    assert (found.providers, found.value_of_hour) == (("local", "kaggle"), 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("providers = [", "not TOML"), ("colour = 1", "colour"), ("value_of_hour = 'much'", "value_of_hour"),
        ("value_of_hour = -1", "value_of_hour"), ("value_of_hour = nan", "value_of_hour"),
        ("value_of_hour = inf", "value_of_hour"), ("providers = 3", "providers"),
        ("[providers]\na = 1", "providers"), ('providers = ["runpd"]', "no provider 'runpd'"),
        ("[budget]\nmonth = -1", "budget.month"), ("[budget]\nday = nan", "budget.day"),
        ("[budget]\nday = true", "number of dollars"), ("[budget]\nweek = 'a lot'", "number of dollars"),
        ("[budget]\nmonth = 5e9", "is it in dollars"), ("[budget]\nmonth = 0.0000000001", "nine decimal"),
        ("[budget]\nmonth = '1e999999'", "budget.month"), ("[budget.runpd]\nday = 1", "no provider 'runpd'"),
        ("[budget.runpod]\nyear = 1", "year"), ("budget = 3", "budget"), ("[credits]\nmodal = -2", "credits"),
        ("[credits]\nmodel = 2", "no provider 'model'"), ("[priorities]\nmodal = 0", "priorities.modal"),
        ("[priorities]\nmodal = nan", "priorities.modal"), ("[targets]\nsimple_s = 0", "targets.simple_s"),
        ("[targets]\nsuccess = 95", "targets.success"), ("[alerts]\nat = [0.5, 2]", "alerts.at"),
        ('disabled = ["local"]', "this machine is the fallback"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line_that_names_the_setting(text: str, words: str) -> None:
    path = write(text)
    with pytest.raises(SettingsError, match=words) as caught:
        load_settings()
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def test_a_binary_file_and_a_folder_are_one_line() -> None:
    path = config.settings_file()
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()


def test_a_bad_environment_variable_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL_VALUE_OF_HOUR", "a lot")
    with pytest.raises(SettingsError, match="value_of_hour"):
        load_settings()


def test_settings_without_keys_may_be_read_by_anyone() -> None:
    write("value_of_hour = 3\n", 0o644)
    assert load_settings().value_of_hour == 3


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().value_of_hour = 2.0  # type: ignore[misc]


def test_budgets_are_exact_and_may_be_set_for_all_and_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        '[budget]\nday = 0.1\nmonth = 10\n[budget.runpod]\nweek = "2.000000001"\n'
        '[credits]\nmodal = 30\n[priorities]\nrunpod = 0.8\n'
    )
    found = load_settings()
    assert (found.budget.day, found.budget.week, found.budget.month) == (100_000_000, None, 10 * NANO)
    assert found.budget.providers["runpod"].week == 2_000_000_001
    assert found.credits == {"modal": 30 * NANO}
    assert found.priorities == {"runpod": 0.8}
    monkeypatch.setenv("ACCEL_BUDGET__MONTH", "12.5")
    monkeypatch.setenv("ACCEL_FALLBACK", "modal, local")
    found = load_settings()
    assert found.budget.month == 12_500_000_000
    assert found.budget.day == 100_000_000, "a variable of one field must not hide the file's others"
    assert found.fallback == ("modal", "local")


def test_without_settings_nothing_may_be_paid_for() -> None:
    found = Settings()
    assert (found.budget.day, found.budget.week, found.budget.month) == (None, None, None)
    assert (found.budget.providers, found.credits) == ({}, {})


def test_a_webhook_may_hold_a_secret_and_is_not_shown() -> None:
    write('[alerts]\nwebhook = "https://hooks.example.org/T0/B0/s3cret"\n')
    found = load_settings()
    assert "s3cret" in found.alerts.webhook.get_secret_value()
    assert "s3cret" not in repr(found) + str(found) + found.model_dump_json()


def test_a_variable_that_is_not_a_table_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL_CREDITS", "{modal")
    with pytest.raises(SettingsError, match="credits") as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 1
