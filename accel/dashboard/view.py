"""Answers as HTML. Guarantee: pure functions; whatever came from outside is escaped, in text and attributes.

The four states of the page are here: nothing asked yet, opening, an answer (or the plain statement that
there is none), and a failure in one line. How the answer was routed is drawn by ``route``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

from accel.core.errors import AccelError, QueryError
from accel.core.money import dollars
from accel.core.offer import Realm
from accel.dashboard.engine import Corpus, Step
from accel.dashboard.route import drawn_s, finite, ms, route_section
from accel.hybrid_gpu_processor import Answer
from accel.ledger.decisions import Decision
from accel.stages.answer import Citation

# A run of citation marks after white space; "argv[1]" in a quoted sentence is not one.
_MARKS = re.compile(r"(?<!\S)(?:\[\d{1,3}\])+")
_NUMBER = re.compile(r"\[(\d{1,3})\]")
_SHOWN_PACKAGES = 5
REALM_MEANS = {
    Realm.REAL: "computed by the provider itself, or by this machine",
    Realm.SANDBOX: "a rehearsal: a cloud on loopback, executed on this machine",
    Realm.SIMULATED: "nothing was executed",
}


def realm_badge(realm: str) -> str:
    """The realm as a word in a frame, with its meaning as a title."""
    name = Realm(realm)
    return f'<span class="badge realm-{name}" title="{escape(REALM_MEANS[name])}">{name}</span>'


def masthead(realm: str) -> str:
    """The line at the top: whose page this is, and how real it is."""
    return (
        '<header class="masthead"><span class="mark">accel</span>'
        '<h1 class="here">Ask</h1>'
        f'<span class="right">realm {realm_badge(realm)}</span></header>'
    )


def corpus_line(corpus: Corpus, machine: str) -> str:
    """What is asked about, how much of it, since when, by which model, and on which device."""
    name = f'<span class="name">{escape(corpus.name)}</span>'
    if not corpus.passages:
        about = f"Not indexed yet: {name}. The first question reads and embeds it, once."
    else:
        when = f", indexed {corpus.indexed_at:%Y-%m-%d}" if corpus.indexed_at else ""
        count = f"{corpus.passages:,} passage{'s' if corpus.passages != 1 else ''}"
        about = f"<strong>{count}</strong> from {name}{when}"
    facts = [about]
    if corpus.model:
        facts.append(escape(corpus.model))
    facts.append(f"on {escape(machine)}")
    line = '<span class="dot"> · </span>'.join(f"<span>{f}</span>" for f in facts)
    return f'<div class="corpus"><p>{line}</p>{_packages(corpus)}</div>'


def _packages(corpus: Corpus) -> str:
    if not corpus.packages:
        return ""
    few = ", ".join(f"{escape(n)} {c:,}" for n, c in corpus.packages[:_SHOWN_PACKAGES])
    rest = corpus.packages[_SHOWN_PACKAGES:]
    if not rest:
        return f"<p>{few}</p>"
    others = ", ".join(f"{escape(n)} {c:,}" for n, c in rest)
    return f"<details><summary>{few} and {len(rest)} more</summary><p>{others}</p></details>"


def waiting() -> str:
    """Before the first question."""
    return (
        '<section class="state empty"><p>The answer will stand here: sentences taken from the passages, '
        "each with its source, then the stages that led to it, with where each one ran, why there, "
        "how long it took and what it cost.</p></section>"
    )


def progress(step: Step) -> str:
    """While something is being opened or computed. A bar where the total is known, a moving one else."""
    total, done = step.total, min(step.done, step.total or step.done)
    told = f'class="track" role="progressbar" aria-label="{escape(step.what)}"'
    count = f"{done:,} of {total:,}" if total else (f"{done:,}" if done else "")
    bar = (
        f'<div {told} aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}">'
        f'<i style="width:{100 * done / total:.1f}%"></i></div>'
        if total
        else f'<div {told.replace("track", "track moving", 1)}><i></i></div>'
    )
    return (
        f'<section class="state busy"><p role="status">{escape(step.what)} '
        f'<span class="count">{count}</span></p>{bar}</section>'
    )


def failure(error: AccelError) -> str:
    """One line: what was wrong, and what to do."""
    told = error.message
    if isinstance(error, QueryError):  # in our words: other messages may open with a path or a name
        told = told[:1].upper() + told[1:]
    hint = f' <span class="hint">{escape(error.hint)}</span>' if error.hint else ""
    return f'<section class="state failed" role="alert"><p>{escape(told)}{hint}</p></section>'


def unexpected(error: BaseException) -> str:
    """A failure nobody planned for: its class only, since its text may hold anything."""
    return (
        '<section class="state failed" role="alert"><p>This should not have happened '
        f"({escape(type(error).__name__)}). "
        '<span class="hint">The terminal that serves this page has the details.</span></p></section>'
    )


def answer(found: Answer, decisions: Sequence[Decision], machine: str) -> str:
    """An answer with its sources, headline figures and route."""
    said = _text(found) if found.found else _nothing(found)
    heard = escape(found.question if len(found.question) <= 400 else found.question[:400] + "…")
    return (
        f'<article class="result" data-id="{escape(found.id)}">'
        f'<h2 class="asked">{heard}</h2>{said}{_sources(found)}{_headline(found, machine)}'
        f"{route_section(found, decisions)}</article>"
    )


def _text(found: Answer) -> str:
    numbers = {c.number for c in found.citations}

    def link(match: re.Match[str]) -> str:
        number = int(match.group(1))
        if number not in numbers:
            return match.group(0)
        anchor = _anchor(found, number)
        return f'<a class="cite" href="#{anchor}" aria-label="source {number}">{number}</a>'

    lines = []
    for line in filter(None, map(str.strip, found.text.splitlines())):
        label, rest = _label(line, found.citations)
        told = _MARKS.sub(lambda run: _NUMBER.sub(link, run.group(0)), escape(rest))
        lines.append(f"<p><code>{escape(label)}</code>{told}</p>" if label else f"<p>{told}</p>")
    return f'<div class="text">{"".join(lines)}</div>'


def _label(line: str, citations: Sequence[Citation]) -> tuple[str, str]:
    """A line's opening name, with the arguments of a call, if it is that of a source; and the rest."""
    for citation in citations:
        if citation.name and line.startswith(citation.name):
            called = line[len(citation.name) :].startswith("(")
            label, colon, rest = line.partition("): " if called else ": ")
            if colon:
                return label + (")" if called else ""), f": {rest}"
    return "", line


def _nothing(found: Answer) -> str:
    return (
        f'<div class="nothing" role="status"><p class="text">{escape(found.text)}</p>'
        "<p>What was nearest is not near enough to be called an answer. Other words may find it, "
        "or it is not in these passages.</p></div>"
    )


def _anchor(found: Answer, number: int) -> str:
    return escape(f"{found.id}-source-{number}")


def _sources(found: Answer) -> str:
    if not found.citations:
        return ""
    items = "".join(_source(found, c) for c in found.citations)
    title = "Sources" if found.found else "Nearest passages"
    return f'<section class="sources"><h3>{title}</h3>{items}</section>'


def _source(found: Answer, citation: Citation) -> str:
    source = citation.source if citation.source != citation.name else ""
    return (
        f'<details id="{_anchor(found, citation.number)}"><summary>'
        f'<span class="number">{citation.number}</span>'
        f'<span class="name">{escape(citation.name)}</span>'
        f'<span class="from">{escape(source)}</span></summary>'
        f'<div class="passage">{escape(citation.text)}</div></details>'
    )


def _headline(found: Answer, machine: str) -> str:
    places = sorted({s.where for s in found.stages})
    cached = sum(s.hits >= s.items for s in found.stages)
    cards = (
        ("Time", _seconds(found.seconds), f"{ms(_between(found))} ms of it between stages"),
        ("Cost", escape(dollars(found.cost.amount)), escape(str(found.cost.basis))),
        ("Where", escape(", ".join(places)), escape(machine)),
        ("From the cache", f"{cached} of {len(found.stages)}", "stages not computed again"),
        ("Judged", escape(found.complexity), escape(found.judged)),
        ("Realm", realm_badge(found.realm), escape(REALM_MEANS[Realm(found.realm)])),
    )
    return (
        '<dl class="cards">'
        + "".join(f"<div><dt>{t}</dt><dd>{v}</dd><dd class='small'>{s}</dd></div>" for t, v, s in cards)
        + "</dl>"
    )


def _between(found: Answer) -> float:
    """Seconds that belong to no stage: routing, cache, ledger."""
    return max(0.0, finite(found.seconds) - sum(drawn_s(s.timing) for s in found.stages))


def _seconds(value: float) -> str:
    if not math.isfinite(value) or value < 0:
        return "unknown"
    if value < 0.9995:
        return f"{ms(value)} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:,.1f} s"
