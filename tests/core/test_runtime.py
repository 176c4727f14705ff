"""Wall clock, chance and threads come through ``Runtime`` alone; the virtual one replays."""

from __future__ import annotations

import ast
import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import accel
from accel.core.runtime import Runtime
from accel.simulation import run_virtual

ROOT = Path(accel.__file__).parent
ROOMS = ("core", "routing", "fleet", "ledger", "gpu_accelerator.py", "hybrid_gpu_processor.py")
# module → names of it that would read the machine's clock, chance or threads
FORBIDDEN = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"},
    "random": {"random", "randint", "randrange", "choice", "choices", "shuffle", "uniform", "seed", "gauss"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "uuid": {"uuid1", "uuid4"},
    "secrets": {"token_hex", "randbelow"},
    "threading": {"Thread", "Timer"},
    "asyncio": {"to_thread"},
    "os": {"urandom"},
}
# the one place where the machine is let in; the ledger's default clock for use outside the engine, and the
# names of processes, which must be unlike any other of this machine's
ALLOWED = {"core/runtime.py", "ledger/database.py", "ledger/owners.py"}


def reads_of_the_machine(source: str) -> list[str]:
    """Calls and imports in ``source`` that go past ``Runtime``, as "line: what"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            match node.value:
                case ast.Name(id=owner) | ast.Attribute(attr="datetime" | "date" as owner):
                    if node.attr in FORBIDDEN.get(owner, ()):
                        found.append(f"{node.lineno}: {owner}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN:
            taken = {a.name for a in node.names} & FORBIDDEN[node.module]
            found += [f"{node.lineno}: from {node.module} import {name}" for name in taken]
        elif isinstance(node, ast.Import):  # under another name it could not be seen above
            found += [f"{node.lineno}: {a.name} as {a.asname}" for a in node.names if a.asname in FORBIDDEN
                      or (a.asname and a.name in FORBIDDEN)]  # fmt: skip
    return found


def sources() -> list[Path]:
    found = []
    for room in ROOMS:
        path = ROOT / room
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [p for p in found if p.relative_to(ROOT).as_posix() not in ALLOWED]


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_engine_reads_the_machine_only_through_the_runtime(path: Path) -> None:
    assert reads_of_the_machine(path.read_text()) == []


@pytest.mark.parametrize(
    "code",
    ["import time\ntime.sleep(1)", "from time import monotonic", "import random\nrandom.random()",
     "import datetime\ndatetime.datetime.now()", "from datetime import datetime\ndatetime.now()",
     "import threading\nthreading.Thread()", "from asyncio import to_thread", "import uuid\nuuid.uuid4()",
     "import time as t\nt.sleep(1)"],
)  # fmt: skip
def test_the_check_itself_sees_each_kind(code: str) -> None:
    assert reads_of_the_machine(code)


def test_the_check_lets_the_injected_ones_pass() -> None:
    assert reads_of_the_machine("self.runtime.now(); runtime.random.random(); loop.time()") == []


def test_the_virtual_runtime_replays_and_its_clock_is_the_loops() -> None:
    async def draw() -> list[object]:
        runtime = Runtime.virtual(5)
        first = runtime.now()
        await asyncio.sleep(90)
        assert runtime.now() - first == timedelta(seconds=90)
        return [runtime.random.random(), runtime.new_id(), runtime.new_id(), await runtime.offload(abs, -3)]

    once, again = run_virtual(draw()), run_virtual(draw())
    assert once == again
    assert once[1] != once[2]
    assert once[3] == 3


def test_the_production_runtime_leaves_the_loop_and_tells_utc() -> None:
    async def main() -> None:
        runtime = Runtime.production()
        assert await runtime.offload(threading.get_ident) != threading.get_ident()
        assert runtime.now().tzinfo is UTC
        assert abs(datetime.now(UTC) - runtime.now()) < timedelta(seconds=60)
        assert len({runtime.new_id() for _ in range(1000)}) == 1000

    asyncio.run(main())
