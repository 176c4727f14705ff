"""RunPod's REST v2 on loopback: pods, templates, catalogue, billing. Guarantee: no unknown field is taken.

Evidence as in ``runpod_account``; the SDK that speaks it is runpod 2.0.0rc2, api/{rest,ctl_commands}.py.
Listings have no pages ([ListPodsResponse]: one array); those of volumes do, which are not imitated.

Billing is told at once and in one record per machine, of the day on which it began; RunPod's runs every five
minutes (docs accounts-billing/billing.mdx) and splits at every bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.machines import EXITED, GONE, PROVISIONING, RUNNING, STOPPED, Machine
from accel.sandbox.runpod_account import TEMPLATE, Account, dollars, identifier, named, only, shown_env
from accel.sandbox.runpod_catalog import DATA_CENTER, MODELS
from accel.sandbox.wire import Refused

STATUS = {PROVISIONING: "PROVISIONING", RUNNING: "RUNNING", STOPPED: "EXITED", EXITED: "EXITED",
          GONE: "TERMINATED"}  # fmt: skip
# [PodAction], and which of them a pod in this status takes; another is 409
ACTIONS = {"PROVISIONING": ["terminate"], "RUNNING": ["stop", "restart", "terminate"],
           "EXITED": ["start", "terminate"], "TERMINATED": []}  # fmt: skip
Query = Mapping[str, str]


def instant(at: float) -> str:
    """RFC 3339."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pod(account: Account, machine: Machine) -> dict[str, Any]:
    """[Pod]."""
    words, status, runs = machine.words, STATUS[machine.state], machine.state == RUNNING
    ports = [
        {"private": int(p.split("/")[0]), "public": None, "type": p.split("/")[-1], "ip": None}
        for p in words["ports"]
    ]
    uptime = int(account.machines.now() - machine.runs_since) if runs else 0
    return {
        "id": machine.id, "name": machine.name, "status": status, "actions": ACTIONS[status],
        "image": words["image"], "args": words["args"], "disk": words["disk"], "ports": words["ports"],
        "env": shown_env(machine), "registry": words["registry"], "mounts": {},
        "gpu": {"id": words["gpu"], "count": words["count"]}, "cloud": words["cloud"],
        "dataCenterId": DATA_CENTER["id"], "cudaVersion": "12.8", "ssh": {"proxy": None, "direct": None},
        "template": None, "locked": False, "globalNetworking": {"enabled": False},
        # "0.0 when EXITED or TERMINATED"
        "cost": dollars(machine.nano_per_hour) if status in ("PROVISIONING", "RUNNING") else 0.0,
        "runtime": {"uptime": uptime, "gpus": [], "ports": ports} if runs else None,
        "createdAt": instant(machine.made_at), "startedAt": instant(machine.runs_since) if runs else None,
    }  # fmt: skip


async def act(account: Account, ident: str, action: Any) -> dict[str, Any] | None:
    """[triggerPodAction]: the pod as it is then, None once it is terminated. Raises Refused 404, 409, 422."""
    machine = account.pod(ident)
    if action not in ("start", "stop", "restart", "terminate"):
        raise Refused(422, "$.action: value is not one of the allowed values")
    if action not in ACTIONS[STATUS[machine.state]]:
        raise Refused(409, f"a pod that is {STATUS[machine.state]} cannot {action}")
    if action == "terminate":
        await account.machines.destroy(ident, "terminated")
        return None
    if action in ("stop", "restart"):
        await account.machines.stop(ident)
    if action in ("start", "restart"):
        account.machines.start(ident)
    return pod(account, machine)


def template(kept: Mapping[str, Any]) -> dict[str, Any]:
    """[Template]."""
    return {
        "args": "", "disk": 20, "mounts": {}, "ports": [], "env": {}, "registry": None, "serverless": False,
        "public": False, "category": "NVIDIA", "startSsh": True, "startJupyter": True,
        "allowedCudaVersions": [], **kept,
    }  # fmt: skip


def create_template(account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    """[createTemplate]."""
    only(body, TEMPLATE)
    named(body)
    if not body.get("image"):
        raise Refused(422, "$: missing property 'image'")
    kept = template({**body, "id": identifier()})
    account.templates[kept["id"]] = kept
    return kept


def gpus(account: Account, query: Query) -> dict[str, Any]:
    """[listGpuTypes]. Raises Refused 400 for availability without a product, or the other way round."""
    stock = "AVAILABILITY" in query.get("include", "").split(",")
    if stock is not bool(query.get("product")):
        raise Refused(400, "product is required with include=AVAILABILITY, and valid only with it")
    return {"gpus": [account.catalog.row(m, stock=stock) for m in MODELS]}


def gpu(account: Account, ident: str, query: Query) -> dict[str, Any]:
    """[getGpuType]."""
    for row in gpus(account, query)["gpus"]:
        if row["id"] == ident:
            found: dict[str, Any] = row
            return found
    raise Refused(404, "GPU type not found")


def pod_billing(account: Account, query: Query) -> dict[str, Any]:
    """[getPodBilling]."""
    wanted = query.get("podId")
    machines = [m for m in account.machines.all() if m.words.get("kind") == "pod"]
    amounts = [(m, m.invoice(account.machines.now())) for m in machines if wanted in (None, m.id)]
    records = [
        _day(machine.made_at) | {"podId": machine.id, "totalAmount": dollars(nano),
                                 "gpuAmount": dollars(nano), "cpuAmount": 0.0, "diskAmount": 0.0}
        for machine, nano in amounts
    ]  # fmt: skip
    total = sum(nano for _, nano in amounts)
    return _listing(records, total, query, "uniquePodCount", ("gpu", "cpu", "disk"))


def serverless_billing(account: Account, query: Query) -> dict[str, Any]:
    """[getServerlessBilling]: one record for each endpoint."""
    wanted = query.get("serverlessId")
    by_endpoint: dict[str, tuple[float, int]] = {}
    for machine in account.machines.all():
        if machine.words.get("kind") == "worker" and wanted in (None, machine.words["endpoint"]):
            began, nano = by_endpoint.get(machine.words["endpoint"], (machine.made_at, 0))
            by_endpoint[machine.words["endpoint"]] = began, nano + machine.invoice(account.machines.now())
    records = [
        _day(began) | {"serverlessId": ident, "totalAmount": dollars(nano), "gpuAmount": dollars(nano),
                       "cpuAmount": 0.0, "diskAmount": 0.0, "feeAmount": 0.0}
        for ident, (began, nano) in by_endpoint.items()
    ]  # fmt: skip
    total = sum(nano for _, nano in by_endpoint.values())
    return _listing(records, total, query, "uniqueServerlessCount", ("gpu", "cpu", "disk", "fee"))


def _day(at: float) -> dict[str, str]:
    began = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return {"startTime": instant(began.timestamp()),
            "endTime": instant((began + timedelta(days=1)).timestamp())}  # fmt: skip


def _listing(
    records: list[dict[str, Any]], total: int, query: Query, count: str, parts: Iterable[str]
) -> dict[str, Any]:
    """[ListPodBillingResponse] and its like."""
    totals = {f"{part}Amount": 0.0 for part in parts} | {
        "totalAmount": dollars(total), "gpuAmount": dollars(total),
    }  # fmt: skip
    told = {"query": dict(query), "recordCount": len(records), count: len(records), "totals": totals}
    return {"records": records, "metadata": told}


def meet(account: Account, fault: Fault | None) -> None:
    """A price that changes before the call."""
    if fault and fault.kind is FaultKind.PRICE:
        account.catalog.factor *= type(account.catalog.factor)(fault.text)
