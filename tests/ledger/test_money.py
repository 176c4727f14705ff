"""spent + held never passes a limit, in any account of a hold, whatever is interleaved."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from books import books_agree, draw
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from accel.core.errors import LedgerError, OverBudget
from accel.core.money import Basis
from accel.core.offer import Realm
from accel.ledger import Ledger

AMOUNTS = st.integers(0, 120)
NAMES = ("a", "b")
SOME = st.sampled_from([("a",), ("b",), ("a", "b")])


class Money(RuleBasedStateMachine):
    """Two connections to one file with two accounts, and what must be true by plain arithmetic."""

    holds: Bundle[str] = Bundle("holds")
    settled: Bundle[str] = Bundle("settled")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ledger.sqlite3"
        self.ledgers = (Ledger(path, Realm.REAL), Ledger(path, Realm.REAL))
        for name in NAMES:
            self.ledgers[0].open_account(name, "nano_usd")
        self.limits: dict[str, int | None] = dict.fromkeys(NAMES)
        self.used = dict.fromkeys(NAMES, 0)
        self.open: dict[str, tuple[tuple[str, ...], int]] = {}
        self.count = 0

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.folder.cleanup()

    def room(self, names: tuple[str, ...]) -> float:
        rooms = [float("inf")]
        for name in names:
            limit = self.limits[name]
            if limit is not None:
                held = sum(amount for others, amount in self.open.values() if name in others)
                rooms.append(max(0, limit - self.used[name] - held))
        return min(rooms)

    @rule(target=holds, names=SOME, amount=AMOUNTS, who=st.integers(0, 1))
    def reserve(self, names: tuple[str, ...], amount: int, who: int) -> str:
        self.count += 1
        ident = f"h{self.count}"
        if amount <= self.room(names):
            self.ledgers[who].reserve(ident, draw(amount, *names), "t")
            self.open[ident] = names, amount
        else:
            with pytest.raises(OverBudget, match="nothing was started"):
                self.ledgers[who].reserve(ident, draw(amount, *names), "t")
        return ident

    @rule(target=settled, hold=consumes(holds), amount=AMOUNTS, who=st.integers(0, 1))
    def settle(self, hold: str, amount: int, who: int) -> str:
        accounts = self.ledgers[who].settle(hold, amount, Basis.ESTIMATED)
        names, _ = self.open.pop(hold, ((), 0))
        assert {a.name for a in accounts} == set(names)
        for name in names:
            self.used[name] += amount
        return hold

    @rule(hold=settled, names=SOME, amount=AMOUNTS, who=st.integers(0, 1))
    def never_again(self, hold: str, names: tuple[str, ...], amount: int, who: int) -> None:
        assert not self.ledgers[who].settle(hold, amount, Basis.BILLED)

    @rule(name=st.sampled_from(NAMES), limit=st.none() | st.integers(0, 400), who=st.integers(0, 1))
    def limit(self, name: str, limit: int | None, who: int) -> None:
        self.ledgers[who].limit(name, limit)
        self.limits[name] = limit

    @rule(names=SOME, amount=AMOUNTS, who=st.integers(0, 1))
    def failing_transaction_leaves_nothing(self, names: tuple[str, ...], amount: int, who: int) -> None:
        with pytest.raises(ZeroDivisionError), self.ledgers[who].transaction():
            if amount <= self.room(names):
                self.ledgers[who].reserve("never", draw(amount, *names), "t")
            raise ZeroDivisionError

    @rule(names=SOME, amount=AMOUNTS, who=st.integers(0, 1))
    def refused_part_does_not_undo_the_rest(self, names: tuple[str, ...], amount: int, who: int) -> None:
        ledger = self.ledgers[who]
        self.count += 1
        with ledger.transaction():
            if amount <= self.room(names):
                ledger.reserve(f"h{self.count}", draw(amount, *names), "t")
                self.open[f"h{self.count}"] = names, amount
            with pytest.raises(LedgerError):
                ledger.reserve("none", draw(1, "a", "no such account"), "t")

    @invariant()
    def the_books_agree(self) -> None:
        for ledger in self.ledgers:
            books_agree(ledger)
            assert ledger.held() == len(self.open)
            for name in NAMES:
                account = ledger.account(name)
                assert account.used == self.used[name]
                left = self.room((name,))
                assert account.left == (None if left == float("inf") else left)


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)


def test_an_amount_is_drawn_on_all_accounts_or_on_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL)
    ledger.open_account("wide", "nano_usd", 100)
    ledger.open_account("narrow", "nano_usd", 10)
    with pytest.raises(OverBudget):
        ledger.reserve("h", draw(11, "wide", "narrow"), "t")
    assert [a.held for a in ledger.accounts()] == [0, 0]
    ledger.reserve("h", draw(10, "wide", "narrow"), "t")
    assert {a.name: a.left for a in ledger.accounts()} == {"wide": 90, "narrow": 0}


def test_a_limit_below_what_is_in_use_leaves_nothing_until_that_much_is_free_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL)
    ledger.open_account("money", "nano_usd", 100)
    ledger.reserve("a", draw(60), "t")
    ledger.reserve("b", draw(30), "t")
    ledger.limit("money", 40)
    assert ledger.account("money").left == 0
    ledger.settle("a", 20, Basis.ESTIMATED)
    assert ledger.account("money").left == 0  # 20 spent and 30 held, of 40
    with pytest.raises(OverBudget):
        ledger.reserve("c", draw(1), "t")
    ledger.settle("b", 0, Basis.ESTIMATED)
    assert ledger.account("money").left == 20


def test_what_was_charged_above_its_hold_is_shown_and_narrows_what_is_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL)
    ledger.open_account("money", "nano_usd", 100)
    ledger.reserve("a", draw(10), "t")
    (account,) = ledger.settle("a", 35, Basis.BILLED)
    assert (account.spent, account.over, account.used, account.left) == (10, 25, 35, 65)
    books_agree(ledger)


@pytest.mark.parametrize("amount", [-1, 2**60 + 1, 2**70])
def test_an_amount_that_cannot_be_is_a_mistake_of_the_caller(tmp_path: Path, amount: int) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL)
    ledger.open_account("money", "nano_usd")
    ledger.reserve("h", draw(5), "t")
    for call in (
        lambda: ledger.reserve("g", draw(amount), "t"), lambda: ledger.settle("h", amount, Basis.ESTIMATED),
        lambda: ledger.limit("money", amount), lambda: ledger.open_account("new", "nano_usd", amount),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"is not (negative|that large)"):
            call()
    assert ledger.held() == 1
    books_agree(ledger)


def test_an_id_is_used_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL)
    ledger.open_account("money", "nano_usd")
    ledger.reserve("h", draw(5), "t")
    with pytest.raises(LedgerError):
        ledger.reserve("h", draw(5), "t")  # while it is open
    assert ledger.settle("h", 5, Basis.ESTIMATED)
    with pytest.raises(LedgerError, match="settled before"):
        ledger.reserve("h", draw(5), "t")
    with pytest.raises(LedgerError, match="no account"):
        ledger.reserve("g", draw(0, "nowhere"), "t")
    books_agree(ledger)
