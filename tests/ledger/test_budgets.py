"""Budgets: free by default, every limit at once, prepaid first; no clock opens spent money again."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from books import NOW, Clock, books_agree, cost, offer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from accel.core.errors import OverBudget
from accel.core.money import Basis, NanoUSD, Rate
from accel.core.offer import Billing, Realm
from accel.ledger import Budgets, Ledger, Limits, Period, alerts
from accel.ledger.limits import span

DAY, WEEK, MONTH = Period
NOTHING = Limits({}, {})


def dollars_of(**caps: int) -> Limits:
    """``all_day=5, cloud_month=9, cloud_credit=3``."""
    split = {tuple(name.rsplit("_", 1)): NanoUSD(amount) for name, amount in caps.items()}
    return Limits(
        {("" if who == "all" else who, Period(p)): n for (who, p), n in split.items() if p != "credit"},
        {who: n for (who, p), n in split.items() if p == "credit"},
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, clock)


def keys(ledger: Ledger) -> set[str]:
    return {key for (key,) in ledger.rows("SELECT key FROM alert")}


def spend(budgets: Budgets, ident: str, amount: int, provider: str = "cloud") -> None:
    budgets.reserve(ident, offer(provider), amount, "t")
    assert budgets.settle(ident, offer(provider), amount, cost(amount))


# By plain arithmetic ------------------------------------------------------------------------------


@dataclass
class Spent:
    """One hold of the model: what it draws on, by (provider, period, its first day)."""

    pots: list[tuple[str, str, date | None]]
    amount: int
    owner: int
    open: bool = True


class Books(RuleBasedStateMachine):
    """Processes that die, a clock that jumps, limits that change; and the same by plain arithmetic."""

    holds: Bundle[str] = Bundle("holds")

    @initialize(
        caps=st.dictionaries(
            st.tuples(st.sampled_from(["", "p", "q"]), st.sampled_from(Period)), st.integers(0, 300),
            max_size=5,
        ),
        credit=st.none() | st.integers(0, 200),
    )
    def begin(self, caps: dict[tuple[str, Period], int], credit: int | None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path, self.clock = Path(self.folder.name) / "ledger.sqlite3", Clock()
        self.limits = Limits(
            {k: NanoUSD(v) for k, v in caps.items()}, {} if credit is None else {"q": NanoUSD(credit)}
        )
        self.processes = [self.process(), self.process()]
        self.generation = [0, 1]  # who lives; names of processes are never used again
        self.spent: dict[str, Spent] = {}
        self.latest: dict[tuple[str, str], date] = {}
        self.alerts: set[str] = set()
        self.count = 1

    def process(self) -> tuple[Ledger, Budgets]:
        ledger = Ledger(self.path, Realm.REAL, self.clock)
        return ledger, Budgets(ledger, self.limits)

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            for ledger, _ in self.processes:
                ledger.close()
            self.folder.cleanup()

    def pots(self, provider: str) -> list[tuple[str, str, date | None]]:
        """The periods that count now: the latest that was ever in use, unless it has ended."""
        today, found = self.clock.now.date(), []
        for who, period in self.limits.caps:
            if who in ("", provider):
                first = {
                    DAY: today, WEEK: today - timedelta(days=today.weekday()), MONTH: today.replace(day=1)
                }[period]  # fmt: skip
                first = self.latest[who, period] = max(first, self.latest.get((who, period), first))
                found.append((who, period, first))
        return found

    def used(self, pot: tuple[str, str, date | None], *, settled: bool = False) -> int:
        return sum(s.amount for s in self.spent.values() if pot in s.pots and not (settled and s.open))

    def limit_of(self, pot: tuple[str, str, date | None]) -> int:
        who, period, _ = pot
        return self.limits.credits[who] if period == "credit" else self.limits.caps[who, Period(period)]

    def room(self, pot: tuple[str, str, date | None]) -> int:
        return max(0, self.limit_of(pot) - self.used(pot))

    def name(self, pot: tuple[str, str, date | None]) -> str:
        who, period, first = pot
        if first is None:
            return f"{who}:credit"
        key = {DAY: f"{first}", WEEK: f"{first:%G-W%V}", MONTH: f"{first:%Y-%m}"}[Period(period)]
        return f"{who or 'all'}:{period}:{key}"

    @rule(target=holds, provider=st.sampled_from("pq"), amount=st.integers(1, 90), who=st.integers(0, 1))
    def reserve(self, provider: str, amount: int, who: int) -> str:
        ident = f"h{len(self.spent)}-{self.count}"
        self.count += 1
        credit = (provider, "credit", None)
        prepaid = self.limits.credits.get(provider)
        capped = any(w in ("", provider) for w, _ in self.limits.caps)
        pots = self.pots(provider) if capped or prepaid else []
        if prepaid and self.room(credit) >= amount:
            drawn, short = [credit], []
        else:
            drawn = pots
            short = [p for p in pots if self.room(p) < amount]
            if prepaid and not capped:
                short = [credit]
        if drawn and not short:
            self.processes[who][1].reserve(ident, offer(provider), amount, "t")
            self.spent[ident] = Spent(drawn, amount, self.generation[who])
        else:
            with pytest.raises(OverBudget, match="nothing was started"):
                self.processes[who][1].reserve(ident, offer(provider), amount, "t")
            self.alerts |= {f"budget:{self.name(p)}:refused" for p in short}
        return ident

    @rule(hold=consumes(holds), amount=st.integers(0, 120), who=st.integers(0, 1), again=st.booleans())
    def settle(self, hold: str, amount: int, who: int, again: bool) -> None:
        found = self.spent.get(hold)
        budgets = self.processes[who][1]
        done = budgets.settle(hold, offer(), amount, cost(amount))
        assert done == (found is not None and found.open)
        if found is not None and found.open:
            found.amount, found.open = amount, False
            self.reach(found)
        if again:
            assert not budgets.settle(hold, offer(), 5, cost(5))

    def reach(self, settled: Spent) -> None:
        for pot in settled.pots:
            for share in self.limits.alert_at:
                if self.limit_of(pot) and self.used(pot, settled=True) >= share * self.limit_of(pot):
                    self.alerts.add(f"budget:{self.name(pot)}:{share:g}")

    @rule(hours=st.integers(-24 * 40, 24 * 40))
    def clock_jumps(self, hours: int) -> None:
        self.clock.move(hours=hours)

    @rule(who=st.integers(0, 1))
    def dies(self, who: int) -> None:
        self.processes[who][0].close()
        self.processes[who] = self.process()
        self.generation[who] = max(self.generation) + 1

    @rule(who=st.integers(0, 1))
    def recover(self, who: int) -> None:
        lost = [s for s in self.spent.values() if s.open and s.owner not in self.generation]
        assert self.processes[who][1].recover() == len(lost)
        for hold in lost:
            hold.open = False
            self.reach(hold)
        owners = {o for (o,) in self.processes[who][0].rows("SELECT owner FROM hold")}
        assert owners <= {ledger.owner for ledger, _ in self.processes}

    @rule(factor=st.sampled_from([0, 0.5, 2]))
    def limits_change(self, factor: float) -> None:
        caps = {k: NanoUSD(int(v * factor)) for k, v in self.limits.caps.items()}
        self.limits = Limits(caps, self.limits.credits)
        self.processes = [(ledger, Budgets(ledger, self.limits)) for ledger, _ in self.processes]

    @rule(provider=st.sampled_from("pq"), who=st.integers(0, 1))
    def funds(self, provider: str, who: int) -> None:
        (told,) = self.processes[who][1].funds([offer(provider), offer("local", Billing.NOTHING)])
        pots = self.pots(provider)
        credit = self.room((provider, "credit", None)) if provider in self.limits.credits else 0
        rooms = [self.room(p) for p in pots]
        assert told.left == max(min(rooms, default=0), credit)
        assert told.credit == credit
        assert (told.budget is None) == (not pots)
        if told.budget:
            assert 0 <= told.budget.elapsed <= 1
            assert told.budget.name in {self.name(p) for p in pots}

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "processes"):
            return
        ledger = self.processes[0][0]
        books_agree(ledger)
        assert ledger.held() == sum(s.open for s in self.spent.values())
        assert keys(ledger) == self.alerts


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


# One rule at a time -------------------------------------------------------------------------------


def test_without_a_budget_nothing_is_paid_for(ledger: Ledger) -> None:
    budgets = Budgets(ledger, NOTHING)
    with pytest.raises(OverBudget, match=r"no budget is set for paid providers: set budget\.month"):
        budgets.reserve("h", offer(), 1.0, "t")
    (told,) = budgets.funds([offer()])
    assert (told.left, told.credit, told.budget) == (0, 0, None)
    assert "set budget.month" in told.reason
    assert (ledger.held(), ledger.accounts(), keys(ledger)) == (0, (), set())


def test_a_budget_of_one_provider_opens_no_other(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(cloud_month=10))
    spend(budgets, "a", 4)
    with pytest.raises(OverBudget, match="other: no budget is set"):
        budgets.reserve("b", offer("other"), 1, "t")


def test_a_free_machine_needs_no_budget_and_holds_nothing(ledger: Ledger) -> None:
    budgets, own = Budgets(ledger, NOTHING), offer("local", Billing.NOTHING)
    budgets.reserve("h", own, 1e9, "t")
    assert not budgets.settle("h", own, 1e9, cost(0))
    assert (ledger.held(), budgets.funds([own])) == (0, ())


@pytest.mark.parametrize("free", [True, False])
def test_a_price_that_cannot_be_is_refused(ledger: Ledger, free: bool) -> None:
    budgets = Budgets(ledger, dollars_of(all_month=100))
    rate = Rate(NanoUSD(0 if free else 10**40), date(2026, 11, 23), "test")
    with pytest.raises(OverBudget, match="price of zero" if free else "would be reserved"):
        budgets.reserve("h", offer(rate=rate), 10.0, "t")
    assert ledger.held() == 0


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_what_is_no_duration_holds_nothing(ledger: Ledger, seconds: float) -> None:
    budgets = Budgets(ledger, dollars_of(all_month=100))
    for billing in (Billing.SECONDS, Billing.QUOTA):
        with pytest.raises(ValueError, match="not a duration"):
            budgets.reserve("h", offer(billing=billing, quota_left_s=100.0), seconds, "t")
    assert ledger.held() == 0


@pytest.mark.parametrize("amount", [-1, 2**61, 1.5, True])
def test_a_limit_that_cannot_be_meant_is_an_error(amount: int) -> None:
    with pytest.raises(ValueError, match="whole number of nano-dollars"):
        Limits({("", MONTH): NanoUSD(amount)}, {})
    with pytest.raises(ValueError, match="whole number of nano-dollars"):
        Limits({}, {"cloud": NanoUSD(amount)})
    with pytest.raises(ValueError, match="above 0"):
        Limits({}, {}, alert_at=(0.5, 0.0))
    with pytest.raises(ValueError, match="no provider is named"):
        Limits({}, {"": NanoUSD(1)})


def test_every_limit_that_applies_must_have_room_and_the_narrowest_is_named(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(all_month=100, all_day=50, cloud_week=20, other_day=1))
    with pytest.raises(OverBudget, match=r"the week's budget of cloud .* leaves"):
        budgets.reserve("h", offer(), 21, "t")
    assert keys(ledger) == {"budget:cloud:week:2026-W48:refused"}
    spend(budgets, "a", 20)
    assert {a.name: a.used for a in ledger.accounts()} == {
        "all:month:2026-11": 20, "all:day:2026-11-23": 20, "cloud:week:2026-W48": 20
    }  # fmt: skip


def test_a_new_period_has_its_own_money_and_a_hold_stays_where_it_was_made(
    ledger: Ledger, clock: Clock
) -> None:
    budgets = Budgets(ledger, dollars_of(all_day=10, all_month=25))
    spend(budgets, "a", 9)
    budgets.reserve("b", offer(), 1, "t")
    clock.move(hours=12)
    spend(budgets, "c", 10)
    budgets.settle("b", offer(), 1, cost(1))
    assert {a.name: a.used for a in ledger.accounts()} == {
        "all:month:2026-11": 20, "all:day:2026-11-23": 10, "all:day:2026-11-24": 10
    }  # fmt: skip
    clock.move(days=1)
    with pytest.raises(OverBudget, match="month's budget"):
        budgets.reserve("d", offer(), 6, "t")
    clock.now = datetime(2026, 12, 1, tzinfo=UTC)
    spend(budgets, "d", 10)


def test_a_clock_that_goes_back_opens_nothing_again(ledger: Ledger, clock: Clock) -> None:
    budgets = Budgets(ledger, dollars_of(all_day=10, cloud_week=30))
    spend(budgets, "a", 10)
    clock.move(days=-1)  # into a day, and a week, of which the books know nothing
    for days in (0, -7, -400):
        clock.move(days=days)
        assert [f.left for f in budgets.funds([offer()])] == [0]
        with pytest.raises(OverBudget):
            budgets.reserve("b", offer(), 1, "t")
        # another process, which has never seen the later time
        other = Budgets(Ledger(ledger.path, Realm.REAL, clock), dollars_of(all_day=10))
        with pytest.raises(OverBudget):
            other.reserve("c", offer(), 1, "t")
    clock.now = NOW + timedelta(days=400)  # far ahead: a later period, and nothing else
    spend(budgets, "d", 10)
    clock.now = NOW
    with pytest.raises(OverBudget):
        budgets.reserve("e", offer(), 1, "t")
    books_agree(ledger)


def test_a_limit_that_is_set_in_the_middle_of_a_month_knows_what_the_month_has_cost(
    ledger: Ledger, clock: Clock
) -> None:
    before = Budgets(ledger, dollars_of(all_day=50, other_day=50))
    clock.now = datetime(2026, 10, 31, 23, tzinfo=UTC)
    spend(before, "october", 5)
    clock.now = NOW
    spend(before, "a", 7)
    spend(before, "b", 3, "other")
    before.reserve("c", offer(), 4, "t")
    before.settle("a2", offer(), 1, cost(1))
    after = Budgets(ledger, dollars_of(all_month=20, cloud_month=100))
    (told,) = after.funds([offer()])
    assert told.left == 6
    found = {a.name: (a.spent, a.held) for a in ledger.accounts() if a.period == "month"}
    assert found == {"all:month:2026-11": (10, 4), "cloud:month:2026-11": (7, 4)}
    after.settle("c", offer(), 4, cost(4))
    with pytest.raises(OverBudget):
        after.reserve("d", offer(), 7, "t")
    spend(after, "d", 6)
    books_agree(ledger)
    assert ledger.account("all:day:2026-11-23").used == 20  # which ``after`` has no limit for


def test_each_process_enforces_its_own_limits_on_the_same_books(ledger: Ledger, clock: Clock) -> None:
    narrow, wide = Budgets(ledger, dollars_of(all_month=10)), Budgets(ledger, dollars_of(all_month=20))
    spend(wide, "a", 12)
    assert (narrow.funds([offer()])[0].left, wide.funds([offer()])[0].left) == (0, 8)
    with pytest.raises(OverBudget):
        narrow.reserve("b", offer(), 1, "t")
    spend(wide, "b", 8)
    with pytest.raises(OverBudget):
        wide.reserve("c", offer(), 1, "t")


def test_a_limit_that_a_process_does_not_have_does_not_bind_it(ledger: Ledger) -> None:
    daily = Budgets(ledger, dollars_of(all_day=1, all_month=100))
    monthly = Budgets(ledger, dollars_of(all_month=100))
    spend(daily, "a", 1)
    spend(monthly, "b", 5)
    with pytest.raises(OverBudget, match="day's budget"):
        daily.reserve("c", offer(), 1, "t")
    assert ledger.account("all:day:2026-11-23").used == 6
    books_agree(ledger)


@given(st.dates(date(2000, 1, 3), date(2100, 1, 1)), st.sampled_from(Period))
def test_periods_follow_each_other_without_a_gap(day: date, period: Period) -> None:
    key, since, until = span(period, day)
    assert since <= datetime.combine(day, datetime.min.time(), UTC) < until
    for same in (since, until - timedelta(seconds=1)):
        assert span(period, same.date()) == (key, since, until)
    following = span(period, until.date())
    assert following[1] == until
    assert following[0] > key
    assert {DAY: True, WEEK: since.weekday() == 0, MONTH: since.day == 1}[period]


def test_credit_is_used_before_any_budget_and_never_in_part(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(cloud_credit=10, all_month=100))
    spend(budgets, "a", 7)
    assert {a.name: a.used for a in ledger.accounts()} == {"all:month:2026-11": 0, "cloud:credit": 7}
    (told,) = budgets.funds([offer()])
    assert (told.left, told.credit) == (100, 3)
    spend(budgets, "b", 4)  # more than the three that are left: all of it from the budget
    assert {a.name: a.used for a in ledger.accounts()} == {"all:month:2026-11": 4, "cloud:credit": 7}


def test_credit_alone_pays_without_a_budget_until_it_is_used_up(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(cloud_credit=10))
    (told,) = budgets.funds([offer()])
    assert (told.left, told.credit) == (10, 10)
    spend(budgets, "a", 10)
    with pytest.raises(OverBudget, match="its credit of"):
        budgets.reserve("b", offer(), 1, "t")
    assert keys(ledger) == {f"budget:cloud:credit:{end}" for end in ("0.5", "0.8", "1", "refused")}


def test_the_budget_under_most_pressure_is_the_one_that_is_told(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(all_day=100, all_month=400))
    spend(budgets, "a", 30)
    budgets.reserve("b", offer(), 10, "t")
    (told,) = budgets.funds([offer()])
    assert told.budget is not None
    # noon: half of the day is over and 40 % of its budget is in use; 75 % of the month, and 10 %
    assert (told.budget.name, told.budget.used, told.budget.elapsed) == ("all:day:2026-11-23", 0.4, 0.5)
    assert told.left == 60
    assert "the day's budget of all providers" in told.reason
    # a provider's own budget is told instead of those of all together only where it is under more pressure
    for own, expected in ((1000, "all:day:2026-11-23"), (41, "cloud:week:2026-W48")):
        (told,) = Budgets(ledger, dollars_of(all_day=100, all_month=400, cloud_week=own)).funds([offer()])
        assert told.budget is not None
        assert told.budget.name == expected
        assert told.left == {1000: 60, 41: 1}[own]


def test_an_alert_is_raised_with_the_settlement_that_reaches_it_or_not_at_all(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(all_month=10))
    spend(budgets, "a", 4)
    assert keys(ledger) == set()
    budgets.reserve("b", offer(), 5, "t")
    assert keys(ledger) == set()  # what is only held was not spent
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        budgets.settle("b", offer(), 5, cost(5))
        raise ZeroDivisionError
    assert keys(ledger) == set()
    budgets.settle("b", offer(), 5, cost(5))
    assert keys(ledger) == {"budget:all:month:2026-11:0.5", "budget:all:month:2026-11:0.8"}
    found = alerts.claim(ledger)
    assert found is not None
    assert found.key == "budget:all:month:2026-11:0.5"
    assert found.body == {
        "kind": "budget", "realm": "real", "account": "all:month:2026-11", "provider": "", "period": "month",
        "limit": 10, "used": 9, "held": 0, "share": 0.5,
    }  # fmt: skip


def test_the_alert_of_a_refusal_outlives_the_refusal(ledger: Ledger) -> None:
    budgets = Budgets(ledger, dollars_of(all_month=10))
    with ledger.transaction(), pytest.raises(OverBudget):
        budgets.reserve("a", offer(), 11, "t")
    assert keys(ledger) == {"budget:all:month:2026-11:refused"}
    assert alerts.pending(ledger) == 1


def test_a_caller_who_knows_that_nothing_was_dispatched_gives_an_orphan_back(
    ledger: Ledger, clock: Clock
) -> None:
    limits = dollars_of(all_month=100)
    other = Ledger(ledger.path, Realm.REAL, clock)
    for ident in ("dispatched", "not"):
        Budgets(other, limits).reserve(ident, offer(), 10, "t")
    budgets = Budgets(ledger, limits)
    assert (ledger.orphans(), budgets.recover()) == ((), 0)  # its process lives
    other.close()
    found = {h.id: (h.amount, h.accounts, h.provider, h.made_at) for h in ledger.orphans()}
    assert found == dict.fromkeys(("dispatched", "not"), (10, ("all:month:2026-11",), "cloud", NOW))
    ledger.settle("not", 0, Basis.ESTIMATED)
    assert budgets.recover() == 1
    (account,) = ledger.accounts()
    assert (account.spent, account.held) == (10, 0)
    assert ledger.rows("SELECT amount, basis FROM charge WHERE hold_id = 'dispatched'") == [(10, "estimated")]
