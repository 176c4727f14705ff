"""A passage in sentences. Guarantee: each one stands in the passage, white space aside; code is left out.

Docstrings are not prose: doctests, tables, headings, directives and parameter lists are cut away, and the
call that opens a passage ("fromisoformat(date_string)") is kept apart, to be shown beside the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SENTENCES = 6  # of one passage: each costs an encoding, and docstrings begin with what matters
_MAX_CHARS = 400
_MIN_WORDS = 3
# After a full stop and before a capital; not after "e.g." and single initials
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\b[A-Z])[.!?][\"')\]]*\s+(?=[\"'(\[`]?[A-Z`*])"
)
_BULLET = re.compile(r"^\s*(?:[-*•+]|\d+[.)]|--?\w[\w-]*)\s+")
_CALL = re.compile(r"[\w.]+\(.*\)(\s*->\s*.+)?\s*…?\)?$")
_DROPPED = re.compile(
    r"^\s*(?:>>>|\.\.\.|\.\. |:\w+|@|In \[\d|#|\||\+[-=]|[=\-~^*_]{3,}\s*$|import \w|from [\w.]+ import\b)"
)  # code, reStructuredText's directives, tables, underlines
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_DEFINITION = re.compile(r"^\s*\*{0,2}\w[\w, *.]*\s:\s")  # numpydoc: "name : type"
_SECTION = re.compile(
    r"^\s*(Parameters|Params|Args|Arguments|Returns?|Yields?|Raises|See Also|Notes?|Examples?|References"
    r"|Attributes|Keyword Arguments|Other Parameters|Methods|Warnings?|Usage|Guides|Demos)\s*:?\s*$"
)
_READ_SECTIONS = ("Note", "Return", "Yield", "Warning")


@dataclass(frozen=True, slots=True)
class Sentences:
    """call: the opening signature, "" if there is none. sentences: in the order of the text."""

    call: str
    sentences: tuple[str, ...]


def split(text: str) -> Sentences:
    """The readable sentences of a passage's text, at most ``MAX_SENTENCES``, white space made single."""
    lines = text.splitlines()
    call = ""
    if lines and _CALL.fullmatch(lines[0].strip()):
        call = lines[0].strip()
        lines = lines[1:]
    found: list[str] = []
    for block in _blocks(lines):
        found += [s for s in _cut(block) if len(s.split()) >= _MIN_WORDS and _is_prose(s)]
        if len(found) >= MAX_SENTENCES:
            break
    return Sentences(call, tuple(found[:MAX_SENTENCES]))


def _blocks(lines: list[str]) -> list[str]:
    """Paragraphs and list entries, joined to one line each.

    Left out: fenced code, doctests up to the next blank line, and the sections that list parameters,
    examples and the like: what is indented below "Args:", or follows an underlined "Parameters".
    """
    blocks: list[list[str]] = [[]]
    fenced = in_code = False
    skipped_below: int | None = None  # indent of the heading whose section is left out; -1: underlined
    for number, line in enumerate(lines):
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if _FENCE.match(line):
            fenced = not fenced
            continue
        heading = _SECTION.match(line)
        if heading:
            underlined = number + 1 < len(lines) and set(lines[number + 1].strip()) in ({"-"}, {"="})
            skipped_below = None
            if not heading.group(1).startswith(_READ_SECTIONS):
                skipped_below = -1 if underlined else indent
            blocks.append([])
            in_code = False
            continue
        if skipped_below is not None and skipped_below >= 0 and bare and indent <= skipped_below:
            skipped_below = None
        if not bare:
            blocks.append([])
            in_code = False
        elif fenced or in_code or skipped_below is not None or _DROPPED.match(line):
            in_code = in_code or bare.startswith((">>>", "In ["))
        elif _DEFINITION.match(line):
            blocks.append([])
        elif _BULLET.match(line):
            blocks.append([_BULLET.sub("", line)])
        else:
            blocks[-1].append(line)
    return [" ".join(" ".join(b).split()) for b in blocks if b]


def _cut(block: str) -> list[str]:
    sentences, start = [], 0
    for end in _END.finditer(block):
        sentences.append(block[start : end.end()].strip())
        start = end.end()
    sentences.append(block[start:].strip())
    return [s if len(s) <= _MAX_CHARS else s[:_MAX_CHARS].rsplit(" ", 1)[0] for s in sentences if s]


def _is_prose(sentence: str) -> bool:
    """Mostly words: code, formulas and grammar rules have more signs."""
    letters = sum(c.isalpha() or c.isspace() for c in sentence)
    return letters >= 0.75 * len(sentence) and "::=" not in sentence and " = " not in sentence
