"""kill -9 at every step: whoever dies when, the job ends once, is verified, and nothing is held.

The points are not listed here: a job that ends well passes them (every ledger transaction, every call
that does something at the provider), and each is then the last thing that another job's process does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.sandbox.server import KaggleSandbox

DRIVER = Path(__file__).with_name("crash_driver.py")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[KaggleSandbox]:
    with KaggleSandbox(time_scale=1e6, gpu_hours=1000) as running:
        yield running


def drive(sandbox: KaggleSandbox, home: Path, timeout_s: float, **options: Any) -> list[dict[str, Any]]:
    config = {
        "home": str(home), "endpoint": sandbox.url, "username": sandbox.username, "key": sandbox.key,
        "points": [], "kinds": ["before", "after"], "real": False, "name": "j", **options,
    }  # fmt: skip
    home.mkdir(exist_ok=True)
    (home / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(home / "config.json")], capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def check(report: dict[str, Any], provider: str, *, real: bool = False) -> None:
    """The promise, for one point."""
    point, after = report["point"], report["after"]
    assert report["killed"] == bool(point), f"{point} was not reached"
    assert report["exit"] == 0, f"{point}: the successor failed"
    assert after["held"] == after["open"] == after["unfinished"] == 0, (point, after)
    assert after["live"] == "[]", (point, after)
    if not after["ended"]:  # killed before the submission was written: it never was
        assert point in ("1 before", "1 inside"), point
        assert (report["runs"], after["charges"]) == (0, 0)
        return
    assert after["ended"] == ["done"], (point, after)
    assert after["vectors"] == ([2, 384] if real else [1, 2])
    assert after["attempts"] == [[provider, "ok"]], (point, after)
    charges = 0 if provider == "local" else 1  # this machine bills nothing
    assert (after["tries"], after["leases"], after["charges"]) == ([0], ["released"], charges), (point, after)
    if not real:
        assert report["runs"] == 1, f"{point}: the far end ran {report['runs']} times"


def pushes(sandbox: KaggleSandbox, job: str) -> int:
    """Versions of the job's kernels: every accepted push makes one."""
    assert sandbox.root is not None
    return len(list((sandbox.root / "kernels").glob(f"accel-{job}-*/v*")))


@pytest.mark.timeout(240)
def test_a_killed_kaggle_job_is_carried_on_and_pushed_once(sandbox: KaggleSandbox, tmp_path: Path) -> None:
    reports = drive(sandbox, tmp_path / "home", 200, provider="kaggle", name="k")
    points = [r["point"] for r in reports]
    assert {"create after", "fetch after", "release after"} <= set(points)
    assert sum(p.endswith("before") for p in points) >= 8  # one per step of the job at the least
    for report in reports:
        check(report, "kaggle")
        assert pushes(sandbox, report["job"]) == (1 if report["after"]["ended"] else 0), report["point"]


@pytest.mark.timeout(240)
def test_a_killed_local_job_is_carried_on_and_runs_once(sandbox: KaggleSandbox, tmp_path: Path) -> None:
    reports = drive(sandbox, tmp_path / "home", 200, provider="local", name="l")
    assert {"spawn after", "start after"} <= {r["point"] for r in reports}
    for report in reports:
        check(report, "local")


@pytest.mark.conformance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("provider", ["kaggle", "local"])
def test_the_same_with_the_real_job_and_inside_transactions(
    sandbox: KaggleSandbox, tmp_path: Path, provider: str
) -> None:
    """The bundle as it is pushed: this package's wheel, the bundled model, two texts."""
    kinds = ["inside"] if provider == "kaggle" else ["create after", "start after", "release after"]
    options = {"provider": provider, "name": f"real-{provider[0]}", "kinds": kinds, "real": True}
    for report in drive(sandbox, tmp_path / "home", 800, **options):
        check(report, provider, real=True)
