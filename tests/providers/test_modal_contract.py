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

# What create sends, with nothing of it there already: modal 1.6.4, runner.py. The lookups of images, mounts
# and content depend on how many there are; none of them bears a second attempt's number.
CREATE = [
    "AppGetByDeploymentName", "AppCreate", "FunctionPrecreate", "FunctionCreate", "AppPublish", "FunctionGet",
]  # fmt: skip

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

    def test_a_call_is_at_most_one_request(self, case: ProviderCase, served: ModalSandbox) -> None:
        """One for each thing that is asked; a job's state is two: its end, and its place in the queue."""

        async def scenario() -> None:
            adapter, intent = case.batch, case.intent(0.05)

            def said(after: int) -> list[str]:
                return [r.call for r in served.requests()[after:]]

            await adapter.probe(case.need)
            assert said(0) == ["WorkspaceBillingRates"]
            lease = await adapter.create(intent)
            told = said(1)
            assert [c for c in told if c in CREATE] == CREATE
            before = len(served.requests())
            assert await adapter.find(intent) == lease
            assert said(before) == ["FunctionGet"]
            await adapter.start(lease)
            before = len(served.requests())
            await adapter.poll(lease)
            assert said(before) in (["FunctionGetOutputs", "FunctionCallFetch"], ["FunctionGetOutputs"])
            await adapter.release(lease)

        case.run(scenario())
