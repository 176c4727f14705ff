"""The engine behind the pages: opened by a question, once, and closed with the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from accel.dashboard.ask import respond
from accel.dashboard.engine import Engine, engine_over, peek

DATES = "date.fromisoformat parses a string that holds an ISO date. It returns a date object."


def test_the_first_questions_open_one_index_and_a_failed_opening_is_tried_again(tmp_path: Path) -> None:
    notes, home = tmp_path / "notes", tmp_path / "home"
    notes.mkdir()
    (notes / "photo.bin").write_bytes(b"\0\1")

    async def last(engine: Engine) -> str:
        return [html async for html in respond(engine, "what parses an ISO date")][-1]

    async def visit() -> None:
        engine = engine_over(notes, home=home)
        assert engine.corpus.passages == 0
        refused = await asyncio.gather(last(engine), last(engine))
        assert all("nothing to read" in html for html in refused)
        assert engine.openings == 1 and engine.processor is None
        (notes / "dates.md").write_text(DATES)
        answered = await asyncio.gather(*(last(engine) for _ in range(3)))
        assert all("fromisoformat" in html for html in answered)
        assert engine.openings == 2
        await engine.close()
        assert engine.processor is None

    asyncio.run(visit())
    label = peek(notes, False, home)
    assert label.passages == 1 and "fp32" in label.model


def test_closing_gives_up_an_opening(tmp_path: Path) -> None:
    (tmp_path / "dates.md").write_text(DATES)

    async def leave() -> None:
        engine = engine_over(tmp_path / "dates.md", home=tmp_path / "home")
        async for _ in engine.opening():
            break
        await engine.close()
        assert engine.processor is None

    asyncio.run(leave())
