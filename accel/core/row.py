"""One measurement with its provenance. Guarantee: a Row that cannot say how it was made cannot exist."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from accel.core.attempt import Timing
from accel.core.money import Cost
from accel.core.offer import Realm

ROW_SCHEMA = 1
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a figure was made: where, with what, when.

    packages: name → version. load: the system's one-minute load average then, None where it is not
    known; above ``cores`` the machine was shared, and the figure is slower than the machine.
    """

    device: str
    cores: int
    driver: str
    os: str
    python: str
    packages: Mapping[str, str]
    commit: str
    measured_at: datetime
    load: float | None = None

    def __post_init__(self) -> None:
        if not self.device or not self.packages or not self.commit:
            raise ValueError("a measurement needs its device, its library versions and its commit")
        if self.measured_at.tzinfo is None:
            raise ValueError("measured_at must be an instant in UTC")


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    cell: the parameters that identify what was measured. samples: every repetition, in ``unit``.
    baseline: what it is to be compared with, or "none: <reason>". warm: models and caches were warm.
    timing and cost belong to the whole measurement, not to one sample.
    """

    cell: Mapping[str, Scalar]
    metric: str
    unit: str
    samples: tuple[float, ...]
    baseline: str
    warm: bool
    realm: Realm
    env: Provenance
    timing: Timing = field(default_factory=Timing)
    cost: Cost = field(default_factory=Cost)
    schema: int = ROW_SCHEMA

    def __post_init__(self) -> None:
        if self.schema != ROW_SCHEMA:
            raise ValueError(f"row schema {self.schema} is not {ROW_SCHEMA}: measure it again")
        if not self.cell or not self.metric or not self.unit or not self.baseline:
            raise ValueError("a row needs its cell, metric, unit and baseline")
        if not self.samples or not all(math.isfinite(s) for s in self.samples):
            raise ValueError(f"{self.metric}: a row needs at least one finite sample")

    @property
    def n(self) -> int:
        return len(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)
