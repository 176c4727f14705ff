"""A pytest plugin: seconds per room, printed at the end of a run, beside what each room may take.

A room is the first folder under ``tests/``; single files there are one room, "(root)". The seconds are of
both processes of `make test` together: the budgets are for two cores, and add up to less than twice the ten
minutes that it may last. A room above its budget is marked; it fails nothing, because how fast a machine is,
is no property of the code.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
BUDGET_S = {
    "(root)": 40, "cache": 10, "cli": 120, "conformance": 5, "core": 10, "corpus": 30, "dashboard": 60,
    "experiments": 150, "fleet": 110, "index": 20, "ledger": 60, "monitoring": 25, "precompute": 25,
    "providers": 220, "routing": 40, "sandbox": 60, "simulation": 80, "stages": 50, "testing": 5, "wire": 5,
    "worker": 70,
}  # fmt: skip
OTHER_S = 30


class Budget:
    """Adds up what set-up, call and tear-down of each test take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tests: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        room = room_of(report.nodeid)
        self.seconds[room] += report.duration
        self.tests[room] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.seconds:
            return
        write = terminalreporter.write_line
        terminalreporter.section("seconds per room")
        write(f"{'room':14} {'tests':>6} {'seconds':>8} {'budget':>7}")
        for room, spent in sorted(self.seconds.items()):
            allowed = BUDGET_S.get(room, OTHER_S)
            over = "  over its budget" if spent > allowed else ""
            write(f"{room:14} {self.tests[room]:6} {spent:8.1f} {allowed:7}{over}", red=bool(over))
        total = f"{'all':14} {sum(self.tests.values()):6} {sum(self.seconds.values()):8.1f}"
        write(f"{total} {sum(BUDGET_S.values()):7}")


def room_of(nodeid: str) -> str:
    """ "tests/fleet/test_crash.py::test_x" → "fleet"; a file directly under tests/ → "(root)"."""
    parts = nodeid.split("::")[0].split("/")
    inside = parts[parts.index("tests") + 1 :] if "tests" in parts else parts
    return inside[0] if len(inside) > 1 else "(root)"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Budget(), "accel-budget")
