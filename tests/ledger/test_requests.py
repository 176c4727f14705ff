"""Every request ends once, in the books too."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from books import NOW, Clock

from accel.core.errors import LedgerError
from accel.core.money import NanoUSD
from accel.core.offer import Realm
from accel.ledger import Ledger, requests
from accel.ledger.requests import Request

ONE = Request("r", "q", "embed", "simple", "ok", "local", 0.1 + 0.2, 3, 1, 2, NanoUSD(5), NanoUSD(2**55))


def test_requests_come_back_whole_in_the_order_they_ended(tmp_path: Path) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, clock)
    for n in range(5):
        clock.now = NOW + timedelta(seconds=n)
        requests.record(ledger, replace(ONE, id=f"r{n}"))
    found = requests.between(ledger, NOW + timedelta(seconds=1), NOW + timedelta(seconds=3))
    assert found == [(replace(ONE, id=f"r{n}"), NOW + timedelta(seconds=n)) for n in (1, 2)]


def test_a_second_end_of_a_request_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, Clock())
    requests.record(ledger, ONE)
    with pytest.raises(LedgerError, match="'r' ended before"):
        requests.record(ledger, replace(ONE, outcome="failed"))
    with ledger.transaction(), pytest.raises(LedgerError, match="'r' ended before"):
        requests.record(ledger, replace(ONE, outcome="failed"))
    assert [r for r, _ in requests.between(ledger, NOW, NOW + timedelta(seconds=1))] == [ONE]


@pytest.mark.parametrize(
    "bad", [{"seconds": float("nan")}, {"seconds": -1.0}, {"hits": 4}, {"cost": -1}, {"attempts": -1}]
)
def test_what_cannot_be_is_not_written(tmp_path: Path, bad: dict[str, float]) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, Clock())
    with pytest.raises(LedgerError, match="could not be written"):
        requests.record(ledger, replace(ONE, **bad))
    requests.record(ledger, ONE)
