"""Test collections in BEIR's layout. Guarantee: what is returned is whole; a broken line is an error.

A folder with ``corpus.jsonl`` (_id, title, text), ``queries.jsonl`` (_id, text) and ``qrels/<split>.tsv``
(query-id, corpus-id, score, with a header line), as described in BEIR's README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.errors import CorpusError
from accel.core.passage import Passage


@dataclass(frozen=True, slots=True)
class Collection:
    """passages[i] has id ids[i]. queries: id → text, those judged in this split. qrels: id → id → grade."""

    name: str
    ids: tuple[str, ...]
    passages: tuple[Passage, ...]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_beir(folder: Path, split: str = "test") -> Collection:
    """Read a collection. Raises CorpusError naming the file and line that cannot be used."""
    folder = Path(folder)
    ids, passages = [], []
    for where, line in json_lines(folder / "corpus.jsonl"):
        ids.append(_text(line, "_id", where))
        title = line.get("title") or ""
        passages.append(
            Passage(str(title), _text(line, "text", where), f"{folder.name} · {ids[-1]}", folder.name)
        )
    if not ids:
        raise CorpusError(f"{folder / 'corpus.jsonl'}: no documents.")
    known, qrels = set(ids), _qrels(folder / "qrels" / f"{split}.tsv")
    texts = {
        _text(line, "_id", where): _text(line, "text", where)
        for where, line in json_lines(folder / "queries.jsonl")
    }
    lost = [q for q in qrels if q not in texts] + [d for q in qrels.values() for d in q if d not in known]
    if lost:
        raise CorpusError(f"{folder}: qrels/{split}.tsv judges {lost[0]!r}, which is not there.")
    return Collection(folder.name, tuple(ids), tuple(passages), {q: texts[q] for q in qrels}, qrels)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) for every non-empty line. Raises CorpusError with the line's number."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError as bad:
                    raise CorpusError(f"{path}:{number}: not JSON ({bad}).") from None
                if not isinstance(value, dict):
                    raise CorpusError(f"{path}:{number}: not a JSON object.")
                yield f"{path}:{number}", value
    except OSError as bad:
        raise CorpusError(f"{path}: cannot be read ({bad.strerror}).") from None
    except UnicodeDecodeError:
        raise CorpusError(f"{path}: not UTF-8 text.") from None


def _text(line: dict[str, Any], name: str, where: str) -> str:
    value = line.get(name)
    if not isinstance(value, str | int):
        raise CorpusError(f"{where}: has no {name!r}.")
    return str(value)


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as bad:
        raise CorpusError(f"{path}: cannot be read ({bad.strerror}).") from None
    qrels: dict[str, dict[str, int]] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            query, document, grade = line.split("\t")
            qrels.setdefault(query, {})[document] = int(grade)
        except ValueError:
            raise CorpusError(f"{path}:{number}: not query-id, corpus-id and score.") from None
    if not qrels:
        raise CorpusError(f"{path}: no judgements.")
    return qrels
