"""Rented machines: they really run, bill each second once, and end with their cloud."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.sandbox.machines import EXITED, GONE, RUNNING, STOPPED, Machine, Machines, Span

SERVE = """python3 -c '
import http.server, os, sys, signal
signal.signal(signal.SIGTERM, lambda *_: (open("warned", "w").close(), sys.exit(0)))
print("hello from", os.environ["WHO"], flush=True)
at = ("127.0.0.1", int(os.environ["ACCEL_PORT"]))
http.server.ThreadingHTTPServer(at, http.server.SimpleHTTPRequestHandler).serve_forever()
'"""


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def machines(root: Path, clock: Clock) -> Machines:
    return Machines(root, time_scale=1000.0, now=clock)


def rent(cloud: Machines, name: str = "accel-a", command: str = SERVE, cold_s: float | None = 1.0) -> Machine:
    return cloud.rent(
        f"id-{name}", name, command=command, env={"ACCEL_PORT": "8000", "WHO": name}, ports=[8000],
        nano_per_hour=360_000_000, disk_nano_per_hour=3_600_000, cold_s=cold_s,
    )  # fmt: skip


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - what changes is outside of this loop
            await asyncio.sleep(0.02)


def played(root: Path, scenario: Callable[[Machines, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = Clock()
        cloud = machines(root, clock)
        try:
            await scenario(cloud, clock)
        finally:
            await cloud.close()

    asyncio.run(run())


async def answering(machine: Machine) -> bool:
    try:
        url = f"http://127.0.0.1:{machine.ports[8000]}/"
        answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).status)
    except OSError:
        return False
    return answer == 200


async def up(machine: Machine) -> None:
    async with asyncio.timeout(30):
        while machine.state != RUNNING or not await answering(machine):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_it_runs_its_command_on_a_port_of_loopback_and_is_billed_to_the_millisecond(tmp_path: Path) -> None:
    async def scenario(cloud: Machines, clock: Clock) -> None:
        machine = rent(cloud)
        await up(machine)
        await until(lambda: "hello from accel-a" in cloud.log(machine))
        clock.at += 10.0015
        await cloud.destroy(machine.id)
        assert machine.state == GONE
        assert not await answering(machine)
        assert machine.invoice(clock.at) == 1_000_200  # 10.002 s at a tenth of a milli-dollar a second
        clock.at += 1e6
        assert cloud.invoice() == 1_000_200

    played(tmp_path, scenario)


def test_a_stopped_machine_bills_its_disk_and_starts_again(tmp_path: Path) -> None:
    async def scenario(cloud: Machines, clock: Clock) -> None:
        machine = rent(cloud)
        await up(machine)
        clock.at += 10
        await cloud.stop(machine.id)
        clock.at += 100
        assert machine.state == STOPPED
        assert machine.invoice(clock.at) == 1_000_000 + 100_000
        cloud.start(machine.id)
        await up(machine)
        clock.at += 1
        await cloud.destroy(machine.id)
        assert cloud.invoice() == 1_200_000

    played(tmp_path, scenario)


@pytest.mark.parametrize(("notice_s", "warned"), [(0.0, False), (10_000.0, True)])
def test_preemption_gives_the_notice_it_says(tmp_path: Path, notice_s: float, warned: bool) -> None:
    async def scenario(cloud: Machines, clock: Clock) -> None:
        machine = rent(cloud)
        await up(machine)
        await cloud.preempt(machine.id, notice_s, keep=True)
        assert machine.state == STOPPED
        assert machine.preempted_at
        assert (tmp_path / "machines" / machine.id / "working" / "warned").exists() is warned
        assert not await answering(machine)

    played(tmp_path, scenario)


def test_a_command_that_ends_is_exited_and_one_that_never_starts_stays_provisioning(tmp_path: Path) -> None:
    async def scenario(cloud: Machines, clock: Clock) -> None:
        short, never = rent(cloud, "accel-s", "exit 3"), rent(cloud, "accel-n", "true", cold_s=None)
        await until(lambda: short.state == EXITED)
        assert "exit code 3" in short.why
        assert never.state == "provisioning"
        clock.at += 1
        assert short.invoice(clock.at) == 0  # the clock did not move while it ran
        assert never.invoice(clock.at) == 100_000  # what never comes up bills all the same

    played(tmp_path, scenario)


def test_the_next_sandbox_on_the_folder_knows_what_was_rented_and_billed(tmp_path: Path) -> None:
    clock = Clock()

    async def run() -> int:
        cloud = machines(tmp_path, clock)
        await up(rent(cloud))
        clock.at += 5
        await cloud.close()
        return cloud.invoice()

    billed = asyncio.run(run())
    again = machines(tmp_path, clock)
    assert [(m.name, m.state) for m in again.all()] == [("accel-a", EXITED)]
    assert again.invoice() == billed == 500_000
    kept = json.loads(next(tmp_path.glob("machines/*/machine.json")).read_text())
    assert kept["env"] == {}  # tokens do not lie about


def test_nothing_of_the_hosts_environment_reaches_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "marked-secret")

    async def scenario(cloud: Machines, clock: Clock) -> None:
        machine = rent(cloud, command="env; command -v python3; python3 -c 'import sys; print(sys.prefix)'")
        await until(lambda: machine.state == EXITED)
        said = cloud.log(machine)
        assert "marked-secret" not in said
        assert f"{tmp_path}/machines" in said  # its own home, temporary folder and python3
        assert sys.prefix in said

    played(tmp_path, scenario)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**10)), max_size=6))
def test_an_invoice_is_rounded_up_once_and_never_below_its_spans(spans: list[tuple[int, int]]) -> None:
    machine = Machine("i", "n", "", {}, {}, 1, 0, 0.0, 0.0)
    at = 0.0
    for milliseconds, rate in spans:
        machine.spans.append(Span(at, rate, at + milliseconds / 1000))
        at += milliseconds / 1000
    exact = sum(milliseconds * rate for milliseconds, rate in spans)
    assert exact <= machine.invoice(at) * 3_600_000 < exact + 3_600_000
