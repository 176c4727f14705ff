"""Search: fusion by its formula, a fixed order, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import IndexError_, QueryError
from accel.core.passage import Passage
from accel.index.store import HybridIndex
from accel.stages.embed import Encoder
from accel.stages.search import Hits, fuse, search

ids = st.lists(st.integers(0, 20), unique=True, max_size=15).map(lambda x: np.array(x, dtype=np.int64))


@given(ids, ids)
def test_fusion_is_the_sum_of_reciprocal_ranks(a: np.ndarray, b: np.ndarray) -> None:
    found, scores = fuse([a, b])
    want = {
        int(i): sum(1 / (60 + list(r).index(i) + 1) for r in (a, b) if i in r)
        for i in {*a.tolist(), *b.tolist()}
    }
    assert list(found) == sorted(want, key=lambda i: (-want[i], i))
    assert np.allclose(scores, [want[int(i)] for i in found])


def test_the_right_passage_comes_first(index: HybridIndex, encoder: Encoder) -> None:
    queries = ["how do I parse an ISO date", "copy a whole directory", "wait some seconds, then call"]
    hits = search(index, queries, encoder.embed(queries), k=3)
    names = [index.passages(hits.row(i))[0].name for i in range(3)]
    assert names == ["datetime.date.fromisoformat", "shutil.copytree", "threading.Timer"]


def test_scores_are_what_they_say(index: HybridIndex, encoder: Encoder) -> None:
    query = "cache without bound"
    vector = encoder.embed([query])
    hits = search(index, [query], vector, k=4)
    row = hits.row(0)
    assert np.allclose(hits.dense[0], index.vectors[row] @ vector[0])
    assert np.allclose(hits.lexical[0], index.lexical.scores(query)[row])
    assert (np.diff(hits.scores[0]) <= 0).all()


def test_k_beyond_the_corpus_is_padded(index: HybridIndex, encoder: Encoder) -> None:
    hits = search(index, ["date"], encoder.embed(["date"]), k=50)
    assert hits.ids.shape == (1, 50)
    assert len(hits.row(0)) == len(index)
    assert (hits.ids[0, len(index) :] == -1).all()
    assert np.isneginf(hits.scores[0, len(index) :]).all()
    assert (hits.dense[0, len(index) :] == 0).all()


def test_each_ranking_alone(index: HybridIndex, encoder: Encoder) -> None:
    vector = encoder.embed(["JSON"])
    dense = search(index, ["JSON"], vector, k=6, ranking="dense")
    assert np.allclose(dense.scores, dense.dense, atol=1e-6)
    assert len(dense.row(0)) == 6
    words = search(index, ["JSON"], vector, k=6, ranking="bm25")
    assert [p.name for p in index.passages(words.row(0))] == ["json.dumps"]


def test_equal_passages_come_in_order_of_id(
    tmp_path_factory: pytest.TempPathFactory, encoder: Encoder
) -> None:
    same = [Passage("n", "the very same text", f"s:{i}", "p") for i in range(40)]
    vectors = np.repeat(encoder.embed(["the very same text"]), 40, axis=0)
    index = HybridIndex.build(tmp_path_factory.mktemp("same") / "i", same, vectors, encoder.spec)
    hits = search(index, ["same text"], encoder.embed(["same text"]), k=7)
    assert list(hits.row(0)) == list(range(7))


def test_no_queries_give_no_rows(index: HybridIndex) -> None:
    assert search(index, [], np.zeros((0, 384)), k=3).ids.shape == (0, 3)


def test_bad_queries_are_refused(index: HybridIndex, encoder: Encoder) -> None:
    vector = encoder.embed(["x"])
    with pytest.raises(QueryError, match="at least 1"):
        search(index, ["x"], vector, k=0)
    with pytest.raises(QueryError, match="2 queries came with 1 vectors"):
        search(index, ["x", "y"], vector)
    with pytest.raises(IndexError_, match="dimension 3"):
        search(index, ["x"], np.ones((1, 3)))
    with pytest.raises(IndexError_, match="NaN"):
        search(index, ["x"], vector * np.nan)


def test_hits_travel_as_tensors(index: HybridIndex, encoder: Encoder) -> None:
    hits = search(index, ["date"], encoder.embed(["date"]), k=9)
    again = Hits.from_tensors(hits.tensors())
    for name, array in hits.tensors().items():
        assert np.array_equal(array, again.tensors()[name])
    with pytest.raises(ValueError, match="missing"):
        Hits.from_tensors({"ids": hits.ids})
    with pytest.raises(ValueError, match="shapes"):
        Hits.from_tensors(hits.tensors() | {"dense": hits.dense[:, :2]})
