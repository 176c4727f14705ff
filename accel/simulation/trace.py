"""The trace hash. Guarantee: equal for equal runs, also in another folder, process or hash seed.

BLAKE2b-128, hex, over every call, lease and end as the world saw them, and every attempt, charge and alert
as the ledger keeps them. Owners of holds are left out: they are named after processes. So is the folder,
which an error of SQLite's may name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from accel.simulation.case import Case

TABLES = (
    "SELECT body FROM attempt ORDER BY rowid",
    "SELECT hold_id, amount, basis, task_id, made_at, at FROM charge ORDER BY rowid",
    "SELECT key, made_at FROM alert ORDER BY rowid",
    "SELECT name, spent, held, over FROM account ORDER BY name",
    "SELECT id, outcome, provider, seconds, cost FROM request ORDER BY rowid",
    "SELECT id, step, tries FROM job ORDER BY rowid",
)


def digest(case: Case, folder: Path) -> str:
    """Of one run."""
    h, here = hashlib.blake2b(digest_size=16), str(folder)
    evidence = case.evidence
    for c in evidence.calls:
        told = (c.engine, c.provider, c.task_id, c.began, c.ended, c.error, c.billed_s, c.rate.nano_per_hour)
        h.update(repr(told).encode())
    for r in evidence.rented:
        h.update(repr((r.engine, r.name, r.made_at, r.done_at, r.gone_at)).encode())
    for e in evidence.ends:
        h.update(repr((e.engine, e.task_id, e.began, e.ended, e.outcome, e.where, e.hits)).encode())
    for sql in TABLES:
        for row in case.rows(sql):
            told_row = repr(row)
            h.update((told_row.replace(here, "") if here in told_row else told_row).encode())
    return h.hexdigest()
