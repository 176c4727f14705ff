"""One sandbox a cloud for a module's tests, emptied between them: starting one takes longer than a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accel.sandbox.server import KaggleSandbox
from accel.sandbox.vast import VastSandbox


@pytest.fixture(scope="module")
def served() -> Iterator[KaggleSandbox]:
    with KaggleSandbox(time_scale=10_000) as running:
        yield running


@pytest.fixture
def sandbox(served: KaggleSandbox) -> KaggleSandbox:
    served.reset()
    return served


@pytest.fixture(scope="module")
def vast_served() -> Iterator[VastSandbox]:
    with VastSandbox(time_scale=400) as running:
        yield running


@pytest.fixture
def vast(vast_served: VastSandbox) -> VastSandbox:
    """An empty sandbox Vast.ai, where a machine is up in 0.15 s."""
    vast_served.reset()
    vast_served.set_cold(60.0)
    return vast_served
