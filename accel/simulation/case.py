"""What is judged. Guarantee: the world's evidence, and the ledger's own file, read as any reader reads it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.money import NanoUSD
from accel.ledger import Limits
from accel.simulation.evidence import Call, Evidence
from accel.simulation.natures import Nature
from accel.simulation.scene import Scene

# attempts that were never dispatched, by the word of the router itself
UNSENT = ("OverBudget", "QuotaHeld", "LedgerError")
NO_PLACE = "no free place within"
# what the engine calls a request that it sends on to warm a provider up
WARM = "-warm"
# from the end of a job to its release: a poll, its downloads, and a provider that does not answer
GRACE_S = 120.0


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: the world's evidence, the ledger as it was left, and the rules that were set."""

    scene: Scene
    ledger: Path
    limits: Limits
    natures: Sequence[Nature]
    ended_s: float

    @property
    def evidence(self) -> Evidence:
        return self.scene.evidence

    def owed(self, call: Call) -> list[NanoUSD]:
        """What a call may have been billed, at each price that was shown shortly before it."""
        return [rate.cost(call.billed_s or 0.0) for rate in self.scene.rates_at(call)]

    def cut_off(self, call: Call) -> bool:
        """Whether its router was killed before it could write down how the call ended."""
        lives = self.evidence.lives
        return call.engine + 1 < len(lives) and call.ended >= lives[call.engine + 1] - 1e-9

    def warmed(self) -> set[str]:
        """Requests of which a copy was sent on to make a provider warm."""
        found = self.rows(f"SELECT DISTINCT task_id FROM attempt WHERE task_id LIKE '%{WARM}'")
        return {ident.removesuffix(WARM) for (ident,) in found}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the ledger's file."""
        with closing(sqlite3.connect(self.ledger)) as db:
            return db.execute(sql).fetchall()
