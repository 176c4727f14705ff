"""Modal passes the contract, against the sandbox: every call goes over the wire through the real SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import modal_cases
import pytest

from accel.sandbox.modal import ModalSandbox
from accel.testing.case import ProviderCase
from accel.testing.conformance import ProviderContract

pytest.importorskip("modal", reason="Modal's SDK is not installed (pip install 'accel[modal]')")


@pytest.fixture(scope="module")
def served() -> Iterator[ModalSandbox]:
    with ModalSandbox(time_scale=10_000) as running:
        yield running


@pytest.fixture(scope="module")
def adapter(served: ModalSandbox) -> Iterator[Any]:
    made = modal_cases.provider(served)
    yield made
    asyncio.run(made.aclose())


class TestModal(ProviderContract):
    @pytest.fixture
    def case(self, served: ModalSandbox, adapter: Any) -> ProviderCase:
        served.reset()
        return modal_cases.case(served, adapter)
