"""Free hours: a provider's word is taken once, when it is new, and never promised to two."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from books import NOW, Clock, books_agree, cost, free_hours
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from accel.core.errors import OverBudget
from accel.core.money import NanoUSD
from accel.core.offer import Offer, Realm
from accel.ledger import Budgets, Ledger, Limits, Period

NAME = "kaggle quota"
NOTHING = Limits({}, {})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, clock)


def test_two_processes_cannot_both_spend_one_old_offer(ledger: Ledger, clock: Clock) -> None:
    stale, other = free_hours(100.0), Ledger(ledger.path, Realm.REAL, clock)
    mine, theirs = Budgets(ledger, NOTHING), Budgets(other, NOTHING)
    mine.reserve("a", stale, 60.0, "t")
    with pytest.raises(OverBudget, match="40 s of its free quota are left; nothing was started"):
        theirs.reserve("b", stale, 60.0, "t")
    theirs.reserve("b", stale, 40.0, "t")
    clock.move(minutes=1)
    assert mine.settle("a", stale, 60.0, cost(0))
    for word in (stale, free_hours(500.0), free_hours(500.0, NOW - timedelta(hours=1))):
        with pytest.raises(OverBudget):  # settled, but no such offer knows of it
            mine.reserve("c", word, 1.0, "t")
    account = ledger.account(NAME)
    assert (account.unit, account.spent, account.held, account.left) == ("gpu_ms", 60_000, 40_000, 0)


def test_a_newer_word_counts_less_what_was_charged_since_and_what_is_held(
    ledger: Ledger, clock: Clock
) -> None:
    budgets, first = Budgets(ledger, NOTHING), free_hours(100.0)
    budgets.reserve("a", first, 10.0, "t")
    budgets.reserve("b", first, 20.0, "t")
    clock.move(minutes=1)
    budgets.settle("a", first, 10.0, cost(0))
    clock.move(minutes=1)
    word = free_hours(50.0, clock.now)  # others used the account, too
    clock.move(minutes=1)
    budgets.settle("b", first, 25.0, cost(0))  # longer than was reserved
    budgets.reserve("c", word, 0.0, "t")
    assert ledger.account(NAME).left == 25_000
    older = free_hours(90.0, clock.now - timedelta(minutes=2))
    budgets.reserve("d", older, 25.0, "t")
    assert ledger.account(NAME).left == 0
    books_agree(ledger)


def test_a_word_that_is_below_what_is_held_leaves_nothing(ledger: Ledger, clock: Clock) -> None:
    budgets = Budgets(ledger, NOTHING)
    budgets.reserve("a", free_hours(100.0), 80.0, "t")
    clock.move(minutes=1)
    with pytest.raises(OverBudget):
        budgets.reserve("b", free_hours(30.0, clock.now), 1.0, "t")
    books_agree(ledger)
    clock.move(days=7)
    budgets.settle("a", free_hours(100.0), 80.0, cost(0))
    clock.move(minutes=1)
    budgets.reserve("b", free_hours(30.0 * 3600, clock.now), 3600.0, "t")  # the next week


def test_a_word_from_the_future_is_not_taken_once_the_clock_has_gone_back(
    ledger: Ledger, clock: Clock
) -> None:
    budgets = Budgets(ledger, NOTHING)
    budgets.reserve("a", free_hours(100.0), 60.0, "t")
    later = free_hours(100.0, NOW + timedelta(minutes=10))
    clock.move(minutes=5)
    budgets.settle("a", later, 60.0, cost(0))  # after ``later`` was told, whatever the clock says
    with pytest.raises(OverBudget):
        budgets.reserve("b", later, 41.0, "t")


def test_a_provider_that_does_not_tell_what_is_left_has_no_limit_of_ours(ledger: Ledger) -> None:
    budgets, silent = Budgets(ledger, NOTHING), free_hours(1.0, quota_s=None)
    silent = Offer(**{f: getattr(silent, f) for f in silent.__slots__} | {"quota_left_s": None})
    budgets.reserve("a", silent, 1e6, "t")
    assert budgets.settle("a", silent, 7.0, cost(0))
    assert ledger.account(NAME).spent == 7000
    assert budgets.funds([silent])[0].quota is None


def test_the_window_counts_what_is_held_and_how_much_of_the_week_is_over(
    ledger: Ledger, clock: Clock
) -> None:
    # free hours need no budget, and know of none
    budgets = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(0)}, {"kaggle": NanoUSD(5)}))
    week = {"quota_s": 1000.0, "quota_resets_at": NOW + timedelta(days=1.75)}
    first = free_hours(800.0, **week)
    budgets.reserve("a", first, 300.0, "t")
    for known in (first, free_hours(800.0, NOW + timedelta(seconds=1), **week)):
        (told,) = budgets.funds([known])
        assert (told.left, told.credit, told.budget) == (None, 0, None)
        assert told.quota is not None
        assert (told.quota.used, told.quota.elapsed) == (0.5, 0.75)
    clock.move(days=30)
    assert budgets.funds([first])[0].quota.elapsed == 1.0  # type: ignore[union-attr]
    clock.move(days=-60)
    assert budgets.funds([first])[0].quota.elapsed == 0.0  # type: ignore[union-attr]
    # nobody tells when it begins anew: as if on Monday (it is noon of a Monday again)
    clock.now = NOW
    (told,) = budgets.funds([free_hours(800.0, quota_s=1000.0)])
    assert told.quota is not None
    assert told.quota.elapsed == pytest.approx(0.5 / 7)


class Quota(RuleBasedStateMachine):
    """A provider that knows the truth, and two processes with offers of any age."""

    offers: Bundle[Offer] = Bundle("offers")
    holds: Bundle[str] = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        path = Path(self.folder.name) / "ledger.sqlite3"
        self.ledgers = [Ledger(path, Realm.REAL, self.clock) for _ in range(2)]
        self.budgets = [Budgets(ledger, NOTHING) for ledger in self.ledgers]
        self.left = 500  # seconds
        self.others = self.used = 0
        self.open: dict[str, int] = {}
        self.count = 0
        self.newest = datetime.min.replace(tzinfo=NOW.tzinfo)

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.folder.cleanup()

    @rule(target=offers)
    def probe(self) -> Offer:
        self.clock.move(seconds=1)
        return free_hours(float(self.left), self.clock.now)

    @rule(amount=st.integers(1, 100))
    def somebody_else_uses_it(self, amount: int) -> None:
        amount = min(amount, self.left)
        self.left -= amount
        self.others += amount

    @rule(target=holds, word=offers, amount=st.integers(1, 200), who=st.integers(0, 1))
    def reserve(self, word: Offer, amount: int, who: int) -> object:
        self.clock.move(seconds=1)
        self.count += 1
        ident = f"h{self.count}"
        fresh = word.as_of > self.newest
        self.newest = max(self.newest, word.as_of)
        try:
            self.budgets[who].reserve(ident, word, float(amount), "t")
        except OverBudget:
            account = self.ledgers[0].account(NAME)
            assert account.left is not None
            assert amount * 1000 > account.left
            if fresh and not self.used:  # refused for a reason: what it told, less what is held
                assert amount > (word.quota_left_s or 0) - sum(self.open.values())
            return multiple()
        self.open[ident] = amount
        return ident

    @rule(hold=consumes(holds), share=st.floats(0, 1), who=st.integers(0, 1))
    def settle(self, hold: str, share: float, who: int) -> None:
        self.clock.move(seconds=1)
        used = min(self.left, int(self.open.pop(hold) * share))  # the provider stops what has none left
        self.left -= used
        self.used += used
        assert self.budgets[who].settle(hold, free_hours(0.0), float(used), cost(0))

    @invariant()
    def nobody_was_promised_what_is_not_there(self) -> None:
        books_agree(self.ledgers[0])
        # what others took after the last word cannot be known; beyond that, every hold can be met
        assert sum(self.open.values()) <= self.left + self.others


TestQuota = Quota.TestCase
TestQuota.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
