"""accel as a contestant of the outage benchmark. Guarantee: the production engine, on its defaults.

Its loop, ledger file, breaker and cascade are those of ``GPUAccelerator``; nothing is told to it about the
outage. Of this benchmark is only ``EmbeddingsEndpoint``, a provider that speaks the servers' protocol.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path

import httpx
import numpy as np

from accel.core.errors import NoCapacity, RateLimited, Rejected, Unreachable
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import Rate, from_dollars
from accel.core.offer import Gpu, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.experiments.outage_contestant import DIMENSION, Ask, Plan, compete
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.wire import Envelope, pack_texts, unpack_texts

OURS = "accel"
SPEC = Spec(Stage.EMBED, model="bench", dimension=DIMENSION)
T4 = Gpu("T4", 1, 15 << 30, 75)
# Invented: that calls cost something, and that a limit is set, makes the ledger reserve and settle each.
DOLLARS_PER_HOUR = "0.16"
BUDGET = Limits({("", Period.MONTH): from_dollars("1")}, {})


class EmbeddingsEndpoint:
    """One OpenAI-shaped server as a provider. Meets ``Provider`` and ``StandsBy``.

    Its offer is a price list, as of any service that is billed per call: ``probe`` asks nothing over the
    wire. Nothing is tried twice here, and no time limit is set: both belong to the cascade.
    """

    realm = Realm.SANDBOX

    def __init__(self, name: str, url: str, runtime: Runtime) -> None:
        self.name, self._runtime = name, runtime
        transport = httpx.AsyncHTTPTransport(retries=0)
        self._client = httpx.AsyncClient(base_url=url, transport=transport, timeout=None, trust_env=False)

    async def probe(self, need: Need) -> Offer | Unfit:
        """Always the same offer."""
        now = self._runtime.now()
        return Offer(
            id=f"{self.name}-offer", provider=self.name, realm=self.realm, gpu=T4,
            rate=Rate(from_dollars(DOLLARS_PER_HOUR), now.date(), "invented"), as_of=now, source="invented",
            lanes=frozenset({Lane.LIVE}), resident=frozenset({need.model}),
        )  # fmt: skip

    def standing_lease(self) -> Lease:
        """Nothing is rented: calls are billed by their seconds."""
        now = self._runtime.now()
        return Lease(self.name, self.name, self.realm, self.name, self.name, now, now + timedelta(days=1))

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        """Embed. Raises Unreachable for no usable answer, 5xx among them, as the other adapters do."""
        texts = unpack_texts(request.tensors)
        try:
            answer = await self._client.post("/embeddings", json={"model": "bench", "input": texts})
        except httpx.TransportError as lost:
            raise Unreachable(f"{type(lost).__name__}", provider=self.name) from lost
        if answer.status_code == 429:
            raise RateLimited("HTTP 429", provider=self.name)
        if answer.status_code >= 500:
            raise Unreachable(f"HTTP {answer.status_code}", provider=self.name)
        if answer.status_code != 200:
            raise Rejected(f"HTTP {answer.status_code}", provider=self.name)
        rows = [row["embedding"] for row in answer.json()["data"]]
        return Envelope(request.task_id, request.spec, {"vectors": np.array(rows, np.float32)}, {})

    async def close(self) -> None:
        await self._client.aclose()

    async def create(self, intent: Intent) -> Lease:
        """Nothing can be rented here."""
        raise NoCapacity("it rents nothing", provider=self.name)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """There is never anything to give back."""
        return Released(lease.id, "nothing was rented")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """None."""
        return ()


@contextlib.asynccontextmanager
async def prepare(plan: Plan) -> AsyncIterator[Ask]:
    """The engine over the two servers, the primary preferred, with a ledger in a temporary folder."""
    runtime = Runtime.production()
    servers = [
        EmbeddingsEndpoint(name, url, runtime)
        for name, url in (("primary", plan.primary), ("fallback", plan.fallback))
    ]
    with tempfile.TemporaryDirectory(prefix="accel-outage-") as scratch:
        folder = Path(scratch)
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SANDBOX, runtime.now)
        engine = GPUAccelerator(
            Board(servers, runtime), ledger, Budgets(ledger, BUDGET), None, runtime, folder / "jobs",
            Preference(order=("primary", "fallback")), Patience(),
        )  # fmt: skip

        async def ask(text: str) -> list[float]:
            tensors, ident = pack_texts([text]), runtime.new_id()
            size = Size(1, tokens=4, bytes=sum(t.nbytes for t in tensors.values()))
            need = Need(Stage.EMBED, Lane.LIVE)
            task = Task(ident, Lane.LIVE, SPEC, size, need, within_s=plan.patience_s)
            result = await engine.run(task, Envelope(ident, SPEC.fields(), tensors))
            return [float(x) for x in result.output.tensors["vectors"][0]]

        try:
            yield ask
        finally:
            for server in servers:
                await server.close()
            ledger.close()


def versions() -> dict[str, str]:
    """Of this package and of what it speaks HTTP with."""
    return {name: metadata.version(name) for name in ("accel", "httpx")}


if __name__ == "__main__":
    sys.exit(compete(prepare, versions))
