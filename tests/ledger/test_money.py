"""spent + held never passes a limit, whatever is interleaved, in any number of processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from accel.core.errors import LedgerError, OverBudget
from accel.core.money import Basis, NanoUSD, Rate
from accel.core.offer import Realm
from accel.ledger import Ledger

RATE = Rate(NanoUSD(1), date(2026, 11, 23), "test")
AMOUNTS = st.integers(0, 120)


class Money(RuleBasedStateMachine):
    """Two connections to one file, and what must be true by plain arithmetic."""

    holds: Bundle[str] = Bundle("holds")
    settled: Bundle[str] = Bundle("settled")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ledger.sqlite3"
        self.ledgers = (Ledger(path, Realm.REAL), Ledger(path, Realm.REAL))
        self.ledgers[0].open_account("money", "nano_usd")
        self.cap: int | None = None
        self.open: dict[str, int] = {}
        self.spent = self.over = self.count = 0

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.folder.cleanup()

    @property
    def held(self) -> int:
        return sum(self.open.values())

    def room(self) -> float:
        return float("inf") if self.cap is None else self.cap - self.spent - self.held

    @rule(target=holds, amount=AMOUNTS, who=st.integers(0, 1))
    def reserve(self, amount: int, who: int) -> str:
        self.count += 1
        ident = f"h{self.count}"
        if amount <= self.room():
            self.ledgers[who].reserve(ident, "money", amount, "t")
            self.open[ident] = amount
        else:
            with pytest.raises(OverBudget, match="nothing was started"):
                self.ledgers[who].reserve(ident, "money", amount, "t")
        return ident

    @rule(target=settled, hold=consumes(holds), amount=AMOUNTS, who=st.integers(0, 1))
    def settle(self, hold: str, amount: int, who: int) -> str:
        done = self.ledgers[who].settle(hold, amount, Basis.ESTIMATED, RATE)
        assert done == (hold in self.open)
        if done:
            held = self.open.pop(hold)
            self.spent += min(amount, held)
            self.over += max(0, amount - held)
        return hold

    @rule(hold=settled, amount=AMOUNTS, who=st.integers(0, 1))
    def settle_again(self, hold: str, amount: int, who: int) -> None:
        assert not self.ledgers[who].settle(hold, amount, Basis.BILLED, RATE)

    @rule(cap=st.none() | st.integers(0, 400), who=st.integers(0, 1))
    def limit(self, cap: int | None, who: int) -> None:
        if cap is None or cap >= self.spent + self.held:
            self.ledgers[who].limit("money", cap)
            self.cap = cap
        else:
            with pytest.raises(OverBudget):
                self.ledgers[who].limit("money", cap)

    @rule(left=st.integers(-5, 200), who=st.integers(0, 1))
    def quota_told(self, left: int, who: int) -> None:
        self.ledgers[who].open_account("money", "nano_usd", left=left)
        self.cap = self.spent + self.held + max(0, left)

    @rule(amount=AMOUNTS, who=st.integers(0, 1))
    def failing_transaction_leaves_nothing(self, amount: int, who: int) -> None:
        with pytest.raises(ZeroDivisionError), self.ledgers[who].transaction():
            if amount <= self.room():
                self.ledgers[who].reserve("never", "money", amount, "t")
            raise ZeroDivisionError

    @rule(amount=AMOUNTS, who=st.integers(0, 1))
    def refused_part_does_not_undo_the_rest(self, amount: int, who: int) -> None:
        ledger = self.ledgers[who]
        self.count += 1
        with ledger.transaction():
            if amount <= self.room():
                ledger.reserve(f"h{self.count}", "money", amount, "t")
                self.open[f"h{self.count}"] = amount
            with pytest.raises(LedgerError):
                ledger.reserve("none", "no such account", 1, "t")

    @invariant()
    def the_books_agree(self) -> None:
        for ledger in self.ledgers:
            account = ledger.account("money")
            assert (account.spent, account.held, account.over) == (self.spent, self.held, self.over)
            assert account.cap is None or account.spent + account.held <= account.cap
            assert ledger.held() == len(self.open)
            assert ledger.rows("SELECT coalesce(sum(amount), 0) FROM hold") == [(self.held,)]
            assert ledger.rows("SELECT coalesce(sum(amount), 0) FROM charge") == [(self.spent + self.over,)]


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)

WORKER = """
import sys
from datetime import date
from pathlib import Path
from accel.core.errors import OverBudget
from accel.core.money import Basis, NanoUSD, Rate
from accel.core.offer import Realm
from accel.ledger import Ledger
path, who, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
ledger = Ledger(path, Realm.REAL)
ledger.open_account("money", "nano_usd")
got = refused = 0
for n in range(times):
    ident = f"{who}-{n}"
    try:
        ledger.reserve(ident, "money", 7, "t")
    except OverBudget:
        refused += 1
        continue
    got += 1
    if n % 2:
        ledger.settle(ident, 5, Basis.ESTIMATED, Rate(NanoUSD(1), date(2026, 1, 1), "test"))
print(got, refused)
"""


def test_eight_processes_reserve_and_settle_and_the_sums_are_exact(tmp_path: Path) -> None:
    """All open, reserve and settle at once; together they ask for more than there is."""
    path, processes, times, cap = tmp_path / "ledger.sqlite3", 8, 40, 1000
    with_cap = Ledger(path, Realm.REAL)
    with_cap.open_account("money", "nano_usd")
    with_cap.limit("money", cap)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), str(n), str(times)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for n in range(processes)
    ]  # fmt: skip
    for process in running:  # only now do they begin, together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [tuple(map(int, p.communicate(timeout=60)[0].split())) for p in running]
    assert all(p.returncode == 0 for p in running)
    got, refused = (sum(c[i] for c in counts) for i in range(2))
    account = with_cap.account("money")
    settled = with_cap.rows("SELECT count(*) FROM charge")[0][0]
    assert got + refused == processes * times
    assert refused > 0
    assert got == settled + with_cap.held()
    assert (account.spent, account.held) == (5 * settled, 7 * with_cap.held())
    assert cap - 7 < account.spent + account.held <= cap  # full to the last reservation that fits


def test_eight_processes_make_one_new_ledger_together(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite3"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), str(n), "3"], stdin=subprocess.PIPE, text=True
        )
        for n in range(8)
    ]  # fmt: skip
    for process in running:
        process.communicate("\n", timeout=60)
    assert [p.returncode for p in running] == [0] * 8
    assert Ledger(path, Realm.REAL).held() == 8 * 2  # of three reservations each, one was settled
