"""What of RunPod's catalogue fits a need. Guarantee: a GPU without a price, or an unknown one, is no offer.

The catalogue tells prices and stock live; a price that it does not tell is taken from the shipped snapshot,
and its source says so. Of what fits, the cheapest: a catalogue's stock is a hint, not a promise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from accel.core.lease import Lease
from accel.core.money import Rate
from accel.core.offer import Gpu, Realm
from accel.core.task import Need, Numerics
from accel.providers.cards import card, numerics
from accel.providers.prices import price
from accel.providers.runpod_calls import NAME, RUNSYNC_BYTES, nano
from accel.providers.runpod_serverless import index_bytes

# How a cloud's price is named in [GpuType]; and in the snapshot.
KINDS = {"SECURE": "secure", "COMMUNITY": "community"}
# Container disk, a GB: $0.10 a month of 720 h (docs pods/pricing.mdx, 2026-08-20; the month is ours).
DISK_NANO = 138_889
LONGEST = timedelta(days=7)  # no pod of ours is rented for longer


@dataclass(frozen=True, slots=True)
class Found:
    """One GPU type. id: RunPod's. kind: SECURE, COMMUNITY or SERVERLESS."""

    id: str
    kind: str
    gpu: Gpu
    rate: Rate

    @property
    def numerics(self) -> frozenset[Numerics]:
        return numerics(self.gpu.capability)


def choose(
    rows: Sequence[Mapping[str, Any]], need: Need, kind: str, pools: Sequence[str], today: date
) -> Found | str:
    """The cheapest of what fits ``need`` and is there, or why nothing is.

    kind: SECURE, COMMUNITY or SERVERLESS. pools: for SERVERLESS, whose workers may get any of their GPUs: the
    dearest and the least of them count.
    """
    known = [found for row in rows if (found := _read(row, kind, today)) is not None]
    if kind == "SERVERLESS":
        known = [(row, f) for row, f in known if row.get("pool") in pools]
        if not known:
            return f"no GPU of its pools {', '.join(pools)} is in its catalogue"
        return _pooled(known, need, pools)
    fitting = [(row, found) for row, found in known if not _lacks(found, need)]
    if not fitting:
        return "none of its GPUs has what is needed"
    free = [found for row, found in fitting if row.get("availability") != "NONE"]
    if not free:
        return f"no GPU that fits is free on its {kind.lower()} cloud"
    return min(free, key=lambda f: (f.rate.nano_per_hour, -f.gpu.vram_bytes))


def _pooled(
    known: Sequence[tuple[Mapping[str, Any], Found]], need: Need, pools: Sequence[str]
) -> Found | str:
    for _, found in known:
        if lack := _lacks(found, need):
            return f"a worker of its pools {', '.join(pools)} may be a {found.gpu.name}, which has {lack}"
    if all(row.get("availability") == "NONE" for row, _ in known):
        return f"nothing of its pools {', '.join(pools)} is free"
    return max((found for _, found in known), key=lambda f: f.rate.nano_per_hour)


def _read(
    row: Mapping[str, Any], kind: str, today: date
) -> tuple[Mapping[str, Any], Found] | None:
    """A row of the catalogue; None for what cannot be rented so, or is of a model that nobody here knows."""
    ident, memory = str(row.get("id", "")), row.get("memory")
    gpu = card(ident, float(memory) if isinstance(memory, int | float) else 0.0)
    prices = row.get("price")
    if gpu is None or not isinstance(prices, Mapping) or row.get(kind.lower()) is False:
        return None
    try:
        told = nano(prices.get(kind.lower(), 0))
    except ValueError:
        told = nano(0)
    if told > 0:
        return row, Found(ident, kind, gpu, Rate(told, today, "RunPod's catalogue"))
    listed = price(NAME, ident, kind.lower())
    return (row, Found(ident, kind, gpu, listed.rate)) if listed else None


def _lacks(found: Found, need: Need) -> str:
    """What of ``need`` the GPU has not, in words; "" if nothing."""
    if need.vram_bytes > found.gpu.vram_bytes:
        return f"{found.gpu.vram_bytes / 2**30:.0f} GiB"
    if need.capability > found.gpu.capability:
        return f"compute capability {found.gpu.capability / 10:.1f}"
    return "" if need.numerics in found.numerics else f"no {need.numerics}"


def too_large(index: Path | None) -> str:
    """Why an index cannot travel to a queue's worker; "" if it can."""
    if index is None:
        return "the index is not here, and cannot be sent there"
    try:
        size = index_bytes(index)
    except (OSError, ValueError, KeyError, TypeError):
        return "the index cannot be read, and not be sent"
    if size > RUNSYNC_BYTES:
        return f"the index takes {size / 1e6:.0f} MB on the way, and its queues take 20 MB"
    return ""


def listed(row: Mapping[str, Any], realm: Realm, remote_id: str, now: datetime) -> Lease:
    """A lease of what a list shows: of its intent nothing is known but the name.

    ends_by: what its environment tells its far end, else a week from its making.
    """
    name = str(row["name"])
    try:
        began = datetime.fromisoformat(str(row["createdAt"]))
    except (KeyError, ValueError):
        began = now
    ends = began + LONGEST
    env = row.get("env")
    told = env.get("ACCEL_ENDS_AT", "") if isinstance(env, Mapping) else ""
    if isinstance(told, str) and told.isdigit() and len(told) < 12:
        ends = datetime.fromtimestamp(int(told), began.tzinfo or now.tzinfo)
    return Lease(name, NAME, realm, name, remote_id, began, ends)
