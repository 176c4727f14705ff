"""How an answer came about, as HTML. Guarantee: pure; what is no number is shown as "—", never drawn.

One row per stage: where, the four parts of its time on a scale shared by all stages, cost, computed or
not; under it why it went there, and from the ledger's decision every offer considered, with its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from accel.core.attempt import Refusal, Route, Scored, Timing
from accel.core.money import dollars
from accel.core.offer import Gpu
from accel.hybrid_gpu_processor import Answer, StageReport
from accel.ledger.decisions import Decision

PARTS = (("wait", "wait_s"), ("cold", "cold_s"), ("transfer", "transfer_s"), ("compute", "compute_s"))
PART_MEANS = {
    "wait": "waiting for the provider's queue",
    "cold": "starting up: loading the model",
    "transfer": "on the way there and back",
    "compute": "computing",
}


def finite(seconds: float) -> float:
    """``seconds``, or 0 where it is no duration."""
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def drawn_s(timing: Timing) -> float:
    """Seconds of ``timing`` that can be drawn: its parts that are durations."""
    return sum(finite(getattr(timing, field)) for _, field in PARTS)


def ms(seconds: float) -> str:
    """Milliseconds as a bare number: one decimal below 100, none above; "—" for what is no duration."""
    if not math.isfinite(seconds) or seconds < 0:
        return "—"
    return f"{seconds * 1e3:,.1f}" if 0 < seconds < 0.09995 else f"{seconds * 1e3:,.0f}"


def bar(timing: Timing, longest_s: float) -> str:
    """The parts of ``timing`` side by side, in per cent of ``longest_s``."""
    scale = finite(longest_s)
    parts = []
    for name, field in PARTS:
        share = min(100.0, 100 * finite(getattr(timing, field)) / scale) if scale else 0.0
        if share > 0:
            parts.append(f'<i class="{name}" style="width:{share:.2f}%"></i>')
    return f'<span class="bar" aria-hidden="true">{"".join(parts)}</span>'


def route_section(found: Answer, decisions: Sequence[Decision]) -> str:
    """The table of stages, each with its offers, and how to see it again on the command line."""
    by_id = {d.id: d for d in decisions}
    longest = max((drawn_s(s.timing) for s in found.stages), default=0.0)
    rows = "".join(_stage(s, by_id.get(s.decision_id), longest) for s in found.stages)
    again = (
        f"<code>accel explain {escape(found.id)}</code> shows the decisions again; with "
        "<code>--replay</code> they are made anew from the ledger."
        if decisions
        else "Every stage came from the cache: no decision was made."
    )
    heads = "".join(
        f'<th scope="col" class="n" title="{PART_MEANS[n]}"><i class="key {n}"></i>{n}</th>' for n, _ in PARTS
    )
    return (
        '<section class="route"><h3>Route</h3><div class="scroll"><table><thead><tr>'
        '<th scope="col">stage</th><th scope="col">where</th><th scope="col" class="time">time</th>'
        f'{heads}<th scope="col" class="n">cost</th><th scope="col">cache</th></tr></thead>'
        f"{rows}</table></div>"
        f'<p class="foot">Times in milliseconds; bars share one scale. {again}</p></section>'
    )


def _stage(report: StageReport, decision: Decision | None, longest_s: float) -> str:
    t = report.timing
    numbers = "".join(
        f'<td class="n" data-part="{n}"><i class="key {n}"></i>{ms(getattr(t, f))}</td>' for n, f in PARTS
    )
    return (
        f'<tbody data-stage="{report.stage}"><tr class="stage"><th scope="row">{report.stage}</th>'
        f'<td class="where">{escape(report.where)}</td>'
        f'<td class="time">{bar(t, longest_s)}</td>{numbers}'
        f'<td class="n cost" data-part="cost">{escape(dollars(report.cost.amount))}</td>'
        f'<td class="cache">{_cache(report)}</td></tr>'
        f'<tr class="why"><td colspan="9">{_why(report, decision)}</td></tr></tbody>'
    )


def _cache(report: StageReport) -> str:
    if report.hits >= report.items:
        return '<span class="hit">hit</span>'
    return f"{report.hits} of {report.items}" if report.hits else "computed"


def _why(report: StageReport, decision: Decision | None) -> str:
    if decision is None:
        return f"<p>{escape(report.why)}: nothing was computed, so nothing was routed</p>"
    route = decision.route
    count = f"{len(route.ranked)} offer{'s' if len(route.ranked) != 1 else ''}"
    refused = f", {len(route.refused)} refused" if route.refused else ""
    return (
        f"<details><summary>{escape(report.why)} <span class='more'>{count}{refused}</span></summary>"
        f"{offers_table(route)}"
        f'<p class="foot">policy {escape(route.policy)} · '
        f"<code>accel explain {escape(decision.id)}</code></p>"
        "</details>"
    )


def offers_table(route: Route) -> str:
    """Every offer with what was expected of it, its score, and why it is first or lost; every refusal."""
    rows = "".join(_offer(place, s) for place, s in enumerate(route.ranked, 1))
    rows += "".join(_refused(r) for r in route.refused)
    return (
        '<div class="scroll"><table class="offers"><thead><tr><th scope="col">#</th>'
        '<th scope="col">provider</th><th scope="col">device</th><th scope="col">rate</th>'
        '<th scope="col" class="n">expected ms</th><th scope="col" class="n">cost</th>'
        '<th scope="col" class="n">score</th><th scope="col">why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _offer(place: int, scored: Scored) -> str:
    offer, rate = scored.offer, scored.offer.rate
    terms = " + ".join(f"{name} {_score(value)}" for name, value in scored.terms if value) or "nothing"
    expected = scored.estimate
    figures = (
        ("device", "device", escape(device(offer.gpu)), ""),
        ("rate", "rate", f"{dollars(rate.nano_per_hour)}/h", f"{escape(rate.source)}, {rate.as_of}"),
        ("n", "expected ms", ms(expected.timing.total_s), escape(expected.basis)),
        ("n", "cost", dollars(expected.cost.amount), ""),
        ("n", "score", _score(scored.score), escape(terms)),
    )
    cells = "".join(
        f'<td class="{kind}" data-part="{name}">{value}<small>{small}</small></td>'
        for kind, name, value, small in figures
    )
    return (
        f'<tr class="{"first" if place == 1 else "lost"}"><td class="place">{place}</td>'
        f'<td class="provider">{escape(offer.provider)}</td>{cells}'
        f'<td class="whyhere">{escape(scored.why)}</td></tr>'
    )


def _refused(refusal: Refusal) -> str:
    reason = refusal.reason.removeprefix(f"{refusal.provider}: ")
    return (
        f'<tr class="refused"><td class="place">—</td><td class="provider">{escape(refusal.provider)}</td>'
        f'<td class="whyhere" colspan="6">refused: {escape(reason)}</td></tr>'
    )


def device(gpu: Gpu) -> str:
    """ "cpu, 2 cores", or "2× NVIDIA T4"."""
    if not gpu.capability and gpu.name == "cpu":
        return f"cpu, {gpu.count} core{'s' if gpu.count != 1 else ''}"
    return f"{gpu.count}× {gpu.name}" if gpu.count != 1 else gpu.name


def _score(value: float) -> str:
    return f"${value:.7f}" if math.isfinite(value) else "—"
