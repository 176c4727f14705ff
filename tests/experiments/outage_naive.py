"""A contestant for tests: the primary, then the fallback, for every request anew. It learns nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import httpx

from accel.experiments.outage_contestant import Ask, Plan, compete

TRY_S = 1.0


@contextlib.asynccontextmanager
async def prepare(plan: Plan) -> AsyncIterator[Ask]:
    print("a library's chatter")
    async with httpx.AsyncClient(trust_env=False) as client:

        async def ask(text: str) -> list[float]:
            for url, limit in ((plan.primary, TRY_S), (plan.fallback, None)):
                with contextlib.suppress(httpx.HTTPError):
                    body = {"model": "m", "input": text}
                    answer = await client.post(f"{url}/embeddings", json=body, timeout=limit)
                    answer.raise_for_status()
                    found: list[float] = answer.json()["data"][0]["embedding"]
                    return found
            raise RuntimeError("no answer")

        yield ask


if __name__ == "__main__":
    sys.exit(compete(prepare, lambda: {"naive": "1"}))
