"""``accel precompute`` with everything going wrong: the index is the one made here in one piece."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conformance.precompute_campaign import KILL_AFTER, run

pytestmark = pytest.mark.faults


@pytest.mark.timeout(1800)
def test_errors_timeouts_cut_output_and_kill_9_change_no_bit_of_the_index(tmp_path: Path) -> None:
    found = run(1500, 8, 256, "kaggle,local", 120.0, tmp_path)
    assert found["index"] == found["whole"]
    assert found["vectors_sha256"] == found["whole_vectors_sha256"]
    assert found["passages"] == 1500 and len(found["shards"]) == 6
    assert sum(s["again"] for s in found["shards"]) >= KILL_AFTER, "what was done before the kill was kept"
    wrong = Counter(a["error"] for s in found["shards"] for a in s["attempts"] if a["outcome"] != "ok")
    assert wrong["JobFailed"] >= 2, "one that failed, and one that its session's timeout ended"
    assert wrong["BadOutput"] >= 1
    details = " ".join(a["detail"] for s in found["shards"] for a in s["attempts"])
    assert "timeout" in details and "exit code 3" in details
    assert {s["where"] for s in found["shards"]} == {"kaggle", "local"}
    ok = [a for s in found["shards"] for a in s["attempts"] if a["outcome"] == "ok"]
    assert len(ok) == 6, "each shard was made once"


@pytest.mark.timeout(600)
def test_an_interrupt_is_one_line_and_what_runs_is_carried_on(tmp_path: Path) -> None:
    corpus = tmp_path / "notes"
    corpus.mkdir()
    (corpus / "notes.jsonl").write_text(
        "".join(json.dumps({"title": f"Note {i}", "text": f"Text {i} of many."}) + "\n" for i in range(300))
    )
    command = [
        sys.executable, "-m", "accel", "precompute", str(corpus), "--sandbox", "--to", "local",
        "--shard-size", "128", "--json",
    ]  # fmt: skip
    first = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert first.stderr is not None
    told = []
    for line in first.stderr:
        told.append(line)
        if "shard 2 on local: running" in line:
            break
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130 and out == "", err
    assert [line for line in err.splitlines() if line.startswith("accel: ")] == [err.splitlines()[-1]]
    assert err.splitlines()[-1].startswith("accel: interrupted") and "Traceback" not in err
    again = subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert again.returncode == 0, again.stderr
    assert "1 of 3 shards are here already" in again.stderr and "shard 2 on local: carried on" in again.stderr
    found = json.loads(again.stdout)
    assert [s["again"] for s in found["shards"]] == [True, False, False]
    assert all(len(s["attempts"]) == 1 for s in found["shards"]), "nothing was made twice"
