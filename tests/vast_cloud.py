"""A provider for a sandbox Vast.ai, and orders for it: what its tests share."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import stub_end

from accel.core.lease import Intent
from accel.core.money import NanoUSD, Rate
from accel.core.offer import CPU, Offer, Realm
from accel.core.runtime import Runtime
from accel.providers.vast import VastProvider
from accel.sandbox.vast import VastSandbox

RUNTIME = Runtime.production()
_NUMBER = itertools.count()


def provider_for(sandbox: VastSandbox, **more: Any) -> VastProvider:
    """An adapter with the stub's wheel and certificate, and short waits; more: other arguments."""
    given: dict[str, Any] = {
        "key": sandbox.key, "runtime": RUNTIME, "token": lambda name: f"{stub_end.TOKEN}-{name}",
        "certificate": lambda _: stub_end.certificate(), "realm": Realm.SANDBOX, "endpoint": sandbox.url,
        "wheel": stub_end.wheel, "needs": "", "call_s": 5, "boot_s": 30, "poll_s": 0.05,
    }  # fmt: skip
    return VastProvider(**{**given, **more})


def asks(sandbox: VastSandbox) -> list[int]:
    """Every ask that can be rented, the dearest first: the two bad ones last."""
    rows = sandbox.app.instances.market.search({"order": [["dph_total", "desc"]]})
    return [row["id"] for row in rows]


def offer_of(ask: int) -> Offer:
    """An on-demand offer of an ask, at a rate that none is above."""
    rate = Rate(NanoUSD(50_000_000_000), RUNTIME.now().date(), "test")
    return Offer(f"vast/{ask}", "vast", Realm.SANDBOX, CPU, rate, RUNTIME.now(), "test", exclusive=True)


def intent_on(
    offer: Offer, folder: Path | None = None, seconds: float = 0.05, lifetime_s: float = 120.0
) -> Intent:
    """A fresh intent. folder: for the bundle of a job of ``seconds``; None: a machine without a job."""
    n = next(_NUMBER)
    bundle = stub_end.bundle(folder / f"bundle-{n}", seconds, f"t{n}") if folder else None
    return Intent(f"i{n}", f"t{n}", offer, f"accel-i{n}", lifetime_s, RUNTIME.now(), bundle)
