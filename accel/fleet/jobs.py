"""Batch jobs. Guarantee: a submitted job ends once, whoever dies meanwhile, and then holds nothing.

Each step of ``ledger.jobs`` is one method here. A process that picks a job up after a crash runs the
same methods: before it creates anything under an intent that it did not just write, it asks the provider
whether the thing is there already. One process at a time works on a job (a file lock, which the operating
system drops with its process).

This is the one layer that tries again in the batch lane: polls and downloads on the same lease, then the
next offer, with this machine as the last. Where none is left, and a place or free hours come back by
themselves, the job waits (``fleet.waiting``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.core.attempt import Attempt, Timing
from accel.core.errors import (
    AccelError,
    EveryAttemptFailed,
    JobFailed,
    NoCapacity,
    ProviderError,
    Reaped,
    Retry,
    TimedOut,
    Unreachable,
    UsageError,
)
from accel.core.lease import Intent, Lease
from accel.core.offer import Billing, Offer
from accel.core.runtime import Runtime
from accel.core.task import Task
from accel.fleet import tried
from accel.fleet.board import Board
from accel.fleet.choosing import Chooser
from accel.fleet.leases import BatchProvider, Ending, Leases, Patience
from accel.ledger import Budgets, Job, JobStep, Ledger, jobs
from accel.providers.base import JobState
from accel.routing import Health, State
from accel.worker.artefacts import JobResult, read_result
from accel.worker.bundle import Bundle

GRACE_S = 60.0  # for a provider to notice that a job has ended itself


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a job, for people: its step, its provider, and the provider's own words."""

    job_id: str
    step: str
    provider: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A job's answer, with every attempt that led to it."""

    job: Job
    result: JobResult
    attempts: tuple[Attempt, ...]


class JobRunner:
    """Carries jobs on. state: the routing state for a task and the offers at the time of choosing."""

    def __init__(
        self, board: Board, ledger: Ledger, budgets: Budgets, runtime: Runtime, folder: Path,
        state: Callable[[Task, Sequence[Offer]], State], health: Health, patience: Patience,
        leases: Leases | None = None,
    ) -> None:  # fmt: skip
        self._board, self._ledger, self._runtime = board, ledger, runtime
        self._folder, self._health, self._patience = folder, health, patience
        self._leases = leases or Leases(board, ledger, budgets, patience)
        self._chooser = Chooser(
            board, ledger, budgets, runtime, self._leases, state, patience.again_s, self._record_failure
        )
        self._transfer_s: dict[str, float] = {}

    def submit(self, task: Task, bundle: Bundle) -> Job:
        """Write the bundle and queue the job. From here on any process can carry it on.

        Raises UsageError when a job of this id was submitted before.
        """
        if jobs.exists(self._ledger, task.id):
            raise UsageError(f"a job {task.id!r} was submitted before.", hint="Carry that one on.")
        folder = self._folder / task.id
        bundle.write(folder / "bundle")
        return jobs.add(self._ledger, task.id, task, folder)

    async def run(self, job_id: str, on_event: Callable[[Event], None] = lambda _: None) -> Finished:
        """Carry a job to its end, from whatever step it is at.

        Raises EveryAttemptFailed when no offer did it, AccelError when another process works on it.
        """
        with jobs.worked_on_here(jobs.get(self._ledger, job_id)) as mine:
            if not mine:
                raise AccelError(
                    f"another process is working on job {job_id}.", hint="Wait for it, or stop it."
                )
            job = jobs.get(self._ledger, job_id)
            while not job.step.terminal:
                on_event(self._event(job))
                job = await self._step(job, on_event)
            on_event(self._event(job))
            attempts = self._ledger.attempts(job.task.id)
            if job.step is JobStep.FAILED:
                subject = f"job {job.id} failed" if attempts else f"job {job.id}: {job.error}"
                raise EveryAttemptFailed(subject, attempts)
            return Finished(job, self._verified(job), attempts)

    async def give_up(self, job_id: str) -> Job | None:
        """End what a job rented that no process works on: a result that is there is brought home, else what
        it did there is lost, and it goes back into the queue. None when a process does work on it, or nothing
        is rented for it."""
        with jobs.worked_on_here(jobs.get(self._ledger, job_id)) as mine:
            job = jobs.get(self._ledger, job_id)
            if not mine or job.step.terminal or job.step is JobStep.QUEUED:
                return None
            while job.step in (JobStep.FINISHED, JobStep.FETCHED):
                job = await self._step(job, lambda _: None)
            if job.step in (JobStep.DONE, JobStep.QUEUED):
                return job
            name = self._provider_name(job)
            return await self._give_up(job, Reaped(f"no process worked on job {job_id}", provider=name))

    async def _step(self, job: Job, on_event: Callable[[Event], None]) -> Job:
        try:
            match job.step:
                case JobStep.QUEUED:
                    return await self._choose(job, on_event)
                case JobStep.INTENDED:
                    return await self._create(job)
                case JobStep.LEASED:
                    return await self._start(job)
                case JobStep.RUNNING:
                    return await self._await_end(job, on_event)
                case JobStep.FINISHED:
                    return await self._fetch(job)
                case _:
                    return await self._settle(job)
        except ProviderError as failure:
            return await self._give_up(job, failure)

    async def _choose(self, job: Job, on_event: Callable[[Event], None]) -> Job:
        """Reserve for the best offer; where none can be had now, and one will be, wait for it once."""
        chosen = await self._chooser.choose(job)
        if isinstance(chosen, Job):
            return chosen
        told = f"waits: {chosen.reason}; looks again in {chosen.seconds:.0f} s"
        on_event(Event(job.id, job.step, chosen.provider, told))
        await asyncio.sleep(chosen.seconds)
        await self._chooser.waited(job, chosen)
        return job

    async def _create(self, job: Job) -> Job:
        _, intent, _ = self._ledger.lease(job.intent_id)
        began = self._clock()
        await self._leases.open(intent, fresh=self._chooser.fresh(intent))
        self._transfer_s[intent.id] = self._clock() - began
        return jobs.advance(self._ledger, job, JobStep.LEASED)

    async def _start(self, job: Job) -> Job:
        _, intent, _ = self._ledger.lease(job.intent_id)
        _, lease = self._leased(job)
        await self._leases.up(intent, lease, job.folder / "bundle")
        return jobs.advance(self._ledger, job, JobStep.RUNNING)

    async def _await_end(self, job: Job, on_event: Callable[[Event], None]) -> Job:
        """Poll to the end. Raises what ended it otherwise: JobFailed, NoCapacity, Unreachable, TimedOut.

        What is rented by the second waits for its machine no longer than ``Patience.stall_s``; a free
        queue is waited in.
        """
        provider, lease = self._leased(job)
        _, intent, _ = self._ledger.lease(job.intent_id)
        answered, said = self._clock(), ""
        stalls = answered + (self._patience.stall_s if intent.offer.billing is Billing.SECONDS else math.inf)
        left_s = (lease.ends_by - self._runtime.now()).total_seconds()
        ends = answered + max(0.0, left_s) + GRACE_S
        while True:
            try:
                async with asyncio.timeout(max(1.0, self._patience.unreachable_s)):
                    progress = await provider.poll(lease)
            except TimeoutError:
                raise Unreachable("no answer to a poll", provider=provider.name) from None
            except Unreachable:
                if self._clock() - answered > self._patience.unreachable_s:
                    raise
            except ProviderError as busy:
                if busy.retry is not Retry.SAME:
                    raise
            else:
                answered = self._clock()
                if progress.state is JobState.DONE:
                    return jobs.advance(self._ledger, job, JobStep.FINISHED)
                line = f"{progress.state} {progress.message}".strip()
                if progress.state is not JobState.QUEUED:
                    stalls = math.inf
                elif answered > stalls:
                    told = f"no machine took the job within {self._patience.stall_s:.0f} s"
                    raise NoCapacity(told, provider=provider.name)
                if progress.state.terminal:
                    raise JobFailed(f"the job ended as {line}", provider=provider.name)
                if line != said:
                    on_event(Event(job.id, job.step, provider.name, line))
                    said = line
            if self._clock() > ends:
                raise TimedOut("the job outlived its lifetime", provider=provider.name)
            await asyncio.sleep(self._patience.poll_s)

    async def _fetch(self, job: Job) -> Job:
        """Download and verify; a download that was cut off or altered is made again."""
        provider, lease = self._leased(job)
        began = self._clock()
        for left in reversed(range(self._patience.downloads)):
            try:
                await provider.fetch(lease, self._result_folder(job))
                self._verified(job)
                break
            except JobFailed:
                raise
            except ProviderError:
                if not left:
                    raise
                await asyncio.sleep(self._patience.poll_s)
        self._transfer_s[job.intent_id] = self._transfer_s.get(job.intent_id, 0.0) + self._clock() - began
        return jobs.advance(self._ledger, job, JobStep.FETCHED)

    async def _settle(self, job: Job) -> Job:
        """Release, which may be repeated after a crash; then attempt, charge and step in one transaction."""
        _, intent, _ = self._ledger.lease(job.intent_id)
        meta = self._verified(job).output.meta
        compute_s, cold_s = float(meta.get("compute_s", 0.0)), float(meta.get("cold_s", 0.0))
        transfer_s = self._transfer_s.pop(intent.id, 0.0)
        # queue, provisioning and our own polling: what the far end and the transfers do not account for
        wait_s = max(0.0, self._elapsed_s(intent) - compute_s - cold_s - transfer_s)
        # what bills seconds does so from its creation on; free hours count the session's work
        used_s = cold_s + compute_s
        if intent.offer.billing is Billing.SECONDS:
            used_s = self._elapsed_s(intent)
        ending = await self._leases.release(intent, used_s=used_s)
        timing = Timing(wait_s, cold_s, transfer_s, compute_s)
        attempt = tried.done(job, intent, timing, ending)
        with self._ledger.transaction():
            self._record(job, attempt)
            self._leases.book(intent, ending)
            return jobs.advance(self._ledger, job, JobStep.DONE)

    async def _give_up(self, job: Job, failure: ProviderError) -> Job:
        """End the failed attempt's lease; write that down and put the job back in the queue, as one."""
        _, intent, _ = self._ledger.lease(job.intent_id)
        self._board.forget()
        ending = await self._leases.release(intent, used_s=self._elapsed_s(intent), failure=failure)
        with self._ledger.transaction():
            self._record_failure(job, intent, failure, ending)
            self._leases.book(intent, ending)
            return jobs.advance(self._ledger, job, JobStep.QUEUED, error=str(failure)[:500])

    def _record_failure(
        self, job: Job, intent: Intent, failure: AccelError, ending: Ending | None = None
    ) -> None:
        attempt = tried.failed(job, intent, failure, self._elapsed_s(intent), ending)
        self._record(job, attempt)

    def _record(self, job: Job, attempt: Attempt) -> None:
        """Into the ledger, and into what is known of the provider."""
        self._ledger.record_attempt(attempt, job.task.spec, job.task.size)
        self._health.recall(attempt, job.task.spec, job.task.size, self._clock())

    def _elapsed_s(self, intent: Intent) -> float:
        return max(0.0, (self._runtime.now() - intent.created_at).total_seconds())

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()

    def _event(self, job: Job) -> Event:
        queued_again = job.step is JobStep.QUEUED and job.tries
        return Event(job.id, job.step, self._provider_name(job), job.error if queued_again else "")

    def _provider_name(self, job: Job) -> str:
        if not job.intent_id or job.step is JobStep.QUEUED:
            return ""
        return self._ledger.lease(job.intent_id)[1].offer.provider

    def _leased(self, job: Job) -> tuple[BatchProvider, Lease]:
        _, intent, lease = self._ledger.lease(job.intent_id)
        if lease is None:
            raise AccelError(f"job {job.id} is {job.step} without a lease: the ledger is damaged.")
        return self._leases.provider(intent), lease

    def _result_folder(self, job: Job) -> Path:
        return job.folder / f"result-{job.tries}"

    def _verified(self, job: Job) -> JobResult:
        return read_result(
            self._result_folder(job), task_id=job.task.id, spec=job.task.spec.fields(),
            provider=self._provider_name(job),
        )  # fmt: skip
