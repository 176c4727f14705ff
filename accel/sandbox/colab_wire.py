"""The wire protocols of Colab, on loopback. Guarantee: what is not imitated answers 501.

The official API: discovery documents colaboratory v1beta and v1, revision 20261104, as shipped by
google-api-python-client 2.202.0; v1beta has runtimes, runtimespecs and subscription, v1 the operations;
errors are google.rpc.Status in {"error": {code, message, status}}. Beside it what Google's command line
speaks (``sandbox.colab_tunnel``), which shows the same runtimes.

Google's token service is POST /token (google-auth 2.63.0, google/oauth2/_client.py:465-531). A machine ends
itself by POST $TBE_RUNTIME_ADDR/unassign (googlecolab/colabtools, google/colab/runtime.py).

Ours, because nobody publishes them: the words and ``reason`` of a refusal; that a runtime in the making is
not shown.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from accel.sandbox.colab_proxy import Proxy
from accel.sandbox.colab_runtimes import Runtimes, Vm
from accel.sandbox.colab_tunnel import PREFIX, Account, Tunnel, specs
from accel.sandbox.faults import Fault, FaultKind, FaultScript
from accel.sandbox.wire import LoopbackApp, Refused

MAX_BODY_BYTES = 1 << 20
CALLS = (
    ("POST", r"/v1beta/runtimes", "CreateRuntime"),
    ("GET", r"/v1beta/runtimes", "ListRuntimes"),
    ("GET", r"/v1beta/runtimes/[^/]+", "GetRuntime"),
    ("DELETE", r"/v1beta/runtimes/[^/]+", "DeleteRuntime"),
    ("GET", r"/v1beta/runtimespecs", "ListRuntimeSpecs"),
    ("GET", r"/v1beta/subscription", "GetSubscription"),
    ("GET", r"/v1/operations/[^/:]+", "GetOperation"),
    ("GET", r"/v1/operations/[^/:]+:wait", "WaitOperation"),
    ("POST", r"/token", "Token"),
    ("GET", r"/tun/m/assign", "GetAssignment"),
    ("POST", r"/tun/m/assign", "Assign"),
    ("GET", r"/tun/m/assignments", "ListAssignments"),
    ("GET", r"/tun/m/unassign/[^/]+", "GetUnassign"),
    ("POST", r"/tun/m/unassign/[^/]+", "Unassign"),
    ("GET", r"/tun/m/ccu-info", "CcuInfo"),
    ("POST", r"/_vm/[0-9a-f]+/unassign", "EndItself"),
)
_PATHS = [(method, re.compile(pattern), name) for method, pattern, name in CALLS]
STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
          409: "ABORTED", 429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}  # fmt: skip


@dataclass(slots=True)
class Order:
    """An operation. vm: what it makes. error: google.rpc.Status."""

    name: str
    runtime_id: str
    vm: Vm | None
    error: dict[str, Any] | None = None


class ColabApp(LoopbackApp):
    """The ASGI application. expires_s: real seconds that an access token lasts."""

    def __init__(
        self, make: Callable[[], Runtimes], account: Account, faults: FaultScript, *, address: str,
        expires_s: float = 3599.0,
    ) -> None:  # fmt: skip
        super().__init__(faults)
        self.account, self._make, self._address, self._expires_s = account, make, address, expires_s
        self._runtimes: Runtimes | None = None
        self._proxy: Proxy | None = None
        self.orders: dict[str, Order] = {}
        self._requests: dict[str, str] = {}  # request id → operation

    async def opened(self) -> None:
        """Begin with no runtime."""
        self._runtimes = self._make()
        self._runtimes.address = self._address
        self._proxy = Proxy(self._runtimes, self.faults, self.wire.append)
        await self._proxy.start()

    async def closed(self) -> None:
        """End every runtime."""
        await self.proxy.close()
        await self.runtimes.close()

    @property
    def runtimes(self) -> Runtimes:
        """Its runtimes."""
        assert self._runtimes is not None, "the server has not started"
        return self._runtimes

    @property
    def proxy(self) -> Proxy:
        """The way to them."""
        assert self._proxy is not None, "the server has not started"
        return self._proxy

    @property
    def tunnel(self) -> Tunnel:
        """The command line's wire."""
        return Tunnel(self.runtimes, self.account, self.proxy.address)

    def forget(self) -> None:
        """No operation and no request was ever made."""
        self.orders.clear()
        self._requests.clear()

    # --- dispatch

    def call_name(self, method: str, path: str) -> str:
        """See ``CALLS``."""
        return next((name for m, found, name in _PATHS if m == method and found.fullmatch(path)), "")

    def error(self, status: int, message: str) -> Response:
        told = {"code": status, "message": message, "status": STATUS.get(status, "UNKNOWN")}
        return JSONResponse({"error": told}, status)

    async def answer(self, request: Request, path: str, call: str, fault: Fault | None) -> Response:
        """Who asks, then the call."""
        if not call:
            known = path.startswith(("/v1", "/tun/"))
            raise Refused(501 if known else 404, f"not imitated: {request.method} {path}")
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, "the request is too large")
        if call == "Token":
            return self._token(parse_qs(body.decode("ascii", "replace")))
        if call == "EndItself":
            return await self._end_itself(path.split("/")[2])
        self._authenticate(request.headers.get("authorization", ""))
        if path.startswith("/tun/"):
            ticket = request.headers.get("x-goog-colab-token", "")
            told = await self.tunnel.answer(call, path, request.query_params, ticket, fault)
            return PlainTextResponse(PREFIX + json.dumps(told), media_type="application/json")
        return JSONResponse(await self._api(call, path, request.query_params, body, fault))

    def _authenticate(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        now = self.runtimes.now()
        for token, ends in self.account.tokens.items():
            same = hmac.compare_digest(given.encode(), token.encode())
            if scheme == "Bearer" and same and not self.account.revoked and (ends is None or now < ends):
                return
        raise Refused(401, "Request had invalid authentication credentials.")

    def _token(self, form: Mapping[str, list[str]]) -> Response:
        one = {k: v[0] for k, v in form.items()}
        account = self.account
        wanted = {"client_id": account.client_id, "client_secret": account.client_secret,
                  "refresh_token": account.refresh_token, "grant_type": "refresh_token"}  # fmt: skip
        if account.revoked or any(one.get(k) != v for k, v in wanted.items()):
            told = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
            return JSONResponse(told, 400)
        token = f"ya29.{secrets.token_hex(32)}"
        account.tokens[token] = self.runtimes.now() + self._expires_s
        lasts = round(self._expires_s)
        return JSONResponse({"access_token": token, "expires_in": lasts, "token_type": "Bearer"})

    async def _end_itself(self, secret: str) -> Response:
        vm = next((v for v in self.runtimes.all() if hmac.compare_digest(v.secret, secret)), None)
        if vm is None:
            raise Refused(404, "no such machine")
        self.runtimes.later(vm.id, 0.1)  # once it has its answer
        return PlainTextResponse("")

    # --- the API

    async def _api(
        self, call: str, path: str, asked: Mapping[str, str], body: bytes, fault: Fault | None
    ) -> dict[str, Any]:  # fmt: skip
        ident = path.rpartition("/")[2]
        match call:
            case "CreateRuntime":
                try:
                    spec = dict(json.loads(body)["runtimeSpec"])
                    version = str(json.loads(body).get("version", ""))
                except (ValueError, KeyError, TypeError):
                    raise Refused(400, "Runtime.runtime_spec is required.") from None
                return self._told(await self._create(asked, spec, version, fault))
            case "ListRuntimes":
                shown = [self._runtime(vm) for vm in self.runtimes.shown()]
                return {"runtimes": shown} if shown else {}
            case "GetRuntime":
                return self._runtime(self._known(ident))
            case "DeleteRuntime":
                if self.runtimes.get(ident) is None and asked.get("allowMissing") == "true":
                    return {}
                await self.runtimes.end(self._known(ident).id)
                return {}
            case "ListRuntimeSpecs":
                return {"runtimeSpecs": [{"key": k, "eligible": self.account.may_have(k)} for k in specs()]}
            case "GetSubscription":
                tier = self.account.tier or "UNSPECIFIED"
                return {"name": "subscription", "tier": f"SUBSCRIPTION_TIER_{tier}"}
            case _:  # GetOperation, WaitOperation: it answers what is so by now, as one that timed out does
                order = self.orders.get(f"operations/{ident.removesuffix(':wait')}")
                if order is None:
                    raise Refused(404, "there is no such operation")
                return self._told(order)

    async def _create(
        self, asked: Mapping[str, str], spec: dict[str, Any], version: str, fault: Fault | None
    ) -> Order:  # fmt: skip
        ident, request_id = asked.get("runtimeId", ""), asked.get("requestId", "")
        ident = ident or f"r{secrets.token_hex(8)}"
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", ident):
            raise Refused(400, "runtime_id must conform to RFC-1034.")
        if request_id and not _is_uuid4(request_id):
            raise Refused(400, "request_id must be in UUID4 format.")
        if request_id and (known := self._requests.get(request_id)):
            return self.orders[known]
        order = Order(f"operations/{uuid.uuid4()}", ident, None)
        if self.runtimes.ordered(ident) is not None:
            order.error = _status(6, "ALREADY_EXISTS", f"runtimes/{ident} already exists.")
        elif fault is not None and fault.kind is FaultKind.REFUSE_PUSH:
            order.error = _status(9, fault.text or "NO_CAPACITY", "The runtime was refused.")
        elif fault is not None and fault.kind is FaultKind.QUOTA_EXHAUSTED:
            order.error = _status(9, "USAGE_LIMIT_REACHED", "You have reached your usage limits.")
        elif spec not in specs() or not self.account.may_have(spec):
            order.error = _status(9, "NOT_ELIGIBLE", "You are not eligible for this runtime spec.")
        elif len(self.runtimes.all()) >= self.account.limit or (
            fault is not None and fault.kind is FaultKind.SESSION_COUNT
        ):
            order.error = _status(9, "TOO_MANY_RUNTIMES", "You have too many active runtimes.")
        else:
            cold = fault.seconds or None if fault and fault.kind is FaultKind.COLD_START else -1.0
            order.vm = await self.runtimes.make(ident, spec, version, cold_s=cold)
            if fault is not None and fault.kind is FaultKind.PREEMPT:
                wait = max(0.0, (order.vm.ready_at or 0.0) - self.runtimes.now())
                self.runtimes.later(ident, wait + fault.seconds / self.runtimes.time_scale)
        self.orders[order.name] = order
        if request_id and order.error is None:  # a refusal is no result to repeat
            self._requests[request_id] = order.name
        return order

    def _told(self, order: Order) -> dict[str, Any]:
        told: dict[str, Any] = {"name": order.name}
        if order.error is not None:
            return told | {"done": True, "error": order.error}
        assert order.vm is not None
        if not self.runtimes.made(order.vm):
            return told  # proto3's JSON leaves a false out
        made = {"@type": "type.googleapis.com/google.colaboratory.Runtime", **self._runtime(order.vm)}
        return told | {"done": True, "response": made}

    def _runtime(self, vm: Vm) -> dict[str, Any]:
        self.runtimes.fresh(vm)
        expires = datetime.fromtimestamp(vm.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        way = {"url": self.proxy.address(vm), "token": vm.token, "expireTime": expires}
        told = {"name": f"runtimes/{vm.id}", "runtimeSpec": vm.spec, "connectionInfo": way}
        return told | ({"version": vm.version} if vm.version else {})

    def _known(self, ident: str) -> Vm:
        vm = self.runtimes.get(ident)
        if vm is None:
            raise Refused(404, f"runtimes/{ident} was not found.")
        return vm



def _status(code: int, reason: str, words: str) -> dict[str, Any]:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason,
            "domain": "colaboratory.googleapis.com"}  # fmt: skip
    return {"code": code, "message": words, "details": [info]}


def _is_uuid4(text: str) -> bool:
    try:
        return uuid.UUID(text).version == 4
    except ValueError:
        return False
