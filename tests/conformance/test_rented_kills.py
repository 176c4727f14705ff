"""kill -9 at each step of a rented job, at each cloud: a reap leaves nothing, the ledger is the invoice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rented import NAMES, cloud, drive

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
# before anything; the answer not yet stored; provisioning; the job runs; its files are here; being given back
LATE_S = 6.0
POINTS = (
    "create before", "create after", "start during", "poll running", "fetch after", "release before",
    "release after",
)  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    with cloud(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield request.param, running


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_a_reap_leaves_nothing_and_the_books_are_the_invoice(
    served: tuple[str, Any], point: str, tmp_path: Path
) -> None:
    name, running = served
    before = running.invoice_nano()
    killed = drive(tmp_path, {name: running}, what="job", point=point, only=[name], seconds=2.0)
    assert killed.killed, (killed.code, killed.errors[-2000:], killed.told)
    for number in range(2):  # the second finds nothing to do, but for a bill that came late (Modal's)
        if number:
            time.sleep(LATE_S)
        reaped = drive(tmp_path, {name: running}, what="reap")
        assert reaped.code == 0, reaped.errors[-2000:]
        assert running.things() == [], (point, reaped.told)
        assert reaped.told["held"] == reaped.told["open"] == 0, reaped.told
    charged = reaped.told["charged"].get(name, 0)
    assert charged == running.invoice_nano() - before, (point, reaped.told)


def test_what_a_killed_process_left_is_carried_on_to_its_end(served: tuple[str, Any], tmp_path: Path) -> None:
    name, running = served
    before = running.invoice_nano()
    assert drive(tmp_path, {name: running}, what="job", point="poll running", only=[name], seconds=2.0).killed
    done = drive(tmp_path, {name: running}, what="resume")
    assert done.code == 0, done.errors[-2000:]
    assert done.told["ended"] == "ok", done.told
    assert done.told["attempts"] == [[name, ""]], done.told
    assert running.things() == []
    time.sleep(LATE_S)
    reaped = drive(tmp_path, {name: running}, what="reap")
    assert reaped.told["charged"][name] == running.invoice_nano() - before
