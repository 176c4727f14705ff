"""What scarce money and free hours are worth now. Guarantee: nothing while they last their window.

Uniform Progress (Wu et al., "Can't Be Late", NSDI 2024) compares what is used of a limit with what is over
of its window; only a lead, use ahead of time, has a price. Both prices are functions of one window and keep
no state, so that a logged decision replays: the pacer of ParetoBandit (``budget_pacer.py``), from whose
dual price and clip ``budget_price`` takes its form, adds up over requests instead.

These are soft. The hard limits are the reservations in the ledger.
"""

from __future__ import annotations

import math

from accel.core.funds import Window
from accel.core.task import Lane

MOST_LAMBDA = 5.0  # ParetoBandit's clip
# Live work may be ahead by a tenth of what is left for the rest of the window for nothing, else the first
# call of every week would be priced and go elsewhere; it pays the whole price at two tenths. Ours.
HEAD_START, FULL_LEAD = 0.1, 0.2
# A GPU hour where no offer has a price: RunPod community cloud in the guide, $0.16.
DEFAULT_PER_S = 0.16 / 3600


def lead(window: Window) -> float:
    """How far use is ahead of time, as a share of what would be left: 0 when it is not, 1 when all is used.

    (used − elapsed) / (1 − elapsed): rises with what is used, falls as time passes. Shares that cannot be
    (a clock that jumped) count as the nearest that can, and what is no number as used up, or not begun.
    """
    used = 1.0 if math.isnan(window.used) else window.used
    elapsed = min(1.0, max(0.0, window.elapsed))  # max(0.0, NaN) is 0.0
    if used <= elapsed:
        return 0.0
    return 1.0 if used >= 1.0 else (used - elapsed) / (1.0 - elapsed)


def budget_price(window: Window | None) -> float:
    """λ: how many times its amount a dollar is worth beside itself, 0 to ``MOST_LAMBDA``."""
    return 0.0 if window is None else MOST_LAMBDA * lead(window)


def quota_price(window: Window | None, lane: Lane, paid_per_s: float | None) -> float:
    """μ: dollars that a second of free quota is worth.

    paid_per_s: what a second costs at the cheapest GPU that is paid for, the most that quota can save;
    None where there is none. Batch work pays nothing while any quota is left: the hours are kept for it.
    Live work pays once it is ahead of uniform progress by more than ``HEAD_START``.
    """
    if window is None:
        return 0.0
    price = DEFAULT_PER_S if paid_per_s is None else paid_per_s
    ahead = lead(window)
    if lane is Lane.BATCH:
        return price if ahead >= 1.0 else 0.0
    return price * min(1.0, max(0.0, ahead - HEAD_START) / (FULL_LEAD - HEAD_START))
