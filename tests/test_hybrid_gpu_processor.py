"""One question, one answer, every sentence with its source: the real bundled model on a small real index."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import CorpusError, EveryAttemptFailed, QueryError
from accel.core.passage import Passage
from accel.core.task import Complexity, Stage
from accel.gpu_accelerator import open_accelerator
from accel.hybrid_gpu_processor import (
    DEPTH,
    MAX_CHARS,
    Answer,
    HybridGPUProcessor,
    build_index,
    check_question,
    judge,
    split,
)
from accel.stages.search import Hits, fuse_rows
from accel.worker.engine import Worker

T = TypeVar("T")
FACTS = {
    "datetime.datetime.fromisoformat": "Return a datetime corresponding to a date string in any valid "
    "ISO 8601 format. It parses most ISO dates and times.",
    "zipfile.ZipFile.extractall": "Extract all members from the archive to the current working directory.",
    "socket.socket.settimeout": "Set a timeout on blocking socket operations. The value is in seconds.",
    "random.shuffle": "Shuffle the sequence in place, using a source of randomness.",
    "json.loads": "Deserialize a string or bytes holding a JSON document to a Python object.",
    "statistics.median": "Return the median, the middle value, of numeric data.",
    "shutil.rmtree": "Delete an entire directory tree; the path must point to a directory.",
    "hashlib.sha256": "Return a new hash object that implements the SHA-256 algorithm.",
}
PASSAGES = [Passage(name, text, f"python · {name}", "python") for name, text in FACTS.items()]


@pytest.fixture(scope="module")
def worker() -> Worker:
    """The model is loaded once, by the first question of the module."""
    return Worker()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def ask(home: Path, worker: Worker, scene: Callable[[HybridGPUProcessor], Coroutine[Any, Any, T]],
        use_cache: bool = True) -> T:  # fmt: skip
    async def main() -> T:
        async with open_accelerator(worker=worker, home=home, use_cache=use_cache) as engine:
            index = await build_index(engine, home / "index", PASSAGES)
            worker.attach(index)
            return await scene(HybridGPUProcessor(engine, index))

    return asyncio.run(main())


def cited_sentences_stand_in_their_passages(answer: Answer) -> None:
    assert [c.number for c in answer.citations] == list(range(1, len(answer.citations) + 1))
    texts = {p.name: p for p in PASSAGES}
    for line, citation in zip(answer.text.splitlines(), answer.citations, strict=True):
        assert line.endswith(f"[{citation.number}]")
        assert citation.text == texts[citation.name].text
        assert citation.source == texts[citation.name].source
        sentence = line.removesuffix(f" [{citation.number}]").removeprefix(f"{citation.name}: ")
        assert sentence in citation.text


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("how do I parse an ISO date", "datetime.datetime.fromisoformat"),
        ("how can I delete a directory tree?", "shutil.rmtree"),
        ("unpack a whole zip archive", "zipfile.ZipFile.extractall"),
    ],
)
def test_a_question_is_answered_from_the_right_passage_with_its_source(
    home: Path, worker: Worker, question: str, name: str
) -> None:
    answer = ask(home, worker, lambda p: p.query(question))
    assert answer.found
    assert answer.citations[0].name == name
    cited_sentences_stand_in_their_passages(answer)
    assert [s.stage for s in answer.stages] == [Stage.EMBED, Stage.SEARCH, Stage.RERANK, Stage.ANSWER]
    assert all(s.why for s in answer.stages)
    assert {s.where for s in answer.stages} <= {"local", "cache"}
    assert (answer.realm, answer.cost.amount, answer.complexity) == ("real", 0, Complexity.SIMPLE)


def test_what_the_corpus_does_not_know_is_said_openly(home: Path, worker: Worker) -> None:
    answer = ask(home, worker, lambda p: p.query("who won the chess olympiad in Budapest?"))
    assert not answer.found
    assert answer.citations == ()


def test_a_question_asked_again_comes_from_the_cache_word_for_word(home: Path, worker: Worker) -> None:
    question = "how do I set a timeout on a socket"
    first = ask(home, worker, lambda p: p.query(question))
    again = ask(home, worker, lambda p: p.query(question))
    assert {s.where for s in again.stages} == {"cache"}
    assert (again.text, again.citations) == (first.text, first.citations)
    fresh = ask(home, worker, lambda p: p.query(question), use_cache=False)
    assert {s.where for s in fresh.stages} == {"local"}
    assert fresh.text == first.text


def test_a_question_of_several_parts_finds_a_source_for_each(home: Path, worker: Worker) -> None:
    question = "How do I shuffle a sequence in place? How do I compute the median of numeric data?"
    answer = ask(home, worker, lambda p: p.query(question))
    assert answer.complexity is Complexity.COMPLEX
    assert "2 questions" in answer.judged
    assert {"random.shuffle", "statistics.median"} <= {c.name for c in answer.citations}
    assert answer.stages[0].items == 3  # the whole and its two parts
    cited_sentences_stand_in_their_passages(answer)


def test_every_stage_of_an_answer_can_be_explained_and_replayed(home: Path, worker: Worker) -> None:
    async def scene(processor: HybridGPUProcessor) -> None:
        answer = await processor.query("hash something with SHA-256")
        engine = processor.accelerator
        decided = engine.explain(answer.id)
        assert [d.id for d in decided] == [s.decision_id for s in answer.stages if s.decision_id]
        assert decided
        assert all(engine.replay(d) for d in decided)

    ask(home, worker, scene)


def test_the_corpus_is_embedded_once(home: Path, worker: Worker) -> None:
    async def scene(processor: HybridGPUProcessor) -> None:
        engine, seen = processor.accelerator, []
        before = engine.ledger.rows("SELECT count(*) FROM attempt")
        same = await build_index(engine, home / "index", PASSAGES, progress=lambda d, t: seen.append((d, t)))
        assert same.id == processor.index.id
        assert seen == [(len(PASSAGES), len(PASSAGES))]
        grown = [*PASSAGES, Passage("os.getcwd", "Return the current working directory.", "python", "python")]
        bigger = await build_index(engine, home / "index2", grown)
        assert len(bigger) == len(PASSAGES) + 1
        assert np.array_equal(bigger.vectors[:-1], processor.index.vectors)
        (tokens,) = engine.ledger.rows("SELECT items FROM attempt ORDER BY rowid DESC LIMIT 1")
        assert tokens == (1,)  # only the new passage
        assert engine.ledger.rows("SELECT count(*) FROM attempt")[0][0] == before[0][0] + 1

    ask(home, worker, scene)


def test_an_empty_corpus_is_an_error_and_not_an_empty_index(home: Path, worker: Worker) -> None:
    async def scene(processor: HybridGPUProcessor) -> None:
        with pytest.raises(CorpusError):
            await build_index(processor.accelerator, home / "none", [])

    ask(home, worker, scene)


def test_an_index_that_lies_nowhere_is_one_error_with_the_reason(home: Path, worker: Worker) -> None:
    async def scene(processor: HybridGPUProcessor) -> None:
        elsewhere = Worker()
        async with open_accelerator(worker=elsewhere, home=home / "other") as engine:
            with pytest.raises(EveryAttemptFailed, match="index does not lie there"):
                await HybridGPUProcessor(engine, processor.index).query("anything at all")

    ask(home, worker, scene)


def test_a_deadline_that_cannot_be_met_ends_in_one_error(home: Path, worker: Worker) -> None:
    with pytest.raises(EveryAttemptFailed):
        ask(home, worker, lambda p: p.query("something new to embed", within_s=1e-6), use_cache=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"), (" \n\t ", "empty"), ("x" * (MAX_CHARS + 1), "limit"), ("a" * 1_000_000, "1,000,000"),
        ("what\0is", "NUL"), ("\x7fELF\0\0", "binary"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(QueryError, match=words) as caught:
        check_question(text)
    line = str(caught.value)
    assert len(line) < 300
    assert len(line.splitlines()) == 1
    assert caught.value.exit_code == 2


@given(st.text(min_size=1, max_size=200))
def test_any_other_text_can_be_asked_as_it_is(text: str) -> None:
    try:
        assert check_question(text) == text.strip()
    except QueryError:
        assert not text.strip() or "\0" in text


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("how do I parse an ISO date", []),
        ("What is a set and a list?", []),
        ("how do I read and write a file", []),
        ("How do I open a file? How do I close it again?",
         ["How do I open a file", "How do I close it again"]),
        ("open a zip file; read one member", ["open a zip file", "read one member"]),
        ("how do I sort a list, and what is a stable sort",
         ["how do I sort a list", "what is a stable sort"]),
        ("Why? Why not? how do I parse a date", []),
    ],
)  # fmt: skip
def test_a_question_is_split_where_another_one_begins(question: str, parts: list[str]) -> None:
    assert split(question) == [question, *parts]
    level, judged = judge(question)
    assert level is (Complexity.COMPLEX if parts else Complexity.SIMPLE)
    assert judged


def test_a_long_question_is_complex_by_its_words() -> None:
    level, judged = judge("word " * 40)
    assert (level, judged) == (Complexity.COMPLEX, "40 words")
    assert DEPTH[Complexity.COMPLEX] > DEPTH[Complexity.SIMPLE]


@given(
    st.lists(st.lists(st.integers(0, 9), unique=True, max_size=5), min_size=1, max_size=4),
    st.lists(st.floats(0, 1, width=32), min_size=40, max_size=40),
)
def test_fusing_rows_keeps_ids_unique_scores_falling_and_the_best_of_each(
    rows: list[list[int]], numbers: list[float]
) -> None:
    width = 5
    ids = np.array([r + [-1] * (width - len(r)) for r in rows], np.int64)
    given_scores = np.resize(np.array(numbers, np.float32), ids.shape) * (ids >= 0)
    hits = Hits(ids, np.where(ids >= 0, 1.0, -np.inf).astype(np.float32), given_scores, given_scores / 2)
    fused = fuse_rows(hits)
    assert fused.ids.shape == (1, width)
    found = fused.row(0).tolist()
    assert len(set(found)) == len(found)
    assert set(found) <= {i for r in rows for i in r}
    assert len(found) == min(width, len({i for r in rows for i in r}))
    scores = fused.scores[0, : len(found)]
    assert all(a >= b for a, b in itertools.pairwise(scores))
    for place, ident in enumerate(found):
        assert fused.dense[0, place] == given_scores[ids == ident].max()
        assert fused.lexical[0, place] == (given_scores / 2)[ids == ident].max()
