"""Many texts over several providers at once. Guarantee: the vectors are those of one provider, in order.

Each provider takes the next slice as soon as it is done with its last, so that a fast one does more of them
(a work queue). A slice that one provider could not embed goes back to the front of the queue for the others,
and that provider takes no more; what nobody of them takes goes wherever the router sends it, which may be
here. The Spec is the same for all: another GPU, never another vector space.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from accel.core.errors import EveryAttemptFailed
from accel.core.task import Lane, Need, Size, Spec, Stage, Task, content_hash
from accel.gpu_accelerator import GPUAccelerator
from accel.stages.embed import BLOCK
from accel.wire import Envelope, pack_texts

# Texts of one task: between two writes to the cache, and so what an interrupt can lose. Nothing of a slice
# being in the cache, its vectors are those of a block of ``accel precompute``, bit for bit.
SLICE = BLOCK


@dataclass(frozen=True, slots=True)
class Piece:
    """One slice that was embedded. began, ended: seconds of the event loop. where: provider, or "cache"."""

    start: int
    count: int
    where: str
    began: float
    ended: float


@dataclass(slots=True)
class Embedded:
    """vectors: float32 (n, dimension), rows in the texts' order. left: who gave up, and its error's line."""

    vectors: np.ndarray
    pieces: list[Piece] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


async def embed_texts(
    accelerator: GPUAccelerator, spec: Spec, texts: Sequence[str], *, over: Sequence[str] = (),
    slice_: int = SLICE, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:  # fmt: skip
    """Embed ``texts`` under ``spec``, over the providers of ``over`` at once; none: as the router decides.

    Each slice that is done is in the cache before it counts in ``progress`` (done, total). Raises
    EveryAttemptFailed when a slice could be embedded nowhere, and whatever else ``GPUAccelerator.run`` does.
    """
    run = _Run(accelerator, spec, texts, slice_, progress)
    workers = [asyncio.create_task(run.work(name)) for name in over]
    try:
        await asyncio.gather(*workers)
    finally:  # one that met an error of ours, or an interrupt, ends the others
        for worker in workers:
            worker.cancel()
    while run.waiting:
        await run.one(run.waiting.popleft(), frozenset())
    return run.result()


class _Run:
    """One call of ``embed_texts``. waiting: first texts of the slices that nobody has taken."""

    def __init__(
        self, accelerator: GPUAccelerator, spec: Spec, texts: Sequence[str], slice_: int,
        progress: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        self._accelerator, self._spec, self._texts, self._slice = accelerator, spec, texts, slice_
        self._progress, self._done = progress, 0
        self.waiting = deque(range(0, len(texts), slice_))
        self._rows: dict[int, np.ndarray] = {}
        self._pieces: list[Piece] = []
        self._left: dict[str, str] = {}

    async def work(self, name: str) -> None:
        """Take slices for one provider until none is left, or it fails."""
        while self.waiting:
            start = self.waiting.popleft()
            try:
                await self.one(start, frozenset({name}))
            except EveryAttemptFailed as failed:
                self.waiting.appendleft(start)
                self._left[name] = str(failed)
                return

    async def one(self, start: int, only: frozenset[str]) -> None:
        """Embed one slice at one of ``only``, or anywhere."""
        texts, clock = self._texts[start : start + self._slice], asyncio.get_running_loop().time
        began = clock()
        tensors, spec = pack_texts(texts), self._spec
        sent = tensors["text_bytes"]
        task = Task(
            f"i{self._accelerator.runtime.new_id()}", Lane.LIVE, spec,
            Size(len(texts), tokens=len(sent) // 4, bytes=sent.nbytes),
            Need(Stage.EMBED, Lane.LIVE, spec.numerics, model=spec.revision, only=only),
            inputs=(content_hash(sent.tobytes()),),
        )  # fmt: skip
        result = await self._accelerator.run(task, Envelope(task.id, spec.fields(), tensors))
        self._rows[start] = result.output.tensors["vectors"]
        self._pieces.append(Piece(start, len(texts), result.where, began, clock()))
        self._done += len(texts)
        self._progress(self._done, len(self._texts))

    def result(self) -> Embedded:
        """All rows, in order."""
        rows = [self._rows[start] for start in sorted(self._rows)]
        vectors = np.concatenate(rows) if rows else np.zeros((0, self._spec.dimension), np.float32)
        return Embedded(vectors, sorted(self._pieces, key=lambda p: p.start), self._left)
