"""Exact nearest vectors. Guarantee: the true top k by inner product, ties broken by the smaller id.

Nothing is approximated. With FAISS installed its flat search is used, without it a blocked matrix
product; both sum in float32, so that their scores may differ by about 1e-6, and rows whose scores
differ by less than that may come in another order. Within one backend the order is a function of
the input alone.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accel.core.errors import IndexError_

Backend = Literal["auto", "faiss", "numpy"]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_BLOCK_BYTES = 64 << 20  # of scores held at once: bounds memory, large enough for full BLAS speed
_TIE_MARGIN = 16  # rows fetched beyond k, so that ties across the k-th place are seen


def as_matrix(values: object, what: str, dimension: int | None = None) -> F32:
    """``values`` as a C-contiguous float32 (n, d) matrix; a single vector becomes one row.

    Raises IndexError_ when it is not numeric, has another dimension, or holds NaN or infinity.
    """
    try:
        matrix = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise IndexError_(f"{what}: not a matrix of numbers.") from None
    if matrix.ndim == 1:
        matrix = matrix[None, :]
    if matrix.ndim != 2:
        raise IndexError_(f"{what}: expected rows of vectors, got {matrix.ndim} dimensions.")
    if dimension is not None and matrix.shape[1] != dimension:
        raise IndexError_(
            f"{what}: vectors have dimension {matrix.shape[1]}, the index has {dimension}.",
            hint="Use the model that the index was made with.",
        )
    if not np.isfinite(matrix).all():
        raise IndexError_(f"{what}: a vector holds NaN or infinity.")
    return matrix


def has_faiss() -> bool:
    """Whether FAISS can be imported here (looked up, not imported)."""
    return importlib.util.find_spec("faiss") is not None


def top_k(vectors: F32, queries: object, k: int, backend: Backend = "auto") -> tuple[I64, F32]:
    """The k rows of ``vectors`` (n, d) with the largest inner product, for each query.

    Returns ids int64 (q, k) and scores float32 (q, k), best first, equal scores by ascending id.
    Where k > n the rest is padded with id -1 and score -inf. ``vectors`` must be finite float32
    (``as_matrix``); memory-mapped is fine. Raises IndexError_ for k < 1 or bad queries.
    """
    if k < 1:
        raise IndexError_(f"k must be at least 1, not {k}.")
    asked = as_matrix(queries, "query", vectors.shape[1])
    n, found = vectors.shape[0], min(k, vectors.shape[0])
    ids = np.full((asked.shape[0], k), -1, dtype=np.int64)
    scores = np.full((asked.shape[0], k), -np.inf, dtype=np.float32)
    if n == 0 or asked.shape[0] == 0:
        return ids, scores
    use_faiss = has_faiss() if backend == "auto" else backend == "faiss"
    search = _by_faiss if use_faiss else _by_product
    ids[:, :found], scores[:, :found] = search(vectors, asked, found)
    return ids, scores


def best(scores: F32, k: int) -> I64:
    """Positions of the k largest of ``scores`` (n,), best first, equal scores by ascending position."""
    if k < scores.shape[0]:
        threshold = np.partition(scores, scores.shape[0] - k)[scores.shape[0] - k]
        above = np.flatnonzero(scores > threshold)
        tied = np.flatnonzero(scores == threshold)[: k - above.shape[0]]
        kept = np.concatenate((above, tied))
    else:
        kept = np.arange(scores.shape[0])
    return kept[np.lexsort((kept, -scores[kept]))].astype(np.int64)


def _by_product(vectors: F32, queries: F32, k: int) -> tuple[I64, F32]:
    ids = np.empty((queries.shape[0], k), dtype=np.int64)
    scores = np.empty((queries.shape[0], k), dtype=np.float32)
    step = max(1, _BLOCK_BYTES // (4 * vectors.shape[0]))
    for start in range(0, queries.shape[0], step):
        block = queries[start : start + step] @ vectors.T
        for i, row in enumerate(block, start):
            ids[i] = best(row, k)
            scores[i] = row[ids[i]]
    return ids, scores


def _by_faiss(vectors: F32, queries: F32, k: int) -> tuple[I64, F32]:
    import faiss

    fetch = min(vectors.shape[0], k + _TIE_MARGIN)
    raw_scores, raw_ids = faiss.knn(queries, vectors, fetch, metric=faiss.METRIC_INNER_PRODUCT)
    ids = np.empty((queries.shape[0], k), dtype=np.int64)
    scores = np.empty((queries.shape[0], k), dtype=np.float32)
    for i in range(queries.shape[0]):
        if fetch < vectors.shape[0] and raw_scores[i, k - 1] == raw_scores[i, fetch - 1]:
            # more equals than the margin holds: which of them FAISS kept is its own affair
            one_id, one_score = _by_product(vectors, queries[i : i + 1], k)
            ids[i], scores[i] = one_id[0], one_score[0]
            continue
        order = np.lexsort((raw_ids[i], -raw_scores[i]))[:k]
        ids[i], scores[i] = raw_ids[i][order], raw_scores[i][order]
    return ids, scores
