"""Kaggle passes the contract, against the sandbox: every call goes over the wire through the real SDK."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from accel.core.lease import Intent
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.providers.kaggle import KaggleProvider
from accel.providers.kaggle_client import KaggleCredentials
from accel.providers.kaggle_machine import RATE, T4X2
from accel.sandbox.server import KaggleSandbox
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
    Breakage.LOST_ANSWER: {"on": "SaveKernel", "kind": "lost_answer"},
    Breakage.NO_CAPACITY: {"on": "SaveKernel", "kind": "session_count"},
    Breakage.QUOTA: {"on": "SaveKernel", "kind": "quota_exhausted"},
    Breakage.ODD_LISTING: {"on": "ListKernels", "kind": "odd_body", "text": "{}"},
    Breakage.TRUNCATED: {"on": "Download", "kind": "truncated"},
    Breakage.MISSING: {"on": "Download", "kind": "missing"},
}


def script(folder: Path) -> tuple[str, bool]:
    """A job that sleeps for the seconds its "bundle" is named after."""
    return (
        f"import time\ntime.sleep({float(folder.name)})\n"
        "open('result.json', 'w').write('{}' + ' ' * 100_000)\n",
        False,
    )


def kaggle_case(sandbox: KaggleSandbox, credentials: KaggleCredentials) -> ProviderCase:
    provider = KaggleProvider(
        credentials=credentials, runtime=RUNTIME, realm=Realm.SANDBOX, endpoint=sandbox.url,
        render=script, call_s=5,
    )  # fmt: skip
    offer = Offer("o", "kaggle", Realm.SANDBOX, T4X2, RATE, RUNTIME.now(), "test")

    def intent(seconds: float) -> Intent:
        n = next(NUMBER)
        return Intent(f"i{n}", f"t{n}", offer, f"accel-i{n}", 60.0, RUNTIME.now(), Path(str(seconds)))

    def break_(breakage: Breakage | None) -> None:
        sandbox.set_faults(*([RULES[breakage]] if breakage else []))

    return ProviderCase(
        provider=provider, intent=intent, break_=break_, breakages=frozenset(RULES),
        requests=lambda: len(sandbox.requests()),
        secrets=(sandbox.key, sandbox.token), live_clause="third party",
    )  # fmt: skip


class TestKaggle(ProviderContract):
    @pytest.fixture
    def case(self, sandbox: KaggleSandbox) -> ProviderCase:
        return kaggle_case(sandbox, KaggleCredentials(sandbox.username, sandbox.key))
