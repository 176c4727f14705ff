"""What LiteLLM's router decides. Guarantee: the same picks and cooldowns as its classes, on the same events.

Re-implemented from the wheel of litellm 1.109.1 (the real router cannot run on a virtual clock), and compared
with the real classes, event by event, in ``tests/conformance/test_litellm_strategies.py``:

* ``lowest_cost.py``: the smallest sum of the input and output price per token; a price that is missing, or 0,
  counts as 5 dollars (line "if _deployment.get(...).get('input_cost_per_token', None)"). Nothing else.
* ``lowest_latency.py``: the smallest mean of the last 10 latencies, ties at random; all of them are forgotten
  an hour after the first. A timeout adds a sample of 1000 s, other failures add nothing; a deployment that is
  first seen beside others gets a sample of 0 s.
* ``cooldown_handlers.py``, ``cooldown_cache.py``, ``track_deployment_metrics.py``: 5 s without requests after
  a 429, or when more than half of at least 5 requests failed; requests are counted for 60 s from the
  first, successes and failures apart.
* ``router_python_core.py``, ``async_function_with_retries``: 2 retries at once while a deployment is healthy;
  one that failed may be picked again. No healthy deployment ends the group.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

VERSION = "1.109.1"
NUM_RETRIES = 2  # constants.py DEFAULT_MAX_RETRIES
COOLDOWN_S = 5.0  # constants.py DEFAULT_COOLDOWN_TIME_SECONDS
COUNTED_S = 60.0  # track_deployment_metrics.py, ttl=60
FAIL_SHARE = 0.5  # constants.py DEFAULT_FAILURE_THRESHOLD_PERCENT
FAIL_LEAST = 5  # constants.py DEFAULT_FAILURE_THRESHOLD_MINIMUM_REQUESTS
UNKNOWN_PRICE = 5.0  # lowest_cost.py
KEPT = 10  # lowest_latency.py max_latency_list_size
FORGET_S = 3600.0  # lowest_latency.py ttl
TIMEOUT_S = 1000.0  # lowest_latency.py, the sample of a timeout
TOO_MANY, TIMED_OUT = 429, 408


class Strategy(Protocol):
    """How one of the healthy deployments is picked. Times are seconds of any one clock."""

    def pick(self, healthy: Sequence[str], now: float) -> str:
        """The id of the deployment to try, of those in ``healthy`` (never empty)."""
        ...

    def succeeded(self, deployment: str, took_s: float, now: float) -> None:
        """A call ended well after ``took_s``."""
        ...

    def failed(self, deployment: str, status: int, now: float) -> None:
        """A call failed with an HTTP ``status``."""
        ...


class LowestCost:
    """``cost-based-routing``. prices: id → dollars per token, in and out together."""

    def __init__(self, prices: dict[str, float]) -> None:
        self._prices = prices
        self._seen: dict[str, None] = {}  # in the order in which they were first seen: ties go to the first

    def pick(self, healthy: Sequence[str], now: float) -> str:
        if self._seen:  # kept only once a success has written the map
            self._seen |= dict.fromkeys(healthy)
        known = [d for d in (self._seen or dict.fromkeys(healthy)) if d in healthy]
        return min(known, key=lambda d: self._prices.get(d, 0.0) or 2 * UNKNOWN_PRICE)

    def succeeded(self, deployment: str, took_s: float, now: float) -> None:
        self._seen.setdefault(deployment)

    def failed(self, deployment: str, status: int, now: float) -> None:
        pass


class LowestLatency:
    """``latency-based-routing``. chance: breaks ties, as ``random`` does there."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._samples: dict[str, list[float]] = {}
        self._until = -1.0

    def pick(self, healthy: Sequence[str], now: float) -> str:
        kept = self._alive(now)
        seen = kept if kept else {}
        for deployment in healthy:
            seen.setdefault(deployment, [0.0])
        order = self._chance.sample(list(seen.items()), len(seen))
        means = [(d, sum(s) / len(s) if s else 0.0) for d, s in order if d in healthy]
        ranked = sorted(means, key=lambda pair: pair[1])
        return self._chance.choice([d for d, mean in ranked if mean <= ranked[0][1]])

    def succeeded(self, deployment: str, took_s: float, now: float) -> None:
        self._add(deployment, took_s, now)

    def failed(self, deployment: str, status: int, now: float) -> None:
        if status == TIMED_OUT:
            self._add(deployment, TIMEOUT_S, now)

    def _add(self, deployment: str, sample: float, now: float) -> None:
        if not self._alive(now):
            self._samples, self._until = {}, now + FORGET_S
        kept = self._samples.setdefault(deployment, [])
        kept.append(sample)
        del kept[:-KEPT]

    def _alive(self, now: float) -> dict[str, list[float]]:
        """The samples, unless the hour since the first one is over."""
        return self._samples if now <= self._until else {}


class Cooldowns:
    """Which deployments of a group are left alone. lone: a group of one, which rests only for a rule here
    that cannot be met (1,000 requests, all failed)."""

    def __init__(self, lone: bool = False) -> None:
        self._lone = lone
        self._counts: dict[tuple[str, bool], tuple[int, float]] = {}
        self._until: dict[str, float] = {}

    def healthy(self, deployments: Sequence[str], now: float) -> list[str]:
        """Those of ``deployments`` that do not rest."""
        return [d for d in deployments if now >= self._until.get(d, -1.0)]

    def succeeded(self, deployment: str, now: float) -> None:
        self._count(deployment, True, now)

    def failed(self, deployment: str, status: int, now: float) -> None:
        fails, passes = self._count(deployment, False, now), self._counted(deployment, True, now)
        if self._lone:
            return
        many = fails + passes >= FAIL_LEAST and fails / (fails + passes) > FAIL_SHARE
        if (status == TOO_MANY or many) and now >= self._until.get(deployment, -1.0):
            self._until[deployment] = now + COOLDOWN_S

    def _counted(self, deployment: str, good: bool, now: float) -> int:
        count, until = self._counts.get((deployment, good), (0, -1.0))
        return count if now <= until else 0

    def _count(self, deployment: str, good: bool, now: float) -> int:
        count, until = self._counts.get((deployment, good), (0, -1.0))
        fresh = (count + 1, until) if now <= until else (1, now + COUNTED_S)
        self._counts[deployment, good] = fresh
        return fresh[0]
