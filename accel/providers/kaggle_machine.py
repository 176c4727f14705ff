"""What a Kaggle session is given. Guarantee: what two T4s cannot do, or the terms forbid, is told why."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from accel.core.money import ZERO, Rate
from accel.core.offer import Gpu
from accel.core.task import Need, Numerics
from accel.providers import terms
from accel.providers.kaggle_client import NAME

# The default GPU machine is two T4s (kaggle-cli pull request 1198, 2026-09-17). nvidia-smi there says
# "Tesla T4, 15360 MiB, 7.5" of each, in public logs of 2026.
T4X2 = Gpu("T4", 2, 15360 << 20, 75)
# Tensor cores of compute capability 7.5 have no bf16 and no tf32 (CUDA C programming guide, arithmetic).
NUMERICS = frozenset({Numerics.FP32, Numerics.FP16, Numerics.INT8})
RATE = Rate(ZERO, date(2026, 11, 23), "Kaggle: free within the weekly GPU quota")


def unfit(need: Need, accepted: Collection[str]) -> str:
    """Why ``need`` cannot be met whatever Kaggle has free now; "" if nothing speaks against it.

    accepted: ``Term.key`` values.
    """
    if need.only and NAME not in need.only:
        return "not among the providers that were allowed"
    if refusal := terms.check(NAME, need, accepted):
        return str(refusal).removeprefix(f"{NAME}: ")
    if need.index:
        return "no index stays there between jobs"
    if need.numerics not in NUMERICS:
        return f"a T4 has no {need.numerics}"
    if need.capability > T4X2.capability:
        return f"a T4 has compute capability 7.5, asked was {need.capability / 10:.1f}"
    if need.vram_bytes > T4X2.vram_bytes:
        return f"a T4 has 15 GiB, asked were {need.vram_bytes / 2**30:.1f} GiB"
    return ""
