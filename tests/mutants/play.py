"""Plays mutants. Guarantee: each is broken in a copy; what notices it does not notice the code as it is.

``make mutants`` plays all, two at a time, and writes ``docs/promises.md``. ``python -m mutants NAME …`` (with
``tests`` on the path) plays some and writes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutants.table import MUTANTS, SAME, Mutant

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 20
LIMIT_S = 900.0
SEARCH = """
import json, sys
from accel.simulation import simulate
invariant, first, seeds, requests = map(int, sys.argv[1:5])
twice = sys.argv[5] == "twice"
for seed in range(first, first + seeds):
    found = simulate(seed, requests)
    told = [v for v in found.violations if v.startswith(f"invariant {invariant} ")]
    if twice and simulate(seed, requests).trace_hash != found.trace_hash:
        told = ["another trace for the same seed"]
    if told or invariant in found.broken:
        print(json.dumps({"seed": seed, "words": (told or ["(beyond those told)"])[0]}))
        break
"""


@dataclass(frozen=True, slots=True)
class Killed:
    """How a mutant died; seed is None where a test noticed."""

    seed: int | None
    words: str


def play(mutant: Mutant) -> Killed | None:
    """Break the code, look whether the check notices. None: the mutant survived."""
    with tempfile.TemporaryDirectory(prefix="accel-mutant-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "accel", copy / "accel", ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.name}: its old text is not once in {mutant.file}")
        path.write_text(text.replace(mutant.old, mutant.new))
        # -P: neither the folder we are in nor that of a script comes before the copy
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        return _searched(mutant, environment) if mutant.invariant else _tested(mutant, environment)


def _searched(mutant: Mutant, environment: dict[str, str]) -> Killed | None:
    """Simulate seed after seed until the invariant breaks; the same seed holds it in the code as it is."""
    killed = _search(mutant, environment, 0, SEEDS)
    if killed is None or killed.seed is None:
        return None
    if wrong := _search(mutant, environment | {"PYTHONPATH": str(ROOT)}, killed.seed, 1):
        raise RuntimeError(f"{mutant.name}: the code as it is breaks it too: {wrong.words}")
    return killed


def _search(mutant: Mutant, environment: dict[str, str], first: int, seeds: int) -> Killed | None:
    argv = [str(n) for n in (mutant.invariant, first, seeds, mutant.requests)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", SEARCH, *argv, "twice" if mutant.test == SAME else ""],
        env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{mutant.name} crashed the simulation: {done.stderr.strip()[-2000:]}")
    if not done.stdout.strip():
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return Killed(found["seed"], found["words"])


def _tested(mutant: Mutant, environment: dict[str, str]) -> Killed | None:
    """Run its test, which must fail (and pass without the mutant, as ``make test`` shows)."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test],
        env=environment, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    if done.returncode != 1 or "1 failed" not in done.stdout:
        raise RuntimeError(f"{mutant.name}: its test did not run: {done.stdout[-2000:]}{done.stderr[-500:]}")
    return Killed(None, "its test fails")


def play_all(mutants: tuple[Mutant, ...] = MUTANTS) -> dict[str, Killed | None]:
    """All of them, two at a time; a line on stderr as each dies, or does not."""

    def one(mutant: Mutant) -> tuple[str, Killed | None]:
        try:
            killed = play(mutant)
        except (RuntimeError, ValueError, subprocess.TimeoutExpired) as wrong:  # told, and not counted
            sys.stderr.write(f"{mutant.name}: {wrong}\n")
            return mutant.name, None
        how = "SURVIVED" if killed is None else f"killed{_at(killed)}: {killed.words}"
        sys.stderr.write(f"{mutant.name}: {how}\n")
        return mutant.name, killed

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(one, mutants))


def _at(killed: Killed) -> str:
    return "" if killed.seed is None else f" at seed {killed.seed}"
