"""A decision is stored small, and comes back whole."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.attempt import Estimate, Refusal, Route, Scored, Timing
from accel.core.errors import LedgerError
from accel.core.funds import Funds
from accel.core.money import Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Billing, Gpu, Offer, Realm, Unfit
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.ledger import Ledger, decisions
from accel.ledger.database import dump
from accel.ledger.fragments import REMEMBERED, Fragments
from accel.routing import Inputs, Standing, State

NOW = datetime(2026, 11, 23, 12, 30, 0, 123456, tzinfo=UTC)
TASK = Task("t", Lane.LIVE, Spec(Stage.EMBED), Size(3, 40), Need(Stage.EMBED, Lane.LIVE), within_s=2.0)
SECONDS = st.floats(0, 1e6)
OFFERS = st.builds(
    Offer, st.text(max_size=5), st.sampled_from(["kaggle", "vast"]), st.just(Realm.SANDBOX),
    st.sampled_from([CPU, Gpu("T4", 2, 16 << 30, 75)]),
    st.builds(Rate, st.integers(0, 10**12).map(NanoUSD), st.dates(), st.text(min_size=1, max_size=5)),
    st.datetimes(timezones=st.just(UTC)), st.text(max_size=5), wait_s=SECONDS, cold_s=SECONDS,
    quota_left_s=st.none() | SECONDS, resident=st.frozensets(st.text(max_size=3), max_size=2),
    billing=st.sampled_from(Billing), quota_resets_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip
SCORES = st.tuples(
    SECONDS, st.floats(-1, 1), st.integers(0, 10**15), st.text(max_size=9),
    st.lists(st.tuples(st.text(max_size=4), st.floats(-1, 1)), max_size=3).map(tuple),
)  # fmt: skip


def ledger_in(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.sqlite3", Realm.SANDBOX, lambda: NOW)


def some(number: int, **changes: object) -> Offer:
    rate = Rate(NanoUSD(number), date(2026, 11, 23), "test")
    return replace(Offer(f"o{number}", f"p{number}", Realm.SANDBOX, CPU, rate, NOW, "test"), **changes)


def route_of(*offers: Offer) -> Route:
    expected = Estimate(Timing(0.1), Cost(NanoUSD(1)), "prior")
    return Route("t", tuple(Scored(o, expected, 0.5, (("time", 0.5),), "why") for o in offers), (), "p", 0.25)


def record(ledger: Ledger, ident: str, *offers: Offer, route: Route | None = None) -> None:
    decisions.record(
        ledger, ident, "q", task=TASK, offers=offers, unfit=(), state=State(), draw=0.25,
        route=route or route_of(*offers),
    )  # fmt: skip


@given(
    st.lists(OFFERS, max_size=4, unique_by=lambda o: o.id), st.data(), st.floats(0, 1, exclude_max=True),
    st.text(max_size=9),
)  # fmt: skip
def test_a_decision_comes_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, offers: list[Offer], data: st.DataObject, draw: float, why: str
) -> None:
    ledger = ledger_in(tmp_path_factory.mktemp("l"))
    ranked = []
    for offer in data.draw(st.permutations(offers)):  # the very objects
        seconds, score, nano, words, terms = data.draw(SCORES)
        timing = Timing(seconds, seconds + 1, seconds + 2, seconds + 3)
        expected = Estimate(timing, Cost(NanoUSD(nano), Basis.BILLED), words, 0.3, 0.9)
        ranked.append(Scored(offer, expected, score, terms, words))
    unfit = (Unfit("modal", Realm.SANDBOX, why, NOW, True),)
    route = Route("t", tuple(ranked), (Refusal("modal", why),), "policy", draw)
    state = State(order=(why,))
    decisions.record(
        ledger, "d", "q", task=TASK, offers=offers, unfit=unfit, state=state, draw=draw, route=route
    )
    for ident in ("d", "t", "q"):
        (found,) = decisions.find(ledger, ident)
        assert (found.id, found.task_id, found.parent, found.route) == ("d", "t", "q", route)
        assert ledger.load(Inputs, found.inputs) == Inputs(TASK, tuple(offers), unfit, state, draw)
    assert decisions.latest(ledger) == "q"
    ledger.close()


def test_an_offer_is_stored_once_however_often_it_is_probed(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    for minute in range(5):
        record(ledger, f"d{minute}", *(some(n, as_of=NOW + timedelta(minutes=minute)) for n in range(3)))
    other = ledger_in(tmp_path)  # another process, which does not know what is stored
    record(other, "d5", some(0), some(1, wait_s=1.0))
    assert ledger.rows("SELECT count(*) FROM offer") == [(4,)]
    found = decisions.find(ledger, "q")
    assert [d.route.ranked[0].offer.as_of.minute for d in found] == [30, 31, 32, 33, 34, 30]
    sizes = ledger.rows("SELECT max(length(offers) + length(inputs) + length(route)) FROM decision")
    assert sizes[0][0] < 2000


def test_what_an_undone_transaction_stored_is_stored_again(tmp_path: Path) -> None:
    ledger, one, two = ledger_in(tmp_path), some(1), some(2)
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        record(ledger, "never", one)
        raise ZeroDivisionError
    with ledger.transaction():
        with pytest.raises(ZeroDivisionError), ledger.transaction():
            record(ledger, "never", two)
            raise ZeroDivisionError
        record(ledger, "d", one, two)
    (found,) = decisions.find(ledger, "d")
    assert found.route == route_of(one, two)


def test_an_equal_offer_is_as_good_as_the_very_one(tmp_path: Path) -> None:
    """Also many of them, each of which takes the memory of one that is gone."""
    ledger = ledger_in(tmp_path)
    for number in range(50):
        record(ledger, f"d{number}", some(0), some(number + 1), route=route_of(some(number + 1), some(0)))
    for number in range(50):
        (found,) = decisions.find(ledger, f"d{number}")
        assert found.route == route_of(some(number + 1), some(0))


def test_a_route_of_offers_that_were_not_ranked_is_refused(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    with pytest.raises(LedgerError, match="was not ranked"):
        record(ledger, "d", some(1), route=route_of(some(2)))
    assert ledger.rows("SELECT count(*) FROM decision") == [(0,)]


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM offer", "UPDATE offer SET body = '{}'", "UPDATE decision SET offers = '[]'",
     "UPDATE decision SET route = '{}'"],
)  # fmt: skip
def test_a_damaged_decision_is_an_error_and_not_a_guess(tmp_path: Path, damage: str) -> None:
    ledger = ledger_in(tmp_path)
    record(ledger, "d", some(1))
    ledger.rows(damage)
    with pytest.raises(LedgerError, match="damaged"):
        decisions.find(ledger, "d")


def test_the_stored_json_is_plain(tmp_path: Path) -> None:
    """For whoever looks with the sqlite3 tool."""
    ledger = ledger_in(tmp_path)
    record(ledger, "d", some(1))
    ((inputs, route),) = ledger.rows("SELECT inputs, route FROM decision")
    assert set(json.loads(inputs)) == {"task", "unfit", "state", "draw"}
    assert json.loads(route)["ranked"][0][0] == 0


@given(st.lists(st.sampled_from(range(4)), max_size=3), st.lists(st.sampled_from("ab"), max_size=2))
def test_a_state_put_together_from_its_parts_is_the_state(chosen: list[int], order: list[str]) -> None:
    """Also when the same objects come again, and others beside them."""
    made = [Standing(f"p{n}", success=n / 4) for n in range(4)]
    fragments = Fragments()
    for standings in (tuple(made[n] for n in chosen), tuple(made)):
        state = State(order=tuple(order), standings=standings, funds=(Funds("p1", NanoUSD(5)),))
        assert json.loads(fragments.whole(state)) == json.loads(dump(state))
        assert json.loads(fragments.parts(standings)) == json.loads(dump(state))["standings"]


def test_more_values_than_are_remembered_are_told_apart() -> None:
    fragments = Fragments()
    for n in range(3 * REMEMBERED):  # each may get the memory of one that is gone
        assert json.loads(fragments.parts([Standing(f"p{n}")]))[0]["provider"] == f"p{n}"
