"""The notebooks of this repository: clean as committed, careful in what they install, and they run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from accel.core.errors import AccelError, UsageError
from accel.core.offer import Realm
from accel.experiments.measure import run_measure
from accel.experiments.notebook import notebooks_folder, parameters
from accel.experiments.rows import read, rows_path
from accel.experiments.sweep import Status, load_sweep

NOTEBOOKS = sorted(notebooks_folder().glob("*.ipynb"))
SWEEPS = sorted(notebooks_folder().glob("sweeps/*.yaml"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def test_there_are_notebooks_and_sweeps() -> None:
    assert NOTEBOOKS and SWEEPS


@each
def test_no_outputs_are_stored(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == [], f"{path.name}: clear its outputs"
        assert cell["execution_count"] is None, f"{path.name}: clear its execution counts"
        assert "execution" not in cell["metadata"]
    metadata = json.loads(path.read_text())["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert not {"papermill", "widgets"} & metadata.keys()


@each
def test_prose_comes_first_and_every_parameter_is_explained(path: Path) -> None:
    assert json.loads(path.read_text())["cells"][0]["cell_type"] == "markdown"
    declared = parameters(path)
    assert {"out"} <= {p.name for p in declared}
    assert all(p.comment for p in declared)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_fits_its_notebook_and_measures_one_cell_at_a_time(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.workers == 1
    assert {c["what"] for c in sweep.cells} == {"embed", "search", "rerank"}


@each
@pytest.mark.parametrize("absent", [(), ("accel",), ("accel", "bm25s", "torch", "numpy")])
def test_the_first_cell_installs_only_what_is_missing_and_never_torch_or_numpy(
    path: Path, absent: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "".join(cells(path, "code")[0]["source"])
    assert sum("accel-*.whl" in line for line in source.splitlines()) == 1  # where accel comes from
    assert not any("accel-*.whl" in "".join(c["source"]) for c in cells(path, "code")[1:])
    wheel = tmp_path / "accel-9.9.9-py3-none-any.whl"
    wheel.touch()
    source = source.replace('"content/accel-*.whl"', f'"{str(tmp_path)[1:]}/accel-*.whl"')
    real, ran = importlib.util.find_spec, []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append((command, check)))
    exec(compile(source, path.name, "exec"), {})
    if not absent:
        assert not ran
        return
    ((command, check),) = ran
    assert check and "--no-deps" in command
    wanted = command[command.index("--no-deps") + 1 :]
    assert wanted == [*(["bm25s"] if "bm25s" in absent else []), str(wheel)]
    wheel.unlink()
    with pytest.raises(SystemExit, match="accel is not installed, and no wheel matches"):
        exec(compile(source, path.name, "exec"), {})


def tiny(folder: Path, *cells: str) -> Path:
    """A sweep of the real notebook with one repetition."""
    path = folder / "tiny.yaml"
    notebook = notebooks_folder() / "01_embedding_speedup.ipynb"
    path.write_text(f"notebook: {notebook}\nfixed: {{repetitions: 1}}\ncells: [{', '.join(cells)}]\n")
    return path


@pytest.mark.timeout(300)  # two kernels, one of which imports torch, on a machine that may be busy
def test_the_notebook_runs_through_the_sweep_and_the_report_shows_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep = tiny(tmp_path, "{what: embed, sizes: [1, 2]}", "{what: search, sizes: [100, 300]}")
    measured = run_measure(out, sweep_file=sweep)
    assert [c.status for c in measured.cells] == [Status.DONE] * 2 and not measured.problems
    rows = read(rows_path(out, Realm.REAL)).rows
    embed, search = ([r for r in rows if r.cell["what"] == what] for what in ("embed", "search"))
    assert {(r.cell["engine"], r.cell["batch"]) for r in embed} == {
        (e, b) for e in ("accel", "sentence-transformers") for b in (1, 2)
    }
    assert {r.cell["vectors"] for r in search} == {100, 300} and "numpy" in {r.cell["engine"] for r in search}
    assert all(r.n == 1 and r.warm and r.realm is Realm.REAL and min(r.samples) > 0 for r in rows)
    assert [p.name for p in measured.paths[:3]] == ["report.md", "embedding-real-1.png", "break-even.png"]
    assert all(p.exists() for p in measured.paths)
    assert len(measured.paths) == 5  # and two executed notebooks
    for word in ("embed", "search", "sentence-transformers"):
        assert word in measured.table
    log = "".join(p.read_text() for p in (out / "cells").glob("*.log"))
    assert "Warning" not in log and "TCP" not in log


@pytest.mark.conformance
@pytest.mark.timeout(300)
def test_the_notebook_measures_reranking_and_refuses_nonsense(tmp_path: Path) -> None:
    sweep = tiny(tmp_path, "{what: rerank, sizes: [2, 3]}", "{what: nonsense}")
    measured = run_measure(tmp_path / "out", sweep_file=sweep)
    assert [r.cell["depth"] for r in measured.cells[0].rows] == [2, 3]
    assert "what must be one of embed, search, rerank, not 'nonsense'" in measured.problems[0]


def test_a_sweep_in_which_everything_fails_is_one_clear_error(notebook: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("notebook: made.ipynb\nfixed: {what: broken}")
    with pytest.raises(AccelError, match=r"nothing could be measured: broken: .*this cell is broken"):
        run_measure(tmp_path / "out", sweep_file=sweep)
    with pytest.raises(UsageError):
        run_measure(tmp_path / "out", sweep_file=tmp_path / "gone.yaml")
