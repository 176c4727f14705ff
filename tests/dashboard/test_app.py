"""The question page in a real browser, over a real index of a small corpus, with the bundled model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from accel.core.errors import UsageError
from accel.dashboard import screenshot
from accel.dashboard.app import listen, main, serving
from accel.dashboard.ask import EXAMPLES
from accel.dashboard.engine import Engine, engine_over

needs_browser = pytest.mark.skipif(
    screenshot.chromium() is None, reason="no Chromium here; the package chromium has one"
)
JSON = {"Content-Type": "application/json"}
HERE = ("127.0.0.1", "localhost")
PASSAGES = {
    "dates.md": "date.fromisoformat parses a string that holds an ISO date. It returns a date object.",
    "shell.md": "subprocess.run runs a shell command, and with capture_output it keeps the output.",
    "trees.md": "shutil.copytree copies a whole directory tree to another place.",
    # what a page must show as it is
    "evil.md": "A template engine renders what it is given as plain text. Not so "
    "<script>window.broken = 1</script>, <img src=x onerror='window.broken = 2'>, "
    "${window.broken = 3} and {{7 * 7}}.",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    for name, text in PASSAGES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def engine(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_over(corpus, home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving(engine) as address:
        yield address
    assert engine.processor is None, "the engine is closed with the server"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with screenshot.browser() as opened:
        yield opened


@pytest.fixture
def page(chromium: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An opened page; at the end: no error in its console, and no request that left this machine."""
    width = getattr(request, "param", 1180)
    context = chromium.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    opened = context.new_page()
    trouble: list[str] = []
    opened.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    opened.on("console", lambda told: trouble.append(told.text) if told.type == "error" else None)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(url)
    opened.locator("#ask").wait_for()
    yield opened
    assert opened.evaluate("window.broken") is None, "a passage was executed"
    opened_panel = "view=api" in opened.url
    context.close()
    # Gradio's own panel asks this server for a summary and a schema that are switched off
    assert asked and (not trouble or opened_panel)
    parts = [urlsplit(u) for u in asked]
    foreign = [p.geturl() for p in parts if p.scheme in ("http", "https", "ws") and p.hostname not in HERE]
    assert not foreign


@needs_browser
def test_an_example_asked_with_one_click_is_answered_with_its_sources_and_its_route(
    page: Any, engine: Engine
) -> None:
    page.evaluate(
        """() => { window.told = []; new MutationObserver(() => {
            const now = document.querySelector('.state.busy'); if (now) window.told.push(now.innerText);
        }).observe(document.getElementById('result'), {childList: true, subtree: true}); }"""
    )
    assert "The answer will stand here" in page.inner_text("#result")
    page.get_by_role("button", name=EXAMPLES[0]).click()
    page.locator(".result").wait_for(timeout=60_000)
    assert page.locator("#question textarea").input_value() == EXAMPLES[0]
    assert page.inner_text(".asked") == EXAMPLES[0]
    assert "fromisoformat" in page.inner_text(".result .text")
    assert engine.openings == 1
    assert any("Answering" in line for line in page.evaluate("window.told"))
    assert "4 passages" in page.inner_text("#corpus")

    passage = page.locator(".sources .passage").first
    assert not passage.is_visible()
    page.locator("a.cite").first.click()
    assert passage.is_visible()
    assert PASSAGES["dates.md"] in passage.inner_text()

    stages = page.locator("tbody[data-stage]")
    assert [s.get_attribute("data-stage") for s in stages.all()] == ["embed", "search", "rerank", "answer"]
    for stage in stages.all():
        assert stage.locator(".where").inner_text() == "local"
        assert re.search(r"\d", stage.locator("[data-part=compute]").inner_text())
    page.locator("tr.why summary").first.click()
    offers = page.locator("table.offers").first.inner_text()
    assert "local" in offers and "kaggle" in offers and "refused" in offers
    assert page.locator(".masthead .badge").inner_text() == "real"
    ident = page.locator(".result").get_attribute("data-id")
    assert f"accel explain {ident}" in page.inner_text(".route")
    assert engine.processor is not None
    assert len(engine.processor.accelerator.explain(ident)) == 4


@needs_browser
def test_the_same_question_again_comes_from_the_cache(page: Any) -> None:
    for _ in range(2):
        screenshot.ask(page, "what copies a directory tree")
        page.locator(".asked", has_text="what copies").wait_for()
        first = page.locator(".result").get_attribute("data-id")
        page.locator("#question textarea").fill("")
        page.keyboard.press("Enter")
        page.locator(".state.failed").wait_for()
    screenshot.ask(page, "what copies a directory tree")
    assert page.locator(".result").get_attribute("data-id") != first
    assert page.locator(".route .hit").count() == 4
    assert "4 of 4" in page.inner_text(".cards")


@needs_browser
def test_passages_are_shown_as_they_are(page: Any) -> None:
    screenshot.ask(page, "what does a template engine render as text")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert PASSAGES["evil.md"] in page.inner_text(".sources")
    assert page.locator(".result script, .result img").count() == 0


@needs_browser
def test_what_the_corpus_does_not_hold_is_said_so(page: Any) -> None:
    screenshot.ask(page, "How long do I boil an egg?")
    assert "Nothing relevant" in page.inner_text(".nothing")
    assert page.locator("tbody[data-stage]").count() == 4


@needs_browser
def test_an_empty_and_an_endless_question_get_one_line_each(page: Any) -> None:
    page.locator("#ask").click()
    page.locator(".state.failed").wait_for()
    assert page.inner_text("[role=alert]").startswith("The question is empty.")
    page.locator("#question textarea").fill("why " * 3000)
    page.locator("#ask").click()
    page.locator(".state.failed", has_text="8,000 is the limit").wait_for()
    assert "Traceback" not in page.inner_text("body")


@needs_browser
def test_the_page_is_worked_with_the_keyboard(page: Any) -> None:
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.type("what parses an ISO date")
    page.keyboard.press("Enter")
    page.locator(".result").wait_for()
    page.locator("a.cite").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".sources details").first.evaluate("d => d.open")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Enter")
    assert not page.locator(".sources details").first.evaluate("d => d.open")


@needs_browser
@pytest.mark.parametrize("page", [390], indirect=True)
def test_nothing_is_cut_off_on_a_phone(page: Any) -> None:
    width = "[document.documentElement.scrollWidth, innerWidth]"
    assert page.evaluate(width) == [390, 390]
    screenshot.ask(page, "what keeps the output of a shell command")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(width) == [390, 390]
    for selector in ("#question textarea", "#ask", "tbody[data-stage] .bar", "table.offers .whyhere"):
        box = page.locator(selector).first.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390, selector


@needs_browser
def test_the_endpoint_is_described_on_the_page(page: Any) -> None:
    page.get_by_role("button", name="Use via API").click()
    page.get_by_text("Answer a question over the corpus of this page").first.wait_for()
    assert "/ask" in page.inner_text("body")


@needs_browser
def test_dark_and_light_are_legible(page: Any) -> None:
    """WCAG AA: 4.5 : 1 between text and what is behind it."""
    screenshot.ask(page, "what returns a date object")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
        page.wait_for_timeout(200)  # Gradio fades its colours
        for selector in (".asked", ".corpus p", ".cards .small", ".cite", ".foot", "#ask", ".route .more"):
            colours = page.locator(selector).first.evaluate(
                """e => { const text = getComputedStyle(e).color; let behind = e, found;
                do { found = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
                while (behind && found === 'rgba(0, 0, 0, 0)'); return [text, found]; }"""
            )
            assert contrast(*colours) >= 4.5, (scheme, selector, colours)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two opaque CSS colours (WCAG 2.2, "relative luminance")."""

    def luminance(colour: str) -> float:
        parts = [int(p) / 255 for p in re.findall(r"\d+", colour)[:3]]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_one_public_endpoint_answers_and_refuses(url: str) -> None:
    with httpx.Client(base_url=f"{url}/gradio_api", timeout=60) as client:
        named = client.get("/info").json()["named_endpoints"]
        assert list(named) == ["/ask"]
        assert named["/ask"]["parameters"][0]["parameter_name"] == "question"

        def call(question: str) -> tuple[str, Any]:
            begun = client.post("/call/ask", content=json.dumps({"data": [question]}), headers=JSON).json()
            told = client.get(f"/call/ask/{begun['event_id']}").text
            event, data = re.findall(r"event: (\w+)\ndata: (.*)", told)[-1]
            return event, json.loads(data)

        event, (answer,) = call("what parses an ISO date \ud800")
        assert event == "complete"
        assert answer["found"] and answer["realm"] == "real"
        assert [s["stage"] for s in answer["stages"]] == ["embed", "search", "rerank", "answer"]
        event, refusal = call("")
        assert event == "error" and "the question is empty" in json.dumps(refusal)


def test_only_requests_addressed_to_this_machine_are_answered(url: str) -> None:
    assert httpx.get(url, headers={"Host": "somewhere.example"}).status_code == 400
    answered = httpx.get(url)
    assert answered.status_code == 200
    assert "default-src 'self'" in answered.headers["content-security-policy"]


def test_serving_the_page_loads_no_model_and_ctrl_c_ends_it(corpus: Path) -> None:
    """In a fresh process: ``python gradio_app.py``, its page and its configuration fetched."""
    told = (
        "import sys, gradio_app; before = 'gradio' in sys.modules\n"
        f"code = gradio_app.main(['--port', '0', '--corpus', {str(corpus)!r}])\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules)\n"
        "print(before, code, sorted(heavy), flush=True)"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", told], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        assert httpx.get(found.group(), timeout=60).status_code == 200
        assert httpx.get(f"{found.group()}/config", timeout=60).json()["title"] == "accel · ask"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out.strip() == "False 0 []"
    assert "Traceback" not in err


def test_what_cannot_be_served_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"port {port}" in line and "--port 0" in line
    assert main(["--corpus", str(tmp_path / "none")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    for host, port in (("127.0.0.1", 70_000), ("192.0.2.1", 0)):
        with pytest.raises(UsageError):
            listen(host, port).close()
