"""The wire protocol of Kaggle's kernels, on loopback. Guarantee: what is not imitated answers 501.

Evidence, unless a line says otherwise: kagglesdk 0.1.37 and kaggle 2.2.4 as installed (``khttp`` =
kagglesdk/kaggle_http_client.py, ``kk`` = kagglesdk/kernels/types/kernels_api_service.py, ``kx`` =
kaggle/api/kaggle_api_extended.py). Calls are ``POST {base}/v1/{service}/{Method}`` with JSON in
camelCase (khttp:109-119, 288-294); the base is the host on production and ``host/api`` elsewhere, so
both are served. An error is JSON with ``code`` and ``message`` (khttp:128-132). Durations travel as
"108000s", instants as "…Z" (kaggle_object.py:115-195).

What the calls answer is in ``sandbox.calls`` (kernels, quota) and ``sandbox.kaggle_datasets``, what becomes
of uploads in ``sandbox.kaggle_blobs``; this file carries them: HTTP, credentials, faults.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from accel.sandbox.calls import KernelCalls
from accel.sandbox.faults import Fault, FaultKind, FaultScript
from accel.sandbox.kaggle_blobs import Blobs
from accel.sandbox.kaggle_datasets import Call, Datasets
from accel.sandbox.runner import Runner
from accel.sandbox.store import Session, Store
from accel.sandbox.wire import LoopbackApp, Raw, Refused

MAX_BODY_BYTES = 64 << 20
LOG_TICK_S = 0.1


class KaggleApp(LoopbackApp):
    """The ASGI application. deny_unknown: see ``KernelCalls``."""

    def __init__(
        self, store: Store, make_runner: Callable[[Store], Runner], blobs: Blobs, datasets: Datasets,
        faults: FaultScript, *, deny_unknown: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(faults)
        self.blobs, self.datasets = blobs, datasets
        self.store, self.deny_unknown = store, deny_unknown
        self._make_runner = make_runner
        self._calls: KernelCalls | None = None

    async def opened(self) -> None:
        """Take up what an earlier sandbox on this folder left."""
        runner = self._make_runner(self.store)
        runner.resume()
        self._calls = KernelCalls(self.store, runner, self.datasets, deny_unknown=self.deny_unknown)

    async def closed(self) -> None:
        """Kill every running session."""
        await self.calls.runner.close()

    def reset(self) -> None:
        """Forget every kernel, charge, request and fault. To be called from another thread."""

        async def forget() -> None:
            await self.calls.runner.close()
            self.store.clear()
            self.datasets.clear()
            self.faults.set([])
            self.wire.clear()

        asyncio.run_coroutine_threadsafe(forget(), self.loop).result()

    @property
    def calls(self) -> KernelCalls:
        assert self._calls is not None, "the server has not started"
        return self._calls

    # --- dispatch

    def call_name(self, method: str, path: str) -> str:
        """The method of the service; "Download", "Logs" and "PutBlob" for what is none."""
        if path.startswith("/_files/"):
            return "Download" if path.count("/") >= 5 else ""
        if path.startswith("/_blobs/"):
            return "PutBlob" if method == "PUT" else ""
        if re.fullmatch(r"(/api)?/v1/kernels/logs/stream/[^/]+/[^/]+", path):
            return "Logs"
        found = re.fullmatch(r"(?:/api)?/v1/[\w.]+/(\w+)", path)
        return found[1] if found else ""

    async def answer(self, request: Request, path: str, call: str, fault: Fault | None) -> Response:
        """Credentials first, then the call."""
        if not call:
            raise Refused(404, f"the sandbox serves no {request.method} {path}")
        base = "http://{}:{}".format(*request.scope["server"])
        if call == "Download":  # a plain GET without credentials: kx:6714
            return self._download(path, fault)
        if call == "PutBlob":  # without credentials, too: kx:8690-8703
            return await self.blobs.put(path.removeprefix("/_blobs/"), request, fault)
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
        return Raw(data, headers=headers, media_type="application/octet-stream")
