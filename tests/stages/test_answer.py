"""Answers: every sentence stands in the passage it cites, or nothing is said to be found."""

from __future__ import annotations

import re

import numpy as np
import pytest

from accel.core.errors import IndexError_, QueryError
from accel.core.passage import Passage
from accel.index.store import HybridIndex
from accel.stages.answer import NOTHING, THRESHOLD, Answered, compose
from accel.stages.embed import Encoder
from accel.stages.search import Hits, search
from accel.stages.sentences import MAX_SENTENCES, split


def ask(question: str, index: HybridIndex, encoder: Encoder) -> Answered:
    hits = search(index, [question], encoder.embed([question]), k=6)
    return compose(question, hits, index, encoder)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("How do I parse an ISO date?", "datetime.date.fromisoformat"),
        ("How can I copy a whole directory tree?", "shutil.copytree"),
        ("Call a function after some seconds", "threading.Timer"),
    ],
)
def test_an_answer_is_made_of_what_it_cites(
    question: str, name: str, index: HybridIndex, encoder: Encoder, passages: list[Passage]
) -> None:
    answered = ask(question, index, encoder)
    assert answered.found
    assert answered.confidence >= THRESHOLD
    assert name in {c.name for c in answered.citations}
    lines = answered.text.split("\n")
    assert len(lines) == len(answered.citations)
    for line, citation in zip(lines, answered.citations, strict=True):
        assert line.endswith(f" [{citation.number}]")
        sentence = line.removesuffix(f" [{citation.number}]").removeprefix(citation.name)
        sentence = re.sub(r"^(\(.*?\))?: ", "", sentence)
        assert sentence in " ".join(citation.text.split())
        (source,) = [p for p in passages if p.name == citation.name]
        assert (citation.source, citation.text) == (source.source, source.text)
    assert Answered.from_fields(answered.fields()) == answered


@pytest.mark.parametrize("question", ["How do I bake sourdough bread?", "Who painted the Mona Lisa?"])
def test_nothing_relevant_is_said_and_nothing_is_cited(
    question: str, index: HybridIndex, encoder: Encoder
) -> None:
    answered = ask(question, index, encoder)
    assert (answered.found, answered.text, answered.citations) == (False, NOTHING, ())
    assert answered.confidence < THRESHOLD


def test_no_hits_is_nothing_found(index: HybridIndex, encoder: Encoder) -> None:
    none = Hits(np.full((1, 3), -1), *(np.zeros((1, 3), dtype=np.float32) for _ in range(3)))
    assert compose("anything", none, index, encoder).found is False


def test_a_passage_of_code_only_is_cited_by_its_beginning(
    encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    passage = Passage("parse_date", ">>> parse_date('2020')\n2020", "s", "p")
    index = HybridIndex.build(
        tmp_path_factory.mktemp("code") / "i", [passage], encoder.embed([passage.content]), encoder.spec
    )
    hits = search(index, ["parse_date"], encoder.embed(["parse_date"]))
    answered = compose("parse_date", hits, index, encoder, threshold=0.0)
    assert answered.text == "parse_date: >>> parse_date('2020') 2020 [1]"


def test_two_windows_of_one_page_are_cited_once(
    encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = ["Parses a date in ISO format.", "Parses a date in ISO 8601 format too."]
    windows = [Passage("parse_date", t, f"s (part {i})", "p") for i, t in enumerate(texts, 1)]
    vectors = encoder.embed([p.content for p in windows])
    index = HybridIndex.build(tmp_path_factory.mktemp("two") / "i", windows, vectors, encoder.spec)
    assert len(ask("How do I parse an ISO date?", index, encoder).citations) == 1


def test_bad_questions_and_hits_are_refused(index: HybridIndex, encoder: Encoder) -> None:
    hits = search(index, ["a", "b"], encoder.embed(["a", "b"]))
    with pytest.raises(QueryError, match="one question, not of 2"):
        compose("a", hits, index, encoder)
    one = search(index, ["a"], encoder.embed(["a"]))
    with pytest.raises(QueryError, match="empty"):
        compose(" \n", one, index, encoder)
    foreign = Hits(one.ids + 100, one.scores, one.dense, one.lexical)
    with pytest.raises(IndexError_, match="not in this index"):
        compose("a", foreign, index, encoder)


NUMPYDOC = """Sums it all up.

Parameters
----------
a : int
    The first number.

Notes
-----
Runs in linear time."""
GOOGLE = """Says what it does.

Args:
    a: The first of them.
    b: The second one.
Back to the text."""
DOCTEST = """One line
that goes on.

>>> f(1)
2
not prose at all

After the code."""
FENCED = """Look at this:

```python
import os
this is not prose
```
That was code."""


@pytest.mark.parametrize(
    ("text", "call", "sentences"),
    [
        ("f(a, b=1)\nDoes this well. Then that too.", "f(a, b=1)", ["Does this well.", "Then that too."]),
        ("Reads e.g. Python files. It works well.", "", ["Reads e.g. Python files.", "It works well."]),
        (DOCTEST, "", ["One line that goes on.", "After the code."]),
        ("Title of it\n=====\n\n.. note:: this\n\nThe text itself.", "", ["Title of it", "The text itself."]),
        (GOOGLE, "", ["Says what it does.", "Back to the text."]),
        (NUMPYDOC, "", ["Sums it all up.", "Runs in linear time."]),
        (FENCED, "", ["Look at this:", "That was code."]),
        ("* the first entry\n* the second entry", "", ["the first entry", "the second entry"]),
        ("x = y + 2 * z ** 3 / (a - b)", "", []),
        ("", "", []),
    ],
)
def test_the_readable_sentences_of_a_docstring(text: str, call: str, sentences: list[str]) -> None:
    made = split(text)
    assert made.call == call
    assert list(made.sentences) == sentences


def test_sentences_are_bounded() -> None:
    made = split(" ".join(f"Sentence number {i} is here." for i in range(100)) + " word" * 1000)
    assert len(made.sentences) == MAX_SENTENCES
    assert all(len(s) <= 400 for s in split("word " * 1000).sentences)
