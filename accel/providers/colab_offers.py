"""What an account may have, as an offer. Guarantee: a balance, or a rate, that is not known is never guessed.

Colab's accelerators by its own names, cheapest first: T4, L4, V100, A100 (40 GB), G4 (RTX PRO 6000), H100
(google-colab-cli 0.7.5, client.py:68-76; which of them an account may have, the API tells). Compute units are
paid beforehand: an hour costs units, of which a balance is left, and no money is billed by the second. How
many an hour costs, Google publishes nowhere that we have read: a person's own figure, with its day and
source, turns a balance into hours (``UNITS``, where the person has no newer one); without one the balance is
shown in units alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType

from accel.core.lease import Intent
from accel.core.money import ZERO, Rate
from accel.core.offer import Billing, Gpu, Offer, Realm, Unfit
from accel.core.task import Lane, Need
from accel.providers.cards import card, numerics
from accel.providers.colab_auth import NAME
from accel.providers.colab_calls import PAID, Account

# Colab's name → the name in ``cards``, the cheapest first
ACCELERATORS = {"T4": "T4", "L4": "L4", "V100": "V100", "A100": "A100 40GB", "G4": "RTX PRO 6000",
                "H100": "H100"}  # fmt: skip
SECONDS_PER_BYTE_PRIOR = 1e-6  # 1 MB/s, an ordinary line's upload


@dataclass(frozen=True, slots=True)
class UnitRate:
    """Compute units that an hour of one accelerator takes, on which day, and who says so."""

    per_hour: float
    as_of: date
    source: str


# What a user read off his own account, years ago: newer accelerators are not in it, and rates have moved.
_MEASURED = "a Pro+ user's own account, www.currypurin.com/entry/2022/09/30/093810"
UNITS: Mapping[str, UnitRate] = MappingProxyType({
    name: UnitRate(per_hour, date(2022, 9, 30), _MEASURED)
    for name, per_hour in (("T4", 1.96), ("V100", 5.36), ("A100", 13.08))
})  # fmt: skip


def unfit(need: Need) -> str:
    """Why ``need`` cannot be met whatever the account is; "" if nothing speaks against it."""
    if need.only and NAME not in need.only:
        return "not among the providers that were allowed"
    if need.lane is not Lane.BATCH:
        return "it runs bounded jobs, and serves nobody"
    if need.index:
        return "no index stays there between jobs"
    return ""


def offered(
    account: Account, busy: Sequence[str], need: Need, realm: Realm, now: datetime, *, cold_s: float,
    units: Mapping[str, UnitRate],
) -> Offer | Unfit:  # fmt: skip
    """The cheapest accelerator that ``need`` fits on. busy: names of runtimes that the account has now."""
    if busy and not (account.unattended and account.tier in PAID):
        one = "free accounts have one runtime at once" if not account.unattended else "one runtime at once"
        return Unfit(NAME, realm, f"{one}, and {busy[0]} is there", now)
    if not account.accelerators:
        return Unfit(NAME, realm, "this account may have no GPU now", now)
    fit = [(n, g) for n in ACCELERATORS if n in account.accelerators and (g := _gpu(n)) and _fits(g, need)]
    if not fit:
        have = ", ".join(sorted(account.accelerators))
        return Unfit(NAME, realm, f"none that fits is open to this account: it may have {have}", now)
    name, gpu = fit[0]
    rate, left_s, told = units.get(name), None, _told(account)
    if rate is not None and rate.per_hour > 0 and account.unattended and account.balance is not None:
        left_s = account.balance / rate.per_hour * 3600
        told += f"; {rate.per_hour:g} units an hour ({rate.source}, {rate.as_of})"
    return Offer(
        id=f"{NAME}-{realm}-{name.lower()}", provider=NAME, realm=realm, gpu=gpu, as_of=now,
        rate=Rate(ZERO, now.date(), f"Colab: {told}"),
        source="Colab's API; cold start and transfer are priors, not measured",
        lanes=frozenset({Lane.BATCH}), numerics=numerics(gpu.capability), cold_s=cold_s,
        billing=Billing.QUOTA, quota_left_s=left_s, interruptible=True,
        seconds_per_byte=SECONDS_PER_BYTE_PRIOR if realm is Realm.REAL else 0.0,
    )  # fmt: skip


def one_question(account: Account, intent: Intent) -> str:
    """What a person is asked before a runtime of the free tier is begun."""
    return (
        f"Colab: {_told(account)}. Its terms allow a free runtime only while you are here and have started "
        f"it yourself. Start one {intent.offer.gpu.name} for job {intent.task_id} now, and stay with it?"
    )


def _told(account: Account) -> str:
    tier = account.tier.replace("_PLUS", "+").title() if account.tier else "unknown (counts as free)"
    balance = "not told (counts as none)" if account.balance is None else f"{account.balance:g}"
    return f"tier {tier}, compute units left {balance}"


def _gpu(name: str) -> Gpu | None:
    return card(ACCELERATORS[name])


def _fits(gpu: Gpu, need: Need) -> bool:
    enough = need.capability <= gpu.capability and need.vram_bytes <= gpu.vram_bytes
    return enough and need.numerics in numerics(gpu.capability)
