"""What of Vast.ai's market fits a need, and in which order. Guarantee: a row that lacks a field is none.

Pure. The market is asked for what we need, and what it answers is checked again: a filter that it does not
know is no filter. Fields: vastai 1.9.1, cli/commands/offers.py:72-117 and data/offer.py. Ranked by price per
unit of work: dollars an hour over ``dlperf``, Vast.ai's own benchmark of the very machine.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accel.core.errors import ProviderError
from accel.core.money import NanoUSD, Rate, dollars
from accel.core.offer import Gpu, Offer, Realm
from accel.core.task import Lane, Need, Numerics
from accel.providers.cards import card, numerics
from accel.providers.vast_calls import NAME, nano

HOURS_A_MONTH = 24 * 30  # vastai 1.9.1, cli/commands/price_increase.py:39
STEP = 100_000  # nano-dollars: bids are told in hundredths of a cent
ROWS = 64
ROUND_TRIP_PRIOR_S = 0.1  # until attempts have measured it; hosts are all over the world
SECONDS_PER_BYTE_PRIOR = 1e-6  # 1 MB/s, an ordinary line's upload


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of every machine. disk_gb: rented with it. reliability: Vast.ai's own score. cuda: the
    driver's least version. duration_s: how long its host lets it. down_mbps: least; the wheels of torch are
    gigabytes. margin: a bid is the least one times this."""

    disk_gb: float = 24.0
    reliability: float = 0.98
    cuda: float = 12.8  # what torch 2.10's default wheels are built for
    duration_s: float = 4 * 3600.0
    down_mbps: float = 100.0
    margin: float = 1.1


@dataclass(frozen=True, slots=True)
class Quote:
    """One ask and what we would pay. bid: nano-dollars an hour for the GPU, None on demand. disk:
    nano-dollars an hour for the disk alone, also while stopped. total: both. dlperf: its throughput."""

    ask: int
    gpu: Gpu
    total: int
    disk: int
    dlperf: float
    bid: int | None
    down_usd_per_gb: float
    down_mbps: float

    @property
    def per_work(self) -> float:
        """Nano-dollars an hour for one point of ``dlperf``."""
        return self.total / self.dlperf


def least_capability(need: Need) -> int:
    """The compute capability that the need's arithmetic asks for, and that torch's wheels are built for."""
    arithmetic = {Numerics.BF16: 80, Numerics.TF32: 80}.get(need.numerics, 75)
    return max(75, need.capability, arithmetic)


def query(need: Need, wishes: Wishes, *, bid: bool, ask: int | None = None) -> dict[str, Any]:
    """The body of POST /bundles/ (vastai/api/offers.py:33-56): gpu_ram in MB, duration in seconds, as the
    dictionary form has them (query.py:160-165)."""
    filters: dict[str, Any] = {
        "verified": {"eq": True}, "external": {"eq": False}, "rentable": {"eq": True},
        "num_gpus": {"eq": 1}, "gpu_ram": {"gte": need.vram_bytes / 2**20},
        "compute_cap": {"gte": 10 * least_capability(need)}, "cuda_max_good": {"gte": wishes.cuda},
        "reliability": {"gte": wishes.reliability}, "direct_port_count": {"gte": 1},
        "disk_space": {"gte": wishes.disk_gb}, "duration": {"gte": wishes.duration_s},
        "inet_down": {"gte": wishes.down_mbps}, "gpu_arch": {"eq": "nvidia"}, "cpu_arch": {"eq": "amd64"},
    }  # fmt: skip
    if ask is not None:
        filters["id"] = {"eq": ask}
    return {
        **filters, "order": [["dlperf_per_dphtotal", "desc"]], "type": "bid" if bid else "on-demand",
        "limit": ROWS, "allocated_storage": wishes.disk_gb,
    }  # fmt: skip


def quotes(
    rows: Iterable[Mapping[str, Any]], need: Need, wishes: Wishes, *, bid: bool,
    taken: Collection[str] = (),
) -> list[Quote]:  # fmt: skip
    """The rows that fit, the cheapest work first; none that is ``taken`` (offer ids)."""
    found = []
    for row in rows:
        try:
            quote = _quote(row, wishes, bid)
            fits = (
                row["rentable"] is True and int(row["num_gpus"]) == 1 and int(row["direct_port_count"]) >= 1
                and float(row["reliability"]) >= wishes.reliability
                and quote.gpu.vram_bytes >= need.vram_bytes
                and quote.gpu.capability >= least_capability(need)
                and need.numerics in numerics(quote.gpu.capability)
                and (row.get("verified") is True or row.get("verification") == "verified")
            )
        except (KeyError, TypeError, ValueError, ArithmeticError, ProviderError):
            continue
        if fits and quote.dlperf > 0 and quote.total > 0 and offer_id(quote.ask) not in taken:
            found.append(quote)
    return sorted(found, key=lambda q: (q.per_work, q.ask))


def offer_id(ask: int) -> str:
    """An ask can be rented once: its number is the offer's."""
    return f"vast/{ask}"


def offered(
    quote: Quote, need: Need, wishes: Wishes, realm: Realm, now: datetime, *, cold_s: float, told: str
) -> Offer:  # fmt: skip
    """The offer of a quote. cold_s: a prior. told: what else its source is to say."""
    disk = f"{dollars(NanoUSD(quote.disk))} of it for {wishes.disk_gb:g} GB of disk"
    how = "on demand" if quote.bid is None else f"a bid of the least one × {wishes.margin:g}"
    said = f"Vast.ai's market, {how}, {disk}, which a stopped machine costs too"
    here = realm is Realm.SANDBOX
    return Offer(
        id=offer_id(quote.ask), provider=NAME, realm=realm, gpu=quote.gpu, as_of=now,
        rate=Rate(NanoUSD(quote.total), now.date(), said),
        source=f"ask {quote.ask}: {said}; DLPerf {quote.dlperf:.0f}; traffic into it costs "
               f"${quote.down_usd_per_gb:g} a GB more; {told}; times are priors",
        lanes=frozenset(Lane), numerics=numerics(quote.gpu.capability), cold_s=cold_s,
        round_trip_s=0.0 if here else ROUND_TRIP_PRIOR_S,
        seconds_per_byte=0.0 if here else max(SECONDS_PER_BYTE_PRIOR, 8e-6 / quote.down_mbps),
        interruptible=quote.bid is not None, exclusive=True,
        movable=frozenset({need.index} if need.index else ()),
    )  # fmt: skip


def _quote(row: Mapping[str, Any], wishes: Wishes, bid: bool) -> Quote:
    name, ram_mb = str(row["gpu_name"]), int(row["gpu_ram"])
    known = card(name, ram_mb / 1024)
    gpu = Gpu(known.name if known else name, 1, ram_mb << 20, int(row["compute_cap"]) // 10)
    month = math.ceil(nano(row["storage_cost"]) * wishes.disk_gb / HOURS_A_MONTH)
    told = row.get("storage_total_cost")
    disk = month if told is None else nano(told)
    price = None
    total = nano(row["dph_total"])  # with the disk that was asked for
    if bid:
        price = math.ceil(nano(row["min_bid"]) * wishes.margin / STEP) * STEP
        total = price + disk
    return Quote(
        int(row["id"]), gpu, total, disk, float(row["dlperf"]), price, float(row.get("inet_down_cost") or 0),
        float(row["inet_down"]),
    )  # fmt: skip
