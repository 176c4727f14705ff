"""This machine passes the contract, too: real processes, in a folder of their own."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from accel.core.lease import Intent
from accel.core.offer import Offer, Realm
from accel.core.runtime import Runtime
from accel.core.task import Spec, Stage
from accel.providers.local import LocalProvider
from accel.testing.case import Breakage, ProviderCase
from accel.testing.conformance import ProviderContract
from accel.testing.mock_provider import FREE, MOCK_GPU
from accel.wire import Envelope
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

RUNTIME = Runtime.production()
NUMBER = itertools.count()


def never(breakage: Breakage | None) -> None:
    """There is no wire that could break."""


class TestLocal(ProviderContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> ProviderCase:
        inputs = Envelope("t", Spec(Stage.EMBED).fields(), {"x": np.zeros(1)})
        # it ends by itself as soon as its package is imported: about a second
        Bundle.make({"task_id": "t", "kind": "no such kind", "lifetime_s": 60}, inputs).write(tmp_path / "b")
        offer = Offer("o", "local", Realm.SANDBOX, MOCK_GPU, FREE, RUNTIME.now(), "test")

        def intent(seconds: float) -> Intent:
            n = next(NUMBER)
            return Intent(f"i{n}", "t", offer, f"accel-i{n}", 60.0, RUNTIME.now(), tmp_path / "b")

        local = LocalProvider(Realm.SANDBOX, Worker(), tmp_path / "jobs", RUNTIME)
        return ProviderCase(local, intent, never, frozenset())
