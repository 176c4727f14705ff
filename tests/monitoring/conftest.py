"""What the tests of alerts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from monitoring.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()
