"""Words: the tokeniser's terms, and BM25 against its formula and against bm25s itself."""

from __future__ import annotations

import math
import sys

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import CorpusError, IndexError_, ModelError
from accel.index.lexical import K1, B, LexicalIndex
from accel.index.words import Tokeniser

WORDS = ["cache", "date", "parse", "tree", "lru_cache", "DataFrame", "window", "copy"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=15)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("fromisoformat", ["fromisoformat"]),
        ("lru_cache", ["lru_cach", "lru", "cach"]),
        ("DataFrame", ["datafram", "data", "frame"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("__init__", ["__init__", "init"]),
        ("Parsing dates, parsed date", ["pars", "date", "pars", "date"]),
        ("how do I do this", []),
        ("datetime.date.today()", ["datetim", "date", "today"]),
        ("größe 東京", ["größe", "東京"]),
        ("", []),
        ("bad \ud800 text", ["bad", "text"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert Tokeniser()(text) == terms


@given(st.text(max_size=200))
def test_any_text_has_terms_without_error_and_always_the_same(text: str) -> None:
    assert Tokeniser()(text) == Tokeniser()(text)


@given(texts, st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join))
def test_scores_are_lucene_bm25(documents: list[str], query: str) -> None:
    """Lucene's BM25: idf = ln(1 + (N - df + .5)/(df + .5)), tf/(tf + k1 (1 - b + b len/avg))."""
    tokenise = Tokeniser()
    terms = [tokenise(d) for d in documents]
    average = sum(map(len, terms)) / len(terms)
    want = []
    for document in terms:
        score = 0.0
        for term in tokenise(query):
            tf, df = document.count(term), sum(term in d for d in terms)
            if tf:
                idf = math.log(1 + (len(terms) - df + 0.5) / (df + 0.5))
                score += idf * tf / (tf + K1 * (1 - B + B * len(document) / average))
        want.append(score)
    got = LexicalIndex.build(documents).scores(query)
    assert got.dtype == np.float32
    assert np.allclose(got, want, rtol=1e-5, atol=1e-6)


def test_scores_are_those_of_bm25s() -> None:
    documents = ["parse an ISO date", "copy a directory tree", "parse a tree of dates", "cache it"]
    tokenise = Tokeniser()
    model = bm25s.BM25(k1=K1, b=B, method="lucene")
    model.index([tokenise(d) for d in documents], show_progress=False)
    query = "parse the date tree"
    want = model.get_scores(tokenise(query))
    assert np.allclose(LexicalIndex.build(documents).scores(query), want, rtol=1e-6)


def test_top_k_leaves_out_what_shares_no_word_and_orders_ties_by_id() -> None:
    index = LexicalIndex.build(["copy tree", "parse date", "copy tree", "nothing"])
    ids, scores = index.top_k("copy", 10)
    assert list(ids) == [0, 2]
    assert scores[0] == scores[1] > 0
    assert list(index.top_k("unheard", 3)[0]) == []
    assert list(index.top_k("", 3)[0]) == []


@given(texts)
def test_what_was_stored_scores_the_same(documents: list[str]) -> None:
    index = LexicalIndex.build(documents)
    again = LexicalIndex.from_tensors(index.tensors())
    assert len(again) == len(documents)
    for word in WORDS:
        assert np.array_equal(again.scores(word), index.scores(word))


def test_coverage_weighs_rare_words_most() -> None:
    index = LexicalIndex.build(["parse a date", "parse a tree", "parse the ISO format"])
    rare, common = index.coverage("parse ISO", ["ISO"]), index.coverage("parse ISO", ["parse"])
    assert rare + common == pytest.approx(1.0)
    assert rare > common > 0
    assert index.coverage("parse kubernetes", ["parse everything"]) < 0.2
    assert index.coverage("parse parse", ["parsing"]) == 1.0
    assert index.coverage("how do I", ["parse"]) == index.coverage("parse", []) == 0.0


def test_without_the_stemmer_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ModelError, match="pip install pystemmer"):
        LexicalIndex.build(["text"])


def test_search_needs_no_bm25s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The far end has none: what was built here is searched there."""
    tensors = LexicalIndex.build(["parse date", "copy tree"]).tensors()
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert list(LexicalIndex.from_tensors(tensors).top_k("tree", 2)[0]) == [1]


def test_an_empty_corpus_is_refused_and_one_without_words_is_not() -> None:
    with pytest.raises(CorpusError, match="empty"):
        LexicalIndex.build([])
    assert list(LexicalIndex.build(["", "..."]).scores("date")) == [0.0, 0.0]


def test_damaged_tensors_are_refused() -> None:
    tensors = LexicalIndex.build(["parse date"]).tensors()
    with pytest.raises(IndexError_):
        LexicalIndex.from_tensors({k: v for k, v in tensors.items() if k != "data"})
    with pytest.raises(IndexError_):
        LexicalIndex.from_tensors(tensors | {"indptr": tensors["indptr"][:-1]})
