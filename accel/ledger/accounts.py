"""Money and quota in the ledger. Guarantee: ``spent + held`` never passes a limit, in any account.

A hold is one amount drawn on several accounts at once: all of them or none, in one IMMEDIATE transaction, so
that two processes cannot both see room. It settles at most once. The limit is a CHECK of the table, which no
code path of ours can get around. ``budgets`` says which accounts a hold draws on.

A limit that is set below what is in use already leaves nothing; what is in use is not taken back. What was
charged above its hold (``over``) narrows what is left, too.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from accel.core.errors import LedgerError, OverBudget
from accel.core.money import Basis, Rate
from accel.core.offer import Realm
from accel.ledger import owners
from accel.ledger.database import Database, dump, instant
from accel.ledger.migrate import FOR_EVER

LARGEST = 2**60  # of one amount, about a thousand million dollars: SQLite's integers end at 2**63
IN = "name IN (SELECT value FROM json_each(?))"


class Account(NamedTuple):
    """A limit and how much of it is used. unit: "nano_usd" or "gpu_ms".

    wanted: the limit as it was last set or told, None without one. cap: the limit that is enforced. over:
    charged above what was held. provider: "" is all of them. period: "day", "week" or "month", with its
    since and until (as stored); "credit", "quota".
    """

    name: str
    unit: str
    wanted: int | None
    cap: int | None
    spent: int
    held: int
    over: int
    provider: str = ""
    period: str = ""
    since: str = ""
    until: str = ""
    as_of: str = ""

    @property
    def left(self) -> int | None:
        """What may still be held, None without a limit."""
        return None if self.cap is None else self.cap - self.spent - self.held

    @property
    def used(self) -> int:
        """What was charged, in all."""
        return self.spent + self.over


@dataclass(frozen=True, slots=True)
class Draw:
    """What a hold takes, and from where. fund: "budget", "credit" or "quota"."""

    accounts: tuple[str, ...]
    amount: int
    fund: str
    provider: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class Hold:
    """An open hold. owner: the process that made it."""

    id: str
    accounts: tuple[str, ...]
    amount: int
    fund: str
    provider: str
    task_id: str
    owner: str
    made_at: datetime


class Accounts(Database):
    """The money of one realm; see ``Database`` for its arguments and errors."""

    def __init__(self, path: Path, realm: Realm, now: Callable[[], datetime] | None = None) -> None:
        super().__init__(path, realm, *([now] if now else []))
        self._owners = path.with_name(f"{path.name}.owners")
        self._owner = owners.Owner(self._owners)
        self._moved = 0  # how often this process may have changed an account

    def moves(self) -> tuple[int, int]:
        """Changes whenever an account may have: what was read of them before may still be used until then."""
        with self._lock:
            return self._moved, int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the file. What this process still holds is lost to it, and is ``orphans``."""
        super().close()
        self._owner.end()

    @property
    def owner(self) -> str:
        """The name of this process among those that hold something."""
        return self._owner.name

    def alive(self, owner: str) -> bool:
        """Whether the process of that name still runs."""
        return owners.alive(self._owners, owner)

    def open_account(
        self, name: str, unit: str, limit: int | None = None, *, provider: str = "", period: str = "",
        since: str = "", until: str = FOR_EVER,
    ) -> None:  # fmt: skip
        """Make an account, if it is new. One of a period (``since``) begins with what that has seen already.

        Raises ValueError for a limit that no amount can be.
        """
        sane(limit or 0)
        self._moved += 1
        with self.joined() as db:
            made = db.execute(
                "INSERT INTO account (name, unit, wanted, cap, provider, period, since, until) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
                (name, unit, limit, limit, provider, period, since, until),
            ).rowcount
            if made and since:
                self._take_in(db, name, provider, since, until)

    @staticmethod
    def _take_in(db: sqlite3.Connection, name: str, provider: str, since: str, until: str) -> None:
        """Add the account to the holds and charges of its period that were made before it was opened."""
        theirs = "fund = 'budget' AND made_at >= ? AND made_at < ? AND ? IN ('', provider)"
        args = (since, until, provider)
        spent, over = db.execute(
            "SELECT coalesce(sum(min(amount, held)), 0), coalesce(sum(max(amount - held, 0)), 0) "
            f"FROM charge WHERE {theirs}", args,
        ).fetchone()  # fmt: skip
        held = db.execute(f"SELECT coalesce(sum(amount), 0) FROM hold WHERE {theirs}", args).fetchone()[0]
        for table in ("charge", "hold"):
            db.execute(
                f"UPDATE {table} SET accounts = json_insert(accounts, '$[#]', ?) WHERE {theirs}",
                (name, *args),
            )
        db.execute(
            "UPDATE account SET spent = ?1, held = ?2, over = ?3, cap = max(wanted - ?3, ?1 + ?2) "
            "WHERE name = ?4",
            (spent, held, over, name),
        )

    def limit(self, name: str, limit: int | None) -> None:
        """Set an account's limit. One below what is spent and held leaves nothing, and is no error."""
        sane(limit or 0)
        self._moved += 1
        done = self.write(
            "UPDATE account SET wanted = ?1, cap = max(?1 - over, spent + held) WHERE name = ?2", limit, name
        )
        if not done:
            raise LedgerError(f"the ledger has no account {name!r}.")

    def told(self, name: str, left: int, as_of: datetime) -> bool:
        """Take a provider's word that ``left`` of a quota was left at ``as_of``; whether it was taken.

        Only a word newer than the last one is taken: two processes that hold one old offer cannot both
        spend it. What was charged since ``as_of`` is taken off; what is held now counts against it, too,
        though the provider may have counted some of that already. A word from the future is refused once
        there is another: the clock has gone back since, and what was charged meanwhile cannot be told.
        """
        sane(left)
        self._moved += 1
        at = instant(as_of)
        with self.joined() as db:
            have = self.account(name)
            if at <= have.as_of or (have.as_of and at > self.at()):
                return False
            since = db.execute(
                "SELECT coalesce(sum(amount), 0) FROM charge "
                "WHERE provider = ? AND fund = 'quota' AND at >= ?",
                (have.provider, at),
            ).fetchone()[0]
            db.execute(
                "UPDATE account SET wanted = ?1, cap = max(?1 - over, spent + held), as_of = ?2 "
                "WHERE name = ?3",
                (max(0, have.used - since + left), at, name),
            )
            return True

    def account(self, name: str) -> Account:
        """One account. Raises LedgerError when there is none of that name."""
        found = self.rows("SELECT * FROM account WHERE name = ?", name)
        if not found:
            raise LedgerError(f"the ledger has no account {name!r}.")
        return Account(*found[0])

    def accounts(self) -> tuple[Account, ...]:
        """All of them, also those of past periods, oldest first."""
        return tuple(Account(*row) for row in self.rows("SELECT * FROM account ORDER BY since, name"))

    def open_accounts(self, now: datetime, provider: str | None = None) -> tuple[Account, ...]:
        """Accounts that have not ended by ``now``, oldest first; or of one provider, and those of all."""
        found = self.rows(
            "SELECT * FROM account WHERE until > ?1 AND (?2 IS NULL OR provider IN ('', ?2)) ORDER BY since",
            instant(now), provider,
        )  # fmt: skip
        return tuple(Account(*row) for row in found)

    def reserve(self, hold_id: str, draw: Draw, task_id: str) -> None:
        """Hold an amount on every account of ``draw``.

        Raises OverBudget, and holds nothing, if one of them has no room; ValueError for an amount that
        cannot be, LedgerError when ``hold_id`` was used before or an account is missing.
        """
        sane(draw.amount)
        self._moved += 1
        names = json.dumps(draw.accounts)
        with self.transaction() as db:  # a caller may catch the refusal, and go on
            try:
                done = db.execute(
                    f"UPDATE account SET held = held + ? WHERE {IN}", (draw.amount, names)
                ).rowcount
            except sqlite3.IntegrityError as bad:
                raise OverBudget(
                    f"{', '.join(draw.accounts)}: {draw.amount} is more than is left; nothing was started."
                ) from bad
            if not draw.accounts or done != len(draw.accounts):
                raise LedgerError(f"the ledger has no account {' or '.join(draw.accounts) or 'for it'}.")
            made = db.execute(
                "INSERT INTO hold SELECT ?1, ?, ?, ?, ?, ?, ?, ?, ? "
                "WHERE NOT EXISTS (SELECT 1 FROM charge WHERE hold_id = ?1)",
                (hold_id, names, draw.fund, draw.provider, draw.amount, dump(draw.rate), task_id,
                 self._owner.name, self.at()),
            ).rowcount  # fmt: skip
            if not made:  # a second charge under this id could never be booked
                raise LedgerError(f"the hold {hold_id!r} was settled before.")

    def settle(
        self, hold_id: str, amount: int, basis: Basis, estimated: int | None = None
    ) -> tuple[Account, ...]:
        """Turn a hold into a charge of ``amount`` (0 gives it back): the accounts it was drawn on, as they
        are now. Empty when it was settled before: never twice.

        estimated: what was thought of an amount that is billed; it is kept beside it. An amount above the
        hold goes into ``over`` of each account, where it cannot hide. Raises ValueError for an amount that
        cannot be.
        """
        sane(amount)
        self._moved += 1
        with self.joined() as db:
            found = db.execute("SELECT accounts, amount FROM hold WHERE id = ?", (hold_id,)).fetchone()
            if found is None:
                return ()
            names, held = found
            taken, extra = min(amount, held), max(0, amount - held)
            accounts = db.execute(
                "UPDATE account SET held = held - ?1, spent = spent + ?2, over = over + ?3, "
                "cap = max(wanted - over - ?3, spent + ?2 + held - ?1) "
                "WHERE name IN (SELECT value FROM json_each(?4)) RETURNING *",
                (held, taken, extra, names),
            ).fetchall()
            billed, at = basis is Basis.BILLED, self.at()
            db.execute(
                "INSERT INTO charge SELECT id, accounts, fund, provider, ?, amount, ?, rate, task_id, "
                "made_at, ?, ?, ? FROM hold WHERE id = ?",
                (amount, basis.value, at, estimated if billed else amount, at if billed else "", hold_id),
            )
            db.execute("DELETE FROM hold WHERE id = ?", (hold_id,))
            return tuple(Account(*row) for row in accounts)

    def held(self) -> int:
        """Holds that are open, over all accounts."""
        return int(self.rows("SELECT count(*) FROM hold")[0][0])

    def orphans(self) -> tuple[Hold, ...]:
        """Holds that nobody will settle: their process is gone, and they belong to no lease.

        What a lease holds is settled by whoever carries its job on; free hours of one that nobody confirmed
        are held until it ends itself (``Ledger.expire``). Of the others a caller may know that
        nothing was dispatched, and ``settle`` them at 0; ``Budgets.recover`` counts them as spent.
        """
        found = self.rows(
            "SELECT id, accounts, amount, fund, provider, task_id, owner, made_at FROM hold "
            "WHERE NOT EXISTS (SELECT 1 FROM lease WHERE intent_id = hold.id "
            "AND (state IN ('intended', 'open') OR (state = 'abandoned' AND hold.fund = 'quota' "
            "AND ends_by > ?))) ORDER BY made_at", self.at(),
        )  # fmt: skip
        living = {owner: self.alive(owner) for owner in {row[6] for row in found}}
        return tuple(
            Hold(
                ident,
                tuple(json.loads(names)),
                amount,
                fund,
                provider,
                task_id,
                owner,
                datetime.fromisoformat(made_at),
            )
            for ident, names, amount, fund, provider, task_id, owner, made_at in found
            if not living[owner]
        )

    def sweep(self) -> None:
        """Forget processes that are gone."""
        owners.sweep(self._owners)


def sane(amount: int) -> None:
    if not 0 <= amount <= LARGEST:
        what = "is not negative" if amount < 0 else "is not that large"
        raise ValueError(f"an amount to hold or to charge {what}: {amount}")
