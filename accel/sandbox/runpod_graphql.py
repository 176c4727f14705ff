"""The part of RunPod's GraphQL that runpod 1.x speaks, on loopback. Guarantee: another operation is an error.

Evidence: runpod 1.12.0, api/{ctl_commands,graphql}.py, api/queries/*.py, api/mutations/{pods,endpoints,
templates}.py; the balance: docs runpodctl/reference/runpodctl-user.mdx, 2026-08-20. Not a GraphQL engine:
the operation is told by its first field and its ``input`` is read; every field of the answer is sent, also
those that were not asked for. 1.x puts values into the query's text unescaped (mutations/pods.py:109,119),
so that a text that breaks there breaks here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from accel.sandbox.faults import Fault
from accel.sandbox.machines import RUNNING, Machine
from accel.sandbox.runpod_account import Account, dollars, shown_env
from accel.sandbox.runpod_catalog import MODELS
from accel.sandbox.runpod_endpoints import Endpoints
from accel.sandbox.runpod_rest import STATUS, act, create_template, instant
from accel.sandbox.wire import Refused

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([{}\[\]:,])|([\w.$+-]+)|\s+')
_OPERATION = re.compile(r"^\s*(?:(?:query|mutation)\s*\w*\s*(?:\([^)]*\))?\s*)?\{\s*(\w+)\s*", re.S)


def arguments(text: str) -> dict[str, Any]:
    """The object after ``input:``. Raises Refused 400 for text that is none; {} where there is none."""
    found = re.search(r"input\s*:\s*(?=\{)", text)
    if not found:
        return {}
    tokens: list[Any] = []
    at = found.end()
    depth = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            break
        at = token.end()
        if token[1] is not None:
            tokens.append(("text", token[1].replace('\\"', '"').replace("\\\\", "\\")))
        elif token[2]:
            depth += {"{": 1, "}": -1}.get(token[2], 0)
            tokens.append(token[2])
        elif token[3]:
            tokens.append(("word", token[3]))
        if depth == 0:
            break
    try:
        value, rest = _value(tokens)
    except (IndexError, ValueError, TypeError):
        raise Refused(400, "Syntax Error in the query") from None
    if rest or not isinstance(value, dict):
        raise Refused(400, "Syntax Error in the query")
    return value


def _value(tokens: list[Any]) -> tuple[Any, list[Any]]:
    head, rest = tokens[0], tokens[1:]
    if head == "{":
        made: dict[str, Any] = {}
        while rest[0] != "}":
            if rest[0] == ",":
                rest = rest[1:]
                continue
            (kind, name), colon = rest[0], rest[1]
            if kind != "word" or colon != ":":
                raise ValueError
            made[name], rest = _value(rest[2:])
        return made, rest[1:]
    if head == "[":
        items = []
        while rest[0] != "]":
            if rest[0] == ",":
                rest = rest[1:]
                continue
            item, rest = _value(rest)
            items.append(item)
        return items, rest[1:]
    kind, text = head
    if kind == "text":
        return text, rest
    words: dict[str, Any] = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text], rest
    return (int(text) if re.fullmatch(r"-?\d+", text) else float(text) if re.fullmatch(r"-?\d*\.\d+", text)
            else text), rest  # fmt: skip


class GraphQL:
    """One account's."""

    def __init__(self, account: Account, endpoints: Endpoints) -> None:
        self.account, self.endpoints = account, endpoints

    async def answer(self, body: Any, fault: Fault | None) -> dict[str, Any]:
        """{"data": …}, or {"errors": [{"message"}]} with HTTP 200, as graphql.py:84 reads it."""
        query = str(body.get("query") or "") if isinstance(body, dict) else ""
        found = _OPERATION.match(query)
        if found is None:
            raise Refused(400, "the body needs a query")
        given = body.get("variables") or {}
        try:
            wanted = given["input"] if isinstance(given.get("input"), dict) else arguments(query)
            return {"data": {found[1]: await self._field(found[1], query, wanted, fault)}}
        except Refused as refused:
            if refused.status == 401:
                raise
            return {"errors": [{"message": str(refused)}]}

    async def _field(self, name: str, query: str, wanted: dict[str, Any], fault: Fault | None) -> Any:
        account = self.account
        reads: dict[str, Callable[[], Any]] = {
            "gpuTypes": lambda: self._gpus(wanted), "myself": lambda: self._myself(query),
            "pod": lambda: self._found(wanted),
            "podFindAndDeployOnDemand": lambda: self._made(wanted, fault),
            "saveTemplate": lambda: self._template(wanted), "saveEndpoint": lambda: self._endpoint(wanted),
        }  # fmt: skip
        if name in reads:
            return reads[name]()
        if name in ("podStop", "podResume", "podTerminate"):
            ident = str(wanted.get("podId"))
            action = {"podStop": "stop", "podResume": "start", "podTerminate": "terminate"}[name]
            await act(account, ident, action)
            return None if action == "terminate" else self._pod(account.pod(ident))
        raise Refused(400, f'Cannot query field "{name}": the sandbox does not imitate it.')

    def _gpus(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        price = self.account.catalog.dollars
        return [
            {
                "id": m.id, "displayName": m.name, "memoryInGb": m.memory, "manufacturer": "Nvidia",
                "maxGpuCount": 8, "secureCloud": True, "communityCloud": True, "cudaCores": 0,
                "securePrice": price(m.secure), "communityPrice": price(m.community),
                # docs commit 8e5aebdb, 2026-05-06, took spot pods out
                "communitySpotPrice": None, "secureSpotPrice": None,
                "lowestPrice": {"minimumBidPrice": None, "uninterruptablePrice": price(m.community)},
            }
            for m in MODELS if wanted.get("id") in (None, m.id)
        ]  # fmt: skip

    def _myself(self, query: str) -> dict[str, Any]:
        account = self.account
        running = sum(m.nano_per_hour for m in account.machines.all() if m.state == RUNNING)
        return {
            "id": "user_sandbox", "email": "sandbox@example.com", "pubKey": "", "networkVolumes": [],
            "clientBalance": dollars(account.balance), "currentSpendPerHr": dollars(running),
            "spendLimit": 80,
            "pods": [self._pod(m) for m in account.rented("pod")] if "pods" in query else [],
            "endpoints": [self._shown(e.id) for e in self.endpoints.endpoints.values()],
        }  # fmt: skip

    def _pod(self, machine: Machine) -> dict[str, Any]:
        words, runs = machine.words, machine.state == RUNNING
        status = STATUS[machine.state]
        ports = [
            {"ip": None, "isIpPublic": False, "privatePort": int(p.split("/")[0]), "publicPort": None,
             "type": p.split("/")[-1]}
            for p in words["ports"]
        ]  # fmt: skip
        return {
            "id": machine.id, "name": machine.name, "imageName": words["image"], "dockerArgs": words["args"],
            # until it is up, GraphQL already says RUNNING and gives no runtime (reference page, §1.2)
            "desiredStatus": "RUNNING" if status == "PROVISIONING" else status,
            "runtime": {"ports": ports} if runs else None, "costPerHr": dollars(machine.nano_per_hour),
            "containerDiskInGb": words["disk"], "gpuCount": words["count"], "ports": ",".join(words["ports"]),
            "env": [f"{k}={v}" for k, v in shown_env(machine).items()], "machineId": "sandbox",
            "machine": {"podHostId": f"{machine.id}-sandbox", "gpuDisplayName": words["gpu"]},
            "uptimeSeconds": int(self.account.machines.now() - machine.runs_since) if runs else 0,
            "lastStatusChange": instant(machine.made_at),
        }  # fmt: skip

    def _found(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return self._pod(self.account.pod(str(wanted.get("podId"))))
        except Refused:
            return None

    def _made(self, wanted: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        cloud = wanted.get("cloudType", "ALL")
        body = {
            "name": wanted.get("name"), "image": wanted.get("imageName"),
            "args": wanted.get("dockerArgs") or "",
            "cloud": "COMMUNITY" if cloud == "ALL" else cloud, "env": _env(wanted),
            "gpu": {"id": wanted.get("gpuTypeId"), "count": wanted.get("gpuCount", 1)},
            "ports": _ports(wanted), "disk": wanted.get("containerDiskInGb") or 20,
        }  # fmt: skip
        if wanted.get("templateId"):
            body["templateId"] = wanted["templateId"]
        return self._pod(self.account.create_pod({k: v for k, v in body.items() if v}, fault))

    def _template(self, wanted: dict[str, Any]) -> dict[str, Any]:
        made = create_template(self.account, {
            "name": wanted.get("name"), "image": wanted.get("imageName"),
            "args": wanted.get("dockerArgs") or "",
            "disk": wanted.get("containerDiskInGb") or 20, "ports": _ports(wanted), "env": _env(wanted),
            "serverless": bool(wanted.get("isServerless")),
        })  # fmt: skip
        return {**wanted, "id": made["id"]}

    def _endpoint(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted.get("id"):
            raise Refused(400, "the sandbox makes endpoints by GraphQL, and does not change them")
        made = self.endpoints.create({
            "name": wanted.get("name"), "type": "QUEUE", "templateId": wanted.get("templateId"),
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": wanted.get("scalerValue", 4)},
            "gpu": {"pools": str(wanted.get("gpuIds", "")).split(","), "count": wanted.get("gpuCount", 1)},
            "workers": {"min": wanted.get("workersMin", 0), "max": wanted.get("workersMax", 3),
                        "idleTimeout": wanted.get("idleTimeout", 5)},
        })  # fmt: skip
        return self._shown(made["id"])

    def _shown(self, ident: str) -> dict[str, Any]:
        body = self.endpoints.endpoint(ident).body
        return {
            "id": ident, "name": body["name"], "gpuIds": ",".join(body["gpu"]["pools"]),
            "templateId": body.get("templateId"), "workersMin": body["workers"]["min"],
            "workersMax": body["workers"]["max"], "idleTimeout": body["workers"].get("idleTimeout"),
            "scalerType": body["scaling"]["type"], "scalerValue": body["scaling"].get("queueDelay"),
            "type": "QB", "locations": "", "networkVolumeId": "", "gpuCount": body["gpu"].get("count", 1),
        }  # fmt: skip


def _env(wanted: dict[str, Any]) -> dict[str, str]:
    return {str(pair["key"]): str(pair["value"]) for pair in wanted.get("env") or ()}


def _ports(wanted: dict[str, Any]) -> list[str]:
    return [p.strip() for p in str(wanted.get("ports") or "").split(",") if p.strip()]
