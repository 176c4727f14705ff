"""``accel leases | cost | reap``: what they print, in 80 columns and as JSON, and that looking changes
nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from books import Clock
from renting import LIMITS, ODD, SPEC, vectors

from accel.cli import main
from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.lease import Intent, Lease
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Billing, Gpu, Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Stage
from accel.ledger import Budgets, Ledger, leases
from accel.ledger.leases import Purpose
from accel.testing.mock_rental import MockRental

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock) -> Run:
    standing = replace(Runtime.production(), now=clock)
    monkeypatch.setattr(Runtime, "production", lambda: standing)
    monkeypatch.setenv("COLUMNS", "80")

    def called(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accel", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return called


def path() -> Path:
    return Path(os.environ["ACCEL_HOME"]) / "real" / "ledger.sqlite3"


def rented(
    ledger: Ledger, clock: Clock, ident: str, purpose: Purpose, provider: str, lifetime_s: float = 3600.0
) -> Intent:
    offer = Offer(
        f"{provider}-7", provider, Realm.REAL, Gpu("RTX A4000", 1, 16 << 30, 86), ODD, clock(), "test",
        billing=Billing.SECONDS, exclusive=provider == "vast",
    )  # fmt: skip
    intent = Intent(ident, ident, offer, f"accel-{ident}", lifetime_s, clock())
    Budgets(ledger, LIMITS).rent(intent, purpose)
    lease = Lease(ident, provider, Realm.REAL, intent.name, f"r-{ident}", clock(), clock())
    ledger.lease_opened(ident, replace(lease, ends_by=clock.now.replace(hour=13)))
    return intent


def tried(ledger: Ledger, ident: str, lease: str, stage: Stage, amount: int, provider: str) -> None:
    ledger.record_attempt(
        Attempt(ident, ident, provider, Realm.REAL, "o", Outcome.OK, Timing(compute_s=1.0),
                Cost(NanoUSD(amount), Basis.ESTIMATED), lease), replace(SPEC, stage=stage), Size(1),
    )  # fmt: skip


@pytest.fixture
def filled(clock: Clock) -> Ledger:
    """A job that was billed, a replica that serves, one that nobody confirmed the end of."""
    ledger = Ledger(path(), Realm.REAL, clock)
    budgets = Budgets(ledger, LIMITS)
    job = rented(ledger, clock, "job-0", Purpose.JOB, "runpod")
    tried(ledger, "job-0", "job-0", Stage.EMBED, 50_000, "runpod")
    budgets.settle("job-0", job.offer, 60.0, Cost(NanoUSD(47_111), Basis.BILLED), NanoUSD(50_000))
    ledger.lease_ended("job-0", "released", "it says so")
    rented(ledger, clock, "live-abcdefabcdef", Purpose.REPLICA, "vast")
    leases.use(ledger, "live-abcdefabcdef")
    leases.ready(ledger, "live-abcdefabcdef")
    tried(ledger, "q1", "live-abcdefabcdef", Stage.EMBED, 30_000, "vast")
    tried(ledger, "q2", "live-abcdefabcdef", Stage.RERANK, 12_345, "vast")
    lost = rented(ledger, clock, "lost-0", Purpose.JOB, "modal")
    budgets.settle("lost-0", lost.offer, 3600.0, Cost(ODD.cost(3600), Basis.ESTIMATED))
    ledger.lease_ended("lost-0", "abandoned", "it cannot be reached")
    clock.move(minutes=10)
    return ledger


def test_what_is_rented_is_shown_with_its_age_and_price(run: Run, filled: Ledger) -> None:
    code, out, _ = run("leases")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for word in ("serving", "may still run", "10 min", "$0.79/h", "11-23 13:00", "accel reap --yes",
                 "0 days old", "RTX A4000"):  # fmt: skip
        assert word in out, word
    assert "job-0" not in out
    assert "job-0" in run("leases", "--all")[1]
    _, out, _ = run("leases", "--json")
    told = json.loads(out)
    assert (told["schema"], told["realm"]) == (1, "real")
    serving, lost = told["leases"]
    assert (serving["shown"], serving["charge_basis"], serving["age_s"]) == ("serving", "so far", 600.0)
    assert serving["charge_nano_usd"] == ODD.cost(600)
    assert serving["held_nano_usd"] == ODD.cost(3600)
    assert (lost["state"], lost["may_run"], lost["charge_nano_usd"]) == ("abandoned", True, ODD.cost(3600))


def test_nothing_rented_and_no_ledger_are_said_and_make_none(run: Run) -> None:
    for command in ("leases", "cost"):
        code, out, _ = run(command)
        assert (code, "real realm" in out) == (0, True)
        assert json.loads(run(command, "--json")[1])["realm"] == "real"
    assert not path().exists()


def test_costs_add_up(run: Run, filled: Ledger) -> None:
    _, out, _ = run("cost", "--json")
    told = json.loads(out)
    assert told["spent"] == {"billed_nano_usd": 47_111, "estimated_nano_usd": ODD.cost(3600)}
    assert told["held_nano_usd"] == ODD.cost(3600)
    assert told["billed_against_estimated"] == {
        "charges": 1, "estimated_nano_usd": 50_000, "billed_nano_usd": 47_111
    }  # fmt: skip
    for lease in told["leases"]:
        assert sum(lease["shares_nano_usd"].values()) + lease["idle_nano_usd"] == lease["charge_nano_usd"]
    job, live, _ = told["leases"]
    assert (job["shares_nano_usd"], job["was_estimated_nano_usd"]) == ({"embed": 47_111}, 50_000)
    assert live["shares_nano_usd"] == {"embed": 30_000, "rerank": 12_345}
    by_stage = {(x["provider"], x["stage"]): x for x in told["by_provider_and_stage"]}
    assert by_stage["runpod", "embed"]["billed_nano_usd"] == 47_111
    assert {p["period"] for p in told["projections"]} == {"day", "week", "month"}
    code, out, _ = run("cost")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for word in ("held $0.79", "billed", "idle", "avoided", "at the month's end"):
        assert word in out, word
    assert json.loads(run("cost", "--json", "--since", "1m")[1])["spent"]["billed_nano_usd"] == 0


def test_looking_changes_nothing(run: Run, filled: Ledger) -> None:
    before = [filled.rows(f"SELECT * FROM {t}") for t in ("lease", "charge", "hold", "account", "lease_user")]
    for command in (("leases",), ("leases", "--all"), ("cost",)):
        run(*command)
    after = [filled.rows(f"SELECT * FROM {t}") for t in ("lease", "charge", "hold", "account", "lease_user")]
    assert before == after


def test_reap_says_first_and_does_when_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock
) -> None:
    runtime = Runtime.production()
    cloud = MockRental(
        "vast", runtime, folder=tmp_path, rate=ODD, answer=vectors, asks=1, realm=Realm.REAL
    )
    monkeypatch.setattr("accel.gpu_accelerator.roster", lambda *_, **__: [cloud])
    ledger = Ledger(path(), Realm.REAL, clock)

    async def rent() -> None:
        offer = await cloud.probe(Need(Stage.EMBED, Lane.BATCH))
        assert isinstance(offer, Offer)
        intent = Intent("live-1", "live-1", offer, "accel-live-1", 3600.0, clock())
        Budgets(ledger, LIMITS).rent(intent, Purpose.REPLICA)
        await cloud.create(intent)  # killed before the answer was stored

    asyncio.run(rent())
    clock.move(minutes=5)
    code, out, _ = run("reap")
    assert (code, len(cloud.rented)) == (0, 1)
    assert max(map(len, out.splitlines())) <= 80
    assert "accel reap --yes" in out
    looked = json.loads(run("reap", "--json")[1])
    assert (looked["dry_run"], [f["action"] for f in looked["findings"]]) == (True, ["release"])
    code, out, _ = run("reap", "--yes", "--json")
    (found,) = json.loads(out)["findings"]
    assert (code, found["ended"], found["charge_nano_usd"]) == (0, True, cloud.billed)
    assert (cloud.rented, ledger.held()) == ((), 0)
    assert "nothing is to be ended" in run("reap", "--yes")[1]


def test_what_cannot_be_ended_is_an_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock, filled: Ledger
) -> None:
    cloud = MockRental("modal", Runtime.production(), folder=tmp_path, rate=ODD, realm=Realm.REAL)
    cloud.fail("*", lost=True, times=0)
    monkeypatch.setattr("accel.gpu_accelerator.roster", lambda *_, **__: [cloud])
    code, out, _ = run("reap", "--yes")
    assert code == 1
    assert "may still run" in out
    assert "vast is not set up now" in out


