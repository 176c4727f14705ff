"""One RunPod account on loopback. Guarantee: whatever runs on it is in ``machines``, and on the invoice.

Evidence: docs.runpod.io api-reference-v2/openapi.json (repository runpod/docs, commit a900806, 2026-08-20);
schema and operation names stand in brackets.
"""

from __future__ import annotations

import json
import secrets
import shlex
import string
from collections.abc import Collection, Mapping
from typing import Any

from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.machines import GONE, PROVISIONING, RUNNING, Machine, Machines
from accel.sandbox.runpod_catalog import DATA_CENTER, NANO, Catalog
from accel.sandbox.wire import Refused

CONTAINER = frozenset({"args", "disk", "env", "image", "ports", "registry"})  # [ContainerConfig]
POD = CONTAINER | {
    "name", "cloud", "cpu", "dataCenterIds", "globalNetworking", "gpu", "mounts", "startJupyter", "startSsh",
    "templateId",
}  # fmt: skip
# [CreateGpuConfig]; the last two are sent by runpod 2.0.0rc2, api/ctl_commands.py:204-207
GPU = frozenset({
    "id", "count", "allowedCudaVersions", "minCudaVersion", "minRamPerGpu", "minVcpuCountPerGpu",
})  # fmt: skip
TEMPLATE = CONTAINER | {
    "name", "allowedCudaVersions", "category", "mounts", "public", "serverless", "startJupyter", "startSsh",
}  # fmt: skip
# One of the words that runpod 2.0.0rc2, apps/api.py:148-158, takes for want of capacity; [createPod] says
# that there is no code for it, only 400 and words.
NO_MACHINE = "This machine does not have the resources to deploy your pod."
OWN = ("RUNPOD_", "ACCEL_HOST")  # set here, not by the user


class Account:
    """credit: nano-dollars paid in. cold_s: nominal seconds of a container's start. key: opens everything.

    keys: a container's id → the key that is good for it alone (docs pods/templates/environment-variables.mdx,
    "Pod-scoped API key"). loses_money: taken away, not asked to leave, when nothing is left.
    """

    def __init__(self, machines: Machines, *, credit: int, cold_s: float, key: str) -> None:
        self.machines, self.credit, self.cold_s, self.key = machines, credit, cold_s, key
        self.catalog = Catalog()
        self.templates: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}

    @property
    def balance(self) -> int:
        """Nano-dollars left."""
        return self.credit - self.machines.invoice()

    def rented(self, kind: str, **words: Any) -> list[Machine]:
        """Machines of a kind ("pod", "worker") that are not gone, oldest first."""
        wanted = {"kind": kind, **words}
        return [
            m for m in self.machines.all()
            if m.state != GONE and all(m.words.get(k) == v for k, v in wanted.items())
        ]  # fmt: skip

    def pod(self, ident: str) -> Machine:
        """One that is not terminated. Raises Refused 404."""
        found = self.machines.get(ident)
        if found is None or found.state == GONE or found.words.get("kind") != "pod":
            raise Refused(404, "pod not found")
        return found

    def container(self, body: Mapping[str, Any], *, serverless: bool) -> dict[str, Any]:
        """A body's container settings over those of its template: [createPod], ``templateId``.

        Raises Refused: 404 for no such template, 422 for one of the other sort, or for no image.
        """
        own = {k: body[k] for k in CONTAINER if k in body}
        made = dict(own)
        if ident := body.get("templateId"):
            template = self.templates.get(str(ident))
            if template is None:
                raise Refused(404, "template not found")
            if bool(template.get("serverless")) is not serverless:
                raise Refused(422, "the template is of the other sort")
            made = {k: v for k, v in template.items() if k in CONTAINER} | own
            made["env"] = {**(template.get("env") or {}), **(own.get("env") or {})}
        if not made.get("image"):
            raise Refused(422, "$: missing property 'image'")
        env, ports = made.get("env") or {}, made.get("ports") or []
        if not all(isinstance(v, str) for v in env.values()) or not all(isinstance(p, str) for p in ports):
            raise Refused(422, "$.env: want strings")
        return {"args": "", "disk": 20, "registry": None, **made, "env": env, "ports": ports}

    def create_pod(self, body: Mapping[str, Any], fault: Fault | None = None) -> Machine:
        """[createPod]. Raises Refused: 422 for a body of another shape, 400, 402, 404."""
        only(body, POD)
        named(body)
        settings = self.container(body, serverless=False)
        gpu, cloud = body.get("gpu"), body.get("cloud", "SECURE")
        if not isinstance(gpu, dict) or "cpu" in body:
            raise Refused(400, "exactly one of gpu or cpu must be set (the sandbox has no CPU pods)")
        only(gpu, GPU)
        model, count = self.catalog.model(str(gpu.get("id"))), gpu.get("count", 1)
        if model is None or cloud not in ("SECURE", "COMMUNITY") or not isinstance(count, int) or count < 1:
            raise Refused(400, "no such GPU type, cloud or count")
        if model.availability == "NONE":
            raise Refused(400, NO_MACHINE)
        price = model.secure if cloud == "SECURE" else model.community
        words = {"kind": "pod", "gpu": model.id, "count": count, "cloud": cloud}
        return self.rent(str(body["name"]), settings, self.catalog.nano(price) * count, words, fault)

    def rent(
        self, name: str, settings: Mapping[str, Any], rate: int, words: Mapping[str, Any],
        fault: Fault | None = None, env: Mapping[str, str] = {}, ident: str = "",
    ) -> Machine:  # fmt: skip
        """A container that really runs. rate: nano-dollars an hour. env: beside that of ``settings``.

        Raises Refused 402: an hour of it must have been paid in (docs pods/pricing.mdx).
        """
        if self.balance < rate:
            raise Refused(402, "Insufficient balance: add credits to your account.")
        ident, cold_s = ident or identifier(), self.cold_s
        self.keys[ident] = secrets.token_hex(16)
        never = False
        if fault and fault.kind is FaultKind.COLD_START:
            cold_s, never = fault.seconds, not fault.seconds
        kept = {k: settings[k] for k in CONTAINER if k in settings and k != "env"}
        return self.machines.rent(
            ident, name, command=command(str(settings["args"])), nano_per_hour=rate,
            env={
                **settings["env"], "RUNPOD_POD_ID": ident, "RUNPOD_API_KEY": self.keys[ident],
                "RUNPOD_DC_ID": DATA_CENTER["id"], "ACCEL_HOST": "127.0.0.1", **env,
            },
            ports=[int(p.split("/")[0]) for p in settings["ports"] if p.endswith("/http")],
            cold_s=None if never else cold_s, words={**words, **kept},
        )  # fmt: skip

    def may(self, key: str, ident: str = "") -> bool:
        """Whether ``key`` opens the account, or the one container ``ident``."""
        good = [self.key, *([self.keys[ident]] if ident in self.keys else [])]
        return any(secrets.compare_digest(key.encode("utf-8", "replace"), k.encode()) for k in good)

    async def collect(self) -> None:
        """At a balance of 0 what runs is terminated (docs pods/pricing.mdx; none has a network volume)."""
        if self.balance <= 0:
            for machine in self.machines.all():
                if machine.state in (PROVISIONING, RUNNING):
                    await self.machines.preempt(machine.id)


def shown_env(machine: Machine) -> dict[str, str]:
    """A container's environment as its user set it; a later sandbox does not know it any more."""
    return {k: v for k, v in machine.env.items() if not k.startswith(OWN)}


def command(args: str) -> str:
    """A container's start command for /bin/sh. JSON of cmd and entrypoint, or words as a shell splits them
    (docs pods/templates/manage-templates.mdx, "Container start command"). "": the image's own, which waits.

    Raises Refused 400 for a command that cannot be read.
    """
    try:
        told = json.loads(args)
        words = [*told.get("entrypoint", []), *told.get("cmd", [])]
    except (ValueError, AttributeError):
        try:
            words = shlex.split(args)
        except ValueError:
            raise Refused(400, "args cannot be parsed") from None
    return "exec " + (shlex.join(map(str, words)) if words else "sleep 1000000")


def identifier() -> str:
    """14 characters, as RunPod's ids are."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(14))


def only(body: Mapping[str, Any], known: Collection[str]) -> None:
    """``unevaluatedProperties: false``. Raises Refused 422."""
    for name in body:
        if name not in known:
            raise Refused(422, f"$: additional properties '{name}' not allowed")


def named(body: Mapping[str, Any]) -> None:
    """Raises Refused 422 for a body without a name."""
    if not isinstance(body.get("name"), str) or not body["name"]:
        raise Refused(422, "$: missing property 'name'")


def dollars(nano: int) -> float:
    """For JSON: a double holds whole nano-dollars exactly enough to be read back, up to $1 million."""
    return nano / NANO
