"""What this machine takes. Guarantee: every engine that is compared ran in turn, in one run, on one input.

Three curves, each of warm repetitions: embedding by batch size, exact search by corpus size, reranking by
depth. Repetitions of rival engines alternate, so that whatever else the machine does meets all alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from accel import environment
from accel.core.attempt import Timing
from accel.core.errors import UsageError
from accel.core.offer import Realm
from accel.core.passage import Passage
from accel.core.row import Provenance, Row, Scalar
from accel.experiments.embed_benchmark import SECONDS
from accel.index.store import HybridIndex
from accel.index.vectors import F32, Backend, has_faiss, top_k
from accel.stages.embed import Encoder
from accel.stages.rerank import LateInteraction, rerank
from accel.stages.search import CANDIDATES, search

SEARCH_SECONDS = "seconds per query"
RERANK_SECONDS = "seconds per question"
RIVAL_BATCHES = (8, 32, 128)  # batch_size of sentence-transformers' encode; 32 is its default
_SEED = 20261123


def measure_embed(
    texts: Sequence[str], batches: Sequence[int], repetitions: int, encoder: Encoder, now: datetime
) -> list[Row]:
    """Seconds to embed the first b texts, for each b: our Encoder beside sentence-transformers' encode.

    The rival computes the same vectors from the same files, at each of ``RIVAL_BATCHES`` that differs for
    b texts; its rows say which. now: UTC, for the provenance. Raises UsageError for fewer texts than the
    largest batch, ModelError when the rival cannot be loaded.
    """
    _at_least_one(batches, repetitions)
    if len(texts) < max(batches):
        raise UsageError(f"a batch of {max(batches)} needs as many texts; there are {len(texts)}.")
    rival = _sentence_transformer(encoder)
    env, rows = _env(now, encoder.device), []
    for size in sorted(set(batches)):
        batch = list(texts[:size])
        engines: dict[int, Timed] = {0: lambda _, b=batch: encoder.embed(b)}  # type: ignore[misc]
        for cut in sorted({min(size, c) for c in RIVAL_BATCHES}):
            engines[cut] = lambda _, b=batch, c=cut: rival(b, c)  # type: ignore[misc]
        samples = _alternate(engines, repetitions)
        best = min((c for c in samples if c), key=lambda c: statistics.median(samples[c]))
        tokens = encoder.count_tokens(batch)
        for cut, times in samples.items():
            cell: dict[str, Scalar] = {
                "what": "embed", "engine": "sentence-transformers" if cut else "accel",
                "provider": "local", "device": encoder.device, "model": encoder.spec.model,
                "numerics": encoder.spec.numerics.value, "batch": size,
                "tokens_per_text": round(statistics.fmean(tokens), 2),
                "bytes_per_text": round(statistics.fmean(len(t.encode()) for t in batch), 2),
            }  # fmt: skip
            if cut:
                cell["batch_size"] = cut
                baseline = "none: it is the baseline"
            else:
                baseline = (
                    f"sentence-transformers encode, batch_size={best}, the fastest of "
                    f"{sorted(c for c in samples if c)} in this run, same texts"
                )
            rows.append(_row(cell, SECONDS, times, baseline, env))
    return rows


def measure_search(
    sizes: Sequence[int], repetitions: int, dimension: int, now: datetime, k: int = CANDIDATES
) -> list[Row]:
    """Seconds to find the exact ``k`` nearest of n unit vectors, for each n and one query.

    Vectors are random (fixed seed): exact search does the same work on any. This is the dense half of the
    search stage; BM25 costs the same beside a GPU as here. Engines: FAISS where it is installed, and the
    blocked matrix product.
    """
    _at_least_one(sizes, repetitions)
    rng = np.random.default_rng(_SEED)
    vectors = rng.standard_normal((max(sizes), dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.standard_normal((repetitions + 1, 1, dimension), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    env, rows = _env(now, "cpu"), []
    backends: tuple[Backend, ...] = ("faiss", "numpy") if has_faiss() else ("numpy",)
    for size in sorted(set(sizes)):
        engines = {b: _searcher(vectors[:size], queries, k, b) for b in backends}
        for name, times in _alternate(engines, repetitions).items():
            rivals = [b for b in backends if b != name]
            cell: dict[str, Scalar] = {
                "what": "search", "engine": name, "provider": "local", "device": "cpu",
                "vectors": size, "dimension": dimension, "k": k, "queries": 1, "numerics": "fp32",
            }  # fmt: skip
            baseline = f"{rivals[0]}, same vectors, same run" if rivals else "none: FAISS is not installed"
            rows.append(_row(cell, SEARCH_SECONDS, times, baseline, env))
    return rows


def measure_rerank(
    passages: Sequence[Passage], depths: Sequence[int], repetitions: int, encoder: Encoder, now: datetime,
    question: str = "how do I parse a date in ISO format",
) -> list[Row]:  # fmt: skip
    """Seconds to rerank the first d hits of ``question``, for each d, no token vectors kept from before.

    The index is built of ``passages`` for this, under a temporary folder. Raises UsageError for fewer
    passages than the largest depth.
    """
    _at_least_one(depths, repetitions)
    if len(passages) < max(depths):
        raise UsageError(f"a depth of {max(depths)} needs as many passages; there are {len(passages)}.")
    reranker = LateInteraction(encoder, cache_bytes=0)
    env, rows = _env(now, encoder.device), []
    with tempfile.TemporaryDirectory(prefix="accel-rerank-") as scratch:
        vectors = encoder.embed([p.content for p in passages])
        index = HybridIndex.build(Path(scratch) / "index", passages, vectors, encoder.spec)
        hits = search(index, [question], encoder.embed([question]), max(depths), ranking="dense")
        found = [p.content for p in index.passages(hits.row(0))]
        for depth in sorted(set(depths)):
            engines = {"accel": lambda _, d=depth: rerank(reranker, index, [question], hits, d)}
            times = _alternate(engines, repetitions)["accel"]
            head = found[:depth]
            cell: dict[str, Scalar] = {
                "what": "rerank", "engine": "accel", "provider": "local", "device": encoder.device,
                "model": encoder.spec.model, "numerics": encoder.spec.numerics.value, "depth": depth,
                "tokens_per_text": round(statistics.fmean(encoder.count_tokens(head)), 2),
                "bytes_per_text": round(statistics.fmean(len(t.encode()) for t in head), 2),
            }  # fmt: skip
            baseline = "none: late interaction has one implementation here"
            rows.append(_row(cell, RERANK_SECONDS, times, baseline, env))
    return rows


Timed = Callable[[int], object]


def _alternate(engines: Mapping[Any, Timed], repetitions: int) -> dict[Any, tuple[float, ...]]:
    """Wall seconds of each repetition of each engine, in turn, after one warm call of each."""
    for run in engines.values():
        run(-1)
    samples: dict[Any, list[float]] = {name: [] for name in engines}
    for i in range(repetitions):
        for name, run in engines.items():
            began = time.perf_counter()
            run(i)
            samples[name].append(time.perf_counter() - began)
    return {name: tuple(times) for name, times in samples.items()}


def _searcher(vectors: F32, queries: F32, k: int, backend: Backend) -> Timed:
    return lambda i: top_k(vectors, queries[i], k, backend)


def _sentence_transformer(encoder: Encoder) -> Callable[[Sequence[str], int], object]:
    """sentence-transformers' own encode of the same model on the same device: (texts, batch_size)."""
    from accel.stages import weights

    try:
        from sentence_transformers import SentenceTransformer

        named = encoder.spec.model
        if named in (weights.DEFAULT_MODEL, weights.HUB_NAME):
            carried = weights.find_default()
            # the hub's cache may hold the weights alone; sentence-transformers then asks for the rest
            named = str(carried) if (carried / "modules.json").is_file() else weights.HUB_NAME
        kwargs = {"dtype": weights.torch_dtype(encoder.spec.numerics), "use_safetensors": True}
        model: Any = SentenceTransformer(named, device=encoder.device, model_kwargs=kwargs)
    except Exception as bad:  # the libraries below raise nearly every class there is
        raise weights.missing_model(encoder.spec.model, bad) from None
    model.max_seq_length = encoder.spec.max_length

    def encode(texts: Sequence[str], batch_size: int) -> object:
        return model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)

    return encode


def _env(now: datetime, device: str) -> Provenance:
    """Provenance of what was computed on ``device``: beside a GPU, the CPU's figures are not the GPU's."""
    env = environment.provenance(now)
    return env if device != "cpu" else replace(env, device=environment.cpu_name(), driver="none")


def _row(
    cell: Mapping[str, Scalar], metric: str, samples: Sequence[float], baseline: str, env: Provenance
) -> Row:
    timing = Timing(compute_s=sum(samples))
    return Row(cell, metric, "s", tuple(samples), baseline, True, Realm.REAL, env, timing)


def _at_least_one(sizes: Sequence[int], repetitions: int) -> None:
    if not sizes or min(sizes) < 1 or repetitions < 1:
        raise UsageError(f"sizes {list(sizes)} and {repetitions} repetitions: each must be at least 1.")
