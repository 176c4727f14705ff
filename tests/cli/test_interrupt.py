"""Ctrl-C ends a command with one line; what was finished is kept, and the same command goes on from there."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

WORDS = ("lighthouse", "keeper", "trims", "brass", "lamp", "harbour", "ferry", "winter", "rope", "tide")


def corpus(folder: Path) -> Path:
    """Enough text that embedding it takes some seconds, each passage another."""
    folder.mkdir()
    for i in range(400):
        turned = [WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(60)]
        (folder / f"{i:04}.txt").write_text(f"Log {i}. " + " ".join(turned) + ".\n")
    return folder


def kept(home: Path) -> int:
    with sqlite3.connect(home / "real" / "cache.sqlite3") as db:
        made = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'entry'").fetchone()[0]
        return int(db.execute("SELECT count(*) FROM entry").fetchone()[0]) if made else 0


def test_an_interrupted_index_keeps_what_it_embedded_and_goes_on(tmp_path: Path) -> None:
    folder, home = corpus(tmp_path / "logs"), Path(os.environ["ACCEL_HOME"])
    command = [sys.executable, "-m", "accel", "query", "who trims the lamp?", "--corpus", str(folder)]
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    ends = time.monotonic() + 120
    while first.poll() is None and time.monotonic() < ends:
        if (home / "real" / "cache.sqlite3").exists() and kept(home) >= 128:
            break
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130, err
    assert err.splitlines()[-1].startswith("accel: interrupted")
    assert "Traceback" not in out + err
    before = kept(home)
    assert 128 <= before < 400

    again = subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    assert again.returncode == 0, again.stderr
    assert kept(home) >= 400
