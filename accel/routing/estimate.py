"""What a task would take on an offer. Guarantee: every estimate says if it is a prior or measured.

The prior is arithmetic: the stage's FLOPs over a data-sheet peak times an achieved fraction, or its
bytes over the memory rate, whichever is longer, plus the way there and back. It is replaced by the
medians of this provider's own attempts on tasks of a similar size (``Standing.measured``).

Seconds are taken to be log-normal: their median is the estimate's, and the standard deviation of their
logarithm its ``spread``.
"""

from __future__ import annotations

import functools
import math

from accel.core.attempt import Estimate, Timing
from accel.core.money import Cost, NanoUSD
from accel.core.offer import Billing, Offer
from accel.core.task import Numerics, Task
from accel.routing.gpus import sheet
from accel.routing.standing import Standing

LOCAL = "local"
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
# Spread while nothing is measured; both are ours. At 0.5 the 95th percentile is 2.3 times the median: a
# network and a stranger's machine lie between. At 0.2 it is 1.4 times: this machine has only its own load.
REMOTE_SPREAD = 0.5
LOCAL_SPREAD = 0.2
# Above it a mean of a log-normal is 7.4 medians, and says more about the fit than about the provider.
WIDEST = 2.0
# More than any account can hold: SQLite integers end here.
UNPAYABLE = NanoUSD(2**63)
_UNMEASURED = Standing("")
_SQRT2 = math.sqrt(2.0)
_FREE = Cost()


def estimate(task: Task, offer: Offer, standing: Standing | None = None) -> Estimate:
    """Expected wait, cold start, transfer and compute seconds, and money, of ``task`` on ``offer``.

    Wait and cold start are the offer's own figures unless measured, and the queue of our own calls there is
    waited for besides. Money is asked only where seconds are billed: the offer's rate over cold start,
    transfer and compute (billing starts when the machine is ours); ``UNPAYABLE`` where no account could
    hold it. ``standing`` None: nothing is known of the provider.
    """
    known = standing or _UNMEASURED
    measured = known.measured
    if measured is None:
        transfer_s = offer.round_trip_s + offer.seconds_per_byte * task.size.bytes
        compute_s, basis = _prior_compute_s(task, offer), "prior"
        timing = Timing(offer.wait_s + known.queue_s, offer.cold_s, transfer_s, compute_s)
        spread = LOCAL_SPREAD if offer.provider == LOCAL else REMOTE_SPREAD
    else:
        t, basis, spread = measured.timing, f"measured n={measured.n}", measured.spread
        # warm or cold now, as the offer says, is known better than what most calls found then
        cold_s = (t.cold_s or offer.cold_s) if offer.cold_s else 0.0
        timing = Timing(t.wait_s + known.queue_s, cold_s, t.transfer_s, t.compute_s)
    if offer.billing is Billing.SECONDS:
        cost = _cost(offer, timing.cold_s + timing.transfer_s + timing.compute_s)  # billed_s, of every offer
    else:
        cost = _FREE
    success = known.success if 0.0 <= known.success <= 1.0 else float(known.success > 1.0)
    return Estimate(timing, cost, basis, spread, success)


def billed_s(timing: Timing) -> float:
    """Seconds that a provider counts: waiting for a machine is not among them."""
    return timing.cold_s + timing.transfer_s + timing.compute_s


def awake_s(offer: Offer, standing: Standing | None = None) -> float:
    """Seconds that the far end stays up, beside its work, because of a call now; 0 where nobody tells.

    A call that starts it buys the whole of its idle time; one that finds it warm, or on its start for
    another call of ours, only puts its end off by as long as there was none.
    """
    if offer.idle_s is None:
        return 0.0
    since_s = standing.since_s if standing else None
    if since_s is None or (offer.cold_s and since_s):
        return offer.idle_s
    return min(since_s, offer.idle_s)


def in_time(seconds: float, spread: float, within_s: float | None) -> float:
    """P(done within ``within_s``) of what does succeed: Φ((ln within_s − ln seconds) / spread)."""
    if within_s is None or seconds <= 0:
        return 1.0
    if not spread > 0:
        return 1.0 if seconds <= within_s else 0.0
    return 0.5 * math.erfc((math.log(seconds) - math.log(within_s)) / (spread * _SQRT2))


def chance(expected: Estimate, within_s: float | None) -> float:
    """P(an answer within ``within_s``): the share that succeeds, times P(in time)."""
    return expected.success * in_time(expected.timing.total_s, expected.spread, within_s)


@functools.lru_cache(maxsize=64)  # most offers share one of a few spreads
def mean_factor(spread: float) -> float:
    """The mean of a log-normal over its median, exp(spread² / 2), for spreads up to ``WIDEST``."""
    return math.exp(min(max(0.0, spread), WIDEST) ** 2 / 2)


def _cost(offer: Offer, seconds: float) -> Cost:
    try:
        return Cost(offer.rate.cost(seconds))
    except (ValueError, OverflowError):  # times that cannot be: the filter says so
        return Cost(UNPAYABLE)


def _prior_compute_s(task: Task, offer: Offer) -> float:
    flops = task.size.tokens * FLOP_PER_TOKEN
    data = sheet(offer.gpu.name)
    if data is None:
        cores = max(offer.gpu.count, 1)
        return flops / (CPU_FLOPS_PER_CORE * cores) + task.size.read_bytes / CPU_MEMORY
    peak = data.fp32 if task.spec.numerics is Numerics.FP32 else data.fp16
    computing_s = flops / (peak * ACHIEVED_FLOPS)
    reading_s = task.size.read_bytes / (data.memory * ACHIEVED_MEMORY)
    return computing_s if computing_s >= reading_s else reading_s
