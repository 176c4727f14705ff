"""One envelope in, one envelope out. Guarantee: the answer belongs to the request's task and Spec.

The operations are the pipeline's stages: embed, search, rerank, answer. Models are loaded when they are
first asked for and stay; an index is attached once, by its content hash, and searched where it lies.
Nothing here knows of providers: the local provider calls it in process, a server will call it at the far
end. Safe to call from several threads; a model is loaded by one of them while the others wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from accel.core.errors import IndexError_, ModelError, QueryError
from accel.core.task import Spec, Stage
from accel.index.store import HybridIndex
from accel.stages.answer import Answered, compose
from accel.stages.embed import Encoder, load_encoder
from accel.stages.rerank import Reranker, load_reranker, rerank
from accel.stages.search import Hits, search
from accel.wire import Envelope, pack_texts, unpack_texts
from accel.worker.fused import carry_out


class Worker:
    """The stages on one device ("cpu", "cuda")."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._indexes: dict[str, HybridIndex] = {}
        self._models: dict[Spec, Any] = {}
        self._loading = threading.Lock()

    def attach(self, index: HybridIndex) -> None:
        """Make an index searchable here, under its id."""
        self._indexes[index.id] = index

    def folder(self, ident: str) -> Path | None:
        """Where an attached index lies, so that it can be brought elsewhere; None for an unknown one."""
        index = self._indexes.get(ident)
        return index.folder if index else None

    def resident(self) -> frozenset[str]:
        """Ids of attached indexes and revisions of loaded models."""
        models = {spec.revision for spec in tuple(self._models) if spec.revision}
        return frozenset(self._indexes) | models

    def batch_tokens(self) -> int:
        """Tokens that one batch may hold: of the loaded encoder that holds least; before one is loaded, 1."""
        return min((e.batch_tokens for e in self._encoders()), default=1)

    def out_of_memory(self) -> int:
        """How often the device's memory did not hold a batch."""
        return sum(e.out_of_memory for e in self._encoders())

    def handle(self, request: Envelope) -> Envelope:
        """Run the stage of ``request.spec``; see each method for its tensors and meta.

        The answer's meta holds ``cold_s`` (model load, if it was needed) and ``compute_s``. Raises
        IndexError_ for an index that is not attached, QueryError and ModelError from the stages.
        """
        spec = Spec.from_fields(dict(request.spec))
        run: dict[Stage, Callable[[Spec, Envelope], tuple[dict[str, np.ndarray], dict[str, Any], float]]]
        run = {
            Stage.EMBED: self._embed, Stage.SEARCH: self._search,
            Stage.RERANK: self._rerank, Stage.ANSWER: self._answer,
        }  # fmt: skip
        if spec.stage not in run:
            raise QueryError(f"the live lane does not run {spec.stage}.")
        began = time.perf_counter()
        tensors, meta, cold_s = run[spec.stage](spec, request)
        meta |= {"cold_s": cold_s, "compute_s": time.perf_counter() - began - cold_s}
        return Envelope(request.task_id, request.spec, tensors, meta)

    def _embed(self, spec: Spec, request: Envelope) -> tuple[dict[str, np.ndarray], dict[str, Any], float]:
        """texts → vectors float32 (n, dim)."""
        encoder, cold_s = self._encoder(spec)
        return {"vectors": encoder.embed(unpack_texts(request.tensors))}, {}, cold_s

    def _search(self, spec: Spec, request: Envelope) -> tuple[dict[str, np.ndarray], dict[str, Any], float]:
        """texts (q), vectors (q, dim); meta index, k → the tensors of Hits.

        With meta then, they are reranked at once, and the answer holds both: see ``worker.fused``.
        """
        hits = search(
            self._index(request), unpack_texts(request.tensors), request.tensors["vectors"],
            int(request.meta["k"]),
        )  # fmt: skip
        tensors, meta = hits.tensors(), dict[str, Any]()
        if "then" in request.meta:
            more, meta = carry_out(request, tensors, self.handle)
            tensors |= more
        return tensors, meta, float(meta["then"]["cold_s"]) if meta else 0.0

    def _rerank(self, spec: Spec, request: Envelope) -> tuple[dict[str, np.ndarray], dict[str, Any], float]:
        """texts (q), the tensors of Hits; meta index, depth → the tensors of Hits, reordered."""
        reranker, cold_s = self._reranker(spec)
        hits = rerank(
            reranker, self._index(request), unpack_texts(request.tensors),
            Hits.from_tensors(request.tensors), int(request.meta["depth"]),
        )  # fmt: skip
        return hits.tensors(), {}, cold_s

    def _answer(self, spec: Spec, request: Envelope) -> tuple[dict[str, np.ndarray], dict[str, Any], float]:
        """texts (the question, then its parts), the tensors of one row of Hits; meta index → meta answer."""
        encoder, cold_s = self._encoder(replace(spec, stage=Stage.EMBED))
        hits, index = Hits.from_tensors(request.tensors), self._index(request)
        question, *parts = unpack_texts(request.tensors)
        answered: Answered = compose(question, hits, index, encoder, parts=parts)
        return pack_texts([]), {"answer": answered.fields()}, cold_s

    def _index(self, request: Envelope) -> HybridIndex:
        ident = str(request.meta.get("index", ""))
        if ident not in self._indexes:
            raise IndexError_(f"the index {ident[:12]} is not here.")
        return self._indexes[ident]

    def _encoder(self, spec: Spec) -> tuple[Encoder, float]:
        model, cold_s = self._load(spec, lambda: load_encoder(spec, self.device))
        if not isinstance(model, Encoder):
            raise ModelError(f"{spec.model} is not an encoder.")
        return model, cold_s

    def _reranker(self, spec: Spec) -> tuple[Reranker | None, float]:
        # late interaction reads the token vectors of the encoder that is loaded already
        like = next((e for e in self._encoders() if e.spec.revision == spec.revision), None)
        return self._load(spec, lambda: load_reranker(spec, self.device, like))

    def _encoders(self) -> list[Encoder]:
        return [m for m in tuple(self._models.values()) if isinstance(m, Encoder)]

    def _load(self, spec: Spec, make: Callable[[], Any]) -> tuple[Any, float]:
        """The model of ``spec``, and the seconds that loading took now (0 when it was there)."""
        if spec in self._models:
            return self._models[spec], 0.0
        began = time.perf_counter()
        with self._loading:
            if spec not in self._models:
                self._models[spec] = make()
            return self._models[spec], time.perf_counter() - began
