"""What each place is best for. Guarantee: a small preference that speed or price can always outweigh.

Two priors, each a share of what an offer comes to in dollars, so that they decide where offers are about as
good as each other, at any size of task, and nowhere else:

- ``BEST_FOR``, of ``PLACE_SHARE``: the "best for" of each provider in the guide.
- ``favourites``, of ``GPU_SHARE``: the guide's GPU per stage. Embedding: the fastest; search: where the index
  lies, then the most memory; reranking in batches: an A100-class GPU.

They choose a place, never a Spec: the same model on another GPU, since another model is another vector
space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accel.core.offer import Offer
from accel.core.task import Complexity, Lane, Stage, Task
from accel.routing.candidate import Candidate
from accel.routing.gpus import a100_class

# Ours: less than the prices of one GPU differ between providers (A100 80 GB: $1.19 to $2.50 an hour).
PLACE_SHARE = 0.05
# Ours: what twice the memory costs (A100 of 80 GB $1.19, of 40 GB $1.00, beside $1 for an hour: 9.5 %).
GPU_SHARE = 0.1
# Where "heavy", "large" and "extreme" begin; ours. 64 pairs or more fill a batch on any GPU here; a million
# tokens are 9 s of a T4 at the prior's rate (fp32), a thousand times that 2.4 h; exact search reads GiB.
BATCH_ITEMS = 64
LARGE_TOKENS, LARGE_BYTES = 10**6, 1 << 30
EXTREME_TOKENS, EXTREME_BYTES = 10**9, 1 << 40


@dataclass(frozen=True, slots=True)
class Prior:
    """words: as the guide has them. holds: whether a task is of that kind."""

    words: str
    holds: Callable[[Task], bool]


def large(task: Task) -> bool:
    """Many tokens, or much to read."""
    return task.size.tokens >= LARGE_TOKENS or task.size.read_bytes >= LARGE_BYTES


def in_batches(task: Task) -> bool:
    """Enough items to fill a GPU, or nobody waiting."""
    return task.lane is Lane.BATCH or task.size.items >= BATCH_ITEMS


def _embedding_or_search(task: Task) -> bool:
    return task.spec.stage in (Stage.EMBED, Stage.SEARCH)


def _light(task: Task) -> bool:
    light = task.complexity is Complexity.SIMPLE and not in_batches(task) and not large(task)
    return task.spec.stage is Stage.KERNEL or light


def _heavy_reranking_or_large_vectors(task: Task) -> bool:
    if task.spec.stage is Stage.RERANK:
        return in_batches(task)
    return _embedding_or_search(task) and large(task)


def _background_or_research(task: Task) -> bool:
    return task.lane is Lane.BATCH or task.spec.stage in (Stage.KERNEL, Stage.TRAIN)


def _production(task: Task) -> bool:
    return task.lane is Lane.LIVE


def _extreme(task: Task) -> bool:
    return task.size.tokens >= EXTREME_TOKENS or task.size.read_bytes >= EXTREME_BYTES


BEST_FOR: dict[str, Prior] = {
    "kaggle": Prior("embedding generation, similarity search", _embedding_or_search),
    "colab": Prior("prototyping, light processing", _light),
    "runpod": Prior("heavy reranking, large vector operations", _heavy_reranking_or_large_vectors),
    "vast": Prior("background processing, research", _background_or_research),
    "modal": Prior("production inference, low latency", _production),
    "cluster": Prior("extreme scale", _extreme),
}


def suits(provider: str, task: Task) -> bool:
    """Whether ``task`` is what the guide calls ``provider`` best for."""
    prior = BEST_FOR.get(provider)
    return prior is not None and prior.holds(task)


def share(task: Task, provider: str, *, favourite: bool) -> float:
    """The share of its score that an offer is spared."""
    return PLACE_SHARE * suits(provider, task) + GPU_SHARE * favourite


def favourites(task: Task, fit: Sequence[Candidate]) -> frozenset[int]:
    """Places in ``fit`` of the GPUs that the guide would give this stage; none for a CPU or other stages."""
    gpus = [(place, c.offer, c.total_s) for place, c in enumerate(fit) if c.offer.gpu.capability]
    if not gpus:
        return frozenset()
    match task.spec.stage:
        case Stage.EMBED:
            fastest = min(seconds for _, _, seconds in gpus)
            return frozenset(place for place, _, seconds in gpus if seconds == fastest)
        case Stage.SEARCH:
            best = max(_room(task, offer) for _, offer, _ in gpus)
            return frozenset(place for place, offer, _ in gpus if _room(task, offer) == best)
        case Stage.RERANK if in_batches(task):
            return frozenset(place for place, offer, _ in gpus if a100_class(offer.gpu.name))
    return frozenset()


def _room(task: Task, offer: Offer) -> tuple[bool, int]:
    lies = not offer.resident.isdisjoint(task.inputs) or task.need.index in offer.resident
    return lies, offer.gpu.vram_bytes * max(offer.gpu.count, 1)
