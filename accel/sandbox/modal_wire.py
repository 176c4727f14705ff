"""Modal's wire on loopback: gRPC by its own generated stubs, and HTTP for blobs. Guarantee: see ``wire``.

gRPC: ``grpclib``, which modal 1.6.4 requires, serves the table of ``modal_proto.api_grpc``; what is not
imitated answers UNIMPLEMENTED. A client signs in with ``x-modal-token-id`` and ``-secret`` (modal/client.py:
71-78), a container with the id and secret it was started with. Faults strike clients only.

What faults become here: an HTTP status is the gRPC code beside it in ``CODES``, Retry-After the
``RPCRetryPolicy`` that the SDK obeys (modal/_utils/grpc_utils.py:594-645); a lost connection is a stream
that is reset; ``odd_body`` sends the bytes of its text (Latin-1) in place of the message.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from accel.sandbox import modal_journal as journal
from accel.sandbox.faults import Fault, FaultKind, FaultScript
from accel.sandbox.modal_billing import Container
from accel.sandbox.modal_calls import BLOCK
from accel.sandbox.modal_containers import Containers
from accel.sandbox.modal_invocations import ContainerCalls
from accel.sandbox.modal_state import State, protocol
from accel.sandbox.wire import KEPT, LoopbackApp, Raw, Refused, WireRecord

# HTTP status → gRPC code (grpc.io, "Status codes", 2026; modal/_grpc_client.py:27-44 for the SDK's classes).
CODES = {
    400: 3, 401: 16, 402: 7, 403: 7, 404: 5, 409: 6, 412: 9, 429: 8,
    500: 13, 501: 12, 502: 14, 503: 14, 504: 4,
}  # fmt: skip
MAX_BYTES = 1 << 30
# Beside their own: what a container may call of what clients call, to read volumes and send blobs.
SHARED = ("BlobCreate", "BlobGet", "VolumeGetOrCreate", "VolumeGetFile2", "VolumeCommit", "ClientHello",
          "EnvironmentGetOrCreate")  # fmt: skip
# What changes nothing, and comes often.
READING = (
    "FunctionGetInputs", "ContainerHeartbeat", "FunctionGetOutputs", "FunctionGet", "AppList", "TaskList",
    "FunctionCallFetch", "AppHeartbeat", "MountBatchedCheckExistence",
)  # fmt: skip
OWN = ("ContainerHello", "ContainerHeartbeat", "FunctionGetInputs", "FunctionPutOutputs", "TaskResult")


class ModalApp(LoopbackApp):
    """The HTTP side, and whose loop the gRPC side runs on. token: (id, secret) of the one account. kept: its
    state is written down."""

    def __init__(
        self, state: State, containers: Containers, faults: FaultScript, *, token: tuple[str, str],
        interval_s: float, port: int, kept: bool,
    ) -> None:  # fmt: skip
        super().__init__(faults)
        self.state, self.containers, self.token, self._port = state, containers, token, port
        self.calls = ContainerCalls(state, containers, interval_s=interval_s)
        self._kept = kept
        self.inner: deque[str] = deque(maxlen=KEPT)  # calls of containers
        self.port = 0
        self._server: Any = None

    async def opened(self) -> None:
        """Serve gRPC, too."""
        from grpclib.server import Server
        from modal._utils.grpc_utils import custom_detail_codec

        self._server = Server([Service(self)], codec=_codec(), status_details_codec=custom_detail_codec)
        await self._server.start("127.0.0.1", self._port)
        self.port = self._server._server.sockets[0].getsockname()[1]
        self.containers.url = f"http://127.0.0.1:{self.port}"
        self.containers.changed = self.save
        if self._kept:
            journal.load(self.state, self.containers.all)
            for function in self.state.functions.values():
                if function.definition is not None and not self.state.apps[function.app_id].stopped_at:
                    self.containers.scale(function)

    async def closed(self) -> None:
        """Kill every container, then stop listening."""
        await self.containers.close()
        self.save()
        self._server.close()
        await self._server.wait_closed()

    def save(self) -> None:
        """Write down what has changed."""
        if self._kept:
            journal.save(self.state, self.containers.all, self.token)

    def run(self, make: Callable[[], Any]) -> Any:
        """``make()`` on the server's loop, for calls from other threads; awaited if need be."""

        async def there() -> Any:
            made = make()
            return await made if inspect.isawaitable(made) else made

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result()

    # --- HTTP

    def call_name(self, method: str, path: str) -> str:
        """ "Upload" and "Download": blobs and blocks of volumes. Fault scripts name them so."""
        if path.startswith(("/blob/", "/content/")):
            return {"PUT": "Upload", "GET": "Download"}.get(method, "")
        return ""

    async def answer(self, request: Request, path: str, call: str, fault: Fault | None) -> Response:
        """The address is the permission, as a signed one is."""
        parts = path.strip("/").split("/")
        if call == "Upload" and parts[0] == "blob" and parts[-1] in self.state.blobs:
            data = await request.body()
            if len(data) > MAX_BYTES:
                raise Refused(413, "too large")
            self.state.blobs[parts[-1]] = self.state.put(data)
            # modal/_utils/blob_utils.py:140-148 compares the ETag to its own md5
            return Response(headers={"ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'})
        if call != "Download":
            raise Refused(404, f"the sandbox serves no {request.method} {path}")
        if parts[0] == "blob":
            data = self.calls.blob(parts[-1])
        else:
            data = self.state.content(parts[1]).read_bytes()[int(parts[2]) * BLOCK :][:BLOCK]
        kind = fault.kind if fault else None
        if kind is FaultKind.MISSING:
            raise Refused(404, "Not Found")
        headers = {"Content-Length": str(len(data))}
        if kind is FaultKind.CORRUPTED:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if kind is FaultKind.TRUNCATED:
            data = data[: len(data) // 2]
        return Raw(data, headers=headers, media_type="application/octet-stream")


class Service:
    """The gRPC service: every method of the protocol's table, answered by ``ModalApp.calls``."""

    def __init__(self, app: ModalApp) -> None:
        self._app = app

    def __mapping__(self) -> dict[str, Any]:
        """What grpclib asks a service for."""
        from grpclib.const import Handler
        from modal_proto.api_grpc import ModalClientBase

        def bound(name: str) -> Callable[[Any], Any]:
            return lambda stream: self._serve(name, stream)

        table: dict[str, Any] = ModalClientBase.__mapping__(_Names())  # type: ignore[arg-type]
        return {
            path: Handler(bound(path.rsplit("/", 1)[1]), h.cardinality, h.request_type, h.reply_type)
            for path, h in table.items()
        }

    async def _serve(self, name: str, stream: Any) -> None:
        from grpclib import GRPCError, Status

        request = await stream.recv_message()
        container = self._container(stream.metadata or {})
        fault = self._app.faults.take(name) if container is None else None
        answers: list[Any] = []
        status, words = 200, ""
        try:
            if fault is not None:
                await self._strike(fault)
            if fault is not None and fault.kind is FaultKind.ODD_BODY:
                answers = [_Odd(fault.text)]
            else:
                answers = await self._answers(name, request, container, stream.metadata or {})
            if fault is not None and fault.kind is FaultKind.CORRUPTED:
                answers = [_corrupted(a) for a in answers]
            if fault is not None and fault.kind is FaultKind.LOST_ANSWER:
                status = 0
        except _Reset:
            status = 0
        except Refused as refused:
            status, words = refused.status, str(refused)
        except asyncio.CancelledError:  # the client has gone
            self._note(name, request, container, 0, fault)
            raise
        if name not in READING:
            self._app.save()
        self._note(name, request, container, status, fault)  # before the answer: who has it, finds this
        if status == 0:
            await stream.cancel()
        elif status != 200:
            details = _retry_policy(fault.seconds) if fault and fault.seconds and status == 429 else None
            raise GRPCError(Status(CODES.get(status, 14)), words, details)
        else:
            for answer in answers:
                await stream.send_message(answer)

    def _note(
        self, name: str, request: Any, container: Container | None, status: int, fault: Fault | None
    ) -> None:
        if container is not None:
            self._app.inner.append(name)
            return
        struck = str(fault.kind) if fault else ""
        self._app.wire.append(WireRecord("gRPC", f"/{name}", name, status, struck, request.ByteSize()))

    async def _answers(
        self, name: str, request: Any, container: Container | None, metadata: Any
    ) -> list[Any]:
        from google.protobuf.empty_pb2 import Empty

        method = getattr(self._app.calls, name, None)
        allowed = name not in OWN if container is None else name in (*OWN, *SHARED)
        if container is None:
            self._authenticate(metadata)
        if method is None or not allowed:
            raise Refused(501, f"the sandbox does not imitate {name}")
        answer = method(request, container) if name in OWN else method(request)
        if inspect.isgenerator(answer):
            return list(answer)
        if inspect.isawaitable(answer):
            answer = await answer
        return [Empty() if answer is None else answer]

    async def _strike(self, fault: Fault) -> None:
        """What a fault does before its call is looked at. Raises _Reset or Refused."""
        match fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(fault.seconds)
            case FaultKind.HANG:
                await asyncio.sleep(fault.seconds or 3600.0)  # cancelled when the client goes
                raise _Reset
            case FaultKind.DROP:
                raise _Reset
            case FaultKind.AUTH_REVOKED:
                raise Refused(401, "Token is not valid")
            case FaultKind.HTTP:
                raise Refused(fault.status, fault.text or "fault script")
            case _:
                return

    def _container(self, metadata: Any) -> Container | None:
        known = self._app.containers.all.get(str(metadata.get("x-task-id", "")))
        secret = str(metadata.get("x-task-secret", ""))
        return known if known is not None and hmac.compare_digest(known.secret, secret) else None

    def _authenticate(self, metadata: Any) -> None:
        given = (str(metadata.get("x-modal-token-id", "")), str(metadata.get("x-modal-token-secret", "")))
        pairs = zip(given, self._app.token, strict=True)
        if not all(hmac.compare_digest(a.encode(), b.encode()) for a, b in pairs):
            raise Refused(401, "Token is not valid")


class _Reset(Exception):
    """The stream is to be reset without an answer."""


class _Odd:
    """Bytes that go out in place of a message."""

    def __init__(self, text: str) -> None:
        self.data = text.encode("latin-1")


def _codec() -> Any:
    """grpclib's own, which also lets ``_Odd`` through."""
    from grpclib.encoding.proto import ProtoCodec

    class Codec(ProtoCodec):
        def encode(self, message: Any, message_type: Any) -> bytes:
            return message.data if isinstance(message, _Odd) else super().encode(message, message_type)

    return Codec()


class _Names:
    """Has every attribute: the protocol's table asks its service for all 285 methods."""

    def __getattr__(self, name: str) -> None:
        return None


def _retry_policy(seconds: float) -> list[Any]:
    return [protocol().RPCRetryPolicy(retry_after_secs=seconds)]


def _corrupted(answer: Any) -> Any:
    """One bit of the first output's data flipped."""
    for output in getattr(answer, "outputs", ()):
        if data := output.result.data:
            middle = len(data) // 2
            output.result.data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return answer
