"""What a task would take on an offer. Guarantee: every estimate says if it is a prior or measured.

The prior is arithmetic: the stage's FLOPs over a data-sheet peak times an achieved fraction, or its
bytes over the memory rate, whichever is longer, plus the way there and back. It is replaced by the medians of
this provider's own attempts on tasks of a similar size (``Standing.measured``), of the same realm.

Transfer and compute together are taken to be log-normal; queue and cold start are added as they are.
"""

from __future__ import annotations

import math

from accel.core.attempt import Estimate, Timing
from accel.core.money import Basis, Cost
from accel.core.offer import Offer
from accel.core.task import Numerics, Task
from accel.routing.gpus import sheet
from accel.routing.standing import Standing

# all-MiniLM-L6-v2 has 10.6 M matmul parameters, two FLOPs each: 21.4 MFLOP per token. Other models
# differ; their measured attempts soon replace this prior.
FLOP_PER_TOKEN = 21.4e6
# Achieved share of the fp16 peak by a good server of small encoders (TEI on an L4: 62k tokens/s of
# bge-large, about 33 %), and of the memory rate by exact search (public figures: 29-68 %).
ACHIEVED_FLOPS = 0.3
ACHIEVED_MEMORY = 0.5
# One core of a 2024 server Xeon running this model in fp32: 36 texts of 256 tokens per second on two
# cores, measured 2026-11-23.
CPU_FLOPS_PER_CORE = 1.1e11
CPU_MEMORY = 8e9
# Standard deviation of log seconds before anything is measured: one estimate in twenty is off by more than
# 2.7 times, about as far as data-sheet arithmetic is from the public figures above.
SPREAD = 0.5


def estimate(task: Task, offer: Offer, standing: Standing) -> Estimate:
    """Expected seconds and money of ``task`` on ``offer``.

    Wait is the offer's queue (or what was measured) and our own for a free place. Cold start is none where
    the offer says that it is warm now, else what was measured, else the offer's figure. Money is the
    offer's rate over cold start, transfer and compute: per-second billing starts when the machine is ours.
    """
    known = standing.measured
    if known is not None:
        t = known.timing
        cold_s = (t.cold_s or offer.cold_s) if offer.cold_s else 0.0
        timing = Timing(t.wait_s + standing.queue_s, cold_s, t.transfer_s, t.compute_s)
        spread, basis = known.spread, f"measured n={known.n}"
    else:
        transfer_s = offer.round_trip_s + offer.seconds_per_byte * task.size.bytes
        timing = Timing(
            offer.wait_s + standing.queue_s, offer.cold_s, transfer_s, _prior_compute_s(task, offer)
        )
        spread, basis = SPREAD, "prior"
    billed_s = timing.cold_s + timing.transfer_s + timing.compute_s
    cost = Cost(offer.rate.cost(billed_s), Basis.ESTIMATED)
    return Estimate(timing, cost, basis, spread, standing.success)


def in_time(expected: Estimate, within_s: float, *, warm: bool = False) -> float:
    """Probability that a try which succeeds does so within ``within_s``; warm: were there no cold start."""
    t = expected.timing
    left_s = within_s - t.wait_s - (0.0 if warm else t.cold_s)
    if left_s <= 0:
        return 0.0
    work_s = t.transfer_s + t.compute_s
    if work_s <= 0:
        return 1.0
    z = (math.log(work_s) - math.log(left_s)) / max(expected.spread, 1e-3)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _prior_compute_s(task: Task, offer: Offer) -> float:
    flops = task.size.tokens * FLOP_PER_TOKEN
    data = sheet(offer.gpu.name)
    if data is None:
        cores = max(offer.gpu.count, 1)
        return flops / (CPU_FLOPS_PER_CORE * cores) + task.size.read_bytes / CPU_MEMORY
    peak = data.fp32 if task.spec.numerics is Numerics.FP32 else data.fp16
    return max(
        flops / (peak * ACHIEVED_FLOPS), task.size.read_bytes / (data.memory * ACHIEVED_MEMORY)
    )
