"""What is written is what is read; a file that is not ours, or not of this realm, is an error in one line."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from books import Clock, draw
from hypothesis import given
from hypothesis import strategies as st

from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.errors import LedgerError, OverBudget, UsageError
from accel.core.lease import Intent, Lease
from accel.core.money import ZERO, Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Offer, Realm
from accel.core.row import Provenance, Row
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.ledger import Budgets, JobStep, Ledger, Limits, Period, decisions, jobs
from accel.ledger.database import dump
from accel.ledger.jobs import NEXT

NOW = datetime(2026, 11, 23, 12, 30, 0, 123456, tzinfo=UTC)
RATE = Rate(NanoUSD(160_000_000), date(2026, 11, 23), "test")
OFFER = Offer("o", "kaggle", Realm.SANDBOX, CPU, RATE, NOW, "test")
SPEC = Spec(Stage.EMBED, "minilm", "abc")
SECONDS = st.floats(0, 1e6)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite3", Realm.SANDBOX, lambda: NOW)


def intent(ident: str = "i") -> Intent:
    return Intent(ident, "t", OFFER, f"accel-{ident}", 60.0, NOW, Path("/tmp/bundle"))


def task(ident: str = "t") -> Task:
    spec = Spec(Stage.EMBED)
    return Task(ident, Lane.BATCH, spec, Size(3, 40, 50, 60), Need(Stage.EMBED, Lane.BATCH))


def attempt(ident: str, seconds: float = 1.0, **changes: object) -> Attempt:
    fields: dict[str, object] = {
        "id": ident, "task_id": "t", "provider": "kaggle", "realm": Realm.SANDBOX, "offer_id": "o",
        "outcome": Outcome.OK, "timing": Timing(compute_s=seconds), "cost": Cost(NanoUSD(7), Basis.ESTIMATED),
    }  # fmt: skip
    return Attempt(**(fields | changes))  # type: ignore[arg-type]


@given(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS), st.integers(0, 2**62), st.text(max_size=20))
def test_attempts_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, seconds: tuple[float, ...], nano: int, detail: str
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("l") / "l.sqlite3", Realm.SANDBOX)
    wrote = attempt("a", timing=Timing(*seconds), cost=Cost(NanoUSD(nano), Basis.BILLED), detail=detail)
    ledger.record_attempt(wrote, SPEC, Size(2, 9))
    ledger.record_attempt(attempt("a", 99.0), SPEC, Size(2, 9))  # again after a crash: no change
    assert ledger.attempts("t") == (wrote,)
    assert ledger.measured("kaggle", Stage.EMBED) == [(Size(2, 9), wrote.timing)]
    ledger.close()


def test_estimates_learn_from_the_newest_successes_of_this_stage_and_provider(ledger: Ledger) -> None:
    for n in range(30):
        ledger.record_attempt(attempt(f"a{n}", float(n)), SPEC, Size(n))
    ledger.record_attempt(attempt("b", 99.0, outcome=Outcome.FAILED), SPEC, Size(1))
    ledger.record_attempt(attempt("c", 98.0), Spec(Stage.RERANK), Size(1))
    ledger.record_attempt(attempt("d", 97.0, provider="vast"), SPEC, Size(1))
    found = ledger.measured("kaggle", Stage.EMBED, last=5)
    assert [(s.items, t.compute_s) for s, t in found] == [(n, float(n)) for n in (29, 28, 27, 26, 25)]


def test_recent_attempts_come_back_whole_oldest_first_with_their_age(tmp_path: Path) -> None:
    clock = Clock(NOW)
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.SANDBOX, clock)
    ledger.record_attempt(attempt("old"), SPEC, Size(1))
    clock.move(hours=1)
    failed = attempt("a", outcome=Outcome.FAILED, error="Unreachable", detail="no", hedge=True, lease_id="l")
    ledger.record_attempt(failed, SPEC, Size(3, 40))
    clock.move(seconds=90)
    billed = attempt("b", 0.1 + 0.2, cost=Cost(NanoUSD(5), Basis.BILLED), provider="vast")
    ledger.record_attempt(billed, Spec(Stage.RERANK), Size(2))
    clock.move(seconds=10)
    assert ledger.recent(300.0) == [
        (failed, Stage.EMBED, "minilm@abc", Size(3, 40), 100.0), (billed, Stage.RERANK, "", Size(2), 10.0)
    ]  # fmt: skip
    clock.move(days=-1)
    assert [age for *_, age in ledger.recent(300.0)] == [0.0, 0.0, 0.0]


def test_realms_do_not_mix(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="realm sandbox"):
        ledger.record_attempt(attempt("a", realm=Realm.REAL), SPEC, Size(1))
    env = Provenance("cpu", 2, "none", "linux", "3.11", {"accel": "0"}, "abc", NOW)
    row = Row({"batch": 1}, "latency", "s", (0.1,), "none: first", True, Realm.SIMULATED, env)
    with pytest.raises(LedgerError, match="realm"):
        ledger.record_rows([row])
    with pytest.raises(LedgerError, match="realm sandbox; expected 3, real"):
        Ledger(ledger.path, Realm.REAL)


def test_measurements_of_a_job_are_replaced_not_doubled(ledger: Ledger) -> None:
    env = Provenance("cpu", 2, "none", "linux", "3.11", {"accel": "0"}, "abc", NOW)
    rows = [
        Row({"batch": n}, "latency", "s", (0.1, 0.2), "none: first", True, Realm.SANDBOX, env)
        for n in (1, 8)
    ]
    ledger.record_rows(rows, "j")
    ledger.record_rows(rows, "j")
    ledger.record_rows(rows[:1], "k")
    assert ledger.measurements("j") == tuple(rows)
    assert len(ledger.measurements()) == 3


def test_an_intent_and_its_reservation_are_one(ledger: Ledger) -> None:
    job = jobs.add(ledger, "t", task(), Path("/tmp/j"))
    before = ledger.rows("SELECT * FROM job")
    short = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(60 * 160_000_000 // 3600)}, {}))
    with pytest.raises(OverBudget):
        jobs.intend(ledger, short, job, intent(), "d")
    assert (ledger.open_leases(), ledger.held(), ledger.rows("SELECT * FROM job")) == ((), 0, before)
    assert ledger.rows("SELECT key FROM alert") == [("budget:all:month:2026-11:refused",)]
    enough = Budgets(ledger, Limits({("", Period.MONTH): RATE.cost(60.0)}, {}))
    assert jobs.intend(ledger, enough, job, intent(), "d").step is JobStep.INTENDED
    assert (ledger.open_leases(), ledger.held()) == ((intent(),), 1)
    assert ledger.lease("i") == ("intended", intent(), None)
    lease = Lease("i", "kaggle", Realm.SANDBOX, "accel-i", "me/accel-i", NOW, NOW)
    ledger.lease_opened("i", lease)
    assert ledger.lease("i") == ("open", intent(), lease)
    ledger.lease_ended("i", "released", "confirmed")
    assert ledger.lease("i") == ("released", intent(), lease)
    assert ledger.open_leases() == ()
    with pytest.raises(LedgerError):
        ledger.intend(intent())  # one thing per name, for ever


def test_what_a_lease_holds_is_left_to_whoever_carries_its_job_on(tmp_path: Path) -> None:
    """Its process is gone; the thing may run on for hours, and its successor settles it."""
    before = Ledger(tmp_path / "l", Realm.SANDBOX, lambda: NOW)
    limits = Limits({("", Period.DAY): NanoUSD(10**9)}, {})
    job = jobs.add(before, "t", task(), Path("/tmp/j"))
    jobs.intend(before, Budgets(before, limits), job, intent(), "d")
    before.close()
    after = Ledger(tmp_path / "l", Realm.SANDBOX, lambda: NOW)
    budgets = Budgets(after, limits)
    assert (budgets.recover(), after.orphans(), after.held()) == (0, (), 1)
    after.lease_ended("i", "released", "confirmed")
    assert (budgets.recover(), after.held()) == (1, 0)  # an ended lease answers for nothing any more


def test_what_is_not_there_is_an_error(ledger: Ledger) -> None:
    lease = Lease("x", "kaggle", Realm.SANDBOX, "n", "r", NOW, NOW)
    for call in (
        lambda: ledger.account("x"), lambda: ledger.limit("x", 1), lambda: ledger.lease("x"),
        lambda: ledger.lease_opened("x", lease), lambda: ledger.lease_ended("x", "absent", ""),
        lambda: jobs.get(ledger, "x"), lambda: ledger.reserve("h", draw(1, "x"), "t"),
    ):  # fmt: skip
        with pytest.raises(LedgerError, match="the ledger has no"):
            call()
    with pytest.raises(UsageError, match="no decision"):
        decisions.find(ledger, "x")


@pytest.mark.parametrize("step", JobStep)
@pytest.mark.parametrize("to", JobStep)
def test_a_job_moves_only_along_next(ledger: Ledger, step: JobStep, to: JobStep) -> None:
    jobs.add(ledger, "j", task(), Path("/tmp/j"))
    ledger.rows("UPDATE job SET step = ?", step.value)
    job = jobs.get(ledger, "j")
    if to in NEXT[step]:
        moved = jobs.advance(ledger, job, to, error="why")
        assert (moved.step, moved.tries, moved.error) == (to, int(to is JobStep.QUEUED), "why")
        if to is not step:
            with pytest.raises(LedgerError, match="another process"):
                jobs.advance(ledger, job, to)  # from what it was before: somebody was faster
    else:
        with pytest.raises(LedgerError, match="cannot go from"):
            jobs.advance(ledger, job, to)
        assert jobs.get(ledger, "j") == job


def test_every_step_that_is_not_the_end_leads_to_an_end() -> None:
    for step in JobStep:
        seen, todo = set(), {step}
        while todo:
            seen |= todo
            todo = {n for s in todo for n in NEXT[s]} - seen
        assert step.terminal == (not NEXT[step])
        ends = {step} if step.terminal else {JobStep.DONE, JobStep.FAILED}
        assert {s for s in seen if s.terminal} == ends


def test_jobs_come_back_whole_and_only_once(ledger: Ledger) -> None:
    job = jobs.add(ledger, "j", task(), Path("/tmp/j"))
    assert (job.task, job.folder, job.step, job.tries) == (task(), Path("/tmp/j"), JobStep.QUEUED, 0)
    assert jobs.unfinished(ledger) == (job,)
    with pytest.raises(LedgerError, match="already"):
        jobs.add(ledger, "j", task(), Path("/tmp/k"))
    jobs.advance(ledger, job, JobStep.FAILED)
    assert jobs.unfinished(ledger) == ()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look at " * 40, b"SQLite format 3\0" + b"\xff" * 200]
)
def test_a_file_that_is_no_ledger_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        Ledger(path, Realm.REAL)
    assert "ACCEL_HOME" in str(caught.value)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.sqlite3", Realm.REAL)


def test_a_damaged_row_is_an_error_and_not_a_guess(ledger: Ledger) -> None:
    ledger.record_attempt(attempt("a"), SPEC, Size(1))
    ledger.rows("UPDATE attempt SET body = replace(body, 'sandbox', 'elsewhere')")
    with pytest.raises(LedgerError, match="damaged Attempt"):
        ledger.attempts("t")


def test_unknown_or_missing_fields_do_not_load(ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        ledger.load(Timing, '{"wait_s": "soon"}')
    with pytest.raises(LedgerError):
        ledger.load(Rate, '{"nano_per_hour": -5, "as_of": "2026-01-01", "source": "x"}')
    assert ledger.load(Rate, dump(Rate(ZERO, date(2026, 1, 1), "x"))).free


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    ledger.open_account("money", "nano_usd")

    def work(n: int) -> None:
        for i in range(20):
            ledger.reserve(f"{n}-{i}", draw(1), "t")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.account("money").held == 80


def test_a_transaction_has_the_file_to_itself_from_its_first_moment(ledger: Ledger) -> None:
    """What it reads cannot be changed by another process before it writes."""
    other, done = Ledger(ledger.path, Realm.SANDBOX), threading.Event()

    def write() -> None:
        other.open_account("money", "nano_usd")
        done.set()

    thread = threading.Thread(target=write)
    with ledger.transaction():
        thread.start()
        assert not done.wait(0.3)
    thread.join(20)
    assert done.is_set()


def test_the_limit_is_the_tables_own(ledger: Ledger) -> None:
    """No code path of ours can get around it, nor can somebody with the sqlite3 tool."""
    ledger.open_account("money", "nano_usd", 10)
    with pytest.raises(sqlite3.IntegrityError), sqlite3.connect(ledger.path) as db:
        db.execute("UPDATE account SET spent = 11")


def test_a_joined_part_is_a_transaction_of_its_own_where_none_is_open(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.joined():
        ledger.open_account("never", "nano_usd")
        raise ZeroDivisionError
    with ledger.joined():
        ledger.open_account("money", "nano_usd")
    assert [a.name for a in ledger.accounts()] == ["money"]


def test_who_goes_on_after_a_joined_part_failed_is_undone_as_a_whole(ledger: Ledger) -> None:
    def fail() -> None:
        with ledger.joined() as db:
            ledger.open_account("part", "nano_usd")
            db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(LedgerError, match="the whole of it is undone"), ledger.transaction():
        ledger.open_account("before", "nano_usd")
        with pytest.raises(LedgerError, match="nowhere"):
            fail()
        ledger.open_account("after", "nano_usd")
    assert ledger.accounts() == ()
    with ledger.transaction():
        ledger.open_account("kept", "nano_usd")
        with pytest.raises(LedgerError, match="nowhere"), ledger.transaction():  # undone alone, with its part
            fail()
    assert [a.name for a in ledger.accounts()] == ["kept"]
