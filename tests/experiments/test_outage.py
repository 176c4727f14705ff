"""The outage benchmark counts what happened: each way to be dead, each request, each refused connection."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from accel.core.errors import AccelError
from accel.core.offer import Realm
from accel.experiments import outage, outage_report, rows
from accel.experiments.outage import OURS, Bout, commands
from accel.experiments.outage_contestant import DIMENSION, Asked, Plan, play, vector_of
from accel.experiments.outage_litellm import SETUPS, arguments
from accel.experiments.outage_servers import Endpoint, Mode, Seen

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
NAIVE = [sys.executable, str(Path(__file__).with_name("outage_naive.py"))]
SHORT = Plan("", "", "", warm=3, warm_every_s=0.4, requests=10, dead=8, every_s=0.25, more=4, patience_s=20.0)


# The servers ----------------------------------------------------------------------------------------


def serve(scene: Callable[[Endpoint, httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        async with Endpoint("e", 0.0) as server, httpx.AsyncClient(base_url=server.url) as client:
            return await scene(server, client)

    return asyncio.run(main())


async def post(client: httpx.AsyncClient, *texts: str, **options: Any) -> httpx.Response:
    return await client.post("/embeddings", json={"model": "m", "input": list(texts)}, **options)


def test_a_well_server_answers_right_and_counts() -> None:
    async def scene(server: Endpoint, client: httpx.AsyncClient) -> None:
        before = time.monotonic()
        told = (await post(client, "a", "b")).json()
        await post(client, "c")
        assert [row["embedding"] for row in told["data"]] == [vector_of("a"), vector_of("b")]
        assert [(s.text, s.status) for s in server.seen] == [("a", 200), ("c", 200)]
        assert len(server.accepted) == 1  # the connection is kept
        assert before <= server.seen[0].at <= server.seen[1].at <= time.monotonic()

    serve(scene)


def test_errors_are_answered_and_counted() -> None:
    async def scene(server: Endpoint, client: httpx.AsyncClient) -> None:
        await server.become(Mode.ERRORS)
        assert (await post(client, "a")).status_code == 503
        await server.become(Mode.WELL)
        assert (await post(client, "b")).status_code == 200
        assert [s.status for s in server.seen] == [503, 200]

    serve(scene)


def test_what_hung_goes_on_hanging_when_the_server_is_well_again() -> None:
    async def scene(server: Endpoint, client: httpx.AsyncClient) -> None:
        await server.become(Mode.HANG)
        hung = asyncio.create_task(post(client, "a", timeout=0.3))
        while not server.seen:  # noqa: ASYNC110 - the server has no bell
            await asyncio.sleep(0.01)
        await server.become(Mode.WELL)
        assert (await post(client, "b")).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            await hung
        assert [(s.text, s.status) for s in server.seen] == [("a", 0), ("b", 200)]

    serve(scene)


def test_a_server_that_is_gone_keeps_its_port() -> None:
    async def scene(server: Endpoint, client: httpx.AsyncClient) -> None:
        await server.become(Mode.REFUSED)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))

    serve(scene)


def test_refused_is_refused_on_open_and_on_new_connections() -> None:
    async def scene(server: Endpoint, client: httpx.AsyncClient) -> None:
        await post(client, "a")
        port = server.port
        await server.become(Mode.REFUSED)
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await post(client, "b")
        assert [s.text for s in server.seen] == ["a"]
        await server.become(Mode.WELL)
        assert (await post(client, "c")).status_code == 200
        assert server.port == port and [s.text for s in server.seen] == ["a", "c"]

    serve(scene)


def test_the_right_vector_is_exact_in_float32_and_told_apart() -> None:
    seen = {tuple(vector_of(f"text {i}")) for i in range(100)}
    assert len(seen) == 100
    for vector in seen:
        assert len(vector) == DIMENSION and all(-1 <= x < 1 for x in vector)
        assert [float(x) for x in np.array(vector, np.float32)] == list(vector)


# The contestant's side ------------------------------------------------------------------------------


def played(plan: Plan, ask: Callable[[str], Awaitable[Sequence[float]]], enough: bool = False) -> list[Asked]:
    async def main() -> list[Asked]:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if enough:
            told.set_result("enough")
        return await play(plan, ask, time.monotonic(), told)

    return asyncio.run(main())


def test_a_slow_answer_holds_up_nothing() -> None:
    """An open loop: had each request waited for the one before, the outage would meet fewer of them."""
    order: list[str] = []

    async def ask(text: str) -> list[float]:
        order.append(f"begin {text}")
        await asyncio.sleep(0.3 if text == "request 0" else 0.0)
        order.append(f"end {text}")
        return vector_of(text)

    asked = played(Plan("", "", "", warm=0, requests=3, every_s=0.05, more=0), ask)
    assert [a.text for a in asked] == ["request 0", "request 1", "request 2"]
    assert order[-1] == "end request 0"
    assert not any(a.error for a in asked)


def test_patience_errors_and_wrong_vectors_are_no_answers() -> None:
    async def ask(text: str) -> list[float]:
        if text.endswith("0"):
            await asyncio.sleep(60)
        if text.endswith("1"):
            raise ValueError("no")
        return vector_of("another" if text.endswith("2") else text)

    plan = Plan("", "", "", warm=0, requests=4, every_s=0.01, more=0, patience_s=0.05)
    errors = [a.error for a in played(plan, ask)]
    assert errors == ["TimeoutError: ", "ValueError: no", "the wrong vector", ""]


@pytest.mark.parametrize("enough", [False, True])
def test_beyond_the_planned_requests_it_goes_on_until_it_is_enough(enough: bool) -> None:
    async def ask(text: str) -> list[float]:
        return vector_of(text)

    plan = Plan("", "", "", warm=1, warm_every_s=0.01, requests=2, every_s=0.01, more=3)
    assert len(played(plan, ask, enough)) == (3 if enough else 6)


def test_rivals_need_nothing_but_the_standard_library() -> None:
    """They run in environments that hold none of our dependencies."""
    code = "import accel.experiments.outage_litellm as m; print(len(m.SETUPS))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == len(SETUPS)


def test_the_set_ups_that_keep_every_default_set_nothing_but_the_servers() -> None:
    plan = Plan("", "http://p/v1", "http://f/v1")
    for name in ("litellm fallbacks", "litellm order", "litellm shuffle"):
        made = arguments(replace(plan, contestant=name))
        assert set(made) <= {"model_list", "fallbacks"}
        for server, url in zip(made["model_list"], (plan.primary, plan.fallback), strict=True):
            assert set(server["litellm_params"]) <= {"model", "api_base", "api_key", "order"}
            assert server["litellm_params"]["api_base"] == url
    tuned = arguments(replace(plan, contestant="litellm tuned"))
    assert tuned["fallbacks"] and tuned["allowed_fails"] == 1 and tuned["num_retries"] == 0


# The harness ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fought() -> dict[Mode, tuple[Bout, ...]]:
    """Every mode at once, on a short schedule and quick servers: two that learn nothing, and ours."""
    contestants = {"naive": NAIVE, "another": NAIVE, OURS: commands(None)[OURS]}

    async def main() -> list[tuple[Bout, ...]]:
        return await asyncio.gather(*(outage.run(m, contestants, SHORT) for m in outage.DEAD))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outage, "PRIMARY_S", 0.01)
        patch.setattr(outage, "FALLBACK_S", 0.02)
        return dict(zip(outage.DEAD, asyncio.run(main()), strict=True))


@pytest.mark.parametrize("mode", outage.DEAD)
def test_every_attempt_of_one_that_learns_nothing_is_counted(
    fought: dict[Mode, tuple[Bout, ...]], mode: Mode
) -> None:
    for bout in fought[mode][:2]:
        # each request tried the primary once: there it was answered, or that was an attempt at a dead server
        well = [s for s in bout.primary if s.status == 200]
        assert bout.attempts + len(well) == len(bout.asked) >= SHORT.warm + SHORT.requests
        assert bout.attempts >= SHORT.dead / 2 and len(well) >= SHORT.warm / 2
        assert bout.answered == len(bout.met) >= SHORT.dead / 2
        assert bout.back_s is not None and bout.back_s >= 0
        assert bout.versions == {"naive": "1"} and len(bout.own_s) == outage.OWN_CALLS


def test_contestants_run_at_the_same_time_and_apart(fought: dict[Mode, tuple[Bout, ...]]) -> None:
    for found in fought.values():
        assert [b.contestant for b in found] == ["naive", "another", OURS]
        assert len({url for b in found for url in (b.plan.primary, b.plan.fallback)}) == 6
        assert max(b.died for b in found) < min(b.revived for b in found)


@pytest.mark.parametrize("mode", [Mode.REFUSED, Mode.ERRORS])
def test_ours_answers_everything_and_stays_away(fought: dict[Mode, tuple[Bout, ...]], mode: Mode) -> None:
    """The breaker's 30 s do not pass on this schedule: it has to open, and nothing else."""
    ours = fought[mode][-1]
    assert ours.answered == len(ours.met) >= SHORT.dead / 2, [a for a in ours.met if a.error]
    assert 1 <= ours.attempts < SHORT.dead
    assert set(ours.versions) == {"accel", "httpx"}


def test_a_contestant_that_ends_early_is_named_with_its_last_word() -> None:
    both = {"fine": NAIVE, "bad": [sys.executable, "-c", "raise SystemExit('broken on purpose')"]}
    with pytest.raises(AccelError, match="bad ended early: broken on purpose"):
        asyncio.run(outage.run(Mode.REFUSED, both, SHORT))


# The report -----------------------------------------------------------------------------------------


def made_up(contestant: str = OURS, error: str = "", back: bool = True, attempts: int = 3) -> Bout:
    plan = Plan(contestant, "p", "f", warm=1, requests=3, dead=2)
    asked = tuple(
        Asked(f"request {i}", at, 100 + at, 100.25 + at, error if i == 1 else "")
        for i, at in enumerate((-0.4, 0.0, 4.0, 8.0))
    )
    primary = [Seen(99.6, "request 0", 200), Seen(100.0, "request 1", 503)]
    if back:
        primary.append(Seen(108.0, "request 3", 200))
    return Bout(
        contestant, Mode.ERRORS, plan, {contestant: "1"}, asked, 99.8, 107.8, attempts, tuple(primary),
        (0.2, 0.25, 0.3), 1.5,
    )  # fmt: skip


def test_what_is_told_of_a_bout() -> None:
    bout = made_up()
    assert [a.text for a in bout.met] == ["request 1", "request 2"]  # neither the warm-up nor what came after
    assert bout.waits_s == pytest.approx((0.25, 0.25)) and bout.ratio == pytest.approx(1.0)
    assert bout.after_s == pytest.approx((0.25,))
    assert bout.answered == 2 and bout.back_s == pytest.approx(0.2) and bout.holds
    assert not made_up(attempts=5).holds
    failed = made_up(error="ValueError: no", back=False)
    assert failed.waits_s == pytest.approx((30.0, 0.25)) and failed.answered == 1
    assert failed.back_s is None and not failed.holds
    again = replace(bout, asked=(*bout.asked[1:], *bout.asked[1:], *failed.asked[1:]))
    assert again.ratio == pytest.approx(1.0) and not again.holds  # the median does not see one failure


def test_table_report_and_rows_say_how_they_were_made(tmp_path: Path) -> None:
    bouts = [made_up(), made_up("litellm issue 40405", "TimeoutError: ", back=False, attempts=135)]
    table = outage_report.table(bouts)
    assert max(map(len, table.splitlines())) <= 80
    assert "answers 503" in table and "realm sandbox" in table
    assert [line.split()[-1] for line in table.splitlines()[-2:]] == ["s", "seen"]
    paths = outage_report.write(tmp_path, bouts, datetime(2026, 11, 24, tzinfo=UTC))
    assert [p.name for p in paths] == [rows.rows_path(tmp_path, Realm.SANDBOX).name, outage_report.REPORT]
    read = rows.read(paths[0])
    assert not read.problems and {r.realm for r in read.rows} == {Realm.SANDBOX}
    mine = {r.metric: r for r in read.rows if r.cell["engine"] == OURS}
    assert mine[outage_report.SECONDS].samples == pytest.approx((0.25, 0.25))
    assert mine[outage_report.AFTER_SECONDS].samples == pytest.approx((0.25,))
    assert mine[outage_report.ATTEMPTS].samples == (3.0,)
    assert mine[outage_report.OWN_SECONDS].n == 3 and mine[outage_report.SECONDS].env.load == 1.5
    rival = {r.metric: r for r in read.rows if r.cell["engine"] != OURS}
    assert outage_report.BACK in mine and outage_report.BACK not in rival
    assert rival[outage_report.ANSWERED].samples == (0.0, 1.0)
    assert mine[outage_report.SECONDS].env.packages == {OURS: "1", "litellm issue 40405": "1"}
    report = paths[1].read_text()
    assert "| accel | 3 |" in report and "| litellm issue 40405 | 135 |" in report
    assert all(x in report for x in ("load average 1.5", "not seen", "realm sandbox", "commit"))
    cold = [replace(b, plan=replace(b.plan, warm=0)) for b in bouts]
    told = outage_report.markdown([*bouts, *cold], mine[outage_report.SECONDS].env)
    assert told.count("## errors, warm") == told.count("## errors, cold") == 1
    assert told.count("| accel |") == told.count("everything answered) held.") == 2
    broken = outage_report.markdown([made_up(attempts=5)], mine[outage_report.SECONDS].env)
    assert "everything answered) **did not hold**." in broken


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert outage.main(["--warm", "-1"]) == 2
    assert "--warm -1" in capsys.readouterr().err


def test_the_command_tells_whether_we_held_our_own_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for attempts, code in ((4, 0), (5, 1)):

        async def fake(
            mode: Mode, contestants: dict[str, list[str]], like: Plan, attempts: int = attempts
        ) -> tuple[Bout, ...]:
            assert like.warm == 7 and list(contestants) == [OURS]
            return (replace(made_up(attempts=attempts), mode=mode),)

        monkeypatch.setattr(outage, "run", fake)
        assert outage.main(["--warm", "7", "--out", str(tmp_path)]) == code
    told = capsys.readouterr().out
    assert told.count("The primary") == 6 and str(tmp_path) in told
    assert {r.cell["mode"] for r in rows.read_folder(tmp_path).rows} == {m.value for m in outage.DEAD}
