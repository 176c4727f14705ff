"""The policies' world: the same luck for all, every second invoiced, and a comparison that pairs seeds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import NoCapacity, Preempted, QuotaExhausted
from accel.core.offer import Billing, Gpu, Offer, Unfit
from accel.core.row import Provenance
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Stage
from accel.experiments import policies, policies_compare
from accel.experiments.policies_compare import COST, WORK, by_contestant, mean, table, verdicts
from accel.experiments.policies_contestants import (
    ATTEMPTS,
    CONTESTANTS,
    OURS,
    Outcome,
    Scene,
    Serve,
    on_loop,
)
from accel.experiments.policies_places import PATIENCE_S, TraceProvider
from accel.experiments.policies_plot import plot_policies
from accel.experiments.policies_world import PLACES, Ask, Draw, Episode, Place, draw
from accel.experiments.traces import Arrival, Collection, Market
from accel.simulation.loop import run_virtual

EMBED = Need(Stage.EMBED, Lane.LIVE)
PLAIN = Place(
    "gpu", Gpu("T4", 1, 15 << 30, 75), "3.60", "made up", round_trip_s=0.2, cold_s=10.0, idle_s=30.0,
    workers=2,
)  # fmt: skip
STEADY = Draw(spread=0.0, offset=0.0, cold_spread=0.0)


def asks(n: int, every_s: float = 1.0, within_s: float | None = 5.0) -> tuple[Ask, ...]:
    return tuple(Ask(i, i * every_s, Stage.EMBED, 1000, within_s) for i in range(n))


def episode(*places: Place, ups: dict[str, tuple[tuple[float, float], ...]] | None = None) -> Episode:
    """A made-up episode in which the FLOP/s are such that every call computes for 1.01 s."""
    markets = {name: Market(name, u, 1e6) for name, u in (ups or {}).items()}
    pace = {p.name: 1000 * 21.4e6 for p in places}
    return Episode(1, "made-up", asks(20), places, markets, pace, 5.0, 1000.0, STEADY)


def on(
    place: Place, scene: Callable[[TraceProvider], Coroutine[Any, Any, Any]], **kwargs: Any
) -> TraceProvider:
    """Run ``scene`` with one running place, close it, and give it back for its invoice."""

    async def main() -> TraceProvider:
        provider = TraceProvider(episode(place, **kwargs), place, Runtime.virtual(1))
        await scene(provider)
        provider.workers.close()
        return provider

    return run_virtual(main())


def small() -> Collection:
    """Two services with a burst, three zones with gaps: small, but of the traces' shape."""
    steady = tuple(Arrival(i * 0.7, 200 + 37 * (i % 90)) for i in range(400))
    bursts = tuple(Arrival(i // 8 * 6.0, 500 + 53 * (i % 60)) for i in range(400))
    ups = (((0.0, 900.0), (1500.0, 9000.0)), ((300.0, 8000.0),), ((0.0, 200.0), (4000.0, 4300.0)))
    markets = tuple(Market(f"z{i}", u, 9000.0) for i, u in enumerate(ups))
    return Collection((("conv", steady), ("code", bursts)), markets)


# The world ------------------------------------------------------------------------------------------


def test_an_episode_follows_from_its_seed() -> None:
    one, same, other = (draw(seed, small(), Draw(requests=50)) for seed in (1, 1, 2))
    assert one == same and one.asks != other.asks
    for made in (one, other):
        dated = [a.within_s for a in made.asks if a.within_s is not None]
        assert 0.6 < len(dated) / 50 <= 1.0 and all(1.0 <= w <= 15.0 for w in dated)
        assert {a.stage for a in made.asks} == {Stage.EMBED, Stage.RERANK}
        assert made.quota_s == pytest.approx(30 / 168 * made.asks[-1].at_s)


def test_luck_does_not_depend_on_who_asks_or_when() -> None:
    made = draw(1, small(), Draw(requests=50))
    place = PLACES[1]
    forth = [made.luck(a, place, 0) for a in made.asks]
    back = [made.luck(a, place, 0) for a in reversed(made.asks)]
    assert forth == back[::-1]
    assert len({(x.slow, x.fails) for x in forth}) == 50
    assert made.luck(made.asks[0], place, 0) != made.luck(made.asks[0], place, 1)
    assert made.luck(made.asks[0], place, 0) != made.luck(made.asks[0], PLACES[2], 0)


# Places ---------------------------------------------------------------------------------------------


def test_a_first_call_waits_for_a_start_and_the_next_finds_it_warm() -> None:
    took: list[float] = []

    async def scene(provider: TraceProvider) -> None:
        for ask in asks(2):
            began = asyncio.get_running_loop().time()
            cold_s, compute_s = await provider.serve(ask)
            took.append(asyncio.get_running_loop().time() - began)
            assert compute_s == pytest.approx(1.01)
            assert cold_s == pytest.approx(0.0 if ask.number else 10.0)

    invoice = on(PLAIN, scene).invoice
    assert took == pytest.approx([11.21, 1.21], abs=0.01)
    assert invoice.cold_s == pytest.approx(10.0) and invoice.busy_s == pytest.approx(2.02)
    assert invoice.idle_s == pytest.approx(0.3, abs=0.01)  # between the calls, and after the last one
    assert invoice.worked == pytest.approx(12.02e6, rel=1e-3)  # a tenth of a cent a second
    assert invoice.total > invoice.worked


def test_a_worker_stays_warm_for_its_idle_time_and_that_is_invoiced() -> None:
    async def scene(provider: TraceProvider) -> None:
        await provider.serve(asks(1)[0])
        await asyncio.sleep(25.0)
        assert provider.workers.cold_s() == 0.0
        await asyncio.sleep(10.0)
        assert provider.workers.cold_s() == 10.0
        await asyncio.sleep(100.0)

    assert on(PLAIN, scene).invoice.idle_s == pytest.approx(30.0, abs=1e-6)


def test_a_caller_that_leaves_during_a_start_leaves_a_warm_worker() -> None:
    async def scene(provider: TraceProvider) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await provider.serve(asks(1)[0])
        await asyncio.sleep(10.0)
        assert provider.workers.cold_s() == 0.0

    invoice = on(PLAIN, scene).invoice
    assert (invoice.cold_s, invoice.busy_s) == (pytest.approx(10.0), 0.0)


def test_calls_wait_for_each_other_and_a_long_wait_starts_another_worker() -> None:
    ends: list[float] = []

    async def one(provider: TraceProvider, ask: Ask) -> None:
        await provider.serve(ask)
        ends.append(asyncio.get_running_loop().time())

    async def scene(provider: TraceProvider) -> None:
        await asyncio.gather(*(one(provider, a) for a in asks(20)))

    provider = on(PLAIN, scene)
    assert provider.invoice.cold_s == pytest.approx(20.0)  # both workers, never a third
    assert ends[0] == pytest.approx(11.21, abs=0.01)
    # the second worker is asked for when the first is up (12 s), and is up at 22 s: ten calls are done, and
    # the others end two at a time
    assert ends[-1] == pytest.approx(22.0 + 0.1 + 5 * 1.01, abs=1.2)
    assert provider.invoice.busy_s == pytest.approx(20 * 1.01)
    assert 0 < PATIENCE_S < 10.0


def test_an_offer_tells_the_idle_seconds_that_are_invoiced() -> None:
    told: list[float | None] = []

    async def scene(provider: TraceProvider) -> None:
        offer = await provider.probe(EMBED)
        assert isinstance(offer, Offer)
        told.append(offer.idle_s)
        await provider.serve(asks(1)[0])
        await asyncio.sleep(100.0)

    invoice = on(PLAIN, scene).invoice
    on(replace(PLAIN, cold_s=0.0, idle_s=float("inf")), scene)  # it never ends, and nobody bills for it
    assert told == [pytest.approx(invoice.idle_s), None]


def test_a_hang_up_while_waiting_loses_no_worker() -> None:
    async def scene(provider: TraceProvider) -> None:
        async def patient(ask: Ask, patience_s: float) -> None:
            try:
                async with asyncio.timeout(patience_s):
                    await provider.serve(ask)
            except TimeoutError:
                pass

        await asyncio.gather(*(patient(a, 0.5 + 1.7 * a.number) for a in asks(15)))
        began = asyncio.get_running_loop().time()
        await provider.serve(asks(20)[19])
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.21, abs=0.01)

    on(PLAIN, scene)


def test_when_the_market_ends_calls_are_preempted_and_waiting_ones_turned_away() -> None:
    told: list[type[BaseException] | None] = []

    async def one(provider: TraceProvider, ask: Ask) -> None:
        try:
            await provider.serve(ask)
            told.append(None)
        except (Preempted, NoCapacity) as failure:
            told.append(type(failure))

    async def scene(provider: TraceProvider) -> None:
        assert isinstance(await provider.probe(EMBED), Offer)
        await asyncio.gather(*(one(provider, a) for a in asks(4)))
        assert asyncio.get_running_loop().time() == pytest.approx(12.0, abs=0.01)
        assert isinstance(await provider.probe(EMBED), Unfit)
        await one(provider, asks(5)[4])
        await asyncio.sleep(20.0)
        assert isinstance(await provider.probe(EMBED), Offer)  # it is to be had again, and cold
        assert provider.workers.cold_s() == 10.0

    place = replace(PLAIN, spot=True, workers=1)
    provider = on(place, scene, ups={"gpu": ((0.0, 12.0), (30.0, 500.0))})
    # one was answered, one was at work, two waited, and one came too late
    assert told[0] is None and told[-1] is NoCapacity
    assert Counter(told) == {None: 1, Preempted: 1, NoCapacity: 3}
    assert provider.invoice.cold_s == pytest.approx(10.0)
    assert provider.invoice.busy_s == pytest.approx(1.85, abs=0.02)  # up to the preemption


def test_a_start_that_the_market_cuts_off_is_invoiced_as_far_as_it_got() -> None:
    async def scene(provider: TraceProvider) -> None:
        with pytest.raises(NoCapacity):
            await provider.serve(asks(1)[0])
        assert provider.workers.cold_s() == 10.0
        await asyncio.sleep(20.0)

    invoice = on(replace(PLAIN, spot=True), scene, ups={"gpu": ((0.0, 6.1),)}).invoice
    assert invoice.cold_s == pytest.approx(6.0, abs=0.01)
    assert invoice.busy_s == invoice.idle_s == 0.0


def test_a_worker_given_to_who_just_left_is_not_lost() -> None:
    async def scene(provider: TraceProvider) -> None:
        workers = provider.workers

        async def take() -> None:
            async with workers.take():
                pass

        async with workers.take():
            leaving = asyncio.create_task(take())
            await asyncio.sleep(0)
        leaving.cancel()  # after it was given the worker, before it could know
        await asyncio.wait([leaving])
        began = asyncio.get_running_loop().time()
        await take()
        assert asyncio.get_running_loop().time() == began

    on(replace(PLAIN, workers=1), scene)


def test_luck_is_drawn_by_the_tries_of_one_request() -> None:
    async def scene(provider: TraceProvider) -> None:
        first, second = asks(2)
        for ask in (first, second, first):
            await provider.serve(ask)
        assert provider.calls == {0: 2, 1: 1}

    on(PLAIN, scene)


def test_a_free_quota_is_counted_and_ends() -> None:
    place = replace(PLAIN, billing=Billing.QUOTA, dollars_per_hour="0", cold_s=3.0)

    async def scene(provider: TraceProvider) -> None:
        offer = await provider.probe(EMBED)
        assert isinstance(offer, Offer) and offer.quota_left_s == pytest.approx(5.0)
        assert offer.quota_s == 30 * 3600.0 and offer.quota_resets_at is not None
        await provider.serve(asks(1)[0])
        await provider.serve(asks(2)[1])
        assert provider.quota_left_s() == 0.0
        with pytest.raises(QuotaExhausted):
            await provider.serve(asks(3)[2])
        assert isinstance(await provider.probe(EMBED), Unfit)

    assert on(place, scene).invoice.total == 0


@given(
    gaps=st.lists(st.floats(0.0, 45.0), min_size=1, max_size=12),
    patience=st.lists(st.floats(0.1, 30.0), min_size=12, max_size=12), ends=st.floats(5.0, 120.0),
)  # fmt: skip
def test_no_more_is_invoiced_than_the_workers_were_up(
    gaps: list[float], patience: list[float], ends: float
) -> None:
    """Two workers can be up for twice the time at most, and nothing is invoiced after the market's end."""
    spent: list[float] = []

    async def one(provider: TraceProvider, ask: Ask) -> None:
        try:
            async with asyncio.timeout(patience[ask.number]):
                await provider.serve(ask)
        except (TimeoutError, Preempted, NoCapacity):
            pass

    async def scene(provider: TraceProvider) -> None:
        running = []
        for ask, gap in zip(asks(len(gaps)), gaps, strict=True):
            await asyncio.sleep(gap)
            running.append(asyncio.create_task(one(provider, ask)))
        await asyncio.gather(*running)
        spent.append(min(ends, asyncio.get_running_loop().time()))

    invoice = on(replace(PLAIN, spot=True), scene, ups={"gpu": ((0.0, ends),)}).invoice
    up_s = invoice.cold_s + invoice.busy_s + invoice.idle_s
    assert min(invoice.cold_s, invoice.busy_s, invoice.idle_s) >= 0
    assert up_s <= 2 * spent[0] + 1e-6


# Contestants ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played() -> dict[str, list[Outcome]]:
    episodes = [draw(seed, small(), Draw(requests=80)) for seed in (1, 2)]
    return {name: [play(e) for e in episodes] for name, play in CONTESTANTS.items()}


def test_every_contestant_answers_each_request_at_most_once(played: dict[str, list[Outcome]]) -> None:
    assert set(played) >= {OURS, "always-cheapest", "free-first-greedy", "litellm-cost", "litellm-latency"}
    for outcomes in played.values():
        for o in outcomes:
            assert o.asked == 80 == sum(o.by_place.values())
            assert o.answered == 80 - o.by_place.get("", 0)
            assert o.in_time <= o.dated <= o.asked and o.tight_in_time <= o.tight <= o.dated
            assert o.asked <= sum(o.calls.values()) or o.answered < o.asked
            assert sum(o.calls.values()) <= (ATTEMPTS + 1) * o.asked
            assert 0 <= o.worked_nano <= o.total_nano
            assert o.free_s <= o.quota_s + 60.0  # what was begun is finished
    assert sum(o.answered for o in played[OURS]) > 80


def test_the_same_episode_gives_the_same_outcome(played: dict[str, list[Outcome]]) -> None:
    again = draw(2, small(), Draw(requests=80))
    for name in (OURS, "litellm-latency"):
        assert CONTESTANTS[name](again) == played[name][1]


def test_a_late_answer_is_an_answer_and_not_in_time() -> None:
    @asynccontextmanager
    async def late(scene: Scene) -> AsyncIterator[Serve]:
        async def serve(ask: Ask) -> str:
            await asyncio.sleep(2 * (ask.within_s or 1.0) if ask.number % 2 else 0.5)
            return "local" if ask.number % 5 else ""

        yield serve

    made = draw(1, small(), Draw(requests=60))
    told = on_loop("late", late)(made)
    dated = [a for a in made.asks if a.within_s is not None]
    assert told.answered == 48 and told.dated == len(dated)
    assert told.in_time == sum(a.number % 2 == 0 and a.number % 5 != 0 for a in dated)
    assert told.total_nano == 0 and told.by_place == {"": 12, "local": 48}


def test_rivals_follow_their_rule(played: dict[str, list[Outcome]]) -> None:
    cheap = played["always-cheapest"]
    assert all(o.calls["free-t4"] and o.calls["local"] for o in cheap)
    assert all(not o.calls["a100"] for o in cheap)
    for o in played["free-first-greedy"]:
        assert o.calls["free-t4"] >= o.asked * 0.5  # it is asked first as long as it is there
        assert o.calls["local"] < o.calls["free-t4"]
    for name in ("litellm-cost-fb", "litellm-latency-fb"):
        assert all(o.calls["local"] < o.asked for o in played[name])
    # what is not measured yet counts as quickest: each place is tried
    assert all(min(c for p, c in o.calls.items() if p != "local") > 0 for o in played["litellm-latency-fb"])


# Comparison -----------------------------------------------------------------------------------------


def outcome(name: str, seed: int, cost: float = 1.0, in_time: int = 90, answered: int = 95) -> Outcome:
    nano = round(cost * 1e8)
    return Outcome(
        name, seed, "made-up", 100, answered, 100, in_time, 50, 40, nano, nano, 0.1, 0.2, 0.0, 0.0, {}, {}
    )


def met(name: str, costs: list[float], in_time: list[int]) -> list[Outcome]:
    return [outcome(name, s, *v) for s, v in enumerate(zip(costs, in_time, strict=True))]


def test_a_difference_is_paired() -> None:
    """Seeds differ widely, ours is always a little better: the interval of the difference shows it."""
    ours = met(OURS, [1.0, 5.0, 9.0, 2.0], [50, 70, 90, 60])
    rival = met("rival", [1.1, 5.1, 9.1, 2.1], [49, 69, 89, 59])
    told = verdicts([*ours, *rival])
    assert [v.money for v in told] == [COST, WORK]
    cost, in_time, _ = (d for _, d in told[0].differences)
    assert cost.value == pytest.approx(-0.1) and cost.clear == -1
    assert in_time.value == pytest.approx(0.01) and in_time.clear == 1
    assert told[0].dominates and not told[0].dominated
    back = verdicts([*ours, *rival], ours="rival")[0]
    assert back.dominated and not back.dominates


def test_one_thing_clearly_better_is_not_dominated_and_noise_is_nothing() -> None:
    ours = met(OURS, [2.0, 2.1, 2.2, 2.0], [95, 96, 95, 94])
    rival = met("rival", [1.0, 1.1, 1.0, 1.2], [90, 91, 92, 90])
    assert not any(v.dominated or v.dominates for v in verdicts([*ours, *rival]))
    noisy = met("rival", [1.0, 1.1, 1.0, 1.2], [90, 99, 92, 99])
    assert all(v.dominated for v in verdicts([*ours, *noisy]))  # dearer for sure, and better in nothing sure
    twin = [replace(o, contestant="rival") for o in ours]
    assert not any(v.dominated or v.dominates for v in verdicts([*ours, *twin]))


def test_only_seeds_that_all_have_met_are_compared() -> None:
    many = [*met(OURS, [1.0] * 5, [90] * 5), *met("rival", [1.0] * 3, [90] * 3)]
    assert [list(s) for s in by_contestant(many).values()] == [[0, 1, 2]] * 2
    with pytest.raises(ValueError, match="did not play"):
        verdicts(met("rival", [1.0], [90]))
    with pytest.raises(ValueError, match="needs values"):
        mean([])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    told = mean(values)
    assert told.low - 1e-9 <= told.value <= told.high + 1e-9
    assert min(values) - 1e-9 <= told.low and told.high <= max(values) + 1e-9


def test_tables_fit_and_say_what_they_are(played: dict[str, list[Outcome]], tmp_path: Path) -> None:
    outcomes = [o for all_ in played.values() for o in all_]
    text = table(outcomes)
    assert max(map(len, text.splitlines())) <= 80
    assert "realm simulated" in text and "n = 2" in text
    env = Provenance("here", 1, "none", "os", "3", {"p": "1"}, "c", datetime(2026, 11, 24, tzinfo=UTC))
    rows = policies_compare.rows(outcomes, env, {"requests": 80})
    assert len(rows) == len(played) * len(policies_compare.METRICS)
    assert {r.realm for r in rows} == {"simulated"} and {r.n for r in rows} == {2}
    picture = plot_policies(outcomes, env, policies.assumptions(Draw()), tmp_path / "p.png")
    assert picture.stat().st_size > 10_000


# The command ----------------------------------------------------------------------------------------


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    azure, spot = folder / "azure-llm-2023", folder / "spot-traces/availability/1-node/aws-02-15-2023"
    azure.mkdir(parents=True)
    spot.mkdir(parents=True)
    first = datetime(2023, 11, 16, 18, 0)
    for service in ("conv", "code"):
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
        lines += [f"{(first + timedelta(seconds=i)).isoformat(' ')}.0000000,{100 + i},1" for i in range(60)]
        (azure / f"AzureLLMInferenceTrace_{service}.csv").write_text("\n".join(lines))
    for zone in "abc":
        body = {"metadata": {"gap_seconds": 195}, "data": [1, 1, 0, 1] * 20}
        (spot / f"us-east-1{zone}_v100_1.json").write_text(json.dumps(body))
    return folder


def test_the_command_keeps_what_was_played(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policies.environment, "commit", lambda: "0123456789ab")
    monkeypatch.setattr(policies, "CONTESTANTS", {n: CONTESTANTS[n] for n in (OURS, "always-cheapest")})
    words = ["--traces", str(traces), "--requests", "15", "--spot-speed", "1", "--processes", "1",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert policies.main([*words, "--seeds", "1"]) == 0
    assert "[2/2]" in capsys.readouterr().err
    kept = (tmp_path / "out" / policies.OUTCOMES).read_text()
    with (tmp_path / "out" / policies.OUTCOMES).open("a") as file:
        file.write(kept.splitlines()[0][:40])  # a crash in the middle of a line
    assert policies.main([*words, "--seeds", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 4 were played before" in err and "[2/2]" in err
    told = json.loads(out)
    assert told["realm"] == "simulated" and len(told["outcomes"]) == 4
    assert {v["rival"] for v in told["verdicts"]} == {"always-cheapest"}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"rows.simulated.jsonl", "report.md", "policies.png"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Realm simulated" in report and "0123456789ab" in report
    assert policies.main([*words[:3], "16", *words[4:], "--seeds", "1"]) == 0  # other episodes
    assert "played before" not in capsys.readouterr().err


def test_a_killed_process_is_told_and_costs_only_what_it_played(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(ThreadPoolExecutor):
        def __init__(self, processes: int, mp_context: object) -> None:
            super().__init__(processes)

        def submit(self, *call: Any) -> Future[Any]:  # type: ignore[override]
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

    monkeypatch.setattr(policies, "ProcessPoolExecutor", Killed)
    words = ["--traces", str(traces), "--requests", "15", "--seeds", "1", "--out", str(tmp_path / "o")]
    assert policies.main(words) == 1
    assert "goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "0"], "must be above 0"),
        (["--requests", "-1"], "must be above 0"),
        (["--spot-speed", "nan"], "must be above 0"),
        (["--requests", "9999"], "9999 requests in a row"),
    ],
)
def test_bad_input_is_one_clear_line(
    traces: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--traces", str(traces), "--out", str(tmp_path / "o"), "--processes", "1", *words]
    assert policies.main(given) == 2
    err = capsys.readouterr().err.strip()
    assert said in err and len(err.splitlines()) == 1


def test_a_folder_without_traces_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policies.main(["--traces", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "does not hold azure" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
