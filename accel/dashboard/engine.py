"""One processor for all visitors. Guarantee: nothing is opened before a question, and it is opened once.

Everything here happens in the server's event loop. The first question starts one task, which reads the
corpus, builds or opens the index, and then holds it open until the server ends; whoever asks meanwhile is
told how far that task is. A visitor who leaves does not stop it; one that failed is started again by the
next question.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from accel import environment
from accel.core.offer import Realm
from accel.core.passage import Progress
from accel.hybrid_gpu_processor import HybridGPUProcessor
from accel.index.store import META, HybridIndex
from accel.session import Hooks, index_folder, open_processor

Opener = Callable[[Hooks], contextlib.AbstractAsyncContextManager[HybridGPUProcessor]]

TOLD_EVERY_S = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """How far the opening is. what: in words. done, total: passages; total is 0 while it is not known."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is asked about.

    name: in words. passages: 0 while nothing is indexed. packages: passages of each, most first; empty
    until the index is open. indexed_at: UTC. model: with its numerics class.
    """

    name: str
    passages: int = 0
    packages: tuple[tuple[str, int], ...] = ()
    indexed_at: datetime | None = None
    model: str = ""


class Engine:
    """Opens what ``opener`` gives, once, and closes it with ``close``. One per event loop.

    before: what is known of the corpus without opening it.
    """

    def __init__(self, opener: Opener, before: Corpus, realm: Realm = Realm.REAL) -> None:
        self.corpus, self.realm = before, realm
        self.processor: HybridGPUProcessor | None = None
        self.openings = 0
        self._opener = opener
        self._step = Step("Starting")
        self._keeper: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[HybridGPUProcessor] | None = None
        self._closing = asyncio.Event()

    async def opening(self) -> AsyncIterator[Step]:
        """The steps of the opening, as they pass, for one visitor; none when it is open already.

        Afterwards ``processor`` is there. Raises what the opening raised.
        """
        if self.processor is not None:
            return
        if self._keeper is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep(self._ready))
        ready = self._ready
        assert ready is not None
        while not ready.done():
            yield self._step
            await asyncio.wait({ready}, timeout=TOLD_EVERY_S)
        ready.result()

    async def opened(self) -> HybridGPUProcessor:
        """The processor, opened if need be. Raises what the opening raised."""
        async for _ in self.opening():
            pass
        assert self.processor is not None
        return self.processor

    async def close(self) -> None:
        """Close what is open; give up what is being opened (what was embedded is kept)."""
        self._closing.set()
        if self._keeper is not None:
            if self.processor is None:
                # a thread cannot be stopped: the process ends after the slice that it embeds
                log.warning("ending after what is being read or embedded now; what was embedded is kept")
                self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def _keep(self, ready: asyncio.Future[HybridGPUProcessor]) -> None:
        """Open, tell, hold, close: one task enters and leaves the context."""
        self.openings += 1
        self._step = Step("Starting")
        hooks = Hooks(self._tell("Reading the corpus"), self._tell("Embedding passages"))
        try:
            async with self._opener(hooks) as processor:
                told = processor.accelerator.runtime.offload
                self.corpus = await told(describe, self.corpus.name, processor.index)
                self.processor = processor
                ready.set_result(processor)
                await self._closing.wait()
        except asyncio.CancelledError:
            ready.cancel()
            raise
        except Exception as failure:
            if ready.done():
                raise
            ready.set_exception(failure)
            ready.exception()  # seen: there may be nobody left who waits for it
        finally:
            self.processor, self._keeper = None, None

    def _tell(self, what: str) -> Progress:
        def told(done: int, total: int) -> None:  # also called from the threads that read and embed
            self._step = Step(what, done, total)

        return told


def engine_over(
    corpus: Path | None = None, *, full: bool = False, home: Path | None = None, realm: Realm = Realm.REAL
) -> Engine:
    """An engine over a folder or file, or over the docstring corpus. Reads nothing but an index's label."""
    return Engine(
        lambda hooks: open_processor(corpus, full=full, realm=realm, home=home, hooks=hooks),
        peek(corpus, full, home or environment.workdir()),
        realm,
    )


def peek(corpus: Path | None, full: bool, home: Path) -> Corpus:
    """What the label of an index built earlier says, if there is one."""
    name = str(corpus) if corpus else "docstrings of Python and of the packages installed here"
    label = index_folder(home, corpus, full) / META
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        meta = json.loads(label.read_text())
        model = f"{meta['spec']['model']}, {meta['spec']['numerics']}"
        return Corpus(name, int(meta["passages"]), (), _written(label), model)
    return Corpus(name)


def describe(name: str, index: HybridIndex) -> Corpus:
    """Everything there is to say about an open index."""
    packages = Counter(p.package for p in index.passages(range(len(index))))
    model = f"{index.spec.model}, {index.spec.numerics}"
    return Corpus(
        name, len(index), tuple(packages.most_common()), _written(index.folder / META), model
    )


def _written(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)
