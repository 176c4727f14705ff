"""The ledger. Guarantee: what it says happened is on disk, and ``spent + held`` never passes a limit.

One short transaction per fact; ``transaction`` makes several of them one. The money is in ``accounts``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from accel.core.attempt import Attempt, Outcome, Timing
from accel.core.errors import LedgerError
from accel.core.lease import Intent, Lease
from accel.core.money import Basis, Cost, NanoUSD
from accel.core.offer import Billing, Offer, Realm
from accel.core.row import Row
from accel.core.task import Size, Spec, Stage
from accel.ledger.accounts import Account, Accounts, sane
from accel.ledger.database import dump, instant
from accel.ledger.fragments import Fragments
from accel.ledger.offers import Offers


class Ledger(Accounts):
    """One realm's record. Open it per process; see ``Database`` for its arguments and errors."""

    def __init__(self, path: Path, realm: Realm, now: Callable[[], datetime] | None = None) -> None:
        super().__init__(path, realm, now)
        self.offers, self.fragments = Offers(), Fragments()

    def _undone(self) -> None:
        self.offers.forget()

    # Leases ---------------------------------------------------------------------------------------

    def intend(self, intent: Intent, purpose: str = "job") -> None:
        """Write the intent, before anything is created. What it may cost is held in the same transaction.

        purpose: "job" or "replica". See ``leases.refusal`` for what must be asked before.
        """
        offer, now = intent.offer, self.at()
        self.write(
            "INSERT INTO lease (intent_id, provider, name, state, intent, at, purpose, made_at, ends_by, "
            "paid, claim) VALUES (?, ?, ?, 'intended', ?, ?, ?, ?, ?, ?, ?)",
            intent.id, offer.provider, intent.name, dump(intent), now, purpose, now,
            instant(intent.created_at + timedelta(seconds=intent.lifetime_s)),
            offer.billing is Billing.SECONDS, claim_of(offer),
        )  # fmt: skip

    def lease_opened(self, intent_id: str, lease: Lease) -> None:
        """The provider created it: store its own id at once."""
        self._known(intent_id, self.write(
            "UPDATE lease SET state = 'open', lease = ?, note = '', at = ?, ends_by = ? WHERE intent_id = ?",
            dump(lease), self.at(), instant(lease.ends_by), intent_id,
        ))  # fmt: skip

    def lease_ended(self, intent_id: str, state: str, note: str) -> None:
        """``released`` (confirmed), ``absent`` (never existed), ``abandoned`` (ends by itself).

        An exclusive offer is free again with the first two.
        """
        self._known(intent_id, self.write(
            "UPDATE lease SET state = ?1, note = ?2, at = ?3, closing = '', "
            "claim = iif(?1 = 'abandoned', claim, NULL) WHERE intent_id = ?4",
            state, note, self.at(), intent_id,
        ))  # fmt: skip
        self.write("DELETE FROM lease_user WHERE intent_id = ?", intent_id)

    def expire(self) -> None:
        """Settle, in full, the free hours of leases that nobody confirmed and that have ended themselves."""
        with self.joined():
            for hold_id, amount in self.rows(
                "SELECT hold.id, hold.amount FROM hold JOIN lease ON lease.intent_id = hold.id "
                "WHERE hold.fund = 'quota' AND lease.state = 'abandoned' AND lease.ends_by <= ?", self.at(),
            ):  # fmt: skip
                self.settle(hold_id, amount, Basis.ESTIMATED)

    @staticmethod
    def _known(intent_id: str, found: int) -> None:
        if not found:
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

    def correct(self, hold_id: str, amount: int, basis: Basis) -> tuple[Account, ...]:
        """Put what was billed in the place of an estimated charge: the accounts it was drawn on, as they are
        now. Empty, and nothing changed, when it was billed before, or there is no such charge of money.

        What was estimated when it was settled stays beside it. A better estimate may only lower one. What is
        added goes into ``over``: what had been held for it was given back, and may be in use again. Raises
        ValueError for an amount that cannot be.
        """
        sane(amount)
        self._moved += 1
        with self.transaction() as db:
            found = db.execute(
                "SELECT accounts, amount, held FROM charge "
                "WHERE hold_id = ? AND basis = 'estimated' AND fund <> 'quota'", (hold_id,),
            ).fetchone()  # fmt: skip
            if found is None or (basis is Basis.ESTIMATED and amount >= found[1]):
                return ()
            names, before, held = found
            now_held = min(held, before) if amount > before else held
            taken = min(amount, now_held) - min(before, held)
            extra = max(0, amount - now_held) - max(0, before - held)
            accounts = db.execute(
                "UPDATE account SET spent = spent + ?1, over = over + ?2, "
                "cap = max(wanted - over - ?2, spent + ?1 + held) "
                "WHERE name IN (SELECT value FROM json_each(?3)) RETURNING *", (taken, extra, names),
            ).fetchall()  # fmt: skip
            db.execute(
                "UPDATE charge SET amount = ?, held = ?, basis = ?, billed_at = ? WHERE hold_id = ?",
                (amount, now_held, basis.value, self.at() if basis is Basis.BILLED else "", hold_id),
            )
            return tuple(Account(*row) for row in accounts)

    # Attempts and measurements --------------------------------------------------------------------

    def record_attempt(self, attempt: Attempt, spec: Spec, size: Size) -> None:
        """Write one try. Writing the same attempt again (after a crash) changes nothing.

        Raises LedgerError for an attempt of another realm.
        """
        if attempt.realm is not self.realm:
            raise LedgerError(f"a ledger of realm {self.realm} keeps no attempt of {attempt.realm}.")
        self.write(
            "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            attempt.id, attempt.task_id, attempt.provider, spec.stage.value, attempt.outcome.value,
            size.items, size.tokens, dump(attempt), self.at(), model_of(spec),
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

    def recent(self, since_s: float, last: int = 2000) -> list[tuple[Attempt, Stage, str, Size, float]]:
        """The ``last`` attempts written in the last ``since_s`` seconds, oldest first, for ``routing``.

        With each its stage, its model (see ``model_of``), its size (items and tokens; bytes are not kept)
        and its age in seconds, which is 0 where the clock has gone back since. Not validated again: they
        are read once per start, some thousand of them.
        """
        now = self.now()
        found = self.rows(
            "SELECT body, stage, model, items, tokens, at FROM attempt WHERE at >= ? "
            "ORDER BY rowid DESC LIMIT ?", instant(now - timedelta(seconds=since_s)), last,
        )  # fmt: skip
        return [
            (_attempt(json.loads(body)), Stage(stage), model, Size(items, tokens),
             max(0.0, (now - datetime.fromisoformat(at)).total_seconds()))
            for body, stage, model, items, tokens, at in reversed(found)
        ]  # fmt: skip

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


def claim_of(offer: Offer) -> str | None:
    """What an exclusive offer is claimed by; None for one that can be rented any number of times."""
    return f"{offer.provider} {offer.id}" if offer.exclusive else None


def model_of(spec: Spec) -> str:
    """A Spec's model and revision in one word, "" where no model is involved."""
    return f"{spec.model}@{spec.revision}" if spec.model or spec.revision else ""


def _attempt(body: dict[str, Any]) -> Attempt:
    cost = body["cost"]
    return Attempt(
        **body | {
            "realm": Realm(body["realm"]), "outcome": Outcome(body["outcome"]),
            "timing": Timing(**body["timing"]),
            "cost": Cost(NanoUSD(cost["amount"]), Basis(cost["basis"])),
        }
    )  # fmt: skip
