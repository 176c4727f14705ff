"""Policies beside each other. Guarantee: a difference is of the same seeds, and comes with its interval.

Every contestant met the same episodes, so that what is compared are the differences seed by seed (paired).
Intervals are 95 %, percentile bootstrap over seeds (``RESAMPLES`` resamples from a fixed seed): no
distribution is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from accel.core.money import NANO
from accel.core.offer import Realm
from accel.core.row import Provenance, Row, Scalar
from accel.experiments.policies_contestants import OURS, Outcome
from accel.routing import State

RESAMPLES = 10_000
_SEED = 20261123


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared. better: +1 where more is better, -1 where less is. of: its value in one episode."""

    name: str
    unit: str
    better: int
    of: Callable[[Outcome], float]


def _thousand(nano: int, asked: int) -> float:
    return nano / NANO / asked * 1000


COST = Metric("dollars per 1000 requests", "$", -1, lambda o: _thousand(o.total_nano, o.asked))
WORK = Metric("dollars per 1000 requests, work only", "$", -1, lambda o: _thousand(o.worked_nano, o.asked))
IN_TIME = Metric("deadlines met", "share", 1, lambda o: o.in_time / o.dated)
TIGHT = Metric("tight deadlines met", "share", 1, lambda o: o.tight_in_time / o.tight)
ANSWERED = Metric("requests answered", "share", 1, lambda o: o.answered / o.asked)
# What the person says a missed deadline costs is what the engine weighs money against.
MISS = State().value_of_deadline
LOSS = Metric(
    f"dollars per 1000 requests with ${MISS:g} a miss", "$", -1,
    lambda o: (o.total_nano / NANO + MISS * (o.dated - o.in_time)) / o.asked * 1000,
)  # fmt: skip
P50 = Metric("median seconds", "s", -1, lambda o: o.p50_s)
P95 = Metric("p95 seconds", "s", -1, lambda o: o.p95_s)
METRICS = (COST, WORK, IN_TIME, TIGHT, ANSWERED, P50, P95, LOSS)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> int:
        """The sign, when the interval does not hold 0; else 0."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ours less a rival's, by metric, for one way to count money (``COST`` or ``WORK``)."""

    rival: str
    money: Metric
    differences: tuple[tuple[Metric, Mean], ...]

    @property
    def dominated(self) -> bool:
        """Whether the rival dominates ours: ours clearly better in nothing, the rival clearly in something.

        Clearly means that the interval of the paired difference does not hold 0. This is harsher on ours
        than to ask that the rival's mean be no worse in all three.
        """
        signs = [d.clear * metric.better for metric, d in self.differences]
        return max(signs) <= 0 and min(signs) < 0

    @property
    def dominates(self) -> bool:
        """The same the other way round."""
        signs = [d.clear * metric.better for metric, d in self.differences]
        return min(signs) >= 0 and max(signs) > 0


def mean(values: Sequence[float]) -> Mean:
    """The mean of ``values``, one a seed. Raises ValueError for none."""
    if not values:
        raise ValueError("a mean needs values")
    sample = np.asarray(values, float)
    drawn = np.random.default_rng(_SEED).integers(0, len(sample), (RESAMPLES, len(sample)))
    low, high = np.quantile(sample[drawn].mean(axis=1), [0.025, 0.975])
    return Mean(float(sample.mean()), float(low), float(high))


def by_contestant(outcomes: Sequence[Outcome]) -> dict[str, dict[int, Outcome]]:
    """Contestant → seed → outcome, only of the seeds that every contestant has met."""
    met: dict[str, dict[int, Outcome]] = {}
    for outcome in outcomes:
        met.setdefault(outcome.contestant, {})[outcome.seed] = outcome
    common = sorted(set.intersection(*(set(m) for m in met.values()))) if met else []
    return {name: {seed: seeds[seed] for seed in common} for name, seeds in met.items()}


def verdicts(outcomes: Sequence[Outcome], ours: str = OURS) -> list[Verdict]:
    """Ours against every rival, counting money both ways. Raises ValueError when ours did not play."""
    played = by_contestant(outcomes)
    if ours not in played:
        raise ValueError(f"{ours} did not play")
    found = []
    for rival in played:
        if rival == ours:
            continue
        for money in (COST, WORK):
            found.append(
                Verdict(rival, money, tuple(
                    (m, _paired(played, rival, m, ours)) for m in (money, IN_TIME, ANSWERED)
                ))
            )  # fmt: skip
    return found


def _paired(played: dict[str, dict[int, Outcome]], rival: str, metric: Metric, ours: str = OURS) -> Mean:
    """Ours less the rival's, seed by seed."""
    theirs = played[rival]
    return mean([metric.of(o) - metric.of(theirs[s]) for s, o in played[ours].items()])


def rows(outcomes: Sequence[Outcome], env: Provenance, cell: dict[str, Scalar]) -> list[Row]:
    """One row for each contestant and metric; a sample is one seed, in the order of seeds."""
    made = []
    for name, seeds in by_contestant(outcomes).items():
        for metric in METRICS:
            made.append(
                Row(
                    {"what": "policy", "policy": name, "seeds": len(seeds), **cell}, metric.name, metric.unit,
                    tuple(metric.of(o) for o in seeds.values()),
                    "the other policies of this run, same episodes", False, Realm.SIMULATED, env,
                )
            )  # fmt: skip
    return made


def table(outcomes: Sequence[Outcome]) -> str:
    """At most 80 columns: means over seeds, then ours less each rival with its interval."""
    played = by_contestant(outcomes)
    n = len(next(iter(played.values()), {}))
    lines = [
        f"realm simulated: nothing ran; means over {n} seeds",
        f"{'policy':<20}{'$/1000':>8}{'work':>8}{'in time':>8}{'tight':>8}{'answered':>9}{'p50':>6}"
        f"{'p95':>7}{'loss':>6}",
    ]
    for name, seeds in played.items():
        cost, work, time, tight, answered, p50, p95, loss = (
            mean([m.of(o) for o in seeds.values()]).value for m in METRICS
        )
        lines.append(
            f"{name:<20}{cost:>8.4f}{work:>8.4f}{time:>8.2%}{tight:>8.2%}{answered:>9.2%}"
            f"{p50:>5.2f}s{p95:>6.2f}s{loss:>6.2f}"
        )
    lines.append(f"loss: dollars per 1000 requests, with ${MISS:g} for each missed deadline")
    lines += ["", f"accel less the rival, paired, with 95 % intervals (* holds no 0); n = {n}"]
    told = verdicts(outcomes) if OURS in played else []
    for invoiced, worked in zip(told[::2], told[1::2], strict=True):
        lines.append(f"{invoiced.rival}: accel is {_word(invoiced)}; counting work only: {_word(worked)}")
        for name, (metric, d) in (
            ("$/1000 as invoiced", invoiced.differences[0]), ("$/1000 for work only", worked.differences[0]),
            ("deadlines met, points", invoiced.differences[1]), ("answered, points", invoiced.differences[2]),
            ("loss, $/1000", (LOSS, _paired(played, invoiced.rival, LOSS))),
        ):  # fmt: skip
            lines.append(f"  {name:<22} {_difference(metric, d)}")
    return "\n".join(lines)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The same as Markdown, with every interval."""
    played = by_contestant(outcomes)
    lines = [
        "| policy | $ per 1000 requests, as invoiced | of it for work | deadlines met | tight ones "
        f"| requests answered | p50 s | p95 s | $ per 1000 with ${MISS:g} a missed deadline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, seeds in played.items():
        cells = [_interval(m, mean([m.of(o) for o in seeds.values()])) for m in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| accel less … | money | Δ $ per 1000 | Δ deadlines met, points | Δ answered, points | accel is |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for told in verdicts(outcomes) if OURS in played else []:
        cells = [_difference(m, d) for m, d in told.differences]
        money = "invoiced" if told.money is COST else "work only"
        lines.append(f"| {told.rival} | {money} | {' | '.join(cells)} | {_word(told)} |")
    return "\n".join(lines)


def _word(told: Verdict) -> str:
    return "DOMINATED" if told.dominated else "dominating" if told.dominates else "not dominated"


def _interval(metric: Metric, told: Mean) -> str:
    if metric.unit == "share":
        return f"{told.value:.2%} ({told.low:.2%}–{told.high:.2%})"
    return f"{told.value:.4g} ({told.low:.4g}–{told.high:.4g})"


def _difference(metric: Metric, told: Mean) -> str:
    star = "*" if told.clear else ""
    if metric.unit == "share":
        return f"{told.value * 100:+.2f} [{told.low * 100:+.2f}, {told.high * 100:+.2f}]{star}"
    return f"{told.value:+.4f} [{told.low:+.4f}, {told.high:+.4f}]{star}"
