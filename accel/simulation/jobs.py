"""Batch jobs of a run. Guarantee: every job is carried on, by whichever router lives, until it has ended.

They are real jobs of the production runner: bundles and results are files, leases come from
``simulation.batch``. What a killed router leaves is picked up by the next one, as ``accel push --resume``
does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from accel.core.errors import AccelError, EveryAttemptFailed, LedgerError
from accel.core.task import Lane, Need, Size, Stage, Task
from accel.simulation.evidence import Evidence
from accel.simulation.router import Router
from accel.simulation.traffic import BASE
from accel.wire import Envelope, pack_texts
from accel.worker.bundle import JOB_SCHEMA, Bundle

EVERY_S = 150.0
RESUME_S = 10.0
TEXTS = ("500|-1", "500|-2")


class Jobs:
    """Submits jobs until ``span_s``, and carries them on."""

    def __init__(self, seed: int, span_s: float, evidence: Evidence) -> None:
        self._chance = random.Random(f"{seed}:jobs")
        self._span_s, self._evidence = span_s, evidence
        self._number = 0
        self._idle = asyncio.Event()
        self._running: set[str] = set()

    def begin(self, router: Router) -> None:
        """A router has come up: what the one before left is carried on."""
        self._running.clear()
        if router.dead:
            return
        for job in router.engine.unfinished():
            self._carry(router, job.id)

    async def come(self, router: Callable[[], Router]) -> None:
        """One job after another; returns when the last has ended."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / EVERY_S))
            if loop.time() > self._span_s:
                break
            self._submit(router())
        while self._running or self._left(router()):
            await asyncio.sleep(5.0)
            if not self._running:
                self.begin(router())

    @staticmethod
    def _left(router: Router) -> bool:
        return router.dead or bool(router.engine.unfinished())

    def _submit(self, router: Router) -> None:
        self._number += 1
        ident = f"j{self._number}"
        need = Need(Stage.EMBED, Lane.BATCH)
        task = Task(ident, Lane.BATCH, BASE, Size(len(TEXTS), 1000, 4000), need)
        inputs = Envelope(ident, BASE.fields(), pack_texts(TEXTS))
        bundle = Bundle({"schema": JOB_SCHEMA, "task_id": ident}, b"", inputs.to_bytes())

        async def work() -> None:
            try:
                await router.engine.submit(task, bundle)
            except LedgerError:
                return  # nothing was queued, and the person was told
            if ident not in self._running:
                self._carry(router, ident)

        router.start(work(), lambda _: None)

    def _carry(self, router: Router, ident: str) -> None:
        self._running.add(ident)

        async def work() -> None:
            outcome = ""
            while not outcome:
                try:
                    await router.engine.finish(ident)
                    outcome = "done"
                except EveryAttemptFailed:
                    outcome = "failed"
                except LedgerError:  # it is away: the person tries again
                    await asyncio.sleep(RESUME_S)
                except AccelError as failed:
                    outcome = type(failed).__name__
            if not router.dead:
                self._evidence.jobs[ident] = outcome

        router.start(work(), lambda _: self._running.discard(ident))
