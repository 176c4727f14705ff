"""Leases and late bills in the ledger: claims, launches, users of a replica, and corrections of charges."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from books import NOW, RATE, Clock, books_agree, draw, offer
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import OfferTaken, OverBudget, TooManyLaunches
from accel.core.lease import Intent, Lease
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Billing, Offer, Realm
from accel.ledger import Budgets, Ledger, Limits, Period, alerts, costs, leases
from accel.ledger.leases import Purpose

PLENTY = Limits({("", Period.MONTH): NanoUSD(10**12)}, {}, launches=3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, clock)
    yield made
    made.close()


def other(ledger: Ledger) -> Ledger:
    """The same file in what stands for another process."""
    return Ledger(ledger.path, Realm.REAL, ledger.now)


def intent(clock: Clock, ident: str, what: Offer | None = None, lifetime_s: float = 600.0) -> Intent:
    return Intent(ident, ident, what or offer(), f"accel-{ident}", lifetime_s, clock())


def opened(ledger: Ledger, clock: Clock, it: Intent) -> Lease:
    ends = clock() + timedelta(seconds=it.lifetime_s)
    lease = Lease(it.id, it.offer.provider, Realm.REAL, it.name, f"r-{it.id}", clock(), ends)
    ledger.lease_opened(it.id, lease)
    return lease


def test_an_exclusive_offer_has_one_lease_until_its_end_is_known(ledger: Ledger, clock: Clock) -> None:
    budgets, one = Budgets(ledger, PLENTY), offer(exclusive=True)
    budgets.rent(intent(clock, "a", one))
    with pytest.raises(OfferTaken, match="cloud-1 is rented already, as accel-a"):
        Budgets(other(ledger), PLENTY).rent(intent(clock, "b", one))
    assert (ledger.held(), len(ledger.open_leases())) == (1, 1)  # nothing of the second is left
    assert leases.taken(ledger, "cloud") == {"cloud-1"}
    assert leases.taken(ledger, "other") == frozenset()
    budgets.rent(intent(clock, "c", dataclasses.replace(one, id="cloud-2")))
    ledger.lease_ended("a", "released", "confirmed")
    assert leases.taken(ledger, "cloud") == {"cloud-2"}
    ledger.lease_ended("c", "abandoned", "nobody knows")
    assert leases.taken(ledger, "cloud") == {"cloud-2"}
    with pytest.raises(OfferTaken):
        budgets.rent(intent(clock, "d", dataclasses.replace(one, id="cloud-2")))
    clock.move(seconds=601)  # it has ended itself by now
    assert leases.taken(ledger, "cloud") == frozenset()
    budgets.rent(intent(clock, "e", dataclasses.replace(one, id="cloud-2")))


def test_launches_of_an_hour_are_counted_whatever_became_of_them(ledger: Ledger, clock: Clock) -> None:
    budgets = Budgets(ledger, PLENTY)
    for n in range(3):
        budgets.rent(intent(clock, f"a{n}"))
        ledger.lease_ended(f"a{n}", "absent", "refused")
        clock.move(minutes=10)
    with pytest.raises(TooManyLaunches, match="3 machines were rented within the last hour"):
        Budgets(other(ledger), PLENTY).rent(intent(clock, "b"))
    assert ledger.held() == 3
    assert [k for (k,) in ledger.rows("SELECT key FROM alert")] == ["launches:2026-11-23T12"]
    assert alerts.counts(ledger) == {"pending": 1}
    budgets.rent(intent(clock, "free", offer("local", billing=Billing.NOTHING)))
    clock.move(minutes=31)
    budgets.rent(intent(clock, "c"))


def test_what_has_no_room_is_neither_launched_nor_claimed(ledger: Ledger, clock: Clock) -> None:
    budgets = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(599)}, {}))
    with pytest.raises(OverBudget):
        budgets.rent(intent(clock, "a", offer(exclusive=True)))
    assert leases.taken(ledger, "cloud") == frozenset()
    assert ledger.open_leases() == ()
    assert len(ledger.rows("SELECT key FROM alert")) == 1  # and the person is told


def test_the_last_user_of_a_replica_gives_it_back(ledger: Ledger, clock: Clock) -> None:
    second, third = other(ledger), other(ledger)
    budgets = Budgets(ledger, PLENTY)
    budgets.rent(intent(clock, "a"), Purpose.REPLICA)
    leases.use(ledger, "a")
    with pytest.raises(OfferTaken):
        Budgets(second, PLENTY).rent(intent(clock, "b"), Purpose.REPLICA)
    assert not leases.join(second, "a")  # it does not serve yet
    opened(ledger, clock, intent(clock, "a"))
    leases.ready(ledger, "a")
    assert leases.join(second, "a")
    assert leases.in_use(ledger, "a")
    assert not leases.leave(ledger, "a")
    assert leases.leave(second, "a")  # the last one: it alone may end it
    assert not leases.join(third, "a")
    assert not leases.leave(third, "a")
    second.close()  # it died before it could
    assert leases.leave(third, "a")
    third.lease_ended("a", "released", "confirmed")
    assert leases.replica(ledger, "cloud") is None
    assert ledger.rows("SELECT * FROM lease_user") == []


def test_users_that_are_gone_do_not_count(ledger: Ledger, clock: Clock) -> None:
    dead = other(ledger)
    Budgets(dead, PLENTY).rent(intent(clock, "a"), Purpose.REPLICA)
    opened(dead, clock, intent(clock, "a"))
    leases.use(dead, "a")
    leases.ready(dead, "a")
    assert leases.in_use(ledger, "a")
    dead.close()
    assert not leases.in_use(ledger, "a")
    assert leases.join(ledger, "a")
    assert leases.leave(ledger, "a")


def test_one_that_is_gone_is_ended_whoever_uses_it(ledger: Ledger, clock: Clock) -> None:
    second = other(ledger)
    Budgets(ledger, PLENTY).rent(intent(clock, "a"), Purpose.REPLICA)
    opened(ledger, clock, intent(clock, "a"))
    leases.ready(ledger, "a")
    leases.use(ledger, "a")
    leases.use(second, "a")
    assert leases.leave(second, "a", gone=True)
    assert not leases.leave(ledger, "a", gone=True)  # once


@given(
    held=st.integers(0, 1000), first=st.integers(0, 2000), second=st.integers(0, 2000),
    basis=st.sampled_from(Basis), limit=st.one_of(st.none(), st.integers(1000, 5000)),
    reused=st.integers(0, 1000),
)  # fmt: skip
def test_a_bill_takes_the_place_of_an_estimate_once(
    tmp_path_factory: pytest.TempPathFactory, held: int, first: int, second: int, basis: Basis,
    limit: int | None, reused: int,
) -> None:  # fmt: skip
    ledger = Ledger(tmp_path_factory.mktemp("l") / "ledger.sqlite3", Realm.REAL, Clock())
    ledger.open_account("money", "nano_usd", limit)
    ledger.reserve("h", draw(held), "t")
    ledger.settle("h", first, Basis.ESTIMATED)
    with contextlib.suppress(OverBudget):  # what was given back is in use again
        ledger.reserve("again", draw(reused), "t")
    changed = bool(ledger.correct("h", second, basis))
    books_agree(ledger)
    assert changed == (basis is Basis.BILLED or second < first)
    (row,) = ledger.rows("SELECT amount, basis, estimated FROM charge")
    assert row == ((second, basis.value, first) if changed else (first, "estimated", first))
    if basis is Basis.BILLED:
        assert not ledger.correct("h", 7, Basis.BILLED)
        assert not ledger.correct("h", 0, Basis.ESTIMATED)
        books_agree(ledger)
    ledger.close()


def test_a_bill_at_the_end_is_kept_beside_what_was_estimated(ledger: Ledger) -> None:
    ledger.open_account("money", "nano_usd", 100)
    ledger.reserve("h", draw(50), "t")
    ledger.settle("h", 43, Basis.BILLED, 40)
    assert ledger.rows("SELECT amount, basis, estimated FROM charge") == [(43, "billed", 40)]
    assert not ledger.correct("h", 1, Basis.BILLED)
    told = costs.told(ledger)
    assert (told.n, told.estimated, told.billed) == (1, 40, 43)


def test_free_hours_are_not_corrected_in_money(ledger: Ledger, clock: Clock) -> None:
    budgets = Budgets(ledger, PLENTY)
    free = offer("kaggle", billing=Billing.QUOTA, quota_left_s=100.0)
    budgets.reserve("q", free, 10.0, "t")
    budgets.settle("q", free, 10.0, Cost(NanoUSD(0)))
    assert not budgets.correct("q", Cost(NanoUSD(5), Basis.BILLED))
    assert ledger.rows("SELECT amount FROM charge") == [(10_000,)]


def test_what_may_still_run_is_told_until_it_has_ended_itself(ledger: Ledger, clock: Clock) -> None:
    Budgets(ledger, PLENTY).rent(intent(clock, "a"))
    opened(ledger, clock, intent(clock, "a"))
    ledger.lease_ended("a", "abandoned", "no answer")
    (found,) = leases.unconfirmed(ledger)
    assert found.may_run(clock())
    assert not found.may_run(NOW + timedelta(seconds=600))
    assert found.intent.offer.rate == RATE
