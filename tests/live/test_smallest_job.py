"""Against the real providers, and only on request: ``make live PROVIDER=runpod LIMIT=0.50``.

Each test needs its provider's key *and* an explicit spending limit in dollars (ACCEL_LIVE_LIMIT), and is
skipped without. It runs the smallest job there is, and ends with nothing running.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.lease import Unknown
from accel.core.money import from_dollars
from accel.core.offer import Realm
from accel.fleet.leases import Patience
from accel.keys import READERS, Access
from accel.testing.smallest import smallest_job

pytestmark = [pytest.mark.live, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("provider", [*READERS])
def test_the_smallest_job_ends_with_nothing_running(
    provider: str, tmp_path: Path, outside: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if outside.get("ACCEL_LIVE_PROVIDER") not in (None, "", provider):
        pytest.skip(f"ACCEL_LIVE_PROVIDER is {outside['ACCEL_LIVE_PROVIDER']}")
    for name, value in outside.items():
        if not name.startswith("ACCEL_"):
            monkeypatch.setenv(name, value)
    key = READERS[provider]()
    if key is None:
        pytest.skip(f"there is no key for {provider}")
    if not (limit := outside.get("ACCEL_LIVE_LIMIT", "")):
        pytest.skip("no spending limit: set ACCEL_LIVE_LIMIT, in dollars")
    allowed = from_dollars(limit)
    patience = Patience(lifetime_s=1200.0)
    outcome = smallest_job(provider, Access(key), Realm.REAL, allowed, tmp_path, patience)
    assert outcome.spent <= allowed
    assert not isinstance(outcome.left, Unknown), outcome.left
    assert outcome.left == ()
