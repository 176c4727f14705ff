"""Pictures of the pages. Guarantee: a picture shows an answer that was really computed, on this machine.

``python -m accel.dashboard.screenshot --out docs/ask.png`` serves the page over the docstring corpus, asks
a question in headless Chromium, and saves what is seen. Needs Playwright (the dev extra) and a Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from accel.core.errors import UsageError
from accel.dashboard.app import serving
from accel.dashboard.engine import engine_over

# the first loads the model, the second is seen
QUESTIONS = ("How do I parse an ISO date?", "How do I copy a directory tree, and how do I delete one?")
WIDTH, PHONE = 1180, 390
LONGEST_MS = 600_000  # a first question may have to build the index
# none of these lets the browser itself speak to anyone
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


def chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return None


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, as a Playwright ``Browser``. Raises UsageError when it is not installed."""
    path = chromium()
    if path is None:
        raise UsageError("there is no Chromium here.", hint="Install the package chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


def ask(page: Any, question: str) -> None:
    """Type ``question``, press Enter, wait for its end: another answer than the one shown, or a failure."""
    shown = page.locator(".result")
    before = shown.get_attribute("data-id") if shown.count() else ""
    page.locator("#question textarea").fill(question)
    page.keyboard.press("Enter")
    page.locator(f'.result:not([data-id="{before}"]), .state.failed').first.wait_for(timeout=LONGEST_MS)


def take(url: str, questions: list[str], out: Path, *, width: int, dark: bool, unfold: bool) -> None:
    """Ask each question on the page at ``url``, and save the whole page after the last as a PNG."""
    with browser() as opened:
        page = opened.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light",
            device_scale_factor=1.5 if width > PHONE else 2, reduced_motion="reduce",
        )  # fmt: skip
        page.goto(url)
        page.locator("#ask").wait_for()
        for question in questions:
            ask(page, question)
            page.wait_for_timeout(300)
        if unfold:
            for part in (".sources details", "tr.why details"):
                if page.locator(part).count():
                    page.locator(part).first.evaluate("element => element.open = true")
        page.evaluate("document.activeElement && document.activeElement.blur()")
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(400)
        shot = page.screenshot(full_page=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(_small(shot))


def _small(png: bytes) -> bytes:
    """The same picture in 256 of its own colours: the most frequent of every tint, then the most frequent."""
    from PIL import Image

    made = io.BytesIO()
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    pixels, times = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_counts=True)
    pixels = pixels[np.argsort(-times, kind="stable")]
    _, first = np.unique(pixels >> 4, axis=0, return_index=True)  # a small coloured mark must not turn grey
    chosen = [*sorted(first), *np.setdiff1d(np.arange(len(pixels)), first)][:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette(pixels[chosen].flatten().tolist())
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()


def main() -> None:
    """Make one picture."""
    parser = argparse.ArgumentParser(prog="python -m accel.dashboard.screenshot", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/ask.png"))
    parser.add_argument("--question", action="append", help="may be given several times")
    parser.add_argument("--corpus", type=Path, help="a file or folder; default: the installed docstrings")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--folded", action="store_true", help="leave passages and offers folded")
    parser.add_argument("--url", help="a page that is served already")
    asked = parser.parse_args()
    questions = list(QUESTIONS) if asked.question is None else [q for q in asked.question if q]
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(serving(engine_over(asked.corpus)))
        take(url, questions, asked.out, width=asked.width, dark=asked.dark, unfold=not asked.folded)


if __name__ == "__main__":
    main()
