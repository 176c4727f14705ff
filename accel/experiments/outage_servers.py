"""An embeddings server that dies and comes back on command. Guarantee: what reached it is on its list.

OpenAI-shaped ``POST /v1/embeddings`` on 127.0.0.1, spoken over plain sockets, because a framework can
neither refuse connections on a port that it keeps, nor take a request and never answer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from accel.experiments.outage_contestant import vector_of


class Mode(StrEnum):
    """How a dead server is dead; ``WELL`` is not."""

    WELL = "well"
    REFUSED = "refused"  # nobody listens: the process is gone
    HANG = "hang"        # requests are taken and never answered
    ERRORS = "errors"    # every request is answered 503 at once


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that was read whole. at: monotonic seconds. status: as answered, 0 for never."""

    at: float
    text: str
    status: int


class Endpoint:
    """One server, for as long as its ``async with`` lasts.

    latency_s: of a good answer. seen: every request read, in order. accepted: monotonic seconds of every
    connection taken. url: its base URL, ending in /v1.
    """

    def __init__(self, name: str, latency_s: float) -> None:
        self.name, self.latency_s = name, latency_s
        self.mode = Mode.WELL
        self.seen: list[Seen] = []
        self.accepted: list[float] = []
        self.port = 0
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Endpoint:
        # Bound, and never listening: it keeps the port while the server is gone. Without it another
        # process could be given the port, and a client that connects to its own port would meet itself.
        self._holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port = self._holder.getsockname()[1]
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
        if self._holder:
            self._holder.close()

    async def become(self, mode: Mode) -> None:
        """Die in one way, or be well again. What hung before goes on hanging."""
        before, self.mode = self.mode, mode
        if mode is Mode.REFUSED:
            await self._stop()
        elif before is Mode.REFUSED:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, reuse_address=True
        )

    async def _stop(self) -> None:
        """Take no more connections and cut those that are open, as the end of a process does."""
        if self._server:
            self._server.close()
            self._server = None
        for writer in tuple(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        self._open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client, or this server, hung up
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; True when another may follow on this connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next((x for x in head.split("\r\n") if x.startswith("content-length:")), ":0")
        asked = json.loads(await reader.readexactly(int(length.split(":")[1])) or b"{}")
        texts = [asked["input"]] if isinstance(asked.get("input"), str) else list(asked["input"])
        at, mode = time.monotonic(), self.mode
        status = {Mode.WELL: 200, Mode.ERRORS: 503}.get(mode, 0)
        self.seen.append(Seen(at, texts[0], status))
        if mode is Mode.HANG:
            await reader.read()  # until the client gives up
            return False
        if status == 200:
            await asyncio.sleep(self.latency_s)
        writer.write(_response(status, self._body(status, texts, str(asked.get("model", "")))))
        await writer.drain()
        return "connection: close" not in head

    def _body(self, status: int, texts: list[str], model: str) -> dict[str, object]:
        if status != 200:
            return {"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}}
        data = [{"object": "embedding", "index": i, "embedding": vector_of(t)} for i, t in enumerate(texts)]
        tokens = sum(len(t.split()) for t in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": model, "data": data, "usage": usage}


def _response(status: int, body: dict[str, object]) -> bytes:
    told, words = json.dumps(body).encode(), {200: "OK", 503: "Service Unavailable"}[status]
    kind = f"Content-Type: application/json\r\nContent-Length: {len(told)}"
    return f"HTTP/1.1 {status} {words}\r\n{kind}\r\n\r\n".encode() + told
