"""The fault catalogue at Kaggle, through the whole engine; see ``test_rented_faults`` for who bills seconds.

Whatever goes wrong: the process ends in time, with an answer (Kaggle's or this machine's) or one error that
lists every try; no job's kernel is pushed twice; what still runs there is a lease that the ledger knows and
holds hours for; and where Kaggle charged hours, the ledger counts some.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rented import FAULTS, cloud, drive

from accel.sandbox.server import KaggleSandbox

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
OWN: dict[str, list[dict[str, Any]]] = {
    "two sessions run": [{"on": "SaveKernel", "kind": "session_count", "times": 2}],
    "quota used up": [{"on": "SaveKernel", "kind": "quota_exhausted"}],
    "push refused": [{"on": "SaveKernel", "kind": "refuse_push", "text": "phone verification needed"}],
    "bare 400": [{"on": "SaveKernel", "kind": "http", "status": 400}],
    "output cut off": [{"on": "Download", "kind": "truncated", "times": 2}],
    "output cut off each time": [{"on": "Download", "kind": "truncated", "times": 0}],
    "output altered": [{"on": "Download", "kind": "corrupted"}],
    "output missing": [{"on": "Download", "kind": "missing", "times": 2}],
    "status denied": [
        {"on": "GetKernelSessionStatus", "kind": "http", "status": 403, "times": 0,
         "text": "Permission 'kernels.get' was denied"},
    ],
    "list is odd": [
        {"on": "GetKernelSessionStatus", "kind": "http", "status": 404, "times": 2},
        {"on": "ListKernels", "kind": "odd_body", "text": "{}", "times": 0},
    ],
    "quota is odd": [{"on": "GetAcceleratorQuotaStatistics", "kind": "odd_body", "text": "{}", "times": 0}],
}  # fmt: skip
AHEAD: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "upload cut off": [{"on": "PutBlob", "kind": "truncated", "times": 3}],
    "upload refused": [{"on": "PutBlob", "kind": "http", "status": 403, "times": 0}],
    "upload never answers": [{"on": "PutBlob", "kind": "drop", "times": 0}],
    "upload expires": [{"on": "PutBlob", "kind": "http", "status": 404, "times": 2}],
    "data set refused": [
        {"on": "CreateDataset", "kind": "odd_body", "text": '{"error": "not today"}', "times": 0}
    ],
    "data set fails": [
        {"on": "CreateDataset", "kind": "corrupted"}, {"on": "CreateDatasetVersion", "kind": "corrupted"}
    ],
    "answer lost": [{"on": "CreateDataset", "kind": "lost_answer", "times": 2}],
}  # fmt: skip
CASES = [(f"{name}", rules, 0) for name, rules in {**FAULTS, **OWN}.items()]
CASES += [(f"ahead: {name}", rules, 200_000) for name, rules in AHEAD.items()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KaggleSandbox]:
    with cloud("kaggle", tmp_path_factory.mktemp("kaggle")) as running:
        yield running


@pytest.mark.parametrize(("name", "rules", "bulk"), CASES, ids=[c[0] for c in CASES])
def test_it_ends_once_and_every_hour_is_accounted_for(
    served: KaggleSandbox, tmp_path: Path, name: str, rules: list[dict[str, Any]], bulk: int
) -> None:
    served.reset()
    for made in list((served.root or tmp_path).glob("datasets/*")):
        raise AssertionError(f"{made} is left of another test")
    served.set_faults(*({**rule, "on": rule["on"].replace("ORDER", "SaveKernel")} for rule in rules))
    began = time.monotonic()
    ended = drive(
        tmp_path, {"kaggle": served}, what="job", only=["kaggle", "local"], seconds=0.3, bulk=bulk,
        patience={"stall_s": 20.0, "lifetime_s": 60.0, "again_s": 0.5},
    )  # fmt: skip
    assert ended.code == 0, ended.errors[-2000:]
    assert time.monotonic() - began < 200, "it did not end in time"
    attempts = ended.told.get("attempts", [])
    if name == "auth revoked":  # asked for by name, it fails aloud before anything is queued
        assert (ended.told["ended"], attempts) == ("UsageError", []), ended.told
        assert "KAGGLE_API_TOKEN" in ended.told["error"]
    else:
        assert ended.told["ended"] == "ok", ended.told
        assert attempts[-1][1] == "", ended.told
        assert ended.told["vectors"], ended.told
    if name == "ahead: nothing":
        assert ended.told["attempts"] == [["kaggle", ""]], ended.told
    served.set_faults()
    assert served.root is not None
    found = [json.loads(f.read_text()) for f in served.root.glob("kernels/*/v*/session.json")]
    assert all(s["version"] == 1 for s in found), found
    assert len(found) <= 1 + sum(a[0] == "kaggle" for a in attempts)
    reaped = drive(tmp_path, {"kaggle": served}, what="reap")
    assert reaped.code == 0, reaped.errors[-2000:]
    assert reaped.told["open"] == 0, reaped.told
    with sqlite3.connect(tmp_path / "sandbox" / "ledger.sqlite3") as db:
        states = dict(db.execute("SELECT name, state FROM lease WHERE provider = 'kaggle'"))
        counted_ms = db.execute(
            "SELECT coalesce(sum(amount), 0) FROM (SELECT amount FROM charge WHERE fund = 'quota' "
            "UNION ALL SELECT amount FROM hold WHERE fund = 'quota')"
        ).fetchone()[0]
    active = {s["slug"] for s in found if s["state"] in ("QUEUED", "RUNNING")}
    assert all(states.get(slug) == "abandoned" for slug in active), (states, active)
    assert reaped.told["held"] <= sum(state == "abandoned" for state in states.values())
    file = served.root / "charges.jsonl"
    charged = [json.loads(line)["seconds"] for line in file.read_text().splitlines()] if file.exists() else []
    assert counted_ms > 0 or not charged, (counted_ms, charged)


def test_a_live_question_is_refused_with_the_clause(served: KaggleSandbox, tmp_path: Path) -> None:
    served.reset()
    ended = drive(tmp_path, {"kaggle": served}, what="live", only=["kaggle"], asked=["kaggle"])
    assert ended.told["ended"] == "TermsError"
    for words in ("third party", "https://www.kaggle.com/terms", "read 2026-11-23"):
        assert words in ended.told["error"]
    assert served.requests() == [], "nothing was asked of Kaggle"
