"""Bad input gives one clear line, a non-zero exit, no traceback, and loses nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from accel.cli import main
from accel.sandbox.server import KaggleSandbox


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str,
        stdin: bytes = b"") -> tuple[int, str, str]:  # fmt: skip
    """Exit code, stdout, stderr of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["accel", *argv])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False))
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), out, err


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("The lighthouse keeper trims the lamp every evening at dusk.\n")
    return folder


def binary(tmp_path: Path) -> str:
    path = tmp_path / "picture.txt"
    path.write_bytes(b"\x89PNG\r\n\x00\x1a\x00" + bytes(range(256)))
    return str(path)


CASES = {
    "no such command": (["frobnicate"], 2, "No such command"),
    "no such option": (["query", "--colour", "red", "why"], 2, "No such option"),
    "empty question": (["query", ""], 2, "question is empty"),
    "blank question": (["query", "  \t "], 2, "question is empty"),
    "question with a NUL": (["query", "what\0is"], 2, "NUL"),
    "deadline of zero": (["query", "why", "--within", "0"], 2, "--within"),
    "missing corpus": (["query", "why", "--corpus", "/no/such/folder"], 2, "no such file or folder"),
    "unknown job": (["push", "mine_bitcoin"], 2, "no job 'mine_bitcoin'"),
    "unknown target": (["push", "--to", "nowhere"], 2, "no provider 'nowhere'"),
    "no key": (["push", "--to", "kaggle"], 2, "KAGGLE_API_TOKEN"),
    "no key for Colab": (["push", "--to", "colab"], 2, "COLAB_API_KEY"),
    "not a number": (["push", "--passages", "many"], 2, "--passages"),
    "unknown stage": (["offers", "--stage", "guess"], 2, "no stage 'guess'"),
    "unknown lane": (["offers", "--lane", "bus"], 2, "no lane 'bus'"),
    "unknown cloud": (["sandbox", "aws"], 2, "no sandbox 'aws'"),
    "nothing decided yet": (["explain"], 2, "nothing was decided"),
    "not a collection": (["evaluate", "/no/such/folder"], 2, "/no/such/folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_a_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, code, told = CASES[name]
    got, out, err = run(monkeypatch, capsys, *argv)
    assert got == code
    assert told in err
    assert err.startswith("accel: ") and err.count("\n") == 1
    assert "Traceback" not in out + err


def test_a_megabyte_on_standard_input_is_refused_with_its_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, "query", "-", stdin=b"why " * 250_000)
    assert code == 2 and "999,999 characters" in err and err.count("\n") == 1


def test_a_binary_on_standard_input_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, "query", "-", stdin=b"\xff\xfe\x00\x01")
    assert code == 2 and "UTF-8" in err and err.count("\n") == 1


def test_a_binary_corpus_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(monkeypatch, capsys, "query", "why", "--corpus", binary(tmp_path))
    assert code == 2 and "picture.txt" in err
    assert "Traceback" not in err


def test_an_unknown_provider_is_named_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], docs: Path
) -> None:
    code, _, err = run(
        monkeypatch, capsys, "query", "why", "--corpus", str(docs), "--provider", "azure"
    )
    assert code == 2 and "no provider 'azure'" in err and "kaggle, local" in err


@pytest.mark.parametrize(
    ("provider", "url"), [("kaggle", "kaggle.com/terms"), ("colab", "research.google.com/colaboratory/faq")]
)
def test_free_hours_are_refused_for_a_question_with_the_clause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], docs: Path, provider: str, url: str
) -> None:
    code, _, err = run(
        monkeypatch, capsys, "query", "why", "--corpus", str(docs), "--provider", provider
    )
    assert code == 2 and "terms forbid live serving" in err and url in err


def test_a_setting_of_the_wrong_kind_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCEL_VALUE_OF_HOUR", "s3cret-looking")
    code, _, err = run(monkeypatch, capsys, "offers")
    assert code == 2 and "value_of_hour" in err and "s3cret-looking" not in err


def test_what_was_asked_for_as_json_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], docs: Path
) -> None:
    code, out, _ = run(
        monkeypatch, capsys, "query", "who trims the lamp?", "--corpus", str(docs), "--json"
    )
    answer = json.loads(out)
    assert code == 0 and answer["schema"] == 1 and answer["realm"] == "real"
    assert [s["stage"] for s in answer["stages"]] == ["embed", "search", "rerank", "answer"]
    assert all(s["cost_nano_usd"] == 0 for s in answer["stages"])

    code, out, _ = run(monkeypatch, capsys, "explain", answer["id"], "--replay", "--json")
    decisions = json.loads(out)["decisions"]
    assert code == 0 and len(decisions) == 4
    assert all(d["replayed_same"] for d in decisions)
    refused = {r["provider"]: r["reason"] for d in decisions for r in d["refused"]}
    assert "terms forbid" in refused["kaggle"]


def test_a_wrong_key_is_one_line_and_nothing_is_submitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for by name, Kaggle is not routed around when only the person can mend what it lacks."""
    with KaggleSandbox(time_scale=1000) as cloud:
        monkeypatch.setenv("KAGGLE_USERNAME", cloud.username)
        monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef0123456789abcdef")
        code, out, err = run(
            monkeypatch, capsys, "push", "--to", "kaggle", "--sandbox-url", cloud.url, "--passages", "2"
        )
        assert code == 2 and "kaggle cannot be used" in err and err.count("\n") == 1
        assert "0123456789abcdef" not in out + err
        assert not cloud.requests("SaveKernel")
        code, out, _ = run(monkeypatch, capsys, "push", "--resume", "--sandbox-url", cloud.url, "--json")
        assert code == 0 and json.loads(out)["done"] == []
