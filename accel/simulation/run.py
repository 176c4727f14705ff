"""One simulated run. Guarantee: the same seed gives the same trace hash; every request ends once.

The engine is the production one: board, policy, cascade, cache, ledger (SQLite files in a temporary
folder). Only the clock (``simulation.loop``), chance and ids (``Runtime.virtual``) and the providers
(``simulation.world``) are not. The trace hash covers every attempt and every request's end; it also
depends on the versions of Python and its math library.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.cache import ExactCache
from accel.core.errors import EveryAttemptFailed
from accel.core.money import NanoUSD, dollars
from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.simulation.loop import run_virtual
from accel.simulation.world import WORLD, Nature, SimulatedProvider
from accel.wire import Envelope, pack_texts

SPEC = Spec(Stage.EMBED, model="simulated", revision="none", dimension=8)
# Most requests are one text, which this machine does soon enough; some are too many for it.
TEXTS = (1, 64)
HEAVY = 0.3  # share of the latter
TOKENS = 1_300  # of one text
DIFFERENT = 20_000  # texts; the popular ones are asked for again and come from the cache
EVERY_S = 1.0  # mean time between two requests
WITHIN_S = 12.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a run came to. Latencies are virtual seconds of answered requests; cost is estimated.

    success: share of requests that were answered. hits: answered by the cache alone. answered_by: requests
    per provider. failures: attempts per provider that failed.
    """

    seed: int
    requests: int
    answered: int
    success: float
    hits: int
    attempts: int
    answered_by: dict[str, int]
    failures: dict[str, int]
    cost_nano_usd: int
    cost: str
    p50_s: float
    p95_s: float
    virtual_s: float
    trace_hash: str


@dataclass(frozen=True, slots=True)
class _End:
    """How one request ended."""

    task_id: str
    began_s: float
    took_s: float
    where: str


def simulate(seed: int, requests: int = 1000, world: Sequence[Nature] = WORLD) -> Simulated:
    """Run ``requests`` live requests against ``world`` and sum up. Raises ValueError for fewer than one."""
    if requests < 1:
        raise ValueError(f"a simulation needs at least one request, not {requests}")
    with tempfile.TemporaryDirectory(prefix="accel-simulation-") as folder:
        return run_virtual(_simulate(seed, requests, world, Path(folder)))


async def _simulate(seed: int, requests: int, world: Sequence[Nature], folder: Path) -> Simulated:
    runtime = Runtime.virtual(seed)
    ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
    cache = ExactCache(folder / "cache.sqlite3")
    board = Board([SimulatedProvider(nature, runtime, seed) for nature in world], runtime)
    accelerator = GPUAccelerator(
        board, ledger, Budgets(ledger, Limits({("", Period.MONTH): NanoUSD(10**12)}, {})), cache, runtime,
        folder / "jobs", Preference(), Patience(),
    )
    traffic = random.Random(f"{seed}:traffic")
    try:
        running = []
        for number in range(requests):
            await asyncio.sleep(traffic.expovariate(1 / EVERY_S))
            count = TEXTS[traffic.random() < HEAVY]
            # cubed: a few texts are asked for often, most once
            texts = [f"text {int(DIFFERENT * traffic.random() ** 3)}" for _ in range(count)]
            running.append(asyncio.create_task(_request(accelerator, f"r{number}", texts)))
        ends = await asyncio.gather(*running)
        virtual_s = asyncio.get_running_loop().time()
        bodies = [body for (body,) in ledger.rows("SELECT body FROM attempt ORDER BY rowid")]
    finally:
        ledger.close()
        cache.close()
    return _sum_up(seed, ends, [json.loads(body) for body in bodies], virtual_s)


async def _request(accelerator: GPUAccelerator, ident: str, texts: list[str]) -> _End:
    clock = asyncio.get_running_loop().time
    began = clock()
    tensors = pack_texts(texts)
    size = Size(len(texts), tokens=TOKENS * len(texts), bytes=4 * TOKENS * len(texts))
    need = Need(Stage.EMBED, Lane.LIVE)
    task = Task(ident, Lane.LIVE, SPEC, size, need, within_s=WITHIN_S)
    try:
        result = await accelerator.run(task, Envelope(ident, SPEC.fields(), tensors))
        where = result.where
    except EveryAttemptFailed:
        where = ""
    return _End(ident, began, clock() - began, where)


def _sum_up(
    seed: int, ends: Sequence[_End], attempts: Sequence[dict[str, object]], virtual_s: float
) -> Simulated:
    answered = [e for e in ends if e.where]
    latencies = [e.took_s for e in answered] or [float("nan")]
    failed = Counter(str(a["provider"]) for a in attempts if a["outcome"] != "ok")
    cost = NanoUSD(sum(_amount(a) for a in attempts))
    return Simulated(
        seed=seed,
        requests=len(ends),
        answered=len(answered),
        success=len(answered) / len(ends),
        hits=sum(e.where == "cache" for e in answered),
        attempts=len(attempts),
        answered_by=_sorted(Counter(e.where for e in answered)),
        failures=_sorted(failed),
        cost_nano_usd=cost,
        cost=f"{dollars(cost)} estimated, at invented rates",
        p50_s=statistics.median(latencies),
        p95_s=percentile(latencies, 0.95),
        virtual_s=virtual_s,
        trace_hash=_trace_hash(attempts, ends),
    )


def _amount(attempt: dict[str, object]) -> int:
    cost = attempt["cost"]
    assert isinstance(cost, dict)
    return int(cost["amount"])


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _trace_hash(attempts: Iterable[dict[str, object]], ends: Iterable[_End]) -> str:
    """BLAKE2b-128, hex, over each attempt as the ledger keeps it, and each request's end, in order."""
    h = hashlib.blake2b(digest_size=16)
    for attempt in attempts:
        h.update(json.dumps(attempt, sort_keys=True).encode() + b"\n")
    for end in ends:
        h.update(repr(end).encode() + b"\n")
    return h.hexdigest()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
