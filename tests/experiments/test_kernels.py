"""What `make kernels` writes: metadata that Kaggle's SDK takes, and a script that really runs alone."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.core.errors import UsageError
from accel.experiments.kernels import (
    METADATA,
    build_kernels,
    inlined,
    kernels_folder,
    main,
    read_metadata,
    slugify,
)
from accel.stages.embed import default_spec
from accel.worker.artefacts import read_result
from accel.worker.bundle import MAX_SCRIPT_BYTES, pack_wheel

SLUG = "accel-embed-benchmark"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kernels")
    made = build_kernels("jane-doe", out)
    assert [p.name for p in made] == [SLUG, "accel-0.1.0-py3-none-any.whl"]
    assert made[1].read_bytes() == pack_wheel()
    return out / SLUG


def test_the_sdk_takes_the_metadata(built: Path) -> None:
    """Every key becomes a field of the SDK's own push request, whose setters check the types."""
    kk = pytest.importorskip("kagglesdk.kernels.types.kernels_api_service", reason="kagglesdk is an extra")
    metadata = json.loads((built / METADATA).read_text())
    request = kk.ApiSaveKernelRequest()
    fields = {
        "id": "slug", "title": "new_title", "dataset_sources": "dataset_data_sources",
        "competition_sources": "competition_data_sources", "kernel_sources": "kernel_data_sources",
        "model_sources": "model_data_sources",
    }  # fmt: skip
    for key, value in metadata.items():
        if key != "code_file":
            assert isinstance(getattr(type(request), fields.get(key, key)), property)
            setattr(request, fields.get(key, key), value)
    request.text = (built / metadata["code_file"]).read_text()
    sent = request.to_dict()
    assert sent["slug"] == f"jane-doe/{SLUG}" and slugify(sent["newTitle"]) == SLUG
    assert sent["machineShape"] == "NvidiaTeslaT4" and sent["enableGpu"] and sent["isPrivate"]
    assert sent["language"] == "python" and sent["kernelType"] == "script"


def test_the_script_is_one_file_with_its_docstring_on_top(built: Path) -> None:
    script = (built / "embed_benchmark.py").read_text()
    original = (kernels_folder() / "embed_benchmark" / "embed_benchmark.py").read_text()
    assert ast.get_docstring(ast.parse(script)) == ast.get_docstring(ast.parse(original))
    assert script.endswith(original.split('"""', 2)[2])
    assert len(script.encode()) < MAX_SCRIPT_BYTES


def test_the_script_runs_and_leaves_a_result_that_verifies(built: Path, tmp_path: Path) -> None:
    settings = {"ACCEL_BENCH_TEXTS": "3", "ACCEL_BENCH_BATCHES": "[1, 2]", "ACCEL_BENCH_REPETITIONS": "2"}
    done = subprocess.run(
        [sys.executable, str(built / "embed_benchmark.py")], cwd=tmp_path, capture_output=True, text=True,
        timeout=100, env={**os.environ, **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "result.json").read_text())
    for name, entry in manifest["artefacts"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == entry["sha256"]
    result = read_result(
        tmp_path, task_id=manifest["task_id"], spec=default_spec().fields(), provider="kaggle"
    )
    tensors = result.output.tensors
    assert tensors["vectors"].shape == (3, 384)
    assert {k: len(v) for k, v in tensors.items() if k.startswith("seconds_")} == {
        "seconds_1": 2,
        "seconds_2": 2,
    }
    assert result.env["packages"]["torch"] and result.env["device"]
    # what ran is the package in the script, not the one installed here: it is in no checkout
    assert result.env["commit"].startswith("files:")


@pytest.mark.parametrize("owner", ["", "jane doe", "../x", "OWNER", "jane/doe", "-"])
def test_a_name_that_is_no_user_is_refused(owner: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a Kaggle user name"):
        build_kernels(owner, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accelerator": "T4"}, "would ignore the key 'accelerator'"),
        ({"title": "Something else"}, "the title must make that slug"),
        ({"id": "jane/accel-embed-benchmark"}, "id must be OWNER/<slug>"),
        ({"code_file": "gone.py"}, "gone.py is not there"),
        ({"language": ""}, "language is missing"),
    ],
)
def test_metadata_that_kaggle_would_not_take_is_refused(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    folder = tmp_path / "kernel"
    folder.mkdir()
    good = json.loads((kernels_folder() / "embed_benchmark" / METADATA).read_text())
    (folder / "embed_benchmark.py").write_text("pass\n")
    (folder / METADATA).write_text(json.dumps(good))
    assert read_metadata(folder / METADATA) == good
    (folder / METADATA).write_text(json.dumps(good | change))
    with pytest.raises(UsageError, match=said):
        build_kernels("jane", tmp_path / "out", tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_metadata_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / METADATA).write_text(content)
    with pytest.raises(UsageError):
        read_metadata(tmp_path / METADATA)


def test_no_kernels_and_too_large_a_script_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder with a"):
        build_kernels("jane", tmp_path / "out", tmp_path)
    with pytest.raises(UsageError, match="Kaggle takes about"):
        inlined("pass\n", b"\0" * MAX_SCRIPT_BYTES)


def test_the_command_tells_how_to_push(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--owner", "jane", "--out", str(tmp_path)]) == 0
    assert f"kaggle kernels push -p {tmp_path / SLUG}" in capsys.readouterr().out
    assert main(["--owner", "no body", "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
