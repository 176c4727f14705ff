"""A ledger of schema 1, with everything in it that a person's may have, opens and says the same."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from books import Clock

from accel.core.attempt import Attempt, Estimate, Outcome, Refusal, Route, Scored, Timing
from accel.core.errors import LedgerError, OverBudget
from accel.core.lease import Intent, Lease
from accel.core.money import ZERO, Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Billing, Offer, Realm
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.ledger import Budgets, JobStep, Ledger, Limits, Period, decisions, jobs, leases
from accel.ledger.database import dump
from accel.routing import Inputs, State

SCHEMA_1 = Path(__file__).with_name("schema_1.sql")
NOW = datetime(2026, 11, 20, 12, 30, 0, 123456, tzinfo=UTC)
FREE = Rate(ZERO, date(2026, 11, 20), "Kaggle is free")
KAGGLE = Offer("k", "kaggle", Realm.REAL, CPU, FREE, NOW, "test", quota_left_s=3600.0)
LOCAL = Offer("l", "local", Realm.REAL, CPU, replace(FREE, source="this machine"), NOW, "test")
TASK = Task("t", Lane.BATCH, Spec(Stage.EMBED), Size(3, 40), Need(Stage.EMBED, Lane.BATCH))
INTENT = Intent("t-0", "t", KAGGLE, "accel-t-0", 600.0, NOW, Path("/tmp/bundle"))
LEASE = Lease("t-0", "kaggle", Realm.REAL, "accel-t-0", "me/accel-t-0", NOW, NOW)
ATTEMPT = Attempt(
    "s-0", "s", "kaggle", Realm.REAL, "k", Outcome.OK, Timing(compute_s=1.5), Cost(ZERO, Basis.ESTIMATED)
)  # fmt: skip
EXPECTED = Estimate(Timing(0.1), Cost(NanoUSD(7)), "prior")
ROUTE = Route(
    "t", (Scored(LOCAL, EXPECTED, 0.5, (("time", 0.5),), "first"), Scored(KAGGLE, EXPECTED, 0.7)),
    (Refusal("modal", "no key"),), "free-first-1", 0.25,
)  # fmt: skip


def old(value: Any) -> str:
    """As schema 1 stored it: without the fields that came later."""
    body = json.loads(dump(value))

    def strip(it: Any) -> Any:
        if isinstance(it, dict):
            later = {"billing", "quota_s", "quota_resets_at", "spread", "success", "hedge", "target_s"}
            return {k: strip(v) for k, v in it.items() if k not in later}
        return [strip(v) for v in it] if isinstance(it, list) else it

    return json.dumps(strip(body))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """What the program of schema 1 left: a job under way on Kaggle, one that ended, a decision for each."""
    path, at = tmp_path / "ledger.sqlite3", NOW.isoformat()
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_1.read_text())

    def insert(table: str, *rows: tuple[Any, ...]) -> None:
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    insert("meta", ("schema", "1"), ("realm", "real"))
    insert(
        "account", ("kaggle quota", "gpu_ms", 4_200_000, 500_000, 600_000, 7),
        ("money", "nano_usd", None, 40, 2, 3),
    )  # fmt: skip
    insert("hold", ("t-0", "kaggle quota", 600_000, "t", at), ("lost", "money", 2, "u", at))
    insert(
        "charge", ("s-0", "kaggle quota", 500_007, "estimated", dump(FREE), "s", at),
        ("r-0", "money", 43, "billed", dump(LOCAL.rate), "r", at),
    )  # fmt: skip
    insert(
        "lease", ("t-0", "kaggle", "accel-t-0", "open", old(INTENT), dump(LEASE), "", at),
        ("s-0", "kaggle", "accel-s-0", "released", old(replace(INTENT, id="s-0")), None, "ok", at),
    )  # fmt: skip
    insert("job", ("t", old(TASK), "/tmp/t", "running", 0, "d1", "t-0", "", at, at))
    insert("attempt", ("s-0", "s", "kaggle", "embed", "ok", 3, 40, old(ATTEMPT), at))
    insert("measurement", (1, "s", "{}", at))
    inputs = Inputs(TASK, (KAGGLE, LOCAL), (), State(order=("local",)), 0.25)
    for ident, parent in (("d1", "q1"), ("d2", "")):
        insert("decision", (ident, "t", parent, old(inputs), old(ROUTE), at))
    db.commit()
    db.close()
    return path


def shape(path: Path) -> dict[str, Any]:
    """Tables with their columns, and indexes, whatever order they were made in."""
    db = sqlite3.connect(path)
    names = db.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
    return {
        name: [row[1:] for row in db.execute(f"PRAGMA {kind}_info({name})")]
        for kind, name, _ in names
    }


def test_everything_that_was_said_is_still_said(path: Path) -> None:
    ledger = Ledger(path, Realm.REAL, Clock(NOW))
    books_agree_but_for_what_was_not_kept(ledger)
    quota, money = ledger.account("kaggle quota"), ledger.account("money")
    assert (quota.cap, quota.spent, quota.held, quota.over) == (4_200_000, 500_000, 600_000, 7)
    assert (money.cap, money.spent, money.held, money.over) == (None, 40, 2, 3)
    assert ledger.lease("t-0") == (
        "open", replace(INTENT, offer=replace(KAGGLE, billing=Billing.QUOTA)), LEASE
    )  # fmt: skip
    (job,) = jobs.unfinished(ledger)
    assert (job.id, job.task, job.step, job.decision) == ("t", TASK, JobStep.RUNNING, "d1")
    assert ledger.attempts("s") == (ATTEMPT,)
    assert ledger.recent(60.0) == [(ATTEMPT, Stage.EMBED, "", Size(3, 40), 0.0)]
    assert ledger.rows("SELECT * FROM measurement") == [(1, "s", "{}", NOW.isoformat())]
    assert ledger.rows("SELECT hold_id, amount, basis, provider, fund FROM charge ORDER BY 1") == [
        ("r-0", 43, "billed", "", "budget"), ("s-0", 500_007, "estimated", "kaggle", "quota")
    ]  # fmt: skip
    assert ledger.load(Rate, ledger.rows("SELECT rate FROM hold WHERE id = 't-0'")[0][0]) == FREE
    assert ledger.load(Rate, ledger.rows("SELECT rate FROM hold WHERE id = 'lost'")[0][0]).free
    first, second = decisions.find(ledger, "t")
    assert (first.id, first.parent, first.route, second.id) == ("d1", "q1", ROUTE, "d2")
    stored = ledger.load(Inputs, first.inputs)
    assert stored == Inputs(TASK, (KAGGLE, LOCAL), (), State(order=("local",)), 0.25)
    assert ledger.rows("SELECT count(*) FROM offer") == [(2,)]
    assert decisions.latest(ledger) == "t"


def books_agree_but_for_what_was_not_kept(ledger: Ledger) -> None:
    """How much had been held for a charge was not: above it, nobody knows by how much."""
    for account in ledger.accounts():
        assert account.cap is None or account.spent + account.held <= account.cap
    assert ledger.rows("SELECT sum(amount) FROM hold WHERE accounts = '[\"kaggle quota\"]'") == [(600_000,)]


def test_what_was_under_way_is_settled_in_what_it_was_held_in(path: Path) -> None:
    ledger = Ledger(path, Realm.REAL, Clock(NOW))
    budgets = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(100)}, {}))
    assert [h.id for h in ledger.orphans()] == ["lost"]  # the other belongs to a lease
    _, intent, _ = ledger.lease("t-0")
    assert budgets.settle("t-0", intent.offer, 60.0, Cost())
    assert budgets.recover() == 1
    assert ledger.held() == 0
    quota = ledger.account("kaggle quota")
    assert (quota.spent, quota.held, quota.cap) == (560_000, 0, 4_200_000)  # the limit is what it was
    word = replace(KAGGLE, billing=Billing.QUOTA, quota_left_s=100.0, as_of=NOW + timedelta(minutes=1))
    clock = Clock(NOW + timedelta(minutes=2))
    later = Budgets(Ledger(path, Realm.REAL, clock), Limits({}, {}))
    with pytest.raises(OverBudget):
        later.reserve("x", word, 101.0, "t")
    later.reserve("x", word, 100.0, "t")
    # the month's budget knows what the month has cost before there was one
    (told,) = budgets.funds([replace(KAGGLE, provider="vast", quota_left_s=None)])
    assert told.left == 100 - 43 - 2


def test_a_migrated_file_is_shaped_like_a_new_one(path: Path, tmp_path: Path) -> None:
    Ledger(path, Realm.REAL).close()
    new = tmp_path / "new.sqlite3"
    Ledger(new, Realm.REAL).close()
    assert shape(path) == shape(new)
    db = sqlite3.connect(path)
    strict = "SELECT name, strict, wr FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    assert set(db.execute(strict)) == set(sqlite3.connect(new).execute(strict))
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE account SET spent = cap + 1 WHERE name = 'kaggle quota'")


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE decision SET route = '{}' WHERE id = 'd2'")
    db.commit()
    before = list(db.iterdump())
    db.close()
    with pytest.raises(LedgerError, match="damaged decision 'd2'"):
        Ledger(path, Realm.REAL)
    assert list(sqlite3.connect(path).iterdump()) == before


def test_a_ledger_of_another_realm_or_a_later_schema_is_not_touched(path: Path) -> None:
    before = list(sqlite3.connect(path).iterdump())
    with pytest.raises(LedgerError, match="schema 1, realm real; expected 3, sandbox"):
        Ledger(path, Realm.SANDBOX)
    assert list(sqlite3.connect(path).iterdump()) == before
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value = '4' WHERE key = 'schema'")
    db.commit()
    with pytest.raises(LedgerError, match="schema 4, realm real; expected 3, real"):
        Ledger(path, Realm.REAL)


def test_a_migrated_ledger_is_not_migrated_again(path: Path) -> None:
    Ledger(path, Realm.REAL).close()
    before = list(sqlite3.connect(path).iterdump())
    Ledger(path, Realm.REAL).close()
    assert list(sqlite3.connect(path).iterdump()) == before


# Schema 2 -----------------------------------------------------------------------------------------

SCHEMA_2 = Path(__file__).with_name("schema_2.sql")
PAID = replace(
    LOCAL, id="p", provider="cloud", billing=Billing.SECONDS,
    rate=Rate(NanoUSD(3600), date(2026, 11, 20), "test"),
)  # fmt: skip
RENTED = Intent("u-0", "u", PAID, "accel-u-0", 600.0, NOW, Path("/tmp/bundle"))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """What the program of schema 2 left: something rented, something abandoned, charges of both kinds."""
    path, at = tmp_path / "second.sqlite3", NOW.isoformat(timespec="microseconds")
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_2.read_text())
    later = {"exclusive", "lease_id", "movable"}

    def body(intent: Intent) -> str:
        told = json.loads(dump(intent))
        return json.dumps(told | {"offer": {k: v for k, v in told["offer"].items() if k not in later}})

    db.executemany("INSERT INTO meta VALUES (?, ?)", [("schema", "2"), ("realm", "real")])
    db.execute(
        "INSERT INTO account VALUES ('all:month:2026-11', 'nano_usd', 9000, 9000, 643, 600, 0, '', 'month', "
        "'2026-11-01T00:00:00.000000+00:00', '2026-12-01T00:00:00.000000+00:00', '')"
    )
    names, rate = '["all:month:2026-11"]', dump(PAID.rate)
    db.execute(
        "INSERT INTO hold VALUES ('u-0', ?, 'budget', 'cloud', 600, ?, 'u', '1-a', ?)", (names, rate, at)
    )
    db.executemany("INSERT INTO charge VALUES (?, ?, 'budget', 'cloud', ?, 600, ?, ?, ?, ?, ?)", [
        ("v-0", names, 600, "estimated", rate, "v", at, at), ("r-0", names, 43, "billed", rate, "r", at, at),
    ])  # fmt: skip
    ends = replace(LEASE, id="u-0", provider="cloud", name="accel-u-0", ends_by=NOW + timedelta(seconds=900))
    db.executemany("INSERT INTO lease VALUES (?, 'cloud', ?, ?, ?, ?, ?, ?)", [
        ("u-0", "accel-u-0", "open", body(RENTED), dump(ends), "", at),
        ("v-0", "accel-v-0", "abandoned", body(replace(RENTED, id="v-0", name="accel-v-0")), None, "?", at),
    ])  # fmt: skip
    db.commit()
    db.close()
    return path


def test_a_ledger_of_schema_2_says_all_it_said_and_what_may_still_run(second: Path, tmp_path: Path) -> None:
    clock = Clock(NOW)
    ledger = Ledger(second, Realm.REAL, clock)
    assert ledger.lease("u-0")[:2] == ("open", RENTED)
    running, lost = leases.unconfirmed(ledger)
    assert (running.ends_by, lost.ends_by) == (NOW + timedelta(seconds=900), NOW + timedelta(seconds=600))
    assert (running.made_at, running.purpose, lost.may_run(NOW)) == (NOW, "job", True)
    assert leases.launched(ledger, NOW - timedelta(hours=1)) == 2
    assert ledger.rows("SELECT hold_id, amount, basis, estimated FROM charge ORDER BY 1") == [
        ("r-0", 43, "billed", None), ("v-0", 600, "estimated", 600)
    ]  # fmt: skip
    budgets = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(9000)}, {}))
    assert budgets.settle("u-0", RENTED.offer, 60.0, Cost(NanoUSD(55), Basis.BILLED), NanoUSD(60))
    assert budgets.correct("v-0", Cost(NanoUSD(70), Basis.BILLED))
    assert not budgets.correct("r-0", Cost(NanoUSD(1), Basis.BILLED))
    month = ledger.account("all:month:2026-11")
    assert (month.used, month.held) == (55 + 70 + 43, 0)
    ledger.close()
    new = tmp_path / "new.sqlite3"
    Ledger(new, Realm.REAL).close()
    assert shape(second) == shape(new)


def test_a_damaged_lease_leaves_a_ledger_of_schema_2_as_it_was(second: Path) -> None:
    db = sqlite3.connect(second)
    db.execute("UPDATE lease SET intent = '{}' WHERE intent_id = 'v-0'")
    db.commit()
    before = list(db.iterdump())
    with pytest.raises(LedgerError, match="damaged lease 'v-0'"):
        Ledger(second, Realm.REAL)
    assert list(sqlite3.connect(second).iterdump()) == before
