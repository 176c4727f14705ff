"""What simulated providers answer. Guarantee: a function of Spec and text alone, so that a wrong one is seen.

A text says its own length: "1300|17" is a text of 1,300 tokens. Its vector comes from its hash and from every
field of the Spec that may be all that tells two tasks apart.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from accel.core.task import Numerics, Stage
from accel.wire import Envelope

WIDTH = 4  # hits of a rerank


def tokens_of(text: str) -> int:
    """Tokens of a text, 0 where it does not say."""
    head, _, rest = text.partition("|")
    return int(head) if rest else 0


def salt_of(spec: Mapping[str, Any]) -> str:
    """What of a Spec changes the vectors, "" for a bare one. The model goes with its revision."""
    numerics = "" if spec["numerics"] == Numerics.FP32 else spec["numerics"]
    return "|".join(part for part in (spec["revision"], spec["prompt"], numerics) if part)


@functools.lru_cache(maxsize=1 << 16)
def row(salt: str, text: str, dimension: int) -> bytes:
    """One vector's bytes: float32 in [-1, 1); dimension at most 32."""
    digest = hashlib.blake2b((salt + text).encode("utf-8", "surrogatepass"), digest_size=64).digest()
    return (np.frombuffer(digest, "<i2")[:dimension] / np.float32(32768)).tobytes()


def vectors_of(texts: Sequence[str], dimension: int, salt: str = "") -> np.ndarray:
    """float32 (n, dimension), row i from text i."""
    blob = bytearray().join([row(salt, t, dimension) for t in texts])
    return np.frombuffer(blob, np.float32).reshape(len(texts), dimension)


def answer(request: Envelope, texts: Sequence[str], cold_s: float, compute_s: float) -> Envelope:
    """The right answer."""
    spec, meta = request.spec, {"cold_s": cold_s, "compute_s": compute_s}
    salt = salt_of(spec)
    if spec["stage"] == Stage.EMBED or spec["stage"] == Stage.SEARCH or "ids" not in request.tensors:
        tensors = {"vectors": vectors_of(texts, int(spec["dimension"]), salt)}
    else:
        tensors = hits_of(texts, salt)
    return Envelope(request.task_id, spec, tensors, meta)


def hits_of(texts: Sequence[str], salt: str) -> dict[str, np.ndarray]:
    """A rerank's answer: four arrays (n, WIDTH) with the same numbers in them."""
    scores = vectors_of(texts, WIDTH, salt)
    return {"ids": np.argsort(scores, axis=1), "scores": scores, "dense": scores, "lexical": scores}


def spoiled(right: Envelope, variant: int) -> Envelope:
    """An answer that no validation may let pass: one of six, by turns."""
    name = next(iter(right.tensors))
    array = right.tensors[name]
    wrong: Any
    match variant % 6:
        case 0:
            name = "scores" if "scores" in right.tensors else name
            wrong = np.array(right.tensors[name], np.float32)
            wrong[-1, 0] = np.nan
        case 1:
            wrong = array[:, :-1]
        case 2:
            wrong = array[:-1]
        case 3:
            wrong = np.concatenate([array, array])
        case 4:
            return replace(right, spec={**right.spec, "revision": "another"})
        case _:
            return replace(right, tensors={})
    return replace(right, tensors={**right.tensors, name: wrong})
