"""All of a machine's GPUs for one embedding. Guarantee: row i belongs to text i, whichever device made it.

Kaggle's machine has two T4s, and a model of ours fits one: each gets a copy, and texts that weigh about the
same. The devices work at the same time, a thread each (torch lets go of the interpreter meanwhile).
As everywhere (``stages.embed``) the last bits of a vector follow from its batch, and so from the split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from accel.core.task import Spec

F32 = NDArray[np.float32]
SPLIT_FROM = 2  # texts for each device: below, one alone is as quick


class Embeds(Protocol):
    """What a device's encoder does; see ``stages.embed.Encoder``."""

    spec: Spec
    device: str

    def embed(self, texts: Sequence[str]) -> F32: ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...


def devices() -> list[str]:
    """Every GPU that torch sees here, or the processor."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cuda"] if count == 1 else [f"cuda:{n}" for n in range(count)] or ["cpu"]


class Spread:
    """Encoders of one Spec, one a device, as one. Raises what they raise; ValueError for none of them."""

    def __init__(self, encoders: Sequence[Embeds]) -> None:
        if not encoders:
            raise ValueError("no device to embed on")
        self._encoders = list(encoders)
        self.spec = encoders[0].spec
        self.device = "+".join(e.device for e in encoders)

    @classmethod
    def load(cls, spec: Spec, on: Sequence[str], load: Callable[[Spec, str], Embeds]) -> Spread:
        """A copy of the model on each device of ``on``."""
        return cls([load(spec, device) for device in on])

    def embed(self, texts: Sequence[str]) -> F32:
        """float32 (n, dimension), in the order of ``texts``."""
        encoders = self._encoders if len(texts) >= SPLIT_FROM * len(self._encoders) else self._encoders[:1]
        if len(encoders) == 1:
            return encoders[0].embed(texts)
        parts = shares([len(t) for t in texts], len(encoders))
        vectors = np.zeros((len(texts), self.spec.dimension), np.float32)
        with ThreadPoolExecutor(len(encoders)) as pool:
            made = pool.map(lambda e, rows: e.embed([texts[i] for i in rows]), encoders, parts)
            for rows, got in zip(parts, made, strict=True):
                vectors[rows] = got
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self._encoders[0].count_tokens(texts)


def shares(weights: Sequence[int], parts: int) -> list[list[int]]:
    """Every index once, in ``parts`` lists of about the same weight, dealt out from the heaviest.

    No two differ by more than the heaviest weight.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    for place, i in enumerate(order):
        round_, seat = divmod(place, parts)
        dealt[seat if round_ % 2 == 0 else parts - 1 - seat].append(i)
    return dealt
