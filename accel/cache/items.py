"""Which part of a request is cached under which key. Guarantee: ``merge`` puts every item back in its place.

Embeddings are cached per text: a corpus that grew by one passage computes one. Every other stage is
cached whole, under the digest of its request, which covers queries, vectors, k and the index's id. What is
stored belongs to no task and holds no timing, so that it is the same whoever computed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from accel.core.task import Size, Stage, Task, cache_key
from accel.wire import Envelope, pack_texts, unpack_texts

_TIMING = ("cold_s", "compute_s")


def keys_of(task: Task, request: Envelope) -> list[str]:
    """One full key per text for embeddings, one for the whole request otherwise."""
    if _per_text(task):
        return [cache_key(task.spec, text) for text in unpack_texts(request.tensors)]
    return [cache_key(task.spec, replace(request, task_id="").digest())]


def only(task: Task, request: Envelope, misses: Sequence[int]) -> tuple[Task, Envelope]:
    """Task and request for the items at ``misses`` alone; sizes shrink in proportion."""
    if not _per_text(task):
        return task, request
    if len(misses) == len(request.tensors["text_ends"]):
        return task, request
    texts = unpack_texts(request.tensors)
    share = len(misses) / len(texts)
    size = Size(len(misses), round(task.size.tokens * share), round(task.size.bytes * share))
    part = replace(request, tensors=pack_texts([texts[i] for i in misses]))
    return replace(task, size=size), part


def whole(task: Task, output: Envelope) -> Envelope:
    """The whole answer where nothing of it was cached: what ``merge`` makes of all that ``split`` gives."""
    if not _per_text(task):
        return replace(output, task_id=task.id, meta=_untimed(output))
    return Envelope(task.id, task.spec.fields(), {"vectors": output.tensors["vectors"]})


def split(task: Task, output: Envelope, keys: Sequence[str]) -> dict[str, Envelope]:
    """An answer as cache entries, one per key."""
    if not _per_text(task):
        return {keys[0]: Envelope("", output.spec, output.tensors, _untimed(output))}
    rows = output.tensors["vectors"]
    return {key: Envelope("", output.spec, {"vector": rows[i]}) for i, key in enumerate(keys)}


def merge(task: Task, keys: Sequence[str], found: Mapping[str, Envelope]) -> Envelope:
    """The whole answer from its entries, in the order of ``keys``."""
    if not _per_text(task):
        return replace(found[keys[0]], task_id=task.id)
    rows = [found[key].tensors["vector"] for key in keys]
    vectors = np.array(rows) if rows else np.zeros((0, task.spec.dimension), np.float32)
    return Envelope(task.id, task.spec.fields(), {"vectors": vectors})


def _untimed(output: Envelope) -> dict[str, Any]:
    return {k: v for k, v in output.meta.items() if k not in _TIMING}


def _per_text(task: Task) -> bool:
    return task.spec.stage is Stage.EMBED
