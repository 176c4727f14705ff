"""How well each stage ranks. Guarantee: every figure comes from ``accel.stages``, over every judged query.

nDCG@10 as trec_eval's ``ndcg_cut_10`` computes it: linear gain, log2 discount, ideal ranking from the
judgements, mean over the queries that have a relevant document. Each document is encoded once: the
same pass gives its vector and its token vectors.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.core.passage import Progress
from accel.core.task import Spec
from accel.corpus.beir import Collection, read_beir
from accel.index.store import HybridIndex
from accel.stages.embed import load_encoder
from accel.stages.rerank import DEPTH, LateInteraction, Reranker, load_reranker, rerank
from accel.stages.search import Hits, search

CUT = 10
_TOKEN_BYTES = 2 << 30  # token vectors kept between encoding and reranking; beyond, encoded again


@dataclass(frozen=True, slots=True)
class StageScore:
    """One stage on one collection. value: mean nDCG@10 over n queries; per_query: the n values, in the
    order of the judgements. seconds: wall time of this stage over all n queries.
    """

    stage: str
    value: float
    n: int
    seconds: float
    per_query: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """stages: bm25, dense, fusion, pipeline, in this order. encode_s: wall seconds for the documents,
    0 where an index was reused. spec and rerank_spec say what computed it.
    """

    collection: str
    split: str
    documents: int
    device: str
    spec: Spec
    rerank_spec: Spec | None
    encode_s: float
    stages: tuple[StageScore, ...]

    def __getitem__(self, stage: str) -> StageScore:
        return next(s for s in self.stages if s.stage == stage)


def evaluate(
    folder: Path,
    *,
    split: str = "test",
    spec: Spec | None = None,
    rerank_spec: Spec | None = None,
    depth: int = DEPTH,
    device: str = "cpu",
    reuse: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a BEIR folder: BM25, dense, their fusion, and the pipeline (fusion reranked).

    spec, rerank_spec: None means the defaults; ``Spec(Stage.RERANK)`` means no reranking. reuse: a
    folder for the index; one that is there and was made of the same documents under the same Spec is
    not encoded again. Raises CorpusError, ModelError, IndexError_.
    """
    collection = read_beir(Path(folder), split)
    encoder = load_encoder(spec, device)
    reranker = load_reranker(rerank_spec, device, encoder)
    if isinstance(reranker, LateInteraction):
        reranker = LateInteraction(reranker.encoder, cache_bytes=_TOKEN_BYTES)
    with tempfile.TemporaryDirectory(prefix="accel-evaluate-") as scratch:
        home = reuse or Path(scratch) / "index"
        started = time.perf_counter()
        index = _open_same(home, encoder.spec, collection)
        fresh = index is None
        if index is None:
            texts = [p.content for p in collection.passages]
            late = isinstance(reranker, LateInteraction) and reranker.encoder is encoder
            encoded = encoder.encode(texts, tokens=late, progress=progress)
            if encoded.tokens is not None and isinstance(reranker, LateInteraction):
                reranker.remember(texts, encoded.tokens)
            index = HybridIndex.build(home, collection.passages, encoded.vectors, encoder.spec)
            del encoded
        encode_s = time.perf_counter() - started if fresh else 0.0
        queries = list(collection.queries.values())
        vectors = encoder.embed(queries)
        stages = []
        fused: Hits | None = None
        for stage in ("bm25", "dense", "fusion"):
            started = time.perf_counter()
            k = max(depth, CUT)
            hits = search(index, queries, vectors, k, ranking=stage)  # type: ignore[arg-type]
            stages.append(_score(stage, collection, hits, time.perf_counter() - started))
            fused = hits
        assert fused is not None
        started = time.perf_counter()
        best = rerank(reranker, index, queries, fused, depth)
        stages.append(_score("pipeline", collection, best, time.perf_counter() - started))
    return Evaluation(
        collection=collection.name,
        split=split,
        documents=len(collection.ids),
        device=device,
        spec=encoder.spec,
        rerank_spec=_spec_of(reranker),
        encode_s=encode_s,
        stages=tuple(stages),
    )


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], cut: int = CUT) -> float | None:
    """nDCG at ``cut`` of document ids, best first; None where no document is relevant.

    Gain is the grade itself, 0 for unjudged or negative; discount 1/log2(rank + 1) (Järvelin and
    Kekäläinen, TOIS 2002, as in trec_eval 9's m_ndcg_cut.c).
    """
    ideal = _gain(sorted((g for g in grades.values() if g > 0), reverse=True)[:cut])
    if not ideal:
        return None
    return _gain([max(0, grades.get(d, 0)) for d in ranking[:cut]]) / ideal


def _gain(grades: Sequence[int]) -> float:
    return sum(g / math.log2(rank + 1) for rank, g in enumerate(grades, 1))


def _score(stage: str, collection: Collection, hits: Hits, seconds: float) -> StageScore:
    values = []
    for i, query in enumerate(collection.queries):
        value = ndcg([collection.ids[j] for j in hits.row(i)], collection.qrels[query])
        if value is not None:
            values.append(value)
    mean = statistics.fmean(values) if values else 0.0
    return StageScore(stage, mean, len(values), seconds, tuple(values))


def _spec_of(reranker: Reranker | None) -> Spec | None:
    return reranker.spec if reranker else None


def _open_same(home: Path, spec: Spec, collection: Collection) -> HybridIndex | None:
    """The index at ``home``, if it opens under ``spec`` and holds exactly these passages."""
    from accel.core.errors import IndexError_

    try:
        index = HybridIndex.open(home, spec)
    except IndexError_:
        return None
    if len(index) != len(collection.passages):
        return None
    same = index.passages(np.arange(len(index))) == list(collection.passages)
    return index if same else None
