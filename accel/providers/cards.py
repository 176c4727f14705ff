"""GPU models by any name a provider gives them. Guarantee: a name that is not known is None, not a guess.

Compute capability: NVIDIA, "CUDA GPU Compute Capability" (developer.nvidia.com/cuda-gpus). Memory: the
vendor's data sheet of the model in GiB, but for the T4, of which the driver shows 15 (see ``kaggle.T4X2``).
"""

from __future__ import annotations

import functools
import re

from accel.core.offer import Gpu
from accel.core.task import Numerics

# name: (GiB, compute capability); the words of a name, in any order, must all occur in the provider's
_CARDS: dict[str, tuple[float, int]] = {
    "T4": (15, 75), "V100": (16, 70), "V100 32GB": (32, 70),
    "RTX 3080": (10, 86), "RTX 3090": (24, 86), "RTX 4080": (16, 89), "RTX 4090": (24, 89),
    "RTX 5080": (16, 120), "RTX 5090": (32, 120),
    "RTX A4000": (16, 86), "RTX A4500": (20, 86), "RTX A5000": (24, 86), "RTX A6000": (48, 86),
    "RTX 2000 Ada": (16, 89), "RTX 4000 Ada": (20, 89), "RTX 5000 Ada": (32, 89), "RTX 6000 Ada": (48, 89),
    "RTX PRO 6000": (96, 120), "A10": (24, 86), "A30": (24, 80), "A40": (48, 86),
    "L4": (24, 89), "L40": (48, 89), "L40S": (48, 89),
    "A100 40GB": (40, 80), "A100 80GB": (80, 80),
    "H100": (80, 90), "H100 NVL": (94, 90), "H200": (141, 90), "B200": (180, 100),
}  # fmt: skip
_LONGEST_FIRST = tuple(
    (frozenset(re.sub(r"rtx (?=a\d)", "", n.lower()).split()), n)  # "A4000" is told without its "RTX"
    for n in sorted(_CARDS, key=lambda n: len(n.split()), reverse=True)
)
# How a card is built in, where a price depends on it. HBM3 stands in RunPod's id of the H100 SXM.
# Other models, or a part of one: neither the memory nor the speed of the name that they begin with.
_OTHER = frozenset({"mig", "ti", "super", "d", "laptop", "mobile", "sff", "max"})
_FORMS = (("PCIe", re.compile(r"\bpcie\b")), ("SXM", re.compile(r"\b(sxm\d?|hbm3)\b")))


@functools.lru_cache(maxsize=512)
def card(name: str, memory_gib: float = 0.0) -> Gpu | None:
    """The GPU that a provider calls ``name`` ("NVIDIA GeForce RTX 4090", "RTX_4090", "A100-80GB").

    memory_gib: what the provider says of one card, 0 where it does not; it decides between two A100s, and
    goes before the data sheet. None for a model, or an A100 without its memory, that the table cannot tell.
    """
    plain = re.sub(r"[^a-z0-9]+", " ", name.lower())
    plain = re.sub(r"(?<=[a-z])(?=\d{4}(?!\d))(?<!a)|(?<=\d{4})(?=[a-z])|(?<=rtx)(?=pro)|(?=nvl)", " ", plain)
    words = set(plain.split())
    if "a100" in words and not words & {"40gb", "80gb"} and memory_gib:
        words.add("80gb" if memory_gib > 60 else "40gb")
    found = next((known for needed, known in _LONGEST_FIRST if needed <= words), None)
    if found is None or words & _OTHER:
        return None
    gib, capability = _CARDS[found]
    form = next((f" {form}" for form, seen in _FORMS if seen.search(plain)), "")
    return Gpu(found + form, 1, int((memory_gib or gib) * 2**30), capability)


def numerics(capability: int) -> frozenset[Numerics]:
    """What a card computes: tensor cores have fp16 from 7.0, int8 from 7.5, bf16 and tf32 from 8.0 on
    (CUDA C++ Programming Guide, "Arithmetic Instructions")."""
    from_ = {Numerics.FP16: 70, Numerics.INT8: 75, Numerics.BF16: 80, Numerics.TF32: 80}
    return frozenset({Numerics.FP32} | {kind for kind, least in from_.items() if capability >= least})
