"""A second look at the first hits. Guarantee: the same passages in a better-founded order, none added.

Two rerankers, one interface. *Late interaction* (MaxSim of ColBERT, Khattab and Zaharia, SIGIR 2020)
needs no weights of its own: it compares the bundled encoder's token vectors. A *cross-encoder* of
sentence-transformers can be named instead, by hub name or folder. Only the first ``DEPTH`` hits are
looked at; whatever comes after them stays where it was.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from accel.core.errors import ModelError
from accel.core.task import Spec, Stage, content_hash
from accel.index.store import HybridIndex
from accel.stages.embed import DeviceFull, Encoder, default_spec, load_encoder
from accel.stages.search import RRF_K, Hits
from accel.stages.weights import DEFAULT_MODEL, HUB_NAME, folder_revision, missing_model, torch_dtype

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]

DEPTH = 20
MAXSIM_WEIGHT = 0.05
"""How deep, and the weight of MaxSim beside the fused score. Chosen on SciFact's *train* split, 809
claims, fp32, 2026-11-23: nDCG@10 is .7155 without, .7216 / .7263 / .7238 / .7177 with a weight of
.02 / .05 / .1 / .5 at depth 20, and .7266 with .05 at depth 30, for half as much work again.
"""


class Reranker(Protocol):
    """Scores texts against a question."""

    spec: Spec

    def score(self, query: str, texts: Sequence[str]) -> F32:
        """float32 (n,): larger is better; comparable within one query only."""
        ...

    def blend(self, fused: F32, scores: F32) -> F32:
        """float32 (n,): the fused scores of the search and this reranker's, as one."""
        ...


def default_rerank_spec() -> Spec:
    """Late interaction over the bundled encoder's token vectors."""
    return replace(default_spec(), stage=Stage.RERANK, pooling="tokens")


def load_reranker(
    spec: Spec | None = None, device: str = "cpu", encoder: Encoder | None = None
) -> Reranker | None:
    """The reranker for ``spec``, or None for ``Spec(Stage.RERANK)`` with no model: no reranking.

    pooling "tokens" means late interaction, with ``encoder`` reused where it computes the same;
    anything else names a cross-encoder. Raises ModelError when the model is missing.
    """
    spec = spec or default_rerank_spec()
    if not spec.model:
        return None
    if spec.pooling != "tokens":
        return CrossEncoderReranker(spec, device)
    pooling = "mean" if spec.model in (DEFAULT_MODEL, HUB_NAME) else ""
    wanted = replace(spec, stage=Stage.EMBED, pooling=pooling)
    if encoder is None or not _same(encoder.spec, wanted) or encoder.device != device:
        encoder = load_encoder(wanted, device)
    return LateInteraction(encoder)


def rerank(
    reranker: Reranker | None,
    index: HybridIndex,
    queries: Sequence[str],
    hits: Hits,
    depth: int = DEPTH,
) -> Hits:
    """``hits`` with the first ``depth`` of each row in the order of the blended score, ties by rank.

    scores become the blended ones for those, and the fused ones minus a constant for the rest, so that
    a row still descends. With reranker None the hits come back as they are.
    """
    if reranker is None or depth < 1:
        return hits
    parts = {name: array.copy() for name, array in hits.tensors().items()}
    for i, query in enumerate(queries):
        ids = hits.row(i)
        head = ids[:depth]
        if not len(head):
            continue
        texts = [p.content for p in index.passages(head)]
        fused = hits.scores[i, : len(head)]
        blended = reranker.blend(fused, reranker.score(query, texts))
        order = np.argsort(-blended, kind="stable")
        for array in parts.values():
            array[i, : len(head)] = array[i, : len(head)][order]
        parts["scores"][i, : len(head)] = blended[order]
        if len(ids) > len(head):
            drop = max(0.0, float(fused[-1]) - float(blended.min()))
            parts["scores"][i, len(head) : len(ids)] -= np.float32(drop)
    return Hits.from_tensors(parts)


class LateInteraction:
    """MaxSim: the mean, over the question's tokens, of the best cosine with any token of the text.

    Token vectors of texts are kept in memory, least recently used out first, up to ``cache_bytes``
    (float16: 768 bytes a token for the bundled model). Safe to call from several threads.
    """

    def __init__(self, encoder: Encoder, cache_bytes: int = 256 << 20) -> None:
        self.encoder = encoder
        self.spec = replace(encoder.spec, stage=Stage.RERANK, pooling="tokens")
        self._cache_bytes = cache_bytes
        self._held = 0
        self._kept: OrderedDict[str, F16] = OrderedDict()
        self._lock = threading.Lock()

    def score(self, query: str, texts: Sequence[str]) -> F32:
        """float32 (n,) in [-1, 1]; 0 for a text or question without tokens."""
        asked = self.encoder.token_vectors([query])[0].astype(np.float32)
        return maxsim(asked, self._vectors(texts))

    def blend(self, fused: F32, scores: F32) -> F32:
        return (fused + np.float32(MAXSIM_WEIGHT) * scores).astype(np.float32)

    def remember(self, texts: Sequence[str], tokens: Sequence[F16]) -> None:
        """Put token vectors that were computed elsewhere (``Encoder.encode``) into the cache."""
        with self._lock:
            for text, vectors in zip(texts, tokens, strict=True):
                self._put(_key(text), vectors)

    def _vectors(self, texts: Sequence[str]) -> list[F16]:
        keys = [_key(t) for t in texts]
        with self._lock:
            found = {k: self._kept[k] for k in keys if k in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        missing = [i for i, k in enumerate(keys) if k not in found]
        for i, vectors in zip(
            missing, self.encoder.token_vectors([texts[i] for i in missing]), strict=True
        ):
            found[keys[i]] = vectors
            with self._lock:
                self._put(keys[i], vectors)
        return [found[k] for k in keys]

    def _put(self, key: str, vectors: F16) -> None:
        if vectors.nbytes > self._cache_bytes or key in self._kept:
            return
        self._kept[key] = vectors
        self._held += vectors.nbytes
        while self._held > self._cache_bytes:
            self._held -= self._kept.popitem(last=False)[1].nbytes


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder; its ranking is fused as a third one, by reciprocal rank.

    Logits are read in float32 (bf16 logits tie). How well this does depends on the model: measure it
    with ``experiments.evaluate`` before relying on it.
    """

    def __init__(self, spec: Spec, device: str = "cpu") -> None:
        self._at_once = 32  # pairs in a batch: sentence-transformers' own; halved when that is too much
        folder = Path(spec.model).expanduser()
        try:
            from sentence_transformers import CrossEncoder

            self._model = CrossEncoder(
                str(folder) if folder.exists() else spec.model,
                device=device,
                revision=None if folder.exists() else spec.revision or None,
                max_length=spec.max_length or None,
                model_kwargs={"dtype": torch_dtype(spec.numerics), "use_safetensors": True},
            )
        except Exception as bad:  # the libraries below raise nearly every class there is
            raise missing_model(spec.model, bad) from None
        config = self._model.model.config
        if config.num_labels != 1:
            raise ModelError(f"{spec.model}: gives {config.num_labels} labels; a reranker gives one score.")
        found = folder_revision(folder) or str(getattr(config, "_commit_hash", None) or "")
        if folder.exists() and spec.revision and spec.revision != found:
            raise ModelError(f"{spec.model}: its weights are not the ones of the Spec.")
        self.spec = replace(
            spec,
            revision=spec.revision or found,
            max_length=spec.max_length or int(self._model.max_length or 512),
        )

    def score(self, query: str, texts: Sequence[str]) -> F32:
        """float32 (n,): the logit of each pair."""
        import torch

        if not texts:
            return np.zeros(0, dtype=np.float32)
        # a token is never shorter than a character, so this cuts nothing the model would read
        pairs = [(query[:20_000], t[: self.spec.max_length * 64]) for t in texts]
        with torch.inference_mode():
            while True:
                at_once = self._at_once
                try:
                    logits = self._model.predict(
                        pairs, batch_size=at_once, activation_fn=torch.nn.Identity(),
                        show_progress_bar=False,
                    )  # fmt: skip
                    break
                except torch.OutOfMemoryError as bad:
                    if min(at_once, len(pairs)) == 1:
                        raise DeviceFull("the device ran out of memory reranking one text.") from bad
                    # another thread may have halved it meanwhile
                    self._at_once = min(self._at_once, max(1, min(at_once, len(pairs)) // 2))
        scores = np.asarray(logits, dtype=np.float32).reshape(-1)
        if not np.isfinite(scores).all():
            raise ModelError(f"{self.spec.model} gave NaN or infinity.", hint="Ask for fp32 or bf16.")
        return scores

    def blend(self, fused: F32, scores: F32) -> F32:
        ranks = np.empty(len(scores), dtype=np.float32)
        ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        return (fused + 1.0 / (RRF_K + ranks)).astype(np.float32)


def maxsim(query: F32, texts: Sequence[F16]) -> F32:
    """float32 (n,): per text (t, d), the mean over the query's rows (q, d) of the largest dot product."""
    scores = np.zeros(len(texts), dtype=np.float32)
    filled = [i for i, t in enumerate(texts) if len(t)]
    if not filled or not len(query):
        return scores
    stacked = np.concatenate([texts[i] for i in filled]).astype(np.float32)
    starts = np.cumsum([0, *(len(texts[i]) for i in filled[:-1])])
    scores[filled] = np.maximum.reduceat(query @ stacked.T, starts, axis=1).mean(axis=0)
    return scores


def _key(text: str) -> str:
    return content_hash(text.encode("utf-8", "surrogatepass"))


def _same(have: Spec, wanted: Spec) -> bool:
    """Whether an encoder that is loaded computes what ``wanted`` asks for, empty fields meaning any."""
    mine = have.fields()
    return all(not v or mine[k] == v for k, v in wanted.fields().items())
