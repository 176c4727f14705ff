"""Live requests in the ledger. Guarantee: nothing is dispatched unreserved, and all is booked once.

A request that is free all through is one transaction: its decisions, its attempts and how it ended. A try
that costs money or quota is two: the reservation, with the decisions that led to it, before the dispatch;
and the charge. What the ledger cannot take now (disk full, locked) costs nobody an answer: it is kept, and
written with what comes next. If this process dies before that, its reservations are found by the next one
(``Budgets.recover``) and counted as spent.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from accel.core.attempt import Attempt, Route, Scored
from accel.core.errors import LedgerError, OverBudget
from accel.core.offer import Billing, Offer
from accel.core.task import Task
from accel.fleet.replica import Use
from accel.ledger import Budgets, Ledger, decisions, requests
from accel.ledger.requests import Request
from accel.routing import Inputs
from accel.routing.track import tail_s

log = logging.getLogger(__name__)
BACKLOG = 10_000  # entries kept while the ledger cannot be written; older ones are dropped, and said so


@dataclass(slots=True)
class Entry:
    """One live request as it goes: what is not in the ledger yet. task: the part that the cache has not."""

    task: Task
    parent: str
    decisions: list[tuple[str, Inputs, Route]] = field(default_factory=list)
    ended: list[Attempt] = field(default_factory=list)
    reserved: dict[str, Offer] = field(default_factory=dict)
    request: Request | None = None
    tried: set[str] = field(default_factory=set)  # ids of all tries that were sent
    spent: int = 0  # nano-dollars, over all tries


class Journal:
    """Writes entries. ``of`` gives the books of one request to the cascade."""

    def __init__(self, ledger: Ledger, budgets: Budgets) -> None:
        self._ledger, self._budgets = ledger, budgets
        self._backlog: deque[Callable[[], None]] = deque(maxlen=BACKLOG)

    @property
    def unwritten(self) -> int:
        """Entries that wait for a ledger that can be written."""
        return len(self._backlog)

    def of(self, entry: Entry, meter: Callable[[Offer], Use | None] = lambda offer: None) -> Books:
        """The books of one request. meter: of the lease that covers calls on an offer, if one does."""
        return Books(self, entry, meter)

    def reserve(self, entry: Entry, attempt_id: str, offer: Offer, bound_s: float) -> None:
        """Hold the worst case of one try. Raises OverBudget or LedgerError; then nothing may be sent."""
        with self._ledger.transaction():
            self._decide(entry)
            self._budgets.reserve(attempt_id, offer, bound_s, entry.task.id)
        entry.decisions.clear()
        entry.reserved[attempt_id] = offer

    def write(self, entry: Entry) -> None:
        """Book what is not booked yet, older entries first. Never raises for the ledger's failures."""
        self._write(lambda: self._book(entry))

    def note(self, request: Request) -> None:
        """Book how a whole query ended. Never raises for the ledger's failures."""
        self._write(lambda: requests.record(self._ledger, request))

    def _write(self, book: Callable[[], None]) -> None:
        self._backlog.append(book)
        try:
            while self._backlog:
                self._backlog[0]()
                self._backlog.popleft()
        except LedgerError as failure:
            log.warning("the ledger cannot be written now, %d entries wait: %s", len(self._backlog), failure)

    def _book(self, entry: Entry) -> None:
        with self._ledger.transaction():
            self._decide(entry)
            for attempt in entry.ended:
                self._ledger.record_attempt(attempt, entry.task.spec, entry.task.size)
                if offer := entry.reserved.get(attempt.id):
                    self._budgets.settle(attempt.id, offer, attempt.used_s, attempt.cost)
            if entry.request:
                requests.record(self._ledger, entry.request)
        entry.decisions.clear()
        entry.ended.clear()
        entry.request = None

    def _decide(self, entry: Entry) -> None:
        for ident, made, route in entry.decisions:
            decisions.record(
                self._ledger, ident, entry.parent, task=made.task, offers=made.offers, unfit=made.unfit,
                state=made.state, draw=made.draw, route=route,
            )  # fmt: skip


class Books:
    """What the cascade writes of one request; see ``routing.cascade.Books``."""

    def __init__(
        self, journal: Journal, entry: Entry, meter: Callable[[Offer], Use | None]
    ) -> None:
        self._journal, self._entry, self._meter = journal, entry, meter
        self._uses: dict[int, Use] = {}

    def use(self, scored: Scored) -> Use | None:
        """The meter of the last try on an offer that a lease covers."""
        return self._uses.get(id(scored))

    def open(self, attempt_id: str, scored: Scored, bound_s: float | None) -> Use | None:
        """Reserve before a dispatch, where anything is to be paid and no lease covers it: its hold does.
        Raises OverBudget or LedgerError."""
        if scored.offer.billing is Billing.NOTHING:
            return None
        if use := self._meter(scored.offer):
            self._uses[id(scored)] = use
            return use
        if bound_s is None:
            raise OverBudget(f"{scored.offer.provider}: a try without an end cannot be reserved for.")
        if scored.offer.billing is Billing.QUOTA:
            # Its provider stops it at the end of the quota, and we hold what such a call may well take: held
            # for the longest patience, the last minutes of any quota could not be used.
            bound_s = min(bound_s, tail_s(scored.estimate))
        self._journal.reserve(self._entry, attempt_id, scored.offer, bound_s)
        return None

    def close(self, attempt: Attempt) -> None:
        """Note how a try ended. A failed one that held money gives it back at once."""
        self._entry.ended.append(attempt)
        self._entry.tried.add(attempt.id)
        self._entry.spent += attempt.cost.amount
        if attempt.id in self._entry.reserved and attempt.error:
            self._journal.write(self._entry)
