"""Which passages fit a question. Guarantee: the exact top k of two rankings fused, in a fixed order.

Dense (inner product of vectors) and lexical (BM25) rankings are fused by reciprocal rank (Cormack,
Clarke, Büttcher, SIGIR 2009: sum of 1/(60 + rank)) over the top 200 of each. Equal scores are
ordered by passage id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accel.core.errors import QueryError
from accel.core.task import Spec, Stage
from accel.index.store import HybridIndex
from accel.index.vectors import F32, I64, as_matrix, top_k

RRF_K = 60
CANDIDATES = 200
Ranking = Literal["fusion", "dense", "bm25"]


@dataclass(frozen=True, slots=True)
class Hits:
    """What was found for each of q queries, best first; short rows are padded with id -1.

    ids: int64 (q, k). scores: float32 (q, k), of the ranking that was asked for; -inf on padding.
    dense: float32 (q, k), inner product of query and passage; lexical: float32 (q, k), BM25; 0 on
    padding.
    """

    ids: I64
    scores: F32
    dense: F32
    lexical: F32

    def row(self, i: int) -> I64:
        """The ids found for query i, without padding."""
        return self.ids[i][self.ids[i] >= 0]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as they travel in an envelope."""
        return {"ids": self.ids, "scores": self.scores, "dense": self.dense, "lexical": self.lexical}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Hits:
        """Inverse of ``tensors``. Raises ValueError when one is missing or shapes differ."""
        try:
            made = cls(
                np.asarray(tensors["ids"], dtype=np.int64),
                *(np.asarray(tensors[n], dtype=np.float32) for n in ("scores", "dense", "lexical")),
            )
        except KeyError as bad:
            raise ValueError(f"not hits: {bad} is missing") from None
        if made.ids.ndim != 2 or {a.shape for a in made.tensors().values()} != {made.ids.shape}:
            raise ValueError("not hits: the arrays have different shapes")
        return made


def default_search_spec() -> Spec:
    """Fusion of dense and BM25 by reciprocal rank. No model: the query comes as a vector and as text."""
    return Spec(stage=Stage.SEARCH)


def search(
    index: HybridIndex,
    queries: Sequence[str],
    vectors: object,
    k: int = 30,
    *,
    ranking: Ranking = "fusion",
    candidates: int = CANDIDATES,
) -> Hits:
    """The top ``k`` of ``index`` for each query, given its text and its vector (q, d).

    Raises QueryError for k < 1 or texts and vectors of different number, IndexError_ for vectors of
    another dimension or with NaN.
    """
    asked = as_matrix(vectors, "query", index.vectors.shape[1]) if len(queries) else None
    if k < 1:
        raise QueryError(f"k must be at least 1, not {k}.")
    count = 0 if asked is None else asked.shape[0]
    if count != len(queries):
        raise QueryError(f"{len(queries)} queries came with {count} vectors.")
    hits = Hits(
        np.full((count, k), -1, dtype=np.int64),
        np.full((count, k), -np.inf, dtype=np.float32),
        np.zeros((count, k), dtype=np.float32),
        np.zeros((count, k), dtype=np.float32),
    )
    if asked is None:
        return hits
    deep = max(candidates, k) if ranking == "fusion" else k
    near_ids, near_scores = top_k(index.vectors, asked, deep)
    for i, query in enumerate(queries):
        dense = near_ids[i] >= 0
        bm25 = index.lexical.scores(query)
        if ranking == "dense":
            ids, scores = near_ids[i][dense], near_scores[i][dense]
        elif ranking == "bm25":
            ids = _lexical_top(bm25, k)
            scores = bm25[ids]
        else:
            ids, scores = fuse([near_ids[i][dense], _lexical_top(bm25, deep)])
        ids, scores = ids[:k], scores[:k]
        n = len(ids)
        hits.ids[i, :n], hits.scores[i, :n] = ids, scores
        hits.dense[i, :n] = index.vectors[ids] @ asked[i]
        hits.lexical[i, :n] = bm25[ids]
    return hits


def fuse(rankings: Sequence[I64], k: int = RRF_K) -> tuple[I64, F32]:
    """Reciprocal rank fusion of rankings (arrays of ids, best first): ids and scores, best first."""
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, i in enumerate(ranking, 1):
            total[int(i)] = total.get(int(i), 0.0) + 1.0 / (k + rank)
    order = sorted(total, key=lambda i: (-total[i], i))
    return (
        np.array(order, dtype=np.int64),
        np.array([total[i] for i in order], dtype=np.float32),
    )


def fuse_rows(hits: Hits) -> Hits:
    """The rows of several sub-questions as one row, by reciprocal rank.

    A hit keeps the largest dense and lexical score that any of the sub-questions gave it.
    """
    if len(hits.ids) <= 1:
        return hits
    ids, scores = fuse([hits.row(i) for i in range(len(hits.ids))])
    width = hits.ids.shape[1]
    ids, scores = ids[:width], scores[:width]
    fused = Hits(
        np.full((1, width), -1, np.int64), np.full((1, width), -np.inf, np.float32),
        np.zeros((1, width), np.float32), np.zeros((1, width), np.float32),
    )  # fmt: skip
    fused.ids[0, : len(ids)], fused.scores[0, : len(ids)] = ids, scores
    for place, ident in enumerate(ids):
        where = hits.ids == ident
        fused.dense[0, place] = hits.dense[where].max()
        fused.lexical[0, place] = hits.lexical[where].max()
    return fused


def _lexical_top(bm25: F32, k: int) -> I64:
    from accel.index.vectors import best

    ids = best(bm25, min(k, bm25.shape[0]))
    return ids[bm25[ids] > 0]
