"""Targets. Guarantee: each is met, missed, or has not enough data, and says by which figure of how many.

The defaults are the guide's: below 1 s for simple questions and below 3 s for complex ones, more than 70 %
of a GPU's time in use, less than $0.05 per query, more than 95 % of the requests answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from accel.core.errors import SettingsError
from accel.core.money import NANO, NanoUSD, dollars
from accel.ledger import Ledger, alerts
from accel.monitoring.report import Report

FIVE_CENTS = NanoUSD(NANO // 20)
MINIMUM = 20        # questions: with fewer, p95 by nearest rank is simply the slowest
MINIMUM_LEASES = 5  # leases, or calls that were charged for by the second


@dataclass(frozen=True, slots=True)
class Targets:
    """What is aimed at; None where nothing is.

    simple_s, complex_s: p95 of whole questions, below so many seconds. utilisation: above this share of the
    leased GPU seconds computed. cost_per_query: below so many nano-dollars. success: above this share of
    the requests ended well. Raises SettingsError for what nothing could meet or miss.
    """

    simple_s: float | None = 1.0
    complex_s: float | None = 3.0
    utilisation: float | None = 0.70
    cost_per_query: NanoUSD | None = FIVE_CENTS
    success: float | None = 0.95

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            share = field.name in ("utilisation", "success")
            if not math.isfinite(value) or value < 0 or (share and value >= 1) or (not share and value == 0):
                allowed = "a share from 0 to below 1" if share else "above 0"
                raise SettingsError(f"the target {field.name!r} must be {allowed}, not {value}.")


class Verdict(StrEnum):
    """How a target stands."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "not enough data"


@dataclass(frozen=True, slots=True)
class Judged:
    """One target. measured and threshold are seconds, shares or nano-dollars, as ``name`` says.

    n: what ``measured`` rests on; least: below how many there is no verdict. words: all of it in one line.
    """

    name: str
    verdict: Verdict
    measured: float | None
    threshold: float
    n: int
    least: int
    words: str


def judge(report: Report, targets: Targets) -> tuple[Judged, ...]:
    """Every target that is set, against ``report``. They are strict: exactly at a threshold is missed."""
    every, used = report.question(""), report.used
    simple, complex_ = report.question("simple").seconds, report.question("complex").seconds
    found = [
        _judged("simple_s", "p95 of simple questions", simple.p95, targets.simple_s, simple.n, _seconds),
        _judged("complex_s", "p95 of complex questions", complex_.p95, targets.complex_s, complex_.n,
                _seconds),
        _judged("utilisation", "charged GPU seconds that computed", used.share, targets.utilisation,
                used.leases, _percent, above=True, least=MINIMUM_LEASES, of="leases and paid calls"),
        _judged("cost_per_query", "mean cost of a question (estimated)", report.spend.per_question,
                targets.cost_per_query, report.spend.n, _dollars),
        _judged("success", "questions answered", every.success, targets.success, every.ended, _percent,
                above=True),
    ]  # fmt: skip
    return tuple(j for j in found if j is not None)


def raise_missed(ledger: Ledger, report: Report, judged: Sequence[Judged]) -> int:
    """Write an alert for each missed target, once per target and day (UTC). Returns how many were new."""
    day = report.at.date().isoformat()
    new = 0
    for j in judged:
        if j.verdict is Verdict.MISSED:
            body = {
                "kind": "target", "target": j.name, "text": f"accel, realm {report.realm}: {j.words}",
                "measured": j.measured, "threshold": j.threshold, "n": j.n,
                "since": report.since.isoformat(), "until": report.until.isoformat(),
            }  # fmt: skip
            new += alerts.raise_(ledger, f"target:{j.name}:{day}", body)
    return new


def _judged(
    name: str, what: str, measured: float | None, limit: float | None, n: int, show: Callable[[float], str],
    *, above: bool = False, least: int = MINIMUM, of: str = "questions",
) -> Judged | None:  # fmt: skip
    if limit is None:
        return None
    goal = f"{'more' if above else 'less'} than {show(limit)}"
    if measured is None or n < least:
        words = f"{what}: {n} {of}, and {least} are needed to judge {goal}"
        return Judged(name, Verdict.UNKNOWN, measured, limit, n, least, words)
    met = measured > limit if above else measured < limit
    words = f"{what}: {show(measured)} of {n} {of}; the target is {goal}"
    return Judged(name, Verdict.MET if met else Verdict.MISSED, measured, limit, n, least, words)


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _dollars(value: float) -> str:
    return dollars(NanoUSD(round(value)))
