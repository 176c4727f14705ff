"""Many seeds. Guarantee: each is its own process's work, and the result of one does not depend on the others.

``make test`` plays 20 seeds of 5,000 requests; a longer campaign is the same with larger numbers. Any seed
can be played again alone: ``accel simulate --seed N --requests M``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator

from accel.simulation.result import Simulated
from accel.simulation.run import simulate


def campaign(seeds: Iterable[int], requests: int, processes: int | None = None) -> Iterator[Simulated]:
    """Simulate each seed, several at a time, and yield the results as they come.

    processes: one per core when not given. Interrupting it ends them all; what was yielded stays true.
    """
    jobs = [(seed, requests) for seed in seeds]
    count = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    # spawn: a fork would carry along whatever threads and locks this process has
    with multiprocessing.get_context("spawn").Pool(count, _deaf) as pool:
        yield from pool.imap_unordered(_one, jobs)


def struck(results: Iterable[Simulated]) -> Counter[str]:
    """How often each class of faults struck, over all of them."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.faults)
    return total


def _one(job: tuple[int, int]) -> Simulated:
    return simulate(*job)


def _deaf() -> None:
    """Ctrl-C is the parent's to hear; it ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
