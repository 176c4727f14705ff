"""``accel monitor``: what it prints, what it exits with, what it sends, and that looking changes nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from monitoring.ledgers import NOW, Clock, ask, attempt, budgets, open_ledger, pay, question, try_it
from monitoring.receiver import Receiver
from prometheus_client.parser import text_string_to_metric_families

from accel.cli import main
from accel.cli.monitoring import parse_since
from accel.core.attempt import Outcome
from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.ledger import Ledger

Run = Callable[..., tuple[int, str, str]]
SECRET = "T0P-S3CRET"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of ``accel monitor …`` at ``NOW``, where there is no GPU."""
    standing = replace(Runtime.production(), now=lambda: NOW)
    monkeypatch.setattr(Runtime, "production", lambda: standing)
    monkeypatch.setattr("accel.environment.gpu_load", lambda: ())
    monkeypatch.setenv("COLUMNS", "80")

    def called(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accel", "monitor", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return called


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def filled(realm: Realm = Realm.REAL, *, seconds: float = 0.2, questions: int = 30) -> Ledger:
    """The ledger of a busy hour that has just ended."""
    folder = Path(os.environ["ACCEL_HOME"]) / realm.value
    folder.mkdir(parents=True, exist_ok=True)
    ledger = open_ledger(folder, Clock(NOW - timedelta(minutes=30)), realm)
    for i in range(questions):
        ask(ledger, question(f"q{i}", seconds))
        ask(ledger, question(f"q{i}-embed", seconds / 2, stage="embed", hits=1, items=2))
    try_it(ledger, attempt("a", realm=realm))
    try_it(ledger, attempt("b", "runpod", outcome=Outcome.FAILED, error="Unreachable", realm=realm))
    limits = budgets(ledger, month="10")
    pay(limits, "b", 100)
    return ledger


def test_where_nothing_happened_it_says_so_and_makes_nothing(run: Run) -> None:
    for realm in ("real", "sandbox"):
        code, out, _ = run("--realm", realm)
        assert code == 0 and f"Nothing ended in this time in the {realm} realm" in out
        assert "20 are needed" in out and "no GPU here" in out
    assert not list(Path(os.environ["ACCEL_HOME"]).rglob("ledger*"))
    code, out, _ = run("--json")
    found = json.loads(out)
    assert code == 0 and found["empty"] and found["questions"][0]["success"] is None
    assert run("--prometheus")[0] == 0
    assert run("--alert")[0] == 0


def test_it_fits_80_columns_and_names_realm_period_and_n(run: Run) -> None:
    filled()
    code, out, _ = run("--since", "24h")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith("realm real · last 24h, until ")
    for told in (
        "ok p95 of simple questions: 0.2 s of 30 questions", "questions, all", "30 (100%)", "200 ms",
        "runpod", "Unreachable", "month's end", "rests on 1 charge", "all, month", "$10.00", "estimated",
    ):  # fmt: skip
        assert told in out, told


def test_a_realm_is_never_reported_as_another(run: Run) -> None:
    filled(Realm.SANDBOX)
    assert "Nothing ended" in run()[1]
    code, out, _ = run("--realm", "sandbox", "--json")
    found = json.loads(out)
    assert code == 0 and found["realm"] == "sandbox" and found["questions"][0]["ok"] == 30


def test_a_missed_target_is_exit_code_3_everywhere(run: Run, tmp_path: Path) -> None:
    filled(seconds=4.0)
    for more in ((), ("--json",), ("--prometheus",), ("--prometheus", "--out", str(tmp_path / "x.prom"))):
        code, out, err = run(*more)
        assert code == 3, more
        assert "Traceback" not in out + err
    assert run("--since", "1m")[0] == 0, "nothing ended in the last minute: that is no miss"


def test_targets_come_from_the_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(seconds=4.0)
    monkeypatch.setenv("ACCEL_TARGETS__SIMPLE_S", "5")
    assert run()[0] == 0
    monkeypatch.setenv("ACCEL_TARGETS__SUCCESS", "1.0")
    code, _, err = run()
    assert code == 2 and "success" in err and err.count("\n") == 1


def test_json_keeps_money_whole_and_its_bases_apart(run: Run) -> None:
    filled()
    found = json.loads(run("--json")[1])
    assert found["schema"] == 1
    assert found["money"]["settled"] == {
        "charges": 1, "estimated_nano_usd": 10_000_000, "billed_nano_usd": 0,
    }  # fmt: skip
    (month,) = [p for p in found["money"]["projections"] if p["period"] == "month"]
    assert month["projected_nano_usd"] > 10_000_000 and month["warning"]
    (limit,) = found["money"]["limits"]
    assert (limit["provider"], limit["period"], limit["limit"]) == ("all", "month", 10_000_000_000)
    assert found["stages"][0] == {
        "stage": "embed", "ok": 30, "failed": 0, "cancelled": 0, "success": 1.0, "items": 60, "hits": 30,
        "seconds": {"n": 30, "p50": 0.1, "p95": 0.1, "p99": 0.1}, "attempts": 30,
    }  # fmt: skip


def test_prometheus_goes_to_stdout_or_to_a_file_and_parses(run: Run, tmp_path: Path) -> None:
    filled()
    out = run("--prometheus")[1]
    names = {f.name for f in text_string_to_metric_families(out)}
    assert {"accel_requests", "accel_request_seconds", "accel_budget_limit_dollars"} <= names
    path = tmp_path / "accel.prom"
    code, said, _ = run("--prometheus", "--out", str(path))
    assert code == 0 and said == ""
    assert {f.name for f in text_string_to_metric_families(path.read_text())} == names
    code, _, err = run("--prometheus", "--out", str(tmp_path / "missing" / "accel.prom"))
    assert code == 1 and err.count("\n") == 1


def test_alert_tells_once_and_again_tomorrow_only(
    run: Run, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = filled(seconds=4.0)
    code, _, err = run("--alert")
    assert code == 3 and "1 waiting" in err and "alerts.webhook" in err
    monkeypatch.setenv("ACCEL_ALERTS__WEBHOOK", f"{receiver.url}/{SECRET}")
    code, out, err = run("--alert", "--json")
    assert code == 3 and json.loads(out)["alerts"] == {"done": 1}
    assert f"1 sent to webhook {receiver.url}," in err
    assert run("--alert")[0] == 3
    assert len(receiver.posts) == 1
    ((path, _, body),) = receiver.posts
    assert path == f"/{SECRET}" and body["target"] == "simple_s" and body["realm"] == "real"
    assert "p95 of simple questions: 4 s of 30 questions" in body["text"]
    assert SECRET not in out + err
    assert [state for (state,) in ledger.rows("SELECT state FROM alert")] == ["done"]


def test_without_alert_nothing_is_written(run: Run) -> None:
    ledger = filled(seconds=4.0)
    before = list(ledger._db.iterdump())
    for more in ((), ("--json",), ("--prometheus",)):
        run(*more)
    assert list(ledger._db.iterdump()) == before


BAD = {
    "no realm": (["--realm", "simulated"], "no ledger of realm"),
    "no length": (["--since", "yesterday"], "--since"),
    "no time": (["--since", "0h"], "--since"),
    "too long": (["--since", "999999w"], "--since"),
    "two formats": (["--json", "--prometheus"], "exclude"),
    "out of what": (["--out", "x.prom"], "--prometheus"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(run: Run, name: str) -> None:
    argv, told = BAD[name]
    code, out, err = run(*argv)
    assert code == 2 and told in err and err.count("\n") == 1 and not out


def test_a_webhook_that_is_none_is_refused_without_repeating_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCEL_ALERTS__WEBHOOK", f"ftp://h/{SECRET}")
    code, out, err = run("--alert")
    assert code == 2 and "webhook" in err and SECRET not in out + err


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("24h", 86400), (" 7D ", 604800), ("2w", 1209600)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_since(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "1h30m", "24", "1y", "١h", "1h\n2h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError):
        parse_since(text)
