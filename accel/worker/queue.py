"""What a queue's worker does with a job. Guarantee: it answers, says what it lacks, or refuses with a class.

A queue's caller cannot choose the worker, so that a job brings what the worker may lack: an index travels in
the job that needs it first, file by file, each checked by its sha256, and is attached when it opens under its
id. JSON all through, bytes as base64: what goes through a queue is text.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accel import environment
from accel.wire import Envelope
from accel.worker.blobs import Blobs
from accel.worker.door import Refused
from accel.worker.engine import Worker
from accel.worker.server import refusal

# A result of a queue: runpod 2.0.0rc2, serverless/modules/rp_tips.py:12-24, says that 20 MB is too much.
MAX_ANSWER = 18 << 20


class Queue:
    """One worker's stages. folder: where what is sent is kept."""

    def __init__(self, folder: Path | None = None, device: str = "") -> None:
        self.worker = Worker(device or ("cuda" if environment.gpu().capability else "cpu"))
        self._blobs = Blobs((folder or Path(tempfile.mkdtemp(prefix="accel-queue-"))) / "blobs")

    def answer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """{"envelope"}, {"need": ["index:ID"]}, or {"refused": {"error", "message"}}; and what is resident.

        given: "envelope", and perhaps "index": {"id", "meta", "files": {sha256: bytes}}.
        """
        try:
            request = Envelope.from_bytes(_bytes(given, "envelope"))
            if (index := given.get("index")) is not None:
                self._attach(index)
            wanted = str(request.meta.get("index", ""))
            if wanted and wanted not in self.worker.resident():
                return self._told(need=[f"index:{wanted}"])
            data = self.worker.handle(request).to_bytes()
            if len(data) > MAX_ANSWER:
                raise Refused(413, "Rejected", f"{len(data):,} bytes do not go through a queue")
            return self._told(envelope=base64.b64encode(data).decode())
        except Exception as error:
            refused = refusal(error)
            return self._told(refused={"error": refused.error, "message": str(refused)})

    def _attach(self, index: Mapping[str, Any]) -> None:
        ident = str(index["id"])
        if ident in self.worker.resident():
            return
        for name, text in dict(index["files"]).items():
            data = base64.b64decode(text)
            self._blobs.put(str(name), self._blobs.have(str(name)), len(data),
                            [data[self._blobs.have(str(name)):]])  # fmt: skip
        self.worker.attach(self._blobs.index(ident, _bytes(index, "meta")))

    def _told(self, **said: Any) -> dict[str, Any]:
        return {**said, "resident": sorted(self.worker.resident())}


def _bytes(given: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(given[name], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise Refused(400, "Rejected", f"the job holds no {name}") from None
