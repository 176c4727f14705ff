"""What every door gives out as JSON. Guarantee: under one ``schema`` fields are added, never changed.

The command line's ``--json``, the page's ``/ask`` and, later, the HTTP endpoint speak these shapes. Money
is integer nano-dollars, durations are seconds, instants ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from accel.core.attempt import Route, Timing
from accel.fleet.reap import Finding
from accel.hybrid_gpu_processor import Answer
from accel.ledger.costs import LeaseCost, Line, Told
from accel.ledger.leases import Purpose, Rented
from accel.monitoring.report import Report, Served
from accel.monitoring.spend import METHOD, Amount, Limit, Projection, Spend
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
            "projections": [_projection_json(p) for p in money.projections],
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


def lease_state(rented: Rented, now: datetime) -> str:
    """The state of a lease in words: "may still run" until its own end where nobody confirmed it."""
    if rented.state == "abandoned":
        return "may still run" if rented.may_run(now) else "unconfirmed"
    if rented.state == "open" and rented.purpose is Purpose.REPLICA:
        return "ending" if rented.closing else "serving" if rented.ready else "starting"
    return {"intended": "being created", "open": "rented"}.get(rented.state, rented.state)


def lease_json(rented: Rented, money: LeaseCost | None, now: datetime) -> dict[str, Any]:
    """One lease, in ``accel leases``. charge_basis: billed, estimated, or "so far": what the rate says."""
    offer = rented.intent.offer
    return {
        "id": rented.id, "name": rented.intent.name, "provider": rented.provider, "gpu": offer.gpu.name,
        "gpu_count": offer.gpu.count, "offer_id": offer.id, "purpose": rented.purpose.value,
        "state": rented.state, "shown": lease_state(rented, now), "may_run": rented.may_run(now),
        "age_s": (now - rented.made_at).total_seconds(), "made_at": rented.made_at.isoformat(),
        "ends_by": rented.ends_by.isoformat(), "rate_nano_usd_per_hour": offer.rate.nano_per_hour,
        "rate_as_of": offer.rate.as_of.isoformat(), "rate_source": offer.rate.source,
        "rate_age_days": (now.date() - offer.rate.as_of).days,
        "charge_nano_usd": money.charge if money else None, "charge_basis": money.basis if money else None,
        "held_nano_usd": money.held if money else 0, "note": rented.note,
    }  # fmt: skip


def cost_json(
    lines: Sequence[Line], told: Told, held: int, avoided: int, each: Sequence[LeaseCost], spend: Spend
) -> dict[str, Any]:
    """``accel cost``. Per lease, shares and idle are the charge; stages "idle" and "not told" are
    nobody's."""
    return {
        "spent": {"billed_nano_usd": sum(x.billed for x in lines),
                  "estimated_nano_usd": sum(x.by_estimate for x in lines)},
        "held_nano_usd": held,
        "billed_against_estimated": {
            "charges": told.n, "estimated_nano_usd": told.estimated, "billed_nano_usd": told.billed},
        "by_provider_and_stage": [
            {"provider": x.provider, "stage": x.stage, "billed_nano_usd": x.billed,
             "estimated_nano_usd": x.by_estimate}
            for x in lines
        ],
        "leases": [
            {"id": c.rented.id, "name": c.rented.intent.name, "provider": c.rented.provider,
             "purpose": c.rented.purpose.value, "charge_nano_usd": c.charge, "basis": c.basis,
             "was_estimated_nano_usd": c.estimated, "held_nano_usd": c.held,
             "shares_nano_usd": dict(c.shares), "idle_nano_usd": c.idle}
            for c in each
        ],
        "avoided_nano_usd": avoided, "avoided_basis": "estimated",
        "projection_method": METHOD,
        "projections": [_projection_json(p) for p in spend.projections],
    }  # fmt: skip


def finding_json(f: Finding) -> dict[str, Any]:
    """One finding of ``accel reap``. action: release, bill or keep; done: "" in a dry run."""
    return {
        "provider": f.provider, "name": f.name, "lease": f.intent_id, "action": f.action, "why": f.why,
        "done": f.done, "ended": f.ended, "charge_nano_usd": f.charge,
    }  # fmt: skip


def _projection_json(p: Projection) -> dict[str, Any]:
    return {
        "period": p.period.value, "spent": _amount_json(p.spent), "elapsed": p.elapsed,
        "projected_nano_usd": p.amount, "warning": p.warning,
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
