"""Search and rerank in one trip. Guarantee: its two answers are those of two trips, bit for bit.

A search request may say in ``meta["then"]`` what is to be done with its hits where the index lies. The
rerank request that would have been the second trip is made by ``second``, here and there alike, from the
search's answer: so it has the same digest, and the same key in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from accel.core.errors import QueryError
from accel.core.task import Spec, Stage
from accel.stages.search import Hits, fuse_rows
from accel.wire import Envelope, pack_texts

PREFIX = "then_"
_TIMING = ("cold_s", "compute_s")


def first(search: Envelope, rerank: Spec, question: str, **how: float) -> Envelope:
    """``search`` with the rerank of its hits after it. how: the rerank request's meta (depth, weight)."""
    then = {"spec": rerank.fields(), "question": question, "meta": how}
    return replace(search, meta={**search.meta, "then": then})


def second(search: Envelope, answer: Envelope, task_id: str = "") -> Envelope:
    """The rerank request that follows ``answer``. Raises QueryError when ``search`` asks for none."""
    try:
        then = search.meta["then"]
        spec, question = Spec.from_fields(then["spec"]), str(then["question"])
        meta = {**then["meta"], "index": search.meta["index"]}
    except (KeyError, TypeError, ValueError) as bad:
        raise QueryError(f"the rerank after a search is not told ({type(bad).__name__}).") from None
    if spec.stage is not Stage.RERANK:
        raise QueryError("only a rerank can follow a search.")
    hits = fuse_rows(Hits.from_tensors(answer.tensors))
    return Envelope(
        task_id or search.task_id, spec.fields(), pack_texts([question]) | hits.tensors(), meta
    )


def carry_out(
    search: Envelope, found: Mapping[str, np.ndarray], rerank: Callable[[Envelope], Envelope]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and meta that a fused answer has besides the search's own."""
    done = rerank(second(search, Envelope(search.task_id, search.spec, found)))
    return {f"{PREFIX}{k}": v for k, v in done.tensors.items()}, {"then": dict(done.meta)}


def apart(search: Envelope, answer: Envelope, task_id: str = "") -> tuple[Envelope, Envelope]:
    """The search's answer and the rerank's, from a fused one. Raises QueryError when it is none.

    What both took is split: the search's seconds are the whole's less the rerank's.
    """
    told = answer.meta.get("then")
    tensors = {k: v for k, v in answer.tensors.items() if not k.startswith(PREFIX)}
    then = {k.removeprefix(PREFIX): v for k, v in answer.tensors.items() if k.startswith(PREFIX)}
    if not isinstance(told, dict) or not then:
        raise QueryError("this answer holds no rerank.")
    meta = {k: v for k, v in answer.meta.items() if k != "then"}
    for name in _TIMING:
        if name in meta and name in told:
            meta[name] = max(0.0, float(meta[name]) - float(told[name]))
    found = Envelope(answer.task_id, answer.spec, tensors, meta)
    asked = second(search, found, task_id)
    return found, Envelope(asked.task_id, asked.spec, then, told)
