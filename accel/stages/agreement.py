"""Whether two devices computed the same vectors. Guarantee: a row that is broken agrees with nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_COSINE = 0.9999
"""fp32 on two kinds of device agrees to about 1e-6; bf16 with fp32 to 0.99997 (measured 2026-11-23)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """lowest: the smallest cosine of a far end's vector with ours, over n texts."""

    lowest: float
    n: int

    @property
    def holds(self) -> bool:
        """Whether every vector agrees to ``MIN_COSINE``."""
        return self.lowest >= MIN_COSINE

    def __str__(self) -> str:
        verdict = "agrees" if self.holds else f"DISAGREES ({MIN_COSINE} is demanded)"
        return f"lowest cosine {self.lowest:.6f} over {self.n} texts: {verdict}"


def agreement(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """How well (n, d) ``vectors`` agree with ``reference``. Raises ValueError for other shapes or none."""
    found = cosines(vectors, reference)
    if not len(found):
        raise ValueError("no vectors to compare")
    return Agreement(float(found.min()), len(found))


def cosines(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 (n,): row by row, in double precision; -1 for a row that is zero or not finite."""
    if vectors.shape != reference.shape or vectors.ndim != 2:
        raise ValueError(f"vectors of shape {vectors.shape} cannot be compared with {reference.shape}")
    a, b = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    found = np.full(len(a), -1.0)
    found[usable] = (a[usable] * b[usable]).sum(axis=1) / norms[usable]
    return found
