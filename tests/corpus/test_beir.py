"""Test collections: whole or refused, with the file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.errors import CorpusError
from accel.core.passage import Passage
from accel.corpus.beir import read_beir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "One", "text": "first"}\n{"_id": "d2", "title": "", "text": "second"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "what?"}\n{"_id": "q2", "text": "who?"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td1\t0\n")
    return tmp_path


def test_a_collection_is_read(folder: Path) -> None:
    made = read_beir(folder)
    assert made.ids == ("d1", "d2")
    assert [p.content for p in made.passages] == ["One first", "second"]
    assert made.queries == {"q1": "what?"}  # only what is judged
    assert made.qrels == {"q1": {"d2": 1, "d1": 0}}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("corpus.jsonl", "", "no documents"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"corpus\.jsonl:1: has no 'text'"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n', "'d2', which is not there"),
        ("queries.jsonl", '{"_id": "q2", "text": "x"}\n', "'q1', which is not there"),
        ("qrels/test.tsv", "header\nq1\td1\n", r"test\.tsv:2"),
        ("qrels/test.tsv", "header\nq1\td1\thigh\n", r"test\.tsv:2"),
        ("qrels/test.tsv", "header\n", "no judgements"),
    ],
)
def test_a_broken_collection_is_refused(folder: Path, file: str, text: str, why: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(CorpusError, match=why):
        read_beir(folder)


def test_a_missing_split_and_a_missing_folder(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"dev\.tsv: cannot be read"):
        read_beir(folder, "dev")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_beir(folder / "nowhere")


def test_a_passages_hash_is_of_what_it_says() -> None:
    one = Passage("n", "text", "s:1", "p")
    assert one.hash == Passage("n", "text", "moved:2", "q").hash
    assert len({one.hash, Passage("nt", "ext", "s", "p").hash, Passage("n", "\ud800", "s", "p").hash}) == 3
    assert Passage.from_fields(one.fields()) == one
    with pytest.raises(CorpusError):
        Passage.from_fields({"name": "n"})
    with pytest.raises(CorpusError):
        Passage.from_fields(one.fields() | {"text": 3})  # type: ignore[dict-item]
