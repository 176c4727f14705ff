"""``accel precompute`` with everything going wrong: the index is the one made here in one piece."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from conformance.precompute_campaign import KILL_AFTER, run

pytestmark = pytest.mark.conformance


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
