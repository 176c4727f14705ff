"""An outage, beside litellm's Router. Guarantee: all contestants meet the same outage at the same time.

Rebuilds failoverbench's S15 (litellm issue 40405): twenty requests, one every 4 s; the preferred server is
dead for the first 60 s of them, and one fallback is well throughout. Each contestant is a process of its own
with two loopback servers of its own; all of them run at once, in real time, on one schedule.

    python -m accel.experiments.outage --litellm --mode all --out results/mine

Real HTTP on loopback, so everything here is of realm ``sandbox``: it tells what routers do, and nothing about
any provider's speed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

import accel
from accel.core.errors import AccelError, UsageError
from accel.experiments import outage_report
from accel.experiments.outage_contestant import MARK, Asked, Plan
from accel.experiments.outage_litellm import LITELLM, SETUPS
from accel.experiments.outage_ours import OURS
from accel.experiments.outage_servers import Endpoint, Mode, Seen

PRIMARY_S, FALLBACK_S = 0.05, 0.25
DEAD = (Mode.REFUSED, Mode.HANG, Mode.ERRORS)
OWN_CALLS = 10  # that tell the fallback's own latency
READY_S = 90.0
_ROOT = str(Path(accel.__file__).resolve().parent.parent)
MAX_ATTEMPTS, MAX_RATIO = 4, 1.2  # what we promise of ourselves


@dataclass(frozen=True, slots=True)
class Bout:
    """What one contestant did in one outage.

    died, revived: monotonic seconds of the primary's end and return. attempts: requests that reached the
    dead primary, and connections that it refused. primary: what the primary saw. own_s: seconds of direct
    calls to the fallback, in the same run. load: the system's load average, the higher of both instants.
    """

    contestant: str
    mode: Mode
    plan: Plan
    versions: Mapping[str, str]
    asked: tuple[Asked, ...]
    died: float
    revived: float
    attempts: int
    primary: tuple[Seen, ...]
    own_s: tuple[float, ...]
    load: float

    @property
    def met(self) -> tuple[Asked, ...]:
        """The requests that were sent while the primary was dead."""
        return tuple(a for a in self.asked if self.died <= a.began < self.revived)

    @property
    def waits_s(self) -> tuple[float, ...]:
        """How long each of them took; one without an answer counts as its caller's whole patience."""
        return self._waits_s(self.met)

    @property
    def after_s(self) -> tuple[float, ...]:
        """The same of the requests that were sent when the primary was well again."""
        return self._waits_s([a for a in self.asked if a.began >= self.revived])

    def _waits_s(self, asked: Sequence[Asked]) -> tuple[float, ...]:
        return tuple(self.plan.patience_s if a.error else a.ended - a.began for a in asked)

    @property
    def answered(self) -> int:
        return sum(not a.error for a in self.met)

    @property
    def ratio(self) -> float:
        """Median wait in units of the fallback's own median."""
        return statistics.median(self.waits_s) / statistics.median(self.own_s)

    @property
    def back_s(self) -> float | None:
        """Seconds from the primary's return to the first request that it answered; None without one."""
        answered = (s.at for s in self.primary if s.at >= self.revived and s.status == 200)
        return next((at - self.revived for at in answered), None)

    @property
    def holds(self) -> bool:
        """Whether it did what we promise of ourselves: every request answered among it."""
        everything = self.answered == len(self.met)
        return everything and self.attempts <= MAX_ATTEMPTS and self.ratio <= MAX_RATIO


def commands(litellm: Path | None) -> dict[str, list[str]]:
    """Contestant → the command line that runs it. litellm: the interpreter of its environment."""
    found = {OURS: [sys.executable, "-m", "accel.experiments.outage_ours"]}
    if litellm:
        found |= {name: [str(litellm), "-m", "accel.experiments.outage_litellm"] for name in SETUPS}
    return found


async def run(mode: Mode, contestants: Mapping[str, Sequence[str]], like: Plan) -> tuple[Bout, ...]:
    """One outage for all ``contestants`` at once. like: the plan; who and where are filled in.

    Raises AccelError when a contestant dies; none is left running, whatever happens.
    """
    ready = asyncio.Barrier(len(contestants))  # the start of one must not disturb the run of another
    try:
        async with asyncio.TaskGroup() as group:
            bouts = [
                group.create_task(_bout(name, command, mode, like, ready))
                for name, command in contestants.items()
            ]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return tuple(b.result() for b in bouts)


async def _bout(
    name: str, command: Sequence[str], mode: Mode, like: Plan, ready: asyncio.Barrier
) -> Bout:
    async with Endpoint("primary", PRIMARY_S) as primary, Endpoint("fallback", FALLBACK_S) as fallback:
        plan = replace(like, contestant=name, primary=primary.url, fallback=fallback.url)
        async with _process(command, plan) as process:
            async with asyncio.timeout(READY_S):
                versions = (await _told(process, name))["ready"]
            await ready.wait()
            own_s = await _own(fallback)
            await ready.wait()
            begin = time.monotonic() + plan.warm * plan.warm_every_s + 0.5
            _say(process, f"{begin!r}")
            result = asyncio.create_task(_told(process, name))
            before = plan.warm_every_s / 2  # after the last warm-up, before the first request
            died = await _at(begin - before, primary, mode)
            load = os.getloadavg()[0]
            revived = await _at(begin - before + plan.dead * plan.every_s, primary, Mode.WELL)
            load = round(max(load, os.getloadavg()[0]), 1)
            while not result.done() and not any(s.at >= revived for s in primary.seen):
                await asyncio.wait({result}, timeout=0.1)
            _say(process, "enough")
            told = await result
    asked = tuple(Asked(**a) for a in told["asked"])
    attempts = sum(died <= s.at < revived for s in primary.seen)
    if mode is Mode.REFUSED:
        attempts += sum(p == primary.port and died <= at < revived for p, at in told["connects"])
    seen = tuple(primary.seen)
    return Bout(name, mode, plan, versions, asked, died, revived, attempts, seen, own_s, load)


async def _at(when: float, server: Endpoint, mode: Mode) -> float:
    await asyncio.sleep(max(0.0, when - time.monotonic()))
    await server.become(mode)
    return time.monotonic()


async def _own(server: Endpoint) -> tuple[float, ...]:
    """Seconds of direct calls, one after the other, on a connection that is open."""
    samples = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for number in range(OWN_CALLS + 1):
            began = time.monotonic()
            body = {"model": "bench", "input": [f"own {number}"]}
            (await client.post(f"{server.url}/embeddings", json=body)).raise_for_status()
            samples.append(time.monotonic() - began)
    return tuple(samples[1:])


@contextlib.asynccontextmanager
async def _process(command: Sequence[str], plan: Plan) -> AsyncIterator[asyncio.subprocess.Process]:
    with tempfile.TemporaryDirectory(prefix="accel-outage-") as scratch:
        environment = {
            "PATH": os.environ.get("PATH", ""), "HOME": scratch, "TMPDIR": scratch, "PYTHONPATH": _ROOT,
            "OMP_NUM_THREADS": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network for a price list at import
        }  # fmt: skip
        with (Path(scratch) / "stderr").open("wb+") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, json.dumps(asdict(plan)), cwd=scratch, env=environment, limit=1 << 24,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
            try:
                yield process
            except EOFError:
                await process.wait()
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                raise AccelError(f"{plan.contestant} ended early: {' '.join(last) or 'no word'}") from None
            finally:
                if process.returncode is None:
                    if process.stdin:
                        process.stdin.close()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), 5.0)
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def _told(process: asyncio.subprocess.Process, name: str) -> dict[str, Any]:
    """The contestant's next word. Raises EOFError when there is none."""
    assert process.stdout
    while line := await process.stdout.readline():
        if line.startswith(MARK.encode()):
            told: dict[str, Any] = json.loads(line[len(MARK) :])
            return told
    raise EOFError(name)


def _say(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin
    process.stdin.write(f"{line}\n".encode())


def litellm_python(folder: Path) -> Path:
    """The interpreter of an environment that holds the pinned litellm; made with pip where it is missing.

    Raises UsageError when it cannot be installed.
    """
    python = folder / "bin" / "python"
    mark = folder / f".litellm-{LITELLM}"
    if mark.exists():
        return python
    sys.stderr.write(f"installing litellm {LITELLM} into {folder} (some 370 MB, once) ...\n")
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    made = subprocess.run([*pip, f"litellm=={LITELLM}"], capture_output=True, text=True)
    if made.returncode and "certifi" in made.stderr:
        # It demands the newest certificate bundle, which an index that lags by days does not hold yet. No
        # certificate is used here: everything is plain HTTP on loopback.
        made = subprocess.run([*pip, "--no-deps", f"litellm=={LITELLM}"], capture_output=True, text=True)
        if not made.returncode:
            needs = subprocess.run([str(python), "-c", _NEEDS], capture_output=True, text=True, check=True)
            made = subprocess.run([*pip, *needs.stdout.splitlines()], capture_output=True, text=True)
    if made.returncode:
        why = " ".join(made.stderr.strip().splitlines()[-1:])
        raise UsageError(f"litellm {LITELLM} cannot be installed: {why}")
    mark.touch()
    return python


_NEEDS = """
from importlib.metadata import requires
for need in requires("litellm"):
    if "extra ==" not in need:
        print("certifi" if need.startswith("certifi") else need)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: a table per outage. Returns 0, 1 when we broke our own limits, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="accel.experiments.outage", description="An outage of the preferred server, beside litellm."
    )
    parser.add_argument("--litellm", action="store_true", help="run litellm's Router beside ours")
    parser.add_argument("--mode", choices=["all", *(m.value for m in DEAD)], default="all",
                        help="how the primary is dead")  # fmt: skip
    parser.add_argument("--warm", type=int, nargs="+", default=[Plan("", "", "").warm], metavar="N",
                        help="requests before it, one run each; 0 as in failoverbench's S15")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for rows and a report; none: only the table")
    parser.add_argument("--env", type=Path, default=Path(".venv-conformance/litellm"),
                        help="where litellm's environment is, or is made")  # fmt: skip
    asked = parser.parse_args(argv)
    bouts: list[Bout] = []
    try:
        if min(asked.warm) < 0:
            raise UsageError(f"--warm {min(asked.warm)}: not a number of requests.")
        contestants = commands(litellm_python(asked.env.absolute()) if asked.litellm else None)
        now = datetime.now(UTC)
        modes = DEAD if asked.mode == "all" else (Mode(asked.mode),)
        for mode, warm in itertools.product(modes, asked.warm):
            found = asyncio.run(run(mode, contestants, Plan("", "", "", warm=warm)))
            sys.stdout.write(outage_report.table(found) + "\n\n")
            sys.stdout.flush()
            bouts += found
        if asked.out:
            for path in outage_report.write(asked.out, bouts, now):
                sys.stdout.write(f"{path}\n")
    except AccelError as bad:
        sys.stderr.write(f"{bad}\n")
        return bad.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was written\n")
        return 130
    return 0 if all(b.holds for b in bouts if b.contestant == OURS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
