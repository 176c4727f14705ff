"""Who answers when a free runtime must be attended: the terminal, --attended, a rehearsal; else nobody."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import typer

from accel.cli import main
from accel.cli.pushing import confirming


def terminals(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: there))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: there, raising=False)


@pytest.mark.parametrize("answer", [True, False])
def test_a_terminal_is_asked_also_in_a_rehearsal(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    asked: list[str] = []
    terminals(monkeypatch, True)
    monkeypatch.setattr(typer, "confirm", lambda question, err: asked.append(question) or answer)
    for sandbox in (True, False):
        confirm = confirming(False, sandbox=sandbox)
        assert confirm is not None
        assert confirm("now?") is answer
    assert asked == ["now?", "now?"]


def test_without_a_terminal_only_who_said_so_or_rehearses_says_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminals(monkeypatch, False)
    assert confirming(False, sandbox=False) is None
    for attended, sandbox, words in ((True, False, "--attended"), (False, True, "rehearsal")):
        confirm = confirming(attended, sandbox=sandbox)
        assert confirm is not None
        assert confirm("now?") is True
        assert words in capsys.readouterr().err


def test_a_push_that_nobody_attends_is_one_line_with_the_clause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminals(monkeypatch, False)
    monkeypatch.setenv("COLAB_API_KEY", "ya29.not-a-real-one")
    monkeypatch.setattr(sys, "argv", ["accel", "push", "--to", "colab", "--passages", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2
    for words in ("--attended", "no distributed computing workers", "faq.html", "2026-11-23"):
        assert words in " ".join(err.split())
    assert "ya29" not in err
    assert "Traceback" not in err
