"""BM25 over a corpus. Guarantee: scores equal bm25s's Lucene BM25, and reading an index runs no code.

Built by bm25s (k1 0.9, b 0.4: Anserini's defaults for BEIR), which scores every (term, document)
pair once; the sparse matrix is then stored as plain arrays (safetensors), never pickled, and a
query is the sum of its terms' columns, which needs only numpy, so that search also runs where
bm25s is not installed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.core.errors import CorpusError, IndexError_
from accel.index.vectors import F32, I64, best
from accel.index.words import Tokeniser

K1, B = 0.9, 0.4
_PAD = ""  # a term no text has: keeps the vocabulary from being empty


class LexicalIndex:
    """Sparse BM25 matrix, one column per term. Immutable; safe to search from several threads."""

    def __init__(
        self,
        terms: Sequence[str],
        data: F32,
        indices: NDArray[np.int32],
        indptr: I64,
        documents: int,
    ) -> None:
        """terms: column names. data, indices, indptr: CSC arrays of the (documents, terms) scores."""
        if len(indptr) != len(terms) + 1 or len(data) != len(indices) or indptr[-1] != len(data):
            raise IndexError_("the word index does not fit together.", hint="Build it again.")
        self._column = {t: i for i, t in enumerate(terms)}
        self._data, self._indices, self._indptr = data, indices, indptr
        self._documents = documents
        self._local = threading.local()

    def __len__(self) -> int:
        return self._documents

    @classmethod
    def build(cls, texts: Sequence[str]) -> LexicalIndex:
        """Index ``texts``. Raises CorpusError when there is none."""
        import bm25s

        if not texts:
            raise CorpusError("nothing to index: the corpus is empty.")
        tokenise = Tokeniser()
        documents = [tokenise(t) for t in texts]
        terms = [_PAD, *sorted({t for d in documents for t in d})]
        column = {t: i for i, t in enumerate(terms)}
        if len(terms) == 1:  # not one word in the whole corpus: nothing will ever match
            empty = np.zeros(0, dtype=np.float32)
            return cls(terms, empty, empty.astype(np.int32), np.zeros(2, np.int64), len(texts))
        model = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy", csc_backend="numpy")
        ids = [[column[t] for t in d] for d in documents]
        model.index((ids, column), show_progress=False)
        scores = model.scores
        return cls(
            terms,
            np.asarray(scores["data"], dtype=np.float32),
            np.asarray(scores["indices"], dtype=np.int32),
            np.asarray(scores["indptr"], dtype=np.int64),
            len(texts),
        )

    def scores(self, query: str) -> F32:
        """BM25 of every document, float32 (n,). A term that occurs twice in the query counts twice."""
        total = np.zeros(self._documents, dtype=np.float32)
        for term in self._terms(query):
            i = self._column.get(term)
            if i is not None:
                span = slice(self._indptr[i], self._indptr[i + 1])
                total[self._indices[span]] += self._data[span]
        return total

    def top_k(self, query: str, k: int) -> tuple[I64, F32]:
        """Documents that share a term with ``query``, at most k, best first, ties by ascending id."""
        scores = self.scores(query)
        ids = best(scores, min(k, self._documents))
        ids = ids[scores[ids] > 0]
        return ids, scores[ids]

    def coverage(self, query: str, texts: Sequence[str]) -> float:
        """How much of the query its terms in ``texts`` make up, each weighed by its idf; in [0, 1].

        A term that the corpus lacks weighs most: a text that lacks the one rare word of a question speaks
        of something else. 0 for a query without terms.
        """
        held = {term for text in texts for term in self._terms(text)}
        weights = {term: self._idf(term) for term in set(self._terms(query))}
        total = sum(weights.values())
        return sum(w for term, w in weights.items() if term in held) / total if total else 0.0

    def _terms(self, text: str) -> list[str]:
        tokenise = getattr(self._local, "tokenise", None)
        if tokenise is None:
            tokenise = self._local.tokenise = Tokeniser()
        return tokenise(text)

    def _idf(self, term: str) -> float:
        i = self._column.get(term)
        found = 0 if i is None else int(self._indptr[i + 1] - self._indptr[i])
        return math.log(1 + (self._documents - found + 0.5) / (found + 0.5))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays that ``from_tensors`` takes back. terms: UTF-8, joined by newlines."""
        text = "\n".join(self._column).encode()
        return {
            "terms": np.frombuffer(text, dtype=np.uint8),
            "data": self._data,
            "indices": self._indices,
            "indptr": self._indptr,
            "documents": np.array([self._documents], dtype=np.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> LexicalIndex:
        """Inverse of ``tensors``. Raises IndexError_ when one is missing or they do not fit."""
        try:
            terms = tensors["terms"].tobytes().decode().split("\n")
            return cls(
                terms,
                tensors["data"],
                tensors["indices"],
                tensors["indptr"],
                int(tensors["documents"][0]),
            )
        except (KeyError, IndexError, UnicodeDecodeError) as bad:
            raise IndexError_(f"the word index is damaged ({bad!r}).", hint="Build it again.") from None
