"""A target is met, missed, or has not enough data; a miss is an alert once per target and day."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path

import pytest
from monitoring.ledgers import NOW, Clock, ask, attempt, budgets, open_ledger, pay, question, try_it

from accel.core.attempt import Outcome, Timing
from accel.core.errors import SettingsError
from accel.core.money import NANO, NanoUSD
from accel.ledger import Ledger
from accel.monitoring.facts import read
from accel.monitoring.report import Report, report
from accel.monitoring.targets import Judged, Targets, Verdict, judge, raise_missed


def look(ledger: Ledger) -> Report:
    end = ledger.now() + timedelta(microseconds=1)
    return report(read(ledger, end - timedelta(days=1), end, ledger.now()))


def verdicts(ledger: Ledger, targets: Targets | None = None) -> dict[str, Judged]:
    return {j.name: j for j in judge(look(ledger), targets or Targets())}


def test_the_defaults_are_the_guides() -> None:
    t = Targets()
    assert (t.simple_s, t.complex_s, t.utilisation, t.success) == (1.0, 3.0, 0.70, 0.95)
    assert t.cost_per_query == NANO // 20


def test_without_data_there_is_no_verdict_and_the_words_say_how_many_are_needed(tmp_path: Path) -> None:
    found = verdicts(open_ledger(tmp_path))
    assert set(found) == {"simple_s", "complex_s", "utilisation", "cost_per_query", "success"}
    assert {j.verdict for j in found.values()} == {Verdict.UNKNOWN}
    assert found["simple_s"].words == (
        "p95 of simple questions: 0 questions, and 20 are needed to judge less than 1 s"
    )
    assert "5 are needed" in found["utilisation"].words


@pytest.mark.parametrize(("n", "verdict"), [(19, Verdict.UNKNOWN), (20, Verdict.MET)])
def test_the_least_number_is_a_number_of_questions(tmp_path: Path, n: int, verdict: Verdict) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"{i}") for i in range(n)))
    found = verdicts(ledger)
    assert {found[k].verdict for k in ("simple_s", "success", "cost_per_query")} == {verdict}
    assert found["simple_s"].n == n


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.999, Verdict.MET), (1.0, Verdict.MISSED), (1.001, Verdict.MISSED)]
)
def test_p95_must_be_below_its_target(tmp_path: Path, seconds: float, verdict: Verdict) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"{i}", 0.1) for i in range(18)))
    ask(ledger, question("a", seconds), question("b", 50.0))  # of 20, the 19th counts
    assert verdicts(ledger)["simple_s"].verdict is verdict
    assert verdicts(ledger)["complex_s"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("failed", "verdict"), [(4, Verdict.MET), (5, Verdict.MISSED), (6, Verdict.MISSED)])
def test_success_must_be_above_its_target(tmp_path: Path, failed: int, verdict: Verdict) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(
        question(f"{i}", outcome=Outcome.FAILED if i < failed else Outcome.OK) for i in range(100)
    ))  # fmt: skip
    assert verdicts(ledger)["success"].verdict is verdict


@pytest.mark.parametrize(("cost", "verdict"), [(NANO // 20 - 1, Verdict.MET), (NANO // 20, Verdict.MISSED)])
def test_the_mean_cost_must_be_below_its_target(tmp_path: Path, cost: int, verdict: Verdict) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"{i}", cost=cost) for i in range(20)))
    assert verdicts(ledger)["cost_per_query"].verdict is verdict


@pytest.mark.parametrize(("busy", "verdict"), [(71.0, Verdict.MET), (69.0, Verdict.MISSED)])
def test_utilisation_is_of_what_was_charged(tmp_path: Path, busy: float, verdict: Verdict) -> None:
    ledger = open_ledger(tmp_path)
    limits = budgets(ledger, month="10")
    for i in range(5):
        pay(limits, f"{i}", 100)
        try_it(ledger, attempt(f"{i}", "runpod", timing=Timing(0, 100 - busy, 0, busy)))
    assert verdicts(ledger)["utilisation"].verdict is verdict


def test_targets_are_the_persons_to_set_and_to_leave_out(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"{i}", 2.0) for i in range(20)))
    mine = Targets(simple_s=2.5, complex_s=None, utilisation=None, cost_per_query=None, success=None)
    found = verdicts(ledger, mine)
    assert {name: j.verdict for name, j in found.items()} == {"simple_s": Verdict.MET}


@pytest.mark.parametrize(
    "wrong",
    [{"simple_s": 0.0}, {"simple_s": -1.0}, {"complex_s": math.nan}, {"complex_s": math.inf},
     {"success": 1.0}, {"success": -0.1}, {"utilisation": 70.0}, {"cost_per_query": NanoUSD(0)}],
)  # fmt: skip
def test_a_target_that_nothing_can_meet_or_miss_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Targets(**wrong)  # type: ignore[arg-type]


def test_a_miss_is_an_alert_once_per_target_and_day(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    ask(ledger, *(question(f"{i}", 9.0) for i in range(20)))
    found = look(ledger)
    judged = judge(found, Targets())
    assert raise_missed(ledger, found, judged) == 1
    assert raise_missed(ledger, found, judged) == 0
    later = open_ledger(tmp_path, clock)  # another process, or this one tomorrow
    assert raise_missed(later, look(later), judged) == 0
    clock.now = NOW + timedelta(hours=13)  # past midnight
    assert raise_missed(later, look(later), judged) == 1
    keys = [key for (key,) in ledger.rows("SELECT key FROM alert ORDER BY key")]
    assert keys == ["target:simple_s:2026-11-18", "target:simple_s:2026-11-19"]


def test_an_alert_says_realm_figure_target_and_n(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"{i}", 9.0) for i in range(25)))
    found = look(ledger)
    raise_missed(ledger, found, judge(found, Targets()))
    body = json.loads(ledger.rows("SELECT body FROM alert")[0][0])
    assert body["text"] == (
        "accel, realm real: p95 of simple questions: 9 s of 25 questions; the target is less than 1 s"
    )
    assert (body["kind"], body["target"], body["measured"], body["threshold"], body["n"]) == (
        "target", "simple_s", 9.0, 1.0, 25,
    )  # fmt: skip
    assert body["since"] < body["until"]
