"""``accel push``. Guarantee: what was submitted is carried to its end, now or by the next call.

With ``--sandbox`` loopback clouds are started for the time of the command, see ``clouds``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from accel import contract, environment, keys
from accel.cli import clouds, terminal
from accel.core.errors import AccelError, UsageError
from accel.core.money import dollars
from accel.core.offer import Realm
from accel.core.row import Row
from accel.fleet.jobs import Event, Finished
from accel.fleet.leases import Patience
from accel.ledger import JobStep
from accel.precompute import is_shard
from accel.session import Session, open_session

# A loopback cloud answers at once or not at all; a real one may be away for a minute.
SANDBOX_PATIENCE = Patience(poll_s=0.3, unreachable_s=5.0, lifetime_s=600.0)


@contextlib.contextmanager
def open_pushing(
    asked: tuple[str, ...] = (), *, sandbox: bool, urls: Sequence[str] = (), home: Path | None = None,
    adopt: bool = True, attended: bool = False, prefer: bool = True, patience: Patience | None = None,
) -> Iterator[Session]:  # fmt: skip
    """A session for batch jobs: on the real providers, or on loopback clouds started for the purpose.

    urls: sandboxes that run already, see ``clouds.at``. Of the others those that are asked for are started,
    or all when nobody is. adopt: see ``open_accelerator``. attended: see ``confirming``. prefer: those asked
    for come first.
    """
    root, confirm = home or environment.workdir(), confirming(attended, sandbox=sandbox or bool(urls))
    if not sandbox and not urls:
        for name in asked:
            if name in keys.READERS and keys.READERS[name]() is None:
                raise UsageError(
                    f"there is no key for {name}.",
                    hint=f"Set {keys.VARIABLES[name]}, or rehearse with --sandbox.",
                )
        with open_session(
            asked=asked if prefer else (), home=root, adopt=adopt, patience=patience or Patience(),
            confirm=confirm,
        ) as session:  # fmt: skip
            yield session
        return
    wanted = () if urls else clouds.asked(asked)
    with (
        clouds.running(wanted, root) as access,
        open_session(
            Realm.SANDBOX, asked=asked if prefer else (), home=root, access=access | clouds.at(urls),
            patience=patience or SANDBOX_PATIENCE, adopt=adopt, confirm=confirm,
        ) as session,  # fmt: skip
    ):
        yield session


def confirming(attended: bool, *, sandbox: bool) -> Callable[[str], bool] | None:
    """Who answers when a provider must be attended (Colab's free tier), or None where nobody is there.

    attended: the person said beforehand that they are. Else they are asked on the terminal. In a sandbox,
    where nobody's terms are at stake, a missing terminal counts as a yes, and that is said.
    """
    if not attended and sys.stdin.isatty() and sys.stderr.isatty():
        return lambda question: typer.confirm(question, err=True)
    if not (attended or sandbox):
        return None

    def say_yes(question: str) -> bool:
        why = "--attended" if attended else "a rehearsal; the real one needs a terminal or --attended"
        terminal.say(f"{question} yes ({why})")
        return True

    return say_yes


def push_benchmark(
    to: str, *, sandbox: bool, passages: int, repetitions: int, urls: Sequence[str] = (),
    as_json: bool = False, attended: bool = False,
) -> None:  # fmt: skip
    """Push the embedding benchmark, wait for it, record its rows, and show them."""
    targets = ("auto", "local", *clouds.CLOUDS)
    if to not in targets:
        raise UsageError(f"there is no provider {to!r}.", hint=f"There are: {', '.join(targets)}.")
    with open_pushing(
        () if to == "auto" else (to,), sandbox=sandbox, urls=urls, attended=attended
    ) as session:
        finished, rows = run_benchmark(session, to, passages=passages, repetitions=repetitions)
        _show(session, finished, rows, as_json)


def run_benchmark(
    session: Session, to: str, *, passages: int, repetitions: int, batches: Sequence[int] = (1, 8, 32),
    fallback: bool = True,
) -> tuple[Finished, list[Row]]:
    """Submit the embedding benchmark and carry it to its end; its rows go to the ledger.

    fallback: this machine is the last resort.
    """
    from accel.experiments.embed_benchmark import benchmark_texts, prepare, rows_of
    from accel.stages.embed import default_spec

    only = () if to == "auto" else (to, "local") if fallback else (to,)
    task, bundle = prepare(
        benchmark_texts(passages), default_spec(), batch_sizes=batches, repetitions=repetitions, only=only,
        runtime=session.accelerator.runtime,
    )  # fmt: skip
    finished = session.push(task, bundle, on_event=_tell)
    rows = rows_of(finished, session.accelerator.realm)
    session.accelerator.ledger.record_rows(rows, finished.job.id)
    return finished, rows


def resume_jobs(
    *, sandbox: bool, urls: Sequence[str] = (), as_json: bool = False, attended: bool = False
) -> None:
    """Carry on every job that is not at its end. Exit code 1 when one of them fails."""
    from accel.experiments.embed_benchmark import rows_of

    with open_pushing(sandbox=sandbox, urls=urls, attended=attended) as session:
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
            if is_shard(job.id):  # `accel precompute` will find it done; it measures nothing
                done.append(summary(session, finished, []))
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
