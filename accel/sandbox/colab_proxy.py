"""The proxy in front of the runtimes. Guarantee: no byte reaches a Jupyter server without its runtime's
token.

Colab's runtimes are reached at an address of their own, with a proxy token that expires (discovery document
colaboratory v1beta, 20261104, ConnectionInfo). Here each connection carries one request: it is read up to the
end of its headers, meets its fault, is checked and noted, and is then passed on byte by byte, websockets too,
under the server's own token. The token is taken as header X-Colab-Runtime-Proxy-Token, as
``colab-runtime-proxy-token`` or ``token`` of the query, or as "Authorization: token …" or "Bearer …": all
ways in which Google's command line sends it (google-colab-cli 0.7.5, runtime.py:107-141, contents.py:36).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from accel.sandbox.colab_runtimes import Runtimes, Vm
from accel.sandbox.faults import Fault, FaultKind, FaultScript
from accel.sandbox.wire import WireRecord

MAX_HEAD = 64 << 10
REASONS = {401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests", 502: "Bad Gateway"}
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class Refusal(Exception):
    """An answer of the proxy's own."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(words)
        self.status, self.headers = status, headers


class Proxy:
    """Listens on a free port of loopback. note: where requests are written down."""

    def __init__(
        self, runtimes: Runtimes, faults: FaultScript, note: Callable[[WireRecord], None]
    ) -> None:
        self._runtimes, self._faults, self._note = runtimes, faults, note
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.url = ""

    async def start(self) -> None:
        """Listen; ``url`` is known then."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_HEAD)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, and drop what is open."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def address(self, vm: Vm) -> str:
        """Where a runtime is reached."""
        return f"{self.url}/{vm.id}"

    def _accept(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _connection(self, reader: Reader, writer: Writer) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head[:-4].split("\r\n")
            method, target, _ = line.split(" ", 2)
            headers = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in rest)}
            call = call_name(method, urlsplit(target).path)
            fault = self._faults.take(call)
            status = await self._answer(method, target, headers, fault, reader, writer)
            announced = headers.get("content-length", "")
            self._note(
                WireRecord(method, urlsplit(target).path, call, status, str(fault.kind) if fault else "",
                           int(announced) if announced.isdigit() else 0)
            )  # fmt: skip
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(
        self, method: str, target: str, headers: Mapping[str, str], fault: Fault | None, reader: Reader,
        writer: Writer,
    ) -> int:  # fmt: skip
        """Pass one request on, or refuse it; returns its status, 0 for a connection that was dropped."""
        try:
            if fault is not None and await self._strikes(fault, reader, writer):
                return 0
            vm, path = self._known(target, headers)
            if fault is not None and fault.kind is FaultKind.PREEMPT:
                self._runtimes.later(vm.id, fault.seconds / self._runtimes.time_scale)
            return await self._pass(vm, method, path, headers, fault, reader, writer)
        except Refusal as refused:
            body = json.dumps({"message": str(refused)}).encode()
            writer.write(_head(refused.status, len(body), refused.headers) + body)
            await writer.drain()
            return refused.status

    async def _strikes(self, fault: Fault, reader: Reader, writer: Writer) -> bool:
        """What a fault does before its request is looked at; True where that is all."""
        match fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(fault.seconds)
            case FaultKind.HANG:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_gone(reader), fault.seconds or None)
                return True
            case FaultKind.DROP:
                writer.transport.abort()
                return True
            case FaultKind.AUTH_REVOKED:
                raise Refusal(401, "Unauthorized")
            case FaultKind.HTTP:
                after = {"Retry-After": f"{fault.seconds:g}"} if fault.seconds else {}
                raise Refusal(fault.status, fault.text or "fault script", after)
            case FaultKind.MISSING:
                raise Refusal(404, "No such file or directory")
            case FaultKind.ODD_BODY:
                body = fault.text.encode()
                writer.write(_head(200, len(body), {}) + body)
                await writer.drain()
                return True
        return False

    def _known(self, target: str, headers: Mapping[str, str]) -> tuple[Vm, str]:
        """The runtime of a request and the path behind it. Raises Refusal."""
        parts = urlsplit(target)
        ident, _, rest = parts.path.lstrip("/").partition("/")
        vm = self._runtimes.get(unquote(ident))
        if vm is None:
            raise Refusal(404, "there is no such runtime")
        query = parse_qs(parts.query, keep_blank_values=True)
        given = [headers.get("x-colab-runtime-proxy-token", "")]
        given += [value for name in ("colab-runtime-proxy-token", "token") for value in query.pop(name, ())]
        given.append(headers.get("authorization", "").partition(" ")[2])
        if not any(t and hmac.compare_digest(t.encode(), vm.token.encode()) for t in given):
            raise Refusal(401, "the runtime proxy token is not this runtime's")
        if self._runtimes.now() > vm.expires_at:
            raise Refusal(401, "the runtime proxy token has expired")
        kept = "&".join(
            part for part in parts.query.split("&")
            if part.partition("=")[0] not in ("token", "colab-runtime-proxy-token")
        )  # fmt: skip
        return vm, f"/{rest}" + (f"?{kept}" if kept else "")

    async def _pass(
        self, vm: Vm, method: str, path: str, headers: Mapping[str, str], fault: Fault | None,
        reader: Reader, writer: Writer,
    ) -> int:  # fmt: skip
        there, back = await self._dial(vm)
        own = {"authorization", "x-colab-runtime-proxy-token", "host", "connection", "cookie", "origin"}
        upgrade = "upgrade" in headers
        sent = [f"{k}: {v}" for k, v in headers.items() if k not in own]
        sent += [f"Host: 127.0.0.1:{vm.port}", f"Authorization: token {vm.jupyter_token}",
                 f"Connection: {'Upgrade' if upgrade else 'close'}"]  # fmt: skip
        back.write("\r\n".join([f"{method} {path} HTTP/1.1", *sent, "", ""]).encode("latin-1"))
        up = asyncio.ensure_future(_pipe(reader, back))
        status = 0
        try:
            head = await there.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if fault is not None and fault.kind is FaultKind.LOST_ANSWER:
                await there.read()
                writer.transport.abort()
                return 0
            writer.write(head)
            if fault is not None and fault.kind in (FaultKind.TRUNCATED, FaultKind.CORRUPTED):
                await _spoiled(await there.read(), fault.kind, writer)
            else:
                await _pipe(there, writer)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            back.close()
        return status

    async def _dial(self, vm: Vm) -> tuple[Reader, Writer]:
        """A connection to a runtime's server, which may be starting."""
        try:
            if vm.up or await self._runtimes.listening(vm):
                return await asyncio.open_connection("127.0.0.1", vm.port, limit=MAX_HEAD)
        except OSError:
            pass
        raise Refusal(502, "the runtime does not answer")


def call_name(method: str, path: str) -> str:
    """The name of a request in fault scripts: Upload, Download (a job's part), State, Contents, Kernels,
    Channels, Runtime for anything else."""
    _, _, rest = path.lstrip("/").partition("/")
    if rest.startswith("api/contents"):
        if method in ("PUT", "POST", "PATCH"):
            return "Upload"
        if "/parts/" in rest:
            return "Download"
        return "State" if rest.endswith("/state.json") else "Contents"
    if rest.endswith("/channels"):
        return "Channels"
    return "Kernels" if rest.startswith("api/kernels") else "Runtime"


async def _pipe(source: Reader, target: Writer) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()


async def _gone(reader: Reader) -> None:
    while await reader.read(1 << 16):
        pass


async def _spoiled(body: bytes, kind: FaultKind, writer: Writer) -> None:
    """Half of the body, or all of it with one base64 digit of its content changed."""
    if kind is FaultKind.CORRUPTED:
        at = body.find(b'"content": "') + len(b'"content": "')
        body = body[:at] + (b"B" if body[at : at + 1] == b"A" else b"A") + body[at + 1 :]
    else:
        body = body[: len(body) // 2]
    writer.write(body)
    await writer.drain()
    if kind is FaultKind.TRUNCATED:
        await asyncio.sleep(0.05)  # let the half leave before the connection closes
        writer.transport.abort()


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Answer')}", "Content-Type: application/json",
        f"Content-Length: {length}", "Connection: close", *(f"{k}: {v}" for k, v in headers.items()),
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
