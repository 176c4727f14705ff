"""What came by hash. Guarantee: what is whole here has the sha256 it is named by; each byte travels once.

A blob grows in a file of its own, piece after piece, across requests and broken connections; once all of it
is there its sha256 is checked, and only then it gets its name. An index is its ``meta.json``, which names
its files by sha256: they are blobs, too, and the index is attached when it opens under the id asked for,
which checks them once more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from accel.core.errors import IndexError_
from accel.index.store import META, HybridIndex
from accel.worker.door import Refused

MAX_BLOB = 64 << 30
MAX_PIECE = 256 << 20
MAX_META = 1 << 20
SPARE_BYTES = 1 << 30  # of the disk, for results and logs
_NAME = re.compile("[0-9a-f]{64}")
_FILE = re.compile(r"[a-z]+-[0-9a-f]{16}\.[a-z]+")


class Blobs:
    """Blobs under ``folder``. spare_bytes: of its disk, never filled."""

    def __init__(self, folder: Path, spare_bytes: int = SPARE_BYTES) -> None:
        self.folder, self._spare = folder, spare_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def path(self, name: str) -> Path | None:
        """Where a whole blob lies; None if it is not here, or not whole. Raises Refused for no name."""
        path = self._checked(name)
        return path if path.is_file() else None

    def have(self, name: str) -> int:
        """Bytes of it that are here."""
        whole, part = self._checked(name), self._part(name)
        return next((p.stat().st_size for p in (whole, part) if p.is_file()), 0)

    def put(self, name: str, offset: int, size: int, pieces: Iterable[bytes]) -> int:
        """Add ``pieces`` at ``offset`` of a blob of ``size`` bytes; returns how much is here then.

        Raises Refused: 409 when it is not at ``offset`` or somebody else is writing, 413 and 507 when there
        is no room, 422 when it is whole and not what its name says (it is gone then). Whatever came before
        a connection broke is kept.
        """
        whole, part = self._checked(name), self._part(name)
        if not 0 <= offset <= size <= MAX_BLOB:
            raise Refused(413, "Rejected", f"a blob holds at most {MAX_BLOB:,} bytes")
        with self._lock:
            if name in self._busy:
                raise Refused(409, "Rejected", "somebody else is sending it", X_Accel_Have="0")
            if whole.is_file():
                return whole.stat().st_size
            here = self.have(name)
            if offset != here:
                raise Refused(409, "Rejected", f"{here} bytes of it are here", X_Accel_Have=str(here))
            if shutil.disk_usage(self.folder).free - (size - offset) < self._spare:
                raise Refused(507, "Rejected", "the disk is full")
            self._busy.add(name)
        try:
            with part.open("ab") as file:
                for piece in pieces:
                    here += len(piece)
                    if here > size:
                        raise Refused(422, "Rejected", "more came than was told")
                    file.write(piece)
            if here == size:
                with part.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != name:
                    part.unlink()
                    raise Refused(422, "Rejected", "what came is not what its hash says")
                part.replace(whole)
            return here
        except Refused:
            part.unlink(missing_ok=True)
            raise
        finally:
            self._busy.discard(name)

    def index(self, ident: str, meta: bytes) -> HybridIndex:
        """The index with this id, of blobs that are here. Raises Refused: 409 when one is missing, 422 when
        it is not that index."""
        self._checked(ident)
        try:
            files = {str(f["name"]): str(f["sha256"]) for f in json.loads(meta)["files"].values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Refused(422, "Rejected", "not the description of an index") from None
        if len(files) > 16 or not all(_FILE.fullmatch(n) and _NAME.fullmatch(h) for n, h in files.items()):
            raise Refused(422, "Rejected", "not the description of an index")
        folder = self.folder / f"index-{ident}"
        folder.mkdir(exist_ok=True)
        for name, digest in files.items():
            if not (blob := self._checked(digest)).is_file():
                raise Refused(409, "Rejected", f"the blob {digest} is not here")
            if not (folder / name).exists():
                os.link(blob, folder / name)
        (folder / f"{META}.part").write_bytes(meta)
        (folder / f"{META}.part").replace(folder / META)
        try:
            index = HybridIndex.open(folder)
        except IndexError_ as bad:
            shutil.rmtree(folder, ignore_errors=True)
            raise Refused(422, "IndexError_", bad.message.replace(f"{folder}: ", "")) from None
        if index.id != ident:
            shutil.rmtree(folder, ignore_errors=True)
            raise Refused(422, "Rejected", "it is another index")
        return index

    def _checked(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise Refused(404, "Rejected", "a blob is named by its sha256")
        return self.folder / name

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"
