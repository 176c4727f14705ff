"""Colab by Google's command line, where that is missing, hangs or says what we do not know. The real one
drives the sandbox in ``tests/conformance/test_vendor_colab.py``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from colab_cloud import RUNTIME, intent_on

from accel.core.errors import NoCapacity, Rejected, Unreachable
from accel.core.lease import Unconfirmed, Unknown
from accel.core.offer import Offer, Realm, Unfit
from accel.core.task import Lane, Need, Stage
from accel.fleet.roster import roster
from accel.keys import Access, ColabKey, colab_key
from accel.providers.base import RunsBatch, ServesLive
from accel.providers.colab_cli import ColabCliProvider
from accel.worker.engine import Worker

BATCH = Need(Stage.EMBED, Lane.BATCH)


def provider(folder: Path, script: str = "", **more: Any) -> ColabCliProvider:
    program = folder / "colab"
    if script:
        program.write_text(f"#!/bin/sh\nshift 2\n{script}\n")  # what follows --config FILE
        program.chmod(0o755)
    given: dict[str, Any] = {
        "program": [str(program)], "config": folder / "sessions.json", "runtime": RUNTIME,
        "realm": Realm.SANDBOX, "accepted_terms": ("colab/attended",), "confirm": lambda _: True,
        "call_s": 20.0,
    }  # fmt: skip
    return ColabCliProvider(**{**given, **more})


def test_a_program_that_is_not_there_is_unfit_with_the_way_to_mend_it(tmp_path: Path) -> None:
    found = asyncio.run(provider(tmp_path).probe(BATCH))
    assert isinstance(found, Unfit)
    assert found.mendable
    assert "COLAB_CLI" in found.reason
    assert "3.12" in found.reason


def test_a_sign_in_that_is_missing_says_so(tmp_path: Path) -> None:
    found = asyncio.run(provider(tmp_path, "echo 'EOFError: EOF when reading a line'; exit 1").probe(BATCH))
    assert isinstance(found, Unfit)
    assert "colab usage" in found.reason


def test_a_command_that_hangs_is_ended_by_our_deadline_with_all_it_started(tmp_path: Path) -> None:
    hangs = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    colab = provider(tmp_path, hangs, call_s=0.5)
    listed = asyncio.run(colab.leases())
    assert isinstance(listed, Unknown)
    assert "did not end within 0.5 s" in listed.reason
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


ONE = "[accel-a] gpu-1 | Hardware: T4 | Shape: Standard | Variant: GPU"


@pytest.mark.parametrize("said", ["", "Traceback", f"{ONE}\n[?] gpu-2 | Hardware: T4 | Shape: Standard"])
def test_an_odd_list_is_unknown(tmp_path: Path, said: str) -> None:
    colab = provider(tmp_path, f"printf '%s' '{said}'")
    assert isinstance(asyncio.run(colab.leases()), Unknown)


def test_its_sessions_are_leases_and_a_runtime_elsewhere_leaves_no_room(tmp_path: Path) -> None:
    colab = provider(tmp_path, f"echo '{ONE}'; echo 'Current balance: 0.00 compute units'")
    listed = asyncio.run(colab.leases())
    assert not isinstance(listed, Unknown)
    assert [lease.name for lease in listed] == ["accel-a"]
    found = asyncio.run(colab.probe(BATCH))
    assert isinstance(found, Unfit)
    assert "one runtime at once" in found.reason


USAGE = "case $1 in usage) echo 'Current balance: 0.00 compute units';; *)"


@pytest.mark.parametrize(
    ("said", "error"),
    [("[colab] Allocation refused (precondition failed).", NoCapacity),
     ("[colab] Backend rejected accelerator T4.", Rejected), ("ReadTimeout", Unreachable)],
)  # fmt: skip
def test_what_it_says_of_a_refusal_is_typed(tmp_path: Path, said: str, error: type[Exception]) -> None:
    colab = provider(tmp_path, f"{USAGE} echo '{said}'; exit 1;; esac")
    with pytest.raises(error):
        asyncio.run(colab.create(intent_on(tmp_path)))


def test_nobody_asked_or_no_said_runs_nothing(tmp_path: Path) -> None:
    script = f"{USAGE} echo ran > {tmp_path}/ran;; esac"
    for confirm, words in ((None, "attend"), (lambda _: False, "said no")):
        colab = provider(tmp_path, script, confirm=confirm)
        with pytest.raises(Rejected, match=words):
            asyncio.run(colab.create(intent_on(tmp_path)))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Rejected, match="an hour"):
        asyncio.run(colab.create(intent_on(tmp_path, lifetime_s=7200.0)))


def test_a_stop_that_is_not_believed_is_unconfirmed(tmp_path: Path) -> None:
    colab = provider(tmp_path, f"echo '{ONE}'")

    async def scenario() -> None:
        listed = await colab.leases()
        assert not isinstance(listed, Unknown)
        assert isinstance(await colab.release(listed[0]), Unconfirmed)

    asyncio.run(scenario())


def test_the_setting_brings_it_into_the_roster_and_the_api_goes_before_it(tmp_path: Path) -> None:
    found = colab_key({"COLAB_CLI": "~/colab"}.get)  # type: ignore[arg-type]
    assert found == ColabKey(cli=os.path.expanduser("~/colab"))  # noqa: PTH111
    both = colab_key({"COLAB_CLI": "/c", "COLAB_API_KEY": "ya29.x"}.get)  # type: ignore[arg-type]
    assert both is not None
    assert both.cli == ""
    made = roster(Realm.REAL, Worker(), tmp_path, RUNTIME, access={"colab": Access(found)})
    assert isinstance(made[-1], ColabCliProvider)
    assert isinstance(made[-1], RunsBatch)
    assert not isinstance(made[-1], ServesLive)


def test_an_offer_shows_the_balance(tmp_path: Path) -> None:
    script = (
        "case $1 in usage) echo 'Current balance: 7.25 compute units';; "
        "*) echo '[colab] No active sessions found on server.';; esac"
    )
    found = asyncio.run(provider(tmp_path, script).probe(BATCH))
    assert isinstance(found, Offer), found
    assert "compute units left 7.25" in found.rate.source
