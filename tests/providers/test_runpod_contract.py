"""RunPod passes the contract, against the sandbox: real pods, a real far end behind the proxy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sleepers import sleeper

from accel.core.lease import Intent, Lease
from accel.core.money import NanoUSD, Rate
from accel.core.offer import Gpu, Offer, Realm
from accel.core.runtime import Runtime
from accel.providers.runpod import RunPodProvider
from accel.providers.runpod_calls import Credentials
from accel.sandbox.runpod import RunPodSandbox
from accel.sandbox.runpod_account import NO_MACHINE
from accel.testing.case import Breakage, ProviderCase
from accel.testing.conformance import ProviderContract

RUNTIME = Runtime.production()
NUMBER = itertools.count()
TOKEN = "token-of-a-lease-0123456789abcdef"
RULES: dict[Breakage, dict[str, Any]] = {
    Breakage.UNREACHABLE: {"on": "*", "kind": "drop", "times": 0},
    Breakage.SERVER_ERROR: {"on": "*", "kind": "http", "status": 503, "times": 0},
    Breakage.RATE_LIMITED: {"on": "*", "kind": "http", "status": 429, "seconds": 7, "times": 0},
    Breakage.UNAUTHORISED: {"on": "*", "kind": "auth_revoked", "times": 0},
    Breakage.NONSENSE: {"on": "*", "kind": "odd_body", "text": '""', "times": 0},
    Breakage.LOST_ANSWER: {"on": "CreatePod", "kind": "lost_answer"},
    Breakage.NO_CAPACITY: {"on": "CreatePod", "kind": "http", "status": 400, "text": NO_MACHINE},
    Breakage.ODD_LISTING: {"on": "ListPods", "kind": "odd_body", "text": "{}"},
    Breakage.TRUNCATED: {"on": "Download", "kind": "truncated"},
    Breakage.MISSING: {"on": "Download", "kind": "missing"},
}


class Told(RunPodProvider):
    """Starts with the bundle of the intent that it created, where it is given none."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.bundles: dict[str, Path | None] = {}

    async def create(self, intent: Intent) -> Lease:
        self.bundles[intent.name] = intent.bundle
        return await super().create(intent)

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        await super().start(lease, bundle or self.bundles[lease.name])


@pytest.fixture(scope="module")
def served() -> Iterator[RunPodSandbox]:
    with RunPodSandbox(time_scale=1000) as running:
        yield running


@pytest.fixture
def sandbox(served: RunPodSandbox) -> RunPodSandbox:
    served.reset()
    return served


class TestRunPod(ProviderContract):
    @pytest.fixture
    def case(self, sandbox: RunPodSandbox, tmp_path_factory: pytest.TempPathFactory) -> ProviderCase:
        provider = Told(
            credentials=Credentials(sandbox.key), runtime=RUNTIME, token=lambda _: TOKEN, realm=Realm.SANDBOX,
            endpoint=sandbox.url, call_s=10, poll_s=0.05,
        )  # fmt: skip
        rate = Rate(NanoUSD(1_000_000_000), RUNTIME.now().date(), "test")
        offer = Offer(
            "runpod/sandbox/COMMUNITY/NVIDIA L4", "runpod", Realm.SANDBOX, Gpu("L4", 1, 24 << 30, 89), rate,
            RUNTIME.now(), "test",
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("bundles")

        def intent(seconds: float) -> Intent:
            n = next(NUMBER)
            bundle = sleeper(folder / f"t{n}", seconds)
            return Intent(f"i{n}", f"t{n}", offer, f"accel-i{n}", 60.0, RUNTIME.now(), bundle)

        def break_(breakage: Breakage | None) -> None:
            sandbox.set_faults(*([RULES[breakage]] if breakage else []))

        return ProviderCase(
            provider=provider, intent=intent, break_=break_, breakages=frozenset(RULES),
            requests=lambda: len(sandbox.requests()), secrets=(sandbox.key, TOKEN), patience_s=60,
        )  # fmt: skip

    def test_a_call_is_at_most_one_request(self, case: ProviderCase, sandbox: RunPodSandbox) -> None:
        """Before the pod runs: then its far end is asked, too."""
        sandbox.set_faults({"on": "CreatePod", "kind": "cold_start"})
        super().test_a_call_is_at_most_one_request(case)
