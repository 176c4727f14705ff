"""Exact search: the same as sorting everything, with ties by id, for both backends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import IndexError_
from accel.index.vectors import as_matrix, best, has_faiss, top_k

BACKENDS = ["numpy", *(["faiss"] if has_faiss() else [])]


def by_sorting(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    return sorted(range(len(vectors)), key=lambda i: (-scores[i], i))[:k]


# Small whole numbers: products are exact in float32, and ties are frequent.
@pytest.mark.parametrize("backend", BACKENDS)
@given(
    n=st.integers(1, 120), d=st.integers(1, 4), k=st.integers(1, 130), seed=st.integers(0, 2**32 - 1)
)
def test_top_k_is_what_sorting_gives(backend: str, n: int, d: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (n, d)).astype(np.float32)
    queries = rng.integers(-2, 3, (3, d)).astype(np.float32)
    ids, scores = top_k(vectors, queries, k, backend=backend)  # type: ignore[arg-type]
    assert ids.shape == scores.shape == (3, k)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    for row, got, query in zip(ids, scores, queries, strict=True):
        found = min(k, n)
        assert list(row[:found]) == by_sorting(vectors, query, k)
        assert (row[found:] == -1).all()
        assert np.isneginf(got[found:]).all()
        assert np.array_equal(got[:found], (vectors @ query)[row[:found]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_equal_rows_than_any_margin_still_come_in_order_of_id(backend: str) -> None:
    vectors = np.ones((5000, 2), dtype=np.float32)
    ids, _ = top_k(vectors, np.ones((1, 2)), 100, backend=backend)  # type: ignore[arg-type]
    assert list(ids[0]) == list(range(100))


def test_many_queries_in_blocks_give_what_each_alone_gives() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40_000, 8)).astype(np.float32)
    queries = rng.standard_normal((500, 8)).astype(np.float32)  # two blocks of scores
    together, _ = top_k(vectors, queries, 5, backend="numpy")
    for i in (0, 418, 419, 420, 499):
        alone, _ = top_k(vectors, queries[i], 5, backend="numpy")
        assert np.array_equal(together[i], alone[0])


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=60), k=st.integers(1, 60))
def test_best_prefers_large_values_then_early_positions(values: list[int], k: int) -> None:
    got = best(np.array(values, dtype=np.float32), min(k, len(values)))
    assert list(got) == sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def test_nothing_to_search_and_nothing_asked() -> None:
    ids, scores = top_k(np.zeros((0, 3), dtype=np.float32), np.ones((2, 3)), 4)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    ids, _ = top_k(np.ones((2, 3), dtype=np.float32), np.ones((0, 3)), 4)
    assert ids.shape == (0, 4)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ([[np.nan, 0.0]], "NaN"),
        ([[np.inf, 0.0]], "NaN"),
        ([[1.0, 2.0, 3.0]], "dimension 3"),
        ([["a", "b"]], "numbers"),
        (np.zeros((1, 1, 2)), "dimensions"),
    ],
)
def test_bad_queries_are_refused_with_the_reason(query: object, why: str) -> None:
    with pytest.raises(IndexError_, match=why):
        top_k(np.ones((3, 2), dtype=np.float32), query, 1)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(IndexError_, match="at least 1"):
        top_k(np.ones((3, 2), dtype=np.float32), np.ones((1, 2)), 0)


def test_a_single_vector_is_one_row_and_float64_becomes_float32() -> None:
    made = as_matrix([1.0, 2.0], "query")
    assert made.shape == (1, 2)
    assert made.dtype == np.float32
