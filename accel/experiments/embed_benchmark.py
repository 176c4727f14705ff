"""The embedding benchmark as a job. Guarantee: a row made from a job carries the far end's own provenance.

``prepare`` packs texts into a bundle that any provider runs (``accel.worker.job``); ``rows_of`` turns
what came back into rows; ``agreement`` says if the far end computed the same vectors as this machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from accel import environment
from accel.core.attempt import Attempt, Outcome
from accel.core.errors import BadOutput, UsageError
from accel.core.offer import Realm
from accel.core.row import Provenance, Row, Scalar
from accel.core.runtime import Runtime
from accel.core.task import Lane, Need, Size, Spec, Task, content_hash
from accel.corpus.docstrings import library_passages
from accel.corpus.libraries import standard_library
from accel.stages.agreement import MIN_COSINE, Agreement, agreement, cosines
from accel.wire import Envelope, pack_texts
from accel.worker.bundle import Bundle

if TYPE_CHECKING:  # at run time this module asks for no more than a notebook on Kaggle has
    from accel.fleet.jobs import Finished

__all__ = ["MIN_COSINE", "Agreement", "agreement", "benchmark_texts", "cosines", "prepare", "rows_of"]

KIND = "embed_benchmark"
SECONDS = "seconds per batch"
COSINE = "cosine with this machine's vectors"
LIFETIME_S = 1800.0
_CHARS_PER_TOKEN = 4.0  # of English text, roughly: enough to place a job by
_PREFIX = "seconds_"


def benchmark_texts(n: int) -> list[str]:
    """The first ``n`` docstring passages of the running Python's standard library, in a fixed order.

    The same Python version gives the same texts, on any machine. Raises UsageError for n < 1 or more
    than there are.
    """
    if n < 1:
        raise UsageError(f"a benchmark needs at least one text, not {n}.")
    made = [p.content for p in itertools.islice(library_passages(standard_library()), n)]
    if len(made) < n:
        raise UsageError(f"this Python has {len(made)} docstrings, {n} were asked for.")
    return made


def prepare(
    texts: Sequence[str], spec: Spec, *, batch_sizes: Sequence[int], repetitions: int,
    only: Collection[str] = (), runtime: Runtime, lifetime_s: float = LIFETIME_S,
) -> tuple[Task, Bundle]:  # fmt: skip
    """The task and its bundle: embed ``texts``, then time batches of the first b of them, warm.

    only: providers that may run it; empty means any. The size counts every text that will be embedded,
    tokens by the rule of four characters each. Raises UsageError for no texts, a batch size or a number
    of repetitions below 1.
    """
    if not texts:
        raise UsageError("a benchmark needs at least one text.")
    if not batch_sizes or min(batch_sizes) < 1 or repetitions < 1:
        raise UsageError(f"batch sizes {list(batch_sizes)} and {repetitions} repetitions: each at least 1.")
    task_id = runtime.new_id()
    inputs = Envelope(task_id, spec.fields(), pack_texts(texts), {})
    job = {
        "kind": KIND, "task_id": task_id, "spec": spec.fields(), "batch_sizes": list(batch_sizes),
        "repetitions": repetitions, "lifetime_s": lifetime_s, "commit": environment.commit(),
        "needs_internet": True,  # the images of Kaggle and Colab do not hold the weights
    }  # fmt: skip
    bundle = Bundle.make(job, inputs)
    items = len(texts) + sum(batch_sizes) * (repetitions + 1)
    limit = (spec.max_length or 512) * _CHARS_PER_TOKEN
    tokens_each = sum(min(len(t), limit) for t in texts) / _CHARS_PER_TOKEN / len(texts)
    task = Task(
        id=task_id, lane=Lane.BATCH, spec=spec,
        size=Size(items=items, tokens=round(items * tokens_each), bytes=len(bundle.inputs)),
        need=Need(spec.stage, Lane.BATCH, spec.numerics, only=frozenset(only)),
        inputs=(content_hash(bundle.inputs),),
    )  # fmt: skip
    return task, bundle


def rows_of(finished: Finished, realm: Realm, reference: NDArray[np.float32] | None = None) -> list[Row]:
    """One row of seconds per batch size, and with ``reference`` one of cosines.

    reference: float32 (n, d), this machine's vectors of the same texts. timing and cost are those of the
    attempt that succeeded. Raises ValueError when the job ran in another realm, BadOutput when its result
    holds no timings or does not say how it was made.
    """
    attempt = _succeeded(finished)
    if attempt.realm is not realm:
        raise ValueError(f"job {finished.job.id} ran in the {attempt.realm} realm, not in {realm}")
    output, env = finished.result.output, _provenance(finished, attempt.provider)
    samples = {
        int(name[len(_PREFIX) :]): tuple(map(float, values))
        for name, values in output.tensors.items()
        if name.startswith(_PREFIX)
    }
    vectors = output.tensors.get("vectors")
    if not samples or vectors is None or not len(vectors):
        raise BadOutput("the result holds no timings or no vectors", provider=attempt.provider)
    spec = Spec.from_fields(dict(output.spec))
    common: dict[str, Scalar] = {
        "what": "embed", "engine": "accel", "provider": attempt.provider,
        "device": str(output.meta.get("device", "?")), "model": spec.model, "numerics": spec.numerics.value,
        "tokens_per_text": round(float(output.meta.get("tokens", 0)) / len(vectors), 2),
    }  # fmt: skip
    rows = [
        Row(
            cell={**common, "batch": size},
            metric=SECONDS,
            unit="s",
            samples=times,
            baseline="none: one engine in this job; compare it with rows of this machine, same batch",
            warm=True,
            realm=realm,
            env=env,
            timing=attempt.timing,
            cost=attempt.cost,
        )
        for size, times in sorted(samples.items())
    ]
    if reference is not None:
        rows.append(
            Row(
                cell={**common, "texts": len(vectors)},
                metric=COSINE,
                unit="cosine",
                samples=tuple(map(float, cosines(vectors, reference))),
                baseline=f"this machine's vectors of the same texts; {MIN_COSINE} is demanded",
                warm=True,
                realm=realm,
                env=env,
                timing=attempt.timing,
                cost=attempt.cost,
            )
        )
    return rows


def _succeeded(finished: Finished) -> Attempt:
    done = [a for a in finished.attempts if a.outcome is Outcome.OK]
    if not done:
        raise ValueError(f"job {finished.job.id} has no successful attempt")
    return done[-1]


def _provenance(finished: Finished, provider: str) -> Provenance:
    try:
        return TypeAdapter(Provenance).validate_python(dict(finished.result.env))
    except ValidationError as bad:
        field = ".".join(str(part) for part in bad.errors(include_url=False)[0]["loc"])
        raise BadOutput(f"the result does not say how it was made ({field or 'env'})",
                        provider=provider) from None  # fmt: skip
