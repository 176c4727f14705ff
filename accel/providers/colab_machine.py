"""The way to the runtimes that were ordered. Guarantee: a runtime that is gone is told from one that is
silent.

Orders are followed by their operations, servers reached with a token that lasts; both are kept in memory
only, and a process that knows neither asks the API.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from urllib.parse import urlsplit

from accel.core.errors import NoCapacity, Preempted, Unauthorised, Unreachable
from accel.core.lease import Lease
from accel.core.runtime import Runtime
from accel.providers.base import JobState, Progress
from accel.providers.colab_auth import NAME
from accel.providers.colab_calls import ColabCalls, Exists, Machine, Operation
from accel.providers.colab_jupyter import Jupyter
from accel.providers.transport import NotFound

T = TypeVar("T")
REFRESH_BEFORE = timedelta(seconds=120)
STATES = {"running": JobState.RUNNING, "done": JobState.DONE, "failed": JobState.FAILED}


class ColabMachines:
    """scheme: of a runtime's address. Durations: see ``colab.ColabProvider``."""

    def __init__(
        self, calls: ColabCalls, runtime: Runtime, *, scheme: str, call_s: float, boot_s: float,
        settle_s: float, poll_s: float,
    ) -> None:  # fmt: skip
        self._calls, self._runtime, self._scheme, self._call_s = calls, runtime, scheme, call_s
        self._boot_s, self._settle_s, self._poll_s = boot_s, settle_s, poll_s
        self.orders: dict[str, Operation] = {}  # by lease name: as it was last told
        self._ends: dict[str, Jupyter] = {}
        self._begun: set[str] = set()

    async def aclose(self) -> None:
        """Close the kept connections."""
        for end in self._ends.values():
            await end.aclose()
        self._ends.clear()

    async def order(self, name: str) -> Operation | None:
        """The making of a runtime, as it is now; None where nothing is known of it. One request at most."""
        order = self.orders.get(name)
        if order is not None and not order.done:
            try:
                order = self.orders[name] = await self._calls.operation(order.name)
            except NotFound:
                del self.orders[name]
                return None
        return order

    async def up(self, lease: Lease) -> None:
        """Wait until the runtime can be reached. Raises NoCapacity, Preempted, or what its order met."""
        clock = asyncio.get_running_loop().time
        ends = clock() + self._boot_s
        while lease.name not in self._ends:
            order = await self.order(lease.name)
            if order is not None and order.error is not None and not isinstance(order.error, Exists):
                raise order.error
            machine = order.machine if order is not None else None
            if (machine is None or machine.connection is None) and (order is None or order.done):
                machine = await self._calls.runtime(lease.remote_id)
                # an order that another process made may take as long as any to be shown
                young = (self._runtime.now() - lease.created_at).total_seconds() < self._boot_s
                if machine is None and (order is not None or not young):
                    raise Preempted("the runtime is gone.", provider=NAME)
            if machine is not None and machine.connection is not None:
                self._adopt(lease.name, machine)
                return
            if clock() > ends:
                raise NoCapacity(f"the runtime was not up within {self._boot_s:g} s.", provider=NAME)
            await asyncio.sleep(self._poll_s)

    def begun(self, lease: Lease) -> None:
        """Its job has begun: from now on, a runtime that is not there was taken away."""
        self._begun.add(lease.name)

    async def progress(self, lease: Lease) -> Progress:
        """See ``RunsBatch.poll``. One request, and another where the first leaves a doubt."""
        if lease.name not in self._ends:
            order = self.orders.get(lease.name)
            if order is not None and not order.done:
                await self.order(lease.name)
                return Progress(JobState.QUEUED)
            machine = await self._calls.runtime(lease.remote_id)
            if machine is None:
                return self._gone(lease)
            self._adopt(lease.name, machine)
            return Progress(JobState.QUEUED)
        told = await self.at(lease, lambda end: end.state(lease.name))
        if told is None:  # not begun; or is there nothing behind that address any more?
            if lease.name in self._begun and await self._calls.runtime(lease.remote_id) is None:
                return self._gone(lease)
            return Progress(JobState.QUEUED)
        state = STATES.get(str(told["state"]))
        if state is None:
            raise Unreachable("what its job tells cannot be read.", provider=NAME)
        self._begun.add(lease.name)
        return Progress(state, " ".join(str(told.get("message", "")).split())[:300])

    async def at(self, lease: Lease, do: Callable[[Jupyter], Awaitable[T]]) -> T:
        """``do`` at the runtime's server; with a new token where the old one ends or is refused.

        Raises Preempted when there is no such runtime any more.
        """
        end = self._ends.get(lease.name)
        if end is None or self._runtime.now() > end.connection.expires_at - REFRESH_BEFORE:
            end = await self._anew(lease)
        try:
            return await do(end)
        except (Unreachable, Unauthorised) as failed:
            token = end.connection.token
            end = await self._anew(lease)
            if not isinstance(failed, Unauthorised) or end.connection.token == token:
                raise
            return await do(end)

    async def drop(self, name: str) -> None:
        """Forget a runtime that was given back."""
        await self._forget(name)
        self._begun.discard(name)
        self.orders.pop(name, None)

    def too_new_s(self, lease: Lease) -> int:
        """Seconds until Colab's silence about a runtime means that there is none; 0 when it does."""
        age_s = (self._runtime.now() - lease.created_at).total_seconds()
        return max(0, math.ceil(self._settle_s - age_s))

    async def _anew(self, lease: Lease) -> Jupyter:
        machine = await self._calls.runtime(lease.remote_id)
        if machine is None:
            await self._forget(lease.name)
            raise Preempted("Colab took the runtime away.", provider=NAME)
        if machine.connection is None:
            raise Unreachable("the runtime cannot be reached yet.", provider=NAME)
        await self._forget(lease.name)
        self._adopt(lease.name, machine)
        return self._ends[lease.name]

    def _adopt(self, name: str, machine: Machine) -> None:
        way = machine.connection
        if way is None:
            return
        host = urlsplit(way.url)
        if host.scheme != self._scheme or not host.hostname:
            raise Unreachable("the runtime's address is not one of Colab's.", provider=NAME)
        self._ends[name] = Jupyter(way, self._runtime.offload, self._call_s)

    async def _forget(self, name: str) -> None:
        if (end := self._ends.pop(name, None)) is not None:
            await end.aclose()

    def _gone(self, lease: Lease) -> Progress:
        if lease.name in self._begun:
            raise Preempted("Colab took the runtime away.", provider=NAME)
        return Progress(JobState.ABSENT)
