"""Colab: one runtime at a time, within its terms. Guarantee: nothing runs unattended without a balance.

One runtime per job, its id the intent's name, so that a process that never saw the answer to the order finds
it, and an order that is repeated is the same one. Colab has no ``ServesLive``: its terms forbid serving. What
it is, and what that means here:
- Without a positive balance of compute units its terms want a person in front. ``probe`` is then unfit unless
  there is somebody to ask (``confirm``), and ``create`` asks, each time. A balance, or a tier, that is not
  told counts as free. Free is one runtime at once, whoever made it.
- A runtime can be taken away at any time, without a word: what does not answer any more is asked for at the
  API, and is ``Preempted`` when it is gone.
- The token of a runtime lasts about an hour, and is fetched anew (``runtimes.get``) before it ends, or once
  it is refused.
- A runtime that is being made may not be shown: ``find`` and ``release`` do not believe that there is none
  while the order is younger than ``settle_s`` and its operation is not known to have ended.
- What began gives itself back ``GRACE_S`` after its lifetime (``worker.kernel_job``). A runtime on which
  nothing began cannot: only ``release`` and ``leases``, and Colab's own idle limit, see to that.

Wire facts stand in ``providers.colab_calls`` and ``providers.colab_jupyter``. Never run live.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path

from accel.core.errors import ProviderError, Rejected, Unauthorised, Unreachable, UsageError
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Need
from accel.providers import terms
from accel.providers.base import Fetched, Progress
from accel.providers.colab_auth import GOOGLE, NAME, Bearer, ColabCredentials
from accel.providers.colab_calls import API, FRONT, Account, ColabCalls, Exists, Machine
from accel.providers.colab_jupyter import Jupyter
from accel.providers.colab_machine import ColabMachines
from accel.providers.colab_offers import UNITS, UnitRate, offered, one_question, unfit
from accel.providers.reach import check_endpoint
from accel.worker.bundle import Bundle
from accel.worker.kernel_job import GRACE_S, manifest

Confirm = Callable[[str], bool]
NO_KEY = ("no credentials: set COLAB_API_KEY to an access token, to the file of an authorised user, or to "
          "\"adc\"; or COLAB_CLI to the program of Google's command line")  # fmt: skip
PREFIX = "accel-"
# RFC 1034 as the document has it: 1 to 63 characters, a letter first, a letter or digit last
NAME_RULE = re.compile(r"accel-[a-z0-9-]{0,56}[a-z0-9]")
MAX_LIFETIME_S = 12 * 3600 - GRACE_S  # "up to 12 hours" (Colab FAQ, resource limits; free of charge)
# Ours: what an idle runtime is kept for is not published, about 90 minutes by its users' account.
IDLE_ALLOWANCE_S = 5400.0
ACCOUNT_FRESH_S = 60.0
COLD_PRIOR_S = 90.0  # until attempts have measured it: nobody publishes it


def bundle_files(folder: Path) -> dict[str, bytes]:
    """What is uploaded of a bundle. Raises UsageError for what is none."""
    from accel.worker import kernel_job

    bundle = Bundle.open(folder)
    files = {n: (folder / n).read_bytes() for n in ("job.json", "inputs.safetensors")}
    files |= {"accel.whl": bundle.wheel, "run.py": Path(kernel_job.__file__).read_bytes()}
    return {**files, "manifest.json": manifest(files)}


class ColabProvider:
    """See the module's guarantee. Meets ``Provider`` and ``RunsBatch``.

    endpoint: loopback URL of a sandbox with realm SANDBOX, None with realm REAL (SettingsError for any other
    pair). confirm: puts a yes-or-no question to the person in front, in a thread; None: there is nobody.
    units: accelerator → compute units an hour, where they are known. cold_s: until its first useful
    instruction. call_s: one request. boot_s: a runtime that is not up by then is given up. settle_s: how long
    an order may not be shown yet (real: 300, our margin). poll_s: between two looks.
    """

    name = NAME

    def __init__(
        self, *, credentials: ColabCredentials, runtime: Runtime, realm: Realm = Realm.REAL,
        endpoint: str | None = None, accepted_terms: Collection[str] = (), confirm: Confirm | None = None,
        units: Mapping[str, UnitRate] = UNITS, cold_s: float = COLD_PRIOR_S, call_s: float = 30.0,
        boot_s: float = 600.0, settle_s: float | None = None, poll_s: float | None = None,
    ) -> None:  # fmt: skip
        check_endpoint("Colab", realm, endpoint)
        self.realm: Realm = realm
        self._runtime, self._accepted, self._confirm, self._units = runtime, accepted_terms, confirm, units
        self._credentials, self._cold_s = credentials, cold_s
        bearer = Bearer(credentials, runtime.now, endpoint or GOOGLE, call_s)
        self._calls = ColabCalls(bearer, endpoint or API, endpoint or FRONT, call_s)
        self._call_s = call_s
        self._poll_s = (3.0 if endpoint is None else 0.1) if poll_s is None else poll_s
        self._machines = ColabMachines(
            self._calls, runtime, scheme="http" if endpoint else "https", call_s=call_s, boot_s=boot_s,
            settle_s=(300.0 if endpoint is None else 20.0) if settle_s is None else settle_s,
            poll_s=self._poll_s,
        )  # fmt: skip
        self._account: tuple[float, Account] | None = None
        self._bundles: dict[str, Path | None] = {}
        self._agreed: set[str] = set()

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._machines.aclose()
        await self._calls.aclose()

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """Terms, then what the account may have: one request, and three more a minute."""
        now = self._runtime.now()
        try:
            if refusal := terms.check(self.name, need, self._accepted):
                return Unfit(self.name, self.realm, self._words(refusal), now)
            if reason := unfit(need):
                return Unfit(self.name, self.realm, reason, now)
            if not self._credentials:
                return Unfit(self.name, self.realm, NO_KEY, now, mendable=True)
            account = await self._known_account()
            if not account.unattended and self._confirm is None:
                return Unfit(self.name, self.realm, alone(account), now, mendable=True)
            busy = tuple(m.name for m in await self._calls.runtimes())
            return offered(account, busy, need, self.realm, now, cold_s=self._cold_s, units=self._units)
        except Unauthorised as error:
            return Unfit(self.name, self.realm, self._words(error), now, mendable=True)
        except ProviderError as error:
            return Unfit(self.name, self.realm, self._words(error), now)
        except Exception as error:  # probe never raises, whatever breaks
            return Unfit(self.name, self.realm, f"cannot be asked: {type(error).__name__}", now)

    async def create(self, intent: Intent) -> Lease:
        """Order the runtime, once whoever has to agree has. After Unreachable it may exist.

        Raises NoCapacity, QuotaExhausted, Rejected (also for a person who says no), Unauthorised, or what
        ``core.errors`` says of the connection. A refusal may come later, from ``start``.
        """
        self._check(intent)
        account = await self._known_account()
        if not account.unattended:
            await self._agree(intent, account)
        accelerator = intent.offer.id.rpartition("-")[2].upper()
        order = await self._calls.create(intent.name, accelerator)
        if order.error is not None and not isinstance(order.error, Exists):
            raise order.error
        self._machines.orders[intent.name], self._bundles[intent.name] = order, intent.bundle
        return self._lease(intent)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Unassign it; ``Released`` once Colab shows no such runtime, and none is being made."""
        ends, seen = asyncio.get_running_loop().time() + self._call_s, False
        try:
            while True:
                made = await self._machines.order(lease.name)  # one in the making cannot be unassigned yet
                shown = await self._calls.runtime(lease.remote_id)
                seen = seen or shown is not None or (made is not None and made.done)
                if shown is None and (seen or (made is None and not self._machines.too_new_s(lease))):
                    break
                if shown is not None:
                    await self._calls.delete(lease.remote_id)
                if asyncio.get_running_loop().time() > ends:
                    reason = "Colab still shows the runtime, or may be making it"
                    return Unconfirmed(lease.id, reason, lease.ends_by)
                await asyncio.sleep(self._poll_s if shown is None else 0.0)
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        await self._machines.drop(lease.name)
        self._bundles.pop(lease.name, None)
        return Released(lease.id, f"Colab shows no {lease.remote_id}")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Every runtime named accel-…. A list that lacks what exists is ``Unknown``."""
        try:
            listed = await self._calls.runtimes()
            for name in set(self._machines.orders) - {m.name.partition("/")[2] for m in listed}:
                if await self._calls.runtime(f"runtimes/{name}") is not None:
                    return Unknown(f"Colab does not list {name}, and yet shows it")
                if (order := await self._machines.order(name)) is not None and not order.done:
                    return Unknown(f"Colab is making {name}, and does not list it yet")
        except ProviderError as error:
            return Unknown(str(error))
        return tuple(self._listed(m) for m in listed if m.name.startswith(f"runtimes/{PREFIX}"))

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """See ``RunsBatch``. One request."""
        self._check(intent)
        self._bundles[intent.name] = intent.bundle
        known = self._machines.orders.get(intent.name)
        if known is not None and not known.done:
            order = await self._machines.order(intent.name)
            return None if order is None or order.error else self._lease(intent)
        if await self._calls.runtime(f"runtimes/{intent.name}") is not None:
            return self._lease(intent)
        if wait_s := 0 if known is not None else self._machines.too_new_s(self._lease(intent)):
            raise Unreachable("an order this young may not be shown yet.", provider=self.name,
                              retry_after_s=wait_s)  # fmt: skip
        return None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Wait for the runtime, give it the bundle, and have a kernel begin the job. Safe to repeat.

        Raises NoCapacity for a runtime that does not come up, Preempted for one that is gone.
        """
        bundle = bundle or self._bundles.get(lease.name)
        if bundle is None:
            raise Rejected("it runs bundles, not bare machines.", provider=self.name)
        try:
            files = await self._runtime.offload(bundle_files, bundle)
        except UsageError as bad:
            raise Rejected(bad.message, provider=self.name, hint=bad.hint) from bad
        await self._machines.up(lease)

        async def begin(end: Jupyter) -> None:
            if await end.state(lease.name) is None:
                await end.send(lease.name, files)
                await end.begin(lease.name, self._lifetime_s(lease))

        await self._machines.at(lease, begin)
        self._machines.begun(lease)

    async def poll(self, lease: Lease) -> Progress:
        """The job as its runtime tells it; QUEUED before there is one, ABSENT where there is no runtime.

        Raises Preempted for a runtime that this process saw, and that is gone.
        """
        return await self._machines.progress(lease)

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Every file of the job, checked by size and sha256."""
        return await self._machines.at(lease, lambda end: end.fetch(lease.name, into))

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``: a runtime without its job is of no use."""
        return await self.release(lease)

    # --- inside

    async def _known_account(self) -> Account:
        clock = asyncio.get_running_loop().time
        if self._account is None or clock() - self._account[0] > ACCOUNT_FRESH_S:
            self._account = clock(), await self._calls.account()
        return self._account[1]

    async def _agree(self, intent: Intent, account: Account) -> None:
        if intent.name in self._agreed:
            return
        if self._confirm is None:
            raise Rejected(f"{alone(account)}.", provider=self.name)
        if not await self._runtime.offload(self._confirm, one_question(account, intent)):
            raise Rejected("you said no to a runtime on the free tier.", provider=self.name)
        self._agreed.add(intent.name)

    def _check(self, intent: Intent) -> None:
        if not NAME_RULE.fullmatch(intent.name):
            raise Rejected(f"{intent.name!r} is no name of a runtime: {PREFIX}…, lower case, at most 63 "
                           "characters.", provider=self.name)  # fmt: skip
        if intent.bundle is None:
            raise Rejected("it runs bundles, not bare machines.", provider=self.name)
        if not 1 <= intent.lifetime_s <= MAX_LIFETIME_S:
            raise Rejected(f"a job lasts at most {MAX_LIFETIME_S / 3600:g} hours there, asked were "
                           f"{intent.lifetime_s:.0f} s.", provider=self.name)  # fmt: skip

    def _lease(self, intent: Intent) -> Lease:
        """Equal for ``create`` and ``find``: both know the intent and nothing else."""
        ends_by = intent.created_at + timedelta(seconds=intent.lifetime_s + IDLE_ALLOWANCE_S)
        remote = f"runtimes/{intent.name}"
        return Lease(intent.id, self.name, self.realm, intent.name, remote, intent.created_at, ends_by)

    def _lifetime_s(self, lease: Lease) -> float:
        return max(1.0, (lease.ends_by - lease.created_at).total_seconds() - IDLE_ALLOWANCE_S)

    def _listed(self, machine: Machine) -> Lease:
        """Colab does not tell when a runtime was made: it may be as young as now."""
        now, name = self._runtime.now(), machine.name.partition("/")[2]
        ends_by = now + timedelta(seconds=MAX_LIFETIME_S + GRACE_S)
        return Lease(name, self.name, self.realm, name, machine.name, now, ends_by)

    def _words(self, error: Exception) -> str:
        """An error's line without our name in front: an Unfit carries the name beside it."""
        return str(error).removeprefix(f"{self.name}: ")


def alone(account: Account) -> str:
    """Why nothing may run while nobody is there."""
    term = terms.find(NAME, terms.Use.UNATTENDED)
    assert term is not None
    left = "unknown (counts as none)" if account.balance is None else f"{account.balance:g}"
    return (
        f"its balance of compute units is {left}, and nobody is there to attend a free runtime: run it on a "
        f"terminal, or say --attended. Term: {term.clause} ({term.url}, read {term.read_on})"
    )
