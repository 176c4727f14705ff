"""A week of free hours: 40 hours of work wait for the refresh, two at once, though their driver is killed.

The sandbox's week lasts a minute, most of whose first one is over at the beginning. Every session is charged
the two and a half hours that it claims (``compute_s``), however short it really was; all else is the real
thing: the SDK, scripts that unpack our wheel and run, processes of ours, and SIGKILL.
"""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rented import drive, start

from accel.sandbox.server import KaggleSandbox

pytestmark = [pytest.mark.faults, pytest.mark.timeout(420)]
WEEK_S, REAL_WEEK_S, LEFT_S = 7 * 86400.0, 100.0, 60.0
CLAIM_S, JOBS = 9000.0, 16
CONFIG: dict[str, Any] = {
    "what": "many", "jobs": JOBS, "only": ["kaggle"], "seconds": 0.1, "told_s": CLAIM_S,
    "patience": {"lifetime_s": CLAIM_S, "again_s": 0.5, "unreachable_s": 20.0},
}  # fmt: skip


def sessions(sandbox: KaggleSandbox) -> list[dict[str, Any]]:
    assert sandbox.root is not None
    found = [json.loads(f.read_text()) for f in (sandbox.root / "kernels").glob("*/v*/session.json")]
    return sorted(found, key=lambda s: s["created_at"])


def test_forty_hours_wait_for_the_refresh_and_survive_kill_9_of_their_driver(tmp_path: Path) -> None:
    scale = WEEK_S / REAL_WEEK_S
    with KaggleSandbox(
        time_scale=scale, queue_s=0, cold_s=0, gpu_hours=30, compute_s=CLAIM_S,
        week_over_s=(REAL_WEEK_S - LEFT_S) * scale,
    ) as sandbox:  # fmt: skip
        refresh = time.time() + LEFT_S
        home = tmp_path / "home"
        first = start(home, {"kaggle": sandbox}, **CONFIG)
        for _ in range(600):
            done = sessions(sandbox)
            if len(done) >= 5 and any(s["state"] in ("QUEUED", "RUNNING") for s in done):
                break
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert 5 <= len(sessions(sandbox)) < JOBS, "killed in the middle"

        ended = drive(home, {"kaggle": sandbox}, **CONFIG)
        assert ended.code == 0, ended.errors[-2000:]
        assert ended.told["ended"] == "ok", ended.told
        told = ended.told["jobs"]
        assert [j["attempts"] for j in told] == [[["kaggle", ""]]] * JOBS, "nothing was refused"
        assert len({j["vectors"] for j in told}) == 1
        assert ended.told["held"] == ended.told["open"] == 0
        waited = ended.told["waited"]
        assert any("weekly GPU quota is used up" in line for line in waited), waited

        done = sessions(sandbox)
        assert Counter((s["state"], s["version"]) for s in done) == {("COMPLETE", 1): JOBS}
        assert sandbox.root is not None
        charges = [json.loads(line) for line in (sandbox.root / "charges.jsonl").read_text().splitlines()]
        assert sum(c["seconds"] for c in charges) == JOBS * CLAIM_S == 40 * 3600, "each ran once"
        before = [c for c in charges if c["at"] < refresh]
        assert sum(c["seconds"] for c in before) == 30 * 3600, "all of the first week was used, and no more"
        changes = sorted(
            itertools.chain(((s["created_at"], 1) for s in done), ((s["ended_at"], -1) for s in done))
        )
        assert max(itertools.accumulate(step for _, step in changes)) == 2
        refused = [r for r in sandbox.requests("SaveKernel") if r.status != 200]
        assert len(sandbox.requests("SaveKernel")) == JOBS, f"no push was in vain: {refused}"
