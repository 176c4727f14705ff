"""Real processes on one file: the limit holds at every moment, sums are exact, the dead hold nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from books import Clock, books_agree

from accel.core.money import NanoUSD
from accel.core.offer import Realm
from accel.ledger import Budgets, Ledger, Limits, Period, alerts

WORKER = """
import sys
from datetime import date, datetime, UTC
from pathlib import Path
from accel.core.errors import OverBudget
from accel.core.money import Basis, Cost, NanoUSD, Rate
from accel.core.offer import CPU, Billing, Offer, Realm
from accel.ledger import Budgets, Ledger, Limits, Period
path, who, times, cap = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
forgetful = len(sys.argv) > 5
at = datetime(2026, 11, 23, 12, tzinfo=UTC)
limits = Limits({("", Period.MONTH): NanoUSD(cap), ("cloud", Period.DAY): NanoUSD(10**9)}, {})
offer = Offer("o", "cloud", Realm.REAL, CPU, Rate(NanoUSD(3600), date(2026, 1, 1), "test"), at, "test")
print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(path, Realm.REAL, lambda: at)
budgets = Budgets(ledger, limits)
got = refused = 0
for n in range(times):
    ident = f"{who}-{n}"
    try:
        budgets.reserve(ident, offer, 7.0, "t")
    except OverBudget:
        refused += 1
        continue
    got += 1
    if forgetful and n % 2:
        continue
    budgets.settle(ident, offer, 5.0, Cost(NanoUSD(5), Basis.ESTIMATED))
print(got, refused, flush=True)
"""


@dataclass
class Worker:
    """One process that reserves 7 and settles at 5, many times; a forgetful one settles every other time."""

    process: subprocess.Popen[str]
    running: ClassVar[list[subprocess.Popen[str]]] = []

    @classmethod
    def start(cls, path: Path, name: str, times: int, cap: int, *more: str) -> Worker:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), name, str(times), str(cap), *more], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        cls.running.append(process)
        return cls(process)

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def counts(self) -> tuple[int, int]:
        out, _ = self.process.communicate(timeout=90)
        assert self.process.returncode == 0
        got, refused = map(int, out.split())
        return got, refused


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    """A test that fails leaves no process behind, either."""
    yield
    while Worker.running:
        process = Worker.running.pop()
        process.kill()
        process.communicate(timeout=20)


class Watch:
    """Looks at the accounts all the while, through a connection of its own."""

    def __init__(self, path: Path, cap: int) -> None:
        self.ledger, self.cap = Ledger(path, Realm.REAL, Clock()), cap
        self.samples: list[tuple[int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.002):
            for account in self.ledger.accounts():
                if account.period == "month":
                    self.samples.append((account.spent, account.held))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def begin(workers: list[Worker]) -> None:
    """All at once, when all are ready."""
    for worker in workers:
        worker.ready()
    for worker in workers:
        worker.go()


def test_eight_processes_share_one_limit_and_the_sum_is_exact(tmp_path: Path) -> None:
    """8 × 1,000 reservations that together ask for more than there is."""
    path, cap = tmp_path / "ledger.sqlite3", 38_000
    Ledger(path, Realm.REAL).close()
    with Watch(path, cap) as watch:
        workers = [Worker.start(path, str(n), 1000, cap) for n in range(8)]
        begin(workers)
        counts = [worker.counts() for worker in workers]
    got, refused = (sum(c[i] for c in counts) for i in range(2))
    ledger = watch.ledger
    assert len(watch.samples) > 20
    assert all(spent + held <= cap for spent, held in watch.samples)
    assert any(held for _, held in watch.samples)
    assert got + refused == 8000
    assert refused > 0
    account = ledger.account("all:month:2026-11")
    assert (account.spent, account.held, account.over) == (5 * got, 0, 0)
    assert ledger.rows("SELECT count(*), sum(amount) FROM charge") == [(got, 5 * got)]
    assert cap - 7 < account.spent <= cap  # full to the last reservation that fits
    assert ledger.account("cloud:day:2026-11-23").spent == account.spent
    books_agree(ledger)
    # by eight processes, and each once
    names = [key.rpartition(":")[2] for (key,) in ledger.rows("SELECT key FROM alert ORDER BY key")]
    assert names == ["0.5", "0.8", "refused"]
    assert alerts.pending(ledger) == 3


@pytest.mark.parametrize("seed", range(2))
def test_what_a_killed_process_held_is_found_and_nothing_stays_held(tmp_path: Path, seed: int) -> None:
    """Of eight that work, one is killed at some moment; it would have gone on for ever."""
    path, cap = tmp_path / "ledger.sqlite3", 10**9
    workers = [Worker.start(path, str(n), 200, cap) for n in range(7)]
    victim = Worker.start(path, "victim", 10**9, cap, "forgetful")
    begin([victim, *workers])
    ledger = Ledger(path, Realm.REAL, Clock())
    while ledger.held() < 10:  # the others hold one each, at the most
        time.sleep(0.001)
    time.sleep(random.Random(seed).uniform(0.0, 0.3))
    budgets = Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(cap)}, {}))
    assert budgets.recover() == 0  # everybody lives
    victim.process.kill()
    victim.process.communicate(timeout=20)
    counts = [worker.counts() for worker in workers]
    left = ledger.held()
    assert left >= 3
    assert {owner for (owner,) in ledger.rows("SELECT owner FROM hold")} == {ledger.orphans()[0].owner}
    assert budgets.recover() == left
    assert (ledger.held(), budgets.recover()) == (0, 0)
    books_agree(ledger)
    charged = [amount for (amount,) in ledger.rows("SELECT amount FROM charge")]
    assert (charged.count(7), set(charged)) == (left, {5, 7})  # in full what may have run
    assert ledger.account("all:month:2026-11").spent == sum(charged)
    assert sum(got for got, _ in counts) == 7 * 200
    assert list(path.with_name("ledger.sqlite3.owners").iterdir()) == []


def test_eight_processes_make_one_new_ledger_together(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite3"
    workers = [Worker.start(path, str(n), 3, 1000) for n in range(8)]
    begin(workers)
    assert [worker.counts() for worker in workers] == [(3, 0)] * 8
    ledger = Ledger(path, Realm.REAL)
    assert ledger.account("all:month:2026-11").spent == 8 * 3 * 5
