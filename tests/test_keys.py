"""Keys: every form that people have, one clear line for every other, and no secret anywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel import config, keys
from accel.core.errors import SettingsError
from accel.keys import KaggleKey, colab_key, kaggle_key, modal_key

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


USER = {
    "type": "authorized_user", "client_id": "c.apps", "client_secret": "GOCSPX-1", "refresh_token": SESAME,
}  # fmt: skip


def test_every_form_of_a_sign_in_to_colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "user.json"
    file.write_text(json.dumps(USER, indent=1))

    def colab(**values: str) -> keys.ColabKey | None:
        return colab_key(lambda name: values.get(name, ""))

    for found in (
        colab(COLAB_API_KEY=json.dumps(USER)), colab(COLAB_API_KEY=str(file)),
        colab(COLAB_API_KEY="adc", GOOGLE_APPLICATION_CREDENTIALS=str(file)),
    ):  # fmt: skip
        assert found is not None
        assert (found.client_id, found.client_secret.get_secret_value()) == ("c.apps", "GOCSPX-1")
        assert found.refresh_token.get_secret_value() == SESAME
        assert SESAME not in repr(found)
    found = colab(COLAB_API_KEY=SESAME)
    assert found is not None
    assert found.token.get_secret_value() == SESAME
    assert colab() is None
    assert colab(GOOGLE_APPLICATION_CREDENTIALS=str(file)) is None  # it is there for other work
    with pytest.raises(SettingsError, match="cannot be read"):
        colab(COLAB_API_KEY="adc")  # gcloud's own file, which is not there


@pytest.mark.parametrize(
    ("value", "words"),
    [('{"type": "service_account", "private_key": "P"}', "service account is none"), ("{", "authorised user"),
     ("two words", "spaces"), ("/no/such/file", "cannot be read"),
     (json.dumps({**USER, "refresh_token": ""}), "empty")],
)  # fmt: skip
def test_what_cannot_be_a_sign_in_to_colab_is_one_line(value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        colab_key({"COLAB_API_KEY": value}.get)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    assert SESAME not in "".join(traceback.format_exception(caught.value))


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


# --- leases


def test_a_leases_token_is_the_same_for_every_process_and_in_no_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    token = keys.lease_token(home, "accel-abc")
    ask = (
        "import sys, pathlib; from accel import keys; "
        "print(keys.lease_token(pathlib.Path(sys.argv[1]), sys.argv[2]))"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", ask, str(home), name], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("accel-abc", "accel-abd")
    ]
    assert made[0] == token
    assert made[1] != token
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert keys.lease_token(tmp_path / "another", "accel-abc") != token
    assert [p.name for p in home.iterdir()] == ["lease.key"]
    assert (home / "lease.key").stat().st_mode & 0o777 == 0o600
    assert token.encode() not in (home / "lease.key").read_bytes()


def test_processes_that_ask_first_at_the_same_time_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: keys.lease_token(tmp_path / "h", "n"), range(16)))
    assert len(made) == 1
    assert [p.name for p in (tmp_path / "h").iterdir()] == ["lease.key"]


def test_a_lease_key_that_others_can_read_or_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    keys.lease_token(tmp_path, "n")
    path = tmp_path / "lease.key"
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="read by others"):
        keys.lease_token(tmp_path, "n")
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(SettingsError, match="damaged"):
        keys.lease_token(tmp_path, "n")
    with pytest.raises(SettingsError, match="cannot be used"):
        keys.lease_token(path, "n")


def test_a_leases_certificate_is_always_the_same_and_its_own(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    made = keys.lease_certificate(tmp_path, "accel-abc")
    assert keys.lease_certificate(tmp_path, "accel-abc") == made
    other = keys.lease_certificate(tmp_path, "accel-abd")
    assert not set(made) & set(other)
    certificate, private = made
    assert "BEGIN CERTIFICATE" in certificate
    assert "BEGIN PRIVATE KEY" in private
    assert len(certificate + private) < 2_000  # they travel in an environment
    assert [p.name for p in tmp_path.iterdir()] == ["lease.key"]


def test_without_cryptography_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(SettingsError, match=r"accel\[vast\]"):
        keys.lease_certificate(tmp_path, "n")
