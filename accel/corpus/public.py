"""The names people use. Guarantee: a private path is named only by a public module that re-exports it.

``scipy.linalg._decomp_svd.svd`` is what the file says, ``scipy.linalg.svd`` is what one types. The map
follows ``from ._x import y`` and ``from ._x import *`` through public modules, statically. Something
private that no public module re-exports has no public name, and is left out of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from accel.corpus.libraries import STDLIB, Library, is_deprecated
from accel.corpus.syntax import Definition, Source, read_source

Origin = tuple[str, str]  # (defining module, name there)

# Standard library modules without an underscore that are other modules' insides all the same.
_HIDDEN = frozenset(
    {
        "antigravity", "genericpath", "ntpath", "nturl2path", "opcode", "pydoc_data", "sre_compile",
        "sre_constants", "sre_parse", "this",
    }
)  # fmt: skip
_SHOWN = {"posixpath": "os.path"}  # os.py puts it into sys.modules under this name


class PublicNames:
    """One library's public names, found by reading only the modules that are asked about."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._sources: dict[str, Source | None] = {}
        self.exports = lru_cache(maxsize=None)(self._exports)
        self._busy: set[str] = set()
        self._named: set[Origin] = set()

    def source(self, module: str) -> Source | None:
        """The parsed module, once; None if it is not of this library or cannot be parsed."""
        if module not in self._sources:
            path = self.library.files.get(module)
            read = read_source(path, module) if path else None
            if read and path and self.library.name == STDLIB and _deprecated(path):
                read = None
            self._sources[module] = read
        return self._sources[module]

    def modules(self) -> list[str]:
        """Public modules, shallow ones first. A module is public if no part of its name is private."""
        public = [m for m in self.library.files if not _private(m)]
        return sorted(public, key=lambda m: (m.count("."), m))

    def read(self, modules: Iterable[str]) -> Iterator[tuple[str, Source]]:
        """(module, source) of those that can be parsed."""
        for module in modules:
            source = self.source(module)
            if source is not None:
                yield module, source

    def objects(self, modules: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        """(public name, defining module, name there) of the public objects of ``modules``.

        Over the life of this instance each object comes once: ask for shallow modules first, and the
        name that an object gets is its shortest.
        """
        for module, source in self.read(modules):
            exports = self.exports(module)
            for name in sorted(exports):
                origin = exports[name]
                if name.startswith("_") or origin in self._named:
                    continue
                if source.listed is not None and name not in source.listed:
                    continue
                sure = source.listed is not None or name not in source.imports
                if origin[0] != module and not _may_rename(module, origin[0], sure):
                    continue
                self._named.add(origin)
                yield f"{shown(module)}.{name}", *origin

    def _exports(self, module: str) -> dict[str, Origin]:
        """Every name of ``module``, with where it is defined. Cycles of star imports end here."""
        source = self.source(module)
        if source is None or module in self._busy:
            return {}
        self._busy.add(module)
        try:
            found: dict[str, Origin] = {}
            for star in source.stars:
                origin_source = self.source(star)
                if origin_source is None:
                    continue
                listed = origin_source.listed
                for name, origin in self.exports(star).items():
                    if name in listed if listed is not None else not name.startswith("_"):
                        found[name] = origin
            for name, (other, there) in source.imports.items():
                if self.library.files.get(f"{other}.{there}") and there not in self.exports(other):
                    continue  # a submodule, which is walked in its own right
                through = self.exports(other).get(there)
                if through:
                    found[name] = through
            for name in source.names:
                found[name] = (module, name)
            return found
        finally:
            self._busy.discard(module)

    def compiled(self) -> Iterator[tuple[str, str, Definition]]:
        """(public name, module of the text, definition) of docstrings kept apart from their objects."""
        if self.library.name not in {"numpy", "torch"}:
            return
        for module in self.library.files:
            last = module.rpartition(".")[2]
            if "newdocs" not in last and not last.endswith("_docs"):
                continue
            source = self.source(module)
            for place, definition in source.elsewhere if source else ():
                home = place
                if place.startswith("numpy._core"):
                    home = "numpy"  # numpy/__init__.py re-exports these by name
                if not _private(home) and not _private(definition.name):
                    yield f"{home}.{definition.name}", module, definition


def _deprecated(path: Path) -> bool:
    return is_deprecated(path.read_text(encoding="utf-8", errors="replace"))


def shown(module: str) -> str:
    """The name a module is imported by."""
    return _SHOWN.get(module, module)


def _private(dotted: str) -> bool:
    parts = dotted.split(".")
    inner = parts[0] == "encodings" and len(parts) > 1  # one module per code page, all alike
    return inner or parts[0] in _HIDDEN or any(part.startswith("_") for part in parts)


def _may_rename(public: str, defining: str, sure: bool) -> bool:
    """Whether ``public`` may lend its name to what ``defining`` defines.

    A package may to its own insides. Anyone may to a private module, if ``sure``: by listing the name
    in ``__all__`` or importing everything; a plain import may be for the module's own use only.
    """
    return defining.startswith(public + ".") or (sure and _private(defining))
