"""What Google's command line for Colab speaks, on loopback, and whose runtimes they are.

Guarantee: each write takes a token that was given out for one write. Evidence: google-colab-cli 0.7.5,
client.py: /tun/m/{assign, assignments, unassign, ccu-info}, bodies behind ")]}'", a GET for the token of each
POST (X-Goog-Colab-Token); the codes of a refusal are those that it looks for: 412 for too many, 400 for an
accelerator that an account may not have (commands/session.py:120-160).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accel.sandbox.colab_runtimes import Runtimes, Vm
from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.wire import Refused

PREFIX = ")]}'\n"
ACCELERATORS = ("T4", "L4", "A100", "G4", "H100")
SHAPES = ("SHAPE_STANDARD", "SHAPE_HIGHMEM")
# what a free account may have, and one with a balance or a subscription; ours, after the FAQ's words
OPEN_TO = {"FREE": ("T4",), "PAID": ("T4", "L4", "A100")}


@dataclass(slots=True)
class Account:
    """Whose runtimes they are. tokens: access token → epoch seconds of its end; None: it has none.

    balance: compute units; None: not told. rate: units an hour of one runtime. limit: runtimes at once.
    """

    tier: str
    balance: float | None
    tokens: dict[str, float | None]
    client_id: str
    client_secret: str
    refresh_token: str
    rate: float = 1.96
    revoked: bool = False
    tickets: set[str] = field(default_factory=set)  # X-Goog-Colab-Token's, for one write each

    @property
    def paid(self) -> bool:
        """More than the free tier."""
        return self.tier in ("PRO", "PRO_PLUS") or bool(self.balance)

    @property
    def limit(self) -> int:
        return 2 if self.paid else 1

    def may_have(self, key: Mapping[str, Any]) -> bool:
        """Whether it is eligible for a spec."""
        kind = "PAID" if self.paid else "FREE"
        if key["shape"] == "SHAPE_HIGHMEM" and not self.paid:
            return False
        return key["variant"] == "VARIANT_CPU" or key["accelerator"] in OPEN_TO[kind]


class Tunnel:
    """One account's runtimes, as the command line sees them. address: where a runtime is reached."""

    def __init__(
        self, runtimes: Runtimes, account: Account, address: Callable[[Vm], str]
    ) -> None:
        self._runtimes, self._account, self._address = runtimes, account, address

    async def answer(
        self, call: str, path: str, asked: Mapping[str, str], given: str, fault: Fault | None
    ) -> Any:  # fmt: skip
        """One call, as ``colab_wire.CALLS`` names it. given: the token of a write."""
        if call == "CcuInfo":
            if self._account.balance is None:
                raise Refused(403, "the balance is not told")
            n = len(self._runtimes.all())
            return {"currentBalance": self._account.balance, "consumptionRateHourly": n * self._account.rate,
                    "assignmentsCount": n}  # fmt: skip
        if call == "ListAssignments":
            shown = self._runtimes.shown()
            return {"assignments": [self._assigned(vm) | {"machineShape": 0} for vm in shown]}
        if call in ("Assign", "Unassign"):
            if given not in self._account.tickets:
                raise Refused(403, "the XSRF token is missing")
            self._account.tickets.discard(given)
        ticket = secrets.token_hex(16)
        if call in ("GetUnassign", "Unassign"):
            vm = next((v for v in self._runtimes.all() if _endpoint(v) == path.rpartition("/")[2]), None)
            if vm is None:
                raise Refused(404, "there is no such assignment")
            if call == "GetUnassign":
                self._account.tickets.add(ticket)
                return {"token": ticket}
            await self._runtimes.end(vm.id)
            return {}
        ident = f"nb-{asked.get('nbh', '').strip('.').replace('_', '-')}"
        if (vm := self._runtimes.ordered(ident)) is not None:
            return {k: v for k, v in self._assigned(vm).items() if k in ("endpoint", "runtimeProxyInfo")}
        accelerator, variant = asked.get("accelerator", "NONE"), asked.get("variant", "DEFAULT")
        if call == "GetAssignment":
            self._account.tickets.add(ticket)
            return {"acc": accelerator, "nbh": asked.get("nbh", ""), "token": ticket, "variant": variant}
        kind = "VARIANT_CPU" if accelerator == "NONE" else "VARIANT_GPU"
        shape = SHAPES[asked.get("shape") == "hm"]
        key = {"variant": kind, "accelerator": accelerator, "shape": shape}
        if key not in specs() or not self._account.may_have(key):
            raise Refused(400, "not entitled to this accelerator")
        refused = fault is not None and fault.kind in (FaultKind.SESSION_COUNT, FaultKind.REFUSE_PUSH)
        if refused or len(self._runtimes.all()) >= self._account.limit:
            raise Refused(412, "too many assignments")
        vm = await self._runtimes.make(ident, key, cold_s=0.0)
        await self._runtimes.ready(vm)  # the answer to this POST is a runtime that can be used
        return self._assigned(vm)

    def _assigned(self, vm: Vm) -> dict[str, Any]:
        self._runtimes.fresh(vm)
        left = max(0, round(vm.expires_at - self._runtimes.now()))
        return {
            "accelerator": vm.spec["accelerator"], "endpoint": _endpoint(vm),
            "variant": int(vm.spec["variant"] == "VARIANT_GPU"),
            "runtimeProxyInfo": {"token": vm.token, "tokenExpiresInSeconds": left, "url": self._address(vm)},
        }  # fmt: skip


def _endpoint(vm: Vm) -> str:
    return f"gpu-t4-s-{vm.id}"


def specs() -> list[dict[str, str]]:
    """Every spec, as the API lists them."""
    cpu = [{"variant": "VARIANT_CPU", "accelerator": "NONE", "shape": shape} for shape in SHAPES]
    return cpu + [
        {"variant": "VARIANT_GPU", "accelerator": name, "shape": shape}
        for name in ACCELERATORS for shape in SHAPES
    ]  # fmt: skip
