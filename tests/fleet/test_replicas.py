"""Live replicas: opened for calls, shared by processes, ended by the last; shares and idle are the charge."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from renting import ODD, PAID, Home, ask, live, passing, patient, play

from accel.core.attempt import Outcome
from accel.core.errors import Preempted, Unreachable
from accel.core.offer import Offer
from accel.ledger import Limits, costs


def shares(home: Home) -> int:
    ledger = home.ledger()
    found = ledger.rows("SELECT coalesce(sum(json_extract(body, '$.cost.amount')), 0) FROM attempt "
                        "WHERE json_extract(body, '$.lease_id') <> ''")  # fmt: skip
    return int(found[0][0])


def test_a_replica_is_opened_used_warm_and_given_back_when_idle() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        first = await ask(engine, 1)
        assert first.where == "cloud"
        assert 29 < first.timing.cold_s < 31
        (held,) = engine.ledger.rows("SELECT amount FROM hold")
        assert held == (PAID.cost(3600),)  # its whole lifetime, reserved once
        (offer,) = [o for o in await engine.offers(live(0)[0].need) if o.provider == "cloud"]
        assert isinstance(offer, Offer)
        assert (offer.cold_s, offer.resident) == (0.0, {"rev"})
        for n in range(5):
            await passing(100.0)
            found = await ask(engine, 2 + n)
            assert (found.where, found.timing.cold_s) == ("cloud", 0.0)
            assert found.attempts[0].lease_id == offer.lease_id
        assert home.cloud.ordered == 1
        await passing(301.0)
        home.settled()
        assert engine.ledger.rows("SELECT state, purpose FROM lease") == [("released", "replica")]
        (offer,) = [o for o in await engine.offers(live(0)[0].need) if o.provider == "cloud"]
        assert isinstance(offer, Offer)
        assert (offer.cold_s, offer.lease_id) == (30.0, "")
        assert (await ask(engine, 9)).where == "cloud"  # and a new one
        await engine.close()
        assert home.cloud.ordered == 2
        home.settled()

    play(scene, call_s=0.5)


def test_its_lifetime_is_its_budget_and_a_ready_one_needs_none() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine(limits=Limits(dict.fromkeys(home.limits.caps, PAID.cost(3600)), {}))
        assert (await ask(engine, 1)).where == "cloud"
        # nothing is left of the budget, and every second of it is reserved for the replica
        assert [(await ask(engine, n)).where for n in range(2, 6)] == ["cloud"] * 4
        for n in range(20):
            await passing(200.0)
            await ask(engine, 10 + n)
        assert home.cloud.rented == ()  # traffic went on, its time was over
        assert home.cloud.ordered == 1
        found = await ask(engine, 99)
        assert found.where == "local"
        assert [a.error for a in found.attempts if a.provider == "cloud"] in ([], ["OverBudget"])
        await engine.close()
        home.settled()

    play(scene, call_s=0.5)


def test_whoever_gives_up_waiting_leaves_it_warm_for_those_behind() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await ask(engine, 1)
        await passing(40.0)
        found = await ask(engine, 2, within_s=5.0)
        assert (found.where, home.cloud.ordered) == ("cloud", 1)
        await engine.close()
        home.settled()

    play(scene, home={"local": False})


def test_many_at_once_open_one() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        found = await asyncio.gather(*(ask(engine, n) for n in range(8)))
        assert {f.where for f in found} <= {"cloud", "local"}
        assert home.cloud.ordered == 1
        await engine.close()
        home.settled()

    play(scene, call_s=0.5)


def test_one_that_is_taken_away_is_the_next_offers_turn_and_its_lease_ends() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        await ask(engine, 1)
        await passing(100.0)
        home.cloud.preempt()
        found = await ask(engine, 2)
        assert [(a.provider, a.error) for a in found.attempts] == [("cloud", "Preempted"), ("local", "")]
        await passing(1.0)
        assert engine.ledger.rows("SELECT state FROM lease") == [("released",)]
        home.settled()
        await engine.close()

    play(scene, call_s=0.5)


def test_one_that_does_not_answer_is_looked_for() -> None:
    async def scene(home: Home) -> None:
        engine = home.engine()
        await ask(engine, 1)
        home.cloud.preempt()
        home.cloud.fail("call", Unreachable("no route", provider="cloud"))  # it says nothing of being gone
        home.cloud._running = lambda lease: home.cloud._machines[lease.name]  # type: ignore[method-assign]
        await ask(engine, 2)
        await passing(2.0)
        assert engine.ledger.rows("SELECT state FROM lease") == [("released",)]
        await engine.close()
        home.settled()

    play(scene)


def test_one_that_stalls_is_given_back_and_the_next_offer_taken() -> None:
    async def scene(home: Home) -> None:
        home.patience = patient(home, stall_s=120.0)
        engine = home.engine()
        found = await ask(engine, 1)
        assert found.where == "local"
        assert [a.error for a in found.attempts][:1] in (["NoCapacity"], ["TimedOut"])
        await passing(130.0)
        home.settled()
        assert (await ask(engine, 2)).where in ("cloud", "local")
        await engine.close()
        home.settled()

    play(scene, stalls=1)


def test_a_second_process_adopts_it_and_the_last_one_gives_it_back() -> None:
    async def scene(home: Home) -> None:
        first, second = home.engine(), home.engine()
        await ask(first, 1)
        found = await ask(second, 2)
        assert (found.where, home.cloud.ordered) == ("cloud", 1)
        await first.close()
        assert len(home.cloud.rented) == 1  # the second one still uses it
        assert (await ask(second, 3)).timing.cold_s == 0.0
        await second.close()
        home.settled()

    play(scene, call_s=0.5)


def test_a_second_process_waits_for_the_one_that_is_being_opened() -> None:
    async def scene(home: Home) -> None:
        first, second = home.engine(), home.engine()
        found = await asyncio.gather(ask(first, 1), ask(second, 2))
        assert [f.where for f in found] == ["cloud", "cloud"]
        assert home.cloud.ordered == 1
        await second.close()
        await first.close()
        home.settled()

    play(scene)


@pytest.mark.parametrize("serving", [True, False])
def test_what_a_dead_process_left_is_adopted_or_released(serving: bool) -> None:
    async def scene(home: Home) -> None:
        dead = home.engine()
        if serving:
            await ask(dead, 1)
        else:
            waiting = asyncio.ensure_future(ask(dead, 1))
            await passing(10.0)
        dead.ledger.close()  # all that is left of it is in the file
        if not serving:
            waiting.cancel()
        engine = home.engine()
        await engine.replicas.recover()
        if serving:
            assert len(home.cloud.rented) == 1
            assert (await ask(engine, 2)).timing.cold_s == 0.0
            await passing(301.0)
            assert home.cloud.ordered == 1
        else:
            await passing(1.0)
        assert home.cloud.rented == ()
        home.settled()
        await engine.close()

    play(scene, home={"local": False})


def test_nobody_ends_what_a_living_process_uses() -> None:
    async def scene(home: Home) -> None:
        first = home.engine()
        await ask(first, 1)
        for _ in range(3):
            other = home.engine()
            await other.replicas.recover()
            await other.close()
            assert len(home.cloud.rented) == 1
        await first.close()
        home.settled()

    play(scene)


@pytest.mark.parametrize("broken", ["create", "start", "find", "release", "bill", "leases"])
@pytest.mark.parametrize("how", ["error", "lost", "hang"])
def test_no_fault_of_one_call_leaves_anything(broken: str, how: str) -> None:
    async def scene(home: Home) -> None:
        home.patience = patient(home, stall_s=100.0)
        if how == "error":
            home.cloud.fail(broken, Preempted("broken", provider="cloud"), times=1)
        else:
            home.cloud.fail(broken, lost=how == "lost", delay_s=1e6 if how == "hang" else 0.0, times=1)
        engine = home.engine()
        found = await ask(engine, 1)
        assert found.attempts[-1].outcome is Outcome.OK
        await passing(400.0)
        await engine.close()
        assert home.cloud.rented == ()
        ledger = home.ledger()
        assert (ledger.held(), ledger.open_leases()) == (0, ())
        if broken != "bill":
            home.settled()

    play(scene)


@given(
    calls=st.lists(st.tuples(st.floats(0, 20), st.floats(0.01, 9)), min_size=1, max_size=12),
    rate=st.sampled_from([PAID, ODD]),
)
def test_shares_and_idle_are_the_charge(calls: list[tuple[float, float]], rate: object) -> None:
    """Whatever overlaps: each second in use is shared out once, and never more than is charged."""

    async def scene(home: Home) -> None:
        engine = home.engine()
        await ask(engine, 0)

        async def one(number: int, after_s: float, takes_s: float) -> None:
            await passing(after_s)
            home.cloud._call_s = takes_s
            await ask(engine, number)

        await asyncio.gather(*(one(n, *c) for n, c in enumerate(calls, 1)))
        await engine.close()
        home.settled()
        total, busy = home.charged(), shares(home)
        assert 0 <= busy <= total
        (cost,) = costs.leased(home.ledger())
        assert (cost.charge, cost.idle + sum(amount for _, amount in cost.shares)) == (total, total)

    play(scene, rate=rate, home={"local": False}, cold_s=3.0)
