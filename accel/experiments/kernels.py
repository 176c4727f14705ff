"""Kaggle kernels ready to push. Guarantee: a folder made here holds one self-contained, parsable script.

Takes each folder of the checkout's ``kaggle_kernels/``, fills in the owner, puts this package (as an
inlined, checked wheel) in front of its script, and writes the result where Kaggle's own command line can
push it. The wheel is written beside them, for notebooks on Kaggle and Colab.

    python -m accel.experiments.kernels --owner NAME --out build/kernels
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import accel
from accel.core.errors import AccelError, UsageError
from accel.worker.bundle import MAX_SCRIPT_BYTES, pack_wheel, prelude

METADATA = "kernel-metadata.json"
OWNER = "OWNER"
# The keys that Kaggle's client reads (kaggle 2.2.4, kaggle_api_extended.py:6346-6450); others it ignores
# without a word, "accelerator" among them.
KNOWN_KEYS = frozenset(
    {
        "id", "id_no", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu",
        "enable_tpu", "enable_internet", "machine_shape", "dataset_sources", "competition_sources",
        "kernel_sources", "model_sources", "keywords", "docker_image", "docker_image_pinning_type",
    }
)  # fmt: skip
_OWNER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


def kernels_folder() -> Path:
    """The checkout's ``kaggle_kernels/``. Raises UsageError where this is not run from a checkout."""
    folder = Path(accel.__file__).resolve().parent.parent / "kaggle_kernels"
    if not folder.is_dir():
        raise UsageError("there is no kaggle_kernels/ folder beside this package.",
                         hint="Run it from a checkout of the repository.")  # fmt: skip
    return folder


def build_kernels(owner: str, out: Path, source: Path | None = None) -> list[Path]:
    """Write every kernel of ``source`` (default: the checkout's) under ``out``, ready to push for ``owner``.

    Returns the folders, then the wheel. Raises UsageError for a name that cannot be a Kaggle user, metadata
    that Kaggle would not take, or a script that has grown too large.
    """
    if not _OWNER_NAME.fullmatch(owner) or owner == OWNER:
        raise UsageError(f"{owner!r} is not a Kaggle user name.",
                         hint="It is the part after kaggle.com/ on your profile page.")  # fmt: skip
    made, wheel = [], pack_wheel()
    for folder in sorted(p.parent for p in (source or kernels_folder()).glob(f"*/{METADATA}")):
        metadata = read_metadata(folder / METADATA)
        slug = metadata["id"].split("/")[1]
        script = inlined((folder / metadata["code_file"]).read_text(encoding="utf-8"), wheel)
        target = out / slug
        target.mkdir(parents=True, exist_ok=True)
        (target / metadata["code_file"]).write_text(script, encoding="utf-8")
        (target / METADATA).write_text(json.dumps({**metadata, "id": f"{owner}/{slug}"}, indent=2) + "\n")
        made.append(target)
    if not made:
        raise UsageError(f"{source or kernels_folder()}: no folder with a {METADATA}.")
    package = out / f"accel-{accel.__version__}-py3-none-any.whl"
    package.write_bytes(wheel)
    return [*made, package]


def read_metadata(path: Path) -> dict[str, Any]:
    """Read and check kernel metadata as far as it can be without Kaggle. Raises UsageError."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as bad:
        raise UsageError(f"{path}: cannot be read as JSON ({type(bad).__name__}).") from None
    if not isinstance(metadata, dict):
        raise UsageError(f"{path}: not an object.")
    if unknown := sorted(metadata.keys() - KNOWN_KEYS):
        raise UsageError(f"{path}: Kaggle would ignore the key {unknown[0]!r}.")
    for key in ("id", "title", "code_file", "language", "kernel_type"):
        if not isinstance(metadata.get(key), str) or not metadata[key]:
            raise UsageError(f"{path}: {key} is missing.")
    owner, _, slug = metadata["id"].partition("/")
    if owner != OWNER or slugify(metadata["title"]) != slug or len(metadata["title"]) < 5:
        raise UsageError(f"{path}: id must be {OWNER}/<slug>, and the title must make that slug "
                         f"({slugify(metadata['title'])!r}).")  # fmt: skip
    if not (path.parent / metadata["code_file"]).is_file():
        raise UsageError(f"{path}: {metadata['code_file']} is not there.")
    return metadata


def slugify(title: str) -> str:
    """The slug that Kaggle makes of a title: lower case, anything but letters and digits one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def inlined(script: str, wheel: bytes) -> str:
    """``script`` with the package unpacked before its first statement; its docstring stays on top.

    Raises UsageError when the whole is larger than Kaggle takes.
    """
    tree = ast.parse(script)
    has_docstring = ast.get_docstring(tree) is not None
    cut = tree.body[0].end_lineno if has_docstring and tree.body else 0
    lines = script.splitlines(keepends=True)
    whole = "".join(lines[:cut]) + "\n" + prelude(wheel) + "".join(lines[cut:])
    if len(whole.encode()) > MAX_SCRIPT_BYTES:
        raise UsageError(
            f"the script is {len(whole.encode()):,} bytes with the package in it; "
            f"Kaggle takes about {MAX_SCRIPT_BYTES:,}."
        )
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Prints the folders made; returns 0, or 2 after one line on standard error."""
    parser = argparse.ArgumentParser(prog="accel.experiments.kernels", description="Build Kaggle kernels.")
    parser.add_argument("--owner", required=True, help="your Kaggle user name")
    parser.add_argument("--out", type=Path, default=Path("build/kernels"), help="where to write them")
    asked = parser.parse_args(argv)
    try:
        made = build_kernels(asked.owner, asked.out)
    except AccelError as bad:
        sys.stderr.write(f"{bad}\n")
        return bad.exit_code
    for path in made:
        push = f"kaggle kernels push -p {path}" if path.is_dir() else "for notebooks: a dataset, an upload"
        sys.stdout.write(f"{path}  ({push})\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
