"""What the sandbox Modal bills. Guarantee: the report's rows add up to the invoice, to the nano-dollar.

Modal's keys for its rates are not known to us (they come from the server: modal 1.6.4, _workspace.py:292-
374), nor how it rounds: both are ours here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from accel.sandbox.modal_state import Input, State

NANO = 1_000_000_000
# Nano-dollars an hour, of one GPU, one core, one GiB: Modal's published rates as others quote them (2026).
RATES = {
    "gpu:T4": 590_000_000, "gpu:L4": 800_000_000, "gpu:A10": 1_100_000_000, "gpu:L40S": 1_950_000_000,
    "gpu:A100-40GB": 2_100_000_000, "gpu:A100-80GB": 2_500_000_000, "gpu:H100": 3_950_000_000,
    "gpu:H200": 4_540_000_000, "gpu:B200": 6_250_000_000, "cpu": 47_200_000, "memory": 8_000_000,
}  # fmt: skip
# What is asked for costs what its card costs: H100! only forbids another card than an H100.
SAME = {"A100": "A100-40GB", "H100!": "H100", "B200+": "B200"}


@dataclass(slots=True)
class Container:
    """One container. ended_at 0: it exists, and bills. ready_at: when its runtime first asked for work.

    cold_s: nominal seconds until its runtime starts; None: it never does. result: what its runtime said
    when it could not start.
    """

    id: str
    function_id: str
    nano_per_hour: int
    began_at: float
    secret: str
    cold_s: float | None
    ready_at: float = 0.0
    ended_at: float = 0.0
    why: str = ""
    running: list[Input] = field(default_factory=list)
    idle_since: float = 0.0
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    draining: bool = False
    result: Any = None

    def invoice(self, now: float) -> int:
        """Nano-dollars up to ``now``: milliseconds at its rate, rounded up once."""
        milliseconds = round(1000 * ((self.ended_at or now) - self.began_at))
        return -(-milliseconds * self.nano_per_hour // 3_600_000)


def rate_of(asked: Any, rates: Mapping[str, int]) -> int:
    """Nano-dollars an hour of a function's resources.

    Where it asks for nothing: an eighth of a core and 128 MiB (Modal's docs on reserving resources, 2026).
    """
    gpu = asked.gpu_config
    kind = SAME.get(gpu.gpu_type, gpu.gpu_type)
    total = rates.get(f"gpu:{kind}", 0) * (gpu.count or 1) if kind else 0
    total += rates["cpu"] * (asked.milli_cpu or 125) // 1000
    return total + rates["memory"] * (asked.memory_mb or 128) // 1024


def dollars(nano: int) -> str:
    """An exact decimal, as the protocol has amounts."""
    return format(Decimal(nano) / NANO, "f")


def report(
    state: State, containers: Iterable[Container], start: float, end: float, interval_s: float,
    apps: Iterable[str],
) -> list[tuple[str, float, int]]:  # fmt: skip
    """(app, beginning of the interval, nano-dollars) of whole intervals between start and end.

    A container is billed in the interval of its end. "Cost will be reported for full intervals" (modal
    1.6.4, _billing.py:44-46): what ended in the one that runs is not shown yet.
    """
    only = set(apps)
    rows: dict[tuple[str, float], int] = {}
    begin = math.floor(start / interval_s) * interval_s
    for container in containers:
        app = state.functions[container.function_id].app_id
        at = math.floor(container.ended_at / interval_s) * interval_s
        if container.ended_at and begin <= at and at + interval_s <= end and (not only or app in only):
            rows[app, at] = rows.get((app, at), 0) + container.invoice(end)
    return [(app, at, nano) for (app, at), nano in sorted(rows.items(), key=lambda r: r[0][1])]
