"""Passages from installed Python. Guarantee: static parsing only, public names only, each text once.

The standard library's language reference (``pydoc_data/topics.py``) and docstrings, then those of the
installed distributions. Nothing is imported or executed; versions come from package metadata.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from accel.core.errors import CorpusError
from accel.core.passage import Passage, Progress
from accel.core.task import content_hash
from accel.corpus.chunks import windows
from accel.corpus.libraries import STDLIB, Library, installed, nearby, standard_library
from accel.corpus.public import PublicNames, shown
from accel.corpus.syntax import Definition

DEFAULT_LIMIT = 4000
STDLIB_SHARE = 0.8
"""Part of the limit that the standard library may take, so that installed packages are there too."""
_FIRST_PIECES = 2  # of an installed package's page, unless everything is asked for: more names fit
_LATE = frozenset({"tkinter", "turtle"})
_MIN_WORDS = 3
_WORD = re.compile(r"\w+")
_NOISE = re.compile(r"^(see |same as |alias |deprecated|inherit|todo|:meta private)", re.IGNORECASE)


def docstring_passages(
    limit: int | None = DEFAULT_LIMIT,
    *,
    full: bool = False,
    progress: Progress | None = None,
) -> list[Passage]:
    """A corpus from what is installed here, in a fixed order.

    By default about ``limit`` passages: the standard library's first, shallow names before deep ones,
    then the packages that accel requires, in turn, what their docs mention most first. With ``full``
    everything of every installed distribution, without limit. progress(passages so far, limit or 0).
    Raises CorpusError when nothing is found (a Python without its sources).
    """
    seen: set[str] = set()
    kept: list[Passage] = []
    total = 0 if full or limit is None else limit
    others = installed() if full else installed(nearby(1) or None)
    share = int(total * STDLIB_SHARE) if others else total
    for passage in _new(_standard(), seen):
        if total and len(kept) >= share:
            break
        kept.append(passage)
        _tell(progress, kept, total)
    pieces = 0 if full else _FIRST_PIECES
    streams = [_new(library_passages(library, pieces), seen) for library in others]
    while streams and not (total and len(kept) >= total):
        for stream in list(streams):
            passage_or_end = next(stream, None)
            if passage_or_end is None:
                streams.remove(stream)
                continue
            kept.append(passage_or_end)
            _tell(progress, kept, total)
            if total and len(kept) >= total:
                break
    if not kept:
        raise CorpusError("no docstrings found: this Python has no source files.")
    if progress:
        progress(len(kept), len(kept))
    return kept


def library_passages(library: Library, pieces: int = 0) -> Iterator[Passage]:
    """Passages of one library, its most public names first, repeated texts included.

    pieces: of a long page, how many windows; 0 means all of them.

    Shallow modules come before deep ones, methods after everything; within a level, what the library's
    docstrings mention most comes first (of methods, those of the classes most mentioned). The modules of a
    level are read when it is reached, so that a caller who stops early pays for little.
    """
    names = PublicNames(library)
    methods: list[_Found] = []
    mentions: Counter[str] = Counter()
    for _, level in groupby(names.modules(), key=lambda m: m.count(".")):
        modules = list(level)
        found = [_Found(shown(m), m, Definition("", "", s.text, 1)) for m, s in names.read(modules)]
        for name, module, there in names.objects(modules):
            source = names.source(module)
            for definition in source.definitions if source else ():
                if definition.name == there:
                    found.append(_Found(name, module, definition))
                elif definition.name.startswith(there + "."):
                    methods.append(_Found(name + definition.name[len(there) :], module, definition))
        if modules[0].count(".") == 0:
            for name, module, definition in names.compiled():
                (methods if "." in definition.name else found).append(_Found(name, module, definition))
        for each in found:
            mentions.update(set(_WORD.findall(each.definition.text)))
        # stable: what nothing else mentions stays in the order of its module
        for each in sorted(found, key=lambda f: -mentions[f.name.rpartition(".")[2]]):
            yield from _passages(library, each, pieces)
    for each in sorted(methods, key=lambda m: (m.name.count("."), -mentions[m.name.split(".")[-2]])):
        yield from _passages(library, each, pieces)


def topic_passages() -> Iterator[Passage]:
    """The language reference that ``help("while")`` shows, from the standard library's own file."""
    library = standard_library()
    path = library.root / "pydoc_data" / "topics.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return  # some distributions leave it out
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            for topic, text in topics.items():
                title, _, rest = text.strip().partition("\n")
                body = re.sub(r"^[*=\-~^]{4,}\s*$", "", rest, flags=re.MULTILINE).strip()
                name = f"Python language: {title.strip().replace(chr(34), '')} ({topic})"
                for number, piece in enumerate(windows(body), 1):
                    where = f"{library.label} · language reference, {topic!r}{_part(number)}"
                    yield Passage(name, piece, where, STDLIB)


@dataclass(frozen=True, slots=True)
class _Found:
    """A documented thing: its public name, the module its text stands in, and the text."""

    name: str
    module: str
    definition: Definition


def _standard() -> Iterator[Passage]:
    """The standard library's passages, the large graphical toolkits after all the rest."""
    yield from topic_passages()
    late: list[Passage] = []
    for passage in library_passages(standard_library()):
        if passage.name.partition(".")[0] in _LATE:
            late.append(passage)
        else:
            yield passage
    yield from late


def _passages(library: Library, found: _Found, pieces: int) -> Iterator[Passage]:
    definition = found.definition
    text = definition.text.strip()
    if len(text.split()) < _MIN_WORDS or _NOISE.match(text):
        return
    head = f"{found.name.rpartition('.')[2]}{definition.call}\n" if definition.call else ""
    path = library.files[found.module].relative_to(library.root).as_posix()
    every = windows(head + text)
    for number, piece in enumerate(every[: pieces or None], 1):
        where = f"{library.label} · {path}:{definition.line}{_part(number)}"
        yield Passage(found.name, piece, where, library.name)


def _part(number: int) -> str:
    return f" (part {number})" if number > 1 else ""


def _new(passages: Iterator[Passage], seen: set[str]) -> Iterator[Passage]:
    """Those whose text, but for white space, has not come before: the first name keeps it."""
    for passage in passages:
        key = content_hash(" ".join(passage.text.split()).encode("utf-8", "surrogatepass"))
        if key not in seen:
            seen.add(key)
            yield passage


def _tell(progress: Progress | None, kept: list[Passage], total: int) -> None:
    if progress and len(kept) % 100 == 0:
        progress(len(kept), total)
