"""This machine's curves: every engine on the same work, in turn, and the numbers belong to what they name."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import numpy as np
import pytest

from accel import environment
from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.passage import Passage
from accel.experiments import machine
from accel.stages.embed import Encoder, load_encoder

NOW = datetime(2026, 11, 23, tzinfo=UTC)
TEXTS = ["How do I parse a date?", "datetime.fromisoformat takes an ISO 8601 string.", "A word.", ""]
PASSAGES = [Passage(f"name{i}", text or "empty", "a test", "test") for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


def test_embedding_is_measured_beside_sentence_transformers_which_gives_the_same_vectors(
    encoder: Encoder,
) -> None:
    rows = machine.measure_embed(TEXTS, [4, 1, 4], 2, encoder, NOW)
    assert [(r.cell["engine"], r.cell["batch"], r.n) for r in rows] == [
        (e, b, 2) for b in (1, 4) for e in ("accel", "sentence-transformers")
    ]
    tokens = encoder.count_tokens(TEXTS)
    assert rows[-1].cell["tokens_per_text"] == sum(tokens) / 4
    assert rows[-1].cell["bytes_per_text"] == sum(len(t.encode()) for t in TEXTS) / 4
    assert "batch_size=4, the fastest of [4] in this run" in rows[-2].baseline
    assert {r.env.measured_at for r in rows} == {NOW} and {r.realm for r in rows} == {Realm.REAL}
    theirs = machine._sentence_transformer(encoder)(TEXTS, 2)
    assert np.allclose(theirs, encoder.embed(TEXTS), atol=1e-5)


def test_search_is_measured_with_every_exact_engine_on_the_processor() -> None:
    rows = machine.measure_search([300, 50], 3, 8, NOW, k=5)
    engines = {r.cell["engine"] for r in rows}
    assert {(r.cell["vectors"], r.cell["engine"]) for r in rows} == set(itertools.product((50, 300), engines))
    assert "numpy" in engines
    for row in rows:
        assert row.n == 3 and min(row.samples) > 0
        assert row.env.device == environment.cpu_name() and row.env.driver == "none"


def test_reranking_is_measured_without_remembered_vectors(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = Encoder.token_vectors
    monkeypatch.setattr(
        Encoder, "token_vectors", lambda self, texts: (encoded.append(len(texts)), real(self, texts))[1]
    )
    rows = machine.measure_rerank(PASSAGES, [1, 3], 2, encoder, NOW)
    assert [(r.cell["depth"], r.n) for r in rows] == [(1, 2), (3, 2)]
    # the question and all its passages, in the warm call and in each repetition
    assert encoded == [1, 1] * 3 + [1, 3] * 3


def test_rivals_take_turns_after_one_warm_call_of_each() -> None:
    calls: list[tuple[str, int]] = []
    engines = {name: (lambda i, n=name: calls.append((n, i))) for name in "ab"}
    samples = machine._alternate(engines, 2)
    assert calls == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(times) for name, times in samples.items()} == {"a": 2, "b": 2}


def test_more_than_there_is_and_less_than_one_are_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="a batch of 5 needs as many texts; there are 4"):
        machine.measure_embed(TEXTS, [1, 5], 1, encoder, NOW)
    with pytest.raises(UsageError, match="a depth of 5 needs as many passages; there are 4"):
        machine.measure_rerank(PASSAGES, [5], 1, encoder, NOW)
    for sizes, repetitions in (([], 1), ([0], 1), ([1], 0)):
        with pytest.raises(UsageError, match="at least 1"):
            machine.measure_search(sizes, repetitions, 8, NOW)
