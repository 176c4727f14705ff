"""Policies on real traces: the command. Guarantee: a seed that was played is kept; what is shown is whole.

    python -m accel.experiments.policies --traces DIR --seeds 20 --out DIR

plays every contestant (``policies_contestants``) on every seed's episode (``policies_world``), in two
processes, and writes ``outcomes.jsonl`` (one line for each seed and contestant, as they end),
``rows.simulated.jsonl``, ``report.md`` and ``policies.png``. Called again after an interruption it goes on
where it stopped, if the commit is the same and clean, and the episodes are drawn in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from accel import environment
from accel.core.errors import AccelError, UsageError
from accel.core.task import content_hash
from accel.experiments import policies_compare as compare
from accel.experiments import rows as row_files
from accel.experiments.policies_contestants import CONTESTANTS, Outcome
from accel.experiments.policies_plot import plot_policies
from accel.experiments.policies_world import PLACES, Draw, draw
from accel.experiments.traces import Collection

OUTCOMES, REPORT, PICTURE = "outcomes.jsonl", "report.md", "policies.png"
PROCESSES = 2


def play(traces: Path, how: Draw, seed: int, contestant: str) -> Outcome:
    """One contestant on one seed. Raises UsageError for traces that cannot be read."""
    return CONTESTANTS[contestant](draw(seed, Collection.read(traces), how))


def run(
    traces: Path, out: Path, seeds: Sequence[int], how: Draw, processes: int = PROCESSES
) -> list[Outcome]:
    """Play what ``out`` does not hold yet; every outcome of ``seeds``, in order.

    Raises UsageError for traces that cannot be read or are too short, AccelError when a process is killed.
    """
    Collection.read(traces)  # a folder that is none is told before anything is started
    out.mkdir(parents=True, exist_ok=True)
    mark, kept = _mark(how), {}
    for outcome, made in _read(out / OUTCOMES):
        if made == mark:
            kept[outcome.seed, outcome.contestant] = outcome
    wanted = [(s, c) for s in seeds for c in CONTESTANTS]
    missing = [w for w in wanted if w not in kept]
    if kept:
        _tell(f"{len(wanted) - len(missing)} of {len(wanted)} were played before and are kept")
    with (
        (out / OUTCOMES).open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
    ):
        running = {pool.submit(play, traces, how, s, c): (s, c) for s, c in missing}
        try:
            for done, future in enumerate(as_completed(running), 1):
                outcome = future.result()
                kept[running[future]] = outcome
                file.write(json.dumps({"mark": mark, **asdict(outcome)}) + "\n")
                file.flush()
                _tell(f"[{done}/{len(missing)}] seed {outcome.seed} {outcome.contestant}")
        except BrokenProcessPool:
            raise AccelError(
                "a process that played was ended from outside.",
                hint="What was played is kept; the same command goes on.",
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [kept[w] for w in wanted]


def write(out: Path, outcomes: Sequence[Outcome], how: Draw, now: datetime) -> tuple[Path, ...]:
    """Rows, report and picture of ``outcomes`` in ``out``. now: UTC."""
    env = environment.provenance(now)
    cell: dict[str, str | int | float | bool] = {k: _scalar(v) for k, v in asdict(how).items()}
    row_path, report = out / "rows.simulated.jsonl", out / REPORT
    row_files.write(row_path, compare.rows(outcomes, env, cell))
    picture = plot_policies(outcomes, env, assumptions(how), out / PICTURE)
    seeds = sorted({o.seed for o in outcomes})
    text = [
        "# Routing policies on real arrivals and real spot markets", "",
        f"**Realm simulated: nothing ran.** {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), "
        f"{how.requests:,} requests each; every policy met the same episodes. {assumptions(how)} "
        f"Commit {env.commit}, {env.measured_at:%Y-%m-%d %H:%M} UTC, python {env.python}.", "",
        f"![Deadlines met over money, one mark a policy]({PICTURE})", "",
        compare.markdown(outcomes), "",
        "Intervals: 95 %, percentile bootstrap over seeds. *: the interval of the paired difference holds no "
        "0. Dominated: accel is clearly (*) better in none of the three, and the "
        "rival clearly better in at least one.", "",
    ]  # fmt: skip
    report.write_text("\n".join(text), encoding="utf-8")
    return report, row_path, picture


def assumptions(how: Draw) -> str:
    """The drawn world in a few sentences."""
    prices = ", ".join(f"{p.name} ${p.dollars_per_hour}/h" for p in PLACES)
    return (
        f"Places: {prices}; free quota: a week's 30 h spread evenly. Deadlines: {how.tight_share:.0%} of "
        f"requests {how.tight[0]:g}–{how.tight[1]:g} s, {how.loose_share:.0%} {how.loose[0]:g}–"
        f"{how.loose[1]:g} s, the rest none. {how.reranks:.0%} rerank ten times their context, the rest "
        f"embed it. The spot market runs {how.spot_speed:g} times as fast as the requests."
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m accel.experiments.policies", description=about)
    parser.add_argument("--traces", type=Path, required=True, help="folder of azure-llm-2023 and spot-traces")
    parser.add_argument("--seeds", type=int, default=20, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--requests", type=int, default=Draw().requests, help="in a row, for each seed")
    parser.add_argument("--spot-speed", type=float, default=Draw().spot_speed)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true", help="outcomes and verdicts as JSON")
    given = parser.parse_args(words)
    try:
        if min(given.seeds, given.requests, given.processes) < 1 or not given.spot_speed > 0:
            raise UsageError("--seeds, --requests, --processes and --spot-speed must be above 0.")
        how = replace(Draw(), requests=given.requests, spot_speed=given.spot_speed)
        seeds = range(given.first, given.first + given.seeds)
        outcomes = run(given.traces, given.out, seeds, how, given.processes)
        written = write(given.out, outcomes, how, datetime.now(UTC))
    except AccelError as failure:
        _tell(f"accel: {failure}")
        return failure.exit_code
    except KeyboardInterrupt:
        _tell("interrupted: what was played is kept; the same command goes on")
        return 130
    print(_json(outcomes) if given.json else compare.table(outcomes))  # noqa: T201 - a command
    _tell(f"written: {', '.join(str(p) for p in written)}")
    return 0


def _json(outcomes: Sequence[Outcome]) -> str:
    told = [
        {"rival": v.rival, "money": v.money.name, "dominated": v.dominated, "dominates": v.dominates,
         "differences": {m.name: asdict(d) for m, d in v.differences}}
        for v in compare.verdicts(outcomes)
    ]  # fmt: skip
    return json.dumps({"realm": "simulated", "outcomes": [asdict(o) for o in outcomes], "verdicts": told})


def _mark(how: Draw) -> str:
    """What an outcome depends on besides its seed; a checkout with changes never has the same twice."""
    commit = environment.commit()
    fresh = datetime.now(UTC).isoformat() if "dirty" in commit else ""
    return content_hash(commit.encode(), repr(how).encode(), repr(PLACES).encode(), fresh.encode())[:16]


def _read(path: Path) -> Iterable[tuple[Outcome, str]]:
    """Outcomes and their marks; lines that are none (a crash cut them off) are passed over."""
    names = {f.name for f in fields(Outcome)}
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, TypeError):
            raw = json.loads(line)
            mark = raw.pop("mark", "")
            if set(raw) == names:
                yield Outcome(**raw), mark


def _scalar(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    raise SystemExit(main())
