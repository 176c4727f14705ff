"""Vast.ai passes the contract, against the sandbox: machines that boot, deliver and end as the real ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stub_end

from accel.core.lease import Intent
from accel.core.money import NanoUSD, Rate
from accel.core.offer import CPU, Offer, Realm
from accel.core.runtime import Runtime
from accel.providers.vast import VastProvider
from accel.providers.vast_calls import VastCalls
from accel.sandbox.vast import VastSandbox
from accel.testing.case import Breakage, ProviderCase
from accel.testing.conformance import ProviderContract

RUNTIME = Runtime.production()
NUMBER = itertools.count()
RULES: dict[Breakage, dict[str, Any]] = {
    Breakage.UNREACHABLE: {"on": "*", "kind": "drop", "times": 0},
    Breakage.SERVER_ERROR: {"on": "*", "kind": "http", "status": 503, "times": 0},
    Breakage.RATE_LIMITED: {"on": "*", "kind": "http", "status": 429, "seconds": 7, "times": 0},
    Breakage.UNAUTHORISED: {"on": "*", "kind": "auth_revoked", "times": 0},
    Breakage.NONSENSE: {"on": "*", "kind": "odd_body", "text": '""', "times": 0},
    Breakage.LOST_ANSWER: {"on": "CreateInstance", "kind": "lost_answer"},
    Breakage.NO_CAPACITY: {"on": "CreateInstance", "kind": "http", "status": 404, "text": "no_such_ask: gone"},
    Breakage.ODD_LISTING: {"on": "ListInstances", "kind": "odd_body", "text": '{"instances": []}'},
}
AT_THE_FAR_END = {Breakage.TRUNCATED: "truncated", Breakage.MISSING: "missing"}


@pytest.fixture(scope="module")
def served() -> Iterator[VastSandbox]:
    with VastSandbox(time_scale=200, cold_s=60) as running:
        yield running


@pytest.fixture
def sandbox(served: VastSandbox) -> Iterator[VastSandbox]:
    served.reset()
    yield served
    served.set_faults()


def provider_for(sandbox: VastSandbox, **more: Any) -> VastProvider:
    given: dict[str, Any] = {
        "key": sandbox.key, "runtime": RUNTIME, "token": lambda name: f"{stub_end.TOKEN}-{name}",
        "certificate": lambda name: stub_end.certificate(), "realm": Realm.SANDBOX, "endpoint": sandbox.url,
        "wheel": stub_end.wheel, "needs": "", "call_s": 5, "boot_s": 30, "poll_s": 0.05,
    }  # fmt: skip
    return VastProvider(**{**given, **more})


def asks(sandbox: VastSandbox) -> list[int]:
    return [row["id"] for row in sandbox.app.instances.market.search({"order": [["dph_total", "asc"]]})]


def offer_of(ask: int, *, bid: bool = False) -> Offer:
    rate = Rate(NanoUSD(5_000_000_000), RUNTIME.now().date(), "test")
    return Offer(f"vast/{ask}", "vast", Realm.SANDBOX, CPU, rate, RUNTIME.now(), "test", exclusive=True,
                 interruptible=bid)  # fmt: skip


def vast_case(sandbox: VastSandbox, folder: Path) -> ProviderCase:
    given = iter(asks(sandbox)[2:])  # not the two that nobody should rent

    def intent(seconds: float) -> Intent:
        n = next(NUMBER)
        made = stub_end.bundle(folder / f"bundle-{n}", seconds, f"t{n}")
        return Intent(f"i{n}", f"t{n}", offer_of(next(given)), f"accel-i{n}", 120.0, RUNTIME.now(), made)

    def break_(breakage: Breakage | None) -> None:
        sandbox.set_faults(*([RULES[breakage]] if breakage in RULES else []))
        for thing in sandbox.things():
            flag = sandbox.app.machines.root / "machines" / str(thing["id"]) / "working" / "fault"
            flag.unlink(missing_ok=True)
            if breakage in AT_THE_FAR_END:
                flag.write_text(AT_THE_FAR_END[breakage])

    return ProviderCase(
        provider=provider_for(sandbox), intent=intent, break_=break_,
        breakages=frozenset(RULES) | frozenset(AT_THE_FAR_END),
        requests=lambda: len([r for r in sandbox.requests() if r.call != "DestroyInstance"]),
        secrets=(sandbox.key, stub_end.TOKEN, stub_end.certificate()[1]),
    )  # fmt: skip


class TestVast(ProviderContract):
    @pytest.fixture
    def case(self, sandbox: VastSandbox, tmp_path_factory: pytest.TempPathFactory) -> ProviderCase:
        return vast_case(sandbox, tmp_path_factory.mktemp("bundles"))


def test_the_calls_show_no_key(sandbox: VastSandbox) -> None:
    calls = VastCalls(sandbox.key, sandbox.url, 5)
    assert sandbox.key not in repr(calls)
