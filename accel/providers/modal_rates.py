"""What Modal's GPUs are and cost. Guarantee: a price names its source and day; a doubtful one is not taken.

Modal tells its rates (``WorkspaceBillingRates``, modal 1.6.4, _workspace.py:357-374), but neither their
names nor their units are known offline: a rate is taken when its name holds the GPU's and its value, read as
dollars an hour or a second, lies within a factor of ``DOUBT`` of the shipped one. Else the snapshot is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from accel.core.money import NanoUSD, Rate
from accel.core.offer import Gpu
from accel.core.task import Need
from accel.providers.cards import card, numerics
from accel.providers.prices import price

NANO = 1_000_000_000
DOUBT = Decimal(3)
# What a container of ours asks for beside its GPU. torch and a small model take about 2 GiB.
CORES, MEMORY_GIB = 2, 4
# Dollars an hour of a core and of a GiB: from memory of modal.com/pricing, NOT confirmed by a dated source.
CORE, GIB = Decimal("0.0473"), Decimal("0.008")
BESIDE = "CPU and memory from memory of modal.com/pricing, not confirmed"
# Modal's name → the words that its rate's name must hold. ``H100!`` forbids an upgrade to an H200, which
# ``H100`` allows (Modal's docs on GPUs, 2026): what was measured must be what was asked for.
NAMES: dict[str, tuple[str, ...]] = {
    "T4": ("t4",), "L4": ("l4",), "A10": ("a10",), "L40S": ("l40s",), "A100-40GB": ("a100", "40gb"),
    "A100-80GB": ("a100", "80gb"), "H100!": ("h100",), "H200": ("h200",), "B200": ("b200",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sold:
    """One GPU that Modal sells: its name there, what it is, and what an hour of a container with it costs."""

    name: str
    gpu: Gpu
    rate: Rate


def catalogue(told: Mapping[str, str], today: date) -> list[Sold]:
    """Every GPU with a price, the cheapest first. told: Modal's rates, or nothing."""
    rows = [sold for name in NAMES if (sold := _sold(name, told, today)) is not None]
    return sorted(rows, key=lambda s: s.rate.nano_per_hour)


def fitting(rows: Iterable[Sold], need: Need) -> Sold | str:
    """The first that meets ``need``, or why none does."""
    found = [s for s in rows if s.gpu.vram_bytes >= need.vram_bytes and s.gpu.capability >= need.capability]
    if not found:
        return (f"no GPU that Modal has a known price for has {need.vram_bytes / 2**30:.0f} GiB and compute "
                f"capability {need.capability / 10:.1f}")  # fmt: skip
    exact = [s for s in found if need.numerics in numerics(s.gpu.capability)]
    return exact[0] if exact else f"no such GPU computes {need.numerics}"


def _sold(name: str, told: Mapping[str, str], today: date) -> Sold | None:
    gpu = card(name.replace("-", " ").removesuffix("!"))
    if gpu is None:
        return None
    listed = price("modal", gpu.name, "function")
    known = Decimal(listed.rate.nano_per_hour) / NANO if listed else None
    live = _hourly(NAMES[name], told, known)
    core, gib = _hourly(("cpu",), told, CORE), _hourly(("memory",), told, GIB)
    beside = (core or CORE) * CORES + (gib or GIB) * MEMORY_GIB
    if live is not None:
        source = "Modal's billing rates" if core and gib else f"Modal's billing rates; {BESIDE}"
        return Sold(name, gpu, Rate(_nano(live + beside), today, source))
    if listed is None or known is None:
        return None
    return Sold(name, gpu, Rate(_nano(known + beside), listed.rate.as_of, f"{listed.rate.source}; {BESIDE}"))


def _hourly(words: tuple[str, ...], told: Mapping[str, str], known: Decimal | None) -> Decimal | None:
    """Dollars an hour of the one rate whose name holds ``words``; None for a doubtful one, or several."""
    found = []
    for key, value in told.items():
        parts = set(re.sub(r"(?<=\d)(?=gb)|[^a-z0-9]+", " ", key.lower()).replace(" gb", "gb").split())
        if parts >= set(words):
            found.append(value)
    if len(found) != 1 or known is None:
        return None
    try:
        told_value = Decimal(found[0])
    except InvalidOperation:
        return None
    for hourly in (told_value, told_value * 3600):
        if told_value.is_finite() and known / DOUBT <= hourly <= known * DOUBT:
            return hourly
    return None


def _nano(dollars: Decimal) -> NanoUSD:
    """Whole nano-dollars, rounded up: an estimate is never below the charge."""
    return NanoUSD(int((dollars * NANO).to_integral_value(rounding="ROUND_CEILING")))
