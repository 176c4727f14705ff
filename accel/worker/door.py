"""HTTP for strangers. Guarantee: no request holds a thread past its deadline, or memory past its limit.

The token comes first: nothing of a stranger's body is read. Every read has a deadline for the whole of what
is waited for, so that a sender of one byte a second gains nothing; bodies are read up to a limit, in pieces;
a body whose length is unclear (two lengths, a length and chunks) is refused, because a proxy before us may
have read it another way. Errors are JSON: {"error": a class of ``core.errors``, "message": one line}.
"""

from __future__ import annotations

import contextlib
import http
import http.server
import io
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, MutableMapping
from email.message import Message
from typing import Any

from accel.worker.boot import Listener

HEAD_S = 15.0  # to say what one wants: a slow loris gets no more
KEEP_S = 75.0  # between two requests of one connection; above our client's 30 s, so that it closes first
# For one request. RunPod's proxy cuts at 100 s (docs.runpod.io "expose ports", 2026-08-20).
REQUEST_S = 95.0
CONNECTIONS = 128
CHUNK = 1 << 16
LINGER_S = 2.0


class Refused(Exception):
    """A request that is answered with an error. status: HTTP. error: a class name of ``core.errors``."""

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        self.status, self.error, self.headers = status, error, headers
        super().__init__(" ".join(message.split())[:300])


def framing(headers: Message) -> int | None:
    """The length of a request's body; None for chunks. Raises Refused where two readers could differ."""
    lengths = headers.get_all("Content-Length") or []
    coded = headers.get_all("Transfer-Encoding") or []
    if coded:
        if lengths or len(coded) > 1 or coded[0].strip().lower() != "chunked":
            raise Refused(400, "Rejected", "the length of the body is unclear")
        return None
    if len(lengths) > 1 or (lengths and not re.fullmatch("[0-9]{1,18}", lengths[0])):
        raise Refused(400, "Rejected", "the length of the body is unclear")
    return int(lengths[0]) if lengths else 0


class Body:
    """A request's body, read once. length: None for chunks (RFC 9112 §7.1)."""

    def __init__(self, file: io.BufferedIOBase, length: int | None) -> None:
        self._file, self.length = file, length
        self._left = length or 0
        self.done = length == 0

    def pieces(self, limit: int) -> Iterator[bytes]:
        """What comes, in pieces of at most ``CHUNK``. Raises Refused above ``limit`` bytes, before or as
        soon as they come; ConnectionError when the sender goes away in the middle."""
        if self._left > limit:
            raise Refused(413, "Rejected", f"at most {limit:,} bytes may come")
        total = 0
        while True:
            if self.length is None and not self._left:
                self._left = self._next_chunk()
            if not self._left:
                self.done = True
                return
            data = self._file.read(min(self._left, CHUNK))
            if not data:
                raise ConnectionError("the sender went away")
            self._left -= len(data)
            total += len(data)
            if total > limit:
                raise Refused(413, "Rejected", f"at most {limit:,} bytes may come")
            if self.length is None and not self._left and self._line() != b"":
                raise Refused(400, "Rejected", "a chunk is longer than it said")
            yield data

    def read(self, limit: int) -> bytes:
        """All of it; see ``pieces``."""
        return b"".join(self.pieces(limit))

    def _next_chunk(self) -> int:
        size = self._line().partition(b";")[0].strip()
        if not re.fullmatch(b"[0-9a-fA-F]{1,8}", size):
            raise Refused(400, "Rejected", "a chunk without its size")
        left = int(size, 16)
        for _ in range(32 if not left else 0):  # trailers, which nobody reads
            if self._line() == b"":
                return 0
        if not left:
            raise Refused(400, "Rejected", "too many trailers")
        return left

    def _line(self) -> bytes:
        line = self._file.readline(1024)
        if not line.endswith(b"\n"):
            if len(line) == 1024:
                raise Refused(400, "Rejected", "too long a line")
            raise ConnectionError("the sender went away")
        return line.rstrip(b"\r\n")


class Timed(io.RawIOBase):
    """What a socket sends, read until an instant (``time.monotonic``) at the latest."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self.until = sock, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._sock.recv_into(into)


class House(Listener):
    """At most ``CONNECTIONS`` connections at once; who comes beyond is not let in."""

    def __init__(self, env: MutableMapping[str, str], door: type[Door]) -> None:
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(env, door)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off, or never speaks TLS, is no news."""


class Door(http.server.BaseHTTPRequestHandler):
    """One connection of a ``House``. A subclass answers."""

    protocol_version = "HTTP/1.1"
    server: House
    head_s, keep_s, request_s = HEAD_S, KEEP_S, REQUEST_S

    def answer(self, method: str, path: str, query: dict[str, str], body: Body) -> None:
        """Answer one request of one who knows the token, by ``reply`` or by raising Refused."""
        raise NotImplementedError

    def setup(self) -> None:
        self.request.settimeout(self.head_s)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()
        with contextlib.suppress(OSError):
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timed = Timed(self.request)
        self.rfile = self._reader = io.BufferedReader(self._timed, CHUNK)
        self._served, self._body = 0, Body(self.rfile, 0)

    def handle_one_request(self) -> None:
        self.close_connection = True
        wait_s = self.keep_s if self._served else self.head_s
        self._timed.until = time.monotonic() + wait_s
        self._served += 1
        try:
            if self._reader.peek(1):
                self._timed.until = time.monotonic() + self.head_s
                super().handle_one_request()
        except OSError:  # gone, or too slow
            self.close_connection = True

    def _one(self) -> None:
        self._timed.until = time.monotonic() + self.request_s
        # left as unread until it is told how long it is: then nothing is taken for the next request
        self._body = Body(self.rfile, None)
        try:
            if not self.server.knows(self.headers):
                raise Refused(401, "Unauthorised", "the token of this lease is asked for")
            self._body = Body(self.rfile, framing(self.headers))
            path, _, query = self.path.partition("?")
            pairs = (p.partition("=") for p in query.split("&") if p)
            self.answer(self.command, path, {k: v for k, _, v in pairs}, self._body)
        except Refused as refused:
            told = {"error": refused.error, "message": str(refused)}
            self.reply(refused.status, told, **refused.headers)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _one

    def reply(
        self, status: int, data: bytes | dict[str, Any], kind: str = "application/json", **headers: str
    ) -> None:
        """Answer with bytes, or with JSON."""
        sent = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(sent)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if not self._body.done:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.request.settimeout(self.request_s)
        if self.command != "HEAD":
            self.wfile.write(sent)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._body = Body(self.rfile, None)
        self.reply(code, {"error": "Rejected", "message": http.HTTPStatus(code).phrase})

    def finish(self) -> None:
        """Hear out, for a moment, who still sends: a door slammed would lose him the answer."""
        with contextlib.suppress(OSError, ValueError):
            super().finish()
            if not self._body.done:
                if not isinstance(self.request, ssl.SSLSocket):
                    self.request.shutdown(socket.SHUT_WR)
                self._timed.until = time.monotonic() + LINGER_S
                while self._timed.readinto(bytearray(CHUNK)):
                    pass

    def version_string(self) -> str:
        return "accel"

    def log_message(self, *args: Any) -> None:
        """Nothing: paths hold ids, and the metrics count."""
