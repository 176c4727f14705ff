"""Accepting a term: on record, for the words that were shown, and only where there is something to accept."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from accel.core.errors import SettingsError, UsageError
from accel.providers import accepted as module
from accel.providers.accepted import FILE, accept, accepted
from accel.providers.terms import TERMS

KEY, NOW = "kaggle/private data", datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def test_what_was_accepted_is_kept_with_its_clause_and_dates(tmp_path: Path) -> None:
    assert accepted(tmp_path) == ()
    term = accept(KEY, tmp_path, NOW)
    assert accepted(tmp_path) == (KEY,)
    kept = json.loads((tmp_path / FILE).read_text())[KEY]
    assert (kept["clause"], kept["url"]) == (term.clause, term.url)
    assert kept["accepted_at"] == "2026-11-28T12:00:00+00:00"
    assert kept["read_on"] == term.read_on.isoformat()


def test_a_clause_that_has_changed_must_be_accepted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(KEY, tmp_path, NOW)
    changed = tuple(replace(t, clause="something else") if t.key == KEY else t for t in TERMS)
    monkeypatch.setattr(module, "TERMS", changed)
    assert accepted(tmp_path) == ()


@pytest.mark.parametrize(
    ("key", "words"),
    [("kaggle/live", "forbidden"), ("kaggle/batch", "allowed as it is"), ("kaggle/everything", "no term")],
)
def test_what_cannot_be_accepted_is_one_line(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        accept(key, tmp_path, NOW)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"kaggle/private data": 1}', "{"])
def test_a_damaged_record_accepts_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SettingsError, match="accept again"):
        accepted(tmp_path)


def test_private_data_goes_to_kaggle_only_once_it_is_accepted(tmp_path: Path) -> None:
    """Through the command line's own door, in two processes' worth of sessions."""
    import asyncio

    from pydantic import SecretStr
    from typer.testing import CliRunner

    from accel.cli.app import app
    from accel.core.errors import TermsError
    from accel.core.offer import Offer, Realm, Unfit
    from accel.core.task import Lane, Need, Size, Spec, Stage, Task
    from accel.gpu_accelerator import open_accelerator
    from accel.keys import Access, KaggleKey
    from accel.sandbox.server import KaggleSandbox
    from accel.wire import Envelope
    from accel.worker.bundle import Bundle

    need = Need(Stage.EMBED, Lane.BATCH, private_data=True)
    task = Task("t", Lane.BATCH, Spec(Stage.EMBED, model="m", dimension=2), Size(1, tokens=1), need)

    with KaggleSandbox(time_scale=10_000) as sandbox:
        key = KaggleKey(username=sandbox.username, key=SecretStr(sandbox.key))

        async def offers(*, push: bool) -> list[Offer | Unfit]:
            access = {"kaggle": Access(key, sandbox.url)}
            async with open_accelerator(Realm.SANDBOX, asked=["kaggle"], access=access) as made:
                if push:
                    await made.submit(task, Bundle({"schema": 1}, b"", Envelope("", {}, {}).to_bytes()))
                return [a for a in await made.offers(need) if a.provider == "kaggle"]

        with pytest.raises(TermsError, match="accel accept-terms \"kaggle/private data\""):
            asyncio.run(offers(push=True))
        (before,) = asyncio.run(offers(push=False))
        assert isinstance(before, Unfit)
        assert sandbox.requests() == []
        done = CliRunner().invoke(app, ["accept-terms", "kaggle/private data"])
        assert done.exit_code == 0, done.output
        (after,) = asyncio.run(offers(push=True))
        assert isinstance(after, Offer)
