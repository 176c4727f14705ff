"""What came back. Guarantee: an answer that passes is for this request, of its shape, and finite.

What cannot be told from the answer alone is not claimed: vectors in another order than their texts have the
right shape, and pass.
"""

from __future__ import annotations

import numpy as np

from accel.core.errors import BadOutput
from accel.core.task import Stage
from accel.wire import Envelope


def validate(request: Envelope, output: Envelope, provider: str) -> None:
    """Raises BadOutput for an answer to another task or Spec, of another shape, or not finite."""
    if output.task_id != request.task_id or dict(output.spec) != dict(request.spec):
        raise BadOutput("the answer belongs to another task or Spec", provider=provider)
    if broken := output.not_numbers():
        raise BadOutput(f"{', '.join(broken)}: NaN or infinity", provider=provider)
    match request.spec["stage"]:
        case Stage.EMBED:
            expected = (len(request.tensors["text_ends"]), int(request.spec["dimension"]))
            vectors = _tensor(output, "vectors", expected, provider)
            # NaN and +infinity were looked for above
            low = np.minimum.reduce(vectors, axis=None, initial=0.0)
            if vectors.dtype != np.float32 or not low > -np.inf:
                raise BadOutput(f"vectors of {vectors.dtype}, or not finite", provider=provider)
        case Stage.SEARCH | Stage.RERANK:
            rows = len(request.tensors["text_ends"])
            width = int(request.meta["k"]) if "k" in request.meta else request.tensors["ids"].shape[1]
            for name in ("ids", "scores", "dense", "lexical"):
                _tensor(output, name, (rows, width), provider)
        case Stage.ANSWER:
            if not isinstance(output.meta.get("answer"), dict):
                raise BadOutput("it holds no answer", provider=provider)


def _tensor(output: Envelope, name: str, shape: tuple[int, ...], provider: str) -> np.ndarray:
    found = output.tensors.get(name)
    if found is None or found.shape != shape:
        have = "missing" if found is None else f"of shape {found.shape}"
        raise BadOutput(f"{name} {have}, not of shape {shape}", provider=provider)
    return found
