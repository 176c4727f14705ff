"""Where installed Python code lies. Guarantee: only looked at, never imported.

A library is the standard library or one installed distribution: its version and its modules' files.
Tests, vendored copies, examples, generated duplicates and deprecated modules are left out.
"""

from __future__ import annotations

import platform
import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

STDLIB = "python"
_OURSELVES = "accel"
_SKIPPED_PARTS = frozenset(
    {
        "__pycache__", "_vendor", "_vendored", "benchmarks", "conftest", "demo", "demos", "docs",
        "dist-packages", "distutils", "ensurepip", "examples", "extern", "externals", "idle_test",
        "idlelib", "lib-dynload", "lib2to3", "pydoc_data", "site-packages", "test", "tests",
        "third_party", "thirdparty", "turtledemo", "vendor", "vendored",
    }
)  # fmt: skip
# transformers' modular_*.py is the source that modeling_*.py is generated from: the same text twice
_SKIPPED_FILE = re.compile(r"(modular_.*|conftest|test_.*|.*_test|__main__|setup)\.py")
# asyncore, asynchat, imp and smtpd announce their end in prose only; the rest call this
_DEPRECATED = re.compile(r"^(?:import warnings; )?warnings\._deprecated\(__name__", re.MULTILINE)
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Library:
    """name, version, and label ("numpy 2.4.6"). files: dotted module name → file; root: shown paths'
    base. A package's name stands for its ``__init__.py``.
    """

    name: str
    version: str
    label: str
    root: Path
    files: dict[str, Path]


def standard_library() -> Library:
    """The running interpreter's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    version = platform.python_version()
    found = (p.relative_to(root) for p in root.rglob("*.py"))
    return Library(STDLIB, version, f"python {version} stdlib", root, _modules(root, found))


def installed(names: Iterable[str] | None = None) -> list[Library]:
    """Installed distributions, by name; ``names`` limits them, and sets their order."""
    every: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        every.setdefault(_normal(distribution.metadata["Name"] or ""), distribution)
    wanted = sorted(every) if names is None else [n for n in map(_normal, names) if n in every]
    libraries = []
    for name in wanted:
        distribution = every[name]
        root = Path(str(distribution.locate_file("")))
        files = _modules(root, (Path(str(f)) for f in distribution.files or () if str(f).endswith(".py")))
        if files and name != _OURSELVES:
            label = f"{distribution.metadata['Name']} {distribution.version}"
            libraries.append(Library(name, distribution.version, label, root, files))
    return libraries


def nearby(distance: int = 1) -> list[str]:
    """Names of distributions that this package requires, directly first; with a
    larger ``distance`` also what those require, and so on.

    Extras are left out. Empty when this package is not installed (a bare checkout).
    """
    order: list[str] = []
    ring = [_OURSELVES]
    for _ in range(distance):
        following = []
        for name in ring:
            try:
                needed = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            for requirement in needed:
                match = _REQUIREMENT.match(requirement)
                if match and "extra ==" not in requirement:
                    other = _normal(match.group())
                    if other not in order:
                        order.append(other)
                        following.append(other)
        ring = following
    return order


def is_deprecated(source: str) -> bool:
    """Whether a module of the standard library announces its own removal when it is imported."""
    return _DEPRECATED.search(source) is not None


def _modules(root: Path, relative: Iterable[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(relative, key=str):
        parts = PurePosixPath(path.as_posix()).with_suffix("").parts
        if _SKIPPED_PARTS.intersection(parts) or _SKIPPED_FILE.fullmatch(path.name):
            continue
        if not all(p.isidentifier() for p in parts):
            continue  # scripts, data folders, "../../bin/x.py"
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and (root / path).is_file():
            files.setdefault(name, root / path)
    return files


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
