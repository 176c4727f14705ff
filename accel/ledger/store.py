"""The ledger. Guarantee: what it says happened is on disk, and ``spent + held`` never passes a limit.

One short transaction per fact. Money moves in one transaction each: ``reserve`` (IMMEDIATE, so that two
processes cannot both see room) and ``settle``, and the limit is a CHECK of the table, which no code path
of ours can get around.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields

from accel.core.attempt import Attempt, Timing
from accel.core.errors import LedgerError, OverBudget
from accel.core.lease import Intent, Lease
from accel.core.money import Basis, Rate
from accel.core.row import Row
from accel.core.task import Size, Stage
from accel.ledger.database import Database, dump


@dataclass(frozen=True, slots=True)
class Account:
    """A limit and how much of it is used. unit: "nano_usd" or "gpu_ms"."""

    name: str
    unit: str
    cap: int | None
    spent: int
    held: int
    over: int


class Ledger(Database):
    """One realm's record. Open it per process; see ``Database`` for its arguments and errors."""

    # Money and quota ------------------------------------------------------------------------------

    def open_account(self, name: str, unit: str, *, left: int | None = None) -> None:
        """Make an account if it is new; with ``left``, its cap becomes what is used plus ``left``."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO account (name, unit) VALUES (?, ?)", (name, unit))
            if left is not None:
                db.execute(
                    "UPDATE account SET cap = spent + held + ? WHERE name = ?", (max(0, left), name)
                )

    def limit(self, name: str, cap: int | None) -> None:
        """Set an account's cap. Raises OverBudget when more than that is spent and held already."""
        with self.transaction() as db:
            try:
                done = db.execute("UPDATE account SET cap = ? WHERE name = ?", (cap, name)).rowcount
            except sqlite3.IntegrityError as bad:
                raise OverBudget(f"{name}: a limit of {cap} is below what is spent and held.") from bad
            if not done:
                raise LedgerError(f"the ledger has no account {name!r}.")

    def account(self, name: str) -> Account:
        """One account. Raises LedgerError when there is none of that name."""
        found = self.rows("SELECT name, unit, cap, spent, held, over FROM account WHERE name = ?", name)
        if not found:
            raise LedgerError(f"the ledger has no account {name!r}.")
        return Account(*found[0])

    def reserve(self, hold_id: str, account: str, amount: int, task_id: str) -> None:
        """Hold ``amount``. Raises OverBudget, and holds nothing, when it would pass the limit.

        Raises ValueError for a negative amount, LedgerError when ``hold_id`` was used before.
        """
        _positive(amount)
        with self.transaction() as db:
            try:
                done = db.execute(
                    "UPDATE account SET held = held + ? WHERE name = ?", (amount, account)
                ).rowcount
            except sqlite3.IntegrityError as bad:
                have = self.account(account)
                left = (have.cap or 0) - have.spent - have.held
                raise OverBudget(
                    f"{account}: {amount} is more than the {left} left; nothing was started."
                ) from bad
            if not done:
                raise LedgerError(f"the ledger has no account {account!r}.")
            used = db.execute("SELECT count(*) FROM charge WHERE hold_id = ?", (hold_id,)).fetchone()[0]
            if used:  # settled: a second charge under this id could never be booked
                raise LedgerError(f"the hold {hold_id!r} was settled before.")
            db.execute(
                "INSERT INTO hold VALUES (?, ?, ?, ?, ?)", (hold_id, account, amount, task_id, self.at())
            )

    def settle(self, hold_id: str, amount: int, basis: Basis, rate: Rate) -> bool:
        """Turn a hold into a charge of ``amount``. False when it was settled before: never twice.

        An amount above the hold goes into the account's ``over``, where it cannot hide. Raises ValueError
        for a negative amount.
        """
        _positive(amount)
        with self.transaction() as db:
            found = db.execute(
                "SELECT account, amount, task_id FROM hold WHERE id = ?", (hold_id,)
            ).fetchone()
            if found is None:
                return False
            account, held, task_id = found
            db.execute(
                "UPDATE account SET held = held - ?, spent = spent + ?, over = over + ? WHERE name = ?",
                (held, min(amount, held), max(0, amount - held), account),
            )
            db.execute("DELETE FROM hold WHERE id = ?", (hold_id,))
            db.execute(
                "INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?, ?)",
                (hold_id, account, amount, basis.value, dump(rate), task_id, self.at()),
            )
            return True

    def held(self) -> int:
        """Holds that are open, over all accounts."""
        return int(self.rows("SELECT count(*) FROM hold")[0][0])

    # Leases ---------------------------------------------------------------------------------------

    def intend(self, intent: Intent, account: str, amount: int) -> None:
        """Write the intent and reserve for it, in one transaction, before anything is created."""
        with self.transaction() as db:
            self.reserve(intent.id, account, amount, intent.task_id)
            db.execute(
                "INSERT INTO lease VALUES (?, ?, ?, 'intended', ?, NULL, '', ?)",
                (intent.id, intent.offer.provider, intent.name, dump(intent), self.at()),
            )

    def lease_opened(self, intent_id: str, lease: Lease) -> None:
        """The provider created it: store its own id at once."""
        self._lease_state(intent_id, "open", lease=dump(lease))

    def lease_ended(self, intent_id: str, state: str, note: str) -> None:
        """``released`` (confirmed), ``absent`` (never existed), ``abandoned`` (ends by itself)."""
        self._lease_state(intent_id, state, note=note)

    def _lease_state(self, intent_id: str, state: str, *, lease: str = "", note: str = "") -> None:
        with self.transaction() as db:
            done = db.execute(
                "UPDATE lease SET state = ?, lease = coalesce(nullif(?, ''), lease), note = ?, at = ? "
                "WHERE intent_id = ?",
                (state, lease, note, self.at(), intent_id),
            ).rowcount
            if not done:
                raise LedgerError(f"the ledger has no intent {intent_id!r}.")

    def lease(self, intent_id: str) -> tuple[str, Intent, Lease | None]:
        """State, intent and lease (None until the provider answered) of one intent."""
        found = self.rows("SELECT state, intent, lease FROM lease WHERE intent_id = ?", intent_id)
        if not found:
            raise LedgerError(f"the ledger has no intent {intent_id!r}.")
        state, intent, lease = found[0]
        return state, self.load(Intent, intent), self.load(Lease, lease) if lease else None

    def open_leases(self) -> tuple[Intent, ...]:
        """Everything that may still run somewhere: intended or open, oldest first."""
        found = self.rows("SELECT intent FROM lease WHERE state IN ('intended', 'open') ORDER BY at")
        return tuple(self.load(Intent, body) for (body,) in found)

    # Attempts and measurements --------------------------------------------------------------------

    def record_attempt(self, attempt: Attempt, stage: Stage, size: Size) -> None:
        """Write one try. Writing the same attempt again (after a crash) changes nothing.

        Raises LedgerError for an attempt of another realm.
        """
        if attempt.realm is not self.realm:
            raise LedgerError(f"a ledger of realm {self.realm} keeps no attempt of {attempt.realm}.")
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (attempt.id, attempt.task_id, attempt.provider, stage.value, attempt.outcome.value,
                 size.items, size.tokens, dump(attempt), self.at()),
            )  # fmt: skip

    def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """Every try for a task, in order."""
        found = self.rows("SELECT body FROM attempt WHERE task_id = ? ORDER BY rowid", task_id)
        return tuple(self.load(Attempt, body) for (body,) in found)

    def measured(self, provider: str, stage: Stage, last: int = 20) -> Sequence[tuple[Size, Timing]]:
        """Sizes and timings of the last successful attempts, newest first: what estimates learn from.

        Read field by field: this is asked for every provider before every routing decision, where
        parsing whole attempts took most of the time.
        """
        parts = ", ".join(f"json_extract(body, '$.timing.{f.name}')" for f in fields(Timing))
        found = self.rows(
            f"SELECT items, tokens, {parts} FROM attempt WHERE provider = ? AND stage = ? "
            "AND outcome = 'ok' ORDER BY at DESC, rowid DESC LIMIT ?",
            provider, stage.value, last,
        )  # fmt: skip
        return [(Size(items, tokens), Timing(*seconds)) for items, tokens, *seconds in found]

    def record_rows(self, rows: Sequence[Row], job_id: str = "") -> None:
        """Keep measurements beside the job that made them. Raises LedgerError on a foreign realm."""
        if any(row.realm is not self.realm for row in rows):
            raise LedgerError(f"a ledger of realm {self.realm} keeps no other realm's measurements.")
        with self.transaction() as db:
            db.execute("DELETE FROM measurement WHERE job_id = ? AND job_id <> ''", (job_id,))
            db.executemany(
                "INSERT INTO measurement (job_id, body, at) VALUES (?, ?, ?)",
                [(job_id, dump(row), self.at()) for row in rows],
            )

    def measurements(self, job_id: str = "") -> tuple[Row, ...]:
        """Rows of one job, or of all."""
        found = self.rows("SELECT body FROM measurement WHERE ? IN ('', job_id)", job_id)
        return tuple(self.load(Row, body) for (body,) in found)


def _positive(amount: int) -> None:
    if amount < 0:
        raise ValueError(f"an amount to hold or to charge is not negative: {amount}")
