"""A person's own documents. Guarantee: every file is read, or named with the reason why it was not.

A file or a folder of .txt, .md, .rst, .py, .jsonl (BEIR's ``_id, title, text``, one object a line) and
.json (a list of such objects, or of texts). One file that was asked for by name must be readable; in a
folder, what cannot be read is skipped and reported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core.errors import CorpusError
from accel.core.passage import Passage, Progress
from accel.corpus.beir import json_lines
from accel.corpus.chunks import windows
from accel.corpus.syntax import read_source

SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl", ".json")
MAX_FILE_BYTES = 64 << 20
"""Largest text file that is read whole; .jsonl is read line by line and may be larger."""
_MAX_JSONL_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not read, and why, in words."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FileCorpus:
    """passages: in the order of the files' names. files: how many were read. skipped: the others."""

    passages: tuple[Passage, ...]
    files: int
    skipped: tuple[Skipped, ...]


def read_files(path: Path, progress: Progress | None = None) -> FileCorpus:
    """Read a file or a folder, recursively. Passed by: hidden entries, Python's caches, links to folders.

    progress is called with (files done, files). Raises CorpusError when ``path`` is missing, a single
    file cannot be used, or a folder holds nothing that can.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise CorpusError(f"{path}: there is no such file or folder.")
    if not path.is_dir():
        passages = tuple(_read(path, path.parent))
        if not passages:
            raise CorpusError(f"{path}: is empty.")
        return FileCorpus(passages, 1, ())
    found: list[Passage] = []
    skipped: list[Skipped] = []
    files = sorted(_walk(path, skipped))
    for done, file in enumerate(files, 1):
        try:
            passages = tuple(_read(file, path))
            if not passages:
                skipped.append(Skipped(file, "empty"))
            found += passages
        except CorpusError as bad:
            skipped.append(Skipped(file, bad.message.removeprefix(f"{file}: ")))
        if progress:
            progress(done, len(files))
    if not found:
        why = f" ({skipped[0].path.name}: {skipped[0].reason})" if skipped else ""
        raise CorpusError(
            f"{path}: nothing to read{why}.", hint=f"Give it files of {', '.join(SUFFIXES)}."
        )
    lost = {s.path for s in skipped}
    return FileCorpus(tuple(found), sum(f not in lost for f in files), tuple(skipped))


def _walk(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    def unreadable(bad: OSError) -> None:
        skipped.append(Skipped(Path(str(bad.filename)), f"cannot be read ({bad.strerror})"))

    for base, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        for name in names:
            file = Path(base) / name
            if name.startswith("."):
                continue
            if file.suffix.lower() in SUFFIXES:
                yield file
            else:
                skipped.append(Skipped(file, f"not one of {', '.join(SUFFIXES)}"))


def _read(file: Path, root: Path) -> Iterator[Passage]:
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise CorpusError(f"{file}: not one of {', '.join(SUFFIXES)}.")
    _check_size(file, _MAX_JSONL_BYTES if kind == ".jsonl" else MAX_FILE_BYTES)
    shown = file.relative_to(root).as_posix()
    package = root.name or "files"
    if kind == ".jsonl":
        for where, line in json_lines(file):
            number = where.rpartition(":")[2]
            yield from _entry(line, f"{shown}:{number}", f"{file}:{number}", package)
    elif kind == ".json":
        yield from _json(file, shown, package)
    elif kind == ".py":
        yield from _python(file, shown, package)
    else:
        yield from _pieces(shown, _text(file), shown, package)


def _json(file: Path, shown: str, package: str) -> Iterator[Passage]:
    try:
        value = json.loads(_text(file))
    except (ValueError, RecursionError) as bad:
        raise CorpusError(f"{file}: not JSON ({bad}).") from None
    for number, entry in enumerate(value if isinstance(value, list) else [value], 1):
        one = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(one, dict):
            raise CorpusError(f"{file}: entry {number} is neither a text nor an object.")
        yield from _entry(one, f"{shown} entry {number}", f"{file}: entry {number}", package)


def _entry(line: dict[str, Any], source: str, where: str, package: str) -> Iterator[Passage]:
    text, title = line.get("text"), line.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise CorpusError(f"{where}: has no text (needs 'text', may have '_id' and 'title').")
    name = title or str(line.get("_id", ""))
    yield from _pieces(name, text, source, package)


def _python(file: Path, shown: str, package: str) -> Iterator[Passage]:
    """Docstrings of a Python file; the whole text where it has none or cannot be parsed."""
    text = _text(file)
    source = read_source(file, file.stem)
    pages = []
    if source is not None:
        if source.text:
            pages.append((file.stem, source.text, 1))
        pages += [
            (f"{file.stem}.{d.name}", f"{d.name.rpartition('.')[2]}{d.call}\n{d.text}", d.line)
            for d in source.definitions
        ]
    for name, page, line in pages or [(shown, text, 1)]:
        yield from _pieces(name, page, f"{shown}:{line}", package)


def _pieces(name: str, text: str, source: str, package: str) -> Iterator[Passage]:
    for number, piece in enumerate(windows(text), 1):
        yield Passage(name, piece, source + (f" (part {number})" if number > 1 else ""), package)


def _check_size(file: Path, limit: int) -> None:
    try:
        size = file.stat().st_size
    except OSError as bad:
        raise CorpusError(f"{file}: cannot be read ({bad.strerror}).") from None
    if not file.is_file():
        raise CorpusError(f"{file}: not a regular file.")
    if size > limit:
        raise CorpusError(
            f"{file}: {size / 1e6:.0f} MB is too large, the limit is {limit / 1e6:.0f} MB.",
            hint="Split it, or make it a .jsonl.",
        )


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as bad:
        raise CorpusError(f"{file}: cannot be read ({bad.strerror}).") from None
    if b"\0" in raw:
        raise CorpusError(f"{file}: a binary file, not text.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        raise CorpusError(f"{file}: not UTF-8 text (byte {bad.start}).") from None
