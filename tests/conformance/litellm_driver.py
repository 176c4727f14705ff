"""Runs in litellm's own environment: real Router, real strategies, a clock that is set. Not a test itself.

Reads {"strategy", "deployments": {id: price}, "events": [...]} from stdin; writes the picks as JSON. An event
has its instant "now" and is a "pick" (with the seed that ``random`` gets), an "ok" or a "fail".
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
warnings.simplefilter("ignore")
import litellm  # noqa: E402
from litellm.router_utils.router_callbacks import track_deployment_metrics as counts  # noqa: E402

BEGAN = 1.8e9
now = BEGAN
time.time = lambda: now  # what litellm's caches and cooldowns read
EPOCH = datetime(2026, 11, 23, tzinfo=UTC)


def failure(status: int) -> Exception:
    made = {
        429: litellm.RateLimitError, 408: litellm.Timeout, 500: litellm.InternalServerError,
        503: litellm.ServiceUnavailableError,
    }  # fmt: skip
    return made[status]("no", llm_provider="openai", model="m")


async def run(told: dict) -> list[str]:
    global now
    # the same price for what comes out as for what goes in: no price at all makes it 5 dollars
    listed = [
        {
            "model_name": "g", "model_info": {"id": name},
            "litellm_params": {
                "model": f"openai/{name}", "api_key": "none", "api_base": "http://127.0.0.1:9/v1",
                "input_cost_per_token": price, "output_cost_per_token": price,
            },
        }
        for name, price in told["deployments"].items()
    ]  # fmt: skip
    router = litellm.Router(model_list=listed, routing_strategy=told["strategy"])
    cost = told["strategy"] == "cost-based-routing"
    strategy = router.lowestcost_logger if cost else router.lowestlatency_logger
    picks = []
    for event in told["events"]:
        now = BEGAN + event["now"]
        kwargs = {
            "litellm_params": {"metadata": {"model_group": "g"}, "model_info": {"id": event.get("id")}},
        }
        if event["do"] == "pick":
            random.seed(event["seed"])
            try:
                found = await router.async_get_available_deployment(model="g", request_kwargs={}, input=["x"])
                picks.append(found["model_info"]["id"])
            except litellm.types.router.RouterRateLimitError:
                picks.append("")
        elif event["do"] == "ok":
            ends = EPOCH + timedelta(seconds=event["took"])
            await strategy.async_log_success_event(kwargs, None, EPOCH, ends)
            counts.increment_deployment_successes_for_current_minute(router._core_ctx, event["id"])
        else:
            kwargs |= {"exception": failure(event["status"])}
            await strategy.async_log_failure_event(kwargs, None, EPOCH, EPOCH)
            router.deployment_callback_on_failure(kwargs, None, EPOCH, EPOCH)
            await asyncio.sleep(0)
    return picks


print(json.dumps({"version": litellm._version.version, "picks": asyncio.run(run(json.load(sys.stdin)))}))
