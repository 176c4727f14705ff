"""What is to be computed. Guarantee: two equal Specs compute the same function of the same input."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum


class Stage(StrEnum):
    """What is computed: the four pipeline stages, a kernel benchmark, or a training run."""

    EMBED = "embed"
    SEARCH = "search"
    RERANK = "rerank"
    ANSWER = "answer"
    KERNEL = "kernel"
    TRAIN = "train"


class Lane(StrEnum):
    """``live``: milliseconds to seconds. ``batch``: minutes to hours, with artefacts."""

    LIVE = "live"
    BATCH = "batch"


class Numerics(StrEnum):
    """The arithmetic a result must come from: a requirement of the task, never an accident of where.

    Classes differ by about 1e-6 (fp32 on CPU against GPU), 1e-3 per element (fp16) and more (int8).
    """

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Complexity(StrEnum):
    """How a question was judged; see ``hybrid_gpu_processor`` for the rules."""

    SIMPLE = "simple"
    COMPLEX = "complex"


@dataclass(frozen=True, slots=True)
class Spec:
    """What exactly a stage computes. Every field enters the cache key.

    stage: what is computed.
    model: name, or path of a folder; "" where no model is involved.
    revision: sha256 of the weights, or a hub commit; "" where no model is involved.
    tokenizer: "" means the model's own.
    prompt: text put before each input.
    max_length: tokens kept per input; 0 where it has no meaning.
    pooling: "mean", "cls", "tokens" (no pooling), or "".
    normalise: L2-normalise the output vectors.
    dimension: length of an output vector; 0 where it has no meaning.
    numerics: the arithmetic class that the result must come from.
    """

    stage: Stage
    model: str = ""
    revision: str = ""
    tokenizer: str = ""
    prompt: str = ""
    max_length: int = 0
    pooling: str = ""
    normalise: bool = False
    dimension: int = 0
    numerics: Numerics = Numerics.FP32

    def fields(self) -> dict[str, str | int | bool]:
        """Every field as a plain JSON value, in declaration order."""
        return dict(_plain(self))

    @classmethod
    def from_fields(cls, fields: dict[str, str | int | bool]) -> Spec:
        """Inverse of ``fields``. Raises TypeError or ValueError on unknown names or values."""
        known: dict[str, object] = dict(fields)
        known["stage"] = Stage(str(known["stage"]))
        known["numerics"] = Numerics(str(known.get("numerics", Numerics.FP32)))
        return cls(**known)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)  # asked for with every request; to be copied
def _plain(spec: Spec) -> dict[str, str | int | bool]:
    values = ((f.name, getattr(spec, f.name)) for f in fields(spec))
    return {k: (v.value if isinstance(v, StrEnum) else v) for k, v in values}


KEY_SCHEMA = "accel-key-1"


def content_hash(*parts: bytes) -> str:
    """BLAKE2b-256 over length-prefixed parts, hex: no two different sequences of parts collide by joining."""
    return _feed(hashlib.blake2b(digest_size=32), parts).hexdigest()


def _feed(h: hashlib.blake2b, parts: Iterable[bytes]) -> hashlib.blake2b:
    for part in parts:
        h.update(len(part).to_bytes(8, "big"))
        h.update(part)
    return h


@functools.lru_cache(maxsize=64)
def _begun(spec: Spec) -> hashlib.blake2b:
    """The hash of a key up to its inputs: the same for every text under one Spec. To be copied."""
    named = (f"{k}={v!r}".encode("utf-8", "surrogatepass") for k, v in spec.fields().items())
    return _feed(hashlib.blake2b(digest_size=32), (KEY_SCHEMA.encode(), *named))


def cache_key(spec: Spec, *inputs: str) -> str:
    """The exact cache key of DESIGN: schema, every Spec field by name, then the exact inputs.

    ``inputs`` are the exact text (embed), or index version, k, filter and query (search), or query and
    document hashes (rerank). Text is taken as it is: no Unicode normalisation, no trimming.
    """
    # surrogatepass: a lone surrogate is still a distinct text, and must not raise here
    return _feed(_begun(spec).copy(), (i.encode("utf-8", "surrogatepass") for i in inputs)).hexdigest()


@dataclass(frozen=True, slots=True)
class Size:
    """How much work.

    items: texts, queries or pairs. tokens: over all items. bytes: to be sent there. read_bytes: what a
    search must read where the index lies.
    """

    items: int
    tokens: int = 0
    bytes: int = 0
    read_bytes: int = 0

    def __post_init__(self) -> None:
        if min(self.items, self.tokens, self.bytes, self.read_bytes) < 0:
            raise ValueError(f"a size cannot be negative: {self}")


@dataclass(frozen=True, slots=True)
class Need:
    """What a provider must have before it can make an offer for a task.

    vram_bytes: 0 means no GPU is needed. capability: CUDA compute capability as 10 × major + minor
    (75 is a T4); 0 means any. index: content hash of an index that must be resident, or "".
    model: revision of the model that will be used, or ""; where it is resident there is no cold start.
    private_data: the inputs are not the user's own to publish (Kaggle's terms then ask for consent).
    only: provider names that the user allows; empty means all.
    """

    stage: Stage
    lane: Lane
    numerics: Numerics = Numerics.FP32
    vram_bytes: int = 0
    capability: int = 0
    index: str = ""
    model: str = ""
    private_data: bool = False
    only: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work to place.

    inputs: content hashes of what goes in. within_s: deadline in seconds from submission, None for
    no deadline. target_s: seconds that the person would like it to take; an offer that meets the target
    goes before one that only meets the deadline. Raises ValueError for one that is not above 0.
    """

    id: str
    lane: Lane
    spec: Spec
    size: Size
    need: Need
    inputs: tuple[str, ...] = field(default=())
    within_s: float | None = None
    complexity: Complexity = Complexity.SIMPLE
    target_s: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in (("deadline", self.within_s), ("target", self.target_s)):
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"a {name} must be a positive number of seconds, not {seconds}")
