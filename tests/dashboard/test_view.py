"""Answers as HTML: nothing from outside gets through as markup, and no figure that is none is drawn."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.attempt import Estimate, Refusal, Route, Scored, Timing
from accel.core.errors import AccelError, QueryError
from accel.core.money import Cost, NanoUSD, Rate
from accel.core.offer import Gpu, Offer, Realm
from accel.core.task import Complexity, Stage
from accel.dashboard import view
from accel.dashboard.engine import Corpus, Step
from accel.dashboard.route import PARTS, bar, device, ms
from accel.hybrid_gpu_processor import Answer, StageReport
from accel.ledger.decisions import Decision
from accel.stages.answer import Citation

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EVIL = """<script>alert('x')</script>"><img src=x onerror=alert(1)> & ${1+1} {{7*7}} </details>"""
MACHINE = "this machine: 2 cores, a CPU, no GPU"


class Reader(HTMLParser):
    """Notes every tag and attribute, the visible text, and that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.widths: list[float] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name == "style":
                found = re.fullmatch(r"width:(\d+\.\d+)%", value or "")
                assert found, value
                self.widths.append(float(found.group(1)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def offer(name: str = "local", rate: int = 0, source: str = "this machine") -> Offer:
    price = Rate(NanoUSD(rate), NOW.date(), source)
    return Offer(f"{name}/x", name, Realm.REAL, Gpu("cpu", 2), price, NOW, source)


def route(*, why: str = "free and fastest", refused: str = "its terms forbid it") -> Route:
    expected = Estimate(Timing(compute_s=0.002), Cost(), "measured (n=4)")
    paid = Estimate(Timing(0.0, 1.5, 0.1, 0.001), Cost(NanoUSD(222)), "prior")
    return Route(
        "q1-embed",
        (
            Scored(offer(), expected, 1e-6, (("money", 0.0), ("time", 1e-6)), why),
            Scored(offer("runpod", 160_000_000, "price list"), paid, 4e-4, (("money", 2.2e-7),), "paid"),
        ),
        (Refusal("kaggle", refused),),
        "free-first-1",
    )


def report(stage: Stage, compute_s: float = 0.02, *, hits: int = 0, why: str = "w") -> StageReport:
    timing = Timing(compute_s=compute_s)
    return StageReport(stage, "local", why, timing, Cost(), hits, 1, 0.0, f"q1-{stage}-d")


def an_answer(**changes: object) -> Answer:
    made = Answer(
        "q1", "How do I parse a date?", Complexity.SIMPLE, "one short question",
        "date.fromisoformat: parses. [1] Second. [2]", True,
        (
            Citation(1, "date.fromisoformat", "stdlib", "Parses sys.argv[1].", 0.8),
            Citation(2, "other", "elsewhere", "Second.", 0.5),
        ),
        tuple(report(s) for s in (Stage.EMBED, Stage.SEARCH, Stage.RERANK, Stage.ANSWER)),
        "real", 0.42,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def decision(made: Route) -> Decision:
    return Decision("q1-embed-d", "q1-embed", "q1", "{}", made)


def read(found: Answer, *decisions: Decision) -> Reader:
    return Reader(view.answer(found, decisions, MACHINE))


PLAIN = read(an_answer(), decision(route()))


def test_every_citation_in_the_text_leads_to_its_passage() -> None:
    assert PLAIN.links == ["#q1-source-1", "#q1-source-2"]
    assert PLAIN.ids == ["q1-source-1", "q1-source-2"]
    assert "Parses sys.argv[1]." in PLAIN.text


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("a [1][2]", 2), ("[1]", 1), ("sys.argv[1] is it", 0), ("a [7]", 0), ("a [1], b", 1),
        ("x[0][1] [2]", 1),
    ],
)
def test_only_marks_of_sources_become_links(text: str, links: int) -> None:
    found = read(an_answer(text=text))
    assert len(found.links) == links
    assert re.sub(r"[\[\]]", "", text) in re.sub(r"[\[\]]", "", found.text)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("date.fromisoformat: parses. [1]", "date.fromisoformat"),
        ("date.fromisoformat(a: str = ''): parses. [1]", "date.fromisoformat(a: str = '')"),
        ("date.fromisoformat parses. [1]", ""),
        ("Use: date.fromisoformat [1]", ""),
    ],
)
def test_a_line_opens_with_its_sources_name_in_code(line: str, code: str) -> None:
    found = read(an_answer(text=f"{line}\nAnd so on."))
    assert f"{line.replace('[1]', '1')}And so on." in found.text
    html = view.answer(an_answer(text=line), (), MACHINE)
    assert (f"<p><code>{escape(code)}</code>" in html) if code else "<p><code>" not in html


def test_nothing_relevant_is_a_state_of_its_own() -> None:
    html = view.answer(an_answer(found=False, text="Nothing relevant was found.", citations=()), (), MACHINE)
    assert 'class="nothing"' in html
    assert "Sources" not in html
    assert "Nothing relevant was found." in Reader(html).text
    assert 'class="nothing"' not in view.answer(an_answer(), (), MACHINE)


@given(st.text(max_size=60))
def test_whatever_comes_from_outside_stays_text(word: str) -> None:
    evil = word + EVIL
    found = an_answer(
        id=evil, question=evil, text=f"{evil} [1]", judged=evil,
        citations=(Citation(1, evil, evil, evil, 0.1), Citation(2, "b", "b", "b", 0.1)),
        stages=(replace(report(Stage.EMBED, why=evil), where=evil, decision_id="q1-embed-d"),),
    )  # fmt: skip
    html = view.answer(found, [decision(route(why=evil, refused=evil))], evil)
    seen = Reader(html)
    assert seen.tags <= PLAIN.tags
    assert seen.attributes <= PLAIN.attributes
    assert "<script" not in html and "<img" not in html
    for other in (
        view.corpus_line(Corpus(evil, 3, ((evil, 3),), NOW, evil), evil),
        view.progress(Step(evil, 1, 3)), view.progress(Step(evil)),
        view.failure(QueryError(evil, hint=evil)),
    ):  # fmt: skip
        assert "<script" not in other and "<img" not in other
        assert "onerror" not in Reader(other).attributes


@given(*[st.floats(allow_nan=True, allow_infinity=True) for _ in range(5)])
def test_bars_hold_only_finite_shares(a: float, b: float, c: float, d: float, longest: float) -> None:
    html = bar(Timing(a, b, c, d), longest)
    assert "nan" not in html and "inf" not in html
    shares = Reader(html).widths
    assert all(0 < s <= 100 or s == 0 for s in shares)


@given(st.lists(st.floats(min_value=0, max_value=1e4), min_size=4, max_size=4))
def test_a_bar_is_as_long_as_its_share_of_the_longest(parts: list[float]) -> None:
    timing = Timing(*parts)
    longest = max(timing.total_s, 1e-6) * 2
    # each part is rounded to a hundredth of a per cent
    assert sum(Reader(bar(timing, longest)).widths) == pytest.approx(100 * timing.total_s / longest, abs=0.03)


def test_odd_figures_are_shown_as_none_and_never_drawn() -> None:
    odd = replace(report(Stage.EMBED), timing=Timing(math.nan, math.inf, -1.0, 0.01))
    html = view.answer(an_answer(stages=(odd,), seconds=math.nan), (), MACHINE)
    assert "nan" not in html.lower() and "inf" not in html
    assert "unknown" in html
    assert Reader(html).widths == [100.0]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0"), (0.00004, "0.0"), (0.0123, "12.3"), (0.0999, "99.9"), (0.1, "100"), (12.3456, "12,346"),
     (math.nan, "—"), (math.inf, "—"), (-0.1, "—")],
)  # fmt: skip
def test_milliseconds(seconds: float, shown: str) -> None:
    assert ms(seconds) == shown


def test_the_route_says_where_why_what_it_took_and_what_was_considered() -> None:
    text = PLAIN.text
    for word in ("embed", "search", "rerank", "answer", *(name for name, _ in PARTS)):
        assert word in text
    for told in ("free and fastest", "2 offers, 1 refused", "its terms forbid it", "cpu, 2 cores", "1,601",
                 "measured (n=4)", "price list", "$0.0004000", "explain q1", "free-first-1"):  # fmt: skip
        assert told in text, told


def test_a_cached_stage_says_so_and_needs_no_decision() -> None:
    cached = tuple(report(s, 0.0, hits=1, why="in the cache") for s in (Stage.EMBED, Stage.SEARCH))
    text = read(an_answer(stages=cached)).text
    assert text.count("hit") == 2
    assert "2 of 2" in text
    assert "accel explain" not in text


@pytest.mark.parametrize("realm", list(Realm))
def test_the_realm_is_always_shown(realm: Realm) -> None:
    for html in (view.masthead(realm), view.answer(an_answer(realm=realm.value), (), MACHINE)):
        assert f"realm-{realm.value}" in html
        assert realm.value in Reader(html).text


def test_the_corpus_line_says_how_many_passages_of_what_since_when_on_which_device() -> None:
    many = tuple((f"p{i}", 10) for i in range(8))
    text = Reader(view.corpus_line(Corpus("docstrings", 4000, many, NOW, "MiniLM, fp32"), MACHINE)).text
    for told in ("4,000 passages", "docstrings", "2026-11-23", "MiniLM, fp32", MACHINE, "p0 10", "3 more"):
        assert told in text
    assert "Not indexed yet" in view.corpus_line(Corpus("docstrings"), MACHINE)


def test_progress_tells_how_far_where_that_is_known() -> None:
    known = view.progress(Step("embedding passages", 512, 4000))
    assert "512 of 4,000" in known and Reader(known).widths == [12.8]
    assert 'aria-valuenow="512"' in known
    assert "moving" in view.progress(Step("reading the corpus"))


def test_a_failure_is_one_line_with_what_to_do() -> None:
    text = Reader(view.failure(QueryError("the question is empty.", hint="Ask something."))).text
    assert text == "The question is empty. Ask something."
    assert 'role="alert"' in view.failure(AccelError("x"))


def test_an_unplanned_failure_does_not_show_its_text() -> None:
    html = view.unexpected(RuntimeError("token=hunter2"))
    assert "RuntimeError" in html and "hunter2" not in html


def test_devices_in_words() -> None:
    assert device(Gpu("cpu", 1)) == "cpu, 1 core"
    assert device(Gpu("NVIDIA T4", 2, 16 << 30, 75)) == "2× NVIDIA T4"
    assert device(Gpu("NVIDIA H200", 1, 1, 90)) == "NVIDIA H200"
