"""Traces of real requests and spot markets. Guarantee: what is read is whole and in order, or refused.

Two collections, neither of which is part of this project (``--traces DIR`` says where they lie):

* ``azure-llm-2023`` (CSV: TIMESTAMP, ContextTokens, GeneratedTokens; CC BY 4.0): two hours of requests to
  language models, Patel et al., "Splitwise", ISCA 2024.
* ``spot-traces`` (JSON: ``metadata.gap_seconds``, ``data``): whether spot GPUs could be had in each zone, Wu
  et al., "Can't Be Late", NSDI 2024. A tick holds the number of instances **available**, 0 or 1 and up to 16
  in the multi-node files. Copies made for the NSDI simulator are inverted (1 means unavailable) and look the
  same: ``Market.share`` tells, against the share that is published for the zone.
"""

from __future__ import annotations

import bisect
import csv
import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from accel.core.errors import UsageError

ARRIVALS = ("AzureLLMInferenceTrace_conv.csv", "AzureLLMInferenceTrace_code.csv")
_COLUMNS = ("TIMESTAMP", "ContextTokens")
# one machine each, six weeks of 2023, tick of 195 s: the collection's longest run with nine zones
ZONES = "availability/1-node/aws-02-15-2023"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds since the first of its window, and the tokens of its context."""

    at_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Market:
    """When a spot GPU could be had in one zone.

    ups: half-open intervals [from, until) of seconds since the trace's first tick, ascending and apart.
    length_s: of the whole trace.
    """

    zone: str
    ups: tuple[tuple[float, float], ...]
    length_s: float

    @property
    def share(self) -> float:
        """Share of the time in which it was available."""
        return sum(b - a for a, b in self.ups) / self.length_s

    def until(self, at_s: float) -> float:
        """The end of the interval that holds ``at_s``; ``at_s`` itself when it is not available then."""
        i = bisect.bisect_right(self.ups, (at_s, math.inf)) - 1
        return max(at_s, self.ups[i][1]) if i >= 0 else at_s

    def window(self, from_s: float, length_s: float, speed: float = 1.0) -> Market:
        """``length_s`` seconds from ``from_s`` on, as seconds of their own from 0.

        speed: how many seconds of the trace pass in one of the window. Raises ValueError when the window
        does not lie in the trace.
        """
        end = from_s + length_s * speed
        if not (from_s >= 0 and length_s > 0 and speed > 0 and end <= self.length_s + 1e-6):
            raise ValueError(f"{self.zone}: no {length_s:.0f} s at {from_s:.0f} s in {self.length_s:.0f} s")
        cut = ((max(a, from_s), min(b, end)) for a, b in self.ups)
        ups = tuple(((a - from_s) / speed, (b - from_s) / speed) for a, b in cut if a < b)
        return Market(self.zone, ups, length_s)


def read_arrivals(path: Path) -> tuple[Arrival, ...]:
    """Every request of an Azure trace, in order of arrival. Raises UsageError for what is none."""
    found: list[Arrival] = []
    first: datetime | None = None
    with _opened(path) as lines:
        table = csv.DictReader(lines)
        if missing := [c for c in _COLUMNS if c not in (table.fieldnames or ())]:
            raise UsageError(f"{path}: no column {missing[0]}; an Azure trace has {', '.join(_COLUMNS)}.")
        for row in table:
            try:
                when = datetime.fromisoformat(row["TIMESTAMP"][:26])  # seven decimals; six are microseconds
                tokens = int(row["ContextTokens"])
                first = first or when
                at_s = (when - first).total_seconds()
            except (TypeError, ValueError):
                raise UsageError(f"{path} line {table.line_num}: not a request.") from None
            if tokens < 1 or at_s < (found[-1].at_s if found else 0.0):
                raise UsageError(f"{path} line {table.line_num}: no tokens, or earlier than the line before.")
            found.append(Arrival(at_s, tokens))
    if not found:
        raise UsageError(f"{path}: it holds no request.")
    return tuple(found)


def read_market(path: Path) -> Market:
    """The availability of one zone. Raises UsageError for what is no spot trace."""
    with _opened(path) as lines:
        try:
            raw = json.load(lines)
            gap_s, ticks = float(raw["metadata"]["gap_seconds"]), raw["data"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}: not a spot trace (metadata.gap_seconds, data).") from None
    whole = isinstance(ticks, list) and ticks
    if not whole or not (math.isfinite(gap_s) and gap_s > 0):
        raise UsageError(f"{path}: a spot trace needs ticks and a gap above 0 s.")
    if not all(isinstance(t, int) and t >= 0 for t in ticks):
        raise UsageError(f"{path}: a tick is a count of available instances, 0 or more.")
    ups, start = [], 0
    for up, run in itertools.groupby(t > 0 for t in ticks):
        end = start + sum(1 for _ in run)
        if up:
            ups.append((start * gap_s, end * gap_s))
        start = end
    return Market(path.name.split("_")[0], tuple(ups), len(ticks) * gap_s)


def read_markets(folder: Path) -> tuple[Market, ...]:
    """Every zone in ``folder``, by file name. Raises UsageError when there is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UsageError(f"{folder}: no spot trace (*.json) lies there.")
    return tuple(read_market(p) for p in paths)


@dataclass(frozen=True, slots=True)
class Collection:
    """What an experiment draws its windows from: requests of one or more services, zones of one market."""

    arrivals: tuple[tuple[str, tuple[Arrival, ...]], ...]
    markets: tuple[Market, ...]

    @classmethod
    def read(cls, folder: Path) -> Collection:
        """The collections in ``folder``: ``azure-llm-2023`` and ``spot-traces``. Raises UsageError."""
        azure, spot = folder / "azure-llm-2023", folder / "spot-traces" / ZONES
        if not azure.is_dir() or not spot.is_dir():
            raise UsageError(
                f"{folder} does not hold azure-llm-2023 and spot-traces.",
                hint="The README of this experiment's results says where they are published.",
            )
        named = tuple((Path(name).stem.split("_")[-1], read_arrivals(azure / name)) for name in ARRIVALS)
        return cls(named, read_markets(spot))

    def requests(self, chance: random.Random, count: int) -> tuple[str, tuple[Arrival, ...]]:
        """``count`` requests that came one after the other, of a service and from a moment that are drawn.

        Raises UsageError when no service has as many.
        """
        long_enough = [(name, all_) for name, all_ in self.arrivals if len(all_) >= count]
        if count < 1 or not long_enough:
            most = max(len(all_) for _, all_ in self.arrivals)
            raise UsageError(f"{count} requests in a row: the traces hold 1 to {most}.")
        name, all_ = chance.choice(long_enough)
        begin = chance.randrange(len(all_) - count + 1)
        return name, _from_zero(all_[begin : begin + count])

    def zones(
        self, chance: random.Random, count: int, length_s: float, speed: float = 1.0
    ) -> tuple[Market, ...]:
        """The same ``length_s`` seconds in ``count`` zones that are drawn; see ``Market.window``.

        Raises UsageError when there are fewer zones, or none is as long.
        """
        fit = [m for m in self.markets if m.length_s >= length_s * speed]
        if len(fit) < count:
            raise UsageError(f"{count} zones of {length_s * speed:.0f} s: the spot traces hold {len(fit)}.")
        drawn = chance.sample(fit, count)
        latest = min(m.length_s for m in drawn) - length_s * speed
        begin = chance.uniform(0.0, latest)
        return tuple(m.window(begin, length_s, speed) for m in drawn)


def _from_zero(part: Sequence[Arrival]) -> tuple[Arrival, ...]:
    return tuple(Arrival(a.at_s - part[0].at_s, a.tokens) for a in part)


def _opened(path: Path):  # type: ignore[no-untyped-def]  # a text file, closed by the caller's with
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as bad:
        raise UsageError(f"{path}: it cannot be read ({bad.strerror}).") from None
