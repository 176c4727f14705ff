"""What every door gives out as JSON. Guarantee: under one ``schema`` fields are added, never changed.

The command line's ``--json``, the page's ``/ask`` and, later, the HTTP endpoint speak these shapes. Money
is integer nano-dollars, durations are seconds, instants ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any

from accel.core.attempt import Route, Timing
from accel.hybrid_gpu_processor import Answer

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
             "cost_nano_usd": s.estimate.cost.amount, "score_usd": s.score, "why": s.why}
            for s in route.ranked
        ],
        "refused": [{"provider": r.provider, "reason": r.reason} for r in route.refused],
    }  # fmt: skip
