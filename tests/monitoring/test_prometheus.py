"""The exposition parses, names units and realm, and says what the report says."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from monitoring.ledgers import NOW, ask, attempt, budgets, offer, open_ledger, pay, question, try_it
from prometheus_client.parser import text_string_to_metric_families

from accel.core.attempt import Outcome, Timing
from accel.core.offer import Billing, Realm
from accel.environment import GpuLoad
from accel.ledger import Ledger, alerts
from accel.monitoring import prometheus
from accel.monitoring.facts import Facts, read
from accel.monitoring.report import Report, report
from accel.monitoring.targets import Targets, judge

UNITS = ("_seconds", "_dollars", "_bytes", "_ratio", "_total")
PLAIN = {"accel_period_requests", "accel_alerts", "accel_target_met"}  # counts and a boolean


def look(ledger: Ledger, hours: int = 24) -> Report:
    end = NOW + timedelta(microseconds=1)
    gpus = (GpuLoad("Tesla T4", 0.5, 1 << 30, 15 << 30), GpuLoad("MIG slice", None, None, None))
    return report(read(ledger, end - timedelta(hours=hours), end, NOW, ever=True), gpus)


def busy(ledger: Ledger) -> Report:
    """A bit of everything."""
    ask(ledger, *(question(f"q{i}", 0.1 * i, cost=1_000_000) for i in range(1, 21)))
    ask(ledger, question("bad", outcome=Outcome.FAILED))
    ask(ledger, question("s1", 0.3, stage="embed", hits=3, items=4, avoided=5_000_000_000))
    try_it(ledger, attempt("s1", timing=Timing(1.0, 2.0, 3.0, 4.0)))
    try_it(ledger, attempt("x", "runpod", outcome=Outcome.FAILED, error='Odd"one\\\n'))
    limits = budgets(ledger, month="10")
    pay(limits, "x", 100)
    pay(limits, "k", 60, at=offer("kaggle", "0", Billing.QUOTA))
    limits.reserve("held", offer(), 50, "t")
    alerts.raise_(ledger, "a", {})
    return look(ledger)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels (without the realm). Two of one name and labels are an error."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            labels = dict(s.labels)
            assert labels.pop("realm") in tuple(Realm), "the realm is on every line"
            key = s.name, tuple(sorted(labels.items()))
            assert key not in found, f"{key} twice: Prometheus would refuse the scrape"
            found[key] = s.value
    return found


def value(text: str, metric: str, /, **labels: str) -> float:
    return samples(text)[metric, tuple(sorted(labels.items()))]


def test_it_says_what_the_report_says(tmp_path: Path) -> None:
    found = busy(open_ledger(tmp_path))
    text = prometheus.exposition(found, judge(found, Targets()))
    assert value(text, "accel_requests_total", stage="query", outcome="ok") == 20
    assert value(text, "accel_requests_total", stage="query", outcome="failed") == 1
    assert value(text, "accel_cache_hits_total", stage="embed") == 3
    assert value(text, "accel_request_items_total", stage="embed") == 4
    assert value(text, "accel_avoided_dollars_total") == 5
    assert value(text, "accel_attempts_total", provider="local", stage="embed", outcome="ok") == 1
    assert value(text, "accel_attempt_seconds_total", provider="local", part="cold") == 2
    assert value(text, "accel_attempt_failures_total", provider="runpod", error='Odd"one\\\n') == 1
    paid = {"provider": "runpod", "fund": "budget", "basis": "estimated"}
    assert value(text, "accel_cost_dollars_total", **paid) == 0.01
    assert value(text, "accel_quota_seconds_total", provider="kaggle") == 60
    day = {"window_s": "86400"}
    for q, seconds in (("0.5", 1.0), ("0.95", 1.9), ("0.99", 2.0)):
        got = value(text, "accel_request_seconds", stage="query", complexity="simple", quantile=q, **day)
        assert got == pytest.approx(seconds)
    assert value(text, "accel_success_ratio", stage="query", complexity="all", **day) == 20 / 21
    assert value(text, "accel_cache_hit_ratio", stage="embed", complexity="all", **day) == 0.75
    assert value(text, "accel_question_cost_dollars", basis="estimated", **day) == pytest.approx(20e-3 / 21)
    assert value(text, "accel_budget_limit_dollars", provider="all", period="month") == 10
    assert value(text, "accel_budget_charged_dollars", provider="all", period="month") == 0.01
    assert value(text, "accel_budget_held_dollars", provider="all", period="month") == 0.005
    assert value(text, "accel_quota_charged_seconds", provider="kaggle", period="quota") == 60
    assert value(text, "accel_projected_dollars", period="day", basis="estimated") == 0.02
    assert value(text, "accel_gpu_busy_ratio", gpu="0", name="Tesla T4") == 0.5
    assert value(text, "accel_alerts", state="pending") == 1
    assert value(text, "accel_report_timestamp_seconds") == NOW.timestamp()
    assert value(text, "accel_target_met", target="simple_s") == 0
    assert value(text, "accel_target_met", target="success") == 1


def test_what_is_not_known_has_no_sample(tmp_path: Path) -> None:
    found = busy(open_ledger(tmp_path))
    names = samples(prometheus.exposition(found, judge(found, Targets())))
    assert not any(dict(labels).get("gpu") == "1" for _, labels in names), "a device that does not tell"
    assert not any(dict(labels).get("target") == "utilisation" for _, labels in names), "not enough data"
    assert not any(dict(labels).get("complexity") == "complex" for _, labels in names), "none was asked"
    assert "nan" not in prometheus.exposition(found).lower()


def test_names_carry_base_units_and_only_counters_end_in_total(tmp_path: Path) -> None:
    text = prometheus.exposition(busy(open_ledger(tmp_path)))
    for family in text_string_to_metric_families(text):
        names = {s.name for s in family.samples}
        for name in names:
            assert re.fullmatch(r"accel_[a-z_]+", name)
            assert name.endswith(UNITS) or name in PLAIN, name
            assert name.endswith("_total") == (family.type == "counter"), name
        assert family.documentation


def test_counters_never_shrink_when_the_period_moves_on(tmp_path: Path) -> None:
    """A counter of the last 24 hours would fall each hour, and rate() would call that a restart."""
    ledger = open_ledger(tmp_path)
    busy(ledger)
    long, short = (samples(prometheus.exposition(look(ledger, hours))) for hours in (24, 1))
    for key in long:
        if key[0].endswith("_total"):
            assert short[key] == long[key], key


def test_an_empty_ledger_is_a_valid_exposition() -> None:
    text = prometheus.exposition(report(Facts(Realm.SANDBOX, NOW - timedelta(days=1), NOW, NOW)))
    assert 'accel_report_timestamp_seconds{realm="sandbox"}' in text
    assert samples(text)["accel_report_timestamp_seconds", ()] == NOW.timestamp()


def test_two_realms_are_two_series(tmp_path: Path) -> None:
    found = busy(open_ledger(tmp_path))
    both = [prometheus.exposition(replace(found, realm=r)) for r in (Realm.REAL, Realm.SANDBOX)]
    lines = [{line for line in text.splitlines() if not line.startswith("#")} for text in both]
    assert lines[0] and not lines[0] & lines[1]


def test_a_file_is_replaced_whole_and_readable_to_others(tmp_path: Path) -> None:
    found = busy(open_ledger(tmp_path))
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "accel.prom"
    path.write_text("old\n")
    reader = path.open()  # who reads meanwhile has the old one whole
    prometheus.write(path, found)
    assert path.read_text() == prometheus.exposition(found) and reader.read() == "old\n"
    assert [p.name for p in folder.iterdir()] == ["accel.prom"], "no part is left for the collector to read"
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044 & ~_umask()
    reader.close()
    with pytest.raises(OSError):
        prometheus.write(folder / "missing" / "x.prom", found)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_importing_it_registers_nothing_and_loads_no_client() -> None:
    code = (
        "import sys, accel.monitoring.prometheus; assert 'prometheus_client' not in sys.modules;"
        "import prometheus_client as p; n = len(list(p.REGISTRY.collect()));"
        "from accel.monitoring.facts import Facts; from accel.monitoring.report import report;"
        "from datetime import datetime, UTC; t = datetime(2026, 1, 1, tzinfo=UTC);"
        "from accel.core.offer import Realm;"
        "accel.monitoring.prometheus.exposition(report(Facts(Realm.REAL, t, t, t)));"
        "assert len(list(p.REGISTRY.collect())) == n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
