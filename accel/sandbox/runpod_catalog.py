"""What the sandbox RunPod has for rent. Guarantee: a price is a whole number of nano-dollars at any moment.

The models, ids, pools and memory are RunPod's (docs references/gpu-types.mdx, table of 2026-02-12); the
prices are near those of the reference page, but play money. Shape: docs api-reference-v2/openapi.json of
commit a900806, 2026-08-20, ``GpuType``.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

NANO = 10**9


@dataclass(frozen=True, slots=True)
class Model:
    """One GPU type. Prices: dollars per hour and card, as text; "" where it is not sold so."""

    id: str
    name: str
    pool: str
    memory: int
    secure: str
    community: str
    serverless: str
    availability: str = "HIGH"


MODELS = (
    Model("NVIDIA RTX A4000", "RTX A4000", "AMPERE_16", 16, "0.25", "0.17", "0.576"),
    Model("NVIDIA L4", "L4", "AMPERE_24", 24, "0.49", "0.44", "0.684", "MEDIUM"),
    Model("NVIDIA GeForce RTX 3090", "RTX 3090", "AMPERE_24", 24, "0.46", "0.22", "0.684", "LOW"),
    Model("NVIDIA GeForce RTX 4090", "RTX 4090", "ADA_24", 24, "0.69", "0.34", "1.116"),
    Model("NVIDIA A100-SXM4-80GB", "A100 SXM", "AMPERE_80", 80, "1.79", "1.39", "2.736"),
    Model("NVIDIA H100 80GB HBM3", "H100 SXM", "ADA_80_PRO", 80, "3.99", "2.69", "4.176"),
    Model("NVIDIA B200", "B200", "", 180, "6.79", "5.98", "", "NONE"),
)
DATA_CENTER = {"id": "US-KS-2", "name": "US Kansas 2"}


class Catalog:
    """factor: what every price is multiplied by now."""

    def __init__(self) -> None:
        self.factor = Decimal(1)

    def model(self, ident: str) -> Model | None:
        """By its id."""
        return next((m for m in MODELS if m.id == ident), None)

    def nano(self, dollars: str) -> int:
        """Nano-dollars an hour now."""
        return int(Decimal(dollars or 0) * self.factor * NANO)

    def dollars(self, dollars: str) -> float:
        """The same for JSON, where a price is a number."""
        return self.nano(dollars) / NANO

    def row(self, model: Model, *, stock: bool) -> dict[str, Any]:
        """``GpuType``."""
        price = {"secure": self.dollars(model.secure), "community": self.dollars(model.community)}
        if model.serverless:
            price["serverless"] = self.dollars(model.serverless)
        row: dict[str, Any] = {
            "id": model.id, "name": model.name, "pool": model.pool or None, "manufacturer": "NVIDIA",
            "memory": model.memory, "secure": True, "community": True, "price": price,
            "maxCount": {"secure": 8, "community": 4},
        }  # fmt: skip
        if stock:
            there = model.availability != "NONE"
            row["availability"] = model.availability
            row["dataCenters"] = [DATA_CENTER | {"availability": model.availability}] if there else []
            row["cudaVersions"] = [{"version": "12.8", "availability": model.availability}] if there else []
        return row
