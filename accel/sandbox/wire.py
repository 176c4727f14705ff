"""The HTTP side of a loopback cloud. Guarantee: every request meets its fault, is answered once, is noted.

A cloud is a ``LoopbackApp``: it names the calls of its protocol and answers them; credentials, fault scripts,
lost connections and the log of the wire are the same for all of them and stand here.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from accel.sandbox.faults import Fault, FaultKind, FaultScript

LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEPT = 10_000  # requests in the log of the wire


class Refused(Exception):
    """An HTTP error answer: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Dropped(Exception):
    """The connection is to be closed without an answer."""


@dataclass(frozen=True, slots=True)
class WireRecord:
    """One request as it came in. Headers are not kept: a wire log holds no secret.

    status 0: the connection was closed without an answer. sent: bytes of its body, as announced.
    """

    method: str
    path: str
    call: str
    status: int
    fault: str
    sent: int = 0


class LoopbackApp(ABC):
    """An ASGI application. ``wire`` holds the last requests, oldest first."""

    def __init__(self, faults: FaultScript) -> None:
        self.faults = faults
        self.wire: deque[WireRecord] = deque(maxlen=KEPT)
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- what a cloud says of itself

    @abstractmethod
    def call_name(self, method: str, path: str) -> str:
        """The protocol's name of a call, as fault scripts have it; "" for what is none of its calls."""

    @abstractmethod
    async def answer(self, request: Request, path: str, call: str, fault: Fault | None) -> Response:
        """Answer one call. Raises Refused for an HTTP error, Dropped to close the connection.

        fault: one that the call has to bring about itself; those that come before it have struck already.
        """

    def error(self, status: int, message: str) -> Response:
        """The protocol's shape of an error."""
        return JSONResponse({"code": status, "message": message}, status_code=status)

    async def opened(self) -> None:  # noqa: B027 - most clouds have nothing to take up
        """The server's loop runs; the first request comes after this."""

    async def closed(self) -> None:  # noqa: B027
        """The server ends: everything that the cloud started must end with it."""

    # --- ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path = scope["path"]
        if path.startswith(("http://", "https://")):  # a client that takes us for its proxy
            path = urlsplit(path).path
            scope = {**scope, "path": unquote(path)}
        request = Request(scope, receive)
        call = self.call_name(request.method, path)
        fault = self.faults.take(call) if call else None
        response: Response | None
        try:
            if path.startswith("/_sandbox/"):
                response = await self._control(request, path)
            elif fault is not None and (failed := await self._before(fault, receive)) is not None:
                response = failed
            else:
                response = await self.answer(request, path, call, fault)
        except Refused as refused:
            response = self.error(refused.status, str(refused))
        except Dropped:
            response = None
        if fault and fault.kind is FaultKind.LOST_ANSWER:
            response = None
        announced = request.headers.get("content-length", "")
        self.wire.append(
            WireRecord(request.method, path, call, response.status_code if response else 0,
                       str(fault.kind) if fault else "", int(announced) if announced.isdigit() else 0)
        )  # fmt: skip
        if response is None:
            await abort(receive, send)
        else:
            await response(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._loop = asyncio.get_running_loop()
        await self.opened()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.closed()
        await send({"type": "lifespan.shutdown.complete"})

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's loop, for calls from other threads."""
        assert self._loop is not None, "the server has not started"
        return self._loop

    async def _before(self, fault: Fault, receive: Receive) -> Response | None:
        """What a fault does before its call is looked at: an answer, or None to go on with the call."""
        match fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(fault.seconds)
            case FaultKind.HANG:
                await gone(receive, fault.seconds or None)
                raise Dropped
            case FaultKind.DROP:
                raise Dropped
            case FaultKind.AUTH_REVOKED:
                raise Refused(401, "Unauthorized")
            case FaultKind.HTTP:
                response = self.error(fault.status, fault.text or "fault script")
                if fault.seconds:
                    response.headers["Retry-After"] = f"{fault.seconds:g}"
                return response
            case FaultKind.ODD_BODY:
                return Response(fault.text, media_type="application/json")
        return None

    async def _control(self, request: Request, path: str) -> Response:
        """The tests' own door: ``POST /_sandbox/faults`` and ``GET /_sandbox/wire``, loopback only.

        The host name is checked too, and JSON asked for, so that no web page can post here.
        """
        host = request.url.hostname or ""
        client = request.client.host if request.client else ""
        if client not in LOOPBACK or host not in LOOPBACK:
            raise Refused(403, "the control routes are for this machine only")
        if (request.method, path) == ("GET", "/_sandbox/wire"):
            records = [{k: getattr(r, k) for k in WireRecord.__slots__} for r in self.wire]
            return JSONResponse({"requests": records})
        if (request.method, path) != ("POST", "/_sandbox/faults"):
            raise Refused(404, f"the sandbox serves no {request.method} {path}")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise Refused(415, "a fault script is application/json")
        try:
            rules = await request.json()
            self.faults.set(rules)
        except (ValueError, TypeError, AttributeError) as bad:
            raise Refused(400, f"not a fault script: {bad}") from None
        return JSONResponse({"rules": len(rules)})


class Raw(Response):
    """A response that keeps the Content-Length it was given, even if the body is shorter."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {
            "type": "http.response.start", "status": self.status_code, "headers": self.raw_headers,
        }  # fmt: skip
        await send(start)
        whole = int(self.headers["content-length"]) == len(self.body)
        await send({"type": "http.response.body", "body": self.body, "more_body": not whole})
        if not whole:
            await asyncio.sleep(0.05)  # let the half leave before the connection closes
            await abort(receive, send)


async def gone(receive: Receive, seconds: float | None) -> None:
    """Wait until the client has gone, or for ``seconds``."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(disconnected(), seconds)
    except TimeoutError:
        return


async def abort(receive: Receive, send: Send) -> None:
    """Close the connection as a lost one is closed.

    ASGI has no word for this: uvicorn's ``send`` is a method of the object that holds the transport
    (uvicorn 0.54, protocols/http/h11_impl.py:455), and nothing else can reach it.
    """
    transport = send.__self__.transport  # type: ignore[attr-defined]
    transport.abort()
    await gone(receive, 1.0)
