"""The production engine in the virtual world: the same seed, the same run; every request ends once."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from accel.core.offer import CPU
from accel.simulation import Simulated, simulate
from accel.simulation.run import percentile
from accel.simulation.world import WORLD, Nature

SMALL = 200


@pytest.fixture(scope="module")
def thousand() -> Simulated:
    return simulate(seed=7, requests=1000)


def test_a_thousand_requests_end_once_each(thousand: Simulated) -> None:
    assert thousand.requests == 1000
    assert sum(thousand.answered_by.values()) == thousand.answered
    # an attempt failed, or it answered a request that the cache alone did not
    by_provider = thousand.answered - thousand.hits
    assert thousand.attempts == by_provider + sum(thousand.failures.values())
    assert thousand.success == thousand.answered / 1000
    assert thousand.success > 0.95  # each provider alone fails or is late far more often


def test_the_world_is_really_exercised(thousand: Simulated) -> None:
    """Several providers answer, several fail, the cache hits, and something was paid for."""
    assert thousand.hits > 0
    assert len(set(thousand.answered_by) - {"cache"}) >= 3
    assert len(thousand.failures) >= 3
    assert thousand.cost_nano_usd > 0
    assert 0 < thousand.p50_s < thousand.p95_s <= 12.0  # an answer never comes after its deadline


def test_the_same_seed_gives_the_same_run_in_another_process(thousand: Simulated) -> None:
    """Also where strings hash differently, which orders sets differently."""
    code = "from accel.simulation import simulate; print(simulate(seed=7, requests=1000).trace_hash)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "4242"}, capture_output=True,
        text=True, timeout=100, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == thousand.trace_hash


def test_another_seed_gives_another_run() -> None:
    hashes = {simulate(seed, requests=SMALL).trace_hash for seed in range(3)}
    assert len(hashes) == 3


def test_the_hash_covers_timing_and_cost_not_only_the_choice() -> None:
    """Only one provider to choose: a rate or a speed that changes must change the hash."""
    only = Nature("local", CPU, "0", per_text_s=0.01, spread=0.0)
    base = simulate(1, SMALL, [only])
    assert base.trace_hash == simulate(1, SMALL, [only]).trace_hash
    assert base.answered_by.keys() == {"cache", "local"}
    for other in (replace(only, per_text_s=0.0101), replace(only, dollars_per_hour="0.01")):
        assert simulate(1, SMALL, [other]).trace_hash != base.trace_hash


def test_when_everything_is_out_every_request_still_ends() -> None:
    world = [replace(nature, outage=(0.0, math.inf)) for nature in WORLD]
    found = simulate(3, SMALL, world)
    assert (found.answered, found.attempts, found.cost_nano_usd) == (0, 0, 0)
    assert found.requests == SMALL


def test_hanging_providers_cost_time_not_answers() -> None:
    """A provider that never answers leaves this machine the time it needs."""
    hanging = Nature("hangs", CPU, "0", per_text_s=0.001, hanging=1.0)
    local = Nature("local", CPU, "0", per_text_s=0.05)
    found = simulate(5, SMALL, [hanging, local])
    assert found.success == 1.0
    assert found.failures.get("hangs", 0) > 0


def test_it_is_one_flat_record_and_refuses_nothing_to_do() -> None:
    fields = dataclasses.asdict(simulate(1, 5))
    assert all(isinstance(v, int | float | str | dict) for v in fields.values())
    with pytest.raises(ValueError, match="at least one"):
        simulate(1, 0)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (1.0, 100), (0.001, 1)])
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected
