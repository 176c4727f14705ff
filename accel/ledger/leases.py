"""Leases in the ledger. Guarantee: an exclusive offer has one lease at most, a replica one owner to end it.

What is rented is a row from before its creation on. ``refusal`` is asked in the transaction that writes the
row, so that its answer holds with any number of processes:

- **Launches** of what bills seconds are counted by the hour. An empty listing once made a controller launch
  for ever (skypilot#10517); whatever goes wrong here, no more than so many are started.
- **At once**: no more leases than the provider allows one account.
- **Claims**: an exclusive offer belongs to the row until the provider confirms the end, or its time is over.
- **Replicas**: one per provider. Its users are the processes that may call it; the last one that leaves gives
  it back, and is the only one that may (``closing``). What dead processes used belongs to who comes first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from accel.core.errors import AccelError, OfferTaken, SessionsFull, TooManyLaunches
from accel.core.lease import Intent, Lease
from accel.core.money import NanoUSD
from accel.core.offer import Billing
from accel.ledger.database import dump, instant
from accel.ledger.store import Ledger, claim_of

HOUR = timedelta(hours=1)
OPEN = "state IN ('intended', 'open')"
_COLUMNS = "intent_id, state, purpose, intent, lease, note, made_at, ends_by, ready_at, closing"


class Purpose(StrEnum):
    """What something is rented for: one batch job, or live calls."""

    JOB = "job"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Rented:
    """One row. state: "intended", "open", "released", "absent" or "abandoned" (nobody confirmed its end).

    ready: it has begun to serve. closing: the process that gives it back, or "". users: of a replica.
    """

    intent: Intent
    lease: Lease | None
    state: str
    purpose: Purpose
    note: str
    made_at: datetime
    ends_by: datetime
    ready: bool
    closing: str
    users: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.intent.id

    @property
    def provider(self) -> str:
        return self.intent.offer.provider

    def may_run(self, now: datetime) -> bool:
        """Whether it may still cost something: nobody confirmed its end, and its own is not over."""
        return self.state in ("intended", "open") or (self.state == "abandoned" and now < self.ends_by)


def refusal(ledger: Ledger, intent: Intent, purpose: Purpose, launches: int) -> AccelError | None:
    """Why the intent may not be written; for use in its own transaction. launches: allowed in an hour."""
    offer, now = intent.offer, ledger.now()
    if claim := claim_of(offer):
        # what nobody confirmed has ended itself by now
        ledger.write(
            "UPDATE lease SET claim = NULL WHERE claim = ? AND state = 'abandoned' AND ends_by <= ?",
            claim, ledger.at(),
        )  # fmt: skip
        for (name,) in ledger.rows("SELECT name FROM lease WHERE claim = ?", claim):
            return OfferTaken(f"the offer {offer.id} is rented already, as {name}", provider=offer.provider)
    if purpose is Purpose.REPLICA and replica(ledger, offer.provider) is not None:
        return OfferTaken("another process has just opened a replica there", provider=offer.provider)
    if offer.at_once is not None and running(ledger, offer.provider) >= offer.at_once:
        told = f"{offer.at_once} leases of ours are there, and no more may be at once"
        return SessionsFull(told, provider=offer.provider)
    if offer.billing is Billing.SECONDS and launched(ledger, now - HOUR) >= launches:
        return TooManyLaunches(
            f"{offer.provider}: {launches} machines were rented within the last hour, and no more are "
            "allowed; nothing was started.", hint="See `accel leases`; launches_per_hour in your settings.",
        )  # fmt: skip
    return None


def running(ledger: Ledger, provider: str) -> int:
    """How many of ours may be running there now: whose end nobody confirmed, and that is not over."""
    found = ledger.rows(
        "SELECT count(*) FROM lease WHERE provider = ? AND state IN ('intended', 'open', 'abandoned') "
        "AND ends_by > ?", provider, ledger.at(),
    )  # fmt: skip
    return int(found[0][0])


def launched(ledger: Ledger, since: datetime) -> int:
    """How many things that bill seconds were to be rented from ``since`` on, whatever became of them."""
    found = ledger.rows("SELECT count(*) FROM lease WHERE paid = 1 AND made_at > ?", instant(since))
    return int(found[0][0])


def taken(ledger: Ledger, provider: str) -> frozenset[str]:
    """Ids of the provider's exclusive offers that a lease of ours has, or may still have."""
    found = ledger.rows(
        "SELECT substr(claim, length(provider) + 2) FROM lease WHERE claim IS NOT NULL AND provider = ?1 "
        "AND NOT (state = 'abandoned' AND ends_by <= ?2)", provider, ledger.at(),
    )  # fmt: skip
    return frozenset(offer for (offer,) in found)


def get(ledger: Ledger, intent_id: str) -> Rented:
    """One of them. Raises LedgerError when there is none of that id."""
    ledger.lease(intent_id)
    return _read(ledger, "intent_id = ?", intent_id)[0]


def unconfirmed(ledger: Ledger) -> tuple[Rented, ...]:
    """Everything of which nobody has confirmed the end, oldest first, however long ago."""
    return _read(ledger, "state IN ('intended', 'open', 'abandoned')")


def everything(ledger: Ledger, last: int = 1000) -> tuple[Rented, ...]:
    """The last ``last`` of all, oldest first."""
    return _read(ledger, "rowid IN (SELECT rowid FROM lease ORDER BY rowid DESC LIMIT ?)", last)


def unbilled(ledger: Ledger, since: datetime) -> tuple[Rented, ...]:
    """What was released from ``since`` on, and is charged by an estimate still."""
    return _read(
        ledger, "state = 'released' AND lease IS NOT NULL AND made_at >= ? AND intent_id IN "
        "(SELECT hold_id FROM charge WHERE basis = 'estimated' AND fund <> 'quota')", instant(since),
    )  # fmt: skip


def by_name(ledger: Ledger, provider: str, name: str) -> Rented | None:
    """What this ledger rented under a name."""
    found = _read(ledger, "provider = ? AND name = ?", provider, name)
    return found[0] if found else None


def note(ledger: Ledger, intent_id: str, lease: Lease) -> None:
    """Keep what a provider lists under its name, where nothing was kept of it."""
    ledger.write("UPDATE lease SET lease = coalesce(lease, ?) WHERE intent_id = ?", dump(lease), intent_id)


def charge(ledger: Ledger, intent_id: str) -> tuple[NanoUSD, str, NanoUSD | None] | None:
    """What was charged for it, its basis, and what was estimated; None while it is held, or was free."""
    found = ledger.rows(
        "SELECT amount, basis, estimated FROM charge WHERE hold_id = ? AND fund <> 'quota'", intent_id
    )
    return found[0] if found else None


# Replicas -----------------------------------------------------------------------------------------


def replica(ledger: Ledger, provider: str) -> Rented | None:
    """The provider's replica, on its way or open; there is one at most."""
    found = _read(ledger, f"provider = ? AND purpose = 'replica' AND {OPEN}", provider)
    return found[0] if found else None


def replicas(ledger: Ledger) -> tuple[Rented, ...]:
    """All that are on their way or open."""
    return _read(ledger, f"purpose = 'replica' AND {OPEN}")


def ready(ledger: Ledger, intent_id: str) -> None:
    """It serves from now on."""
    ledger.write("UPDATE lease SET ready_at = ? WHERE intent_id = ?", ledger.at(), intent_id)


def join(ledger: Ledger, intent_id: str) -> bool:
    """Become a user of a replica that serves and that nobody gives back; False where that cannot be."""
    with ledger.transaction() as db:
        found = db.execute(
            "SELECT 1 FROM lease WHERE intent_id = ? AND state = 'open' AND ready_at <> '' AND closing = ''",
            (intent_id,),
        ).fetchone()
        if found:
            use(ledger, intent_id)
        return bool(found)


def use(ledger: Ledger, intent_id: str) -> None:
    """Note that this process uses it."""
    ledger.write(
        "INSERT INTO lease_user VALUES (?, ?) ON CONFLICT DO NOTHING", intent_id, ledger.owner
    )


def leave(ledger: Ledger, intent_id: str, *, gone: bool = False) -> bool:
    """Stop using a replica. True: nobody else does, and it is this process's alone to give back.

    gone: nothing is left to use, whoever does.
    """
    with ledger.transaction() as db:
        found = db.execute(
            f"SELECT closing FROM lease WHERE intent_id = ? AND {OPEN}", (intent_id,)
        ).fetchone()
        db.execute("DELETE FROM lease_user WHERE intent_id = ? AND owner = ?", (intent_id, ledger.owner))
        if found is None or _lives(ledger, found[0]) or (not gone and in_use(ledger, intent_id)):
            return False
        db.execute("UPDATE lease SET closing = ? WHERE intent_id = ?", (ledger.owner, intent_id))
        return True


def in_use(ledger: Ledger, intent_id: str) -> bool:
    """Whether another living process uses it, or gives it back."""
    users = ledger.rows(
        "SELECT owner FROM lease_user WHERE intent_id = ?1 UNION "
        "SELECT closing FROM lease WHERE intent_id = ?1", intent_id,
    )  # fmt: skip
    return any(_lives(ledger, owner) for (owner,) in users)


def _lives(ledger: Ledger, owner: str) -> bool:
    return owner not in ("", ledger.owner) and ledger.alive(owner)


def _read(ledger: Ledger, where: str, *args: object) -> tuple[Rented, ...]:
    users = "(SELECT json_group_array(owner) FROM lease_user u WHERE u.intent_id = lease.intent_id)"
    found = ledger.rows(f"SELECT {_COLUMNS}, {users} FROM lease WHERE {where} ORDER BY rowid", *args)
    return tuple(
        Rented(
            ledger.load(Intent, intent), ledger.load(Lease, lease) if lease else None, state,
            Purpose(purpose), note, datetime.fromisoformat(made_at), datetime.fromisoformat(ends_by),
            bool(ready_at), closing, tuple(json.loads(owners)),
        )
        for _, state, purpose, intent, lease, note, made_at, ends_by, ready_at, closing, owners in found
    )  # fmt: skip
