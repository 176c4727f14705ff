"""One life of the production router. Guarantee: after ``die`` it can write nothing, and its locks are gone.

A router is the real ``GPUAccelerator`` on real SQLite files. When it is killed, its files are closed in that
very instant, as the operating system does it; what it still does (its tasks are cancelled at once) reaches no
file. The next router opens the same files, recovers, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from accel.cache import ExactCache
from accel.core.errors import LedgerError
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits
from accel.providers.base import Provider

LEDGER, CACHE = "ledger.sqlite3", "cache.sqlite3"
# shorter than a person's, so that lives, jobs and budgets turn over during a run
PATIENCE = Patience(poll_s=5.0, unreachable_s=40.0, lifetime_s=400.0)
UNLIMITED_PAGES = 4294967294


class Router:
    """Opened on the files in ``folder``, for the loop that runs."""

    def __init__(self, folder: Path, providers: Sequence[Provider], runtime: Runtime, limits: Limits) -> None:
        self.ledger = Ledger(folder / LEDGER, Realm.SIMULATED, runtime.now)
        self.cache = ExactCache(folder / CACHE)
        # no power is cut here, and whoever finds the file locked must not wait in real time
        self.ledger.rows("PRAGMA synchronous = OFF")
        self.ledger.rows("PRAGMA busy_timeout = 0")
        budgets = Budgets(self.ledger, limits)
        self.recovered = budgets.recover()
        self.engine = GPUAccelerator(
            Board(providers, runtime), self.ledger, budgets, self.cache, runtime, folder / "jobs",
            Preference(), PATIENCE,
        )  # fmt: skip
        self.engine.recall()
        self.dead = False
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], done: Callable[[asyncio.Task[None]], None]) -> None:
        """Run ``work`` as a part of this router: it ends with it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(done)

    def die(self) -> None:
        """kill -9: from this instant on nothing reaches a file."""
        self.dead = True
        self.ledger.close()
        self.cache.close()

    async def bury(self) -> None:
        """Its tasks end, as its memory is gone; calls on the wire are hung up."""
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.engine.close()

    async def close(self) -> None:
        """An orderly end."""
        await self.bury()
        self.die()

    def fill(self, full: bool) -> None:
        """The disk of the ledger is full, or has room again."""
        if not self.dead:
            pages = self.ledger.rows("PRAGMA page_count")[0][0] if full else UNLIMITED_PAGES
            self.ledger.rows(f"PRAGMA max_page_count = {pages}")

    def refusal(self, provider: str, task: Any, now: float) -> str:
        """Why its health refuses a provider now, or ""."""
        found = self.engine.health.refusal(provider, task, now)
        return found[0] if found else ""

    def flush(self) -> bool:
        """Whether all that waited for the ledger is written; asked at the end of a run."""
        try:
            with self.ledger.transaction():
                pass
        except LedgerError:
            return False
        return not self.engine.journal.unwritten
