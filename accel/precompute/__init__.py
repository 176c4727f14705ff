"""A corpus embedded in the batch lane, by many at once, so that the live lane needs only the query.

``shards`` cuts it, ``places`` says who takes part, ``driver`` carries it to its end.
"""

from accel.precompute.driver import precompute
from accel.precompute.places import Place, Plan, plan
from accel.precompute.results import Made, Precomputed, Told
from accel.precompute.shards import SHARD, Shard, cut, is_shard

__all__ = [
    "SHARD", "Made", "Place", "Plan", "Precomputed", "Shard", "Told", "cut", "is_shard", "plan", "precompute",
]  # fmt: skip
