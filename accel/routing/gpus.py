"""Data sheets. Guarantee: every figure is the vendor's own, for dense arithmetic, and says which sheet.

Peaks are upper bounds. ``estimate`` multiplies them by an achieved fraction that is stated there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sheet:
    """fp32, fp16: peak FLOP/s (fp16 on tensor cores, fp32 accumulation). memory: bytes per second."""

    fp32: float
    fp16: float
    memory: float
    vram_bytes: int
    capability: int
    source: str


SHEETS: dict[str, Sheet] = {
    "T4": Sheet(8.1e12, 65e12, 320e9, 16 * GIB, 75, "NVIDIA T4 datasheet, 2019"),
    "L4": Sheet(30.3e12, 121e12, 300e9, 24 * GIB, 89, "NVIDIA L4 datasheet, 2023"),
    "RTX 3090": Sheet(35.6e12, 71e12, 936e9, 24 * GIB, 86, "NVIDIA GA102 whitepaper, 2021"),
    "RTX 4090": Sheet(82.6e12, 165e12, 1008e9, 24 * GIB, 89, "NVIDIA Ada whitepaper, 2022"),
    "A100": Sheet(19.5e12, 312e12, 2039e9, 80 * GIB, 80, "NVIDIA A100 80GB datasheet, 2021"),
    "H100": Sheet(67e12, 989e12, 3350e9, 80 * GIB, 90, "NVIDIA H100 SXM datasheet, 2023"),
    "H200": Sheet(67e12, 989e12, 4800e9, 141 * GIB, 90, "NVIDIA H200 datasheet, 2024"),
    "B200": Sheet(75e12, 2250e12, 8000e9, 180 * GIB, 100, "NVIDIA DGX B200 datasheet, 2024"),
}


# The longest first: "RTX 4090" before a name that it might hold
_BY_LENGTH = tuple((set(name.split()), SHEETS[name]) for name in sorted(SHEETS, key=len, reverse=True))
# "A100-class": the memory rate of the slower A100 (40 GB: 1,555 GB/s, NVIDIA A100 datasheet, 2021)
A100_MEMORY = 1.555e12


@functools.lru_cache(maxsize=256)  # asked for every offer of every decision
def sheet(gpu_name: str) -> Sheet | None:
    """The data sheet whose name occurs as words in the driver's or provider's name ("Tesla T4" → T4)."""
    words = set(gpu_name.replace("-", " ").replace("_", " ").split())
    return next((found for name, found in _BY_LENGTH if name <= words), None)


def a100_class(gpu_name: str) -> bool:
    """Whether it is an A100 or a larger data-centre GPU, by its memory rate."""
    data = sheet(gpu_name)
    return data is not None and data.memory >= A100_MEMORY
