"""Uploads to the sandbox Kaggle's store. Guarantee: what arrived of a file stays, whoever hangs up.

``StartBlobUpload`` (kagglesdk 0.1.37, blobs/types/blob_api_service.py:12-176) gives a token and a signed
address here. What is PUT there follows Google's resumable uploads, which the client names as its reference
(kaggle 2.2.4, kaggle_api_extended.py:628, 8720; developers.google.com/drive/api/guides/manage-uploads):

- a plain PUT is the whole file from byte 0 on; ``Content-Range: bytes A-B/SIZE`` goes on at A, which must be
  what is there, else the answer is 308 again and nothing is taken;
- ``Content-Range: bytes */SIZE`` without a body asks: 308 with ``Range: bytes=0-K`` (none where nothing is
  there), 200 when it is whole; an address that is unknown, or older than a week, is 404.
- What a broken connection leaves is cut down to whole pieces of 256 KiB, as the store there does it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.wire import Dropped, Refused

PIECE = 256 << 10
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Blob:
    """One upload. path: the bytes that are there. started: epoch seconds."""

    token: str
    name: str
    size: int
    started: float
    path: Path

    @property
    def received(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def whole(self) -> bool:
        return self.received == self.size


class Blobs:
    """The uploads of one account, in a folder. now: epoch seconds. lasts_s: of an address."""

    def __init__(self, root: Path, now: Callable[[], float], lasts_s: float) -> None:
        self._root, self._now, self._lasts_s = root, now, lasts_s

    def start(self, name: str, size: int) -> Blob:
        """A new upload of a file of ``size`` bytes."""
        token = secrets.token_hex(16)
        self._root.mkdir(parents=True, exist_ok=True)
        blob = Blob(token, name, size, self._now(), self._root / f"{token}.bytes")
        kept = asdict(blob) | {"path": ""}
        (self._root / f"{token}.json").write_text(json.dumps(kept))
        return blob

    def find(self, token: str) -> Blob | None:
        """One upload, unless its address has expired."""
        file = self._root / f"{token}.json"
        if not re.fullmatch(r"[0-9a-f]{32}", token) or not file.exists():
            return None
        blob = Blob(**json.loads(file.read_text()) | {"path": self._root / f"{token}.bytes"})
        return blob if self._now() - blob.started <= self._lasts_s else None

    async def put(self, token: str, request: Request, fault: Fault | None) -> Response:
        """One PUT; see the module. TRUNCATED: half of the body is taken, then the connection breaks."""
        blob = self.find(token)
        if blob is None:
            raise Refused(404, "Not Found")
        told = request.headers.get("content-range", "")
        at = 0
        if told:
            found = _RANGE.fullmatch(told)
            if not found or int(found[3]) != blob.size:
                raise Refused(400, "Bad Request")
            if found[1] is None or (not blob.whole and int(found[1]) != blob.received):
                return self._where(blob)
            at = int(found[1])
        if blob.whole:
            return self._where(blob)
        most = blob.size - at
        if fault and fault.kind is FaultKind.TRUNCATED:
            most //= 2
        await self._take(blob, at, most, request)
        if fault and fault.kind is FaultKind.TRUNCATED:
            self._cut(blob)
            raise Dropped
        return self._where(blob)

    async def _take(self, blob: Blob, at: int, most: int, request: Request) -> None:
        """Append up to ``most`` bytes of the body behind byte ``at``."""
        with blob.path.open("r+b" if blob.path.exists() else "wb") as file:
            file.truncate(at)
            file.seek(at)
            try:
                async for chunk in request.stream():
                    file.write(chunk[:most])
                    most -= len(chunk[:most])
                    file.flush()
                    if not most:
                        return
            except ClientDisconnect:
                file.close()
                self._cut(blob)
                raise Dropped from None

    @staticmethod
    def _cut(blob: Blob) -> None:
        with blob.path.open("r+b") as file:
            file.truncate(blob.received // PIECE * PIECE)

    @staticmethod
    def _where(blob: Blob) -> Response:
        if blob.whole:
            return Response(status_code=200)
        there = {"Range": f"bytes=0-{blob.received - 1}"} if blob.received else {}
        return Response(status_code=308, headers=there)
