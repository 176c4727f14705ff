"""``accel push``. Guarantee: what was submitted is carried to its end, now or by the next call.

With ``--sandbox`` a Kaggle on loopback is started for the time of the command. Its state lies in a folder
of its own, so that a job which an interrupt left there is found again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accel import contract, environment
from accel.cli import terminal
from accel.core.errors import AccelError, UsageError
from accel.core.money import dollars
from accel.core.offer import Realm
from accel.core.row import Row
from accel.fleet.jobs import Event, Finished
from accel.fleet.leases import Patience
from accel.keys import KaggleKey, kaggle_key
from accel.ledger import JobStep
from accel.session import Session, open_session

TARGETS = ("auto", "local", "kaggle")
# A loopback cloud answers at once or not at all; a real one may be away for a minute.
SANDBOX_PATIENCE = Patience(poll_s=0.3, unreachable_s=5.0, lifetime_s=600.0)


@contextlib.contextmanager
def open_pushing(
    asked: tuple[str, ...] = (), *, sandbox: bool, url: str = "", home: Path | None = None
) -> Iterator[Session]:
    """A session for batch jobs: on the real providers, or on a loopback cloud started for the purpose.

    url: a sandbox that runs already, reached with the person's own KAGGLE_* variables.
    """
    root = home or environment.workdir()
    if url:
        with open_session(
            Realm.SANDBOX, asked=asked, home=root, kaggle=kaggle_key(), kaggle_endpoint=url,
            patience=SANDBOX_PATIENCE,
        ) as session:  # fmt: skip
            yield session
        return
    if not sandbox:
        if "kaggle" in asked and kaggle_key() is None:
            raise UsageError(
                "there is no key for Kaggle.",
                hint="Set KAGGLE_API_TOKEN (kaggle.com, Settings, API), or rehearse with --sandbox.",
            )
        with open_session(asked=asked, home=root) as session:
            yield session
        return
    from accel.sandbox.server import KaggleSandbox

    with KaggleSandbox(root / "sandbox" / "clouds" / "kaggle") as cloud:
        key = KaggleKey.model_validate({"username": cloud.username, "key": cloud.key})
        with open_session(
            Realm.SANDBOX, asked=asked, home=root, kaggle=key, kaggle_endpoint=cloud.url,
            patience=SANDBOX_PATIENCE,
        ) as session:  # fmt: skip
            yield session


def push_benchmark(
    to: str, *, sandbox: bool, passages: int, repetitions: int, url: str = "", as_json: bool = False
) -> None:
    """Push the embedding benchmark, wait for it, record its rows, and show them."""
    if to not in TARGETS:
        raise UsageError(f"there is no provider {to!r}.", hint=f"There are: {', '.join(TARGETS)}.")
    with open_pushing(() if to == "auto" else (to,), sandbox=sandbox, url=url) as session:
        finished, rows = run_benchmark(session, to, passages=passages, repetitions=repetitions)
        _show(session, finished, rows, as_json)


def run_benchmark(
    session: Session, to: str, *, passages: int, repetitions: int
) -> tuple[Finished, list[Row]]:
    """Submit the embedding benchmark and carry it to its end; its rows go to the ledger."""
    from accel.experiments.embed_benchmark import benchmark_texts, prepare, rows_of
    from accel.stages.embed import default_spec

    task, bundle = prepare(
        benchmark_texts(passages), default_spec(), batch_sizes=(1, 8, 32), repetitions=repetitions,
        only=() if to == "auto" else (to, "local"), runtime=session.accelerator.runtime,
    )  # fmt: skip
    finished = session.push(task, bundle, on_event=_tell)
    rows = rows_of(finished, session.accelerator.realm)
    session.accelerator.ledger.record_rows(rows, finished.job.id)
    return finished, rows


def resume_jobs(*, sandbox: bool, url: str = "", as_json: bool = False) -> None:
    """Carry on every job that is not at its end. Exit code 1 when one of them fails."""
    from accel.experiments.embed_benchmark import rows_of

    with open_pushing(sandbox=sandbox, url=url) as session:
        waiting = session.accelerator.unfinished()
        if not waiting and not as_json:
            terminal.say("nothing was left unfinished.")
        done, failed = [], []
        for job in waiting:
            try:
                finished = session.resume(job.id, on_event=_tell)
            except AccelError as failure:
                failed.append({"job": job.id, "error": str(failure)})
                continue
            rows = rows_of(finished, session.accelerator.realm)
            session.accelerator.ledger.record_rows(rows, job.id)
            done.append(summary(session, finished, rows))
            if not as_json:
                _show(session, finished, rows, as_json=False)
        if as_json:
            terminal.print_json({"done": done, "failed": failed})
        if failed:
            raise AccelError("; ".join(f"job {f['job']}: {f['error']}" for f in failed))


def summary(session: Session, finished: Finished, rows: list[Row]) -> dict[str, Any]:
    """The stable contract of ``accel push --json``."""
    return {
        "job": finished.job.id, "realm": session.accelerator.realm.value,
        "step": finished.job.step.value,
        "attempts": [
            {"provider": a.provider, "outcome": a.outcome.value, "error": a.error, "detail": a.detail,
             "timing": contract.timing_json(a.timing), "cost_nano_usd": a.cost.amount,
             "cost_basis": a.cost.basis.value}
            for a in finished.attempts
        ],
        "rows": [
            {"cell": dict(r.cell), "metric": r.metric, "unit": r.unit, "median": r.median, "n": r.n,
             "warm": r.warm, "realm": r.realm.value, "device": r.env.device,
             "measured_at": r.env.measured_at.isoformat()}
            for r in rows
        ],
        "held": session.accelerator.ledger.held(),
    }  # fmt: skip


def _show(session: Session, finished: Finished, rows: list[Row], as_json: bool) -> None:
    if as_json:
        terminal.print_json(summary(session, finished, rows))
        return
    from accel.experiments.tables import table

    out = terminal.console()
    out.print(f"job {finished.job.id}: {finished.job.step} · realm {session.accelerator.realm}")
    for a in finished.attempts:
        t = a.timing
        out.print(
            f"  {a.provider}: {a.outcome}{' · ' + a.detail if a.detail else ''} · wait "
            f"{terminal.ms(t.wait_s)}, cold {terminal.ms(t.cold_s)}, transfer "
            f"{terminal.ms(t.transfer_s)}, compute {terminal.ms(t.compute_s)} · {dollars(a.cost.amount)}"
        )
    out.print(table(rows))


_STEPS = {
    JobStep.QUEUED: "choosing a provider", JobStep.INTENDED: "intent and reservation written",
    JobStep.LEASED: "pushed", JobStep.RUNNING: "started", JobStep.FINISHED: "ended",
    JobStep.FETCHED: "result fetched and verified", JobStep.DONE: "settled",
    JobStep.FAILED: "no provider is left",
}  # fmt: skip


def _tell(event: Event) -> None:
    where = f" on {event.provider}" if event.provider else ""
    told = _STEPS[JobStep(event.step)] if event.step != JobStep.RUNNING or not event.message else ""
    line = " · ".join(part for part in (told, event.message) if part)
    terminal.say(f"job {event.job_id}{where}: {line}")
