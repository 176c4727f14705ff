"""The budgets of a run. Guarantee: drawn from the seed; in some runs the hard stop is met, not in others."""

from __future__ import annotations

import random

from accel.core.money import NANO, NanoUSD
from accel.ledger import Limits, Period

# dollars that a thousand requests may cost, all in all
SCARCE, ENOUGH, PLENTY = 0.02, 0.2, 5.0


def draw(seed: int, requests: int) -> Limits:
    """Limits per day, week and month, over all and for some providers, and some prepaid credit."""
    chance = random.Random(f"{seed}:limits")
    scale = requests / 1000 * NANO
    whole = chance.choice((SCARCE, SCARCE, ENOUGH, PLENTY)) * (0.5 + chance.random()) * scale

    def part(share: float) -> NanoUSD:
        return NanoUSD(max(1, round(whole * share)))

    caps = {("", Period.MONTH): part(1.0), ("", Period.WEEK): part(0.8), ("", Period.DAY): part(0.6)}
    for name in ("spot-l4", "steady-a100", "batch-l4"):
        if chance.random() < 0.5:
            period = chance.choice(tuple(Period))
            caps[name, period] = part(0.1 + 0.4 * chance.random())
    credits = {"serverless-l4": part(0.2)} if chance.random() < 0.5 else {}
    return Limits(caps, credits)
