"""Two checkouts by ``overhead``, in turns. Guarantee: a ratio is of two figures of the same seconds.

One hour of a machine was three times as slow as another, and so are some seconds of it: figures that were
not taken in turns say more about the machine than about the code.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accel import environment


@dataclass(frozen=True, slots=True)
class Ratio:
    """This checkout over another, medians over rounds. low, high: quartiles of the rounds' ratios."""

    part: str
    paid: bool
    other_us: float
    this_us: float
    ratio: float
    low: float
    high: float


def against(folder: Path, offers: int, calls: int, rounds: int) -> tuple[Ratio, ...]:
    """Measure the checkout in ``folder`` in turns with this one, each in one process, for ``rounds`` turns.

    The first turn of each is not counted. Raises ValueError when one of them fails.
    """
    with contextlib.ExitStack() as stack:
        turns = [stack.enter_context(_measuring(tree, offers, calls)) for tree in
                 (folder, Path(__file__).parents[2])]  # fmt: skip
        found: list[list[list[dict[str, float]]]] = [[], []]
        for number in range(rounds + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                found[which].append(turns[which]())
    other, this = (rounds_of[1:] for rounds_of in found)
    return tuple(
        _ratio(part, paid, *([rows[paid][f"{part}_us"] for rows in each] for each in (other, this)))
        for paid in (False, True)
        for part in ("ranking", "decision", "ledger", "total")
    )


# in the other process: one line in, what ``measure`` gives out; it must do in older checkouts
_TURNS = """
import asyncio, dataclasses, json, sys
from accel.experiments.overhead import measure
for line in sys.stdin:
    found = [asyncio.run(measure(*json.loads(line), paid=paid)) for paid in (False, True)]
    print(json.dumps([dataclasses.asdict(f) for f in found]), flush=True)
"""


@contextlib.contextmanager
def _measuring(tree: Path, offers: int, calls: int) -> Iterator[Callable[[], list[dict[str, float]]]]:
    """A process of the checkout ``tree`` that measures when it is called."""
    child = subprocess.Popen(
        [sys.executable, "-c", _TURNS], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    asks, answers = child.stdin, child.stdout
    assert asks is not None and answers is not None

    def turn() -> list[dict[str, float]]:
        asks.write(json.dumps([offers, calls]) + "\n")
        asks.flush()
        if not (line := answers.readline()):
            raise ValueError(f"the checkout in {tree} could not be measured")
        found: list[dict[str, float]] = json.loads(line)
        return found

    try:
        yield turn
    finally:
        asks.close()
        child.wait()
        answers.close()


def _ratio(part: str, paid: bool, other: Sequence[float], this: Sequence[float]) -> Ratio:
    each = sorted(a / b for a, b in zip(this, other, strict=True))
    middle = statistics.median
    low, high = each[len(each) // 4], each[len(each) - 1 - len(each) // 4]
    return Ratio(part, paid, middle(other), middle(this), middle(each), low, high)


def tell(found: Sequence[Ratio], *, as_json: bool) -> None:
    """Print a table, or JSON."""
    if as_json:
        print(json.dumps({"device": environment.cpu_name(), "ratios": [asdict(r) for r in found]}))  # noqa: T201
        return
    print(f"{environment.cpu_name()}, realm real; medians over rounds, in turns")  # noqa: T201
    print("goes to  part       other     this     ratio (its quartiles)")  # noqa: T201
    for r in found:
        where = "paid" if r.paid else "free"
        told = f"{r.ratio:8.3f} ({r.low:.3f} to {r.high:.3f})"
        print(f"{where:7}  {r.part:8} {r.other_us:5.0f} us {r.this_us:5.0f} us {told}")  # noqa: T201
