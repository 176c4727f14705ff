"""Budgets. Guarantee: nothing is paid for without room in every limit that applies, in any process.

Limits hold per UTC day, ISO week and month, per provider and over all of them. A hold draws on all that
apply at once, or on a provider's prepaid credit alone while that has room for the whole of it; free GPU
hours are an account in milliseconds. Who bills seconds is refused until a limit is set: free by default.

Each process enforces the limits it was given, on accounts that all of them share. An account is opened when
its period is first used, with what the period has seen by then. A hold stays on the periods that it was made
in. A clock that goes back opens no period again: of the accounts that have not ended the latest counts (it
remembers how late it once was), so that what was spent stays spent. One that goes forward opens a later one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from accel.core.errors import OverBudget, QuotaHeld, TooManyLaunches
from accel.core.funds import Funds, Window
from accel.core.lease import Intent
from accel.core.money import Basis, Cost, NanoUSD, dollars
from accel.core.offer import Billing, Offer
from accel.ledger import alerts, leases
from accel.ledger.accounts import LARGEST, Account, Draw
from accel.ledger.database import instant
from accel.ledger.leases import Purpose
from accel.ledger.limits import PERIODS, Limits, Period, milliseconds, span
from accel.ledger.periods import CREDIT, QUOTA, Known, Periods, share_over
from accel.ledger.store import Ledger

__all__ = ["Budgets", "Limits", "Period"]

# Kaggle's window of free hours, and the guess where a provider does not tell
WEEK_S = 7 * 86400.0
NO_BUDGET = "no budget is set for paid providers: set budget.month"


@dataclass
class _Tight:
    """What several limits leave together: the least of them, and the one under most pressure.

    least: the account and the limit that leave no more than ``left``. tightest: name, used and elapsed of the
    window under most pressure. What is told of both is mostly the same for all providers: made once, if at
    all.
    """

    left: int
    least: tuple[Account, int] | None
    pressure: float
    tightest: tuple[str, float, float]

    @functools.cached_property
    def reason(self) -> str:
        """In words."""
        if self.least is None:
            return ""
        return f"{_words(*self.least)} leaves {dollars(NanoUSD(self.left))}"

    @functools.cached_property
    def window(self) -> Window:
        """The window under most pressure."""
        return Window(*self.tightest)


class Budgets:
    """Reserves and settles by the person's limits; one per open ledger."""

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger, self._limits = ledger, limits
        self._periods = Periods(ledger, limits)
        # what was last read, until an account changes, and for a second at most: windows pass, too
        self._moves: tuple[tuple[int, int], int] | None = None
        self._money_left: dict[str, Funds] = {}
        self._known: Known | None = None
        self._last: tuple[list[Offer], tuple[Funds, ...]] | None = None

    # Facts ----------------------------------------------------------------------------------------

    def funds(self, offers: Sequence[Offer]) -> tuple[Funds, ...]:
        """What the limits leave for each offer that bills seconds or quota, in the order of ``offers``."""
        asked = [o for o in offers if o.billing is not Billing.NOTHING]
        if not asked:
            return ()
        now = self._ledger.now()
        if (moves := (self._ledger.moves(), int(now.timestamp()))) != self._moves:
            self._moves, self._money_left, self._known, self._last = moves, {}, None, None
        elif self._last is not None and self._last[0] == asked:
            return self._last[1]
        known = self._known
        if known is None or any(
            o.billing is Billing.SECONDS and o.provider not in self._money_left for o in asked
        ):
            known = self._known = self._read(asked, now)
        funds = tuple(
            self._quota(o, known, now) if o.billing is Billing.QUOTA else self._money_left[o.provider]
            for o in asked
        )
        self._last = None if any(o.billing is Billing.QUOTA for o in asked) else (asked, funds)
        return funds

    def _read(self, asked: Sequence[Offer], now: datetime) -> Known:
        """The accounts, those that were missing opened; and what they leave for each who bills seconds."""
        known = self._periods.current(now)
        paid = dict.fromkeys(o.provider for o in asked if o.billing is Billing.SECONDS)
        for provider in paid:
            if not self._periods.wanted(provider).keys() <= known.keys():  # once in a period
                with self._ledger.transaction():
                    known = {**known, **self._periods.opened(provider, now)}
                self._moves = (self._ledger.moves(), int(now.timestamp()))
        together = self._tightest("", known, now) if paid else None
        for provider in paid:
            self._money_left[provider] = self._money(provider, together, known, now)
        return known

    def _money(self, provider: str, together: _Tight | None, known: Known, now: datetime) -> Funds:
        own = self._tightest(provider, known, now) if provider in self._periods.caps else None
        narrow = pressed = together or own
        if together and own:
            narrow = own if own.left < together.left else together
            pressed = own if own.pressure > together.pressure else together
        left, reason = (narrow.left, narrow.reason) if narrow else (0, NO_BUDGET)
        credit = 0
        if prepaid := self._limits.credits.get(provider):
            credit = _room(known[provider, CREDIT], prepaid)
            if credit > left:
                reason = f"{dollars(NanoUSD(credit))} of its credit is left"
        # a hold is all credit or none of it: the larger of the two is the most that can be reserved at once
        most = NanoUSD(max(left, credit))
        return Funds(provider, most, reason, NanoUSD(credit), pressed.window if pressed else None)

    def _tightest(self, who: str, known: Known, now: datetime) -> _Tight | None:
        """What the limits of one provider, or those of all together, leave; None without any."""
        left, highest = LARGEST, -1.0
        least: tuple[Account, int] | None = None
        tightest: tuple[str, float, float] | None = None
        for key in self._periods.caps.get(who, ()):
            account, limit = known[key], self._limits.caps[key]
            taken = account.used + account.held
            room = max(0, limit - taken)
            used = taken / limit if limit else 1.0
            elapsed = share_over(account.since, account.until, now)
            pressure = used / max(elapsed, 1e-9)
            if room < left:
                left, least = room, (account, limit)
            if tightest is None or pressure > highest:
                highest, tightest = pressure, (account.name, used, elapsed)
        return _Tight(left, least, highest, tightest) if tightest else None

    @staticmethod
    def _quota(offer: Offer, known: Known, now: datetime) -> Funds:
        if offer.quota_left_s is None or not offer.quota_s:
            return Funds(offer.provider)
        account = known.get((offer.provider, QUOTA))
        left_ms: int = math.floor(offer.quota_left_s * 1000) - (account.held if account else 0)
        if account and account.left is not None and instant(offer.as_of) <= account.as_of:
            left_ms = account.left
        used = 1 - max(0, left_ms) / (offer.quota_s * 1000)
        resets_s = (offer.quota_resets_at - now).total_seconds() if offer.quota_resets_at else None
        over = 1 - resets_s / WEEK_S if resets_s is not None else _week_over(now)
        reason = f"{max(0, left_ms) / 3.6e6:.1f} h of its free {offer.quota_s / 3600:.0f} h are left"
        window = Window(f"{offer.provider} {QUOTA}", max(0.0, used), min(1.0, max(0.0, over)))
        return Funds(offer.provider, reason=reason, quota=window)

    # Money ----------------------------------------------------------------------------------------

    def reserve(self, hold_id: str, offer: Offer, seconds: float, task_id: str) -> None:
        """Hold what ``seconds`` on ``offer`` take, before anything is started; nothing for a free machine.

        Raises OverBudget when a limit has no room or the offer's price cannot be, LedgerError when the ledger
        cannot be written, ValueError for what is no duration; then nothing is held. The refusal of a budget
        is an alert, which is kept even so (but for an outer transaction that is rolled back).
        """
        if offer.billing is Billing.QUOTA:
            self._reserve_quota(hold_id, offer, seconds, task_id)
        elif offer.billing is Billing.SECONDS:
            self._reserve_money(hold_id, offer, seconds, task_id)

    def _reserve_money(self, hold_id: str, offer: Offer, seconds: float, task_id: str) -> None:
        provider, amount = offer.provider, offer.rate.cost(seconds)
        if offer.rate.free:
            raise OverBudget(f"{provider} bills seconds at a price of zero, it says; nothing was started.")
        capped = bool(self._periods.caps.get("") or self._periods.caps.get(provider))
        prepaid = self._limits.credits.get(provider)
        if not capped and not prepaid:
            raise OverBudget(f"{provider}: {NO_BUDGET}; nothing was started.")
        with self._ledger.joined():
            known = self._periods.opened(provider, self._ledger.now())
            credit = known.get((provider, CREDIT))
            short: list[Account] = []
            if credit and prepaid and _left(credit) >= amount:
                fund, drawn = CREDIT, [credit]
            else:
                fund, drawn = "budget", [a for (_, period), a in known.items() if period in PERIODS]
                short = [a for a in drawn if _left(a) < amount]
                if credit and not capped:
                    short.append(credit)
            if not short:
                draw = Draw(tuple(a.name for a in drawn), amount, fund, provider, offer.rate)
                self._ledger.reserve(hold_id, draw, task_id)
                return
            for account in short:
                body = self._periods.body(account) | {"asked": amount}
                alerts.raise_(self._ledger, f"budget:{account.name}:refused", body)
        least = min(short, key=_left)  # told only now: the alert is committed
        told = _words(least, self._periods.limit(least))
        raise OverBudget(
            f"{provider}: {told} leaves {dollars(NanoUSD(_left(least)))}, and {dollars(amount)}"
            " would be reserved; nothing was started."
        )

    def _reserve_quota(self, hold_id: str, offer: Offer, seconds: float, task_id: str) -> None:
        name, amount = f"{offer.provider} {QUOTA}", milliseconds(seconds)
        with self._ledger.joined():
            self._ledger.open_account(name, "gpu_ms", provider=offer.provider, period=QUOTA)
            self._ledger.expire()
            if offer.quota_left_s is not None:
                self._ledger.told(name, math.floor(offer.quota_left_s * 1000), offer.as_of)
            left = self._ledger.account(name).left
            if left is None or left >= amount:
                draw = Draw((name,), amount, QUOTA, offer.provider, offer.rate)
                self._ledger.reserve(hold_id, draw, task_id)
                return
        raise QuotaHeld(  # told only now: the provider's word is committed
            f"{offer.provider}: {amount / 1000:.0f} s would be reserved, {left / 1000:.0f} s of its "
            "free quota are left; nothing was started."
        )

    def rent(self, intent: Intent, purpose: Purpose = Purpose.JOB) -> None:
        """Count the launch, claim the offer, reserve what it may cost, and write the intent: all in one
        transaction, or none.

        Raises OverBudget when a limit has no room (TooManyLaunches: that of an hour), OfferTaken when another
        lease has the offer, and what ``reserve`` raises.
        """
        with self._ledger.transaction():
            refused = leases.refusal(self._ledger, intent, purpose, self._limits.launches)
            if isinstance(refused, TooManyLaunches):
                body = {"kind": "launches", "provider": intent.offer.provider, "limit": self._limits.launches}
                alerts.raise_(self._ledger, f"launches:{self._ledger.now():%Y-%m-%dT%H}", body)
            elif refused is None:
                try:
                    self.reserve(intent.id, intent.offer, intent.lifetime_s, intent.task_id)
                except OverBudget as bad:
                    refused = bad
                else:
                    self._ledger.intend(intent, purpose)
        if refused is not None:  # told only now: the alert is committed
            raise refused

    def settle(
        self, hold_id: str, offer: Offer, seconds: float, cost: Cost, estimated: NanoUSD | None = None
    ) -> bool:
        """Charge what a hold came to: ``cost``, or ``seconds`` of free quota. Never twice: False then.

        estimated: what was thought of a cost that is billed. Raises an alert, in the same transaction, for
        each share of a limit that this reaches.
        """
        if offer.billing is Billing.NOTHING:
            return False
        amount = milliseconds(seconds) if offer.billing is Billing.QUOTA else cost.amount
        basis = Basis.ESTIMATED if offer.billing is Billing.QUOTA else cost.basis
        with self._ledger.joined():
            return self._told(self._ledger.settle(hold_id, amount, basis, estimated))

    def correct(self, hold_id: str, cost: Cost) -> bool:
        """Put what was billed, or a lower estimate, in the place of an estimated charge; see
        ``Accounts.correct``. False when there was nothing to correct."""
        with self._ledger.transaction():
            return self._told(self._ledger.correct(hold_id, cost.amount, cost.basis))

    def recover(self) -> int:
        """Settle what processes that are gone have left: how many holds.

        Whether they were dispatched is not known, so that each counts as spent in full, as an estimate.
        Holds of leases are left to whoever carries their jobs on; see ``Ledger.orphans``.
        """
        with self._ledger.transaction():
            self._ledger.expire()
            lost = self._ledger.orphans()
            for hold in lost:
                self._told(self._ledger.settle(hold.id, hold.amount, Basis.ESTIMATED))
        self._ledger.sweep()
        return len(lost)

    def _told(self, accounts: Sequence[Account]) -> bool:
        """Raise what is due of accounts that were charged; whether there were any."""
        for account in accounts:
            limit = self._periods.limit(account)
            for share in self._limits.alert_at if limit else ():
                if account.used >= share * limit:
                    body = self._periods.body(account) | {"share": share}
                    alerts.raise_(self._ledger, f"budget:{account.name}:{share:g}", body)
        return bool(accounts)


def _left(account: Account) -> int:
    left = account.left
    return LARGEST if left is None else left


def _room(account: Account, limit: int) -> int:
    """What ``limit`` would leave: another process may have set another."""
    return max(0, limit - account.used - account.held)


def _words(account: Account, limit: int) -> str:
    if account.period == CREDIT:
        return f"its credit of {dollars(NanoUSD(limit))}"
    whose = account.provider or "all providers"
    return f"the {account.period}'s budget of {whose} ({dollars(NanoUSD(limit))})"


def _week_over(now: datetime) -> float:
    _, since, until = span(Period.WEEK, now.date())
    return (now - since) / (until - since)
