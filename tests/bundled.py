"""The bundled encoder for tests. Guarantee: loaded once in a run, whichever rooms ask for it."""

from __future__ import annotations

from functools import cache

from accel.stages.embed import Encoder, load_encoder


@cache
def encoder() -> Encoder:
    """all-MiniLM-L6-v2 on the CPU, fp32."""
    return load_encoder()
