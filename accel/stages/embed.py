"""Texts to vectors. Guarantee: row i belongs to text i, is finite, and comes from the Spec's model.

One pass over the model can give both the pooled vector and the token vectors (for late
interaction). Texts are batched by a token budget after sorting by length, so that little is spent
on padding. The composition of a batch changes the last bits of a float (about 1e-7 in fp32): the
same list of texts gives the same bits on one machine and thread count, the same text in another
list need not. ``embed_blocks`` therefore always makes the same lists of a corpus: blocks of ``BLOCK``
texts, counted from its first one, each embedded alone. When the device runs out of memory the budget is
halved, for as long as the encoder lives, and what was not computed is batched anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from accel.core.errors import ModelError
from accel.core.passage import Progress
from accel.core.task import Numerics, Spec
from accel.stages.weights import Model, default_spec, load_model

__all__ = ["BLOCK", "Encoded", "Encoder", "default_spec", "embed_blocks", "load_encoder"]

# Texts that are embedded together, wherever that is. To change it is to change the last bits of every index.
BLOCK = 128

F32 = NDArray[np.float32]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CHARS_PER_TOKEN = 64  # far above any real text (about 4): cuts a 1 MB text before it is tokenised
_TOKENISE_AT_ONCE = 4096
# Tokens per batch, padding included. CPU: about 8 passages of 128 tokens, the fastest measured
# there; a GPU wants its launches amortised.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}


class DeviceFull(ModelError):
    """The device's memory does not hold even one text."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """vectors: float32 (n, d). tokens: per text float16 (t, d), L2-normalised; None if not asked for."""

    vectors: F32
    tokens: list[NDArray[np.float16]] | None = None


def load_encoder(spec: Spec | None = None, device: str = "cpu") -> Encoder:
    """The encoder for ``spec`` (default: ``default_spec()``) on ``device`` ("cpu", "cuda", "cuda:1").

    Raises ModelError when the model is missing, is not the pinned one, or cannot do what is asked.
    """
    return Encoder(load_model(spec or default_spec(), device), device)


class Encoder:
    """A loaded model. ``spec`` is complete: what was left empty has been filled in from the model.

    batch_tokens: what one batch may hold, padding included; out_of_memory: how often that was too much.
    Safe to call from several threads: nothing else in it changes after loading.
    """

    def __init__(self, model: Model, device: str) -> None:
        self._model = model
        self.spec = model.spec
        self.device = device
        self.batch_tokens = _BATCH_TOKENS.get(device.partition(":")[0], _BATCH_TOKENS["cpu"])
        self.out_of_memory = 0

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> F32:
        """float32 (n, spec.dimension), in the order of ``texts``; normalised if the Spec says so.

        Any text goes: empty, with lone surrogates (read as U+FFFD), of any length (cut at
        max_length).
        """
        return self.encode(texts, progress=progress).vectors

    def token_vectors(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> list[NDArray[np.float16]]:
        """Per text the L2-normalised last hidden states, float16 (t, d), special tokens left out."""
        tokens = self.encode(texts, tokens=True, progress=progress).tokens
        return tokens if tokens is not None else []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens that the model will read of each text: special ones counted, cut at max_length."""
        return [len(t.ids) for t in self._tokenise(texts)]

    def encode(
        self, texts: Sequence[str], *, tokens: bool = False, progress: Progress | None = None
    ) -> Encoded:
        """Vectors, and with ``tokens`` the token vectors too, in one pass over the model.

        progress is called with (texts done, n) after each batch. Raises ModelError when the model
        gives NaN or infinity (fp16 can overflow), DeviceFull when not even one text fits the device.
        """
        import torch

        made = self._tokenise(texts)
        vectors = np.zeros((len(made), self.spec.dimension), dtype=np.float32)
        kept: list[NDArray[np.float16]] = [np.zeros((0, 0), dtype=np.float16)] * len(made)
        done = 0
        lengths, done = [len(t.ids) for t in made], 0
        # longest first: the memory peak comes first
        order = sorted(range(len(made)), key=lambda i: (-lengths[i], i))
        with torch.inference_mode(), _arithmetic(self.spec.numerics):
            while done < len(order):
                budget = self.batch_tokens
                most = max(1, budget // max(1, lengths[order[done]]))
                rows = order[done : done + most]
                try:
                    hidden, vectors[rows] = self._forward([made[i].ids for i in rows])
                    if tokens:
                        unit = torch.nn.functional.normalize(hidden, dim=-1).half().cpu().numpy()
                        for row, i in enumerate(rows):
                            kept[i] = unit[row][np.flatnonzero(np.asarray(made[i].special) == 0)]
                except torch.OutOfMemoryError as bad:
                    hidden = None
                    self._halve(budget, lengths[rows[0]] * len(rows), alone=len(rows) == 1, why=bad)
                    continue
                done += len(rows)
                if progress:
                    progress(done, len(made))
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"{self.spec.model} gave NaN or infinity in {self.spec.numerics}.",
                hint="Ask for fp32 or bf16.",
            )
        return Encoded(vectors, kept if tokens else None)

    def _tokenise(self, texts: Sequence[str]) -> list:  # type: ignore[type-arg]
        limit = self.spec.max_length * _CHARS_PER_TOKEN
        clean = [self.spec.prompt + _LONE_SURROGATE.sub("\ufffd", t[:limit]) for t in texts]
        made = []
        for start in range(0, len(clean), _TOKENISE_AT_ONCE):
            made += self._model.tokenise(clean[start : start + _TOKENISE_AT_ONCE])
        return made

    def _forward(self, ids: Sequence[Sequence[int]]):  # type: ignore[no-untyped-def]
        """Hidden states (b, t, d) on the device, and pooled vectors (b, d) here, of one batch."""
        import torch

        longest = max(map(len, ids))
        padded = torch.tensor([[*x] + [0] * (longest - len(x)) for x in ids])
        mask = torch.tensor([[1] * len(x) + [0] * (longest - len(x)) for x in ids])
        hidden, pooled = self._model.forward(padded.to(self.device), mask.to(self.device))
        hidden = hidden.float()
        return hidden, self._pool(hidden, mask, pooled).cpu().numpy()

    def _halve(self, budget: int, used: int, *, alone: bool, why: Exception) -> None:
        """Remember that ``used`` tokens of ``budget`` were too many. Raises DeviceFull for one text alone."""
        import torch

        self.out_of_memory += 1
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if alone:
            raise DeviceFull(
                f"{self.device} ran out of memory embedding one text.",
                hint="Use a smaller max_length, or the CPU.",
            ) from why
        # another thread may have halved it meanwhile
        self.batch_tokens = min(self.batch_tokens, max(1, min(budget, used) // 2))

    def _pool(self, hidden, mask, pooled):  # type: ignore[no-untyped-def]
        """(b, d) from hidden states (b, t, d), as the Spec says; Sentence-BERT's mean over real tokens."""
        import torch

        if pooled is None:
            if self.spec.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                weight = mask.to(hidden.device).unsqueeze(-1).float()
                pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        pooled = pooled.float()
        return torch.nn.functional.normalize(pooled, dim=-1) if self.spec.normalise else pooled


def embed_blocks(encoders: Sequence[Encoder], texts: Sequence[str], progress: Progress | None = None) -> F32:
    """float32 (n, dimension) of a corpus, or of a part of it that begins at a multiple of ``BLOCK``.

    On one kind of device the bits are the same however a corpus is cut into such parts, and over how many
    encoders, which take the blocks in turn, each in a thread of its own. progress: called after each block
    with (texts done, n). Raises as ``Encoder.encode``.
    """
    spec = encoders[0].spec
    vectors = np.zeros((len(texts), spec.dimension), dtype=np.float32)
    starts, lock, done = iter(range(0, len(texts), BLOCK)), Lock(), 0

    def work(encoder: Encoder) -> None:
        nonlocal done
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            block = texts[start : start + BLOCK]
            vectors[start : start + BLOCK] = encoder.embed(block)
            with lock:
                done += len(block)
                if progress:
                    progress(done, len(texts))

    with _arithmetic(spec.numerics):  # once for all threads: the first that ends must not put it back
        if len(encoders) == 1:
            work(encoders[0])
        else:
            with ThreadPoolExecutor(len(encoders)) as pool:
                list(pool.map(work, encoders))
    return vectors


@contextlib.contextmanager
def _arithmetic(numerics: Numerics) -> Iterator[None]:
    """Hold CUDA matrix products to full fp32 unless tf32 was asked for; put back what was set before."""
    import torch

    before = torch.get_float32_matmul_precision()
    wanted = "high" if numerics is Numerics.TF32 else "highest"
    if before == wanted:
        yield
        return
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
