"""The fault catalogue at each cloud, in both lanes, through the whole engine.

Whatever goes wrong: the process ends in time, with an answer (the cloud's or this machine's) or one error
that lists every try; a reap leaves nothing; and what was charged is the invoice. What a fault means for one
adapter is in ``tests/providers``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rented import FAULTS, NAMES, cloud, drive

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
LATE_S = 6.0  # Modal's billing hour here, and a little
# what rents, in the batch and in the live lane
ORDER = {
    "runpod": ("CreatePod", "CreateEndpoint"), "vast": ("CreateInstance", "CreateInstance"),
    "modal": ("AppPublish", "AppPublish"),
}  # fmt: skip
def never_up(name: str, running: Any) -> None:
    if name == "runpod":
        kinds = ("CreatePod", "RunSync")
        running.set_faults(*({"on": c, "kind": "cold_start", "times": 0} for c in kinds))
    else:
        running.set_cold(None)


def preempted(name: str, running: Any) -> None:
    """As soon as something runs, it is taken away, without notice."""

    def take() -> None:
        for _ in range(600):
            if name == "modal":
                if any(t["state"] == "running" for t in running.things()) and running.preempt(0.0, lost=True):
                    return
            else:
                for thing in running.things():
                    known = thing if isinstance(thing, dict) else {"id": thing.id, "state": thing.state}
                    if known.get("state", known.get("status")) == "running":
                        (running.outbid if name == "vast" else running.preempt)(known["id"])
                        return
            time.sleep(0.05)

    threading.Thread(target=take, daemon=True).start()


SCENES: dict[str, Callable[[str, Any], None]] = {"never up": never_up, "preempted": preempted}


@pytest.fixture(scope="module", params=NAMES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    with cloud(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield request.param, running


@pytest.mark.parametrize("lane", ["job", "live"])
@pytest.mark.parametrize("fault", [*FAULTS, *SCENES])
def test_it_ends_once_leaves_nothing_and_pays_what_was_billed(
    served: tuple[str, Any], fault: str, lane: str, tmp_path: Path
) -> None:
    name, running = served
    running.set_faults()
    if name != "runpod":
        running.set_cold(60.0 if name == "vast" else 10.0)
    before = running.invoice_nano()
    if fault in SCENES:
        SCENES[fault](name, running)
    else:
        order = ORDER[name][lane == "live"]
        running.set_faults(*({**rule, "on": rule["on"].replace("ORDER", order)} for rule in FAULTS[fault]))
    began = time.monotonic()
    ended = drive(
        tmp_path, {name: running}, what=lane, only=[name, "local"], seconds=1.0, calls=1, within_s=20.0,
        patience={"stall_s": 8.0, "lifetime_s": 60.0},
    )  # fmt: skip
    assert ended.code == 0, ended.errors[-2000:]
    assert time.monotonic() - began < 200, "it did not end in time"
    attempts = ended.told.get("attempts", [])
    assert ended.told["ended"] == "ok" or attempts or ended.told["error"], ended.told
    if ended.told["ended"] == "ok":
        assert attempts[-1][1] == "", ended.told
        assert ended.told["vectors"], ended.told
    running.set_faults()
    for number in range(2):
        if number:
            time.sleep(LATE_S)
        reaped = drive(tmp_path, {name: running}, what="reap")
        assert reaped.code == 0, reaped.errors[-2000:]
    assert running.things() == [], (ended.told, reaped.told)
    assert reaped.told["held"] == reaped.told["open"] == 0, reaped.told
    charged, invoice = reaped.told["charged"].get(name, 0), running.invoice_nano() - before
    if lane == "job":
        assert charged == invoice, (charged, invoice, ended.told, reaped.told)
    elif ended.told.get("where") == [name]:
        # a standing service bills its idle seconds to the account, not to a call
        assert charged > 0, (invoice, ended.told, reaped.told)
    assert charged < 10**9, "a dollar for one call of a few seconds"
