"""One rented machine at Vast.ai, from its order to the far end on it. Guarantee: one given up is destroyed.

What an order says, what the states mean, and how a machine is reached. Evidence: vastai 1.9.1,
api/instances.py:233-290 for the order's body; dstack 0.22.5, backends/vastai/api_client.py:78-102 for a
command as "args"; docs.vast.ai/api-reference (2026-11-24) for what the fields may hold.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from accel.core.errors import NoCapacity, Preempted, ProviderError, RateLimited, Rejected, Unreachable
from accel.core.lease import Intent, Lease
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.providers.base import JobState, Progress
from accel.providers.far_end import FarEnd
from accel.providers.reach import LOOPBACK
from accel.providers.transport import pinned
from accel.providers.vast_calls import NAME, SEALED, Instance, VastCalls, seal, unseal
from accel.worker import start

ONSTART_CHARS = 4048  # docs.vast.ai/api-reference, "Key Quirks", 2026-11-24
SLACK = 1_000  # nano-dollars an hour by which two ways of rounding may differ
LONGEST = timedelta(days=1)  # for an instance that does not tell when it ends
QUIET_S = 30.0  # how long a control plane may be silent while a machine is waited for
SLICE_S = 5.0  # of waiting for the far end, between two looks at its machine
# before ``boot``: an environment is one word on its way (``vast_calls.seal``)
UNSEAL = f'import os,json,base64;os.environ.update(json.loads(base64.b64decode(os.environ["{SEALED}"])));'


def lease_of(intent: Intent, contract: int, realm: Realm) -> Lease:
    """The lease of an order. It ends by itself when what is reserved is over, which counts from the order."""
    ends_by = intent.created_at + timedelta(seconds=intent.lifetime_s)
    return Lease(intent.id, NAME, realm, intent.name, str(contract), intent.created_at, ends_by)


def listed_lease(instance: Instance, realm: Realm) -> Lease:
    """A lease of which nothing is known but its instance, which was told when it ends."""
    told = unseal(instance.env.get(SEALED, "")).get("ACCEL_ENDS_AT", "")
    ends = datetime.fromtimestamp(int(told), UTC) if told.isdigit() else instance.began + LONGEST
    return Lease(instance.label, NAME, realm, instance.label, str(instance.id), instance.began, ends)


def body(
    intent: Intent, *, image: str, wheel: bytes, token: str, certificate: tuple[str, str], url: str,
    idle_s: float, needs: str, disk_gb: float, bid: int | None,
) -> dict[str, Any]:  # fmt: skip
    """The body of PUT /asks/{id}/. bid: nano-dollars an hour, None on demand. Holds the lease's secrets.

    The machine destroys itself with the key that Vast.ai gives it: CONTAINER_API_KEY opens GET, PUT and
    DELETE of this one instance (vast-ai/base-image, its provisioner's "destroy", read 2026-11-24).
    ``cancel_unavail``: an error rather than a stopped contract, where Vast.ai heeds it (docs: off by default
    for bids).
    """
    end = {
        "method": "DELETE", "url": f"{url}/api/v0/instances/{{CONTAINER_ID}}/", "body": "{}",
        "headers": {"Authorization": "Bearer {CONTAINER_API_KEY}", "Content-Type": "application/json"},
    }  # fmt: skip
    env = start.environment(
        token=token, wheel=wheel, lifetime_s=intent.lifetime_s, idle_s=idle_s,
        ends_by=intent.created_at + timedelta(seconds=intent.lifetime_s),
        end=end, certificate=certificate, needs=needs,
    )  # fmt: skip
    port = env.pop("ACCEL_PORT")
    command = UNSEAL + start.source()
    if len(command) > ONSTART_CHARS:
        raise Rejected(f"the start command has {len(command):,} characters; {ONSTART_CHARS:,} may be.",
                       provider=NAME)  # fmt: skip
    return {
        "client_id": "me", "image": image, "disk": disk_gb, "label": intent.name, "runtype": "args",
        "onstart": "python3", "args": ["-c", command], "price": None if bid is None else bid / 10**9,
        "env": {SEALED: seal(env), "ACCEL_PORT": port, f"-p {port}:{port}": "1"},
        "cancel_unavail": True, "force": False, "user": None, "image_login": None, "extra": None,
        "python_utf8": False, "lang_utf8": False, "use_jupyter_lab": False, "jupyter_dir": None,
        "template_hash_id": None,
    }  # fmt: skip


class VastMachines:
    """The machines of one account. here: a sandbox's, which are on this machine. boot_s, poll_s: see
    ``VastProvider``."""

    def __init__(
        self, calls: VastCalls, *, token: Callable[[str], str],
        certificate: Callable[[str], tuple[str, str]], here: bool, boot_s: float, poll_s: float,
    ) -> None:  # fmt: skip
        self._calls, self._token, self._certificate, self._here = calls, token, certificate, here
        self._boot_s, self._poll_s = boot_s, poll_s
        self._far: dict[str, FarEnd] = {}  # by instance

    async def aclose(self) -> None:
        """Close the kept connections."""
        for ident in list(self._far):
            await self.drop(ident)

    async def drop(self, ident: str) -> None:
        """Forget how one is reached."""
        if (far := self._far.pop(ident, None)) is not None:
            await far.aclose()

    async def up(self, lease: Lease, wheel: bytes, agreed: int | None) -> FarEnd:
        """Wait until the machine is up and has its wheel. agreed: nano-dollars an hour it may cost at most.

        Raises NoCapacity for one that does not come up, is dead, or is dearer: it is destroyed then.
        Preempted: it was outbid, and is destroyed, too.
        """
        clock = asyncio.get_running_loop().time
        ends = clock() + self._boot_s
        while True:
            far = await self._running(lease, ends, agreed)
            within_s = min(SLICE_S, ends - clock())
            try:
                await far.come_up(lambda: wheel, within_s, min(self._poll_s, 1.0))
                return far
            except NoCapacity as late:
                if clock() + self._poll_s >= ends:
                    await self._give_up(lease, late.message.removeprefix(f"{NAME}: "))

    async def _running(self, lease: Lease, ends: float, agreed: int | None) -> FarEnd:
        """How the machine is reached, once it runs."""
        clock = asyncio.get_running_loop().time
        heard, seen = clock(), "nothing"
        while True:
            try:
                instance = await self._calls.instance(lease.remote_id)
            except (Unreachable, RateLimited) as silent:
                if clock() - heard > min(QUIET_S, self._boot_s):
                    raise
                await asyncio.sleep(min(silent.retry_after_s or 0.0, QUIET_S, max(0.0, ends - clock())))
            else:
                heard = clock()
                if instance is None:
                    raise NoCapacity("the instance is gone before it ran.", provider=NAME)
                await self._not_outbid(instance)
                if agreed is not None and instance.nano_per_hour > agreed + SLACK:
                    now = dollars(NanoUSD(instance.nano_per_hour))
                    await self._give_up(lease, f"it costs {now} an hour, and was offered for "
                                               f"{dollars(NanoUSD(agreed))}.")  # fmt: skip
                if instance.failed:
                    await self._give_up(lease, f"it will not run: {instance.failed}.")
                if _is_up(instance):
                    return self._reach(lease, instance)
                seen = instance.status or "provisioning"
            if clock() + self._poll_s > ends:
                await self._give_up(lease, f"it did not run within {self._boot_s:g} s: {seen}.")
            await asyncio.sleep(self._poll_s)

    async def progress(self, lease: Lease) -> Progress:
        """The job as its machine tells it; before there is one, QUEUED. Raises Preempted, Unreachable."""
        instance = await self._calls.instance(lease.remote_id)
        if instance is None or instance.label != lease.name:
            return Progress(JobState.ABSENT, "Vast.ai shows no such instance")
        await self._not_outbid(instance)
        if instance.status in ("unknown", "offline"):
            raise Unreachable(f"its host does not answer: {instance.failed}.", provider=NAME)
        if instance.failed:
            return Progress(JobState.FAILED, instance.failed)
        if not _is_up(instance):
            return Progress(JobState.QUEUED, instance.status or "provisioning")
        far = self._reach(lease, instance)
        try:
            return await far.poll_job()
        except Unreachable:
            if (health := await far.health()).state in ("installing", "waiting", "starting"):
                return Progress(JobState.QUEUED, health.state)
            raise

    async def reached(self, lease: Lease) -> FarEnd:
        """How a machine that runs is reached; one request. Raises Preempted, Unreachable."""
        instance = await self._calls.instance(lease.remote_id)
        if instance is None:
            raise Preempted("the instance is gone.", provider=NAME)
        await self._not_outbid(instance)
        if not _is_up(instance):
            raise Unreachable(f"the instance is {instance.status or 'provisioning'}.", provider=NAME)
        return self._reach(lease, instance)

    def known(self, lease: Lease) -> FarEnd | None:
        """How it was reached last."""
        return self._far.get(lease.remote_id)

    # --- inside

    def _reach(self, lease: Lease, instance: Instance) -> FarEnd:
        if (far := self._far.get(lease.remote_id)) is not None:
            return far
        if self._here and instance.ip not in LOOPBACK:
            raise Unreachable("a sandbox's machine is on this machine; this one is not.", provider=NAME)
        ip = f"[{instance.ip}]" if ":" in instance.ip else instance.ip
        made = FarEnd(
            f"https://{ip}:{instance.ports[start.PORT]}", self._token(lease.name), provider=NAME,
            verify=pinned(self._certificate(lease.name)[0]),
        )  # fmt: skip
        self._far[lease.remote_id] = made
        return made

    async def _not_outbid(self, instance: Instance) -> None:
        """We stop nothing: what is stopped was taken, and what is left of it bills its disk.

        dstack 0.22.5, compute.py: cur_state == intended_status == next_state == "stopped".
        """
        if not instance.stopped:
            return
        with contextlib.suppress(ProviderError):  # ``release`` sees to it again
            await self._calls.destroy(instance.id)
        await self.drop(str(instance.id))
        raise Preempted("the instance was stopped: outbid, or taken back by its host.", provider=NAME)

    async def _give_up(self, lease: Lease, why: str) -> NoReturn:
        with contextlib.suppress(ProviderError):
            await self._calls.destroy(lease.remote_id)
        await self.drop(lease.remote_id)
        raise NoCapacity(f"{why} It was given up.", provider=NAME)


def _is_up(instance: Instance) -> bool:
    return instance.status == "running" and start.PORT in instance.ports and bool(instance.ip)


def wheel_of(bundle: Path | None, pack: Callable[[], bytes]) -> bytes:
    """The one wheel that a machine takes: its job's, else this package's. Raises Rejected."""
    if bundle is None:
        return pack()
    try:
        return (bundle / "accel.whl").read_bytes()
    except OSError as bad:
        raise Rejected(f"the bundle has no wheel ({type(bad).__name__}).", provider=NAME) from None
