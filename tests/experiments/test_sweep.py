"""A sweep keeps what it measured: through failing cells, a second run, a lost file and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.experiments import sweep as sweeps
from accel.experiments.notebook import checked, parameters
from accel.experiments.rows import read, rows_path
from accel.experiments.sweep import Status, Sweep, load_sweep, run_sweep


def test_a_failing_cell_is_reported_and_stops_no_other_and_only_it_is_run_again(
    notebook: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sweep = Sweep(notebook, ({"what": "broken"}, {"what": "a"}, {"what": "silent"}), workers=2)
    told: list[tuple[str, int, int]] = []
    cells = run_sweep(sweep, out, lambda cell, done, total: told.append((cell.name, done, total)))
    assert [c.status for c in cells] == [Status.FAILED, Status.DONE, Status.FAILED]
    assert "RuntimeError: this cell is broken" in cells[0].error and "\n" not in cells[0].error
    assert cells[2].error == "it wrote no rows"
    assert sorted(t[0] for t in told) == ["a", "broken", "silent"]
    assert [t[1:] for t in told] == [(1, 3), (2, 3), (3, 3)]
    assert all(c.executed.exists() for c in cells)
    kept = read(rows_path(out, Realm.REAL)).rows
    assert [r.cell["what"] for r in kept] == ["a"] and cells[1].rows == kept

    # again, with the rows file lost: what was measured is put back, and not measured again
    rows_path(out, Realm.REAL).unlink()
    before = cells[1].executed.stat().st_mtime_ns
    again = run_sweep(Sweep(notebook, ({"what": "a"},)), out)
    assert [c.status for c in again] == [Status.KEPT]
    assert again[0].executed.stat().st_mtime_ns == before
    assert read(rows_path(out, Realm.REAL)).rows == kept


def test_another_parameter_notebook_or_commit_is_another_cell(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(**cell: object) -> str:
        return sweeps._Paths.of(notebook, cell, tmp_path).rows.name

    one = name(what="a", size=1)
    assert one == name(size=1, what="a")  # the order of parameters says nothing
    assert one != name(what="a", size=2)
    monkeypatch.setattr("accel.environment.commit", lambda: "another")
    assert one != (other := name(what="a", size=1))
    notebook.write_text(notebook.read_text().replace("time.sleep(600)", "time.sleep(601)"))
    assert other != name(what="a", size=1)
    assert "/" not in name(what="../../etc/passwd v1.5")


INTERRUPTED = """
import sys
from pathlib import Path
from accel.experiments.sweep import Sweep, run_sweep
cells = ({"what": "quick"}, {"what": "slow"}, {"what": "never"})
try:
    run_sweep(Sweep(Path(sys.argv[1]), cells), Path(sys.argv[2]), lambda *_: None)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def test_ctrl_c_keeps_the_rows_and_leaves_no_process(notebook: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(notebook), str(out)])
    try:
        began = out / "cells" / "slow-began"
        deadline = time.monotonic() + 90
        while not began.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        assert began.exists()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2  # the cell and its kernel
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    finally:
        process.kill()
    assert [r.cell["what"] for r in read(rows_path(out, Realm.REAL)).rows] == ["quick"]


# Grids


def grid(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination_of_every_set(notebook: Path, tmp_path: Path) -> None:
    path = grid(tmp_path, """
notebook: made.ipynb
workers: 2
fixed: {share: 1}
cells: [{what: a}, {what: b, sizes: [1, 2]}]
grid: {size: [3, 4]}
""")  # fmt: skip
    sweep = load_sweep(path)
    assert sweep.notebook == notebook and sweep.workers == 2
    assert [dict(c) for c in sweep.cells] == [
        {"share": 1, "what": "a", "size": 3}, {"share": 1, "what": "a", "size": 4},
        {"share": 1, "what": "b", "sizes": [1, 2], "size": 3},
        {"share": 1, "what": "b", "sizes": [1, 2], "size": 4},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("notebook: made.ipynb\ngrid: {colour: [red]}", "has no parameter 'colour'. It has: what, size"),
        ("notebook: made.ipynb\ngrid: {size: [1, two]}", "size must be int, not 'two'"),
        ("notebook: made.ipynb\ngrid: {size: [true]}", "size must be int, not True"),
        ("notebook: made.ipynb\nfixed: {sizes: [1, x]}", r"sizes must be list\[int\]"),
        ("notebook: made.ipynb\ngrid: {size: []}", "must be a list with at least one value"),
        ("notebook: made.ipynb\ngrid: {size: 3}", "must be a list with at least one value"),
        ("notebook: made.ipynb\ngrid: [1]", "map parameter names to values"),
        ("notebook: made.ipynb\ncells: {what: a}", "cells is a list"),
        ("notebook: made.ipynb\nworkers: 0", "workers must be a whole number from 1, not 0"),
        ("notebook: made.ipynb\nworkers: yes", "workers must be a whole number"),
        ("notebook: made.ipynb\nspeed: 3", "unknown key 'speed'"),
        ("notebook: gone.ipynb", "gone.ipynb: cannot be read"),
        ("notebook: sweep.yaml", "not a notebook"),
        ("just words", "a sweep names its notebook"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_grid_is_one_clear_line(notebook: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        load_sweep(grid(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_missing_sweep_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_sweep(tmp_path / "gone.yaml")


def test_parameters_are_read_with_type_default_and_help(notebook: Path) -> None:
    told = {p.name: (p.kind, p.default, p.comment) for p in parameters(notebook)}
    assert told["what"] == ("str", "a", "name of the cell")
    assert told["sizes"] == ("list[int]", [], "several")
    assert checked(notebook, {"share": 1}) == {"share": 1.0}


def test_a_notebook_without_parameters_is_refused(notebook: Path) -> None:
    notebook.write_text(notebook.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(UsageError, match="no cell is tagged 'parameters'"):
        parameters(notebook)
