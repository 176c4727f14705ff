"""What deciding costs: ``python -m accel.experiments.overhead``. Guarantee: measured in one run, parts apart.

The production engine routes live requests among providers that answer at once, one of which is this
machine's stand-in; nothing is computed, so that what is left is ours. A call's time is split into the
ledger's transactions, the provider's own call, and the rest: cache keys, offers, what is known of each
provider, budgets, ranking, the cascade with its breakers and limits, validation. The rest is the decision.

One machine is faster in one hour than in another. So a fixed loop of plain Python (``calibrate``) is timed
between the calls, and a decision is also given in loops; and ``--against FOLDER`` measures another checkout
in turns with this one, a second or so each, and gives the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from accel import environment
from accel.core.errors import NoCapacity
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.money import NANO, NanoUSD, Rate, from_dollars
from accel.core.offer import CPU, Billing, Gpu, Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.experiments.overhead_pairs import against, tell
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.wire import Envelope, pack_texts

SPEC = Spec(Stage.EMBED, model="none", dimension=8)
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Overhead:
    """Microseconds per routed call: medians, and the 95th percentile of the decision.

    paid: the call went to an offer that bills, so that it was reserved for first. ranking: of the decision,
    what ``preview`` takes: offers, what is known of each provider, budgets, filter, score, order and words.
    transactions: per call. loop_us: of ``calibrate``, in the same seconds.
    """

    offers: int
    calls: int
    paid: bool
    ranking_us: float
    decision_us: float
    decision_p95_us: float
    ledger_us: float
    transactions: float
    total_us: float
    loop_us: float

    @property
    def decision_loops(self) -> float:
        """The decision in loops of ``calibrate``: comparable between machines, and hours of one."""
        return self.decision_us / self.loop_us


class _Clocked(Ledger):
    """A ledger that adds up how long its outermost transactions took."""

    seconds = 0.0
    count = 0
    _inside = False

    @contextlib.contextmanager
    def transaction(self) -> Iterator:  # type: ignore[type-arg]
        if self._inside:
            with super().transaction() as db:
                yield db
            return
        began, self._inside = time.perf_counter(), True
        try:
            with super().transaction() as db:
                yield db
        finally:
            self._inside = False
            self.seconds += time.perf_counter() - began
            self.count += 1


class _AtOnce:
    """Answers every call with the same envelope, without looking at it."""

    def __init__(self, name: str, dollars: str, runtime: Runtime) -> None:
        self.name, self.realm = name, Realm.SIMULATED
        now = runtime.now()
        self._seconds = 0.0
        rate = Rate(from_dollars(dollars), now.date(), "invented")
        gpu = CPU if name == "local" else Gpu("T4", 1, 16 << 30, 75)
        self._offer = Offer(
            f"{name}-1", name, self.realm, gpu, rate, now, "invented", round_trip_s=0.001 * (name != "local"),
            billing=Billing.NOTHING if rate.free else Billing.SECONDS,
        )  # fmt: skip
        self._lease = Lease(name, name, self.realm, name, name, now, now + timedelta(days=1))
        self._vectors = np.zeros((1, SPEC.dimension), np.float32)

    async def probe(self, need: Need) -> Offer | Unfit:
        return self._offer

    def standing_lease(self) -> Lease:
        return self._lease

    async def call(self, lease: Lease, request: Envelope) -> Envelope:
        return Envelope(request.task_id, request.spec, {"vectors": self._vectors})

    async def create(self, intent: Intent) -> Lease:
        raise NoCapacity("it rents nothing", provider=self.name)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        return Released(lease.id, "nothing was rented")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        return ()


async def measure(offers: int, calls: int, *, paid: bool) -> Overhead:
    """Route ``calls`` one-text tasks among ``offers`` providers. Raises ValueError for fewer than one."""
    if offers < 1 or calls < 1:
        raise ValueError("there must be at least one offer and one call")
    runtime = Runtime.production()
    names = ["local", *(f"cloud-{i}" for i in range(1, offers))]
    providers = [_AtOnce(n, "0" if n == "local" else f"0.{i + 10}", runtime) for i, n in enumerate(names)]
    with tempfile.TemporaryDirectory(prefix="accel-overhead-") as folder:
        ledger = _Clocked(Path(folder) / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        caps = {("", p): NanoUSD(1000 * NANO) for p in Period}
        caps |= {(n, Period.MONTH): NanoUSD(1000 * NANO) for n in names[1:]}
        engine = GPUAccelerator(
            Board(providers, runtime), ledger, Budgets(ledger, Limits(caps, {})), None, runtime,
            Path(folder), Preference(order=tuple(names[1:]) if paid else ()), Patience(),
        )  # fmt: skip
        samples, ranking, loops = [], [], []
        for number in range(WARM_UP + calls):
            samples.append(await _one(engine, ledger, number))
            if number % 10 == 0:
                loops.append(calibrate())
        samples = samples[WARM_UP:]
        for number in range(calls):
            ranking.append(await _preview(engine, number))
        ledger.close()
    decisions = [total - booked for total, booked, _ in samples]
    return Overhead(
        offers, calls, paid, _us(ranking), _us(decisions), 1e6 * sorted(decisions)[int(0.95 * calls)],
        _us([booked for _, booked, _ in samples]), statistics.mean(n for _, _, n in samples),
        _us([total for total, _, _ in samples]), _us(loops),
    )  # fmt: skip


def calibrate() -> float:
    """Seconds of a fixed loop of plain Python: calls, attributes, small objects, a dictionary."""
    seen: dict[int, tuple[int, float]] = {}
    size, total = Size(3), 0.0
    began = time.perf_counter()
    for i in range(200):
        total += max(size.items, i & 15) * 0.5
        seen[i & 63] = (i, total)
    return time.perf_counter() - began


async def _preview(engine: GPUAccelerator, number: int) -> float:
    """Seconds of a ranking without a run."""
    task = _task(f"p{number}")
    began = time.perf_counter()
    await engine.preview(task)
    return time.perf_counter() - began


def _task(ident: str) -> Task:
    size = Size(1, tokens=128, bytes=512)
    return Task(ident, Lane.LIVE, SPEC, size, Need(Stage.EMBED, Lane.LIVE), within_s=5.0, target_s=1.0)


async def _one(engine: GPUAccelerator, ledger: _Clocked, number: int) -> tuple[float, float, int]:
    """Seconds in all, of them in the ledger, and transactions, of one call."""
    ident = f"t{number}"
    tensors, task = pack_texts([f"text {number}"]), _task(ident)
    request = Envelope(ident, SPEC.fields(), tensors)
    ledger.seconds, ledger.count = 0.0, 0
    began = time.perf_counter()
    await engine.run(task, request)
    return time.perf_counter() - began, ledger.seconds, ledger.count


def _us(seconds: Sequence[float]) -> float:
    return 1e6 * statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m accel.experiments.overhead", description=__doc__)
    parser.add_argument("--offers", type=int, default=10)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured in turns")
    parser.add_argument("--rounds", type=int, default=30, help="of --against")
    asked = parser.parse_args(argv)
    if asked.offers < 2 or asked.calls < 1:
        parser.error("there must be at least two offers and one call")
    if asked.against is not None:
        if asked.rounds < 1 or not (asked.against / "accel").is_dir():
            parser.error(f"there must be a round, and a checkout in {asked.against}")
        tell(against(asked.against.resolve(), asked.offers, asked.calls, asked.rounds), as_json=asked.json)
        return
    found = [asyncio.run(measure(asked.offers, asked.calls, paid=paid)) for paid in (False, True)]
    if asked.json:
        rows = [asdict(f) | {"decision_loops": f.decision_loops} for f in found]
        print(json.dumps({"device": environment.cpu_name(), "rows": rows}))  # noqa: T201
        return
    print(f"{environment.cpu_name()}, {environment.cores()} cores, realm real; providers answer at once")  # noqa: T201
    print("offers calls goes to  ranking  decision    p95   ledger  transactions   in all   loop  decision")  # noqa: T201
    for f in found:
        where = "paid" if f.paid else "free"
        print(  # noqa: T201
            f"{f.offers:6} {f.calls:5} {where:7} {f.ranking_us:5.0f} us {f.decision_us:6.0f} us "
            f"{f.decision_p95_us:4.0f} us {f.ledger_us:5.0f} us {f.transactions:13.1f} {f.total_us:5.0f} us "
            f"{f.loop_us:3.0f} us {f.decision_loops:3.1f} loops"
        )


if __name__ == "__main__":
    main()
