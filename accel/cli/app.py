"""The command line. Guarantee: bad input gives one line and a non-zero exit, never a traceback.

Exit codes: 0 done; 1 it could not be done; 2 mend what you typed or set; 3 a target is missed (monitor);
130 interrupted (what was finished is kept: the same command goes on from there). With ``--json`` stdout
holds one JSON object.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from accel import __version__
from accel.cli import prepared, rented
from accel.cli.options import Corpus, Full, Json, Provider, Sandbox
from accel.core.errors import AccelError, EveryAttemptFailed, QueryError, UsageError
from accel.core.offer import Realm

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What would a GPU buy my retrieval workload, on which provider, at what price - "
    "and run it there.\n\n"
    "Everything works without an account on this machine. Start with: accel demo",
    epilog="Settings: environment variables and a TOML file; `accel doctor` names them and checks each.",
)

@app.command(short_help="the main job, end to end: index, ask, push, measure")
def demo(full: Full = False, provider: Provider = None) -> None:
    """The main job, end to end: index, questions, a pushed job, a measured table. No account, no GPU."""
    from accel.cli.demo import run_demo

    run_demo(full=full, asked=tuple(provider or ()))


@app.command(short_help="answer a question with citations; where each stage ran")
def query(
    text: Annotated[str, typer.Argument(help='The question; "-" reads it from standard input.')],
    corpus: Corpus = None, provider: Provider = None, full: Full = False, json: Json = False,
    sandbox: Sandbox = False,
    within: Annotated[float | None, typer.Option(help="Deadline for the answer, seconds.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute everything again.")] = False,
) -> None:  # fmt: skip
    """Answer a question with citations, and say where each stage ran, why, how long and at what cost."""
    from accel import contract, environment
    from accel.cli import clouds, terminal
    from accel.hybrid_gpu_processor import check_question
    from accel.session import Hooks, open_query_session

    question = check_question(_standard_input() if text == "-" else text)
    if within is not None and not within > 0:
        raise UsageError(f"--within must be a positive number of seconds, not {within}.")
    with contextlib.ExitStack() as stack:
        hooks = Hooks(
            stack.enter_context(terminal.progress("reading")),
            stack.enter_context(terminal.progress("embedding")),
            terminal.say,
        )
        access = None
        if sandbox:
            access = stack.enter_context(clouds.running(clouds.asked(provider or ()), environment.workdir()))
        realm = Realm.SANDBOX if sandbox else Realm.REAL
        with open_query_session(
            corpus, full=full, realm=realm, asked=provider or (), hooks=hooks, use_cache=not no_cache,
            access=access,
        ) as session:  # fmt: skip
            answer = session.query(question, within_s=within)
    if json:
        terminal.print_json(contract.answer_json(answer))
    else:
        terminal.show_answer(answer)


@app.command(short_help="run a batch job on a provider, bring its result home")
def push(
    job: Annotated[str, typer.Argument(help="What to run: embed_benchmark.")] = "embed_benchmark",
    to: Annotated[str, typer.Option("--to", "--provider", help="kaggle, local, or auto.")] = "auto",
    sandbox: Sandbox = False, json: Json = False,
    sandbox_url: Annotated[
        list[str] | None,
        typer.Option(help="A sandbox that runs already, as NAME=URL (accel sandbox NAME); uses your keys."),
    ] = None,
    passages: Annotated[int, typer.Option(min=1, max=2000, help="Texts to embed.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, max=1000)] = 5,
    resume: Annotated[bool, typer.Option("--resume", help="Carry on what was left unfinished.")] = False,
    attended: Annotated[
        bool, typer.Option("--attended", help="I stay with it: what Colab's free tier asks, without asking.")
    ] = False,
) -> None:  # fmt: skip
    """Run a batch job on a provider, and bring its verified result home. `local` is the last resort."""
    from accel.cli.pushing import push_benchmark, resume_jobs

    if job != "embed_benchmark":
        raise UsageError(f"there is no job {job!r}.", hint="There is: embed_benchmark.")
    if resume:
        resume_jobs(sandbox=sandbox, urls=sandbox_url or (), as_json=json, attended=attended)
    else:
        push_benchmark(
            to, sandbox=sandbox, urls=sandbox_url or (), passages=passages, repetitions=repetitions,
            as_json=json, attended=attended,
        )  # fmt: skip


app.command("precompute", short_help="embed a corpus in the batch lane, bring its index home")(
    prepared.precompute
)
app.command("setup", short_help="account, key, terms, a smallest test of a provider")(prepared.setup)


app.command("offers", short_help="what each provider would give now, and at what price")(prepared.offers)
app.command("doctor", short_help="check all and how to mend it; --diagnose finds troubles")(prepared.doctor)


@app.command("accept-terms", short_help="accept a term that a provider asks about, on record")
def accept_terms(
    term: Annotated[str, typer.Argument(help='As refusals name it, like "kaggle/private data".')],
) -> None:
    """Accept a term that a provider's use asks about; shown and kept with its clause, URL and dates."""
    from datetime import UTC, datetime

    from accel import environment
    from accel.cli import terminal
    from accel.providers.accepted import accept

    accepted = accept(term, environment.workdir(), datetime.now(UTC))
    where = f"{accepted.url}, read {accepted.read_on:%Y-%m-%d}"
    second = " Quoted second-hand: read it there first." if accepted.second_hand else ""
    terminal.say(f"accepted {accepted.key}: {accepted.clause} ({where}){second}")


@app.command(short_help="why it went where it went; --replay ranks it again")
def explain(
    ident: Annotated[
        str | None, typer.Argument(help="A query's, task's or job's id; default: the last.")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Rank again; fail unless it is the same.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Look in the sandbox ledger.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Why it went where it went: every offer considered, its score, and why each lost."""
    from accel.cli.inspecting import show_explanation

    show_explanation(ident, replay=replay, realm=Realm.SANDBOX if sandbox else Realm.REAL, as_json=json)


@app.command(short_help="speed, success, cost, targets; --alert tells of them")
def monitor(
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h, 7d, 4w.")] = "24h",
    realm: Annotated[str, typer.Option(help="real or sandbox.")] = "real",
    json: Json = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Prometheus' text format.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write that to a file, whole or not at all (name it ….prom).")
    ] = None,
    alert: Annotated[
        bool, typer.Option("--alert", help="Write alerts for missed targets, deliver what waits (for cron).")
    ] = False,
) -> None:  # fmt: skip
    """What happened, counted: percentiles, success, cache, providers, failures, money against its limits,
    GPU use, targets. Exit code 3 when a target is missed, 0 when all are met or lack data.
    """
    from accel.cli.monitoring import show_monitor

    show_monitor(since, realm, as_json=json, as_prometheus=prometheus, out=out, alert=alert)


app.command("leases", short_help="what is rented now, and what may still run")(rented.leases)
app.command("cost", short_help="spent, held, billed against estimated; per lease")(rented.cost)
app.command("reap", short_help="end what nobody works with; a dry run without --yes")(rented.reap)


@app.command(short_help="quality on a test collection, errors on a question set")
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(help="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/), or a question set of "
                       "ours: held_out, calibration or demo."),
    ],
    json: Json = False,
) -> None:  # fmt: skip
    """nDCG@10 of every stage on a test collection; or, on a question set, how often "nothing was found"
    is wrong, either way.
    """
    from accel.cli.inspecting import show_answerability, show_evaluation
    from accel.experiments.answerable import SETS

    if str(folder) in SETS and not folder.exists():
        show_answerability(str(folder), as_json=json)
    else:
        show_evaluation(folder, as_json=json)


@app.command(short_help="the production router in a virtual world that fails")
def simulate(
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Requests of one seed.")] = 1000,
    seeds: Annotated[
        int, typer.Option(min=1, max=100_000, help="A campaign: so many seeds, from --seed on.")
    ] = 1,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="Seeds at a time; default: one per core.")
    ] = None,
    json: Json = False,
) -> None:
    """The production router in a virtual world of seventeen kinds of faults, judged by twelve invariants.

    Prints a hash of everything it did; exit code 1 when an invariant was broken.
    """
    from accel.cli import simulating

    if seeds == 1:
        simulating.show_simulation(seed, requests, as_json=json)
    else:
        simulating.show_campaign(seed, seeds, requests, processes, as_json=json)


@app.command(short_help="run a loopback cloud in the foreground")
def sandbox(
    cloud: Annotated[str, typer.Argument(help="Which cloud: kaggle.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Run a loopback cloud in the foreground; prints one JSON line with its URL and how to reach it."""
    from accel.cli import clouds
    from accel.sandbox.serving import serve_foreground

    serve_foreground(clouds.make(cloud, port=port))


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"accel {__version__}\n")
        raise typer.Exit


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read(1 << 24).decode("utf-8")
    except UnicodeDecodeError:
        raise QueryError("standard input is not UTF-8 text: it looks like a binary file.") from None


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Every failure as one line on stderr and an exit code."""
    try:
        yield
    except EveryAttemptFailed as failure:
        _fail(str(failure), failure.exit_code)
    except AccelError as failure:
        _fail(str(failure), failure.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; what was finished is kept, the same command goes on from there.", 130)
    except BrokenPipeError:
        # the reader of our pipe left; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as failure:
        _fail(f"the operating system refused: {failure}.", 1)


def _fail(line: str, code: int) -> None:
    sys.stderr.write(f"accel: {line}\n")
    raise SystemExit(code)


def main() -> None:
    """Entry point of the ``accel`` command."""
    # Read by libraries when they are first imported, which happens in the commands below. A demo with
    # the network cut must not wait for a hub, nor must a page report itself anywhere.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _one_line_errors():
        try:
            code = app(prog_name="accel", standalone_mode=False)
        except typer.Abort:  # Ctrl-C, or no more input, at a question
            raise KeyboardInterrupt from None
        except Exception as wrong:
            # typer carries its own copy of click, whose usage errors have this method
            told = getattr(wrong, "format_message", None)
            if told is None:
                raise
            _fail(f"{told()} See: accel --help", 2)
        if code == 130:  # how typer reports Ctrl-C outside standalone mode
            raise KeyboardInterrupt
        raise SystemExit(code if isinstance(code, int) else 0)
