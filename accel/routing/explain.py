"""Why, in words. Guarantee: one sentence per offer, naming what decided its place, from what decided it.

The first says why it is before the best of the others, each other why it is behind the first. What decided
is the first part of ``Candidate.key`` in which the two differ; where that is the score, the term that sets
them furthest apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.core.attempt import Scored
from accel.core.offer import Billing
from accel.core.task import Task
from accel.routing.candidate import Candidate, Lateness

# a term of the score → what it says of the offer that it speaks for, and of the other
_TERMS = {
    "money": ("cheaper", "dearer"),
    "idle": ("staying up less for it", "it would stay up, and bill, for longer"),
    "budget": ("sparing a budget used ahead of its time", "dearer, and a budget is used ahead of its time"),
    "quota": ("sparing free hours", "its free hours are kept for batch work"),
    "time": ("faster", "slower"),
    "risk": ("surer", "less sure"),
    "best_for": ("best for such work", "another is best for such work"),
    "priority": ("preferred by your priorities", "behind by your priorities"),
    "": ("by lot", "by lot"),
}


def explain(
    task: Task, ordered: Sequence[Candidate], order: Sequence[str], fallback: Sequence[str]
) -> tuple[Scored, ...]:
    """``ordered`` as Scored, each with its sentence. order, fallback: the person's own, by name."""
    if not ordered:
        return ()
    first, *others = ordered
    runner = min(others, key=lambda c: c.key) if fallback and others else others[0] if others else None
    whys = [_leads(task, first, runner, others, order), *(_loses(task, c, first, fallback) for c in others)]
    return tuple([
        Scored(c.offer, c.expected, c.score, c.terms, why) for c, why in zip(ordered, whys, strict=True)
    ])  # fmt: skip


def span(seconds: float) -> str:
    """Seconds for people: "12 ms", "1.5 s", "4 min", "2.5 h"."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def too_late(task: Task, total_s: float, on_time: float) -> str:
    """Why an offer is left out for the deadline. on_time: P(in time)."""
    limit_s = task.within_s or 0.0
    expected = f"{span(total_s)} expected, the deadline is {span(limit_s)}"
    if total_s > limit_s:
        return expected
    return f"{expected}: it would be met {int(on_time * 100)} times in 100, which is too seldom"


def _told(c: Candidate) -> str:
    return f"{span(c.total_s)}, {c.expected.basis}"


def _leads(
    task: Task, first: Candidate, runner: Candidate | None, others: Sequence[Candidate], order: Sequence[str]
) -> str:
    """Why ``first`` is before ``runner``, the best of ``others``."""
    told = _told(first)
    late = first.lateness >= Lateness.LATE
    missed = f", and may well miss the deadline of {span(task.within_s or 0.0)}" if late else ""
    if first.offer.provider in order:
        return f"asked for first{missed}; {told}"
    if runner is None:
        return f"only fit offer{missed}; {told}"
    against = f"{told}, {runner.offer.provider} {span(runner.total_s)}"
    if late:
        return f"nothing is sure to meet the deadline of {span(task.within_s or 0.0)}: {against}"
    if runner.lateness >= Lateness.LATE:
        return f"meets the deadline of {span(task.within_s or 0.0)}: {told}"
    if runner.lateness > first.lateness:
        return f"meets the target of {span(task.target_s or 0.0)}: {against}"
    if runner.key[3] and not first.key[3]:
        return f"answers are written here; {told}"
    if first.gratis and first.total_s <= min(c.total_s for c in others):
        return f"free and fastest: {against}"
    if first.gratis and not runner.gratis:
        return f"free: {against}"
    term = _deciding(runner, first)
    if first.gratis:
        return f"free and {_TERMS[term][0]}: {against}"
    return f"{'best price for the time' if term in ('money', 'time') else _TERMS[term][0]}: {against}"


def _loses(task: Task, c: Candidate, first: Candidate, fallback: Sequence[str]) -> str:
    """Why ``c`` is behind ``first``."""
    name, told = first.offer.provider, _told(c)
    if fallback and c.offer.provider in fallback:
        told += f"; number {fallback.index(c.offer.provider) + 1} in your order of fallbacks"
    if c.lateness is Lateness.COLD and first.starting and not c.starting:
        return f"cold, and {name} is being started already; {told}"
    if c.lateness is Lateness.COLD and first.lateness is not Lateness.COLD:
        warm_s = span(c.total_s - c.expected.timing.cold_s)
        missed = f"cold, it would miss the deadline of {span(task.within_s or 0.0)}"
        return f"last resort: {missed}, which it meets warm ({warm_s}); {told}"
    if first.lateness is Lateness.COLD and c.lateness is Lateness.LATE:
        missed = f"it would most likely miss the deadline of {span(task.within_s or 0.0)}"
        return f"{missed}, and {name} starts up meanwhile; {told}"
    if c.place > first.place:
        return f"fallback: {name} was asked for; {told}"
    if c.lateness is Lateness.LATE and first.lateness < Lateness.LATE:
        return f"fallback: it would miss the deadline of {span(task.within_s or 0.0)}; {told}"
    if c.lateness > first.lateness:
        return f"it would miss the target of {span(task.target_s or 0.0)}; {told}"
    if c.key[3] and not first.key[3]:
        return f"answers are written on this machine; {told}"
    if first.gratis and not c.gratis:
        if c.offer.billing is Billing.SECONDS:
            return f"paid, and {name} is free; {told}"
        if c.quota_price:
            return f"its free hours are kept for batch work, and {name} takes none; {told}"
        return f"free, but {c.expected.success:.0%} of its calls succeed, and {name} is sound; {told}"
    word = _TERMS[_deciding(c, first)][1]
    return f"{word}: score ${c.score:.6f} against ${first.score:.6f}; {told}"


def _deciding(worse: Candidate, better: Candidate) -> str:
    """The term in which ``worse`` is furthest behind ``better``; "" for a tie."""
    apart = dict(worse.terms)
    for term, value in better.terms:
        apart[term] = apart.get(term, 0.0) - value
    term = max(apart, key=apart.__getitem__)
    return term if apart[term] > 0 else ""
