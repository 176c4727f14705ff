"""What a fresh machine reads first: the Makefile, environment.yml, .ci/run and pyproject say the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def dry_run(target: str, **activated: str) -> str:
    """What ``make -n`` would do for ``target``, with only ``activated`` of the environments' variables."""
    plain = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    done = subprocess.run(
        ["make", "-n", "-B", target], cwd=ROOT, env=plain | activated, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("target", ["demo", "test", "conformance", "lint", "app", "kernels"])
def test_without_an_environment_one_is_made(target: str) -> None:
    told = dry_run(target)
    assert "-m venv .venv" in told and ".venv/bin/python" in told
    first, rest = told.index("torch==2.13.0"), told.index("-e '.[cpu,kaggle,colab,vast,modal,dev]'")
    assert first < rest, "torch goes in first: with none present a range takes a CUDA build"


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_activated_environment_is_used_as_it_is(variable: str, tmp_path: Path) -> None:
    told = dry_run("demo", **{variable: str(tmp_path)})
    assert ".venv/bin/python -m" not in told
    assert "python -m accel demo" in told and f"{tmp_path}/.accel-ready" in told


def test_the_gpu_environment_is_what_the_readme_promises() -> None:
    made = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert made["name"] == "accel" and made["channels"] == ["conda-forge"]
    plain = [d for d in made["dependencies"] if isinstance(d, str)]
    (pip,) = (d["pip"] for d in made["dependencies"] if isinstance(d, dict))
    assert "python=3.12" in plain and "pip" in plain
    (line,) = pip
    extras = re.fullmatch(r"-e \"?\.\[([a-z,]+)\]\"?", line)
    assert extras, line
    asked = extras.group(1).split(",")
    known = PROJECT["optional-dependencies"]
    assert set(asked) <= set(known)
    wanted = " ".join(d for extra in asked for d in known[extra])
    assert "faiss-gpu" in wanted and "cupy-cuda12x" in wanted
    # both install the module "faiss"
    assert "faiss-cpu" not in wanted


def dragged(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """What installing ``name`` installs, by what the installed packages say they need."""
    found: set[str] = set()
    todo = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        package, wanted = todo.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        try:
            needs = metadata.requires(package) or []
        except metadata.PackageNotFoundError:  # for another platform
            continue
        found.add(package)
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *wanted)):
                todo.append((canonicalize_name(need.name), frozenset(need.extras)))
    return found


def test_installing_accel_alone_drags_no_provider_sdk_and_no_second_faiss() -> None:
    installed = dragged("accel")
    sdks = {"kaggle", "kagglesdk", "modal", "runpod", "vastai", "ray", "gpuhunt", "faiss-cpu", "faiss-gpu"}
    assert not installed & sdks
    assert {"torch", "sentence-transformers", "gradio", "papermill", "jupyterlab", "matplotlib"} <= installed
    assert {"kagglesdk", "modal"} <= dragged("accel", frozenset({"kaggle", "modal"}))


@pytest.mark.conformance
@pytest.mark.timeout(900)
def test_all_extras_that_can_stand_together_do() -> None:
    """gpu is left out: it brings the other FAISS. What is not installed here, pip only resolves."""
    extras = ",".join(sorted(set(PROJECT["optional-dependencies"]) - {"gpu"}))
    for words in (["check"], ["install", "--dry-run", "-q", "-e", f"{ROOT}[{extras}]"]):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_ci_installs_what_tests_need_and_runs_both_suites() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "chromium" in script and script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script
    order = [script.index(f"make {t}") for t in ("install", "lint", "test", "conformance")]
    assert order == sorted(order)


def test_the_files_a_newcomer_looks_for_are_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {PROJECT['version']}" in changes
    assert "make lint" in (ROOT / "CONTRIBUTING.md").read_text()
