"""RunPod's protocols on loopback, carried. Guarantee: what is not imitated answers 501, unknown paths 404.

Under one address: the control plane (``/v2``, ``/graphql``; https://api.runpod.io), the data plane of
serverless with the workers' side of it (``/ai/v2``; https://api.runpod.ai/v2), and the proxy to the HTTP
ports of pods (``/proxy/POD-PORT/…``; https://POD-PORT.proxy.runpod.net). They are told apart by their prefix,
because both planes have paths under /v2.

Evidence: ``runpod_account`` for REST v2; docs serverless/endpoints/*.mdx, pods/configuration/
expose-ports.mdx (proxy: 100 s, then 524) and pods/troubleshooting/troubleshooting-502-errors.mdx of commit
a900806, 2026-08-20.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from accel.sandbox.faults import Fault, FaultKind, FaultScript
from accel.sandbox.machines import GONE, RUNNING
from accel.sandbox.runpod_account import Account
from accel.sandbox.runpod_graphql import GraphQL
from accel.sandbox.runpod_queue import MOST_WAIT_MS, WAIT_MS, Queues
from accel.sandbox.runpod_rest import (
    act,
    create_template,
    gpu,
    gpus,
    meet,
    pod,
    pod_billing,
    serverless_billing,
)
from accel.sandbox.wire import LoopbackApp, Raw, Refused

# The largest bodies: docs serverless/endpoints/operation-reference.mdx; what is answered above them is not
# documented, 413 is HTTP's own. Cloudflare, before the proxy, takes 100 MB (developers.cloudflare.com).
RUN_BYTES, RUNSYNC_BYTES, PROXY_BYTES, BODY_BYTES = 10 << 20, 20 << 20, 100 << 20, 1 << 20
TITLES = {
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests", 501: "Not Implemented",
}  # fmt: skip
ID = r"([^/]+)"
# method, path, name in fault scripts
CALLS = [(method, re.compile(path), name) for method, path, name in (
    ("POST", "/graphql", "GraphQL"),
    ("GET", "/v2/pods", "ListPods"), ("POST", "/v2/pods", "CreatePod"), ("GET", f"/v2/pods/{ID}", "GetPod"),
    ("DELETE", f"/v2/pods/{ID}", "DeletePod"), ("POST", f"/v2/pods/{ID}/action", "PodAction"),
    ("GET", "/v2/templates", "ListTemplates"), ("POST", "/v2/templates", "CreateTemplate"),
    ("GET", f"/v2/templates/{ID}", "GetTemplate"), ("DELETE", f"/v2/templates/{ID}", "DeleteTemplate"),
    ("GET", "/v2/serverless", "ListEndpoints"), ("POST", "/v2/serverless", "CreateEndpoint"),
    ("GET", f"/v2/serverless/{ID}", "GetEndpoint"), ("PATCH", f"/v2/serverless/{ID}", "UpdateEndpoint"),
    ("DELETE", f"/v2/serverless/{ID}", "DeleteEndpoint"),
    ("GET", f"/v2/serverless/{ID}/workers", "ListWorkers"),
    ("GET", "/v2/catalog/gpus", "ListGpus"), ("GET", f"/v2/catalog/gpus/{ID}", "GetGpu"),
    ("GET", "/v2/billing/pods", "PodBilling"), ("GET", "/v2/billing/serverless", "ServerlessBilling"),
    ("POST", f"/ai/v2/{ID}/run", "Run"), ("POST", f"/ai/v2/{ID}/runsync", "RunSync"),
    ("GET", f"/ai/v2/{ID}/status/{ID}", "Status"), ("POST", f"/ai/v2/{ID}/cancel/{ID}", "Cancel"),
    ("POST", f"/ai/v2/{ID}/purge-queue", "PurgeQueue"), ("GET", f"/ai/v2/{ID}/health", "Health"),
    ("GET", f"/ai/v2/{ID}/job-take/{ID}", "JobTake"), ("GET", f"/ai/v2/{ID}/job-stop/{ID}", "JobStop"),
    ("POST", f"/ai/v2/{ID}/job-done/{ID}/{ID}", "JobDone"), ("GET", f"/ai/v2/{ID}/ping/{ID}", "Ping"),
    ("GET", r"/proxy/(\w+)-(\d+)(/job/files/.+)", "Download"),
    (r"\w+", r"/proxy/(\w+)-(\d+)(/.*)", "Proxy"),
)]  # fmt: skip
WORKERS = ("JobTake", "JobStop", "JobDone", "Ping")


class RunPodApp(LoopbackApp):
    """The ASGI application. make: the account and its queues, once the server's loop runs. proxy_s: real
    seconds after which the proxy gives up."""

    def __init__(
        self, make: Callable[[], tuple[Account, Queues]], faults: FaultScript, *, proxy_s: float
    ) -> None:
        super().__init__(faults)
        self._make, self._proxy_s = make, proxy_s
        self._made: tuple[Account, Queues] | None = None
        self._client: httpx.AsyncClient | None = None

    async def opened(self) -> None:
        self._made = self._make()
        self.queues.open()
        self._client = httpx.AsyncClient(trust_env=False, timeout=self._proxy_s)

    async def closed(self) -> None:
        await self.queues.close()
        await self.account.machines.close()
        if self._client is not None:
            await self._client.aclose()

    @property
    def account(self) -> Account:
        assert self._made is not None, "the server has not started"
        return self._made[0]

    @property
    def queues(self) -> Queues:
        assert self._made is not None, "the server has not started"
        return self._made[1]

    # --- dispatch

    def call_name(self, method: str, path: str) -> str:
        """As in ``CALLS``; "Download" is the proxied GET of one of a far end's files."""
        return next((n for m, p, n in CALLS if re.fullmatch(m, method) and p.fullmatch(path)), "")

    def error(self, status: int, message: str) -> Response:
        """[ErrorResponse], RFC 9457."""
        title, _, rest = message.partition(": ") if message.startswith("$") else (message, "", "")
        told = {"title": TITLES.get(status, "Error"), "status": status, "detail": message}
        if title == "$" or rest:
            told = {**told, "detail": "Request validation failed.", "errors": [message]}
        return JSONResponse(told, status_code=status, media_type="application/problem+json")

    async def answer(self, request: Request, path: str, call: str, fault: Fault | None) -> Response:
        """Credentials, then the call."""
        if not call:
            known = path.startswith(("/v2/", "/ai/v2/"))
            raise Refused(501 if known else 404, f"the sandbox serves no {request.method} {path}")
        found = next(p.fullmatch(path) for m, p, n in CALLS if n == call and re.fullmatch(m, request.method))
        assert found is not None
        parts = found.groups()
        if call in ("Proxy", "Download"):
            return await self._proxied(request, parts, fault)
        self._authenticate(request.headers.get("authorization", ""), call, parts)
        meet(self.account, fault)
        if fault and fault.kind is FaultKind.PREEMPT:
            await self._preempt(parts, fault)
        limit = {"Run": RUN_BYTES, "RunSync": RUNSYNC_BYTES, "JobDone": RUNSYNC_BYTES}.get(call, BODY_BYTES)
        body = await request.body()
        if len(body) > limit:
            raise Refused(413, "the request body is too large")
        try:
            told = json.loads(body) if body else {}
        except ValueError:
            raise Refused(400, "the body is not JSON") from None
        if not isinstance(told, dict):
            told = {} if call in ("Cancel", "PurgeQueue") else {"": told}
        return await self._routes()[call](request, parts, told, fault)

    def _authenticate(self, header: str, call: str, parts: tuple[str, ...]) -> None:
        """Bearer; workers, and the curl examples of the data plane's docs, send the key bare."""
        key = header.removeprefix("Bearer ")
        if call in WORKERS:
            good = self.queues.knows(key, parts[1])
        else:
            own = parts[0] if call in ("GetPod", "DeletePod", "PodAction") else ""
            good = self.account.may(key, own)
        if not good:
            raise Refused(401, "missing bearer token" if not header else "invalid bearer token")

    async def _preempt(self, parts: tuple[str, ...], fault: Fault) -> None:
        """What the call names: a pod; an endpoint's workers; or, where it names none, the newest machine."""
        machines = self.account.machines
        name = parts[0] if parts else ""
        found = [m for m in machines.all() if m.state != GONE and name in ("", m.id, m.words.get("endpoint"))]
        for machine in found[-1:] if not name else found:
            # an account's on-demand pod is shown as EXITED then, without a runtime (reference page, §1.3)
            task = machines.preempt(machine.id, fault.seconds, keep=machine.words.get("kind") == "pod")
            self.loop.create_task(task) if fault.seconds else await task

    def _routes(self) -> dict[str, Callable[..., Awaitable[Response]]]:
        account, queues = self.account, self.queues

        def said(status: int, make: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
            async def route(
                request: Request, parts: tuple[str, ...], body: Any, fault: Fault | None
            ) -> Response:
                made = make(request, parts, body, fault)
                if hasattr(made, "__await__"):
                    made = await made
                if made is None:
                    return Response(status_code=204)
                return JSONResponse(made, status_code=status)

            return route

        return {
            "GraphQL": said(200, lambda r, p, b, f: GraphQL(account, queues).answer(b, f)),
            "ListPods": said(200, lambda r, p, b, f: {
                "pods": [pod(account, m) for m in account.rented("pod")]}),
            "CreatePod": said(201, lambda r, p, b, f: pod(account, account.create_pod(b, f))),
            "GetPod": said(200, lambda r, p, b, f: pod(account, account.pod(p[0]))),
            "DeletePod": said(204, lambda r, p, b, f: act(account, p[0], "terminate")),
            "PodAction": said(200, lambda r, p, b, f: act(account, p[0], b.get("action"))),
            "ListTemplates": said(200, lambda r, p, b, f: {"templates": list(account.templates.values())}),
            "CreateTemplate": said(201, lambda r, p, b, f: create_template(account, b)),
            "GetTemplate": said(200, lambda r, p, b, f: _kept(account.templates, p[0])),
            "DeleteTemplate": said(204, lambda r, p, b, f: _dropped(account.templates, p[0])),
            "ListEndpoints": said(200, lambda r, p, b, f: {
                "endpoints": [queues.shown(e) for e in queues.endpoints.values()]}),
            "CreateEndpoint": said(201, lambda r, p, b, f: queues.create(b)),
            "GetEndpoint": said(200, lambda r, p, b, f: queues.shown(queues.endpoint(p[0]))),
            "UpdateEndpoint": said(200, lambda r, p, b, f: queues.update(p[0], b)),
            "DeleteEndpoint": said(204, lambda r, p, b, f: queues.delete(p[0])),
            "ListWorkers": said(200, lambda r, p, b, f: queues.workers(p[0])),
            "ListGpus": said(200, lambda r, p, b, f: gpus(account, dict(r.query_params))),
            "GetGpu": said(200, lambda r, p, b, f: gpu(account, p[0], dict(r.query_params))),
            "PodBilling": said(200, lambda r, p, b, f: pod_billing(account, dict(r.query_params))),
            "ServerlessBilling": said(200, lambda r, p, b, f: serverless_billing(
                account, dict(r.query_params))),
            "Run": said(200, lambda r, p, b, f: queues.run(p[0], b, fault=f)),
            "RunSync": said(200, lambda r, p, b, f: queues.run(p[0], b, wait_ms=_wait(r), fault=f)),
            "Status": said(200, lambda r, p, b, f: queues.job(*p).told()),
            "Cancel": said(200, lambda r, p, b, f: queues.cancel(*p)),
            "PurgeQueue": said(200, lambda r, p, b, f: queues.purge(p[0])),
            "Health": said(200, lambda r, p, b, f: queues.health(p[0])),
            "JobTake": said(200, lambda r, p, b, f: queues.take(*p)),
            "JobStop": said(200, lambda r, p, b, f: queues.stop_signals(*p)),
            "JobDone": said(200, lambda r, p, b, f: queues.finish(p[0], p[1], p[2], b, f)),
            "Ping": said(200, lambda r, p, b, f: {}),
        }  # fmt: skip

    # --- the proxy

    async def _proxied(self, request: Request, parts: tuple[str, ...], fault: Fault | None) -> Response:
        """One request to a pod's HTTP port. No account's key is asked for: the proxy is public."""
        ident, port, path = parts
        machine = self.account.machines.get(ident)
        if fault and fault.kind is FaultKind.PREEMPT:
            await self._preempt((ident,), fault)
        local = machine.ports.get(int(port)) if machine is not None and machine.state == RUNNING else None
        if not local:
            return Response("404 page not found", status_code=404, media_type="text/html")
        kind = fault.kind if fault else None
        if kind is FaultKind.MISSING:
            return JSONResponse({"error": "Rejected", "message": "there is nothing of this name"}, 404)
        if kind is FaultKind.OUT_OF_MEMORY:  # the far end's own words
            return JSONResponse({"error": "OutOfMemory", "message": "the device ran out of memory"}, 507)
        body = await request.body()
        if len(body) > PROXY_BYTES:
            return Response("413 Payload Too Large", status_code=413, media_type="text/html")
        dropped = ("host", "content-length", "connection", "transfer-encoding")
        assert self._client is not None
        try:
            answer = await self._client.request(
                request.method, f"http://127.0.0.1:{local}{path}", content=body,
                params=list(request.query_params.multi_items()),
                headers=[(k, v) for k, v in request.headers.items() if k not in dropped],
            )  # fmt: skip
        except httpx.TimeoutException:
            return Response("error code: 524", status_code=524, media_type="text/html")
        except httpx.HTTPError:
            return Response("502 Bad Gateway", status_code=502, media_type="text/html")
        data, headers = answer.content, {
            k: v for k, v in answer.headers.items() if k not in (*dropped, "date", "server")
        }  # fmt: skip
        length = len(data)
        if kind is FaultKind.CORRUPTED and data:
            data = data[: length // 2] + bytes([data[length // 2] ^ 1]) + data[length // 2 + 1 :]
        if kind is FaultKind.TRUNCATED:
            data = data[: length // 2]
        if request.method == "HEAD":
            return Response(status_code=answer.status_code, headers=headers)
        return Raw(data, answer.status_code, headers | {"content-length": str(length)})


def _wait(request: Request) -> float:
    """"?wait=", 1000 to 300000 ms."""
    try:
        return min(max(float(request.query_params.get("wait", WAIT_MS)), 1000.0), MOST_WAIT_MS)
    except ValueError:
        raise Refused(400, "wait is a number of milliseconds") from None


def _kept(among: dict[str, Any], ident: str) -> Any:
    if ident not in among:
        raise Refused(404, "resource not found")
    return among[ident]


def _dropped(among: dict[str, Any], ident: str) -> None:
    del among[_kept(among, ident)["id"]]
