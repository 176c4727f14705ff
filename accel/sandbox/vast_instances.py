"""The instances of a sandbox Vast.ai. Guarantee: each contract runs on one machine here, and is billed once.

Evidence, unless a line says otherwise: vastai 1.9.1 as installed (``instances`` = vastai/api/instances.py,
``row`` = vastai/data/instance.py, ``skill`` = vastai/SKILL.md). What a contract is called on the wire stands
here; that it really runs and what it costs, in ``sandbox.machines``.

Ours, because nobody publishes it: a contract is billed from its order on, not from the end of the image's
download; an exited container bills its disk (skill: "disk charges accrue"), and so does a stopped one.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from typing import Any

from accel.sandbox.machines import EXITED, GONE, PROVISIONING, RUNNING, STOPPED, Machine, Machines
from accel.sandbox.vast_market import NANO, Market, Slot

FIRST_CONTRACT = 7_800_000
ONSTART_CHARS = 4048  # docs.vast.ai/api-reference, Key Quirks, read 2026-11-24
PRICES = (NANO // 1000, 128 * NANO)  # docs.vast.ai/api-reference/instances/create-instance, 2026-11-24
DISK_BILLS = (STOPPED, EXITED)


class VastRefused(Exception):
    """An error answer: HTTP status, code and words, and what else its body holds."""

    def __init__(self, status: int, code: str, words: str, **more: Any) -> None:
        self.status, self.body = status, {"success": False, "error": code, "msg": words, **more}
        super().__init__(words)


class Instances:
    """Contracts by number. cold_s: nominal seconds until a container runs, None for never."""

    def __init__(self, machines: Machines, *, drift: float, seed: int, cold_s: float | None) -> None:
        self.machines, self.cold_s = machines, cold_s
        self.market = Market(self._used, drift=drift, seed=seed)
        self.keys: dict[str, str] = {}  # instance → its own key; never on disk

    def _used(self, slot: int) -> tuple[int, bool]:
        had = [m for m in self.machines.all() if m.words["slot"] == slot]
        return len(had), any(m.state != GONE for m in had)

    def rented(self) -> list[Machine]:
        """What exists now, and so bills: all but what was destroyed."""
        return [m for m in self.machines.all() if m.state != GONE]

    def get(self, ident: str) -> Machine | None:
        """A contract that exists."""
        machine = self.machines.get(ident)
        return machine if machine is not None and machine.state != GONE else None

    # --- create

    def create(self, ask: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT /asks/{id}/ (instances:233-312). Raises VastRefused.

        A bid below the least one is refused, and yet leaves a stopped contract that bills its disk (dstack
        0.22.5, backends/vastai/api_client.py:18-31): whatever ``cancel_unavail`` asks for, because nobody
        says that it helps there. The status and the code of that answer are ours.
        """
        slot, known = self.market.find(ask)
        if slot is None and known:
            raise VastRefused(410, "no_longer_available", f"offer {ask} is rented.", ask_id=ask)
        if slot is None:
            raise VastRefused(404, "no_such_ask", f"no offer {ask}.", ask_id=ask)
        disk, price = body.get("disk") or 10, body.get("price")
        command, env, ports = _container(body)
        if not 8 <= disk <= 400:
            raise VastRefused(400, "invalid_args", "disk is from 8 to 400 GB.", ask_id=ask)
        bid = None if price is None else round(price * NANO)
        if bid is not None and not PRICES[0] <= bid <= PRICES[1]:
            raise VastRefused(400, "invalid_price", "a price is from 0.001 to 128 $/h.", ask_id=ask)
        taken = bid is None or bid >= slot.min_bid
        ident = str(FIRST_CONTRACT + len(self.machines.all()))
        key = self.keys[ident] = secrets.token_hex(32)
        # what a container is told of itself: vastai/serverless/server/lib/metrics.py:23-35. Its network is
        # this machine's, of which it gets loopback alone.
        own = {
            "CONTAINER_ID": ident, "CONTAINER_API_KEY": key, "PUBLIC_IPADDR": "127.0.0.1",
            "ACCEL_HOST": "127.0.0.1",
        }  # fmt: skip
        disk_nano = slot.disk_nano(disk)
        self.machines.rent(
            ident, str(body.get("label") or ""), command=command, env={**env, **own}, ports=ports,
            nano_per_hour=(slot.base if bid is None else bid) + disk_nano, disk_nano_per_hour=disk_nano,
            cold_s=self.cold_s, stopped=not taken,
            words={"slot": slot.number, "ask": ask, "bid": bid, "disk": disk, "image": body.get("image"),
                   "env": sorted(env), "asked": "running" if taken else "stopped", "status": "", "msg": ""},
        )  # fmt: skip
        made = {"new_contract": int(ident), "instance_api_key": key}
        if not taken:
            least = slot.min_bid / NANO
            raise VastRefused(400, "bid_too_low", f"the bid is below {least:.4f} $/h.", ask_id=ask, **made)
        return {"success": True, **made}

    # --- what can be done with one

    async def stop(self, machine: Machine) -> None:
        """Its processes end; it bills its disk."""
        machine.words["asked"] = "stopped"
        if machine.state in (PROVISIONING, RUNNING):
            await self.machines.stop(machine.id)
        self.machines.save(machine)

    def start(self, machine: Machine) -> None:
        """Run it again, unless another bid holds its GPU. Raises VastRefused."""
        slot = self.slot(machine)
        bid = machine.words["bid"]
        if bid is not None and bid < slot.min_bid:
            raise VastRefused(400, "bid_too_low", f"the bid is below {slot.min_bid / NANO:.4f} $/h.")
        machine.words["asked"] = "running"
        if machine.state in (STOPPED, EXITED):
            self.machines.start(machine.id)

    def bid(self, machine: Machine, price: float | None) -> None:
        """PUT /instances/bid_price/{id}/ (instances:369-372): None bids what wins. One that wins runs again.

        Raises VastRefused for an on-demand contract, or a price that cannot be.
        """
        if machine.words["bid"] is None:
            raise VastRefused(400, "invalid_args", "not an interruptible instance.")
        slot = self.slot(machine)
        bid = slot.min_bid if price is None else round(price * NANO)
        if not PRICES[0] <= bid <= PRICES[1]:
            raise VastRefused(400, "invalid_price", "a price is from 0.001 to 128 $/h.")
        machine.words["bid"] = bid
        self.machines.reprice(machine.id, bid + machine.disk_nano_per_hour)
        if machine.why == "preempted" and machine.state == STOPPED and bid >= slot.min_bid:
            self.start(machine)

    async def outbid(self, machine: Machine, notice_s: float = 0.0) -> None:
        """Somebody bids more: it is paused, its disk kept and billed. On-demand ones are simply taken."""
        bid = machine.words["bid"]
        if bid is not None:
            self.slot(machine).rival = bid
        machine.words["asked"] = "stopped"
        await self.machines.preempt(machine.id, notice_s, keep=True)

    async def destroy(self, machine: Machine) -> None:
        """DELETE /instances/{id}/: unless it is told to be stuck, which nothing but a test does."""
        if not machine.words.get("stuck"):
            await self.machines.destroy(machine.id)
            self.keys.pop(machine.id, None)

    def slot(self, machine: Machine) -> Slot:
        """Where it runs."""
        return self.market.slots[machine.words["slot"]]

    # --- what is told of one

    def row(self, machine: Machine) -> dict[str, Any]:
        """One instance, with every field that the SDK or the command line reads (row:52-101)."""
        slot, words = self.slot(machine), machine.words
        runs = machine.state == RUNNING
        held = "stopped" if machine.state == STOPPED else "running"
        now = self.machines.now()
        port = {f"{private}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(public)}]
                for private, public in machine.ports.items()}  # fmt: skip
        offer = self.market.row(slot, "on-demand", words["disk"])
        shared = ("machine_id", "host_id", "gpu_name", "num_gpus", "gpu_ram", "gpu_arch", "cuda_max_good",
                  "driver_version", "cpu_cores_effective", "cpu_ram", "inet_up", "inet_down", "geolocation",
                  "verification", "reliability2", "dlperf", "storage_cost", "min_bid")  # fmt: skip
        return {
            **{name: offer[name] for name in shared},
            "id": int(machine.id), "label": machine.name or None, "actual_status": self._status(machine),
            "cur_state": held, "next_state": words["asked"], "intended_status": words["asked"],
            "status_msg": words["msg"] or f"success, {words['image']}", "image_uuid": words["image"],
            "image_runtype": "args", "image_args": None, "onstart": None, "is_bid": words["bid"] is not None,
            "extra_env": [[k, machine.env[k]] for k in words["env"] if k in machine.env],
            "start_date": machine.made_at, "end_date": machine.made_at + slot.days * 86400,
            "duration": now - machine.made_at,
            "uptime_mins": (now - machine.runs_since) / 60 if runs else None,
            "public_ipaddr": "127.0.0.1\n" if runs else None,  # to be stripped: dstack compute.py, 0.22.5
            "ports": port if runs else None, "direct_port_start": None, "direct_port_end": None,
            "local_ipaddrs": [], "ssh_host": "ssh4.vast.ai", "ssh_port": 10_000 + slot.number,
            "ssh_idx": "4", "gpu_util": 0.0, "gpu_temp": 40.0, "cpu_util": 0.0, "disk_space": words["disk"],
            "disk_util": 0.0, "disk_usage": 0.1, "mem_usage": None, "mem_limit": None, "vmem_usage": None,
            "jupyter_token": None, "template_id": None, "template_hash_id": None, "template_name": None,
            "volume_info": [], "dph_total": machine.nano_per_hour / NANO,
            "dph_base": (machine.nano_per_hour - machine.disk_nano_per_hour) / NANO,
            "storage_total_cost": machine.disk_nano_per_hour / NANO,
        }  # fmt: skip

    def _status(self, machine: Machine) -> str | None:
        """``actual_status`` (skill, Instance status values); null, then loading, while it is made."""
        if machine.words["status"]:
            return str(machine.words["status"])
        if machine.state == PROVISIONING:
            third_s = (machine.cold_s or 30.0) / 3 / self.machines.time_scale
            return None if self.machines.now() < machine.made_at + third_s else "loading"
        return {RUNNING: "running", EXITED: "exited", STOPPED: "stopped"}[machine.state]

    def charges(self) -> list[dict[str, Any]]:
        """One row a contract, whatever became of it (vastai/cli/commands/billing.py:138-165, 193-215)."""
        now = self.machines.now()
        return [
            {"type": "instance", "source": f"instance-{m.id}", "description": f"Instance {m.id}",
             "amount": m.invoice(now) / NANO, "start": m.made_at,
             "end": m.ended_at if m.state == GONE else None, "metadata": {}, "items": []}
            for m in self.machines.all()
        ]  # fmt: skip


def _container(body: Mapping[str, Any]) -> tuple[str, dict[str, str], list[int]]:
    """(command for a shell, environment, ports) of a create call's body. Raises VastRefused.

    env holds both: {"A": "1", "-p 8000:8000": "1"} (vastai/utils.py:148-184). With runtype "args" onstart
    is the entry point and args are its arguments (``instances``, create; dstack api_client.py:83-90).
    """
    onstart, args = body.get("onstart") or "", body.get("args") or []
    if not body.get("image") or not isinstance(args, list) or len(onstart) > ONSTART_CHARS:
        raise VastRefused(400, "invalid_args", "no image, odd args, or more than 4048 characters of onstart.")
    given = body.get("env") or {}
    env = {str(k): str(v) for k, v in given.items() if not k.startswith("-")}
    ports = [int(k.split(":")[1].split("/")[0]) for k in given if k.startswith("-p ")]
    if body.get("runtype") == "args":
        return shlex.join([onstart, *map(str, args)]) if onstart else "sleep 86400", env, ports
    return f"{onstart}\nexec sleep 86400", env, ports  # ssh keeps the container; its server is not imitated
