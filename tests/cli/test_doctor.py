"""``accel doctor | offers | setup``: each finding has one mend, looking changes nothing, no key shows."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from monitoring.ledgers import NOW, Clock, ask, attempt, budgets, open_ledger, pay, question, try_it

from accel.cli import main, setting_up
from accel.config import load_settings, settings_file
from accel.core.attempt import Outcome, Timing
from accel.core.errors import SettingsError
from accel.core.runtime import Runtime
from accel.fleet.roster import ADAPTERS
from accel.keys import READERS

Run = Callable[..., tuple[int, str, str]]
SECRET = "rp_T0PS3CRET"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of ``accel …``."""
    monkeypatch.setenv("COLUMNS", "80")

    def called(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accel", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return called


def fits(out: str) -> bool:
    """80 columns, but for a path, which stays whole to be copied."""
    return all(len(line) <= 80 or line.startswith("your settings: ") for line in out.splitlines())


def checks(out: str) -> dict[str, dict[str, Any]]:
    return {c["what"]: c for c in json.loads(out)["checks"]}


def test_doctor_names_one_mend_for_every_provider_without_a_key(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    found = checks(out)
    assert code == 0
    for name in READERS:
        assert found[f"{name}, key"]["mend"] == f"accel setup {name}"
    assert found["local, live"]["ok"] and found["local, batch"]["ok"]
    assert all(c["ok"] is not False for c in found.values())
    code, out, _ = run("doctor")
    assert code == 0 and fits(out) and "accel setup kaggle" in out


def test_doctor_finds_what_cannot_be_a_key_and_never_repeats_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "two words " + SECRET)
    code, out, err = run("doctor", "--json")
    found = checks(out)
    assert code == 1 and found["runpod, key"]["ok"] is False
    assert found["runpod, key"]["mend"] == "accel setup runpod"
    assert SECRET not in out + err


def test_doctor_finds_settings_that_cannot_be_meant_and_work_left_behind(run: Run) -> None:
    folder = Path(os.environ["ACCEL_HOME"]) / "real"
    folder.mkdir(parents=True)
    ledger = open_ledger(folder)
    ledger.write(
        "INSERT INTO job (id, task, folder, step, made_at, at) VALUES ('x', ?, '/x', 'queued', ?, ?)",
        '{"id":"x","lane":"batch","spec":{"stage":"embed"},"size":{"items":1},'
        '"need":{"stage":"embed","lane":"batch"}}', ledger.at(), ledger.at(),
    )  # fmt: skip
    ledger.close()
    code, out, _ = run("doctor", "--json")
    found = checks(out)
    assert code == 1 and found["ledger, real"]["ok"] is False
    assert found["ledger, real"]["mend"] == "accel push --resume"
    settings_file().write_text("value_of_hour = -1\n")
    code, out, _ = run("doctor", "--json")
    assert code == 1 and checks(out)["settings"]["mend"].startswith("edit ")


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock stands at ``NOW``."""
    clock = replace(Runtime.production(), now=lambda: NOW)
    monkeypatch.setattr(Runtime, "production", lambda: clock)


@pytest.mark.usefixtures("standing")
def test_diagnose_shows_each_trouble_with_its_bottleneck_and_remedy(run: Run) -> None:
    assert run("doctor", "--diagnose")[0] == 0, "nothing was ever run"
    folder = Path(os.environ["ACCEL_HOME"]) / "real"
    folder.mkdir(parents=True)
    ledger = open_ledger(folder, Clock(NOW - timedelta(minutes=30)))
    for i in range(6):
        ask(ledger, question(f"q{i}", 8.0))
        ask(ledger, question(f"q{i}-embed", 8.0, stage="embed"))
        try_it(ledger, replace(attempt(f"a{i}", timing=Timing(0, 0, 0, 7.5)), task_id=f"q{i}-embed"))
        failed = attempt(f"b{i}", "runpod", outcome=Outcome.FAILED, error="Unauthorised")
        try_it(ledger, replace(failed, detail="runpod: HTTP 401", task_id=f"q{i}-embed"))
    pay(budgets(ledger, month="0.01"), "b0", 100)
    ledger.close()
    code, out, _ = run("doctor", "--diagnose", "--json")
    found = json.loads(out)
    assert code == 1 and [t["found"] for t in found["troubles"]] == [True, True, True]
    local, dear, slow = found["troubles"]
    assert "Unauthorised" in local["bottleneck"] and "HTTP 401" in local["bottleneck"]
    assert local["remedies"][0]["command"] == "accel setup runpod"
    assert "runpod" in dear["bottleneck"] and dear["remedies"]
    assert slow["bottleneck"].startswith("embed on local: computing took 94%")
    code, out, _ = run("doctor", "--diagnose")
    assert code == 1 and fits(out) and "→ accel setup runpod" in out
    assert run("doctor", "--diagnose", "--sandbox")[0] == 0, "another realm, another ledger"
    assert run("doctor", "--diagnose", "--since", "soon")[0] == 2


def test_offers_say_what_would_run_a_task_and_why_the_rest_cannot(run: Run) -> None:
    code, out, _ = run("offers", "--items", "2000", "--within", "3600")
    assert code == 0 and fits(out)
    assert "2,000 × embed" in out and "within 3600 s" in out and "→ local" in out
    for name in READERS:
        assert f"✗ {name}" in out
    code, out, _ = run("offers", "--stage", "rerank", "--lane", "live", "--json")
    found = json.loads(out)
    assert found["ranked"][0]["provider"] == "local" and found["within_s"] is None
    assert {r["provider"] for r in found["refused"]} >= set(READERS)
    for argv in (("--within", "0"), ("--within", "nan"), ("--lane", "x"), ("--stage", "x"), ("--items", "0")):
        code, out, err = run("offers", *argv)
        assert code == 2 and out == "" and "Traceback" not in err


@pytest.mark.parametrize("name", ["local", *ADAPTERS])
def test_setup_names_what_is_left_and_exits_with_1(run: Run, name: str) -> None:
    code, out, _ = run("setup", name)
    assert code == 1 and fits(out) and f"accel setup {name} --test" in out
    for title in ("1. Account and key", "2. Terms and money", "3. Configuration"):
        assert title in out
    steps = json.loads(run("setup", name, "--json")[1])["steps"]
    assert {s["phase"] for s in steps} == {1, 2, 3}
    assert all(s["mend"] for s in steps if s["done"] is False), "what is left has its page or command"


def test_setup_of_an_unknown_provider_is_one_line(run: Run) -> None:
    code, out, err = run("setup", "nobody")
    assert code == 2 and out == "" and "There are: local, kaggle" in err


def test_a_key_is_asked_for_checked_and_kept_where_only_the_owner_reads_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def answers(text: str, **options: Any) -> str:
        asked.append({"text": text, **options})
        return SECRET if "KEY" in text else "5" if "dollars" in text else ""

    monkeypatch.setattr(setting_up, "_answer", lambda name, sandbox: "asked of nobody in this test")
    monkeypatch.setattr(typer, "prompt", answers)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    with pytest.raises(typer.Exit):
        setting_up.run_setup("runpod", sandbox=False, test=False, limit=None, as_json=False, asking=True)
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert [a["hide_input"] for a in asked if "KEY" in a["text"]] == [True]
    assert stat.S_IMODE(settings_file().stat().st_mode) == 0o600
    key = READERS["runpod"]()
    assert key is not None and SECRET in settings_file().read_text()
    assert load_settings().budget.month == 5_000_000_000
    assert "RUNPOD_API_KEY is set" in out and "at most $5.00" in out


def test_what_cannot_be_a_key_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "two words " + SECRET)
    with pytest.raises(SettingsError) as refused:
        setting_up.run_setup("runpod", sandbox=False, test=False, limit=None, as_json=False, asking=True)
    assert SECRET not in str(refused.value) + "".join(capsys.readouterr())
    assert not settings_file().exists()


def test_an_interrupt_at_a_question_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise typer.Abort

    monkeypatch.setattr(typer, "prompt", interrupted)
    monkeypatch.setattr(setting_up, "at_a_terminal", lambda: True)
    code, _, err = run("setup", "runpod")
    assert code == 130 and err.startswith("accel: interrupted") and err.count("\n") == 1


def test_accepting_terms_is_noted_and_ticked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "")
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    with pytest.raises(typer.Exit):
        setting_up.run_setup("kaggle", sandbox=False, test=False, limit=None, as_json=False, asking=True)
    assert load_settings().accepted_terms == ("kaggle/private data",)
    assert "you accepted it" in capsys.readouterr().out


def test_the_smallest_test_of_what_costs_money_needs_a_limit_that_suffices(run: Run) -> None:
    code, _, err = run("setup", "runpod", "--test")
    assert code == 2 and "not set up" in err
    for limit in ((), ("--limit", "0")):
        code, _, err = run("setup", "vast", "--sandbox", "--test", *limit)
        assert code == 2 and "say how much the test may cost" in err.splitlines()[-1]
    code, _, err = run("setup", "vast", "--sandbox", "--test", "--limit", "0.000001")
    assert code == 2 and "which costs $" in err.splitlines()[-1]


@pytest.mark.timeout(240)
def test_the_smallest_test_runs_there_and_is_ticked(run: Run) -> None:
    code, out, err = run("setup", "local", "--test", "--json")
    found = json.loads(out)
    assert code == 0 and found["ready"], err
    (tested,) = [s for s in found["steps"] if s["what"] == "smallest test"]
    assert tested["done"] and "ran there on" in tested["remark"]
