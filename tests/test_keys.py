"""Keys: every form that people have, one clear line for every other, and no secret anywhere."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel import config, keys
from accel.core.errors import SettingsError
from accel.keys import KaggleKey, kaggle_key, modal_key

SESAME = "KGAT_5e5a4e0123456789abcdef0123456789"
LEGACY = "0123456789abcdef0123456789abcdef"


def write(text: str, mode: int = 0o600) -> Path:
    path = config.settings_file()
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_keys_that_others_can_read_are_refused(mode: int) -> None:
    path = write(f'[keys]\nKAGGLE_API_TOKEN = "{SESAME}"\n', mode)
    with pytest.raises(SettingsError, match="chmod 600") as caught:
        kaggle_key()
    assert str(path) in str(caught.value)
    assert SESAME not in str(caught.value)
    path.chmod(0o600)
    found = kaggle_key()
    assert found is not None
    assert found.token.get_secret_value() == SESAME


def test_the_environments_key_wins_over_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[keys]\nRUNPOD_API_KEY = "from the file"\n')
    assert keys.key("RUNPOD_API_KEY") == "from the file"
    monkeypatch.setenv("RUNPOD_API_KEY", " from-outside\n")
    assert keys.key("RUNPOD_API_KEY") == "from-outside"
    assert keys.key("VAST_API_KEY") == ""


def read(**values: str) -> KaggleKey | None:
    return kaggle_key(lambda name: values.get(name, ""))


def plain(found: KaggleKey | None) -> tuple[str, str, str]:
    assert found is not None
    return found.username, found.key.get_secret_value(), found.token.get_secret_value()


def test_every_form_of_a_kaggle_key(tmp_path: Path) -> None:
    both = json.dumps({"username": "ada", "key": LEGACY}, indent=1)
    file = tmp_path / "access_token"
    file.write_text(SESAME + "\n")
    assert plain(read(KAGGLE_API_TOKEN=SESAME)) == ("", "", SESAME)
    assert plain(read(KAGGLE_API_TOKEN=str(file))) == ("", "", SESAME)
    assert plain(read(KAGGLE_USERNAME="ada", KAGGLE_KEY=LEGACY)) == ("ada", LEGACY, "")
    assert plain(read(KAGGLE_KEY=both)) == ("ada", LEGACY, "")
    assert plain(read(KAGGLE_KEY=SESAME)) == ("", "", SESAME)
    # a token beside an old pair: the token
    assert plain(read(KAGGLE_API_TOKEN=SESAME, KAGGLE_USERNAME="ada", KAGGLE_KEY=LEGACY)) == ("", "", SESAME)
    assert read() is None
    assert read(KAGGLE_USERNAME="ada") is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"KAGGLE_KEY": '{"username": "ada"}'}, "no username and key"),
        ({"KAGGLE_KEY": '{"username": "ada", "key"'}, "no username and key"),
        ({"KAGGLE_KEY": LEGACY}, "KAGGLE_USERNAME"),
        ({"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "two words"}, "spaces"),
        ({"KAGGLE_USERNAME": "ada b", "KAGGLE_KEY": LEGACY}, "KAGGLE_USERNAME"),
        ({"KAGGLE_API_TOKEN": SESAME + "\nHost: evil"}, "spaces"),
        ({"KAGGLE_API_TOKEN": "„" + SESAME + "“"}, "characters that no key has"),
        ({"KAGGLE_API_TOKEN": "/no/such/file"}, "cannot be read"),
        ({"KAGGLE_KEY": '{"username": "", "key": ""}'}, "empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_key_is_one_line_without_it(values: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        read(**values)
    shown = "".join(traceback.format_exception(caught.value))
    assert len(str(caught.value).splitlines()) == 1
    for secret in (SESAME, LEGACY, "two words"):
        assert secret not in shown


@given(st.text(min_size=1).filter(lambda v: not v.startswith(("{", "/", "~"))))
def test_any_other_text_is_a_key_or_a_clear_refusal(value: str) -> None:
    try:
        found = read(KAGGLE_USERNAME="ada", KAGGLE_KEY=value)
    except SettingsError as refused:
        assert len(str(refused).splitlines()) == 1
    else:
        assert plain(found)[1] == value
        assert value.isascii()
        assert not any(c.isspace() for c in value)


def test_modals_two_forms() -> None:
    def modal(**values: str) -> keys.ModalKey | None:
        return modal_key(lambda name: values.get(name, ""))

    for found in (modal(MODAL_TOKEN_ID="ak", MODAL_TOKEN_SECRET="as-1"), modal(MODAL_API_KEY="ak:as-1")):
        assert found is not None
        assert (found.token_id, found.token_secret.get_secret_value()) == ("ak", "as-1")
    assert modal() is None
    assert modal(MODAL_TOKEN_ID="ak") is None
    with pytest.raises(SettingsError, match="id:secret"):
        modal(MODAL_API_KEY="only-one-part")


def test_a_secret_shows_in_no_text_of_ours() -> None:
    found = [
        read(KAGGLE_API_TOKEN=SESAME), read(KAGGLE_USERNAME="ada", KAGGLE_KEY=SESAME),
        modal_key({"MODAL_API_KEY": f"ak:{SESAME}"}.get),  # type: ignore[arg-type]
    ]
    for value in found:
        assert value is not None
        for text in (repr(value), str(value), value.model_dump_json(), repr(value.model_dump())):
            assert SESAME not in text


def test_configured_says_which_and_never_what(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(keys.configured().values()) == {False}
    monkeypatch.setenv("VAST_API_KEY", SESAME)
    monkeypatch.setenv("MODAL_API_KEY", f"a:{SESAME}")
    monkeypatch.setenv("KAGGLE_API_TOKEN", SESAME)
    found = keys.configured()
    assert {name for name, there in found.items() if there} == {"vast", "modal", "kaggle"}
    assert SESAME not in repr(found)


def test_the_tests_themselves_see_no_key_and_no_home() -> None:
    assert not any(os.environ.get(name) for name in keys.KEY_NAMES)
    assert not (Path.home() / ".kaggle").exists()
    assert "accel-test-home-" in str(Path.home())
