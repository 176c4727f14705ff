"""The report says what the ledger holds of the period: each figure against rows that were written."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring.ledgers import (
    NOW,
    Clock,
    ask,
    attempt,
    budgets,
    offer,
    open_ledger,
    pay,
    question,
    try_it,
)

from accel.core.attempt import Outcome, Timing
from accel.core.money import NANO, Basis
from accel.core.offer import Billing, Realm
from accel.core.task import Stage
from accel.ledger import Ledger
from accel.ledger.requests import Request
from accel.monitoring.facts import Facts, read
from accel.monitoring.report import Report, report

DAY = timedelta(days=1)


def look(ledger: Ledger, length: timedelta = DAY) -> Report:
    # what is written at this very moment belongs to the next report
    end = NOW + timedelta(microseconds=1)
    return report(read(ledger, end - length, end, NOW, ever=True))


def test_an_empty_ledger_has_no_figures_and_not_zeros(tmp_path: Path) -> None:
    found = look(open_ledger(tmp_path))
    assert found.empty and found.realm is Realm.REAL
    assert found.question("").success is None and found.question("").seconds.p95 is None
    assert found.spend.per_question is None and found.used.share is None
    assert found.providers == () and found.failures == () and found.stages == ()


def test_only_the_period_is_counted(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    clock.back(hours=24, microseconds=0)
    ask(ledger, question("just outside"))
    clock.back(hours=24, microseconds=-1)
    ask(ledger, question("just inside"))
    try_it(ledger, attempt("inside"))
    clock.back(days=9)
    ask(ledger, question("long ago"))
    try_it(ledger, attempt("old"))
    clock.back()
    assert look(ledger).question("").ok == 1
    assert [p.attempts for p in look(ledger).providers] == [1]
    assert look(ledger, timedelta(days=30)).question("").ok == 3
    assert look(ledger).ever.requests == {("", "ok"): 3}


def test_success_counts_what_ended_by_itself(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    outcomes = [Outcome.OK] * 18 + [Outcome.FAILED] * 2 + [Outcome.CANCELLED] * 5
    ask(ledger, *(question(f"{i}", outcome=o) for i, o in enumerate(outcomes)))
    all_ = look(ledger).question("")
    assert (all_.ok, all_.failed, all_.cancelled, all_.ended) == (18, 2, 5, 20)
    assert all_.success == 0.9


def test_percentiles_are_of_those_that_ended_well_and_by_complexity(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"s{i}", i / 100) for i in range(1, 101)))
    ask(ledger, question("c", 2.5, complexity="complex"), question("f", 60.0, outcome=Outcome.FAILED))
    found = look(ledger)
    simple = found.question("simple").seconds
    assert (simple.n, simple.p50, simple.p95, simple.p99) == (100, 0.50, 0.95, 0.99)
    assert found.question("complex").seconds.p99 == 2.5 and found.question("complex").seconds.n == 1
    assert found.question("").seconds.n == 101


def test_stages_are_apart_from_whole_questions(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, question("whole", 1.0, cost=40, items=8, hits=2, avoided=14))  # the sum of its parts
    for stage, seconds in (("embed", 0.1), ("rerank", 0.7)):
        ask(ledger, question(f"{stage}", seconds, stage=stage, cost=20, hits=1, items=4, avoided=7))
    found = look(ledger)
    assert [(s.name, s.ok, s.seconds.p50) for s in found.stages] == [("embed", 1, 0.1), ("rerank", 1, 0.7)]
    assert found.question("").ok == 1
    assert [s.hit_share for s in found.stages] == [0.25, 0.25]
    assert found.spend.avoided == 14 and found.spend.per_question == 40, "nothing is counted twice"
    assert found.ever.avoided == 14


def test_a_providers_share_is_of_answers_tries_and_seconds(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, *(question(f"l{i}", stage="embed") for i in range(3)))
    ask(ledger, question("r", stage="embed", provider="runpod"))
    ask(ledger, question("hit", stage="embed", provider="cache", hits=1, attempts=0))
    ask(ledger, question("no", stage="embed", provider="", outcome=Outcome.FAILED))
    for i in range(3):
        try_it(ledger, attempt(f"l{i}"))
    try_it(ledger, attempt("r1", "runpod", outcome=Outcome.FAILED, error="Unreachable", cost=5))
    try_it(ledger, attempt("r2", "runpod", cost=9, basis=Basis.BILLED, timing=Timing(1, 2, 3, 4)))
    try_it(ledger, attempt("r3", "runpod", outcome=Outcome.CANCELLED, cost=2))
    local, cache, runpod = sorted(look(ledger).providers, key=lambda p: "lcr".index(p.provider[0]))
    assert (local.requests, local.attempts, local.ok) == (3, 3, 3)
    assert math.isclose(local.seconds, 1.5)
    assert (cache.provider, cache.requests, cache.attempts) == ("cache", 1, 0)
    assert (runpod.requests, runpod.attempts, runpod.ok, runpod.cancelled) == (1, 3, 1, 1)
    assert math.isclose(runpod.seconds, 11.0)
    assert (runpod.estimated, runpod.billed) == (7, 9), "never one number"


def test_failures_are_counted_by_class_and_cancelled_tries_are_none(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for i, error in enumerate(["Unreachable"] * 3 + ["OutOfMemory"]):
        try_it(ledger, attempt(f"{i}", "vast", outcome=Outcome.FAILED, error=error))
    try_it(ledger, attempt("c", "vast", outcome=Outcome.CANCELLED))
    try_it(ledger, attempt("k", "kaggle", outcome=Outcome.FAILED, error="JobFailed"))
    found = [(f.provider, f.error, f.n) for f in look(ledger).failures]
    assert found == [("vast", "Unreachable", 3), ("kaggle", "JobFailed", 1), ("vast", "OutOfMemory", 1)]


def test_cost_per_question_counts_failed_ones_too(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, question("a", cost=10), question("b", cost=0), question("c", cost=11, outcome=Outcome.FAILED))
    spend = look(ledger).spend
    assert (spend.n, spend.per_question, spend.per_thousand) == (3, 7, 7_000)


def test_settled_money_keeps_estimated_and_billed_apart(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    limits = budgets(ledger, month="10")
    pay(limits, "a", 100)  # $0.36/h: 0.01 dollars per 100 s
    pay(limits, "b", 300, basis=Basis.BILLED)
    clock.back(days=2)
    pay(limits, "c", 500)
    clock.back()
    settled = look(ledger).spend.settled
    assert (settled.n, settled.estimated, settled.billed) == (2, NANO // 100, 3 * NANO // 100)
    assert settled.basis == "part estimated" and settled.total == 4 * NANO // 100


def test_a_limit_shows_what_is_charged_held_and_where_it_ends(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    limits = budgets(ledger, month="10", runpod_day="1")
    for i in range(5):
        pay(limits, f"p{i}", 1000)
    limits.reserve("open", offer(), 100, "t")
    found = {(x.account.provider, x.account.period): x for x in look(ledger).spend.limits}
    month, day = found["", "month"], found["runpod", "day"]
    assert (month.account.used, month.account.held) == (NANO // 2, NANO // 100)
    assert math.isclose(month.elapsed or 0, 17.5 / 30) and day.elapsed == 0.5
    assert day.projected == NANO and day.warning == ""
    assert math.isclose(month.projected or 0, NANO / 2 / (17.5 / 30), rel_tol=1e-9)
    assert math.isclose(month.share or 0, 0.051)


def test_projections_cover_day_week_and_month_and_warn(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    limits = budgets(ledger, month="10")
    clock.back(days=2)  # Monday: this week, not today
    pay(limits, "monday", 1000)
    clock.back(days=10)
    pay(limits, "earlier this month", 1000)
    clock.back()
    pay(limits, "today", 1000)
    found = {p.period.value: p for p in look(ledger, timedelta(hours=1)).spend.projections}
    assert [found[p].spent.total for p in ("day", "week", "month")] == [NANO // 10, NANO // 5, 3 * NANO // 10]
    assert found["day"].amount == NANO // 5 and found["day"].warning == "rests on 1 charge"
    assert math.isclose(found["week"].amount or 0, NANO / 5 / (2.5 / 7), rel_tol=1e-9)


def test_a_window_that_has_just_begun_is_not_projected_without_a_warning(tmp_path: Path) -> None:
    clock = Clock(NOW.replace(hour=0, minute=30))
    ledger = open_ledger(tmp_path, clock)
    limits = budgets(ledger, day="100")
    for i in range(9):
        pay(limits, f"p{i}", 10)
    now = clock.now + timedelta(seconds=1)
    (day, _, _) = report(read(ledger, now - DAY, now, now)).spend.projections
    assert day.amount and day.warning.startswith("only 2.1%")


def test_leased_gpu_use_is_computing_seconds_of_charged_ones(tmp_path: Path) -> None:
    clock = Clock()
    ledger = open_ledger(tmp_path, clock)
    limits = budgets(ledger, month="10")
    kaggle = offer("kaggle", "0", Billing.QUOTA)
    pay(limits, "k", 100, at=kaggle)
    try_it(ledger, attempt("k", "kaggle", timing=Timing(500.0, 30.0, 0.0, 70.0)))
    pay(limits, "r", 50)
    try_it(ledger, attempt("r", "runpod", timing=Timing(0.0, 40.0, 0.0, 10.0)))
    pay(limits, "failed", 50)  # charged, and nothing computed
    clock.back(days=3)
    pay(limits, "before the period", 500)
    clock.back()
    found = look(ledger)
    (kname, k), (rname, r) = found.leased
    assert (kname, rname) == ("kaggle", "runpod")
    assert (k.leases, k.leased_s, k.computed_s, k.share) == (1, 100.0, 70.0, 0.7)
    assert r.leases == 2 and math.isclose(r.leased_s, 100.0, rel_tol=1e-6) and r.computed_s == 10.0
    assert math.isclose(found.used.share or 0, 0.4, rel_tol=1e-6)
    assert found.spend.settled.n == 2, "free hours are not money"


def test_realms_never_share_a_report(tmp_path: Path) -> None:
    sandbox = open_ledger(tmp_path, realm=Realm.SANDBOX)
    ask(sandbox, question("a"))
    assert look(sandbox).realm is Realm.SANDBOX


REQUESTS = st.lists(
    st.builds(
        question, st.uuids().map(str), st.floats(0, 100), outcome=st.sampled_from(Outcome),
        complexity=st.sampled_from(["simple", "complex"]), cost=st.integers(0, 10**12),
        stage=st.sampled_from(["", "embed", "search"]),
        provider=st.sampled_from(["local", "runpod", "cache"]),
        hits=st.integers(0, 3), items=st.integers(3, 5), avoided=st.integers(0, 10**9),
    ),
    max_size=60,
)  # fmt: skip


@given(REQUESTS)
def test_every_request_is_counted_once(made: list[Request]) -> None:
    found = report(Facts(Realm.SIMULATED, NOW - DAY, NOW, NOW, requests=tuple(made)))
    kinds = [found.question("simple"), found.question("complex"), *found.stages]
    assert sum(k.ok + k.failed + k.cancelled for k in kinds) == len(made)
    assert found.question("").ended == sum(found.question(c).ended for c in ("simple", "complex"))
    assert sum(p.requests for p in found.providers) == sum(r.stage != "" and r.outcome == "ok" for r in made)
    whole = [r.cost for r in made if r.stage == ""]
    if whole:
        assert abs((found.spend.per_question or 0) * len(whole) - sum(whole)) <= len(whole)
    for k in kinds:
        assert k.success is None or 0 <= k.success <= 1
        assert k.seconds.n == k.ok and k.hits <= k.items


@pytest.mark.parametrize("stage", list(Stage))
def test_any_stage_may_appear(stage: Stage, tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ask(ledger, question("x", stage=stage.value))
    assert look(ledger).stages[0].name == stage
