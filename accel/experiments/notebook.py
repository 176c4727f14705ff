"""One run of one notebook. Guarantee: a wrong parameter is refused in one line before anything runs.

Papermill executes the notebook in the kernel of this very interpreter and writes the executed copy. The
notebook's cell tagged ``parameters`` is its signature: names, annotations, defaults, one to a line.

``python -m accel.experiments.notebook`` reads ``{"notebook", "parameters", "executed"}`` as JSON from
standard input and runs it: ``sweep`` starts one such process for each cell, since Papermill changes the
working directory and must not share a process with a second run.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

import accel
from accel.core.errors import AccelError, UsageError

TAG = "parameters"
_TYPES: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool,
    "list[str]": list[str], "list[int]": list[int], "list[float]": list[float],
}  # fmt: skip
# ipykernel says on every start that it listens without encryption (it does so on loopback only)
_QUIET = ["--log-level=40"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of a notebook's parameter cell. kind: "int", "list[int]" and the like. comment: its help."""

    name: str
    kind: str
    default: Any
    comment: str = ""


class NotebookFailed(AccelError):
    """A notebook's own code raised; the executed copy shows where."""


def notebooks_folder() -> Path:
    """The checkout's ``notebooks/``. Raises UsageError where this package is not run from a checkout."""
    folder = Path(accel.__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise UsageError("there is no notebooks/ folder beside this package.",
                         hint="Run it from a checkout of the repository.")  # fmt: skip
    return folder


def parameters(notebook: Path) -> tuple[Parameter, ...]:
    """The typed parameters of ``notebook``. Raises UsageError when it cannot be read or has none."""
    for cell in _read(notebook)["cells"]:
        if cell["cell_type"] == "code" and TAG in cell.get("metadata", {}).get("tags", ()):
            return _parameters_of(notebook, "".join(cell["source"]))
    raise UsageError(f"{notebook}: no cell is tagged {TAG!r}.")


def checked(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given``, if every name is a parameter of ``notebook`` and every value of its type.

    An int is taken where a float is expected, nothing else. Raises UsageError otherwise.
    """
    known = {p.name: p for p in parameters(notebook)}
    taken = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{notebook.name} has no parameter {name!r}.",
                             hint=f"It has: {', '.join(known)}.")  # fmt: skip
        kind = known[name].kind
        try:
            taken[name] = TypeAdapter(_TYPES[kind], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError:
            raise UsageError(f"{notebook.name}: {name} must be {kind}, not {value!r}.") from None
    return taken


def execute(notebook: Path, given: Mapping[str, Any], executed: Path) -> None:
    """Run ``notebook`` with ``given`` and write the executed copy, also when it fails.

    Raises UsageError as ``checked``, NotebookFailed with the error of the cell that raised.
    """
    taken = checked(notebook, given)
    executed.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the notebook machinery's own dependencies
        import papermill

        try:
            papermill.execute_notebook(
                str(notebook), str(executed), parameters=taken, kernel_name="python3",
                progress_bar=False, extra_arguments=_QUIET,
            )  # fmt: skip
        except papermill.PapermillExecutionError as failed:
            raise NotebookFailed(
                f"{notebook.name}: {failed.ename}: {failed.evalue}".splitlines()[0],
                hint=f"See {executed}.",
            ) from None


def _read(notebook: Path) -> dict[str, Any]:
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        if isinstance(content["cells"], list):
            return content
    except OSError as bad:
        raise UsageError(f"{notebook}: cannot be read ({bad.strerror}).") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"{notebook}: not a notebook.")


def _parameters_of(notebook: Path, source: str) -> tuple[Parameter, ...]:
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind = ast.unparse(node.annotation)
        if kind not in _TYPES or node.value is None:
            raise UsageError(f"{notebook}: parameter {node.target.id} needs a default and one of the types "
                             f"{', '.join(_TYPES)}.")  # fmt: skip
        _, _, comment = lines[node.end_lineno - 1].partition("  # ")  # type: ignore[operator]
        found.append(Parameter(node.target.id, kind, ast.literal_eval(node.value), comment.strip()))
    return tuple(found)


def main() -> int:
    """Run what standard input asks for. Returns 0; or 1 with the reason as the one line of stderr."""
    asked = json.load(sys.stdin)
    try:
        execute(Path(asked["notebook"]), asked["parameters"], Path(asked["executed"]))
    except AccelError as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
