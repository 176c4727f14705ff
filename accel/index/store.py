"""An index on disk. Guarantee: what opens is whole, unaltered, and made under the Spec asked for.

A folder of four files. ``meta.json`` names the other three with their sha256, and is put in place
last, by one rename: before it the folder holds the previous index or none, after it the new one.
Data files carry their hash in their name, so that building anew never touches what a reader has
open. JSON Lines and safetensors only: opening an index runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.core.errors import CorpusError, IndexError_
from accel.core.passage import Passage
from accel.core.task import Spec, content_hash
from accel.index.lexical import LexicalIndex
from accel.index.vectors import F32, as_matrix

SCHEMA = "accel-index-1"
META = "meta.json"
_ROLES = {"passages": ".jsonl", "vectors": ".safetensors", "words": ".safetensors"}
_DATA_FILE = re.compile(r"(passages|vectors|words)-[0-9a-f]{16}\.(jsonl|safetensors)")
_AGAIN = "Delete the folder and build the index again."


class HybridIndex:
    """Passages, their vectors and their words. Immutable; safe to read from several threads.

    vectors: float32 (n, d), memory-mapped. lexical: BM25 over ``Passage.content``. spec: the Spec
    the vectors were made with. id: content hash over everything in it.
    """

    def __init__(
        self, folder: Path, spec: Spec, id: str, vectors: F32, lexical: LexicalIndex, lines: _Lines
    ) -> None:
        self.folder, self.spec, self.id = folder, spec, id
        self.vectors, self.lexical = vectors, lexical
        self._lines = lines

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def passages(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Passage]:
        """The passages with these ids, in this order. Raises IndexError_ for an id that is not there."""
        found = []
        for i in ids:
            if not 0 <= int(i) < len(self):
                raise IndexError_(f"passage {int(i)} is not in this index of {len(self)}.")
            found.append(Passage.from_fields(json.loads(self._lines[int(i)])))
        return found

    @classmethod
    def build(
        cls, folder: Path, passages: Sequence[Passage], vectors: object, spec: Spec
    ) -> HybridIndex:
        """Write an index of ``passages`` with ``vectors`` (n, d) into ``folder``, and open it.

        Replaces an index that is there, atomically. Raises CorpusError for no passages,
        IndexError_ for vectors that do not fit, and for a folder that holds anything that is not
        an index of ours.
        """
        if not passages:
            raise CorpusError("nothing to index: the corpus is empty.")
        matrix = as_matrix(vectors, "index", spec.dimension or None)
        if matrix.shape[0] != len(passages):
            raise IndexError_(f"{len(passages)} passages, but {matrix.shape[0]} vectors.")
        folder = Path(folder)
        _claim(folder)
        lexical = LexicalIndex.build([p.content for p in passages])
        previous = _previous_files(folder)
        lines = "".join(json.dumps(p.fields()) + "\n" for p in passages).encode("ascii")
        files = {
            "passages": _put(folder, "passages", lambda p: p.write_bytes(lines)),
            "vectors": _put(folder, "vectors", lambda p: _save({"vectors": matrix}, p)),
            "words": _put(folder, "words", lambda p: _save(lexical.tensors(), p)),
        }
        meta = {
            "schema": SCHEMA,
            "id": _index_id(spec, files),
            "spec": spec.fields(),
            "passages": len(passages),
            "dimension": int(matrix.shape[1]),
            "files": files,
        }
        temporary = folder / f".{META}.{os.getpid()}"
        temporary.write_text(json.dumps(meta, indent=1))
        _sync(temporary)
        temporary.replace(folder / META)
        _sync(folder)
        for name in previous - {f["name"] for f in files.values()}:
            (folder / name).unlink(missing_ok=True)
        return cls.open(folder, spec)

    @classmethod
    def open(cls, folder: Path, spec: Spec | None = None) -> HybridIndex:
        """Open and verify. With ``spec``, only an index made under exactly that Spec is taken.

        Raises IndexError_ with the reason: none there, half-written, damaged, foreign, another
        Spec.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        try:
            made = Spec.from_fields(meta["spec"])
            files, count, dimension = meta["files"], meta["passages"], meta["dimension"]
            paths = {role: folder / files[role]["name"] for role in _ROLES}
            hashes = {role: files[role]["sha256"] for role in _ROLES}
        except (KeyError, TypeError, ValueError, AttributeError) as bad:
            raise IndexError_(f"{folder}: {META} does not hold ({bad!r}).", hint=_AGAIN) from None
        if spec is not None and made != spec:
            other = [k for k, v in spec.fields().items() if made.fields()[k] != v]
            raise IndexError_(
                f"{folder}: made under another Spec ({', '.join(other)} differ).", hint=_AGAIN
            )
        for role, path in paths.items():
            if not _DATA_FILE.fullmatch(path.name):
                raise IndexError_(f"{folder}: {META} names a file that is not ours.", hint=_AGAIN)
            if not path.is_file():
                raise IndexError_(f"{folder}: {path.name} is missing.", hint=_AGAIN)
            if _sha256(path) != hashes[role]:
                raise IndexError_(f"{folder}: {path.name} is damaged.", hint=_AGAIN)
        if meta.get("id") != _index_id(made, files):
            raise IndexError_(f"{folder}: {META} was altered.", hint=_AGAIN)
        vectors = _map(paths["vectors"])["vectors"]
        lexical = LexicalIndex.from_tensors(_map(paths["words"]))
        lines = _Lines(paths["passages"])
        if not len(lines) == len(lexical) == vectors.shape[0] == count:
            raise IndexError_(f"{folder}: its parts have different lengths.", hint=_AGAIN)
        if vectors.shape[1] != dimension:
            raise IndexError_(f"{folder}: its vectors have another dimension.", hint=_AGAIN)
        return cls(folder, made, meta["id"], vectors, lexical, lines)


class _Lines:
    """The lines of a file, read when asked for. Holds the file mapped, not in memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        ends = np.flatnonzero(np.frombuffer(self._map, dtype=np.uint8) == ord("\n")) + 1
        self._starts = np.concatenate(([0], ends))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> bytes:
        return self._map[int(self._starts[i]) : int(self._starts[i + 1])]


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise IndexError_(f"{folder}: half-written, or not an index (no {META}).", hint=_AGAIN)
        raise IndexError_(f"{folder}: there is no index.", hint=_AGAIN)
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError) as bad:
        raise IndexError_(f"{folder}: {META} cannot be read ({bad}).", hint=_AGAIN) from None
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        found = meta.get("schema") if isinstance(meta, dict) else type(meta).__name__
        raise IndexError_(f"{folder}: not an index of {SCHEMA} (found {found!r}).", hint=_AGAIN)
    return meta


def _claim(folder: Path) -> None:
    """Make ``folder``, or see that it holds nothing but an index of ours, whole or half-written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {p.name for p in folder.iterdir()}
    except OSError as bad:
        raise IndexError_(f"{folder}: cannot be used as an index folder ({bad.strerror}).") from None
    foreign = [
        n for n in names if n != META and not n.startswith(".") and not _DATA_FILE.fullmatch(n)
    ]
    if foreign:
        raise IndexError_(
            f"{folder}: holds files that are not an index ({sorted(foreign)[0]}).",
            hint="Name an empty folder.",
        )
    if META in names:
        _read_meta(folder)  # another program's meta.json is not ours to replace


def _previous_files(folder: Path) -> set[str]:
    with contextlib.suppress(IndexError_, KeyError, TypeError):
        names = {f["name"] for f in _read_meta(folder)["files"].values()}
        return {n for n in names if _DATA_FILE.fullmatch(n)}
    return set()


def _put(folder: Path, role: str, write: Callable[[Path], object]) -> dict[str, Any]:
    """Write one data file under a temporary name, sync it, and give it the name its hash makes."""
    temporary = folder / f".{role}.{os.getpid()}"
    write(temporary)
    _sync(temporary)
    digest = _sha256(temporary)
    name = f"{role}-{digest[:16]}{_ROLES[role]}"
    size = temporary.stat().st_size
    temporary.replace(folder / name)
    return {"name": name, "sha256": digest, "bytes": size}


def _index_id(spec: Spec, files: dict[str, Any]) -> str:
    parts = [SCHEMA, json.dumps(spec.fields(), sort_keys=True)]
    return content_hash(*(p.encode() for p in (*parts, *(files[r]["sha256"] for r in _ROLES))))


def _save(tensors: dict[str, NDArray[Any]], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)


def _map(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as read-only memory maps (its own reader copies).

    Layout (safetensors format, README "Format"): u64 little-endian header length, JSON header with
    dtype, shape and data_offsets relative to the end of the header, then the data.
    """
    kinds = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1"}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = np.dtype(kinds[entry["dtype"]]), tuple(entry["shape"])
        begin = 8 + length + entry["data_offsets"][0]
        tensors[name] = (
            np.memmap(path, dtype=dtype, mode="r", offset=begin, shape=shape).view(np.ndarray)
            if all(shape)
            else np.zeros(shape, dtype=dtype)
        )
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk (folders cannot be opened on Windows)."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
