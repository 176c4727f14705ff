"""Three clouds at once: they overlap in time, and whoever is lost, the vectors are those of one.

And after a full run with marked keys no key stands in any file of ours, nor in what the far ends kept.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rented import NAMES, cloud, drive

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
TEXTS = 2000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        yield {n: stack.enter_context(cloud(n, tmp_path_factory.mktemp(n))) for n in NAMES}


def overlapping(pieces: list[Any]) -> bool:
    """Whether each cloud began its first slice before another one ended its last."""
    by = {name: [p for p in pieces if p[0] == name] for name in NAMES}
    return all(by.values()) and max(p[0][2] for p in by.values()) < min(p[-1][3] for p in by.values())


def test_two_thousand_passages_over_three_clouds_are_those_of_one(
    served: dict[str, Any], tmp_path: Path
) -> None:
    one = {"modal": served["modal"]}
    alone = drive(tmp_path / "one", one, what="spread", asked=[], texts=TEXTS, over=["modal"])
    assert alone.code == 0, alone.errors[-2000:]
    together = drive(tmp_path / "three", served, what="spread", asked=[], texts=TEXTS, over=NAMES)
    assert together.code == 0, together.errors[-2000:]
    assert together.told["rows"] == alone.told["rows"] == TEXTS
    assert together.told["vectors"] == alone.told["vectors"]
    assert overlapping(together.told["pieces"]), together.told

    def kill_vast() -> None:
        for _ in range(2000):
            for thing in served["vast"].things():
                served["vast"].outbid(thing["id"])
                return
            time.sleep(0.02)

    threading.Timer(6.0, kill_vast).start()
    lost = drive(tmp_path / "lost", served, what="spread", asked=[], texts=TEXTS, over=NAMES)
    assert lost.code == 0, lost.errors[-2000:]
    assert lost.told["vectors"] == alone.told["vectors"]
    for name in ("one", "three", "lost"):
        drive(tmp_path / name, served, what="reap", others=True)  # what stands by is no home's own
    assert [thing for running in served.values() for thing in running.things()] == []


def test_no_key_stands_in_any_file_after_a_full_run(served: dict[str, Any], tmp_path: Path) -> None:
    for what in ("job", "live"):
        for name, running in served.items():
            done = drive(tmp_path / what, {name: running}, what=what, only=[name], id=f"{what}-{name}")
            assert done.code == 0, done.errors[-2000:]
            assert not marked(running) & set(done.errors.split())
    secrets = {s for running in served.values() for s in marked(running)}
    secret = (tmp_path / "job" / "sandbox" / "lease.key").read_bytes()
    looked = 0
    for folder in (tmp_path, *(Path(str(running.root)) for running in served.values())):
        for file in folder.rglob("*"):
            if not file.is_file() or file.name in ("lease.key", "account.json", "token.json"):
                continue
            data, looked = file.read_bytes(), looked + 1
            assert not any(s.encode() in data for s in secrets), f"a key stands in {file}"
            assert secret not in data, f"the leases' secret stands in {file}"
    assert looked > 20


def marked(running: Any) -> set[str]:
    """The keys of one cloud's account."""
    return {getattr(running, n) for n in ("key", "token_id", "token_secret") if getattr(running, n, "")}
