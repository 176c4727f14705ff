"""20 seeds of 5,000 requests, every class of faults among them: no invariant breaks. And the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from accel.cli import simulating
from accel.simulation import Simulated, campaign, simulate
from accel.simulation.campaign import struck
from accel.simulation.faults import RATES, Fault
from accel.simulation.invariants import Violation

SEEDS, REQUESTS = 20, 5_000


@pytest.fixture(scope="module")
def results() -> list[Simulated]:
    return sorted(campaign(range(SEEDS), REQUESTS, processes=2), key=lambda r: r.seed)


@pytest.mark.timeout(600)
def test_twenty_seeds_hold_every_invariant(results: list[Simulated]) -> None:
    assert [r.seed for r in results] == list(range(SEEDS))
    assert {r.seed: r.violations for r in results if r.violations} == {}


@pytest.mark.timeout(600)
def test_every_class_of_faults_struck_as_often_as_was_said(results: list[Simulated]) -> None:
    """Over 100,000 requests; some of a class may have waited in vain for a call to strike."""
    total = struck(results)
    assert sum(total.values()) >= 1_050
    for kind in Fault:
        assert total[kind] >= 0.75 * RATES[kind], kind
    for result in results:
        assert sum(count > 0 for count in result.faults.values()) >= len(Fault) - 2


@pytest.mark.timeout(600)
def test_the_campaign_meets_what_it_is_to_judge(results: list[Simulated]) -> None:
    """Routers die, limits stop work in some runs and not in others, alerts are sent, jobs end both ways."""
    assert sum(r.lives for r in results) > SEEDS
    assert 0 < sum(r.stopped for r in results) < SEEDS
    assert any(r.alerts for r in results)
    assert {"done", "failed"} <= {how for r in results for how in r.jobs}
    assert len({r.trace_hash for r in results}) == SEEDS


def accel(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accel", *argv], capture_output=True, text=True, timeout=100, check=False
    )


def test_the_command_prints_one_object_and_the_seed_alone_gives_the_same_trace() -> None:
    alone = accel("simulate", "--seed", "3", "--requests", "150", "--json")
    assert alone.returncode == 0, alone.stderr
    told = json.loads(alone.stdout)
    assert (told["realm"], told["seed"], told["violations"]) == ("simulated", 3, [])
    several = accel("simulate", "--seed", "2", "--seeds", "2", "--requests", "150", "--json")
    runs = {run["seed"]: run for run in json.loads(several.stdout)["runs"]}
    assert runs[3]["trace_hash"] == told["trace_hash"]
    assert runs.keys() == {2, 3}


def test_a_broken_invariant_is_named_with_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = str(Violation(2, "spot-l4: r1 is charged 5, and billed 7"))
    found = replace(simulate(1, 30), violations=(words,), broken=(2,))
    monkeypatch.setattr(simulating, "simulate", lambda *_, **__: found)
    with pytest.raises(SystemExit) as ended:
        simulating.show_simulation(1, 30, as_json=False)
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert "invariant 2 (the ledger says what the invoices say)" in out
    assert "replay: accel simulate --seed 1 --requests 30" in err


def test_an_interrupt_is_one_line() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "accel", "simulate", "--requests", "100000"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert running.stderr.readline() == "simulating: 0 of 100,000\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1].startswith("accel: interrupted; a simulation keeps nothing")
