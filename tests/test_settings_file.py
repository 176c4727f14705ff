"""A change to the settings file changes one value; comments stay, and only the owner can read it."""

from __future__ import annotations

import os
import stat
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.config import load_settings, settings_file
from accel.core.errors import SettingsError
from accel.keys import kaggle_key
from accel.settings_file import change, changed

TEXT = """\
# mine
providers = ["kaggle", "local"]  # in this order

[budget]
month = 10

[keys]  # secret
RUNPOD_API_KEY = "old"

[targets]
simple_s = 2.0
"""


def test_one_value_changes_and_every_comment_stays() -> None:
    made = changed(TEXT, "keys", "RUNPOD_API_KEY", "new")
    assert made == TEXT.replace('"old"', '"new"')
    made = changed(TEXT, "keys", "VAST_API_KEY", "v")
    assert made is not None and made.replace('VAST_API_KEY = "v"\n', "") == TEXT
    made = changed(TEXT, "", "accepted_terms", ["kaggle/private data"])
    assert made is not None and tomllib.loads(made)["accepted_terms"] == ["kaggle/private data"]
    assert "# mine" in made and "# in this order" in made
    assert changed("", "budget", "month", 5.0) == "[budget]\nmonth = 5.0\n"


@pytest.mark.parametrize("text", ['keys = {RUNPOD_API_KEY = "x"}\n', 'keys.RUNPOD_API_KEY = "x"\n', "[keys\n",
                                  '[keys]\n"RUNPOD_API_KEY" = "x"\n', "keys = 3\n"])  # fmt: skip
def test_a_form_that_it_does_not_know_is_left_alone(text: str) -> None:
    assert changed(text, "keys", "RUNPOD_API_KEY", "new") is None
    settings_file().write_text(text)
    with pytest.raises(SettingsError, match="by hand") as refused:
        change("keys", "RUNPOD_API_KEY", "S3CRET")
    assert "S3CRET" not in str(refused.value) and settings_file().read_text() == text


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.text("abc\"\\#[]= '", max_size=9)))
def test_any_values_come_back_as_they_were_given(values: dict[str, str]) -> None:
    text = TEXT
    for name, value in values.items():
        made = changed(text, "keys", name, value)
        assert made is not None
        text = made
    found = tomllib.loads(text)
    assert found["keys"] == {"RUNPOD_API_KEY": "old", **values}
    assert {k: v for k, v in found.items() if k != "keys"} == {
        k: v for k, v in tomllib.loads(TEXT).items() if k != "keys"
    }


def test_the_file_is_its_owners_alone_whatever_it_was_before() -> None:
    path = settings_file()
    path.write_text("# others may read this\n")
    path.chmod(0o644)
    assert change("keys", "KAGGLE_API_TOKEN", "KGAT_abc") == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.glob(".settings*")) == []
    key = kaggle_key()
    assert key is not None and key.token.get_secret_value() == "KGAT_abc"
    change("budget", "month", 3.0)
    assert load_settings().budget.month == 3_000_000_000


def test_what_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL_SETTINGS", os.devnull + "/settings.toml")
    with pytest.raises(SettingsError, match="cannot be"):
        change("keys", "KAGGLE_API_TOKEN", "x")
