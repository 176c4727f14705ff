"""The production engine in the virtual world: the same seed, the same run; every invariant holds."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from accel.core.money import NANO, NanoUSD
from accel.core.offer import CPU, Gpu
from accel.ledger import Limits, Period
from accel.simulation import Simulated, simulate
from accel.simulation.faults import Fault
from accel.simulation.natures import LOCAL, WORLD, Nature
from accel.simulation.result import percentile

SMALL = 200
PLENTY = Limits({("", Period.MONTH): NanoUSD(1000 * NANO)}, {})
FAULTS: tuple[Fault, ...] = ()


@pytest.fixture(scope="module")
def thousand() -> Simulated:
    return simulate(seed=7, requests=1000)


def test_a_thousand_requests_end_once_each(thousand: Simulated) -> None:
    assert thousand.violations == ()
    assert thousand.requests == 1000
    assert sum(thousand.answered_by.values()) == thousand.answered
    assert thousand.success == thousand.answered / (1000 - thousand.killed)
    assert thousand.success > 0.9  # each provider alone fails or is late far more often


def test_the_world_is_really_exercised(thousand: Simulated) -> None:
    """Several providers answer, several fail, the cache hits, jobs end, and something was paid for."""
    assert thousand.hits > 100
    assert len(set(thousand.answered_by) - {"cache"}) >= 4
    assert len(thousand.failures) >= 3
    assert thousand.jobs
    assert thousand.cost_nano_usd >= thousand.invoiced_nano_usd - 1000 * thousand.attempts > 0
    assert 0 <= thousand.p50_s < thousand.p95_s <= 40.0  # an answer never comes after its deadline


def test_the_same_seed_gives_the_same_run_in_another_process(thousand: Simulated) -> None:
    """Also where strings hash differently, which orders sets differently, and in another folder."""
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
    only = Nature("paid", CPU, "0.01", per_text_s=0.01, spread=0.0)
    base = simulate(1, SMALL, [only], faults=FAULTS, limits=PLENTY)
    assert base.trace_hash == simulate(1, SMALL, [only], faults=FAULTS, limits=PLENTY).trace_hash
    assert base.answered_by.keys() == {"cache", "paid"}
    for other in (replace(only, per_text_s=0.0101), replace(only, dollars_per_hour="0.02")):
        assert simulate(1, SMALL, [other], faults=FAULTS, limits=PLENTY).trace_hash != base.trace_hash


def test_when_everything_is_out_every_request_still_ends() -> None:
    world = [replace(nature, outage=(0.0, math.inf)) for nature in WORLD]
    found = simulate(3, SMALL, world, faults=FAULTS)
    assert (found.answered, found.cost_nano_usd) == (0, 0)
    assert found.requests == SMALL
    assert found.violations == ()


def test_hanging_providers_cost_time_not_answers() -> None:
    """A provider that never answers leaves this machine the time it needs."""
    hanging = Nature("hangs", Gpu("H100", 1, 80 << 30, 90), "0", per_text_s=0.001, hanging=1.0)
    local = Nature(LOCAL, CPU, "0", per_text_s=0.05)
    found = simulate(5, SMALL, [hanging, local], faults=FAULTS)
    assert found.answered_by.keys() <= {"cache", LOCAL}
    assert found.success > 0.9  # what this machine cannot do (FP16, 40 GiB), it cannot do
    assert found.failures.get("hangs", 0) > 0
    assert found.violations == ()


def test_without_a_budget_nothing_is_paid_for() -> None:
    found = simulate(2, SMALL, faults=FAULTS, limits=Limits({}, {}))
    assert (found.cost_nano_usd, found.invoiced_nano_usd) == (0, 0)
    assert found.violations == ()


def test_it_is_one_flat_record_and_refuses_nothing_to_do() -> None:
    fields = dataclasses.asdict(simulate(1, 5))
    assert all(isinstance(v, int | float | str | dict | tuple) for v in fields.values())
    with pytest.raises(ValueError, match="at least one"):
        simulate(1, 0)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (1.0, 100), (0.001, 1)])
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


def test_the_collector_is_as_it_was_when_a_run_is_over() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    simulate(1, 20)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
