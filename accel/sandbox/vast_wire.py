"""The wire protocol of Vast.ai's control plane, on loopback. Guarantee: what is not imitated answers 501.

Evidence, unless a line says otherwise: vastai 1.9.1 as installed, its paths in vastai/api/{offers,instances,
billing}.py; all but those that say v1 stand under /api/v0 (vastai/api/client.py:138-150). Query arguments
that are no text travel as JSON (client.py:145-150). An error is {"success": false, "error": code, "msg":
words} (vastai/cli/main.py:236-245); a request too many is {"detail": ...} (docs.vast.ai/api/prepay-instance,
read 2026-11-24). No credit is 400 insufficient_credit, "Your account lacks credit; see the billing page."
(public logs of its users, 2026).

What the calls do stands in ``sandbox.vast_instances`` and ``sandbox.vast_market``; this file carries them.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from accel.sandbox.faults import Fault, FaultScript
from accel.sandbox.machines import Machine, Machines
from accel.sandbox.vast_instances import Instances, VastRefused
from accel.sandbox.vast_market import NANO, Query
from accel.sandbox.wire import LoopbackApp, Refused

MAX_BODY_BYTES = 1 << 20
PAGE = 25  # the largest page of instances: vastai/cli/commands/instances.py, show instances, --limit
# method, path → the call's name in fault scripts
CALLS = (
    ("POST", r"/api/v0/bundles", "SearchOffers"),
    ("PUT", r"/api/v0/search/asks", "SearchOffers"),
    ("PUT", r"/api/v0/asks/\d+", "CreateInstance"),
    ("GET", r"/api/v0/instances/filters", "InstanceFilters"),
    ("GET", r"/api/v0/instances/\d+", "GetInstance"),
    ("PUT", r"/api/v0/instances/\d+", "ManageInstance"),
    ("PUT", r"/api/v0/instances/bid_price/\d+", "ChangeBid"),
    ("PUT", r"/api/v0/instances/request_logs/\d+", "RequestLogs"),
    ("GET", r"/_files/logs/[0-9a-f]+/\d+", "Logs"),
    ("DELETE", r"/api/v0/instances/\d+", "DestroyInstance"),
    ("GET", r"/api/v1/instances", "ListInstances"),
    ("GET", r"/api/v0/users/current", "CurrentUser"),
    ("GET", r"/api/v0/charges", "Charges"),
    ("GET", r"/api/v1/invoices", "Invoices"),
)
_PATHS = [(method, re.compile(pattern + "/?"), name) for method, pattern, name in CALLS]


class VastApp(LoopbackApp):
    """The ASGI application. key: what opens the account. credit: nano-dollars paid in."""

    def __init__(
        self, make: Callable[[], Instances], faults: FaultScript, *, key: str, credit: int
    ) -> None:
        super().__init__(faults)
        self.key, self.credit = key, credit
        self._make = make
        self._instances: Instances | None = None

    async def opened(self) -> None:
        """Take up what an earlier sandbox on this folder left."""
        self._instances = self._make()

    async def closed(self) -> None:
        """Kill everything that runs."""
        await self.machines.close()

    @property
    def instances(self) -> Instances:
        """Its contracts."""
        assert self._instances is not None, "the server has not started"
        return self._instances

    @property
    def machines(self) -> Machines:
        """What they run on."""
        return self.instances.machines

    def left(self) -> int:
        """Nano-dollars of credit left."""
        return self.credit - self.machines.invoice()

    # --- dispatch

    def call_name(self, method: str, path: str) -> str:
        """See ``CALLS``."""
        return next((name for m, found, name in _PATHS if m == method and found.fullmatch(path)), "")

    def error(self, status: int, message: str) -> Response:
        """A fault's ``text`` may begin with Vast's code: "no_such_ask: gone"."""
        if status == 429:
            return JSONResponse({"detail": message}, status)
        code, colon, words = message.partition(": ")
        code, words = (code, words) if colon and code.isidentifier() else ("error", message)
        return JSONResponse({"success": False, "error": code, "msg": words}, status)

    async def answer(self, request: Request, path: str, call: str, fault: Fault | None) -> Response:
        """Who asks, then the call."""
        if not call:
            raise Refused(501 if path.startswith("/api/") else 404, f"not imitated: {request.method} {path}")
        numbers = re.findall(r"/(\d+)(?=/|$)", path)
        ident = numbers[-1] if numbers else ""
        if call == "Logs":  # a signed address of a storage service: no key
            return self._logs(path.split("/")[3], ident)
        self._authenticate(request.headers.get("authorization", ""), call, ident)
        data = await request.body()
        if len(data) > MAX_BODY_BYTES:
            raise Refused(413, "the request is too large")
        try:
            body = json.loads(data or b"{}")
            return JSONResponse(await self._call(call, ident, body, request))
        except VastRefused as refused:
            return JSONResponse(refused.body, refused.status)
        except Query as odd:
            raise Refused(400, f"invalid_args: {odd}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Refused(400, "invalid_args: Bad Request") from None

    def _authenticate(self, header: str, call: str, ident: str) -> None:
        """The account's key, or, for itself alone, an instance's own (CONTAINER_API_KEY)."""
        token = header.removeprefix("Bearer ")
        own = self.instances.keys.get(ident, "")
        itself = own and call in ("GetInstance", "ManageInstance", "DestroyInstance")
        for known in (self.key, own if itself else ""):
            if known and hmac.compare_digest(token.encode(), known.encode()):
                return
        raise Refused(401, "auth_error: Invalid user key")

    async def _call(self, call: str, ident: str, body: Mapping[str, Any], request: Request) -> Any:
        instances, asked = self.instances, request.query_params
        match call:
            case "SearchOffers":
                query = body.get("q", body)
                return {"success": True, "offers": instances.market.search(query)}
            case "CreateInstance":
                if self.left() <= 0:
                    words = "Your account lacks credit; see the billing page."
                    raise VastRefused(400, "insufficient_credit", words, ask_id=int(ident))
                return instances.create(int(ident), body)
            case "GetInstance":
                machine = instances.get(ident)
                return {"instances": instances.row(machine) if machine else None}
            case "ManageInstance":
                return await self._manage(self._known(ident), body)
            case "ChangeBid":
                instances.bid(self._known(ident), body.get("price"))
                return {"success": True}
            case "DestroyInstance":
                await instances.destroy(self._known(ident))
                return {"success": True}
            case "RequestLogs":
                host = "http://{}:{}".format(*request.scope["server"])
                return {"success": True, "result_url": f"{host}/_files/logs/{self._sign(ident)}/{ident}"}
            case "ListInstances":
                return self._listing(asked)
            case "InstanceFilters":
                rows = map(instances.row, instances.rented())
                names = ("actual_status", "verification", "gpu_name")
                return {"filters": [{n: row[n] for n in names} for row in rows]}
            case "CurrentUser":
                left = self.left() / NANO
                return {"id": 4711, "username": "sandbox", "email": "sandbox@localhost", "credit": left,
                        "balance": left, "can_pay": True, "api_key": self.key}  # fmt: skip
            case "Charges":
                return _page(_chosen(instances.charges(), asked, "start"), asked, "results", 100)
            case _:
                return _page([], asked, "results", 100)

    def _known(self, ident: str) -> Machine:
        machine = self.instances.get(ident)
        if machine is None:
            raise VastRefused(404, "no_such_instance", f"no instance {ident}.")
        return machine

    async def _manage(self, machine: Machine, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT /instances/{id}/ (vastai/api/instances.py:325-362): a state or a label."""
        if "label" in body:
            machine.name = str(body["label"])
            self.machines.save(machine)
        if (state := body.get("state")) == "stopped":
            await self.instances.stop(machine)
        elif state == "running":
            self.instances.start(machine)
        elif state is not None:
            raise VastRefused(400, "invalid_args", f"no state {state!r}.")
        return {"success": True}

    def _listing(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """GET /api/v1/instances/ (vastai/api/instances.py:30-79)."""
        rows = _chosen([self.instances.row(m) for m in self.instances.rented()], asked, "start_date")
        for key in reversed(json.loads(asked.get("order_by", "[]"))):
            rows.sort(key=lambda row: row[key["col"]], reverse=key["dir"] == "desc")
        labels: dict[str, int] = {}
        for row in rows:
            labels[row["label"] or ""] = labels.get(row["label"] or "", 0) + 1
        page = _page(rows, asked, "instances", PAGE)
        if columns := json.loads(asked.get("select_cols", "[]")):
            page["instances"] = [{name: row[name] for name in columns} for row in page["instances"]]
        return {"success": True, **page, "total_instances": len(rows), "label_counts": labels}

    def _sign(self, ident: str) -> str:
        return hmac.digest(self.key.encode(), ident.encode(), "sha256").hex()

    def _logs(self, sign: str, ident: str) -> Response:
        if not hmac.compare_digest(sign, self._sign(ident)):
            raise Refused(403, "the address is not signed")
        return PlainTextResponse(self.machines.log(self._known(ident)))


def _chosen(
    rows: Sequence[dict[str, Any]], asked: Mapping[str, str], instant: str
) -> list[dict[str, Any]]:
    """The rows that pass ``select_filters``; "day" and "when" are about the instant of a row."""
    chosen = list(rows)
    for name, tests in json.loads(asked.get("select_filters", "{}")).items():
        name = instant if name in ("day", "when") else name
        if set(tests) - {"in", "eq", "gte", "lte"}:
            raise Query(f"no filter {tests!r}")
        chosen = [
            row for row in chosen
            if row[name] in tests.get("in", [row[name]]) and row[name] == tests.get("eq", row[name])
            and tests.get("gte", row[name]) <= row[name] <= tests.get("lte", row[name])
        ]  # fmt: skip
    return chosen


def _page(rows: Sequence[Any], asked: Mapping[str, str], name: str, largest: int) -> dict[str, Any]:
    """One page of rows, and the token of the next: base64 of JSON, as the command line's help shows one."""
    begin = json.loads(base64.b64decode(asked["after_token"]))["after"] if asked.get("after_token") else 0
    limit = min(int(asked.get("limit", largest)), largest)
    page = list(rows[begin : begin + limit])
    more = begin + limit < len(rows)
    token = base64.b64encode(json.dumps({"after": begin + limit}).encode()).decode() if more else None
    return {name: page, "count": len(page), "total": len(rows), "next_token": token}
