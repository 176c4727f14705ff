"""A person's files: each is read, or named with the reason why not; one bad file asked for is an error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from accel.core.errors import CorpusError
from accel.corpus import files
from accel.corpus.files import read_files


def test_a_folder_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain text here")
    (tmp_path / "b.md").write_text("\ufeff# a heading")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.rst").write_text("restructured")
    (tmp_path / "d.jsonl").write_text('{"_id": "7", "title": "T", "text": "beir"}\n\n{"text": "bare"}\n')
    (tmp_path / "e.json").write_text(json.dumps(["one text", {"title": "X", "text": "two"}]))
    (tmp_path / "f.py").write_text('"""Module."""\ndef go(a):\n    """Goes there."""\n')
    (tmp_path / ".hidden.txt").write_text("not this")
    (tmp_path / "g.bin").write_bytes(b"\0\1")
    (tmp_path / "h.txt").write_bytes(b"abc\0def")
    (tmp_path / "i.txt").write_bytes("grüße".encode("latin-1"))
    (tmp_path / "j.md").write_text("  \n")
    seen: list[tuple[int, int]] = []
    corpus = read_files(tmp_path, lambda done, total: seen.append((done, total)))
    assert [(p.name, p.text, p.source) for p in corpus.passages] == [
        ("a.txt", "plain text here", "a.txt"),
        ("b.md", "# a heading", "b.md"),
        ("T", "beir", "d.jsonl:1"),
        ("", "bare", "d.jsonl:3"),
        ("", "one text", "e.json entry 1"),
        ("X", "two", "e.json entry 2"),
        ("f", "Module.", "f.py:1"),
        ("f.go", "go(a)\nGoes there.", "f.py:2"),
        ("sub/c.rst", "restructured", "sub/c.rst"),
    ]
    assert {s.path.name: s.reason.split(",")[0] for s in corpus.skipped} == {
        "g.bin": "not one of .txt",
        "h.txt": "a binary file",
        "i.txt": "not UTF-8 text (byte 2).",
        "j.md": "empty",
    }
    assert corpus.files == 6
    assert seen[-1] == (9, 9)


def bad_file(tmp_path: Path, name: str, raw: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\x89PNG\0\0", "binary"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.exe", b"MZ", r"not one of \.txt"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": broken\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'[1]\n', r"a\.jsonl:1: not a JSON object"),
        ("a.jsonl", b'{"title": "no text"}\n', r"a\.jsonl:1: has no text"),
        ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
        ("a.json", b'{"text": ', "not JSON"),
        ("a.json", b"[3]", "entry 1"),
        ("a.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_one_file_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, name: str, raw: bytes, why: str
) -> None:
    path = bad_file(tmp_path, name, raw)
    with pytest.raises(CorpusError, match=why) as caught:
        read_files(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_too_large_and_hopeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        read_files(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="nothing to read"):
        read_files(tmp_path)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    with pytest.raises(CorpusError, match=r"too large.*Split it"):
        read_files(bad_file(tmp_path, "a.txt", b"x" * 11))
    with pytest.raises(CorpusError, match=r"nothing to read \(a\.txt: .*too large"):
        read_files(tmp_path)


def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    path = bad_file(tmp_path, "a.txt", b"secret")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(CorpusError, match="Permission denied"):
        read_files(path)


def test_a_circle_of_links_and_a_pipe_do_not_hang(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine as it is")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    corpus = read_files(tmp_path)
    assert [p.source for p in corpus.passages] == ["a.txt"]
    assert [(s.path.name, s.reason) for s in corpus.skipped] == [("pipe.txt", "not a regular file.")]


def test_a_long_text_becomes_parts_that_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"line number {i}" for i in range(200)))
    sources = [p.source for p in read_files(tmp_path).passages]
    assert sources[:2] == ["a.txt", "a.txt (part 2)"]
