"""Runs batch jobs in processes that kill themselves at one chosen point, and others that carry them on.

Started by ``test_crash`` as a program of its own: ``python crash_driver.py CONFIG`` with a JSON file. It
imports everything once and forks: for each point, one process begins a job and sends itself SIGKILL there,
and a second one does what a person would do afterwards: look for unfinished jobs and finish them. Prints
one JSON list, one report per point.

Points: "N before", "N inside", "N after" the N-th ledger transaction (before BEGIN, before COMMIT, after
it), and "METHOD after" a provider's method did its work and before anybody heard of it. "" kills nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from accel.core.errors import AccelError
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, jobs
from accel.ledger.database import Database
from accel.providers.kaggle import KaggleProvider
from accel.providers.kaggle_client import KaggleCredentials
from accel.providers.local import LocalProvider
from accel.wire import Envelope
from accel.worker.bundle import Bundle, render_script
from accel.worker.engine import Worker

SPEC = Spec(Stage.EMBED, model="tiny", dimension=2)
NOTHING = Envelope("", {}, {})
# The far end, without a model: notes that it ran, takes a moment, and leaves a result that verifies.
SCRIPT = """
import time
from pathlib import Path
with open({runs!r}, "a") as runs:
    runs.write("ran\\n")
time.sleep(0.1)
import numpy as np
from accel.wire import Envelope
from accel.worker.artefacts import write_result
output = Envelope({task!r}, {spec!r}, {{"vectors": np.ones((1, 2), np.float32)}}, {{"compute_s": 0.1}})
write_result(Path.cwd(), {task!r}, output, {{}})
"""


class Killer:
    """Sends SIGKILL to its own process at one point; notes the points it passes."""

    def __init__(self, point: str) -> None:
        self.point, self.passed = point, []
        self._transactions = self._depth = 0

    def reach(self, point: str) -> None:
        self.passed.append(point)
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(
        self, *providers: type, methods: Sequence[str] = ("create", "start", "fetch", "release")
    ) -> None:
        """Put the points into this process's own classes; nothing else of them changes."""
        inner = Database.transaction

        @contextlib.contextmanager
        def transaction(ledger: Database) -> Iterator[Any]:
            if self._depth:
                with inner(ledger) as db:
                    yield db
                return
            self._transactions += 1
            number = self._transactions
            self.reach(f"{number} before")
            with inner(ledger) as db:
                self._depth += 1
                try:
                    yield db
                finally:
                    self._depth -= 1
                self.reach(f"{number} inside")
            self.reach(f"{number} after")

        Database.transaction = transaction  # type: ignore[method-assign]
        for provider in providers:
            for method in methods:
                setattr(provider, method, self._after(method, getattr(provider, method)))
        popen = subprocess.Popen

        def spawn(*args: Any, **options: Any) -> Any:
            process = popen(*args, **options)
            if options.get("start_new_session"):  # a job, not some question to the system
                self.reach("spawn after")
            return process

        subprocess.Popen = spawn  # type: ignore[assignment, misc]

    def _after(self, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        async def watched(*args: Any, **options: Any) -> Any:
            answer = await call(*args, **options)
            self.reach(f"{method} after")
            return answer

        return watched


def accelerator(config: dict[str, Any], job: str) -> GPUAccelerator:
    """The production object on the sandbox's and this machine's adapters, with a small script."""
    home, runtime = Path(config["home"]), Runtime.production()

    def render(folder: Path) -> str:
        if config["real"]:
            return render_script(folder)
        return SCRIPT.format(runs=str(home / f"{job}.runs"), task=job, spec=SPEC.fields())

    kaggle = KaggleProvider(
        realm=Realm.SANDBOX, runtime=runtime, endpoint=config["endpoint"],
        credentials=KaggleCredentials(config["username"], config["key"]),
        render=lambda folder: (render(folder), False),
    )  # fmt: skip
    local = LocalProvider(Realm.SANDBOX, Worker(), home / "local", runtime, render)
    # a ledger of its own for each point: what is held at the end, this job held
    ledger = Ledger(home / job / "ledger.sqlite3", Realm.SANDBOX, runtime.now)
    return GPUAccelerator(
        Board([local, kaggle], runtime), ledger, Budgets(ledger, Limits({}, {})), None, runtime,
        home / "jobs", Preference(order=(config["provider"],)),
        Patience(poll_s=0.05, unreachable_s=5.0, lifetime_s=120.0),
    )  # fmt: skip


def submission(config: dict[str, Any], job: str) -> tuple[Task, Bundle]:
    """A job: of nothing, or with ``real`` the embedding of two texts by the bundled model."""
    if config["real"]:
        from accel.stages.embed import default_spec
        from accel.wire import pack_texts

        spec, texts = default_spec(), ["a text", "another text"]
        inputs = Envelope(job, spec.fields(), pack_texts(texts))
        body = {
            "kind": "embed_benchmark", "task_id": job, "spec": spec.fields(), "batch_sizes": [1],
            "repetitions": 1, "lifetime_s": 120.0, "commit": "test",
        }  # fmt: skip
        bundle = Bundle.make(body, inputs)
    else:
        spec, bundle = SPEC, Bundle({"schema": 1, "task_id": job}, b"", NOTHING.to_bytes())
    need = Need(Stage.EMBED, Lane.BATCH)
    return Task(job, Lane.BATCH, spec, Size(2, tokens=10), need), bundle


def begin(config: dict[str, Any], job: str, point: str) -> list[str]:
    """Submit and carry on, to the point or to the end."""
    killer = Killer(point)
    killer.watch(KaggleProvider, LocalProvider)

    async def main() -> None:
        engine = accelerator(config, job)
        submitted = await engine.submit(*submission(config, job))
        await engine.finish(submitted.id)

    asyncio.run(main())
    return killer.passed


def carry_on(config: dict[str, Any], job: str) -> dict[str, Any]:
    """What a new process finds, and what is true once it has finished it."""

    async def main() -> dict[str, Any]:
        engine = accelerator(config, job)
        ledger = engine.ledger
        found = [(j.id, j.step.value) for j in engine.unfinished()]
        for ident, _ in found:
            await engine.finish(ident)
        ended = [jobs.get(ledger, job)] if jobs.exists(ledger, job) else []
        # finishing again must change nothing, and gives the verified result
        result = (await engine.finish(job)).result.output if ended else None
        lives = [await p.leases() for p in engine.board.providers.values()]  # type: ignore[attr-defined]
        return {
            "found": found,
            "ended": [j.step.value for j in ended],
            "tries": [j.tries for j in ended],
            "vectors": result.tensors["vectors"].shape if result else None,
            "attempts": [(a.provider, a.outcome.value) for a in ledger.attempts(job)],
            "held": ledger.held(),
            "open": len(ledger.open_leases()),
            "leases": [s for (s,) in ledger.rows("SELECT state FROM lease")],
            "charges": len(ledger.rows("SELECT hold_id FROM charge")),
            "unfinished": len(engine.unfinished()),
            "live": repr([x for x in lives if x != ()]),
        }

    return asyncio.run(main())


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run ``work`` in a forked process: its wait status, and its answer (None if it was killed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(writing, work)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        body = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(body) if body else None


def _answer(writing: int, work: Callable[[], Any]) -> NoReturn:
    code = 1
    try:
        body = json.dumps(work()).encode()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(body)
        code = 0
    except AccelError as failed:
        sys.stderr.write(f"{type(failed).__name__}: {failed}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def report(config: dict[str, Any], number: int, point: str) -> dict[str, Any]:
    """Kill one process at ``point``, carry on in another."""
    job = f"{config['name']}{number}"
    status, passed = in_child(lambda: begin(config, job, point))
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    after, told = in_child(lambda: carry_on(config, job))
    runs = Path(config["home"]) / f"{job}.runs"
    return {
        "point": point, "job": job, "killed": killed, "passed": passed, "exit": after, "after": told,
        "runs": len(runs.read_text().split()) if runs.exists() else 0,
    }  # fmt: skip


def main() -> None:
    """Every point of the configuration; without any, those that a job passes, found by one that ends well."""
    import kagglesdk  # noqa: F401 - imported once here, not in every child

    config = json.loads(Path(sys.argv[1]).read_text())
    first = report(config, 0, "")
    kinds = tuple(config["kinds"])
    points = config["points"] or [p for p in first["passed"] or [] if p.endswith(kinds)]
    reports = [first, *(report(config, n, point) for n, point in enumerate(points, 1))]
    sys.stdout.write(json.dumps(reports))


if __name__ == "__main__":
    main()
