"""Vast.ai's own unmodified command line drives the sandbox: a second reading of the protocol, not ours.

It runs in its own environment under .venv-conformance/vast (made here with pip if it is missing), with a home
folder of its own and no VAST variable but the two that it reads: VAST_URL (vastai 1.9.1, api/client.py:19)
and VAST_API_KEY. Nothing of it is patched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.sandbox.vast import VastSandbox

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

ENVIRONMENT = Path(__file__).parents[2] / ".venv-conformance" / "vast"
WANTED = "vastai==1.9.1"
Cli = Callable[..., subprocess.CompletedProcess[str]]
CODE = "import os, time; print('I am', os.environ['WHO'], flush=True); time.sleep(600)"


@pytest.fixture(scope="session")
def program() -> Path:
    vastai = ENVIRONMENT / "bin" / "vastai"
    if not vastai.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, timeout=120)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", WANTED]
        made = subprocess.run(pip, capture_output=True, text=True, timeout=280)
        if made.returncode:
            pytest.skip(f"the vendor's command line cannot be installed: {made.stderr[-200:]}")
    return vastai


@pytest.fixture(scope="module")
def served() -> Iterator[VastSandbox]:
    with VastSandbox(time_scale=300) as running:
        yield running


@pytest.fixture
def cloud(served: VastSandbox) -> VastSandbox:
    served.reset()
    return served


@pytest.fixture
def cli(program: Path, cloud: VastSandbox, tmp_path: Path) -> Cli:
    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "VASTAI_NO_UPDATE_CHECK": "1",
            **cloud.describe()["official_cli_env"], **variables,
        }  # fmt: skip
        return subprocess.run(
            [str(program), *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    return run


def raw(cli: Cli, *words: str) -> Any:
    done = cli(*words, "--raw") if "--args" not in words else cli("--raw", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def create(cli: Cli, ask: dict[str, Any], *more: str) -> str:
    made = raw(
        cli, "create", "instance", str(ask["id"]), "--image", "pytorch/pytorch", "--disk", "20",
        "--label", "accel-cli", "--env", "-e WHO=me -p 8000:8000", *more,
        "--onstart-cmd", "python3", "--args", "-c", CODE,
    )  # fmt: skip
    assert made["success"] is True
    return str(made["new_contract"])


def until(cloud: VastSandbox, status: str) -> None:
    """Wait for the one instance; the command line itself takes seconds to start."""
    for _ in range(400):
        if cloud.things()[0]["actual_status"] == status:
            return
        time.sleep(0.05)
    raise AssertionError(f"it was never {status}: {cloud.things()}")


def test_it_is_the_version_that_was_read(cli: Cli) -> None:
    assert "1.9.1" in cli("--version").stdout


def test_offers_by_its_query_language(cli: Cli, cloud: VastSandbox) -> None:
    rows = raw(cli, "search", "offers", "gpu_name=RTX_4090 reliability>0.9 gpu_ram>=23 direct_port_count>0",
               "-o", "dlperf_usd-", "--limit", "3", "--storage", "20")  # fmt: skip
    assert [row["gpu_name"] for row in rows] == ["RTX 4090"] * 3
    by_work = [row["dlperf_per_dphtotal"] for row in rows]
    assert by_work == sorted(by_work, reverse=True)
    assert "DLP/$" in cli("search", "offers", "-i", "num_gpus=1", "--limit", "2").stdout
    assert raw(cli, "search", "offers", "--new", "gpu_name=L4")
    assert len(cloud.requests("SearchOffers")) == 3


def test_create_show_outbid_bid_stop_start_destroy(cli: Cli, cloud: VastSandbox) -> None:
    ask = raw(cli, "search", "offers", "-i", "gpu_name=L4", "--limit", "1")[0]
    assert ask["dph_base"] == ask["min_bid"]
    ident = create(cli, ask, "--bid_price", str(ask["min_bid"]))
    until(cloud, "running")
    row = raw(cli, "show", "instance", ident)
    assert row["label"] == "accel-cli"
    assert row["extra_env"] == {"WHO": "me"}
    assert row["ports"]["8000/tcp"][0]["HostPort"]
    assert "I am me" in cli("logs", ident).stdout
    cloud.outbid(ident)
    assert "stopped" in cli("show", "instance", ident).stdout
    assert cli("change", "bid", ident, "--price", "0.9").stdout == "Per gpu bid price changed\n"
    until(cloud, "running")
    assert "stopping instance" in cli("stop", "instance", ident).stdout
    until(cloud, "stopped")
    assert "starting instance" in cli("start", "instance", ident).stdout
    until(cloud, "running")
    assert "label for" in cli("label", "instance", ident, "accel-other").stdout
    listed = raw(cli, "show", "instances")
    assert [(str(one["id"]), one["label"]) for one in listed] == [(ident, "accel-other")]
    assert "accel-other" in cli("show", "instances", "--no-color", "--cols", "id,label,status").stdout
    assert "destroying instance" in cli("destroy", "instance", ident, "-y").stdout
    assert cloud.things() == []
    assert "not found or no longer exists" in cli("show", "instance", ident).stderr


def test_a_bid_too_low_fails_aloud_and_leaves_a_contract(cli: Cli, cloud: VastSandbox) -> None:
    ask = raw(cli, "search", "offers", "-i", "--limit", "1")[0]
    bid = ("--bid_price", "0.001", "--cancel-unavail")
    done = cli("create", "instance", str(ask["id"]), "--image", "x", *bid)
    assert "Failed with error 400: the bid is below" in done.stderr
    (left,) = cloud.things()
    assert left["cur_state"] == "stopped"
    cli("destroy", "instance", str(left["id"]), "-y")
    assert cloud.things() == []


def test_money_is_shown(cli: Cli, cloud: VastSandbox) -> None:
    ident = create(cli, raw(cli, "search", "offers", "gpu_name=L4", "--limit", "1")[0])
    cli("destroy", "instance", ident, "-y")
    charges = raw(cli, "show", "invoices-v1", "--charges")
    assert [row["source"] for row in charges["results"]] == [f"instance-{ident}"]
    assert round(charges["results"][0]["amount"] * 10**9) == cloud.invoice_nano()
    assert ident in cli("show", "invoices-v1", "--charges", "--no-color").stdout
    cloud.set_credit(0)
    assert raw(cli, "show", "user")["credit"] == 0
    done = cli("create", "instance", "5", "--image", "x")
    assert "Your account lacks credit; see the billing page." in done.stderr


def test_errors_are_told_as_vast_tells_them(cli: Cli, cloud: VastSandbox) -> None:
    assert "Failed with error 404: no offer 5." in cli("create", "instance", "5", "--image", "x").stderr
    assert "Failed with error 404" in cli("destroy", "instance", "5", "-y").stderr
    wrong = cli("show", "user", VAST_API_KEY="0" * 64)
    assert "Failed with error 401" in wrong.stderr
    cloud.set_faults({"on": "CurrentUser", "kind": "http", "status": 429, "times": 2, "text": "too frequent"})
    assert raw(cli, "show", "user")["username"] == "sandbox"  # it tries three times
    assert [r.status for r in cloud.requests("CurrentUser")][-3:] == [429, 429, 200]
