"""litellm's Router as a contestant of the outage benchmark. Guarantee: set up as its documentation shows.

Runs in an environment of its own that holds litellm and not our dependencies; nothing of litellm is patched.
``SETUPS`` are what people use: the two ways to name a second server with every default kept, and the same
two tuned by somebody who knows what is coming.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from importlib import metadata
from typing import Any

from accel.experiments.outage_contestant import Ask, Plan, compete

LITELLM = "1.109.1"  # the newest on PyPI on 2026-11-23

# The remedy of litellm issue 40405: what makes a group of one server cool down at all (pull request 8668).
_ISSUE: dict[str, Any] = {"num_retries": 2, "timeout": 30.0, "allowed_fails": 1, "cooldown_time": 30}
# By somebody who knows what is coming: one try per server, and a timeout of twenty times the primary's
# latency. A server cools after one failure more than allowed_fails.
_TUNED: dict[str, Any] = {"num_retries": 0, "timeout": 1.0, "allowed_fails": 1, "cooldown_time": 60}
_STRICT: dict[str, Any] = {"num_retries": 0, "timeout": 1.0, "allowed_fails": 0, "cooldown_time": 30}
SETUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "litellm fallbacks": ("fallbacks", {}),
    "litellm order": ("order", {}),
    "litellm shuffle": ("shuffle", {}),
    "litellm issue 40405": ("fallbacks", _ISSUE),
    "litellm tuned": ("fallbacks", _TUNED),
    "litellm strict": ("fallbacks", _STRICT),
}
# The OpenAI client below the Router tries an embedding three times, and its ``max_retries=0`` is read as
# "not given" (litellm 1.109.1, llms/openai/openai.py:1447): only this variable turns that off.
_ONE_TRY = {"DEFAULT_MAX_RETRIES": "0"}


def arguments(plan: Plan) -> dict[str, Any]:
    """What the Router is made with.

    fallbacks: one group each, ``fallbacks`` from the first to the second. order: one group, the primary's
    ``order`` first. shuffle: one group, no preference, which is the Router's default strategy.
    """
    how, more = SETUPS[plan.contestant]

    def server(group: str, url: str, **extra: Any) -> dict[str, Any]:
        params = {"model": "openai/bench", "api_base": url, "api_key": "none", **extra}
        return {"model_name": group, "litellm_params": params}

    if how == "fallbacks":
        servers = [server("primary", plan.primary), server("fallback", plan.fallback)]
        return {"model_list": servers, "fallbacks": [{"primary": ["fallback"]}], **more}
    orders: list[dict[str, Any]] = [{"order": 1}, {"order": 2}] if how == "order" else [{}, {}]
    urls = (plan.primary, plan.fallback)
    return {"model_list": [server("primary", u, **o) for u, o in zip(urls, orders, strict=True)], **more}


@contextlib.asynccontextmanager
async def prepare(plan: Plan) -> AsyncIterator[Ask]:
    """A Router for ``plan``, asked for embeddings."""
    if SETUPS[plan.contestant][1].get("num_retries") == 0:
        os.environ |= _ONE_TRY
    import litellm  # type: ignore[import-not-found]

    litellm.suppress_debug_info = True
    router = litellm.Router(**arguments(plan))

    async def ask(text: str) -> list[float]:
        answer = await router.aembedding(model="primary", input=[text])
        return list(answer.data[0]["embedding"])

    yield ask


def versions() -> dict[str, str]:
    """Of litellm and of what it speaks HTTP with."""
    return {name: metadata.version(name) for name in ("litellm", "openai", "httpx", "aiohttp")}


if __name__ == "__main__":
    sys.exit(compete(prepare, versions))
