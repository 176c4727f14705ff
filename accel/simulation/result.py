"""What a run came to. Guarantee: every broken invariant is in it, in words, with the seed that shows it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.core.money import NanoUSD, dollars
from accel.simulation import invariants, trace
from accel.simulation.case import Case
from accel.simulation.faults import Fault

SHOWN = 20  # violations that are told


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a run came to. Latencies are virtual seconds of answered requests; money is in nano-dollars.

    success: share of requests, killed ones apart, that were answered. hits: answered by the cache alone.
    answered_by: requests per provider. failures: calls per provider that failed. cost: charged in the
    ledger, invoiced: what the providers bill. lives: routers, one more than were killed. alerts: sent.
    stopped: whether a limit refused something. faults: how often each class really struck. violations:
    broken invariants, in words; broken: which.
    """

    seed: int
    requests: int
    answered: int
    killed: int
    success: float
    hits: int
    attempts: int
    answered_by: dict[str, int]
    failures: dict[str, int]
    jobs: dict[str, int]
    cost_nano_usd: int
    invoiced_nano_usd: int
    cost: str
    p50_s: float
    p95_s: float
    virtual_s: float
    lives: int
    alerts: int
    stopped: bool
    faults: dict[str, int]
    violations: tuple[str, ...]
    broken: tuple[int, ...]
    trace_hash: str


def sum_up(seed: int, case: Case, folder: Path) -> Simulated:
    """Judge a run that has ended. folder: left out of the trace."""
    evidence = case.evidence
    ends, calls = evidence.ends, evidence.calls
    answered = [e for e in ends if e.outcome == "ok"]
    killed = sum(e.outcome == "killed" for e in ends)
    latencies = [e.ended - e.began for e in answered] or [math.nan]
    charged = case.rows("SELECT coalesce(sum(amount), 0) FROM charge WHERE fund <> 'quota'")[0][0]
    found = invariants.check(case)
    rented = sum(r.rate.cost(r.billed_s(case.ended_s)) for r in evidence.rented)
    return Simulated(
        seed=seed,
        requests=len(ends),
        answered=len(answered),
        killed=killed,
        success=len(answered) / max(1, len(ends) - killed),
        hits=sum(e.where == "cache" for e in answered),
        attempts=len(calls),
        answered_by=_sorted(Counter(e.where for e in answered)),
        failures=_sorted(Counter(c.provider for c in calls if c.error)),
        jobs=_sorted(Counter(evidence.jobs.values())),
        cost_nano_usd=charged,
        invoiced_nano_usd=sum(c.invoice for c in calls) + rented,
        cost=f"{dollars(NanoUSD(charged))} estimated, at invented rates",
        p50_s=statistics.median(latencies),
        p95_s=percentile(latencies, 0.95),
        virtual_s=case.ended_s,
        lives=len(evidence.lives),
        alerts=len(evidence.alerts),
        stopped=any(":refused" in key for key in evidence.alerts),
        faults={kind.value: case.scene.ambush.struck[kind] for kind in Fault},
        violations=tuple(str(v) for v in found[:SHOWN]),
        broken=tuple(sorted({v.invariant for v in found})),
        trace_hash=trace.digest(case, folder),
    )


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
