"""Far ends on virtual time that run the real job with an encoder of no weights; and what drives them.

The encoder's last bits depend on how many texts it is given at once, as a model's do: a corpus that is cut
otherwise than in whole blocks gets other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from accel.core.errors import NoCapacity
from accel.core.lease import Lease
from accel.core.money import NANO, NanoUSD
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Need, Spec, Stage
from accel.fleet import Board
from accel.fleet.leases import Patience
from accel.gpu_accelerator import GPUAccelerator, Preference
from accel.ledger import Budgets, Ledger, Limits, Period
from accel.precompute import Plan, Precomputed, Told, cut, plan, precompute
from accel.precompute.shards import task_of
from accel.providers.base import Fetched
from accel.simulation import run_virtual
from accel.stages import embed as stage
from accel.testing.mock_provider import MockBatchProvider
from accel.wire import Envelope
from accel.worker import job
from accel.worker.artefacts import write_failure, write_result
from accel.worker.bundle import Bundle

T = TypeVar("T")
SPEC = Spec(Stage.EMBED, model="tiny", dimension=8)
TEXTS = [f"passage {i} about {i % 7} things" for i in range(5 * 128 + 37)]
LIMITS = Limits({("", Period.MONTH): NanoUSD(100 * NANO)}, {})
Spoil = Callable[[int], str]


class TinyEncoder:
    """Vectors from a hash of the text, and a trace of how many texts came with it."""

    spec, device = SPEC, "cpu"

    def embed(self, texts: Sequence[str], progress: object = None) -> np.ndarray:
        rows = [np.frombuffer(hashlib.sha256(t.encode()).digest()[:8], np.uint8) for t in texts]
        vectors = np.array(rows, np.float32).reshape(len(texts), 8) - 100
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * np.float32(1 + 1e-6 * len(texts))


def whole(texts: Sequence[str] = TEXTS) -> np.ndarray:
    """The corpus in one piece, here."""
    return stage.embed_blocks([TinyEncoder()], texts)  # type: ignore[list-item]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny encoder in the place of every model, here and at the far ends; a wheel of nothing."""
    def load(*_: object, **__: object) -> TinyEncoder:
        return TinyEncoder()

    monkeypatch.setattr(stage, "load_encoder", load)
    monkeypatch.setattr("accel.precompute.driver.load_encoder", load)
    monkeypatch.setattr("accel.precompute.driver.pack_wheel", lambda: b"wheel")
    monkeypatch.setattr(job, "every_device", lambda: ["cpu"])


class FarEnd(MockBatchProvider):
    """Runs the bundle when its result is fetched. ran: texts of every job begun, by first text.

    spoil: told the number of the job (from 0), says how it goes wrong: "error", "short" (rows missing),
    "cut" (the file is truncated), "other" (another model's vectors), or "".
    """

    def __init__(self, name: str, runtime: Runtime, *, spoil: Spoil = lambda n: "", most: int = 99,
                 quota_resets_at: datetime | None = None, **options: Any) -> None:  # fmt: skip
        super().__init__(name, runtime, **options)
        self.spoil, self.most, self.begun = spoil, most, list[str]()
        self.at_once = 0
        self._resets_at, self._bundles = quota_resets_at, dict[str, tuple[Path, int]]()

    async def probe(self, need: Need) -> Offer | Unfit:
        offer = await super().probe(need)
        if isinstance(offer, Offer) and offer.quota_left_s is not None:
            return replace(offer, quota_s=108_000.0, quota_resets_at=self._resets_at)
        return offer

    async def create(self, intent: Any) -> Lease:
        if intent.name not in self._bundles and len(self.rented) >= self.most:
            raise NoCapacity("all sessions are in use", provider=self.name)
        if intent.name not in self._bundles:
            self._bundles[intent.name] = (intent.bundle, len(self.begun))
            self.begun.append(intent.task_id)
        lease = await super().create(intent)
        self.at_once = max(self.at_once, len(self.rented))
        return lease

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        await super().fetch(lease, into)
        if self._quota_s is not None:
            self._quota_s = max(0.0, self._quota_s - self._job_s)
        folder, number = self._bundles[lease.name]
        return self._run(Bundle.open(folder), into, self.spoil(number))

    def _run(self, bundle: Bundle, into: Path, how: str) -> Fetched:
        into.mkdir(parents=True, exist_ok=True)
        if how == "error":
            write_failure(into, bundle.job["task_id"], "RuntimeError: boom")
        else:
            made = job.run(bundle.job, Envelope.from_bytes(bundle.inputs), lambda line: None)
            vectors = made.tensors["vectors"]
            vectors = vectors[:-1] if how == "short" else -vectors[:, ::-1] if how == "other" else vectors
            meta = {**made.meta, "compute_s": self._job_s, "cold_s": 1.0}
            output = Envelope(made.task_id, made.spec, {"vectors": np.ascontiguousarray(vectors)}, meta)
            write_result(into, made.task_id, output, {"device": f"a {self.name} GPU"})
        if how == "cut":
            file = into / "result.safetensors"
            file.write_bytes(file.read_bytes()[:100])
        return Fetched({p.name: p for p in into.iterdir()}, "")


@dataclass
class World:
    """A ledger, its far ends, and what was told. ``go`` may be called again, as another process would."""

    folder: Path
    runtime: Runtime
    ledger: Ledger
    providers: dict[str, FarEnd]
    told: list[Told] = field(default_factory=list)

    def engine(self) -> GPUAccelerator:
        patience = Patience(poll_s=1.0, unreachable_s=20.0, lifetime_s=600.0)
        return GPUAccelerator(
            Board(list(self.providers.values()), self.runtime), self.ledger, Budgets(self.ledger, LIMITS),
            None, self.runtime, self.folder / "jobs", Preference(), patience,
        )  # fmt: skip

    async def plan(self, engine: GPUAccelerator, size: int = 128, **options: Any) -> Plan:
        shards = cut(SPEC, TEXTS, size)
        task = task_of(shards[0], SPEC, TEXTS[: shards[0].count], "plan", only=frozenset(), private=False)
        return await plan(engine, task, **options)

    async def go(self, size: int = 128, texts: Sequence[str] = TEXTS, **options: Any) -> Precomputed:
        engine = self.engine()
        chosen = await self.plan(engine, size, **options)
        shards = cut(SPEC, texts, size)
        return await precompute(
            engine, SPEC, texts, shards, chosen, private=False, pause_s=5.0, tell=self.told.append
        )

    @property
    def runs(self) -> int:
        return sum(len(p.begun) for p in self.providers.values())

    def settled(self) -> None:
        """Whatever happened, nothing is held, rented or on its way."""
        assert self.ledger.held() == 0
        assert self.ledger.open_leases() == ()
        assert all(not p.rented for p in self.providers.values())


def play(
    folder: Path, scene: Callable[[World], Coroutine[Any, Any, T]], **far_ends: dict[str, Any]
) -> T:
    """Run ``scene`` with these far ends, by name."""

    async def main() -> T:
        runtime = Runtime.virtual(1)
        made = {n: FarEnd(n, runtime, **({"job_s": 4.0} | options)) for n, options in far_ends.items()}
        ledger = Ledger(folder / "ledger.sqlite3", Realm.SIMULATED, runtime.now)
        try:
            return await scene(World(folder, runtime, ledger, made))
        finally:
            ledger.close()

    return run_virtual(main())

