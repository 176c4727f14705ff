"""The house holds: rooms import downwards, importing does no work, every module says what it guarantees."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import accel

ROOT = Path(accel.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "accel.") if "__main__" not in m.name)
NOT_AT_IMPORT = (
    "torch", "faiss", "kagglesdk", "kaggle", "gradio", "matplotlib", "sentence_transformers", "transformers",
    "bm25s", "papermill", "cupy", "playwright",
)  # fmt: skip
LONGEST = 320  # lines; "a few hundred"

RUN_LINTER = "from importlinter.cli import lint_imports_command as run; run()"
# imports what argv names, and prints what that did to the machine
WATCH = """
import builtins, io, json, os, socket, sys, importlib
touched = []
def watch(event, args):
    if event.startswith("socket.") and event != "socket.gethostname":
        touched.append(f"{event} {args[:1]!r}")
    elif event == "subprocess.Popen":
        touched.append(f"{event} {args[0]!r}")
    elif event == "open" and isinstance(args[0], str) and set("wax+") & set(str(args[1] or "r")):
        if not args[0].endswith(".pyc") and "__pycache__" not in args[0] and args[0] != os.devnull:
            touched.append(f"write {args[0]}")
    elif event in ("os.mkdir", "os.rename", "os.remove") and "__pycache__" not in str(args[0]):
        touched.append(f"{event} {args[0]}")
sys.addaudithook(watch)
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as missing:
        failed[name] = str(missing)
print(json.dumps({"modules": sorted(sys.modules), "touched": touched, "failed": failed}))
"""


def test_rooms_import_only_what_lies_below_them() -> None:
    """The contract of pyproject.toml, by import-linter."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_LINTER, "--no-cache"],
        cwd=ROOT.parent, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout


def test_importing_everything_loads_no_model_and_touches_nothing() -> None:
    """No heavy library, no socket, no file, no process: in one fresh interpreter, every module of ours."""
    named = [m for m in MODULES if not m.startswith("accel.testing")]  # these subclass pytest's own
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(named)], capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == {}
    assert [m for m in found["modules"] if m.partition(".")[0] in NOT_AT_IMPORT and "." not in m] == []
    assert found["touched"] == []


def offenders(broken: Callable[[Path, ast.Module], str]) -> list[str]:
    """"file: what" for each module of ours of which ``broken`` says something."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if what := broken(path, ast.parse(path.read_text())):
            found.append(f"{path.relative_to(ROOT).as_posix()}: {what}")
    return found


def test_every_module_opens_with_what_it_guarantees() -> None:
    def broken(path: Path, tree: ast.Module) -> str:
        told = ast.get_docstring(tree) or ""
        if path.name in ("__init__.py", "__main__.py"):
            return "" if told else "no docstring"
        return "" if "guarantee" in told.lower() else told.partition("\n")[0] or "no docstring"

    assert offenders(broken) == []


def test_every_module_can_be_read_in_one_sitting() -> None:
    def broken(path: Path, tree: ast.Module) -> str:
        lines = len(path.read_text().splitlines())
        return f"{lines} lines" if lines > LONGEST else ""

    assert offenders(broken) == []


def test_no_pickle_no_shell_no_eval() -> None:
    def broken(path: Path, tree: ast.Module) -> str:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name for a in node.names} | {getattr(node, "module", None) or ""}
                if names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}:
                    return f"line {node.lineno} imports a pickle"
            if isinstance(node, ast.keyword) and node.arg == "shell":
                return f"line {node.value.lineno}: shell="
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("eval", "exec"):
                return f"line {called.lineno}: {called.id}"
        return ""

    assert offenders(broken) == []


def test_no_module_holds_state() -> None:
    """No ``global``, and no empty container at module level, which only waits to be filled."""

    def broken(path: Path, tree: ast.Module) -> str:
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                return f"line {node.lineno}: global"
        for node in tree.body:
            value = getattr(node, "value", None) if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Dict | ast.List | ast.Set) and not ast.unparse(value).strip("[]{}"):
                return f"line {node.lineno}: a module-global container"
        return ""

    assert offenders(broken) == []


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import socket\nsocket.socket().close()", "socket."), ("open('made', 'w').close()", "write made"),
        ("import subprocess\nsubprocess.run(['true'])", "subprocess.Popen"),
        ("import os\nos.mkdir('folder')", "os.mkdir"),
    ],
)  # fmt: skip
def test_the_watch_itself_sees_what_an_import_does(tmp_path: Path, code: str, seen: str) -> None:
    (tmp_path / "busy.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", WATCH, '["busy"]'], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert any(seen in what for what in json.loads(done.stdout)["touched"])


def test_there_are_modules_to_check() -> None:
    assert len(MODULES) > 40
