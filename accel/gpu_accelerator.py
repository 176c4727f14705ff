"""GPUAccelerator. Guarantee: a task run here ends once, settled in the ledger, and says why it went where.

A thin façade: offers come from ``fleet``, their order and the tries from ``routing``, what is known
already from ``cache``, and everything that happened goes to ``ledger``. All four are handed in, so that a
simulation can run the same object on its own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel import config, environment, keys
from accel.cache import ExactCache, items
from accel.core.attempt import Result, Route, Scored, Timing
from accel.core.errors import BadOutput, ProviderError, UsageError
from accel.core.lease import Lease
from accel.core.money import Basis, Cost
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Need, Stage, Task
from accel.fleet import Board, JobRunner
from accel.fleet.jobs import Event, Finished
from accel.fleet.leases import Patience
from accel.fleet.roster import roster
from accel.ledger import Budgets, Job, Ledger, Limits, decisions, jobs
from accel.providers import terms
from accel.providers.base import Provider, ServesLive, StandsBy
from accel.routing import Inputs, Measured, State, Tried, cascade, rank, replay, same
from accel.wire import Envelope
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker


@dataclass(frozen=True, slots=True)
class Preference:
    """What the person wants.

    asked: providers named for this very use; one whose terms forbid it is an error. order: the standing
    order of the settings; what the terms forbid is passed over. value_of_hour: dollars. accepted: keys of
    accepted terms.
    """

    asked: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    value_of_hour: float = 1.0
    accepted: tuple[str, ...] = ()


class GPUAccelerator:
    """Runs tasks where they are best run. One per event loop; see ``open_accelerator``."""

    def __init__(
        self, board: Board, ledger: Ledger, cache: ExactCache | None, runtime: Runtime, folder: Path,
        preference: Preference, patience: Patience,
    ) -> None:  # fmt: skip
        self.board, self.ledger, self.cache, self.runtime = board, ledger, cache, runtime
        self.preference = preference
        self._jobs = JobRunner(
            board, ledger, Budgets(ledger, Limits({}, {})), runtime, folder, self._state, patience
        )

    @property
    def realm(self) -> Realm:
        """Everything this object does happens in one realm."""
        return self.ledger.realm

    async def offers(self, need: Need) -> tuple[Offer | Unfit, ...]:
        """What every provider would give for ``need`` now, or why nothing."""
        return await self.board.offers(need)

    # Live lane ------------------------------------------------------------------------------------

    async def run(self, task: Task, request: Envelope, parent: str = "") -> Result[Envelope]:
        """Run a live task: cache first, then the offers in order until one answer validates.

        parent: id of the query that this task is a stage of. Embeddings are cached per text, and only
        the missing ones are computed; other stages are cached whole. Raises TermsError,
        EveryAttemptFailed, or a UsageError of the stage.
        """
        await self._usable(task)
        began = asyncio.get_running_loop().time()
        keys = items.keys_of(task, request)
        found = await self.runtime.offload(self.cache.get_many, keys) if self.cache else {}
        misses = [i for i, k in enumerate(keys) if k not in found]
        if not misses:
            output = items.merge(task, keys, found)
            return Result(output, None, hits=len(keys), items=len(keys))
        part, missing = items.only(task, request, misses)
        route, decision = await self._route(part, parent)
        output, attempts = await cascade(
            route, lambda scored: self._attempt(missing, scored), self.runtime, within_s=task.within_s,
            on_attempt=lambda a: self.ledger.record_attempt(a, part.spec, part.size),
        )  # fmt: skip
        fresh = items.split(task, output, [keys[i] for i in misses])
        if self.cache:
            await self.runtime.offload(self.cache.put_many, fresh)
        spent = asyncio.get_running_loop().time() - began
        return Result(
            items.merge(task, keys, found | fresh), route, attempts, hits=len(keys) - len(misses),
            items=len(keys), decision_id=decision,
            overhead_s=max(0.0, spent - sum(a.timing.total_s for a in attempts)),
        )  # fmt: skip

    async def _route(self, task: Task, parent: str) -> tuple[Route, str]:
        answers = await self.board.offers(task.need)
        offers = tuple(a for a in answers if isinstance(a, Offer))
        unfit = tuple(a for a in answers if isinstance(a, Unfit))
        state, draw = self._state(task), self.runtime.random.random()
        route = rank(task, answers, state, draw)
        decision = f"{task.id}-{self.runtime.new_id()}"
        decisions.record(
            self.ledger, decision, parent, task=task, offers=offers, unfit=unfit, state=state, draw=draw,
            route=route,
        )  # fmt: skip
        return route, decision

    async def _attempt(self, request: Envelope, scored: Scored) -> Tried[Envelope]:
        provider = self.board.providers[scored.offer.provider]
        if not isinstance(provider, ServesLive):
            raise ProviderError("it does not serve live requests", provider=provider.name)
        clock = asyncio.get_running_loop().time
        began = clock()
        output = await provider.call(self._live_lease(provider), request)
        elapsed = clock() - began
        _validate(request, output, provider.name)
        cold, compute = float(output.meta.get("cold_s", 0.0)), float(output.meta.get("compute_s", 0.0))
        timing = Timing(0.0, cold, max(0.0, elapsed - cold - compute), compute)
        return Tried(output, timing, Cost(scored.offer.rate.cost(elapsed), Basis.ESTIMATED))

    @staticmethod
    def _live_lease(provider: Provider) -> Lease:
        if isinstance(provider, StandsBy):
            return provider.standing_lease()
        raise ProviderError("no live lease is open there", provider=provider.name)

    def _state(self, task: Task) -> State:
        history = tuple(
            Measured(name, task.spec.stage, size, timing)
            for name in self.board.providers
            for size, timing in self.ledger.measured(name, task.spec.stage)
        )
        wanted = self.preference
        return State(
            order=(*wanted.asked, *wanted.order), value_of_hour=wanted.value_of_hour, history=history
        )

    # Batch lane -----------------------------------------------------------------------------------

    async def submit(self, task: Task, bundle: Bundle) -> Job:
        """Queue a batch job durably.

        Raises TermsError when a provider asked for by name may not do it, UsageError when it lacks
        something that only the person can mend.
        """
        await self._usable(task)
        return self._jobs.submit(task, bundle)

    async def finish(self, job_id: str, on_event: Callable[[Event], None] = lambda _: None) -> Finished:
        """Carry a job to its end; may be called again after any interruption."""
        return await self._jobs.run(job_id, on_event)

    def unfinished(self) -> tuple[Job, ...]:
        """Jobs that a crash or an interrupt left on their way."""
        return jobs.unfinished(self.ledger)

    # Explanations ---------------------------------------------------------------------------------

    def explain(self, ident: str) -> tuple[decisions.Decision, ...]:
        """The decisions behind a query, task or decision id."""
        return decisions.find(self.ledger, ident)

    def replay(self, decision: decisions.Decision) -> bool:
        """Rank a logged decision again; True when the route is the same."""
        return same(replay(self.ledger.load(Inputs, decision.inputs)), decision.route)

    async def _usable(self, task: Task) -> None:
        """What was asked for by name must exist, be allowed, and have its key: else that is the answer."""
        for name in self.preference.asked:
            if name not in self.board.providers:
                have = ", ".join(sorted(self.board.providers))
                raise UsageError(
                    f"there is no provider {name!r} here.",
                    hint=f"There are: {have}. `accel doctor` says how to set up others.",
                )
            if refusal := terms.check(name, task.need, self.preference.accepted):
                raise refusal
        if not self.preference.asked:
            return
        for answer in await self.board.offers(task.need):
            if isinstance(answer, Unfit) and answer.mendable and answer.provider in self.preference.asked:
                raise UsageError(
                    f"{answer.provider} cannot be used: {answer.reason}.",
                    hint="`accel doctor` checks every key.",
                )


@contextlib.asynccontextmanager
async def open_accelerator(
    realm: Realm = Realm.REAL, *, worker: Worker | None = None, asked: Sequence[str] = (),
    kaggle_endpoint: str = "", kaggle: keys.KaggleKey | None = None, home: Path | None = None,
    patience: Patience = Patience(), use_cache: bool = True,  # noqa: B008 - a frozen value
) -> AsyncIterator[GPUAccelerator]:  # fmt: skip
    """Everything wired for this machine, and closed again.

    asked: providers wanted for this very use, before those of the settings. home: where ledger, cache
    and jobs lie. kaggle: key to use; in the real realm the person's own is read when none is given.
    """
    settings, runtime = config.load_settings(), Runtime.production()
    root = (home or environment.workdir()) / realm.value
    if kaggle is None and realm is Realm.REAL:
        kaggle = keys.kaggle_key()
    found = roster(
        realm, worker or Worker(), root, runtime, kaggle=kaggle, kaggle_endpoint=kaggle_endpoint,
        accepted=settings.accepted_terms,
    )  # fmt: skip
    ledger = Ledger(root / "ledger.sqlite3", realm, runtime.now)
    cache = ExactCache(root / "cache.sqlite3") if use_cache else None
    preference = Preference(
        tuple(asked), settings.providers, settings.value_of_hour, settings.accepted_terms
    )
    try:
        yield GPUAccelerator(
            Board(found, runtime, settings.accepted_terms), ledger, cache, runtime, root / "jobs",
            preference, patience,
        )  # fmt: skip
    finally:
        ledger.close()
        if cache:
            cache.close()


def _validate(request: Envelope, output: Envelope, provider: str) -> None:
    """An answer that is not for this request, of another shape, or not finite is a failed attempt."""
    if output.task_id != request.task_id or dict(output.spec) != dict(request.spec):
        raise BadOutput("the answer belongs to another task or Spec", provider=provider)
    if broken := output.not_numbers():
        raise BadOutput(f"{', '.join(broken)}: NaN or infinity", provider=provider)
    match request.spec["stage"]:
        case Stage.EMBED:
            expected = (len(request.tensors["text_ends"]), int(request.spec["dimension"]))
            vectors = _tensor(output, "vectors", expected, provider)
            if vectors.dtype != np.float32 or not np.isfinite(vectors).all():
                raise BadOutput(f"vectors of {vectors.dtype}, or not finite", provider=provider)
        case Stage.SEARCH | Stage.RERANK:
            rows = len(request.tensors["text_ends"])
            width = int(request.meta["k"]) if "k" in request.meta else request.tensors["ids"].shape[1]
            for name in ("ids", "scores", "dense", "lexical"):
                _tensor(output, name, (rows, width), provider)
        case Stage.ANSWER:
            if not isinstance(output.meta.get("answer"), dict):
                raise BadOutput("it holds no answer", provider=provider)


def _tensor(output: Envelope, name: str, shape: tuple[int, ...], provider: str) -> np.ndarray:
    found = output.tensors.get(name)
    if found is None or found.shape != shape:
        have = "missing" if found is None else f"of shape {found.shape}"
        raise BadOutput(f"{name} {have}, not of shape {shape}", provider=provider)
    return found
