"""Vast.ai passes the contract, against the sandbox: machines that boot, deliver and end as the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stub_end
from vast_cloud import asks, intent_on, offer_of, provider_for

from accel.core.lease import Intent
from accel.sandbox.vast import VastSandbox
from accel.testing.case import Breakage, ProviderCase
from accel.testing.conformance import ProviderContract

RULES: dict[Breakage, dict[str, Any]] = {
    Breakage.UNREACHABLE: {"on": "*", "kind": "drop", "times": 0},
    Breakage.SERVER_ERROR: {"on": "*", "kind": "http", "status": 503, "times": 0},
    Breakage.RATE_LIMITED: {"on": "*", "kind": "http", "status": 429, "seconds": 7, "times": 0},
    Breakage.UNAUTHORISED: {"on": "*", "kind": "auth_revoked", "times": 0},
    Breakage.NONSENSE: {"on": "*", "kind": "odd_body", "text": '""', "times": 0},
    Breakage.LOST_ANSWER: {"on": "CreateInstance", "kind": "lost_answer"},
    Breakage.NO_CAPACITY: {"on": "CreateInstance", "kind": "http", "status": 410, "text": "gone"},
    Breakage.ODD_LISTING: {"on": "ListInstances", "kind": "odd_body", "text": '{"instances": []}'},
}
AT_THE_FAR_END = {Breakage.TRUNCATED: "truncated", Breakage.MISSING: "missing"}


def vast_case(sandbox: VastSandbox, folder: Path) -> ProviderCase:
    given = iter(asks(sandbox))

    def intent(seconds: float) -> Intent:
        return intent_on(offer_of(next(given)), folder, seconds)

    def break_(breakage: Breakage | None) -> None:
        sandbox.set_faults(*([RULES[breakage]] if breakage in RULES else []))
        for thing in sandbox.things():
            flag = sandbox.app.machines.root / "machines" / str(thing["id"]) / "working" / "fault"
            flag.unlink(missing_ok=True)
            if breakage in AT_THE_FAR_END:
                flag.write_text(AT_THE_FAR_END[breakage])

    return ProviderCase(
        provider=provider_for(sandbox), intent=intent, break_=break_,
        breakages=frozenset(RULES) | frozenset(AT_THE_FAR_END), requests=lambda: len(sandbox.requests()),
        secrets=(sandbox.key, stub_end.TOKEN, stub_end.certificate()[1]),
    )  # fmt: skip


class TestVast(ProviderContract):
    @pytest.fixture
    def case(self, vast: VastSandbox, tmp_path_factory: pytest.TempPathFactory) -> ProviderCase:
        return vast_case(vast, tmp_path_factory.mktemp("bundles"))
