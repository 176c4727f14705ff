"""An owner is alive as long as its process is, and not a moment longer."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from pathlib import Path

from books import draw

from accel.core.offer import Realm
from accel.ledger import Ledger
from accel.ledger.owners import Owner, alive, sweep

HOLDS = """
import sys, time
from pathlib import Path
from accel.ledger.owners import Owner
owner = Owner(Path(sys.argv[1]))
print(owner.name, flush=True)
time.sleep(60)
"""


def test_a_killed_process_is_not_alive(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    try:
        assert alive(tmp_path, name)
        assert alive(tmp_path, name)  # asking takes nothing away
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert not alive(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_two_users_in_one_process_are_two_owners(tmp_path: Path) -> None:
    one, two = Owner(tmp_path), Owner(tmp_path)
    assert one.name != two.name
    assert one.name == one.name
    one.end()
    assert (alive(tmp_path, one._name), alive(tmp_path, two.name)) == (False, True)
    name = two.name
    del two
    gc.collect()
    assert not alive(tmp_path, name)


def test_sweeping_removes_only_what_is_gone(tmp_path: Path) -> None:
    living = Owner(tmp_path)
    (tmp_path / "77-dead.lock").write_text("")
    name = living.name
    sweep(tmp_path)
    assert [p.stem for p in tmp_path.iterdir()] == [name]
    assert alive(tmp_path, name)
    assert not alive(tmp_path, "77-dead")
    assert not alive(tmp_path, "")


def test_a_ledger_that_only_reads_owns_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", Realm.REAL)
    ledger.open_account("money", "nano_usd")
    assert not (tmp_path / "ledger.sqlite3.owners").exists()
    ledger.reserve("h", draw(1), "t")
    assert ledger.alive(ledger.owner)
    ledger.close()
    assert list((tmp_path / "ledger.sqlite3.owners").iterdir()) == []
