"""kill -9 at every step of a lease: after a reap nothing is rented, and the ledger is the invoice.

The points are those that a run passes which ends well: inside and after every ledger transaction, and after
every call to the provider. Real processes, really killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("lease_driver.py")


def drive(folder: Path, **config: object) -> Any:
    (folder / "config.json").write_text(json.dumps({"home": str(folder), **config}))
    path = os.pathsep.join([str(DRIVER.parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder / "config.json")], capture_output=True, text=True,
        timeout=280, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("what", "transactions", "calls"), [
    ("job", 8, {"create after", "start after", "fetch after", "release after", "bill after"}),
    ("live", 6, {"create after", "start after", "call after", "release after", "bill after"}),
    ("reap", 2, {"leases after", "release after", "bill after"}),
])  # fmt: skip
def test_killed_anywhere_nothing_is_left_and_the_ledger_is_the_invoice(
    tmp_path: Path, what: str, transactions: int, calls: set[str]
) -> None:
    reports = drive(tmp_path, what=what)
    points = {r["point"] for r in reports}
    assert calls <= points
    assert sum(p.endswith("inside") for p in points) >= transactions
    leaked = 0
    for report in reports:
        point, after, again = report["point"], report["after"], report["again"]
        assert report["killed"] == bool(point), f"{point} was not reached"
        assert report["exit"] == 0, point
        assert after["untouched"], f"{point}: looking changed something"
        leaked += len(after["before"])
        for told in (after, again):
            assert (told["rented"], told["held"], told["open"], told["left"]) == ([], 0, 0, []), (point, told)
            assert told["charged"] == told["invoice"] == told["spent"], (point, told)
            assert told["bases"] in ([], ["billed"]), (point, told)
        assert (again["invoice"], again["ordered"]) == (after["invoice"], after["ordered"]), point
        assert again["looked"] == 0, (point, again)
    assert leaked >= 3  # the dead did leave machines behind


@pytest.mark.timeout(120)
def test_eight_processes_buy_one_machine_once(tmp_path: Path) -> None:
    told, after = drive(tmp_path, race={"launches": 20, "asks": 1, "job_s": 6.0})
    assert sorted(t == "done" for t in told) == [False] * 7 + [True], told
    assert after["ordered"] == 1
    lost = [t for t in told if t != "done"]
    assert any("is rented already, as accel-j" in t for t in lost), lost
    assert all("is rented already" in t or "no machine is free" in t for t in lost), lost
    assert (after["rented"], after["held"], after["charged"]) == ([], 0, after["invoice"])


@pytest.mark.timeout(120)
def test_eight_processes_launch_no_more_than_allowed(tmp_path: Path) -> None:
    told, after = drive(tmp_path, race={"launches": 3, "asks": 0, "job_s": 0.5})
    assert sorted(t == "done" for t in told) == [False] * 5 + [True] * 3, told
    assert after["ordered"] == 3
    refused = "3 machines were rented within the last hour, and no more are allowed"
    assert all(refused in t for t in told if t != "done"), told
    assert (after["rented"], after["held"], after["charged"]) == ([], 0, after["invoice"])
