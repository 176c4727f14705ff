"""Everything opened for use. Guarantee: what ``open_processor`` gives is ready to answer, and closes itself.

Two faces of one engine: ``open_processor`` for asyncio (the Gradio page, the HTTP endpoint), and
``Session`` for notebooks and scripts, which drives the same coroutines over one portal to one event loop
in one thread. No model is loaded before the first question or the first passage that needs it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

import accel
from accel import environment
from accel.config import load_settings
from accel.core.attempt import Result, Route
from accel.core.errors import CorpusError, IndexError_
from accel.core.offer import Offer, Realm, Unfit
from accel.core.passage import Passage, Progress
from accel.core.task import Complexity, Lane, Need, Task, content_hash
from accel.fleet.jobs import Event, Finished
from accel.fleet.leases import Patience
from accel.fleet.reap import Finding
from accel.gpu_accelerator import GPUAccelerator, open_accelerator
from accel.hybrid_gpu_processor import Answer, HybridGPUProcessor, build_index, index_of
from accel.index.store import HybridIndex
from accel.keys import Access
from accel.precompute import SHARD, Plan, Precomputed, Shard, Told, cut, plan, precompute
from accel.precompute.places import permitted
from accel.precompute.shards import task_of
from accel.stages.answer import Answered
from accel.stages.embed import default_spec
from accel.wire import Envelope
from accel.worker.bundle import Bundle
from accel.worker.engine import Worker

T = TypeVar("T")


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Hooks:
    """Told of progress, with (done, total), total 0 while it is not known; and of what was passed over."""

    reading: Progress = _silent
    embedding: Progress = _silent
    remark: Callable[[str], None] = lambda line: None


def read_corpus(corpus: Path | None, *, full: bool = False, hooks: Hooks | None = None) -> list[Passage]:
    """Passages of a folder or file, or the docstrings of Python and of the installed packages.

    full: every docstring rather than a few thousand. Files that are passed over are told as remarks.
    Raises CorpusError.
    """
    told = hooks or Hooks()
    if corpus is not None:
        from accel.corpus.files import read_files

        found = read_files(corpus, progress=told.reading)
        reasons: dict[str, list[Path]] = {}
        for skipped in found.skipped:
            reasons.setdefault(skipped.reason, []).append(skipped.path)
        for reason, paths in reasons.items():
            what = str(paths[0]) if len(paths) == 1 else f"{len(paths):,} files, {paths[0]} the first"
            told.remark(f"passed over: {what} ({reason})")
        return list(found.passages)
    from accel.corpus.docstrings import docstring_passages

    return docstring_passages(full=full, progress=told.reading)


def fingerprint(corpus: Path | None, *, full: bool = False) -> str:
    """What a corpus was made of, without reading it: equal means that it need not be read again.

    Files by name, size and time of change; docstrings by the versions of everything installed and the
    code that extracts them. Raises CorpusError when there is no such file or folder.
    """
    if corpus is not None:
        path = corpus.expanduser()
        if not path.exists():
            raise CorpusError(f"{corpus}: there is no such file or folder.")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        parts = [f"{p}|{s.st_size}|{s.st_mtime_ns}" for p in files if (s := p.stat())]
        return content_hash(*(p.encode("utf-8", "surrogateescape") for p in parts))
    versions = sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())
    extractor = sorted(Path(accel.__file__).parent.joinpath("corpus").glob("*.py"))
    return content_hash(
        f"{sys.version}|{full}".encode(), *(v.encode() for v in versions),
        *(p.read_bytes() for p in extractor),
    )  # fmt: skip


def index_folder(home: Path, corpus: Path | None, full: bool) -> Path:
    """Where the index of a corpus lies: one folder per corpus, named so that a person can tell."""
    if corpus is None:
        return home / "indexes" / ("docstrings-full" if full else "docstrings")
    path = corpus.expanduser().resolve()
    return home / "indexes" / f"{path.name}-{content_hash(str(path).encode())[:8]}"


async def open_index(
    accelerator: GPUAccelerator, corpus: Path | None, *, full: bool, home: Path, hooks: Hooks
) -> HybridIndex:
    """The index of ``corpus``: opened when it was made of just this, else read, embedded and built."""
    folder, offload = index_folder(home, corpus, full), accelerator.runtime.offload
    made_of = await offload(lambda: fingerprint(corpus, full=full))
    index = await offload(_kept, folder, made_of)
    if index is None:
        passages = await offload(lambda: read_corpus(corpus, full=full, hooks=hooks))
        index = await build_index(accelerator, folder, passages, progress=hooks.embedding)
        _keep(folder, made_of, index)
    return index


def _kept(folder: Path, made_of: str) -> HybridIndex | None:
    """The index in ``folder``, if it is whole and was made of just this."""
    try:
        index = HybridIndex.open(folder, default_spec())
        if json.loads(_note(folder).read_text()) == {"made_of": made_of, "index": index.id}:
            return index
    except (IndexError_, OSError, ValueError):
        pass  # none, damaged, or of something else
    return None


def _keep(folder: Path, made_of: str, index: HybridIndex) -> None:
    _note(folder).write_text(json.dumps({"made_of": made_of, "index": index.id}))


def _note(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")


@dataclass(frozen=True, slots=True)
class Batch:
    """How a corpus is to be precomputed. named: the only providers to use; none: see ``precompute.places``.

    shard: passages of one job. keep_s: free GPU seconds to leave at each provider with a quota; None: a
    share. private: the texts are not the person's own to publish. lifetime_s, pause_s: see
    ``precompute.precompute``. planned: is told who takes part, before anything begins.
    """

    named: tuple[str, ...] = ()
    shard: int = SHARD
    keep_s: float | None = None
    private: bool = True
    lifetime_s: float = 1800.0
    pause_s: float = 30.0
    planned: Callable[[Plan, tuple[Shard, ...]], None] = lambda plan, shards: None
    tell: Callable[[Told], None] = lambda told: None


async def precompute_index(
    accelerator: GPUAccelerator, corpus: Path | None, *, full: bool, home: Path, hooks: Hooks, batch: Batch
) -> tuple[HybridIndex, Precomputed | None]:
    """Embed ``corpus`` in the batch lane and bring its index home, where ``open_index`` finds it.

    With the index what was done for it; None when it was there already. Raises as ``precompute`` and
    ``plan`` do, CorpusError.
    """
    folder, offload, spec = index_folder(home, corpus, full), accelerator.runtime.offload, default_spec()
    need = Need(spec.stage, Lane.BATCH, spec.numerics, private_data=batch.private)
    permitted(accelerator, need, batch.named)  # before a large corpus is read
    made_of = await offload(lambda: fingerprint(corpus, full=full))
    index = await offload(_kept, folder, made_of)
    if index is not None:
        return index, None
    passages = await offload(lambda: read_corpus(corpus, full=full, hooks=hooks))
    index = await offload(index_of, folder, passages, spec)
    done = None
    if index is None:
        texts = [p.content for p in passages]
        shards = await offload(cut, spec, texts, batch.shard)
        if not shards:
            raise CorpusError("nothing to index: the corpus is empty.")
        first = texts[: shards[0].count]
        task = task_of(shards[0], spec, first, "plan", only=frozenset(), private=batch.private)
        chosen = await plan(accelerator, task, named=batch.named, keep_s=batch.keep_s)
        batch.planned(chosen, shards)
        done = await precompute(
            accelerator, spec, texts, shards, chosen, private=batch.private, lifetime_s=batch.lifetime_s,
            pause_s=batch.pause_s, tell=batch.tell,
        )  # fmt: skip
        index = await offload(HybridIndex.build, folder, passages, done.vectors, spec)
    _keep(folder, made_of, index)
    return index, done


@contextlib.asynccontextmanager
async def open_processor(
    corpus: Path | None = None, *, full: bool = False, realm: Realm = Realm.REAL,
    asked: Sequence[str] = (), home: Path | None = None, hooks: Hooks = Hooks(),
    use_cache: bool = True, access: Mapping[str, Access] | None = None,
) -> AsyncIterator[HybridGPUProcessor]:  # fmt: skip
    """A processor over ``corpus`` (default: the docstring corpus), its index built or opened."""
    root, worker = home or environment.workdir(), Worker()
    async with open_accelerator(
        realm, worker=worker, asked=asked, home=root, use_cache=use_cache, access=access
    ) as accelerator:
        index = await open_index(accelerator, corpus, full=full, home=root, hooks=hooks)
        worker.attach(index)
        yield HybridGPUProcessor(accelerator, index, generator=_generator())


def _generator() -> Callable[[str, Answered], Answered] | None:
    """The person's own OpenAI-compatible server, if the settings name one."""
    settings = load_settings()
    if not settings.generator_url:
        return None
    from accel.stages.generate import generate

    return partial(generate, url=settings.generator_url, model=settings.generator_model)


class Session:
    """The synchronous face, for notebooks: ``with open_session() as accel: accel.query("…")``."""

    def __init__(
        self, portal: BlockingPortal, accelerator: GPUAccelerator, processor: HybridGPUProcessor | None
    ) -> None:
        self._portal, self.accelerator, self.processor = portal, accelerator, processor

    def query(
        self, text: str, *, complexity: Complexity | None = None, within_s: float | None = None
    ) -> Answer:
        """Answer one question. Raises as ``HybridGPUProcessor.query``."""
        if self.processor is None:
            raise ValueError("this session was opened without a corpus")
        processor = self.processor
        return self.call(lambda: processor.query(text, complexity=complexity, within_s=within_s))

    def offers(self, need: Need) -> tuple[Offer | Unfit, ...]:
        """What every provider would give now."""
        return self.call(lambda: self.accelerator.offers(need))

    def preview(self, task: Task) -> tuple[tuple[Offer | Unfit, ...], Route]:
        """What every provider would give now, and the route that ``task`` would take."""
        return self.call(lambda: self.accelerator.preview(task))

    def run(self, task: Task, request: Envelope) -> Result[Envelope]:
        """Run one live task."""
        return self.call(lambda: self.accelerator.run(task, request))

    def push(
        self, task: Task, bundle: Bundle, on_event: Callable[[Event], None] = lambda _: None
    ) -> Finished:
        """Submit a batch job and carry it to its end."""
        job = self.call(lambda: self.accelerator.submit(task, bundle))
        return self.resume(job.id, on_event)

    def resume(self, job_id: str, on_event: Callable[[Event], None] = lambda _: None) -> Finished:
        """Carry on a job that an interrupt or a crash left on its way."""
        return self.call(lambda: self.accelerator.finish(job_id, on_event))

    def precompute(
        self, corpus: Path | None = None, *, home: Path, full: bool = False, hooks: Hooks = Hooks(),
        batch: Batch = Batch(),
    ) -> tuple[HybridIndex, Precomputed | None]:  # fmt: skip
        """Embed a corpus in the batch lane and bring its index home; see ``precompute_index``."""
        made = lambda: precompute_index(  # noqa: E731
            self.accelerator, corpus, full=full, home=home, hooks=hooks, batch=batch
        )
        return self.call(made)  # type: ignore[no-any-return]

    def reap(self, *, act: bool = False, others: bool = False) -> tuple[Finding, ...]:
        """What nobody works with any more; ``act`` ends it."""
        return self.call(lambda: self.accelerator.reap(act=act, others=others))  # type: ignore[no-any-return]

    def call(self, make: Callable[[], Any]) -> Any:
        """Run one coroutine on the engine's loop and return its value."""
        async def run() -> Any:
            return await make()

        return self._portal.call(run)


@contextlib.contextmanager
def open_session(
    realm: Realm = Realm.REAL, *, asked: Sequence[str] = (), home: Path | None = None,
    access: Mapping[str, Access] | None = None, adopt: bool = True,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    confirm: Callable[[str], bool] | None = None,
) -> Iterator[Session]:  # fmt: skip
    """A session for offers and batch jobs. access, adopt, confirm: see ``open_accelerator``."""
    with start_blocking_portal() as portal:
        opened = open_accelerator(
            realm, asked=asked, home=home, access=access, patience=patience, adopt=adopt, confirm=confirm
        )  # fmt: skip
        with portal.wrap_async_context_manager(opened) as accelerator:
            yield Session(portal, accelerator, None)


@contextlib.contextmanager
def open_query_session(
    corpus: Path | None = None, *, full: bool = False, realm: Realm = Realm.REAL, asked: Sequence[str] = (),
    home: Path | None = None, hooks: Hooks = Hooks(), use_cache: bool = True,
    access: Mapping[str, Access] | None = None,
) -> Iterator[Session]:  # fmt: skip
    """A session that also answers questions over ``corpus``."""
    with start_blocking_portal() as portal:
        opened = open_processor(
            corpus, full=full, realm=realm, asked=asked, home=home, hooks=hooks, use_cache=use_cache,
            access=access,
        )  # fmt: skip
        with portal.wrap_async_context_manager(opened) as processor:
            yield Session(portal, processor.accelerator, processor)
