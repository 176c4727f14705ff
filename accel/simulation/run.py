"""One simulated run. Guarantee: the same seed gives the same trace hash.

The engine is the production one: board, policy, cascade, health, budgets, cache, ledger (SQLite files in a
temporary folder), jobs. Only the clocks (``simulation.loop``, ``simulation.clock``), chance and ids, and the
providers (``simulation.world``, ``simulation.batch``) are not. The trace hash covers every call, lease,
attempt, charge and alert, and every request's end; it also depends on the versions of Python and its math
library.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from accel.core.attempt import Result
from accel.core.errors import AccelError, EveryAttemptFailed
from accel.core.task import Task
from accel.ledger import Limits, alerts
from accel.simulation import allowance, clock, jobs, natures, traffic
from accel.simulation.batch import SimulatedBatch
from accel.simulation.case import Case
from accel.simulation.clock import WallClock
from accel.simulation.disasters import Disasters
from accel.simulation.evidence import End, Evidence
from accel.simulation.faults import Ambush, Fault, plan
from accel.simulation.loop import run_virtual
from accel.simulation.natures import BATCH, Nature
from accel.simulation.result import Simulated, sum_up
from accel.simulation.router import LEDGER, Router
from accel.simulation.scene import Scene
from accel.simulation.traffic import Asked
from accel.simulation.watch import Purse, Watch
from accel.simulation.world import SimulatedProvider
from accel.wire import Envelope

# after the last request: deadlines, leases and backlogs come to their ends
AFTERWARDS_S = 600.0
ALERTS_S = 30.0


def _silent(done: int, total: int) -> None:
    pass


def simulate(
    seed: int, requests: int = 1000, world: Sequence[Nature] | None = None, *,
    faults: Iterable[Fault] = Fault, limits: Limits | None = None,
    progress: Callable[[int, int], None] = _silent,
) -> Simulated:  # fmt: skip
    """Run ``requests`` live requests, and some batch jobs, and judge what came of it.

    world: live providers, and no others; ``natures.world`` when not given. faults: the classes to inject.
    limits: budgets; drawn from the seed when not given. progress: told of (requests begun, requests). Raises
    ValueError for fewer than one request.
    """
    if requests < 1:
        raise ValueError(f"a simulation needs at least one request, not {requests}")
    with tempfile.TemporaryDirectory(prefix="accel-simulation-") as folder, _quiet(), _collecting_less():
        run = _Run(seed, requests, world, faults, limits, Path(folder), progress)
        return run_virtual(run.play())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the engine warns of is what is injected here."""
    logger = logging.getLogger("accel")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _collecting_less() -> Iterator[None]:
    """The evidence of a run is kept to its end, and the collector would look it through again and again: with
    Python's own thresholds that was a tenth of the time of a run. Nothing of this is so in production.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class _Run:
    """The world of one run, and the router that lives in it, time after time."""

    def __init__(
        self, seed: int, requests: int, world: Sequence[Nature] | None, faults: Iterable[Fault],
        limits: Limits | None, folder: Path, progress: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        self.seed, self.folder, self.progress = seed, folder, progress
        self.asked = traffic.draw(seed, requests)
        span_s = self.asked[-1].at_s
        self.world = natures.world(seed, requests, span_s) if world is None else tuple(world)
        self.planned = plan(seed, requests, span_s, faults)
        self.limits = limits or allowance.draw(seed, requests)
        self.scene = Scene(Ambush(self.planned))
        self.wall = WallClock()
        self.runtime = clock.runtime(seed, self.wall)
        self.live = {n.name: SimulatedProvider(n, self.runtime, seed, self.scene) for n in self.world}
        # a world that was handed in is all there is
        self.batch = [SimulatedBatch(n, self.runtime, seed, self.scene) for n in BATCH if world is None]
        self.purse = Purse(self.limits, self.wall, self.evidence)
        self.tasks: dict[str, Task] = {}
        self.restarted = asyncio.Event()

    @property
    def evidence(self) -> Evidence:
        return self.scene.evidence

    async def play(self) -> Simulated:
        """From the first request to the last consequence."""
        loop = asyncio.get_running_loop()
        known = {n.name: n for n in (*self.world, *BATCH)}
        Watch(self.scene, known, self.purse, self.tasks, lambda *asked: self.router.refusal(*asked))
        disasters = Disasters(
            self.planned, self.scene, self.wall, self.live, {n.name: n.region for n in known.values()},
            self.folder, lambda: self.router, self._kill, traffic.popular(self.asked),
        )  # fmt: skip
        self.left = len(self.asked)
        self.over = asyncio.Event()
        self._open()
        striking = asyncio.create_task(disasters.run())
        telling = asyncio.create_task(self._tell())
        work = jobs.Jobs(self.seed, self.asked[-1].at_s, self.evidence) if self.batch else None
        self.jobs = work
        if work:
            work.begin(self.router)
            working = asyncio.create_task(work.come(lambda: self.router))
        try:
            self._next(0)
            await self.over.wait()
            await striking
            disasters.unlock()
            if work:
                await working
            await asyncio.sleep(AFTERWARDS_S)
            for key in self._claimed():
                self.evidence.alerts.append(key)
            self.router.flush()
        finally:
            for task in (striking, telling):
                task.cancel()
            await self.router.close()
        case = Case(
            self.scene, self.folder / LEDGER, self.limits, (*self.world, *(b.nature for b in self.batch)),
            loop.time(),
        )  # fmt: skip
        return sum_up(self.seed, case, self.folder)

    # Requests -------------------------------------------------------------------------------------

    def _next(self, number: int) -> None:
        """Begin request ``number``, and arrange for the next."""
        asked, loop = self.asked[number], asyncio.get_running_loop()
        if loop.time() < asked.at_s:
            loop.call_at(asked.at_s, self._next, number)
            return
        self._begin(f"r{number}", asked)
        if number % 1000 == 0:
            self.progress(number, len(self.asked))
        if number + 1 < len(self.asked):
            loop.call_at(max(self.asked[number + 1].at_s, loop.time()), self._next, number + 1)

    def _begin(self, ident: str, asked: Asked) -> None:
        router, now = self.router, asyncio.get_running_loop().time()
        end = End(self.scene.engine, ident, now, asked.within_s, asked.target_s,
                  asked.kind.local_fits, items=len(asked.texts))
        self.evidence.ends.append(end)
        router.start(self._request(router, end, asked), lambda _: self._ended(end))

    async def _request(self, router: Router, end: End, asked: Asked) -> None:
        task, request = traffic.task_of(end.task_id, asked)
        self.tasks[end.task_id] = task
        result: Result[Envelope] | None = None
        try:
            result = await router.engine.run(task, request)
            end.outcome = "ok"
        except EveryAttemptFailed as failed:
            end.outcome, end.attempts, end.message = "failed", failed.attempts, str(failed)
        except AccelError as failed:
            end.outcome, end.message = type(failed).__name__, str(failed)
        except asyncio.CancelledError:
            end.outcome = "cancelled"
        except Exception as bug:  # an error that is none of ours is a broken promise, not the end of the run
            end.outcome, end.message = type(bug).__name__, str(bug)
        end.ended = asyncio.get_running_loop().time()
        if router.dead:
            end.outcome = "killed"
        elif result is not None:
            end.where, end.hits = result.where, result.hits
            end.attempts, end.route = result.attempts, result.route
            end.wrong = traffic.wrong(asked, result.output)
            if result.route is not None:
                self._note_blocked(end, asked)

    def _note_blocked(self, end: End, asked: Asked) -> None:
        spec = asked.kind.spec
        for refusal in end.route.refused if end.route else ():
            if "its breaker" in refusal.reason:
                line = (end.engine, refusal.provider, spec.stage.value, spec.model)
                self.evidence.blocked.append((end.began, line))

    def _ended(self, end: End) -> None:
        if not end.outcome:  # cancelled before it began
            end.outcome, end.ended = "killed", asyncio.get_running_loop().time()
        self.left -= 1
        if not self.left:
            self.over.set()

    # Lives ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.evidence.lives.append(asyncio.get_running_loop().time())
        self.scene.engine = len(self.evidence.lives) - 1
        self.router = Router(self.folder, [*self.live.values(), *self.batch], self.runtime, self.limits)

    def _kill(self) -> None:
        """kill -9, and a new router at once."""
        old = self.router
        old.die()
        asyncio.get_running_loop().call_soon(self._succeed, old)

    def _succeed(self, old: Router) -> None:
        self._open()
        self.burying = asyncio.ensure_future(self._bury(old))

    async def _bury(self, old: Router) -> None:
        await old.bury()
        if self.jobs:
            self.jobs.begin(self.router)

    async def _tell(self) -> None:
        """Send what alerts there are, as ``accel monitor --alert`` does."""
        while True:
            await asyncio.sleep(ALERTS_S)
            self.evidence.alerts += self._claimed()

    def _claimed(self) -> Iterator[str]:
        ledger = self.router.ledger
        with contextlib.suppress(AccelError):
            while (alert := alerts.claim(ledger)) is not None:
                yield alert.key
                alerts.ended(ledger, alert.key, ok=True)
