"""Colab passes the contract, against the sandbox: a real Jupyter server and kernel behind every runtime.

They take seconds of a slow processor to start, and every test here has its own: it runs with ``make
conformance``; ``test_colab`` asks of shared ones what must never break.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from colab_cloud import intent_on, provider_for

from accel.core.lease import Intent
from accel.sandbox.colab import ColabSandbox
from accel.testing.case import Breakage, ProviderCase
from accel.testing.conformance import ProviderContract

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
RULES: dict[Breakage, dict[str, Any]] = {
    Breakage.UNREACHABLE: {"on": "*", "kind": "drop", "times": 0},
    Breakage.SERVER_ERROR: {"on": "*", "kind": "http", "status": 503, "times": 0},
    Breakage.RATE_LIMITED: {"on": "*", "kind": "http", "status": 429, "seconds": 7, "times": 0},
    Breakage.UNAUTHORISED: {"on": "*", "kind": "auth_revoked", "times": 0},
    Breakage.NONSENSE: {"on": "*", "kind": "odd_body", "text": '""', "times": 0},
    Breakage.LOST_ANSWER: {"on": "CreateRuntime", "kind": "lost_answer"},
    Breakage.NO_CAPACITY: {"on": "CreateRuntime", "kind": "session_count"},
    Breakage.QUOTA: {"on": "CreateRuntime", "kind": "quota_exhausted"},
    Breakage.ODD_LISTING: {"on": "ListRuntimes", "kind": "odd_body", "text": '{"runtimes": null}'},
    Breakage.TRUNCATED: {"on": "Download", "kind": "truncated"},
    Breakage.MISSING: {"on": "Download", "kind": "missing"},
}


def colab_case(sandbox: ColabSandbox, folder: Path) -> ProviderCase:
    def intent(seconds: float) -> Intent:
        return intent_on(folder, seconds)

    def break_(breakage: Breakage | None) -> None:
        sandbox.set_faults(*([RULES[breakage]] if breakage else []))

    return ProviderCase(
        provider=provider_for(sandbox, call_s=60), intent=intent, break_=break_, breakages=frozenset(RULES),
        requests=lambda: len(sandbox.requests()), secrets=(sandbox.key, sandbox.refresh_token),
        live_clause="web services", patience_s=120.0,
    )  # fmt: skip


class TestColab(ProviderContract):
    @pytest.fixture(scope="class")
    def served(self) -> Iterator[ColabSandbox]:
        # an account that may have two runtimes: a test orders two
        with ColabSandbox(time_scale=10_000, cold_s=0.0, tier="PRO", balance=50.0, eager=False) as running:
            yield running

    @pytest.fixture
    def case(self, served: ColabSandbox, tmp_path_factory: pytest.TempPathFactory) -> ProviderCase:
        served.reset()
        return colab_case(served, tmp_path_factory.mktemp("bundles"))
