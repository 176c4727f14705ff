"""One sandbox Kaggle for a module's tests, emptied between them: starting one takes longer than a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accel.sandbox.server import KaggleSandbox


@pytest.fixture(scope="module")
def served() -> Iterator[KaggleSandbox]:
    with KaggleSandbox(time_scale=10_000) as running:
        yield running


@pytest.fixture
def sandbox(served: KaggleSandbox) -> KaggleSandbox:
    served.reset()
    return served
