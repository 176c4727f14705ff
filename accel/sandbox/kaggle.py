"""The wire protocol of Kaggle's kernels, on loopback. Guarantee: what is not imitated answers 501.

Evidence, unless a line says otherwise: kagglesdk 0.1.37 and kaggle 2.2.4 as installed (``khttp`` =
kagglesdk/kaggle_http_client.py, ``kk`` = kagglesdk/kernels/types/kernels_api_service.py, ``kx`` =
kaggle/api/kaggle_api_extended.py). Calls are ``POST {base}/v1/{service}/{Method}`` with JSON in
camelCase (khttp:109-119, 288-294); the base is the host on production and ``host/api`` elsewhere, so
both are served. An error is JSON with ``code`` and ``message`` (khttp:128-132). Durations travel as
"108000s", instants as "…Z" (kaggle_object.py:115-195).

What the calls answer is in ``sandbox.calls``; this file carries them: HTTP, credentials, faults.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from accel.sandbox.calls import Call, KernelCalls, Refused
from accel.sandbox.faults import Fault, FaultKind, FaultScript
from accel.sandbox.runner import Runner
from accel.sandbox.store import Session, Store

MAX_BODY_BYTES = 64 << 20
LOG_TICK_S = 0.1
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class WireRecord:
    """One request as it came in. Headers are not kept: a wire log holds no secret."""

    method: str
    path: str
    call: str
    status: int  # 0: the connection was closed without an answer
    fault: str


class KaggleApp:
    """The ASGI application.

    ``wire`` holds the last requests. deny_unknown: see ``KernelCalls``.
    """

    def __init__(
        self, store: Store, make_runner: Callable[[Store], Runner], faults: FaultScript,
        *, deny_unknown: bool = True,
    ) -> None:  # fmt: skip
        self.store, self.faults, self.deny_unknown = store, faults, deny_unknown
        self.wire: deque[WireRecord] = deque(maxlen=10_000)
        self._make_runner = make_runner
        self._calls: KernelCalls | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

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
        call = _call_name(path)
        fault = self.faults.take(call) if call else None
        response: Response | None
        try:
            response = await self._answer(request, path, call, fault)
        except Refused as refused:
            response = _error(refused.status, str(refused))
        except _Dropped:
            response = None
        if fault and fault.kind is FaultKind.LOST_ANSWER:
            response = None
        self.wire.append(
            WireRecord(request.method, path, call, response.status_code if response else 0,
                       str(fault.kind) if fault else "")
        )  # fmt: skip
        if response is None:
            await _abort(receive, send)
        else:
            await response(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._loop = asyncio.get_running_loop()
        runner = self._make_runner(self.store)
        runner.resume()
        self._calls = KernelCalls(self.store, runner, deny_unknown=self.deny_unknown)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await runner.close()
        await send({"type": "lifespan.shutdown.complete"})

    def reset(self) -> None:
        """Forget every kernel, charge, request and fault. To be called from another thread."""
        assert self._loop is not None, "the server has not started"

        async def forget() -> None:
            await self.calls.runner.close()
            self.store.clear()
            self.faults.set([])
            self.wire.clear()

        asyncio.run_coroutine_threadsafe(forget(), self._loop).result()

    @property
    def calls(self) -> KernelCalls:
        assert self._calls is not None, "the server has not started"
        return self._calls

    # --- dispatch

    async def _answer(
        self, request: Request, path: str, call: str, fault: Fault | None
    ) -> Response:
        if path.startswith("/_sandbox/"):
            return await self._control(request, path)
        if not call:
            raise Refused(404, f"the sandbox serves no {request.method} {path}")
        if fault is not None and (failed := await _before(fault, request.receive)) is not None:
            return failed
        base = "http://{}:{}".format(*request.scope["server"])
        if call == "Download":  # a plain GET without credentials: kx:6714
            return self._download(path, fault)
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, "the request is too large")
        if call != "IntrospectToken":  # this one carries the token that is to be checked
            self._authenticate(request.headers.get("authorization", ""))
        if call == "Logs":
            return self._logs(path)
        service = re.sub(r"^(?:/api)?/v1/", "", path)
        handler = self.calls.table.get(service)
        if handler is None:
            raise Refused(501, f"the sandbox does not imitate {service}")
        try:
            params = json.loads(body or b"{}")
        except ValueError:
            raise Refused(400, "the body is not JSON") from None
        if not isinstance(params, dict):
            raise Refused(400, "the body is not a JSON object")
        try:
            return JSONResponse(await handler(Call(params, base, fault)))
        except (ValueError, TypeError):  # a parameter of another type than the SDK sends
            raise Refused(400, "Bad Request") from None

    def _authenticate(self, header: str) -> None:
        """Basic user:key or Bearer token (khttp:255-286); raises Refused 401."""
        scheme, _, value = header.partition(" ")
        if scheme == "Bearer" and hmac.compare_digest(value.encode(), self.store.token.encode()):
            return
        expected = base64.b64encode(f"{self.store.username}:{self.store.key}".encode())
        if scheme == "Basic" and hmac.compare_digest(value.encode(), expected):
            return
        raise Refused(401, "Unauthorized")

    # --- plain GETs

    def _logs(self, path: str) -> Response:
        """kx:6868-6958: server-sent events while a session runs, the whole log as JSON afterwards."""
        owner, slug = path.rsplit("/", 2)[1:]
        session = self.calls.find(owner, slug)
        if not session.active:
            return JSONResponse(self.store.log(session))
        return StreamingResponse(self._follow(session), media_type="text/event-stream")

    async def _follow(self, session: Session) -> AsyncIterator[str]:
        sent = 0
        while True:
            active = session.active  # asked before reading: the last lines are not missed
            events = self.store.log(session)
            for event in events[sent:]:
                yield f"data: {json.dumps(event)}\n\n"
            sent = len(events)
            if not active:
                yield "data: END_OF_LOG\n\n"  # kx:6866
                return
            await asyncio.sleep(LOG_TICK_S)

    def _download(self, path: str, fault: Fault | None) -> Response:
        _, _, sign, slug, version, name = path.split("/", 5)
        name = unquote(name)
        if not hmac.compare_digest(sign.encode(), self.store.sign(slug, version, name).encode()):
            raise Refused(403, "the address is not signed")
        session = self.store.find(slug, version)
        kind = fault.kind if fault else None
        file = self.store.output(session, name) if session else None
        if file is None or kind is FaultKind.MISSING:
            raise Refused(404, "Not Found")
        data = file.read_bytes()
        if kind is FaultKind.CORRUPTED and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        headers = {"Content-Length": str(len(data))}
        if kind is FaultKind.TRUNCATED:
            data = data[: len(data) // 2]
        return _Raw(data, headers=headers, media_type="application/octet-stream")

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


class _Dropped(Exception):
    """The connection is to be closed without an answer."""


async def _before(fault: Fault, receive: Receive) -> Response | None:
    """What a fault does before its call is looked at: an answer, or None to go on with the call."""
    match fault.kind:
        case FaultKind.DELAY:
            await asyncio.sleep(fault.seconds)
        case FaultKind.HANG:
            await _gone(receive, fault.seconds or None)
            raise _Dropped
        case FaultKind.DROP:
            raise _Dropped
        case FaultKind.AUTH_REVOKED:
            raise Refused(401, "Unauthorized")
        case FaultKind.HTTP:
            response = _error(fault.status, fault.text or "fault script")
            if fault.seconds:
                response.headers["Retry-After"] = f"{fault.seconds:g}"
            return response
        case FaultKind.ODD_BODY:
            return Response(fault.text, media_type="application/json")
    return None


class _Raw(Response):
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
            await _abort(receive, send)


def _call_name(path: str) -> str:
    """The protocol's method a path stands for, as fault scripts name it; "" if it stands for none."""
    if path.startswith("/_files/"):
        return "Download" if path.count("/") >= 5 else ""
    if re.fullmatch(r"(/api)?/v1/kernels/logs/stream/[^/]+/[^/]+", path):
        return "Logs"
    found = re.fullmatch(r"(?:/api)?/v1/[\w.]+/(\w+)", path)
    return found[1] if found else ""


def _error(status: int, message: str) -> Response:
    return JSONResponse({"code": status, "message": message}, status_code=status)


async def _gone(receive: Receive, seconds: float | None) -> None:
    """Wait until the client has gone, or for ``seconds``."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(disconnected(), seconds)
    except TimeoutError:
        return


async def _abort(receive: Receive, send: Send) -> None:
    """Close the connection as a lost one is closed.

    ASGI has no word for this: uvicorn's ``send`` is a method of the object that holds the transport
    (uvicorn 0.54, protocols/http/h11_impl.py:455), and nothing else can reach it.
    """
    transport = send.__self__.transport  # type: ignore[attr-defined]
    transport.abort()
    await _gone(receive, 1.0)
