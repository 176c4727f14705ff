"""A small market of GPUs, after Vast.ai's. Guarantee: an ask can be rented once, at the price it shows.

Evidence, unless a line says otherwise: vastai 1.9.1 as installed (``offers`` = vastai/cli/commands/offers.py,
``query`` = vastai/api/query.py, ``offer`` = vastai/data/offer.py). Money is nano-dollars per hour inside, and
dollars as JSON numbers on the wire. What nobody publishes is ours: how a price comes about, and by how much
one bid has to beat another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NANO = 1_000_000_000
HOURS_A_MONTH = 24 * 30  # vastai/cli/commands/price_increase.py:39
STEP = NANO // 1000  # a bid beats another by this: the smallest price the API takes (0.001)


class Query(ValueError):
    """A search that the market does not understand."""


@dataclass(slots=True)
class Slot:
    """One machine of one host. name, ram_mb, capability, cuda, dlperf: its GPU as Vast names it.

    base: on-demand nano-dollars an hour for the GPU. floor: the host's least bid. rival: the highest bid of
    somebody else, 0 for none. disk: nano-dollars a GB and month.
    """

    number: int
    name: str
    ram_mb: int
    capability: int
    dlperf: float
    base: int
    floor: int
    rival: int = 0
    disk: int = NANO // 5
    reliability: float = 0.995
    verified: bool = True
    ports: int = 100
    cuda: float = 12.8
    down_mbps: float = 900.0
    days: float = 30.0

    @property
    def min_bid(self) -> int:
        """What a bid must reach now."""
        return max(self.floor, self.rival + STEP if self.rival else 0)

    def disk_nano(self, gigabytes: float) -> int:
        """Nano-dollars an hour for that much disk."""
        return round(self.disk * gigabytes / HOURS_A_MONTH)


# Names, memory and capability as the market shows them; prices near those of the shared reference page §5
# (read 2026-11-23), dlperf round numbers in the GPUs' order.
_SHOWN = (
    ("RTX 3090", 24576, 860, 42.0, 250, 180), ("RTX 4090", 24564, 890, 95.0, 400, 310),
    ("RTX 4090", 24564, 890, 96.5, 420, 290), ("L4", 23034, 890, 36.0, 330, 240),
    ("Tesla T4", 15360, 750, 17.0, 150, 90), ("A100 SXM4", 81920, 800, 160.0, 870, 640),
    ("H100 SXM", 81559, 900, 410.0, 2400, 1800), ("RTX 3060", 12288, 860, 22.0, 80, 50),
)  # fmt: skip


def shown() -> list[Slot]:
    """The machines of a fresh market: each GPU at several hosts, each a little dearer than the last; two
    that nobody should rent."""
    slots = [
        Slot(8 * host + i, name, ram, cap, perf, base * NANO // 1000 * (100 + 3 * host) // 100,
             floor * NANO // 1000 * (100 + 3 * host) // 100)
        for host in range(4) for i, (name, ram, cap, perf, base, floor) in enumerate(_SHOWN)
    ]  # fmt: skip
    cheap = Slot(len(slots), "RTX 4090", 24564, 890, 95.0, NANO // 100, NANO // 200, verified=False)
    shut = Slot(len(slots) + 1, "RTX 4090", 24564, 890, 95.0, NANO // 100, NANO // 200, ports=0)
    return [*slots, cheap, shut]


class Market:
    """The slots, and what of them is on offer. used: slot number → contracts it ever had, and whether one
    of them holds it now. drift: by how much prices move, up or down, at each search."""

    def __init__(self, used: Callable[[int], tuple[int, bool]], *, drift: float, seed: int) -> None:
        self.slots = shown()
        self._used, self._drift, self._random = used, drift, random.Random(seed)

    def ask_id(self, slot: Slot) -> int:
        """The ask of a slot as it stands: another one after each contract ("Each offer ID can only be used
        to create one instance", vastai/cli/commands/instances.py, create instance)."""
        return 10_000_000 + 1000 * slot.number + self._used(slot.number)[0]

    def find(self, ask: int) -> tuple[Slot | None, bool]:
        """The slot of an ask that can be rented, or None; and whether that ask was ever there."""
        number, contract = divmod(ask - 10_000_000, 1000)
        if not 0 <= number < len(self.slots):
            return None, False
        count, held = self._used(number)
        return (self.slots[number] if contract == count and not held else None), contract <= count

    def search(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The offers of POST /bundles/ (vastai/api/offers.py:33-56). Raises Query."""
        for slot in self.slots if self._drift else ():
            slot.base = max(STEP, round(slot.base * (1 + self._drift * self._random.uniform(-1, 1))))
        kind = query.get("type", "on-demand")
        if kind not in ("on-demand", "bid", "reserved"):
            raise Query(f"no offers of type {kind!r}")
        disk = float(query.get("allocated_storage", 5.0))
        rows = [row for row in self._rows(kind, disk) if _fits(row, query)]
        order = query.get("order") or [["score", "desc"]]
        for name, direction in reversed(order):
            if rows and name not in rows[0]:
                raise Query(f"no field {name!r} to sort by")
            rows.sort(key=lambda row: row[name], reverse=direction == "desc")
        return rows[: int(query.get("limit") or 64)]

    def _rows(self, kind: str, disk: float) -> Iterator[dict[str, Any]]:
        for slot in self.slots:
            if not self._used(slot.number)[1]:
                yield self.row(slot, kind, disk)

    def row(self, slot: Slot, kind: str, disk_gb: float) -> dict[str, Any]:
        """One offer, every field that the command line shows or can ask for (offers:72-117, offer:6-97)."""
        gpu = slot.min_bid if kind == "bid" else slot.base
        disk = slot.disk_nano(disk_gb)
        total = (gpu + disk) / NANO
        ask = self.ask_id(slot)
        return {
            "id": ask, "ask_contract_id": ask, "machine_id": 40_000 + slot.number,
            "host_id": 900 + slot.number % 7, "gpu_name": slot.name, "num_gpus": 1, "gpu_ram": slot.ram_mb,
            "gpu_total_ram": slot.ram_mb, "gpu_frac": 1.0, "gpu_arch": "nvidia", "gpu_mem_bw": 900.0,
            "gpu_max_power": 350.0, "gpu_max_temp": 90.0, "gpu_display_active": False,
            "compute_cap": slot.capability, "cuda_max_good": slot.cuda, "bw_nvlink": 0.0,
            "cpu_name": "Xeon", "cpu_cores": 16, "cpu_cores_effective": 16.0, "cpu_ghz": 2.6,
            "cpu_ram": 64_000, "cpu_arch": "amd64", "disk_space": 400.0, "disk_bw": 2000.0,
            "inet_up": 600.0, "inet_down": slot.down_mbps, "inet_up_cost": 0.002, "inet_down_cost": 0.002,
            "direct_port_count": slot.ports, "pci_gen": 4.0, "pcie_bw": 22.0, "mobo_name": "board",
            "driver_version": "570.86.15", "has_avx": 1, "dph_base": gpu / NANO, "dph_total": total,
            "min_bid": slot.min_bid / NANO, "dlperf": slot.dlperf, "dlperf_per_dphtotal": slot.dlperf / total,
            "total_flops": slot.dlperf, "flops_per_dphtotal": slot.dlperf / total,
            "score": slot.dlperf / total, "storage_cost": slot.disk / NANO,
            "storage_total_cost": disk / NANO, "rentable": True, "rented": False, "is_bid": kind == "bid",
            "external": False, "geolocation": "Sweden, SE", "datacenter": False, "ubuntu_version": "22.04",
            "reliability": slot.reliability, "reliability2": slot.reliability, "static_ip": True,
            "verified": slot.verified, "verification": "verified" if slot.verified else "unverified",
            "vms_enabled": False, "duration": slot.days * 86400, "cluster_id": None,
            "public_ipaddr": "127.0.0.1", "discounted_dph_total": total,
        }  # fmt: skip


_NOT_FILTERS = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling"})
_OPS: dict[str, Callable[[Any, Any], bool]] = {  # query:318-337
    "eq": lambda a, b: bool(a == b), "neq": lambda a, b: bool(a != b), "gt": lambda a, b: bool(a > b),
    "gte": lambda a, b: bool(a >= b), "lt": lambda a, b: bool(a < b), "lte": lambda a, b: bool(a <= b),
    "in": lambda a, b: a in b, "notin": lambda a, b: a not in b,
}  # fmt: skip


def _fits(row: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether a row passes every filter {field: {operator: value}}."""
    for name, tests in query.items():
        if name in _NOT_FILTERS:
            continue
        if name not in row or not isinstance(tests, Mapping) or set(tests) - set(_OPS):
            raise Query(f"no filter {name!r}: {tests!r}")
        if not all(_OPS[op](row[name], _as(row[name], value)) for op, value in tests.items()):
            return False
    return True


def _as(like: Any, value: Any) -> Any:
    """A filter's value in the type of the field: the command line sends numbers as text (query:380-394)."""
    if isinstance(value, list):
        return [_as(like, one) for one in value]
    try:
        return float(value) if isinstance(like, int | float) and isinstance(value, str) else value
    except ValueError:
        raise Query(f"{value!r} is no number") from None
