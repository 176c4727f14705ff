"""Rents in processes that kill themselves at one chosen point, and reaps in others.

Started by ``test_lease_crash`` as a program of its own: ``python lease_driver.py CONFIG``. It works as
``crash_driver`` does, whose points these are, on a cloud that is a file (``MockRental``): the truth of what
is rented outlives every process. Per point one process does something that rents (a job, live questions, or a
reap of what another one left) and is killed there; a second one reaps, as a person would; a third one reaps
again. Prints one JSON list.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from crash_driver import Killer, in_child
from renting import LIMITS, ODD, SPEC, Home, ask, result_files, vectors

from accel.core.errors import AccelError
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Stage, Task
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator
from accel.ledger import Limits
from accel.testing.mock_rental import MockRental
from accel.worker.bundle import Bundle

METHODS = ("create", "start", "fetch", "release", "bill", "call", "find", "leases")
PATIENCE = Patience(poll_s=0.02, unreachable_s=2.0, lifetime_s=600.0, stall_s=20.0, idle_s=0.05)


def home(folder: Path, limits: Limits = LIMITS, **options: Any) -> Home:
    """The same home and cloud for every process of one point."""
    runtime = Runtime.production()
    cloud = MockRental("cloud", runtime, folder=folder, **{
        "rate": ODD, "answer": vectors, "cold_s": 0.03, "job_s": 0.05, "result": result_files, "asks": 1,
    } | options)  # fmt: skip
    return Home(folder, runtime, cloud, limits, PATIENCE, local=False)


async def job(engine: GPUAccelerator, ident: str) -> None:
    task = Task(ident, Lane.BATCH, SPEC, Size(1, tokens=10), Need(Stage.EMBED, Lane.BATCH))
    await engine.submit(task, Bundle({"schema": 1}, b"", b""))
    await engine.finish(ident)


def race(folder: Path, count: int, launches: int, **options: Any) -> list[str]:
    """So many processes run a job each, all at once: what each of them came to."""
    begin, all_ready = os.pipe(), os.pipe()
    children = []
    for number in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            told = "broken"

            async def main(ident: str = f"j{number}") -> None:
                engine = home(folder, dataclasses.replace(LIMITS, launches=launches), **options).engine()
                os.write(all_ready[1], b".")
                os.close(begin[1])
                os.read(begin[0], 1)  # until the parent closes its end
                await job(engine, ident)

            try:
                asyncio.run(main())
                told = "done"
            except AccelError as failed:
                told = str(failed)
            except BaseException as broken:
                os.write(all_ready[1], b".")
                told = repr(broken)
            finally:
                os.write(writing, told.encode()[:4000])
                os._exit(0)
        os.close(writing)
        children.append((child, reading))
    for _ in range(count):
        os.read(all_ready[0], 1)
    os.close(begin[1])
    told = []
    for child, reading in children:
        told.append(os.read(reading, 4000).decode())
        os.waitpid(child, 0)
    return told


def rent(folder: Path, what: str, point: str) -> list[str]:
    """Do ``what`` to the point or to its end."""
    killer = Killer(point)
    killer.watch(MockRental, methods=METHODS)

    async def main() -> None:
        engine = home(folder).engine()
        if what == "job":
            await job(engine, "job")
        elif what == "live":
            await ask(engine, 1)
            await ask(engine, 2)
            await asyncio.sleep(0.1)  # longer than a replica is kept idle
        else:
            await engine.reap(act=True)
        await engine.close()

    asyncio.run(main())
    return killer.passed


def reap(folder: Path) -> dict[str, Any]:
    """What a new process finds and does, and what is true then."""

    async def main() -> dict[str, Any]:
        made = home(folder)
        before = [lease.name for lease in made.cloud.rented]
        engine = made.engine()
        looked = await engine.reap()
        untouched = before == [lease.name for lease in made.cloud.rented]
        found = await engine.reap(act=True)
        ledger = engine.ledger
        spent = sum(a.used for a in ledger.accounts() if a.period == "month")
        return {
            "before": before, "untouched": untouched, "looked": len(looked),
            "left": [f.why for f in found if not f.ended],
            "rented": [lease.name for lease in made.cloud.rented],
            "held": ledger.held(), "open": len(ledger.open_leases()), "charged": made.charged(),
            "spent": spent, "invoice": made.cloud.billed, "ordered": made.cloud.ordered,
            "bases": sorted({b for (b,) in ledger.rows("SELECT basis FROM charge WHERE amount > 0")}),
        }  # fmt: skip

    return asyncio.run(main())


def report(root: Path, what: str, number: int, point: str) -> dict[str, Any]:
    folder = root / f"{what}-{number}"
    folder.mkdir()
    if what == "reap":  # of what a job left that was killed when its machine was just up
        in_child(lambda: rent(folder, "job", "start after"))
    status, passed = in_child(lambda: rent(folder, what, point))
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    after, told = in_child(lambda: reap(folder))
    again, told_again = in_child(lambda: reap(folder))
    return {
        "point": point, "killed": killed, "passed": passed, "exit": after or again, "after": told,
        "again": told_again,
    }  # fmt: skip


def main() -> None:
    """Every point of a run that ends well; "before" a transaction is after what came before it."""
    config = json.loads(Path(sys.argv[1]).read_text())
    root = Path(config["home"])
    if options := config.get("race"):
        told = race(root, 8, **options)
        sys.stdout.write(json.dumps([told, in_child(lambda: reap(root))[1]]))
        return
    first = report(root, config["what"], 0, "")
    points = [p for p in dict.fromkeys(first["passed"] or []) if not p.endswith("before")]
    reports = [first, *(report(root, config["what"], n, p) for n, p in enumerate(points, 1))]
    sys.stdout.write(json.dumps(reports))


if __name__ == "__main__":
    main()
