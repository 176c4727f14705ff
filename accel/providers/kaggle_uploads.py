"""One file to Kaggle's store. Guarantee: bytes that arrived are not sent again, whoever died in between.

``StartBlobUpload`` (kagglesdk 0.1.37, blobs/types/blob_api_service.py:12-176) gives a token and a signed
address; what is PUT there can be carried on: asked with ``Content-Range: bytes */SIZE`` and no body it
answers 308 with the ``Range`` that it has, 200 or 201 when it has all; 503 may be tried again; an address
that has expired is 404 (kaggle 2.2.4, kaggle_api_extended.py:8660-8755). It lasts a week; 6 days are trusted
(the same file, :628-630).

Address and token are secrets: whoever has them can write the file. They are kept between processes in a
folder of ours that nobody else can read, never in ``/tmp`` as kaggle 2.2.4 does (:569), and no message shows
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from accel.core.errors import ProviderError, Rejected, Unreachable
from accel.providers.kaggle_client import NAME, KaggleClient

TRUSTED_S = 6 * 24 * 3600.0
FRUITLESS = 5  # answers, or silences, without a byte more
RESTARTS = 3  # addresses that expired
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Upload:
    """One that is under way. started: epoch seconds."""

    digest: str
    size: int
    token: str
    url: str
    started: float

    def __repr__(self) -> str:
        return f"Upload({self.digest[:8]}…, {self.size} bytes)"


class Stopped(Exception):
    """Whoever asked for the upload has gone."""


class Uploads:
    """Uploads of one account. Synchronous. folder: keeps what is under way, None: this process's memory.

    account: whose they are; another's are not carried on. now: epoch seconds. pause_s: before an upload that
    found no answer is asked for again, doubled each time.
    """

    def __init__(
        self, client: KaggleClient, folder: Path | None, now: Callable[[], float], pause_s: float = PAUSE_S
    ) -> None:
        self._client, self._folder, self._now, self._pause_s = client, folder, now, pause_s
        self._kept: dict[str, Upload] = {}

    def send(self, file: Path, digest: str, stop: threading.Event) -> str:
        """The token of ``file``, all of which is there. digest: its sha256, by which it is known again.

        Raises Rejected when Kaggle will not take it, Unreachable when nothing moves any more (what is there
        is carried on by the next call), Stopped when ``stop`` is set.
        """
        size = file.stat().st_size
        known = self._load(digest, size)
        upload = known or self._begin(file, digest, size)
        at: int | None = None if known else 0  # where to go on; None: ask
        most, fruitless, restarts = -1, 0, 0
        while True:
            if stop.is_set():
                raise Stopped
            status, there = self._ask(upload) if at is None else self._put(upload, file, at, stop)
            if status in (200, 201):
                return upload.token
            if status in (404, 410):
                self.forget(digest)
                restarts += 1
                if restarts > RESTARTS:
                    raise Unreachable("its addresses for an upload expire at once.", provider=NAME)
                upload, at, most = self._begin(file, digest, size), 0, -1
                continue
            if status == 308:
                at = _received(there)
                fruitless = 0 if at > most else fruitless + 1
                most = max(most, at)
            elif status in (0, 408, 429) or status >= 500:
                at, fruitless = None, fruitless + 1
                stop.wait(min(LONGEST_PAUSE_S, self._pause_s * 2**fruitless))
            else:
                raise Rejected(f"an upload of {size:,} bytes was refused: HTTP {status}.", provider=NAME)
            if fruitless >= FRUITLESS:
                raise Unreachable(
                    f"{max(0, most):,} of {size:,} bytes were uploaded, and no more come through; the next "
                    "try goes on from there.", provider=NAME,
                )  # fmt: skip

    def forget(self, digest: str) -> None:
        """It has become a part of a data set, or was given up."""
        self._kept.pop(digest, None)
        if self._folder is not None:
            self._file(digest).unlink(missing_ok=True)

    def _begin(self, file: Path, digest: str, size: int) -> Upload:
        def ask(sdk: Any) -> Any:
            from kagglesdk.blobs.types import blob_api_service as blobs

            request = blobs.ApiStartBlobUploadRequest()
            request.type = blobs.ApiBlobType.DATASET
            request.name, request.content_length = file.name, size
            request.last_modified_epoch_seconds = int(file.stat().st_mtime)
            return sdk.blobs.blob_api_client.start_blob_upload(request)

        answer, _ = self._client.call(ask)
        if not answer.token or not answer.create_url:
            raise Unreachable("Kaggle's answer to an upload says nothing.", provider=NAME)
        made = Upload(digest, size, answer.token, answer.create_url, self._now())
        self._keep(made)
        return made

    def _ask(self, upload: Upload) -> tuple[int, str]:
        return self._sent(upload, b"", {"Content-Range": f"bytes */{upload.size}"})

    def _put(self, upload: Upload, file: Path, at: int, stop: threading.Event) -> tuple[int, str]:
        """Send from byte ``at`` on. The whole needs no Content-Range (kaggle_api_extended.py:8690-8700)."""
        headers = {"Content-Range": f"bytes {at}-{upload.size - 1}/{upload.size}"} if at else {}
        with file.open("rb") as data:
            data.seek(at)
            return self._sent(upload, _Rest(data, upload.size - at, stop), headers)

    def _sent(self, upload: Upload, body: Any, headers: dict[str, str]) -> tuple[int, str]:
        """Status and Range; status 0 where no answer came, which the next question explains."""
        try:
            return self._client.put(upload.url, body, headers)
        except Unreachable:
            return 0, ""

    # What is under way, between processes ---------------------------------------------------------

    def _load(self, digest: str, size: int) -> Upload | None:
        found = self._kept.get(digest)
        if found is None and self._folder is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                found = Upload(**json.loads(self._file(digest).read_text()))
        whole = found is not None and (found.digest, found.size) == (digest, size)
        return found if whole and found and self._now() - found.started < TRUSTED_S else None

    def _keep(self, upload: Upload) -> None:
        if self._folder is None:
            self._kept[upload.digest] = upload
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        file = self._file(upload.digest)
        part = file.with_suffix(f".{os.getpid()}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(asdict(upload), out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)

    def _file(self, digest: str) -> Path:
        assert self._folder is not None
        whose = hashlib.sha256(self._account().encode()).hexdigest()[:8]
        return self._folder / f"{whose}-{digest[:32]}.json"

    def _account(self) -> str:
        try:
            return self._client.username()
        except ProviderError:
            return ""


class _Rest:
    """The rest of a file as a request's body, that ends when nobody wants it any more."""

    def __init__(self, data: IO[bytes], left: int, stop: threading.Event) -> None:
        self._data, self._left, self._stop = data, left, stop

    def __len__(self) -> int:
        return self._left

    def read(self, size: int = 1 << 16) -> bytes:
        if self._stop.is_set():
            raise Stopped
        return self._data.read(size if size and size > 0 else 1 << 16)

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(1 << 16):
            yield chunk


def _received(range_: str) -> int:
    """How many bytes are there, of "bytes=0-99"; without a Range none (kaggle_api_extended.py:8738-8755)."""
    found = re.fullmatch(r"\s*bytes=0-(\d{1,18})\s*", range_)
    return int(found[1]) + 1 if found else 0
