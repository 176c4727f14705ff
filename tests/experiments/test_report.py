"""Tables, pictures and the report: provenance on each, realms apart, speed-ups only where they are honest."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.row import Row
from accel.experiments import plots, tables
from accel.experiments import rows as row_files
from accel.experiments.breakeven import GPUS, Assumptions, Start, curves
from accel.experiments.report import write_report

Make = Callable[..., Row]
MUST_SAY = (
    "a made-up CPU",
    "2 cores",
    "python 3.11.7",
    "torch 2.13.0",
    "0123456789ab",
    "2026-11-23 12:00 UTC",
)


@pytest.fixture
def measured(row: Make) -> list[Row]:
    """One run of each kind: two engines of embedding and search, one of reranking."""
    rivals = [
        row(batch=b, seconds=[s * b, s * b * 1.2, s * b * 0.9], engine=e, **k)
        for b in (1, 8, 32)
        for e, s, k in (("accel", 0.02, {}), ("sentence-transformers", 0.03, {"batch_size": 8}),
                        ("sentence-transformers", 0.026, {"batch_size": 32}))
    ]  # fmt: skip
    searched = [row("search", vectors=n, seconds=[n * 1e-7] * 3, engine=e, dimension=384, k=200)
                for n in (1000, 100_000) for e in ("faiss", "numpy")]  # fmt: skip
    return rivals + searched + [row("rerank", depth=d, seconds=[d * 0.02] * 3) for d in (5, 20)]


# Speed-ups


def test_a_speed_up_is_against_the_strongest_rival_of_the_same_run(measured: list[Row]) -> None:
    mine = next(r for r in measured if r.cell["engine"] == "accel" and r.cell["batch"] == 8)
    assert tables.strongest_rival(mine, measured).cell["batch_size"] == 32  # type: ignore[union-attr]
    assert tables.speedup(mine, measured) == pytest.approx(1.3)
    assert all(tables.speedup(r, measured) is None for r in measured if r.cell["engine"] != "accel")


def test_a_rival_of_another_run_size_or_device_does_not_count(row: Make) -> None:
    mine = row(batch=8, seconds=[1.0])
    for other in (
        row(batch=8, engine="rival", when=mine.env.measured_at + timedelta(seconds=1)),
        row(batch=16, engine="rival"),
        row(batch=8, engine="rival", device="elsewhere"),
        row("rerank", depth=8, engine="rival"),
    ):
        assert tables.speedup(mine, [mine, other]) is None


@pytest.mark.parametrize("realm", [Realm.SANDBOX, Realm.SIMULATED])
def test_no_speed_up_comes_from_what_was_not_real(row: Make, realm: Realm) -> None:
    rows = [row(batch=8, realm=realm), row(batch=8, realm=realm, engine="rival", seconds=[9.0])]
    assert tables.speedup(rows[0], rows) is None
    assert "no speed-up is quoted" in tables.table(rows)
    assert not re.search(r"\d\.\d\d$", tables.table(rows), flags=re.MULTILINE)


# Tables


def test_every_table_says_how_it_was_made(measured: list[Row]) -> None:
    for text in (tables.table(measured), tables.markdown(measured)):
        flat = " ".join(text.split())
        assert all(said in flat for said in MUST_SAY)
        assert "realm real" in flat and "warm" in flat and "sentence-transformers' encode" in flat
    for line in tables.markdown(measured).splitlines():
        if line.startswith("| embed"):
            assert "| 3 |" in line and "none: made up" in line


def test_the_terminal_table_is_at_most_80_columns_wide(measured: list[Row], row: Make) -> None:
    wide = row("search", vectors=10**9, engine="e" * 60, device="d" * 200, seconds=[1e-9, 123.456])
    sandbox = row(batch=1, realm=Realm.SANDBOX)
    text = tables.table([*measured, wide, sandbox])
    assert max(map(len, text.splitlines())) <= tables.WIDTH


def test_realms_devices_and_versions_never_share_a_table(row: Make) -> None:
    rows = [row(batch=1), row(batch=2, realm=Realm.SANDBOX), row(batch=4, device="GPU"), row(batch=8)]
    assert [[r.cell["batch"] for r in g.rows] for g in tables.groups(rows)] == [[1, 8], [2], [4]]
    assert tables.markdown(rows).count("| baseline |") == 3


def test_commits_and_instants_of_a_table_are_all_told(row: Make) -> None:
    first = row(batch=1)
    later = row(batch=2, commit="fedcba987654", when=first.env.measured_at + timedelta(hours=1))
    told = tables.groups([first, later])[0].provenance
    assert "0123456789ab, fedcba987654" in told
    assert "2026-11-23 12:00 to 2026-11-23 13:00 UTC" in told


@given(st.floats(1e-9, 1e4))
def test_an_amount_keeps_three_digits(value: float) -> None:
    number, unit = tables.amount(value, "s").split()
    scale = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
    tolerance = 0.5 if unit == "ns" else max(0.006 * value / scale, 0)
    assert float(number) == pytest.approx(value / scale, abs=tolerance)


# Pictures


def size_of_png(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])  # type: ignore[return-value]


def test_no_picture_mixes_realms_or_machines(row: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not share a picture"):
        plots.plot_embedding([row(batch=1), row(batch=1, realm=Realm.SANDBOX)], tmp_path / "x.png")
    mixed = [*curves([row(batch=1)]), *curves([row("rerank", depth=5, device="GPU", commit="c"),
             row("rerank", depth=9, device="GPU", commit="c")])]  # fmt: skip
    assert plots.plot_breakeven(mixed, Assumptions(), tmp_path / "one-machine.png").exists()
    with pytest.raises(UsageError):
        plots.plot_embedding([row("rerank", depth=1)], tmp_path / "x.png")
    with pytest.raises(UsageError):
        plots.plot_breakeven([], Assumptions(), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_measured_and_estimated_never_share_a_line(measured: list[Row]) -> None:
    for curve in curves(measured):
        with plots.canvas(4, 4) as figure:
            axes = figure.add_subplot()
            plots._panel(axes, curve, Assumptions())
            marked = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
            assert len(marked) == 1
            assert list(marked[0].get_xdata()) == list(curve.sizes)
            assert list(marked[0].get_ydata()) == list(curve.seconds)
            # one line that extends it, and one for each GPU and start
            assert len(axes.lines) == 2 + len(GPUS) * len(Start)
            extension = axes.lines[0]
            assert min(extension.get_xdata()) >= curve.sizes[-1]
            said = {t.get_text() for t in axes.texts}
            assert {"this machine", "remote GPU, warm", "remote GPU, cold"} <= said


def test_captions_say_how_the_figures_were_made(
    measured: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    real = plots.caption
    monkeypatch.setattr(
        plots,
        "caption",
        lambda figure, left, text, width: (captions.append(text), real(figure, left, text, width)),
    )
    plots.plot_embedding(measured, tmp_path / "embedding.png")
    plots.plot_breakeven(curves(measured), Assumptions(), tmp_path / "break-even.png")
    assert len(captions) == 2
    for caption in captions:
        assert all(said in caption for said in MUST_SAY)
        assert "n=3" in caption and "warm" in caption
    assert all(line in captions[1] for line in Assumptions().told())
    assert "realm real" in captions[1] and "realm simulated" in captions[1]
    for name in ("embedding.png", "break-even.png"):
        width, height = size_of_png(tmp_path / name)
        assert width > 1000 and height > 600


# The report


def test_the_report_holds_tables_pictures_verdicts_and_assumptions(
    measured: list[Row], tmp_path: Path
) -> None:
    row_files.append(tmp_path, measured)
    report = write_report(tmp_path)
    assert [p.name for p in report.paths] == ["report.md", "embedding-real-1.png", "break-even.png"]
    assert all(p.stat().st_size > 0 for p in report.paths)
    text = report.paths[0].read_text()
    for picture in report.paths[1:]:
        assert f"]({picture.name})" in text
    assert all(line in text for line in Assumptions().told())
    assert text.count("| warm | ") + text.count("| cold | ") >= 3 * len(GPUS) * 2
    assert report.table == tables.table(row_files.latest(measured))


def test_a_line_without_provenance_is_left_out_and_named(measured: list[Row], tmp_path: Path) -> None:
    row_files.append(tmp_path, measured)
    nameless = json.loads(row_files.dump(measured[0]))
    del nameless["env"]
    nameless["cell"]["batch"] = 77777
    path = row_files.rows_path(tmp_path, Realm.REAL)
    path.write_bytes(path.read_bytes() + json.dumps(nameless).encode() + b"\n")
    report = write_report(tmp_path)
    assert len(report.problems) == 1 and "env: Field required" in report.problems[0]
    text = report.paths[0].read_text()
    assert report.problems[0] in text
    assert "77777" not in text and "77,777" not in text + report.table


def test_sandbox_rows_get_their_own_table_and_picture_and_no_break_even(row: Make, tmp_path: Path) -> None:
    row_files.append(tmp_path, [row(batch=b, realm=Realm.SANDBOX, provider="kaggle") for b in (1, 8)])
    report = write_report(tmp_path)
    assert [p.name for p in report.paths] == ["report.md", "embedding-sandbox-1.png"]
    assert "realm sandbox: run on this machine behind a loopback copy of the provider" in " ".join(
        report.table.split()
    )


def test_the_break_even_picture_is_of_the_machine_measured_last(row: Make, tmp_path: Path) -> None:
    old = [row(batch=1, device="old CPU"), row("rerank", depth=5, device="old CPU")]
    when = old[0].env.measured_at + timedelta(days=1)
    row_files.append(tmp_path, [*old, row("search", vectors=1000, when=when, device="old CPU")])
    assert "break-even.png" in {p.name for p in write_report(tmp_path).paths}


def test_no_rows_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was measured here yet"):
        write_report(tmp_path)
    row_files.rows_path(tmp_path, Realm.REAL).touch()
    with pytest.raises(UsageError, match="hold no row yet"):
        write_report(tmp_path)
