"""Text to index terms. Guarantee: same text, same terms; an identifier is found by its parts.

``lru_cache`` gives lru_cache, lru, cache; ``DataFrame`` gives dataframe, data, frame;
``fromisoformat`` stays one term. Plain English words are stemmed (Snowball English, PyStemmer);
whole identifiers are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from accel.core.errors import ModelError

_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\dA-Za-z_]+")

# Function words only: what a question is asked with, not what it is about. Words that name
# something in a programming language (for, with, is, not, from, or) are kept where they are rare
# anyway by BM25.
_STOP_WORDS = """
    a an the and of to in on at by as it its this that these those i me my we our you your he she they
    them their be am is are was were been being do does did doing have has had having will would shall
    should can could may might must how what which who whom whose when where why there here into about
    than then so such but if else use using used want need please
"""
STOP = frozenset(_STOP_WORDS.split())


class Tokeniser:
    """Callable from text to terms. Holds a stemmer, which is not thread-safe: one per thread or caller.

    Raises ModelError when PyStemmer is not installed: other stems would be another index.
    """

    def __init__(self) -> None:
        try:
            import Stemmer
        except ImportError:
            raise ModelError("PyStemmer is missing.", hint="Install it with: pip install pystemmer") from None
        self._stemmer = Stemmer.Stemmer("english")
        self._stems: dict[str, str] = {}

    def _stem(self, word: str) -> str:
        stem = self._stems.get(word)
        if stem is None:
            if len(self._stems) > 1_000_000:  # a corpus of random strings must not grow without bound
                self._stems.clear()
            stem = self._stems[word] = self._stemmer.stemWord(word)
        return stem

    def __call__(self, text: str) -> list[str]:
        """Terms of ``text`` in order, with repetitions. Lone surrogates are treated as separators."""
        return list(self._terms(text.encode("utf-8", "replace").decode()))

    def _terms(self, text: str) -> Iterable[str]:
        for match in _WORD.finditer(text):
            word = match.group()
            lower = word.lower()
            if lower in STOP:
                continue
            yield self._stem(lower)
            if "_" in word or (word != lower and not word.istitle() and not word.isupper()):
                parts = [p.lower() for p in _PART.findall(word)]
                if len(parts) > 1 or (parts and parts[0] != lower):
                    for part in parts:
                        if part not in STOP:
                            yield self._stem(part)
