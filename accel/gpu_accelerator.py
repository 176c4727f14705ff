"""GPUAccelerator. Guarantee: a task run here ends once, settled in the ledger, and says why it went where.

A thin façade: offers come from ``fleet``, their order and the tries from ``routing``, what is known already
from ``cache``, and everything that happened goes to ``ledger``. All are handed in, so that a simulation can
run the same object on its own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from accel import config, environment, keys
from accel.cache import ExactCache
from accel.core.attempt import Result, Route
from accel.core.errors import UsageError
from accel.core.money import NANO, NanoUSD
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Complexity, Need, Spec, Task
from accel.fleet import Board, JobRunner, Journal, LiveRunner
from accel.fleet.jobs import Event, Finished
from accel.fleet.leases import Leases, Patience
from accel.fleet.reap import Finding, Reaper
from accel.fleet.replicas import Replicas
from accel.fleet.roster import roster
from accel.fleet.warmth import Warmer
from accel.ledger import Budgets, Job, Ledger, Limits, Period, decisions, jobs, leases
from accel.ledger.limits import LAUNCHES_PER_HOUR
from accel.monitoring.alerts import delivering
from accel.monitoring.channels import Channel
from accel.providers import accepted as acceptances
from accel.providers import terms
from accel.routing import Health, Inputs, State, replay, same
from accel.wire import Envelope
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

# How far back attempts still say something of a provider: a breaker stays open for 5 minutes at most, and
# what was measured yesterday is worth more than a data sheet.
RECALL_S = 86_400.0
PLAY_MONEY = NanoUSD(100 * NANO)


@dataclass(frozen=True, slots=True)
class Preference:
    """What the person wants.

    asked: providers named for this very use; one whose terms forbid it is an error. order: the standing
    order of the settings; what the terms forbid is passed over. fallback: the order of what is behind the
    first choice. priorities: factors on scores. value_of_hour, value_of_deadline: dollars that an hour of
    waiting, and a missed deadline, cost. target_s: seconds that a question should take. accepted: keys of
    accepted terms.
    """

    asked: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    priorities: Mapping[str, float] = field(default_factory=dict)
    value_of_hour: float = 1.0
    value_of_deadline: float = 0.05
    target_s: Mapping[Complexity, float] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()


class GPUAccelerator:
    """Runs tasks where they are best run. One per event loop; see ``open_accelerator``."""

    def __init__(
        self, board: Board, ledger: Ledger, budgets: Budgets, cache: ExactCache | None, runtime: Runtime,
        folder: Path, preference: Preference, patience: Patience,
    ) -> None:  # fmt: skip
        self.board, self.ledger, self.budgets, self.runtime = board, ledger, budgets, runtime
        self.preference = preference
        self.health = Health(random.Random(runtime.random.random()))
        self.journal = Journal(ledger, budgets)
        self._warmer = Warmer(preference.value_of_deadline)
        self.leases = Leases(board, ledger, budgets, patience)
        self.replicas = Replicas(board, ledger, budgets, runtime, self.leases, patience)
        self._live = LiveRunner(
            board, self.journal, self.health, cache, runtime, self._state, self._warmer, self.replicas
        )
        self._jobs = JobRunner(
            board, ledger, budgets, runtime, folder, self._state, self.health, patience, self.leases
        )

    @property
    def realm(self) -> Realm:
        """Everything this object does happens in one realm."""
        return self.ledger.realm

    def recall(self) -> None:
        """Learn from what the ledger holds of the last day; to be called once, in the event loop."""
        now = asyncio.get_running_loop().time()
        for attempt, stage, model, size, age_s in self.ledger.recent(RECALL_S):
            self.health.recall(attempt, Spec(stage, model=model.split("@")[0]), size, now - age_s)

    async def offers(self, need: Need) -> tuple[Offer | Unfit, ...]:
        """What every provider would give for ``need`` now."""
        return self.replicas.shown(await self.board.offers(need), need)

    async def preview(self, task: Task) -> tuple[tuple[Offer | Unfit, ...], Route]:
        """What every provider would give now, and the route that ``task`` would take. Nothing is run.

        Raises as ``run`` for providers asked for by name.
        """
        await self._usable(task)
        route, _ = await self._live.route(task)
        return await self.offers(task.need), route

    async def run(self, task: Task, request: Envelope, parent: str = "") -> Result[Envelope]:
        """Run a live task: cache first, then the offers in order until one answer validates.

        parent: id of the query that this task is a stage of. Embeddings are cached per text, and only
        the missing ones are computed; other stages are cached whole. Raises TermsError,
        EveryAttemptFailed, or a UsageError of the stage.
        """
        await self._usable(task)
        return await self._live.run(task, request, parent)

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

    async def reap(self, *, act: bool = False, others: bool = False) -> tuple[Finding, ...]:
        """What nobody works with any more, at every provider; ``act`` ends it. See ``fleet.reap``."""
        return await Reaper(
            self.board, self.ledger, self.leases, self._jobs, act=act, others=others
        ).run()

    async def close(self) -> None:
        """Give up what runs beside the requests. The ledger and the cache stay open."""
        await self._warmer.close()
        await self.replicas.close()
        await self.board.aclose()

    def explain(self, ident: str) -> tuple[decisions.Decision, ...]:
        """The decisions behind a query, task or decision id."""
        return decisions.find(self.ledger, ident)

    def replay(self, decision: decisions.Decision) -> bool:
        """Rank a logged decision again; True when the route is the same."""
        return same(replay(self.ledger.load(Inputs, decision.inputs)), decision.route)

    def _state(self, task: Task, offers: Sequence[Offer]) -> State:
        now, wanted = asyncio.get_running_loop().time(), self.preference
        return State(
            order=(*wanted.asked, *wanted.order), fallback=wanted.fallback,
            priorities=tuple(wanted.priorities.items()), value_of_hour=wanted.value_of_hour,
            value_of_deadline=wanted.value_of_deadline,
            standings=tuple([self.health.standing(o.provider, task, now) for o in offers]),
            funds=self.budgets.funds(offers),
        )  # fmt: skip

    async def _usable(self, task: Task) -> None:
        """What was asked for by name must exist, be allowed, and have its key: else that is the answer."""
        for name in self.preference.asked:
            if name not in self.board.providers:
                have = ", ".join(sorted(self.board.providers))
                raise UsageError(
                    f"there is no provider {name!r} here.",
                    hint=f"There are: {have}. `accel doctor` says how to set up others.",
                )
            if task.need.only and name not in task.need.only:
                allowed = ", ".join(sorted(task.need.only))
                raise UsageError(f"{name} is asked for, and only {allowed} is allowed: that cannot be met.")
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
    access: Mapping[str, keys.Access] | None = None, home: Path | None = None,
    patience: Patience = Patience(), use_cache: bool = True,  # noqa: B008 - a frozen value
    adopt: bool = True, confirm: Callable[[str], bool] | None = None,
) -> AsyncIterator[GPUAccelerator]:  # fmt: skip
    """Everything wired for this machine, and closed again.

    asked: providers wanted for this very use, before those of the settings. home: where ledger, cache
    and jobs lie. access: how each provider is reached; in the real realm the person's own keys are read when
    it is not given. adopt: take over live replicas that processes which are gone have left. confirm: asks the
    person in front a yes-or-no question (what Colab's free tier wants); None: nobody is there. Raises
    SettingsError for a key that cannot be one.
    """
    settings, runtime = config.load_settings(), Runtime.production()
    base = home or environment.workdir()
    root = base / realm.value
    both = dict.fromkeys((*settings.accepted_terms, *acceptances.accepted(base)))
    settings = settings.model_copy(update={"accepted_terms": tuple(both)})
    if access is None:
        access = keys.accesses() if realm is Realm.REAL else {}
    for name in asked:
        if name in settings.disabled:
            raise UsageError(f"{name} is disabled in your settings.", hint=f"See {config.settings_file()}.")
    accepted = (*settings.accepted_terms, *((terms.attended("colab"),) if confirm else ()))
    ledger = Ledger(root / "ledger.sqlite3", realm, runtime.now)
    cache = None
    try:
        cache = ExactCache(root / "cache.sqlite3") if use_cache else None
        found = roster(
            realm, worker or Worker(), root, runtime, access=access, accepted=accepted,
            taken=partial(leases.taken, ledger), confirm=confirm,
        )  # fmt: skip
        found = [p for p in found if p.name not in settings.disabled]
        budgets = Budgets(ledger, limits(settings, realm))
        budgets.recover()
        accelerator = GPUAccelerator(
            Board(found, runtime, accepted), ledger, budgets, cache, runtime, root / "jobs",
            dataclasses.replace(preference(settings, asked), accepted=accepted), patience,
        )  # fmt: skip
        accelerator.recall()
        if adopt:
            await accelerator.replicas.recover()
        channel = Channel.of(settings.alerts.webhook, settings.alerts.command.get_secret_value())
        async with delivering(ledger, channel, runtime):
            try:
                yield accelerator
            finally:
                await accelerator.close()
    finally:
        ledger.close()
        if cache:
            cache.close()


def preference(settings: config.Settings, asked: Sequence[str] = ()) -> Preference:
    """What the settings say, and who is asked for this time."""
    goals = settings.targets
    return Preference(
        tuple(asked), settings.providers, settings.fallback, settings.priorities, settings.value_of_hour,
        settings.value_of_deadline,
        {Complexity.SIMPLE: goals.simple_s, Complexity.COMPLEX: goals.complex_s}, settings.accepted_terms,
    )  # fmt: skip


def limits(settings: config.Settings, realm: Realm) -> Limits:
    """The budgets and credits of the settings. In the sandbox, where no money is real, ``PLAY_MONEY`` a month
    when none are set: a rehearsal needs no budget of a person's own.
    """
    tables = {"": settings.budget, **settings.budget.providers}
    caps = {
        (name, period): cap
        for name, table in tables.items()
        for period in Period
        if (cap := getattr(table, period.value)) is not None
    }
    if realm is Realm.SANDBOX and not caps and not settings.credits:
        caps = {("", Period.MONTH): PLAY_MONEY}
    launches = LAUNCHES_PER_HOUR if settings.launches_per_hour is None else settings.launches_per_hour
    return Limits(caps, dict(settings.credits), settings.alerts.at, launches)
