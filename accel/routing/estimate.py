"""What a task would take on an offer. Guarantee: every estimate says if it is a prior or measured.

The prior is arithmetic: the stage's FLOPs over a data-sheet peak times an achieved fraction, or its
bytes over the memory rate, whichever is longer, plus the way there and back. It is replaced by the
median of this provider's own attempts, of the same realm, on tasks of a similar size.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from accel.core.attempt import Estimate, Timing
from accel.core.money import Basis, Cost
from accel.core.offer import Offer
from accel.core.task import Numerics, Size, Stage, Task
from accel.routing.gpus import sheet

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
SIMILAR = 4.0  # "a similar size": tokens (or items) within this factor
MIN_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One successful attempt of the past: what estimates learn from."""

    provider: str
    stage: Stage
    size: Size
    timing: Timing


def estimate(task: Task, offer: Offer, history: Sequence[Measured]) -> Estimate:
    """Expected wait, cold start, transfer and compute seconds, and money, of ``task`` on ``offer``.

    Wait and cold start are the offer's own figures unless measured; money is the offer's rate over
    cold start, transfer and compute (per-second billing starts when the machine is ours).
    """
    transfer_s = offer.round_trip_s + offer.seconds_per_byte * task.size.bytes
    similar = [
        m.timing
        for m in history
        if m.provider == offer.provider and m.stage is task.spec.stage and _similar(m.size, task.size)
    ]
    if len(similar) >= MIN_SAMPLES:
        timing = Timing(
            wait_s=statistics.median(t.wait_s for t in similar),
            # warm now is known better than cold then: a resident model has no cold start
            cold_s=min(offer.cold_s, statistics.median(t.cold_s for t in similar)),
            transfer_s=statistics.median(t.transfer_s for t in similar),
            compute_s=statistics.median(t.compute_s for t in similar),
        )
        basis = f"measured n={len(similar)}"
    else:
        timing = Timing(offer.wait_s, offer.cold_s, transfer_s, _prior_compute_s(task, offer))
        basis = "prior"
    billed_s = timing.cold_s + timing.transfer_s + timing.compute_s
    return Estimate(timing, Cost(offer.rate.cost(billed_s), Basis.ESTIMATED), basis)


def _similar(a: Size, b: Size) -> bool:
    x, y = (a.tokens, b.tokens) if a.tokens and b.tokens else (a.items, b.items)
    return max(x, 1) <= SIMILAR * max(y, 1) and max(y, 1) <= SIMILAR * max(x, 1)


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
