"""What every door gives out as JSON. Guarantee: under one ``schema`` fields are added, never changed.

The command line's ``--json``, the page's ``/ask`` and, later, the HTTP endpoint speak these shapes. Money
is integer nano-dollars, durations are seconds, instants ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from accel.core.attempt import Route, Timing
from accel.hybrid_gpu_processor import Answer
from accel.monitoring.report import Report, Served
from accel.monitoring.spend import METHOD, Amount, Limit
from accel.monitoring.targets import Judged

SCHEMA = 1


def timing_json(timing: Timing) -> dict[str, float]:
    """The four parts, seconds."""
    return {
        "wait_s": timing.wait_s, "cold_s": timing.cold_s, "transfer_s": timing.transfer_s,
        "compute_s": timing.compute_s,
    }  # fmt: skip


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer: ``accel query --json``, and the page's ``/ask``."""
    return {
        "schema": SCHEMA, "id": answer.id, "question": answer.question, "complexity": answer.complexity.value,
        "judged": answer.judged, "answer": answer.text, "found": answer.found,
        "written_by": answer.written_by, "note": answer.note,
        "citations": [
            {"number": c.number, "name": c.name, "source": c.source, "text": c.text}
            for c in answer.citations
        ],
        "stages": [
            {"stage": s.stage.value, "where": s.where, "why": s.why, "timing": timing_json(s.timing),
             "cost_nano_usd": s.cost.amount, "cost_basis": s.cost.basis.value, "hits": s.hits,
             "items": s.items, "overhead_s": s.overhead_s, "decision_id": s.decision_id}
            for s in answer.stages
        ],
        "realm": answer.realm, "seconds": answer.seconds,
    }  # fmt: skip


def route_json(route: Route) -> dict[str, Any]:
    """A route, in ``explain`` and ``offers``."""
    return {
        "task_id": route.task_id, "policy": route.policy, "draw": route.draw,
        "ranked": [
            {"provider": s.offer.provider, "offer_id": s.offer.id, "realm": s.offer.realm.value,
             "gpu": s.offer.gpu.name, "gpu_count": s.offer.gpu.count,
             "rate_nano_usd_per_hour": s.offer.rate.nano_per_hour,
             "rate_as_of": s.offer.rate.as_of.isoformat(), "rate_source": s.offer.rate.source,
             "quota_left_s": s.offer.quota_left_s, "as_of": s.offer.as_of.isoformat(),
             "expected": timing_json(s.estimate.timing), "basis": s.estimate.basis,
             "cost_nano_usd": s.estimate.cost.amount, "score_usd": s.score, "terms_usd": dict(s.terms),
             "success": s.estimate.success, "why": s.why}
            for s in route.ranked
        ],
        "refused": [
            {"provider": r.provider, "reason": r.reason, "again_s": r.again_s} for r in route.refused
        ],
    }  # fmt: skip


def report_json(report: Report, judged: Sequence[Judged] = ()) -> dict[str, Any]:
    """``accel monitor``. Of nothing there is null, never a zero; quota is in GPU milliseconds."""
    money = report.spend
    return {
        "realm": report.realm.value, "since": report.since.isoformat(), "until": report.until.isoformat(),
        "empty": report.empty,
        "targets": [
            {"target": j.name, "verdict": j.verdict.value, "measured": j.measured, "threshold": j.threshold,
             "n": j.n, "least_n": j.least, "words": j.words}
            for j in judged
        ],
        "questions": [{"complexity": s.name, **_served_json(s)} for s in report.questions],
        "stages": [{"stage": s.name, **_served_json(s)} for s in report.stages],
        "providers": [
            {"provider": p.provider, "answered": p.requests, "attempts": p.attempts, "ok": p.ok,
             "cancelled": p.cancelled, "seconds": p.seconds, "estimated_nano_usd": p.estimated,
             "billed_nano_usd": p.billed}
            for p in report.providers
        ],
        "failures": [asdict(f) for f in report.failures],
        "money": {
            "settled": _amount_json(money.settled), "n_questions": money.n,
            "per_question_nano_usd": money.per_question, "per_thousand_nano_usd": money.per_thousand,
            "avoided_nano_usd": money.avoided, "questions_basis": "estimated",
            "projection_method": METHOD,
            "projections": [
                {"period": p.period.value, "spent": _amount_json(p.spent), "elapsed": p.elapsed,
                 "projected_nano_usd": p.amount, "warning": p.warning}
                for p in money.projections
            ],
            "limits": [_limit_json(limit) for limit in money.limits],
        },
        "leased_gpus": [
            {"provider": name, "charges": u.leases, "charged_s": u.leased_s, "computed_s": u.computed_s,
             "share": u.share, "source": "ledger"}
            for name, u in report.leased
        ],
        "gpus_here": [{**asdict(g), "source": "driver, at this moment"} for g in report.gpus],
        "jobs": dict(report.jobs), "alerts": dict(report.alerts),
    }  # fmt: skip


def _served_json(s: Served) -> dict[str, Any]:
    return {
        "ok": s.ok, "failed": s.failed, "cancelled": s.cancelled, "success": s.success,
        "seconds": {"n": s.seconds.n, "p50": s.seconds.p50, "p95": s.seconds.p95, "p99": s.seconds.p99},
        "items": s.items, "hits": s.hits, "attempts": s.attempts,
    }  # fmt: skip


def _amount_json(a: Amount) -> dict[str, Any]:
    return {"charges": a.n, "estimated_nano_usd": a.estimated, "billed_nano_usd": a.billed}


def _limit_json(limit: Limit) -> dict[str, Any]:
    a = limit.account
    return {
        "provider": a.provider or "all", "period": a.period, "unit": a.unit, "limit": a.wanted,
        "charged": a.used, "held": a.held, "over": a.over, "since": a.since,
        "until": a.until, "elapsed": limit.elapsed, "projected": limit.projected,
        "warning": limit.warning,
    }  # fmt: skip
