"""Reranking: MaxSim by its definition, nothing added or lost, models of either kind, none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core.errors import ModelError
from accel.core.task import Spec, Stage
from accel.index.store import HybridIndex
from accel.stages.embed import Encoder
from accel.stages.rerank import (
    MAXSIM_WEIGHT,
    CrossEncoderReranker,
    LateInteraction,
    default_rerank_spec,
    load_reranker,
    maxsim,
    rerank,
)
from accel.stages.search import Hits, search

QUERY = "how do I parse an ISO date"


@given(st.integers(0, 4), st.lists(st.integers(0, 5), max_size=6), st.integers(0, 1000))
def test_maxsim_is_the_mean_of_the_best_matches(tokens: int, lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((tokens, 3)).astype(np.float32)
    texts = [rng.standard_normal((n, 3)).astype(np.float16) for n in lengths]
    want = [
        float(np.mean([max(float(q @ t.astype(np.float32)) for t in text) for q in query]))
        if tokens and len(text)
        else 0.0
        for text in texts
    ]
    assert np.allclose(maxsim(query, texts), want, atol=1e-5)


def test_the_blend_is_the_fused_score_and_the_weighted_maxsim(index: HybridIndex, encoder: Encoder) -> None:
    hits = search(index, [QUERY], encoder.embed([QUERY]), k=6)
    late = LateInteraction(encoder)
    after = rerank(late, index, [QUERY], hits)
    texts = [p.content for p in index.passages(hits.row(0))]
    want = dict(zip(hits.row(0), hits.scores[0] + MAXSIM_WEIGHT * late.score(QUERY, texts), strict=True))
    assert list(after.row(0)) == sorted(want, key=lambda i: -want[i])
    assert np.allclose(after.scores[0], [want[i] for i in after.row(0)])
    before = dict(zip(hits.row(0), hits.dense[0], strict=True))
    assert np.allclose(after.dense[0], [before[i] for i in after.row(0)])  # columns move together


@settings(max_examples=20)
@given(depth=st.integers(0, 8), k=st.integers(1, 9))
def test_nothing_is_added_or_lost_and_the_tail_stays(depth: int, k: int) -> None:
    index, encoder, hits = _some_hits(k)
    after = rerank(LateInteraction(encoder), index, [QUERY, "copy"], hits, depth)
    for i in range(2):
        assert sorted(after.row(i)) == sorted(hits.row(i))
        assert list(after.row(i)[depth:]) == list(hits.row(i)[depth:])
        scores = after.scores[i, : len(after.row(i))]
        assert (np.diff(scores) <= 1e-7).all()
    assert Hits.from_tensors(after.tensors())


def _some_hits(k: int) -> tuple[HybridIndex, Encoder, Hits]:
    import tempfile

    import bundled

    from accel.core.passage import Passage

    encoder = bundled.encoder()
    texts = ["parse a date", "copy a tree", "cache results", "date and time", "", "ISO 8601"]
    passages = [Passage(f"n{i}", t, "s", "p") for i, t in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        vectors = encoder.embed([p.content for p in passages])
        index = HybridIndex.build(Path(folder) / "i", passages, vectors, encoder.spec)
    queries = [QUERY, "copy"]
    return index, encoder, search(index, queries, encoder.embed(queries), k=k)


def test_none_is_a_choice(index: HybridIndex, encoder: Encoder) -> None:
    assert load_reranker(Spec(Stage.RERANK)) is None
    hits = search(index, [QUERY], encoder.embed([QUERY]), k=6)
    assert rerank(None, index, [QUERY], hits) is hits


def test_the_default_shares_a_loaded_encoder(encoder: Encoder) -> None:
    late = load_reranker(default_rerank_spec(), "cpu", encoder)
    assert isinstance(late, LateInteraction)
    assert late.encoder is encoder
    assert late.spec == default_rerank_spec()
    other = load_reranker(replace(default_rerank_spec(), max_length=32), "cpu", encoder)
    assert isinstance(other, LateInteraction)
    assert other.encoder is not encoder
    assert other.encoder.spec.max_length == 32


def test_token_vectors_are_kept_and_bounded(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i} about dates" for i in range(10)]
    late = LateInteraction(encoder)
    want = late.score(QUERY, texts)
    asked: list[int] = []
    real = encoder.token_vectors
    monkeypatch.setattr(encoder, "token_vectors", lambda t, *a: asked.append(len(t)) or real(t, *a))
    assert np.allclose(late.score(QUERY, texts), want, atol=1e-3)
    assert asked == [1, 0]  # the question, and no text
    small = LateInteraction(encoder, cache_bytes=4000)
    assert np.allclose(small.score(QUERY, texts), want, atol=1e-3)
    assert small._held <= 4000
    assert sum(v.nbytes for v in small._kept.values()) == small._held


def test_what_the_encoder_gave_can_be_remembered(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    late = LateInteraction(encoder)
    texts = ["one text", "another text"]
    late.remember(texts, encoder.token_vectors(texts))
    question = encoder.token_vectors([QUERY])
    monkeypatch.setattr(encoder, "token_vectors", lambda t: question if t else [])
    assert late.score(QUERY, texts).shape == (2,)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real cross-encoder with untrained weights: what it prefers means nothing, how it is run does."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from accel.stages.weights import find_default

    folder = tmp_path_factory.mktemp("cross")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(find_default())).save_pretrained(folder)
    return folder


def test_a_cross_encoder_by_folder(cross_encoder: Path, index: HybridIndex, encoder: Encoder) -> None:
    reranker = load_reranker(Spec(Stage.RERANK, model=str(cross_encoder), max_length=64))
    assert isinstance(reranker, CrossEncoderReranker)
    assert len(reranker.spec.revision) == 64
    hits = search(index, [QUERY], encoder.embed([QUERY]), k=6)
    texts = [p.content for p in index.passages(hits.row(0))]
    scores = reranker.score(QUERY, texts)
    assert scores.shape == (6,)
    assert len(set(scores.tolist())) > 1
    ranks = np.argsort(np.argsort(-scores)) + 1
    want = (hits.scores[0] + 1.0 / (60 + ranks.astype(np.float32))).astype(np.float32)
    after = rerank(reranker, index, [QUERY], hits)
    assert list(after.row(0)) == list(hits.row(0)[np.argsort(-want, kind="stable")])
    assert reranker.score(QUERY, []).shape == (0,)
    assert np.isfinite(reranker.score("x" * 1_000_000, ["y" * 1_000_000, ""])).all()


def test_models_that_are_no_reranker_or_not_there_are_refused(cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not here"):
        load_reranker(Spec(Stage.RERANK, model="no-such/reranker"))
    with pytest.raises(ModelError, match="not a model folder"):
        load_reranker(Spec(Stage.RERANK, model=str(tmp_path)))
    with pytest.raises(ModelError, match="not the ones of the Spec"):
        load_reranker(Spec(Stage.RERANK, model=str(cross_encoder), revision="0" * 64))
