"""The report for Prometheus. Guarantee: a pure function of the report, in text, the realm on each line.

Two kinds of figure, told apart by their names. Counters (``_total``) count the whole ledger, so that they
only grow and ``rate()`` means something. Gauges over the report's period carry its length as the label
``window_s``. Percentiles are exact, from the ledger's rows, and so cannot be added over machines. Units are
base units (seconds, dollars, ratios), as https://prometheus.io/docs/practices/naming/ has it (read
2026-11-23).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.money import NANO
from accel.ledger.accounts import Account
from accel.monitoring.report import Report
from accel.monitoring.spend import Limit
from accel.monitoring.targets import Judged, Verdict

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MS_PER_S = 1000
QUERY = "query"  # how a whole question is called among the stages
Sample = tuple[Mapping[str, str], float | None]


class ReportCollector:
    """A collector in prometheus-client's sense: register it where you like; it registers itself nowhere."""

    def __init__(self, report: Report, judged: Sequence[Judged] = ()) -> None:
        self._report, self._judged = report, judged

    def collect(self) -> Iterator[Metric]:
        """Every family that has a sample."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for kind, families in (
            (CounterMetricFamily, (*_requests(self._report), *_attempts(self._report), *_paid(self._report))),
            (GaugeMetricFamily, (*_period(self._report), *_money(self._report), *_state(self._report),
                                 *_targets(self._judged))),
        ):  # fmt: skip
            for name, text, samples in families:
                realm = {"realm": self._report.realm.value}
                have = [({**realm, **labels}, v) for labels, v in samples if v is not None]
                if have:
                    family = kind(name, text, labels=list(have[0][0]))
                    for labels, value in have:
                        family.add_metric(list(labels.values()), value)
                    yield family


def exposition(report: Report, judged: Sequence[Judged] = ()) -> str:
    """The text that a scrape, or the node exporter's textfile collector, takes."""
    from prometheus_client.exposition import generate_latest

    return generate_latest(ReportCollector(report, judged)).decode()


def write(path: Path, report: Report, judged: Sequence[Judged] = ()) -> None:
    """Write it to a file, whole or not at all. The textfile collector reads names that end in .prom.

    Raises OSError.
    """
    from prometheus_client.exposition import write_to_textfile

    write_to_textfile(str(path), ReportCollector(report, judged))


Family = tuple[str, str, Iterable[Sample]]


def _requests(r: Report) -> Iterator[Family]:
    ever = r.ever
    yield "accel_requests", "Requests that ended, by stage (query: whole questions) and outcome.", [
        ({"stage": s or QUERY, "outcome": o}, n) for (s, o), n in ever.requests.items()
    ]
    yield "accel_request_items", "Items asked for.", [
        ({"stage": s or QUERY}, n) for s, n in ever.items.items()
    ]
    yield "accel_cache_hits", "Items that came from the cache.", [
        ({"stage": s or QUERY}, n) for s, n in ever.hits.items()
    ]


def _attempts(r: Report) -> Iterator[Family]:
    ever = r.ever
    yield "accel_attempts", "Tries, by provider, stage and outcome.", [
        ({"provider": p, "stage": s, "outcome": o}, n) for (p, s, o), n in ever.attempts.items()
    ]
    yield "accel_attempt_failures", "Tries that failed, by class of error.", [
        ({"provider": p, "error": e}, n) for (p, e), n in ever.failures.items()
    ]
    yield "accel_attempt_seconds", "Seconds of all tries, by what they went into.", [
        ({"provider": p, "part": part}, s) for (p, part), s in ever.seconds.items()
    ]


def _paid(r: Report) -> Iterator[Family]:
    ever = r.ever
    yield "accel_cost_dollars", "Charges settled, by fund (budget, prepaid credit) and basis.", [
        ({"provider": p, "fund": f, "basis": b}, n / NANO) for (p, f, b), n in ever.charged.items()
    ]
    yield "accel_quota_seconds", "Free GPU seconds charged.", [
        ({"provider": p}, ms / MS_PER_S) for p, ms in ever.quota_ms.items()
    ]
    yield "accel_avoided_dollars", "A paid offer's price for what was free or cached, estimated.", [
        ({}, ever.avoided / NANO)
    ]


def _period(r: Report) -> Iterator[Family]:
    window = {"window_s": f"{(r.until - r.since).total_seconds():.0f}"}
    quantiles = [
        ({"stage": stage, "complexity": level, "quantile": q, **window}, value)
        for stage, level, served in _kinds(r)
        for q, value in (("0.5", served.seconds.p50), ("0.95", served.seconds.p95),
                         ("0.99", served.seconds.p99))
    ]  # fmt: skip
    yield "accel_request_seconds", "Percentiles of requests that ended well, by nearest rank.", quantiles
    yield "accel_period_requests", "Requests in the period, by outcome.", [
        ({"stage": stage, "complexity": level, "outcome": o, **window}, n)
        for stage, level, served in _kinds(r)
        for o, n in (("ok", served.ok), ("failed", served.failed), ("cancelled", served.cancelled))
    ]
    yield "accel_success_ratio", "Share of the requests that ended well; cancelled ones not counted.", [
        ({"stage": stage, "complexity": level, **window}, served.success)
        for stage, level, served in _kinds(r)
    ]
    yield "accel_cache_hit_ratio", "Share of the items that came from the cache.", [
        ({"stage": stage, "complexity": level, **window}, served.hit_share)
        for stage, level, served in _kinds(r)
    ]
    yield "accel_question_cost_dollars", "Mean cost of a whole question.", [
        ({"basis": "estimated", **window}, _dollars(r.spend.per_question))
    ]
    yield "accel_leased_gpu_computing_ratio", "Share of charged GPU seconds that computed (ledger).", [
        ({"provider": name, **window}, used.share) for name, used in r.leased
    ]


def _kinds(r: Report) -> Iterator[tuple[str, str, Any]]:
    """Stage, complexity and figures of all that was served; "all" is every complexity together."""
    for served in r.questions:
        if served.ended or served.cancelled:
            yield QUERY, served.name, served
    for served in r.stages:
        yield served.name, "all", served


_LIMITS: tuple[tuple[str, str, Callable[[Account], int | None]], ...] = (
    ("limit", "as it was set", lambda a: a.wanted), ("charged", "charged in all", lambda a: a.used),
    ("held", "reserved now", lambda a: a.held),
    ("over", "the part of the charges above what was reserved", lambda a: a.over),
)  # fmt: skip


def _money(r: Report) -> Iterator[Family]:
    limits = [(_account(limit), limit) for limit in r.spend.limits]
    for unit, base, per in (("nano_usd", "dollars", NANO), ("gpu_ms", "seconds", MS_PER_S)):
        mine = [(labels, limit) for labels, limit in limits if limit.account.unit == unit]
        kind = "budget" if unit == "nano_usd" else "quota"
        for name, text, of in _LIMITS:
            yield f"accel_{kind}_{name}_{base}", f"Limit in force: {text}.", [
                (labels, None if (v := of(limit.account)) is None else v / per) for labels, limit in mine
            ]
    yield "accel_projected_dollars", "Spent so far divided by the elapsed share of the window.", [
        ({"period": p.period.value, "basis": p.spent.basis or "none"}, _dollars(p.amount))
        for p in r.spend.projections
    ]


def _account(limit: Limit) -> dict[str, str]:
    return {"provider": limit.account.provider or "all", "period": limit.account.period}


def _state(r: Report) -> Iterator[Family]:
    yield "accel_gpu_busy_ratio", "This machine's GPUs at the moment of the report, from the driver.", [
        ({"gpu": str(i), "name": g.name}, g.busy) for i, g in enumerate(r.gpus)
    ]
    yield "accel_gpu_memory_used_bytes", "Memory in use on this machine's GPUs, from the driver.", [
        ({"gpu": str(i), "name": g.name}, g.used_bytes) for i, g in enumerate(r.gpus)
    ]
    yield "accel_alerts", "Alerts in the ledger, by state.", [({"state": s}, n) for s, n in r.alerts]
    yield "accel_report_timestamp_seconds", "When the report was made.", [({}, r.at.timestamp())]


def _targets(judged: Sequence[Judged]) -> Iterator[Family]:
    known = [j for j in judged if j.verdict is not Verdict.UNKNOWN]
    yield "accel_target_met", "1 met, 0 missed; no sample where there is not enough data.", [
        ({"target": j.name}, float(j.verdict is Verdict.MET)) for j in known
    ]


def _dollars(amount: int | None) -> float | None:
    return None if amount is None else amount / NANO
