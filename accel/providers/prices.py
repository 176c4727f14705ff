"""List prices where a provider does not tell its own. Guarantee: each says its source and its day.

The snapshot ``prices.json`` is shipped and read when it is first asked for. It is a fallback: a price that a
provider tells live goes before it, and whoever shows one of these shows its age (``age_days``). The optional
``gpuhunt`` (extra ``prices``) is another source, asked for one provider at a time.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from typing import Any

from accel.core.errors import UsageError
from accel.core.money import Rate, from_dollars
from accel.providers.cards import card

# Our name → gpuhunt 0.1.34's class that asks the provider itself: its ``query`` loads the catalogues of nine
# providers first and fails as a whole (gpuhunt/_internal/catalog.py:85, 179-206).
_HUNTERS = {"runpod": ("gpuhunt.providers.runpod", "RunpodProvider"),
            "vast": ("gpuhunt.providers.vastai", "VastAIProvider")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Price:
    """An hour of one GPU. gpu: as ``cards`` names it. kind: the provider's way of selling, such as "secure",
    "community", "serverless", "interruptible", "on-demand" or "function". note: what to doubt about it."""

    provider: str
    gpu: str
    kind: str
    rate: Rate
    note: str = ""


@functools.cache
def shipped() -> tuple[Price, ...]:
    """Every row of the snapshot, in its order."""
    rows = json.loads(files("accel.providers").joinpath("prices.json").read_text(encoding="utf-8"))["rows"]
    return tuple(
        Price(
            row["provider"], row["gpu"], row["kind"],
            Rate(from_dollars(row["dollars_per_hour"]), date.fromisoformat(row["as_of"]), row["source"]),
            row.get("note", ""),
        )
        for row in rows
    )  # fmt: skip


def price(provider: str, gpu: str, kind: str, among: Iterable[Price] | None = None) -> Price | None:
    """What ``provider`` asks for ``gpu`` (any provider's name of it) when it sells by ``kind``; or None.

    A row of the very form (PCIe, SXM) goes before one that names none, and the newest before older ones.
    """
    known = card(gpu)
    name = known.name if known else gpu
    rows = [p for p in (shipped() if among is None else among) if (p.provider, p.kind) == (provider, kind)]
    for wanted in (name, name.removesuffix(" PCIe").removesuffix(" SXM")):
        if found := [p for p in rows if p.gpu == wanted]:
            return max(found, key=lambda p: p.rate.as_of)
    return None


def age_days(rate: Rate, today: date) -> int:
    """Whole days since the rate was true; 0 for one of the future."""
    return max(0, (today - rate.as_of).days)


def hunted(
    provider: str, today: date, ask: Callable[[str], Iterable[Any]] | None = None
) -> tuple[Price, ...] | UsageError:
    """``gpuhunt``'s prices of one provider, cheapest first, one row for each GPU and kind.

    Never raises: a provider that fails, or a gpuhunt that is not installed, is returned as the error to show,
    so that one of them does not take the others along. Blocks for seconds. ask: for tests.
    """
    try:
        items = list((ask or _ask_gpuhunt)(provider))
    except ImportError:
        return UsageError("gpuhunt is not installed.", hint="Install it: pip install 'accel[prices]'.")
    except Exception as failed:  # requests, and whatever an answer that has changed makes of its parser
        return UsageError(f"gpuhunt has no prices of {provider} now ({type(failed).__name__}).")
    source = f"gpuhunt, asking {provider}"
    found: dict[tuple[str, str], Price] = {}
    for item in items:
        known = card(str(item.gpu_name or ""), float(item.gpu_memory or 0.0))
        count, dollars = int(item.gpu_count or 0), item.price
        if known is None or count < 1 or not dollars or not dollars > 0:
            continue
        kind = _kind(provider, item)
        rate = Rate(from_dollars(f"{dollars / count:.9f}"), today, source)
        kept = found.get((known.name, kind))
        if kept is None or rate.nano_per_hour < kept.rate.nano_per_hour:
            found[known.name, kind] = Price(provider, known.name, kind, rate)
    return tuple(sorted(found.values(), key=lambda p: p.rate.nano_per_hour))


def _ask_gpuhunt(provider: str) -> Iterable[Any]:
    import importlib

    if provider not in _HUNTERS:
        raise UsageError(f"gpuhunt does not know {provider}.")
    module, name = _HUNTERS[provider]
    hunter = getattr(importlib.import_module(module), name)
    return (hunter.from_env() if hasattr(hunter, "from_env") else hunter()).get()


def _kind(provider: str, item: Any) -> str:
    if provider == "vast":
        return "interruptible" if item.spot else "on-demand"
    # providers/runpod.py:149-154: a secure offer's place is a data centre, a community one's a country
    return "community" if len(str(item.location or "")) == 2 else "secure"
