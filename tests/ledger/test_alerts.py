"""An alert is raised once and sent by one process, whoever dies in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from books import NOW, Clock

from accel.core.offer import Realm
from accel.ledger import Ledger, alerts


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, Clock())


def test_an_alert_is_raised_once_in_any_process_and_after_it_was_sent(ledger: Ledger) -> None:
    assert alerts.raise_(ledger, "k", {"n": 1})
    assert not alerts.raise_(ledger, "k", {"n": 2})
    assert not alerts.raise_(Ledger(ledger.path, Realm.REAL), "k", {"n": 3})
    found = alerts.claim(ledger)
    assert found == alerts.Alert("k", {"n": 1}, NOW, 1)
    alerts.ended(ledger, "k", True, "202")
    assert not alerts.raise_(ledger, "k", {"n": 4})
    assert (alerts.pending(ledger), alerts.claim(ledger)) == (0, None)
    assert ledger.rows("SELECT state, note FROM alert") == [("done", "202")]


def test_one_process_claims_an_alert_and_only_it_ends_it(ledger: Ledger) -> None:
    other = Ledger(ledger.path, Realm.REAL)
    for key in ("a", "b"):
        alerts.raise_(ledger, key, {})
    claims = [alerts.claim(ledger), alerts.claim(other), alerts.claim(ledger)]
    assert [c.key if c else None for c in claims] == ["a", "b", None]
    alerts.ended(ledger, "b", True)  # not its own
    assert ledger.rows("SELECT key, state FROM alert ORDER BY key") == [("a", "sending"), ("b", "sending")]


def test_what_could_not_be_sent_is_tried_again_behind_the_others_and_given_up_in_the_end(
    tmp_path: Path,
) -> None:
    now = NOW
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL, lambda: now)
    for key in ("a", "b"):
        alerts.raise_(ledger, key, {})
    sent = []
    for _ in range(2 * alerts.TRIES):
        while (found := alerts.claim(ledger)) is not None:
            sent.append(found.key)
            alerts.ended(ledger, found.key, found.key == "b", "500")
        now += alerts.LONGEST_PAUSE
    assert sent == ["a", "b"] + ["a"] * (alerts.TRIES - 1)
    assert ledger.rows("SELECT state FROM alert ORDER BY key") == [("failed",), ("done",)]
    ledger.close()


def test_what_a_dead_process_was_sending_is_not_sent_twice(ledger: Ledger) -> None:
    other = Ledger(ledger.path, Realm.REAL)
    for key in ("a", "b"):
        alerts.raise_(ledger, key, {})
    assert alerts.claim(other) is not None
    assert alerts.recover(ledger) == 0  # it lives
    other.close()
    assert (alerts.recover(ledger), alerts.recover(ledger)) == (1, 0)
    found = alerts.claim(ledger)
    assert found is not None
    assert found.key == "b"
    assert ledger.rows("SELECT state, note FROM alert WHERE key = 'a'") == [
        ("failed", "its sender died; it may have been sent")
    ]


def test_an_alert_of_an_undone_transaction_was_never_raised(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        alerts.raise_(ledger, "k", {})
        raise ZeroDivisionError
    assert alerts.pending(ledger) == 0
    assert alerts.raise_(ledger, "k", {})
