"""The README's table is the committed rows, told: it cannot drift from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.core.errors import UsageError
from accel.experiments import rows, summary

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_was_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split(summary.BEGIN)[1].split(summary.END)[0]
    assert shown == summary.readme_table(summary.newest()), "run: python -m accel.experiments.summary"


def test_the_committed_rows_are_whole_and_were_made_from_one_clean_commit() -> None:
    read = rows.read_folder(summary.newest(ROOT / "results" / "committed"))
    assert read.rows and not read.problems
    commits = {r.env.commit for r in read.rows}
    assert len(commits) == 1 and "dirty" not in commits.pop()


def test_a_readme_without_its_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("no marks\n")
    with pytest.raises(UsageError, match="marks"):
        summary.write_readme(page, tmp_path)
    assert page.read_text() == "no marks\n"


def test_a_later_run_of_a_sandbox_is_not_what_this_machine_takes(tmp_path: Path) -> None:
    for name, realm in (("2026-01-01-a", "real"), ("2026-01-02-b", "real"), ("2026-01-03-c", "sandbox")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"rows.{realm}.jsonl").touch()
    assert summary.newest(tmp_path).name == "2026-01-02-b"


def test_no_committed_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        summary.newest(tmp_path)
