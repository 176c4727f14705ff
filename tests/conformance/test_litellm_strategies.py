"""Our reading of LiteLLM's strategies picks what the real ones pick, event by event.

The real router runs in an environment of its own (``.venv-conformance/litellm``), on a clock that is set.
Each sequence picks, and lets what was picked succeed or fail, through cooldowns, ties and forgotten hours.
"""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from accel.core.errors import UsageError
from accel.experiments import policies_litellm as ours

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("litellm_driver.py")
PRICES = {"a": 0.0, "b": 3e-9, "c": 1e-9, "d": 2e-9}
STATUSES = (500, 500, 503, 408, 429)


@pytest.fixture(scope="session")
def python() -> Path:
    outage = pytest.importorskip("accel.experiments.outage")
    try:
        return outage.litellm_python(ROOT / ".venv-conformance" / "litellm")
    except UsageError as bad:
        pytest.skip(str(bad))


def play(strategy: str, prices: dict[str, float], seed: int, steps: int, jump_s: float) -> tuple[Any, Any]:
    """Events and our own picks: each pick is followed by what became of it."""
    chance, ties = random.Random(seed), random.Random()
    chosen: ours.Strategy
    if strategy == "cost-based-routing":
        chosen = ours.LowestCost({name: 2 * price for name, price in prices.items()})
    else:
        chosen = ours.LowestLatency(ties)
    rest = ours.Cooldowns(lone=len(prices) == 1)
    bad = {name: chance.choice((0.0, 0.2, 0.9)) for name in prices}
    if len(prices) == 1:
        bad = dict.fromkeys(prices, 0.9)
    now, events, picks = 0.0, [], []
    for step in range(steps):
        now = round(now + chance.choice((0.01, 0.3, 1.0, jump_s)), 2)
        if chance.random() < 0.05:  # health changes now and then
            bad[chance.choice(list(prices))] = chance.choice((0.0, 0.2, 0.9))
        ties.seed(step)
        events.append({"now": now, "do": "pick", "seed": step})
        healthy = rest.healthy(list(prices), now)
        name = chosen.pick(healthy, now) if healthy else ""
        picks.append(name)
        if not name:
            continue
        if chance.random() < bad[name]:
            status = chance.choice(STATUSES)
            events.append({"now": now, "do": "fail", "id": name, "status": status})
            chosen.failed(name, status, now)
            rest.failed(name, status, now)
        else:
            took = chance.randrange(1, 400) / chance.choice((1000, 1000, 10))  # some are slow
            events.append({"now": now, "do": "ok", "id": name, "took": took})
            chosen.succeeded(name, took, now)
            rest.succeeded(name, now)
    return events, picks


@pytest.mark.parametrize("strategy", ["cost-based-routing", "latency-based-routing"])
@pytest.mark.parametrize(
    ("prices", "jump_s"),
    [(PRICES, 2.0), (PRICES, 350.0), (dict.fromkeys("abc", 1e-9), 2.0), ({"a": 1e-9}, 2.0)],
    ids=["cooldowns", "hours", "ties", "lone"],
)
def test_the_same_deployments_are_picked(
    python: Path, strategy: str, prices: dict[str, float], jump_s: float
) -> None:
    events, picks = play(strategy, prices, seed=7, steps=400, jump_s=jump_s)
    told = {"strategy": strategy, "deployments": prices, "events": events}
    done = subprocess.run(
        [str(python), str(DRIVER)], input=json.dumps(told), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    real = json.loads(done.stdout.splitlines()[-1])
    assert real["version"] == ours.VERSION
    first = next((i for i, (a, b) in enumerate(zip(real["picks"], picks, strict=True)) if a != b), None)
    assert first is None, f"pick {first}: litellm {real['picks'][first]!r}, ours {picks[first]!r}"
    assert len(set(picks)) >= min(2, len(prices))
