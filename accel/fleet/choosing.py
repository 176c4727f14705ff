"""Where a batch job goes. Guarantee: decision, reservation and intent are one fact on disk, or none is.

The fresh offers are ranked without the providers that failed this job; the first is reserved for and its
intent written. What our own books have no room for now (sessions at once, free hours that are held) is passed
over in this round; where nothing is left, the job waits (``fleet.waiting``) or fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from accel.core.attempt import Route
from accel.core.errors import AccelError, NoCapacity, OfferTaken, OverBudget, QuotaHeld, SessionsFull
from accel.core.lease import Intent
from accel.core.offer import Offer, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Task
from accel.fleet import tried
from accel.fleet.board import Answer, Board
from accel.fleet.leases import Leases
from accel.fleet.waiting import PASSING, Wait, held_back, waits_for
from accel.ledger import Budgets, Job, JobStep, Ledger, decisions, jobs
from accel.ledger.leases import running
from accel.routing import State, rank

Failed = Callable[[Job, Intent, AccelError], None]


class Chooser:
    """Chooses for jobs. state: the routing state for a task and the offers at the time of choosing. failed:
    writes down a try that our own books refused."""

    def __init__(
        self, board: Board, ledger: Ledger, budgets: Budgets, runtime: Runtime, leases: Leases,
        state: Callable[[Task, Sequence[Offer]], State], again_s: float, failed: Failed,
    ) -> None:  # fmt: skip
        self._board, self._ledger, self._budgets, self._runtime = board, ledger, budgets, runtime
        self._leases, self._state, self._again_s, self._failed = leases, state, again_s, failed
        self._waited: dict[str, int] = {}  # attempts of a job that it has waited for
        self._fresh: set[str] = set()  # intents written by this very process

    def fresh(self, intent: Intent) -> bool:
        """Whether the intent was written by this process and not asked for before: nothing can exist yet."""
        mine = intent.id in self._fresh
        self._fresh.discard(intent.id)
        return mine

    async def choose(self, job: Job) -> Job | Wait:
        """The job, one step on; or that it waits, which ``waited`` tells is over."""
        answers = tuple(self._room(a) for a in await self._board.offers(job.task.need))
        while True:
            chosen = self._among(job, answers)
            if not isinstance(chosen, Unfit):
                return chosen
            answers = tuple(chosen if a.provider == chosen.provider else a for a in answers)

    async def waited(self, job: Job, wait: Wait) -> None:
        """The wait is over: what failed for want of a place or of hours may be tried again."""
        self._waited[job.id] = len(self._ledger.attempts(job.task.id))
        await self._leases.recheck(wait.provider)
        self._board.forget(wait.provider)

    def _among(self, job: Job, answers: Sequence[Answer]) -> Job | Wait | Unfit:
        """Rank, reserve, write; or an answer in place of an offer that our books have no room for."""
        task, tries = job.task, self._ledger.attempts(job.task.id)
        waited = self._waited.get(job.id, 0)
        tries = (*(a for a in tries[:waited] if a.error not in PASSING), *tries[waited:])
        offers = tuple(a for a in answers if isinstance(a, Offer))
        known = self._state(task, offers)
        state = dataclasses.replace(known, failed=tried.left_out(tries))
        draw = self._runtime.random.random()
        route = rank(task, answers, state, draw)
        now = self._runtime.now()
        if wait := waits_for(task, answers, route, known, tries, now, self._again_s):
            return wait
        decision = f"{job.id}-{self._runtime.new_id()}"
        unfit = tuple(a for a in answers if isinstance(a, Unfit))
        # decision, reservation, intent and step are one fact: a crash leaves all of them or none
        with self._ledger.transaction():
            decisions.record(
                self._ledger, decision, task.id, task=task, offers=offers, unfit=unfit, state=state,
                draw=draw, route=route,
            )  # fmt: skip
            return self._intend(job, route, decision)

    def _intend(self, job: Job, route: Route, decision: str) -> Job | Unfit:
        if not route.ranked:
            return jobs.advance(self._ledger, job, JobStep.FAILED, error=route.why)
        offer = route.ranked[0].offer
        intent = Intent(
            id=f"{job.id}-{job.tries}", task_id=job.task.id, offer=offer,
            name=f"accel-{job.id}-{job.tries}", lifetime_s=self._leases.lifetime_s(offer),
            created_at=self._runtime.now(), bundle=job.folder / "bundle",
        )  # fmt: skip
        try:
            job = jobs.intend(self._ledger, self._budgets, job, intent, decision)
        except (QuotaHeld, SessionsFull) as full:
            return held_back(offer, full, self._runtime.now(), self._again_s)
        except (OverBudget, OfferTaken) as refused:
            self._board.forget()
            self._failed(job, intent, refused)
            return jobs.advance(self._ledger, job, JobStep.QUEUED, error=str(refused)[:500])
        self._fresh.add(intent.id)
        return job

    def _room(self, answer: Answer) -> Answer:
        """The answer, or that as many of ours are there as may be."""
        if isinstance(answer, Unfit) or answer.at_once is None:
            return answer
        ours = running(self._ledger, answer.provider)
        if ours < answer.at_once:
            return answer
        told = NoCapacity(f"{ours} of its sessions are ours already", provider=answer.provider)
        return held_back(answer, told, self._runtime.now(), self._again_s)
