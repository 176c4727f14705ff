"""Jobs in the ledger. Guarantee: a job's step changes only along ``NEXT``, one committed step at a time.

A batch task is a durable state machine: each step is written before the work of the next one begins, so
that a process which finds the row after a crash knows what may have happened and what certainly did.

    queued ─► intended ─► leased ─► running ─► finished ─► fetched ─► done
       ▲         │          │          │           │          │
       └─────────┴──────────┴──────────┴───────────┴──────────┘   next offer, after a failed attempt
    any of them ─► failed, when no offer is left
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from accel.core.errors import AccelError, LedgerError, NoCapacity, OverBudget
from accel.core.lease import Intent
from accel.core.task import Task
from accel.ledger.budgets import Budgets
from accel.ledger.database import dump
from accel.ledger.store import Ledger


class JobStep(StrEnum):
    """How far a job is; each name says what is already on disk."""

    QUEUED = "queued"      # the bundle is written, an offer is still to be chosen
    INTENDED = "intended"  # intent and reservation written: something may exist at the provider
    LEASED = "leased"      # the provider's own id is stored
    RUNNING = "running"    # the far end was told to start
    FINISHED = "finished"  # the provider says that it ended well
    FETCHED = "fetched"    # its artefacts are here and verified
    DONE = "done"          # attempt written, hold settled, lease ended
    FAILED = "failed"      # every offer was tried

    @property
    def terminal(self) -> bool:
        return self in (JobStep.DONE, JobStep.FAILED)


NEXT: dict[JobStep, frozenset[JobStep]] = {
    JobStep.QUEUED: frozenset({JobStep.INTENDED, JobStep.FAILED, JobStep.QUEUED}),
    JobStep.INTENDED: frozenset({JobStep.LEASED, JobStep.QUEUED}),
    JobStep.LEASED: frozenset({JobStep.RUNNING, JobStep.QUEUED}),
    JobStep.RUNNING: frozenset({JobStep.FINISHED, JobStep.QUEUED}),
    JobStep.FINISHED: frozenset({JobStep.FETCHED, JobStep.QUEUED}),
    JobStep.FETCHED: frozenset({JobStep.DONE, JobStep.QUEUED}),
    JobStep.DONE: frozenset(),
    JobStep.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Job:
    """A batch task on its way. folder: bundle/ and, once fetched, result/. tries: offers used up."""

    id: str
    task: Task
    folder: Path
    step: JobStep
    tries: int
    decision: str
    intent_id: str
    error: str


_COLUMNS = "id, task, folder, step, tries, decision, intent_id, error"


def add(ledger: Ledger, job_id: str, task: Task, folder: Path) -> Job:
    """Queue a job whose bundle is already in ``folder``. Raises LedgerError when the id is taken."""
    with ledger.transaction() as db:
        if exists(ledger, job_id):
            raise LedgerError(f"the ledger has a job {job_id!r} already.")
        at = ledger.at()
        db.execute(
            "INSERT INTO job (id, task, folder, step, made_at, at) VALUES (?, ?, ?, 'queued', ?, ?)",
            (job_id, dump(task), str(folder), at, at),
        )
    return get(ledger, job_id)


def exists(ledger: Ledger, job_id: str) -> bool:
    """Whether a job of that id was ever queued."""
    return bool(ledger.rows("SELECT 1 FROM job WHERE id = ?", job_id))


def get(ledger: Ledger, job_id: str) -> Job:
    """One job. Raises LedgerError when there is none of that id."""
    found = ledger.rows(f"SELECT {_COLUMNS} FROM job WHERE id = ?", job_id)
    if not found:
        raise LedgerError(f"the ledger has no job {job_id!r}.")
    return _job(ledger, found[0])


def unfinished(ledger: Ledger) -> tuple[Job, ...]:
    """Jobs that a process may pick up, oldest first."""
    found = ledger.rows(
        f"SELECT {_COLUMNS} FROM job WHERE step NOT IN ('done', 'failed') ORDER BY made_at"
    )
    return tuple(_job(ledger, row) for row in found)


def intend(ledger: Ledger, budgets: Budgets, job: Job, intent: Intent, decision: str) -> Job:
    """Reserve what the intent may cost, write it, and move the job: all in one transaction, or none.

    Raises OverBudget when a limit has no room, OfferTaken when another lease has the offer, and SessionsFull
    when there are as many as may be at once; the alert of it is written even so.
    """
    refused: AccelError | None = None
    with ledger.transaction() as db:
        try:
            budgets.rent(intent)
        except (OverBudget, NoCapacity) as bad:
            refused = bad
        else:
            _move(db, ledger, job, JobStep.INTENDED, intent_id=intent.id, decision=decision)
    if refused:
        raise refused
    return get(ledger, job.id)


def advance(ledger: Ledger, job: Job, to: JobStep, *, error: str = "") -> Job:
    """Move a job one step, if nobody else moved it meanwhile. Raises LedgerError otherwise.

    Back to ``queued`` means that an offer failed: ``tries`` grows by one.
    """
    with ledger.transaction() as db:
        _move(db, ledger, job, to, error=error)
    return get(ledger, job.id)


@contextlib.contextmanager
def worked_on_here(job: Job) -> Iterator[bool]:
    """Whether the job is this process's own as long as the block lasts: one process works on a job at a time.

    A lock on a file in its folder, which the operating system drops with its process, however that ends.
    """
    lock = FileLock(job.folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _move(
    db: sqlite3.Connection, ledger: Ledger, job: Job, to: JobStep, *, intent_id: str = "",
    decision: str = "", error: str = "",
) -> None:  # fmt: skip
    if to not in NEXT[job.step]:
        raise LedgerError(f"job {job.id} cannot go from {job.step} to {to}.")
    moved = db.execute(
        "UPDATE job SET step = ?, tries = ?, decision = ?, intent_id = ?, error = ?, at = ? "
        "WHERE id = ? AND step = ? AND tries = ?",
        (to.value, job.tries + (to is JobStep.QUEUED), decision or job.decision,
         intent_id or job.intent_id, error or job.error, ledger.at(),
         job.id, job.step.value, job.tries),
    ).rowcount  # fmt: skip
    if not moved:
        raise LedgerError(f"job {job.id} was moved by another process.")


def _job(ledger: Ledger, row: tuple[str, str, str, str, int, str, str, str]) -> Job:
    id_, task, folder, step, tries, decision, intent_id, error = row
    return Job(
        id_, ledger.load(Task, task), Path(folder), JobStep(step), tries, decision, intent_id, error
    )
