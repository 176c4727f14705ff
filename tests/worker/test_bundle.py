"""The far end runs these very files: packed without tools, checked by hash, in one script."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import accel
from accel.core.errors import UsageError
from accel.core.task import Spec, Stage
from accel.wire import Envelope
from accel.worker import bundle as bundles
from accel.worker.bundle import NOT_SHIPPED, Bundle, pack_wheel, prelude, render_script

INPUTS = Envelope("t", Spec(Stage.EMBED).fields(), {"x": np.zeros(2)})


@pytest.fixture(scope="module")
def wheel() -> bytes:
    return pack_wheel()


def test_the_wheel_is_this_package_byte_for_byte_and_always_the_same(wheel: bytes) -> None:
    assert pack_wheel() == wheel
    root = Path(accel.__file__).parent
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        names = archive.namelist()
        for source in root.rglob("*.py"):
            inside = source.relative_to(root)
            if inside.parts[0] in NOT_SHIPPED:
                assert f"accel/{inside.as_posix()}" not in names
            else:
                assert archive.read(f"accel/{inside.as_posix()}") == source.read_bytes()
        assert not [n for n in names if "__pycache__" in n or n.endswith(".pyc")]
        record = archive.read(f"accel-{accel.__version__}.dist-info/RECORD").decode()
    assert {line.split(",")[0] for line in record.split()} == set(names)


def test_the_wheel_installs_as_any_other(wheel: bytes, tmp_path: Path) -> None:
    """pip takes it: its RECORD, its tags and its metadata are right."""
    path = tmp_path / f"accel-{accel.__version__}-py3-none-any.whl"
    path.write_bytes(wheel)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target",
         str(tmp_path / "into"), str(path)], capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "into" / "accel" / "worker" / "job.py").exists()


def test_a_bundle_comes_back_from_its_folder(tmp_path: Path) -> None:
    made = Bundle.make({"task_id": "t", "needs_internet": True}, INPUTS)
    made.write(tmp_path)
    again = Bundle.open(tmp_path)
    assert again == made
    assert again.digest == made.digest
    assert again.needs_internet
    other = Bundle(made.job | {"task_id": "u"}, made.wheel, made.inputs)
    assert other.digest != made.digest


@pytest.mark.parametrize("name", ["job.json", "accel.whl", "inputs.safetensors"])
def test_a_bundle_without_one_of_its_files_is_refused(tmp_path: Path, name: str) -> None:
    Bundle({"schema": 1}, b"w", b"i").write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="not a whole job bundle"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("body", ["{", '{"schema": 2}'])
def test_a_damaged_or_foreign_job_is_refused(tmp_path: Path, body: str) -> None:
    Bundle({"schema": 1}, b"w", b"i").write(tmp_path)
    (tmp_path / "job.json").write_text(body)
    with pytest.raises(UsageError):
        Bundle.open(tmp_path)


def test_the_script_runs_alone_with_its_own_package_and_leaves_a_reason(tmp_path: Path, wheel: bytes) -> None:
    """Nothing of ours is importable there: what runs is what was packed."""
    Bundle({"schema": 1, "task_id": "t", "kind": "none such"}, wheel, INPUTS.to_bytes()).write(tmp_path / "b")
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.py").write_text(render_script(tmp_path / "b"))
    check = "import accel, sys; sys.stderr.write(accel.__file__)\n"
    script = (work / "job.py").read_text()
    where = script.index("from accel.worker.job import main")
    (work / "job.py").write_text(script[:where] + check + script[where:])
    done = subprocess.run([sys.executable, "job.py"], cwd=work, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "accel-wheel-" in done.stderr
    told = json.loads((work / "result.json").read_text())
    assert (told["status"], told["task_id"]) == ("failed", "t")
    assert "none such" in told["error"]


def test_a_damaged_wheel_is_not_run(wheel: bytes) -> None:
    source = prelude(wheel).replace('WHEEL = """\\\n', 'WHEEL = """\\\nAAAA')
    done = subprocess.run([sys.executable, "-"], input=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "damaged" in done.stderr


def test_a_script_that_kaggle_would_not_take_is_refused_here(
    tmp_path: Path, wheel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Bundle({"schema": 1, "task_id": "t"}, wheel, INPUTS.to_bytes())
    job.write(tmp_path)
    assert len(render_script(tmp_path)) < bundles.MAX_SCRIPT_BYTES  # there is room for inputs
    Bundle(job.job, wheel, bytes(bundles.MAX_SCRIPT_BYTES)).write(tmp_path)
    with pytest.raises(UsageError, match="fewer passages"):
        render_script(tmp_path)
