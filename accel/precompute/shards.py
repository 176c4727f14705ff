"""Shards. Guarantee: equal texts under an equal Spec are one shard, whose vectors do not depend on its size.

A shard is a run of whole blocks (``stages.embed.BLOCK`` texts, counted from the corpus's first one), named by
the hash of the Spec and its texts. Each block is embedded alone, wherever that is, so that on one kind of
device a corpus gets the same bits in one piece and in many. On unlike devices fp32 differs by about 1e-6, as
it does for everything else here: ``agreement`` holds every shard that comes from elsewhere against a few
vectors made here.

A try at a shard is a job of the ledger with an id of its own, made from the shard's name, so that whoever
cuts the same corpus finds what was done, and what is under way.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accel import environment
from accel.core.errors import BadOutput, IndexError_, UsageError
from accel.core.task import Lane, Need, Size, Spec, Task, content_hash
from accel.index.vectors import F32, as_matrix
from accel.stages.embed import BLOCK
from accel.wire import Envelope
from accel.worker.artefacts import JobResult
from accel.worker.bundle import JOB_SCHEMA, Bundle
from accel.worker.job import packed_texts

SCHEMA = "accel-shard-1"
SHARD = 2048  # texts: a few seconds of a T4, a few minutes of a laptop
# Deflated, in base64 and beside the package's wheel, it still fits the one script that Kaggle takes
# (``worker.bundle.MAX_SCRIPT_BYTES``).
SHARD_BYTES = 200_000
_CHARS_PER_TOKEN = 4.0  # of English text, roughly: enough to place a job by
_JOB = re.compile(r"p[0-9a-f]{20}-\d+")


@dataclass(frozen=True, slots=True)
class Shard:
    """Texts ``start`` to ``start + count`` of a corpus. hash: of the Spec and those texts."""

    number: int
    start: int
    count: int
    hash: str

    def job_id(self, attempt: int) -> str:
        """The id of the n-th job for it; it is part of a Kaggle slug, which may have 50 characters."""
        return f"p{self.hash[:20]}-{attempt}"


def is_shard(job_id: str) -> bool:
    """Whether a job of the ledger is a shard of a corpus."""
    return bool(_JOB.fullmatch(job_id))


def cut(spec: Spec, texts: Sequence[str], size: int = SHARD) -> tuple[Shard, ...]:
    """The shards of a corpus, in order, of ``size`` texts at most, rounded up to whole blocks.

    One whose texts do not deflate to ``SHARD_BYTES`` is cut earlier. Raises UsageError for a size below 1.
    """
    if size < 1:
        raise UsageError(f"a shard holds at least one passage, not {size}.")
    size = -(-size // BLOCK) * BLOCK
    found: list[Shard] = []
    start = packed = 0
    for at in range(0, len(texts), BLOCK):
        more = len(zlib.compress("".join(texts[at : at + BLOCK]).encode("utf-8", "surrogatepass"), 6))
        if at > start and (at - start >= size or packed + more > SHARD_BYTES):
            found.append(_shard(spec, texts, len(found), start, at))
            start, packed = at, 0
        packed += more
    if texts:
        found.append(_shard(spec, texts, len(found), start, len(texts)))
    return tuple(found)


def _shard(spec: Spec, texts: Sequence[str], number: int, start: int, end: int) -> Shard:
    named = f"{SCHEMA} {BLOCK} {json.dumps(spec.fields(), sort_keys=True)}"
    inputs = (t.encode("utf-8", "surrogatepass") for t in texts[start:end])
    return Shard(number, start, end - start, content_hash(named.encode(), *inputs))


def task_of(
    shard: Shard, spec: Spec, texts: Sequence[str], job_id: str, *, only: frozenset[str], private: bool
) -> Task:
    """The task of one job. texts: of the shard. only: who may run it. private: see ``Need``."""
    limit = (spec.max_length or 512) * _CHARS_PER_TOKEN
    tokens = round(sum(min(len(t), limit) for t in texts) / _CHARS_PER_TOKEN)
    need = Need(spec.stage, Lane.BATCH, spec.numerics, private_data=private, only=only)
    size = Size(len(texts), tokens=tokens, bytes=sum(map(len, texts)))
    return Task(job_id, Lane.BATCH, spec, size, need, inputs=(shard.hash,))


def bundle_of(task: Task, texts: Sequence[str], wheel: bytes, lifetime_s: float) -> Bundle:
    """What the far end runs. wheel: this package, packed once for all shards."""
    job = {
        "schema": JOB_SCHEMA, "kind": "embed", "task_id": task.id, "spec": task.spec.fields(),
        "lifetime_s": lifetime_s, "commit": environment.commit(),
        "needs_internet": True,  # the images of Kaggle and Colab do not hold the weights
    }  # fmt: skip
    return Bundle(job, wheel, Envelope(task.id, task.spec.fields(), packed_texts(texts), {}).to_bytes())


def vectors_of(result: JobResult, shard: Shard, spec: Spec, provider: str) -> F32:
    """The (count, dimension) vectors of a result. Raises BadOutput when they cannot be the shard's."""
    try:
        vectors = as_matrix(result.output.tensors["vectors"], "shard", spec.dimension or None)
    except (KeyError, IndexError_) as bad:
        raise BadOutput(f"the result holds no vectors of this Spec ({bad})", provider=provider) from bad
    if len(vectors) != shard.count:
        raise BadOutput(f"{len(vectors)} vectors came of {shard.count} passages", provider=provider)
    return vectors


def sample(shard: Shard, most: int) -> list[int]:
    """Places within the shard of the texts that are embedded here, too: spread over it, always the same."""
    return sorted({int(i) for i in np.linspace(0, shard.count - 1, min(most, shard.count))})
