"""From what size on a remote GPU would win. Guarantee: what was measured and what was assumed stay apart.

Local seconds are measured rows of this machine, the fastest engine at each size, interpolated between
them and, past the last one, extended by a straight line (and said to be). Remote seconds are the router's
own prior (``routing.estimate``) for an imagined offer, so that the figure and the router cannot disagree.
The remote side is of the realm ``simulated``: nothing in it ran.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from accel.core.errors import UsageError
from accel.core.money import ZERO, Rate
from accel.core.offer import Billing, Gpu, Offer, Realm
from accel.core.row import Row
from accel.core.task import Lane, Need, Numerics, Size, Spec, Stage, Task
from accel.routing import estimate as prior
from accel.routing.gpus import SHEETS

GPUS = ("T4", "L4", "A100", "H100")
_FLOAT = 4  # bytes
_HIT = 16  # bytes of one hit on the way back: an id and its scores
_REACH = 1000.0  # how many times the largest measured size is looked at, at most
_VRAM_SHARE = 0.8  # of a GPU's memory that an index may take


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is put in for a network and a machine that were not measured.

    round_trip_s: to a region of one's own continent and back, connection open. overhead_s: HTTP server
    and kernel launches of one call. bytes_per_s: the uplink, 100 Mbit/s. cold_s: container start and
    model load, from nothing to the first useful instruction.
    """

    round_trip_s: float = 0.040
    overhead_s: float = 0.010
    bytes_per_s: float = 12.5e6
    cold_s: float = 20.0

    def __post_init__(self) -> None:
        if min(self.round_trip_s, self.overhead_s, self.cold_s) < 0 or not self.bytes_per_s > 0:
            raise ValueError(f"seconds cannot be negative, nor a line have no speed: {self}")

    def told(self) -> tuple[str, ...]:
        """Each assumption with its source, one line each, for captions and reports."""
        sheets = "; ".join(f"{g}: {SHEETS[g].source}" for g in GPUS)
        return (
            f"round trip {self.round_trip_s * 1e3:.0f} ms, connection open (assumed, not measured)",
            f"server and launch overhead {self.overhead_s * 1e3:.0f} ms a call (assumed, not measured)",
            f"uplink {self.bytes_per_s * 8 / 1e6:.0f} Mbit/s (assumed, not measured)",
            f"cold start {self.cold_s:.0f} s: container and model load (assumed; providers differ widely)",
            f"GPU arithmetic: {prior.FLOP_PER_TOKEN / 1e6:.1f} MFLOP a token at "
            f"{prior.ACHIEVED_FLOPS:.0%} of the data sheet's peak; memory at {prior.ACHIEVED_MEMORY:.0%} "
            f"of its rate (accel.routing.estimate; {sheets})",
            "the index lies at the far end when warm, and is sent there when cold",
            "queue wait is not counted",
        )


class Start(StrEnum):
    """warm: the machine is up and holds model and index. cold: it starts, and is sent what it lacks."""

    WARM = "warm"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class Load:
    """One of the three pictures: what grows, and what one unit of it weighs.

    stage: what is computed. axis: what a size counts. tokens, bytes: of one text (embed, rerank).
    dimension: of a vector. k: hits wanted (search).
    """

    stage: Stage
    axis: str
    tokens: float = 0.0
    bytes: float = 0.0
    dimension: int = 384
    k: int = 200

    def size(self, x: float, start: Start) -> Size:
        """The size of a task of ``x`` units, with what has to be sent for it."""
        vector = self.dimension * _FLOAT
        cold = start is Start.COLD
        match self.stage:
            case Stage.EMBED:  # texts there, vectors back
                return Size(round(x), tokens=round(x * self.tokens), bytes=round(x * (self.bytes + vector)))
            case Stage.SEARCH:  # a vector there, hits back; the index is read, and sent if it is not there
                held = round(x * vector)
                return Size(1, bytes=vector + self.k * _HIT + cold * held, read_bytes=held)
            case Stage.RERANK:  # hits there and back; the passages are sent if they are not there
                sent = x * (2 * _HIT + cold * self.bytes)
                return Size(round(x), tokens=round(x * self.tokens), bytes=round(sent))
            case _:
                raise UsageError(f"there is no break-even picture of {self.stage}.")


@dataclass(frozen=True, slots=True)
class Curve:
    """This machine's measured seconds by size. sizes ascend; seconds are medians of the fastest engine.

    rows: what was measured, one for each size.
    """

    load: Load
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    rows: tuple[Row, ...]
    numerics: Numerics

    def at(self, x: float) -> float:
        """Seconds for ``x`` units: measured, interpolated on logarithmic axes, or extended.

        Below the smallest size its seconds; past the largest, a straight line with the mean slope over the
        larger half of the sizes, never falling.
        """
        if x <= self.sizes[0]:
            return self.seconds[0]
        if x >= self.sizes[-1]:
            return self.seconds[-1] + self.slope * (x - self.sizes[-1])
        i = bisect.bisect_right(self.sizes, x) - 1
        (x0, x1), (y0, y1) = self.sizes[i : i + 2], self.seconds[i : i + 2]
        part = math.log(x / x0) / math.log(x1 / x0)
        return math.exp(math.log(y0) + part * math.log(y1 / y0))

    @property
    def slope(self) -> float:
        """Seconds that one more unit costs past the largest measured size."""
        if len(self.sizes) < 2:
            return self.seconds[0] / self.sizes[0]
        middle = (len(self.sizes) - 1) // 2
        rise = self.seconds[-1] - self.seconds[middle]
        return max(0.0, rise / (self.sizes[-1] - self.sizes[middle]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where one GPU begins to win. at: the size, or None for never. extended: past what was measured."""

    gpu: str
    start: Start
    at: float | None
    extended: bool
    why: str


_AXES = {
    "embed": (Stage.EMBED, "batch", "passages in a batch"),
    "search": (Stage.SEARCH, "vectors", "vectors in the corpus, one query"),
    "rerank": (Stage.RERANK, "depth", "passages reranked"),
}


def curves(rows: Sequence[Row]) -> tuple[Curve, ...]:
    """The measured curves of ``rows``, one each for embed, search and rerank, as far as they are there.

    Only rows of the realm ``real`` from this project's machine measurements count; of several engines the
    one with the smallest median is taken, size by size. Raises UsageError when two devices or numerics
    classes are mixed.
    """
    found = []
    for what, (stage, size_key, axis) in _AXES.items():
        mine = [
            r for r in rows
            if r.realm is Realm.REAL and r.unit == "s" and r.cell.get("what") == what
            and r.cell.get("provider") == "local" and size_key in r.cell
        ]  # fmt: skip
        if not mine:
            continue
        if len({(r.env.device, r.cell["numerics"]) for r in mine}) > 1:
            raise UsageError(f"{what}: rows of two devices or numerics classes cannot be one curve.")
        best: dict[float, Row] = {}
        for row in mine:
            size = float(row.cell[size_key])
            if size not in best or row.median < best[size].median:
                best[size] = row
        kept = tuple(best[s] for s in sorted(best))
        load = Load(
            stage, axis, tokens=_mean(kept, "tokens_per_text"), bytes=_mean(kept, "bytes_per_text"),
            dimension=int(kept[-1].cell.get("dimension", 384)), k=int(kept[-1].cell.get("k", 200)),
        )  # fmt: skip
        found.append(
            Curve(
                load, tuple(sorted(best)), tuple(r.median for r in kept), kept,
                Numerics(str(kept[-1].cell["numerics"])),
            )
        )  # fmt: skip
    return tuple(found)


def remote_seconds(
    load: Load, x: float, gpu: str, start: Start, numerics: Numerics, assumed: Assumptions
) -> float:
    """Estimated seconds of ``x`` units on one ``gpu``, from asking to having the answer; never falls in x."""
    size = load.size(x, start)
    task = Task("estimate", Lane.LIVE, Spec(load.stage, numerics=numerics), size, Need(load.stage, Lane.LIVE))
    now = datetime(2026, 11, 23, tzinfo=UTC)
    offer = Offer(
        id=f"imagined/{gpu}", provider="imagined", realm=Realm.SIMULATED,
        gpu=Gpu(gpu, vram_bytes=SHEETS[gpu].vram_bytes, capability=SHEETS[gpu].capability),
        rate=Rate(ZERO, now.date(), "not asked: only time is compared"), as_of=now, source="data sheet",
        billing=Billing.NOTHING,
        cold_s=assumed.cold_s if start is Start.COLD else 0.0,
        round_trip_s=assumed.round_trip_s + assumed.overhead_s, seconds_per_byte=1 / assumed.bytes_per_s,
    )  # fmt: skip
    return prior.estimate(task, offer).timing.total_s


def verdict(curve: Curve, gpu: str, start: Start, assumed: Assumptions) -> Verdict:
    """From what size on ``gpu`` beats this machine and goes on beating it, or why it never does.

    Looked for up to ``_REACH`` times the largest measured size, and no further than the index fits into
    the GPU's memory.
    """

    def gain(x: float) -> float:
        return curve.at(x) - remote_seconds(curve.load, x, gpu, start, curve.numerics, assumed)

    measured_to = curve.sizes[-1]
    end, steps = reach(curve, gpu), 120
    ratio = (end / curve.sizes[0]) ** (1 / steps)
    grid = [curve.sizes[0] * ratio**i for i in range(steps + 1)]
    losing = [i for i, x in enumerate(grid) if gain(x) <= 0]
    if not losing:
        return Verdict(gpu, start, grid[0], False, f"wins from {number(grid[0])} on")
    if losing[-1] == len(grid) - 1:
        return Verdict(gpu, start, None, True, _why_never(curve, gpu, start, assumed, grid[-1]))
    low, high = grid[losing[-1]], grid[losing[-1] + 1]
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if gain(middle) > 0 else (middle, high)
    extended = high > measured_to
    past = f", on the line extended past {number(measured_to)}" if extended else ""
    return Verdict(gpu, start, high, extended, f"wins from about {number(high)} on{past}")


def reach(curve: Curve, gpu: str) -> float:
    """The largest size that is looked at on ``gpu``."""
    end = curve.sizes[-1] * _REACH
    if curve.load.stage is Stage.SEARCH:
        fits = SHEETS[gpu].vram_bytes * _VRAM_SHARE / (curve.load.dimension * _FLOAT)
        end = max(curve.sizes[0], min(end, fits))
    return end


def verdicts(found: Sequence[Curve], assumed: Assumptions, gpus: Sequence[str] = GPUS) -> list[Verdict]:
    """Every curve, GPU and start, in this order."""
    return [verdict(c, g, s, assumed) for c, g, s in itertools.product(found, gpus, Start)]


def _why_never(curve: Curve, gpu: str, start: Start, assumed: Assumptions, end: float) -> str:
    here, measured_to = curve.at(end), curve.sizes[-1]
    each = remote_seconds(curve.load, end, gpu, start, curve.numerics, assumed) / end
    fixed = remote_seconds(curve.load, 0, gpu, start, curve.numerics, assumed)
    if curve.at(measured_to) <= fixed and here <= fixed:
        return (
            f"never up to {number(end)}: this machine needs {_seconds(here)}, "
            f"the way there and the start alone {_seconds(fixed)}"
        )
    return (
        f"never up to {number(end)}: each one costs {_seconds(each)} there, most of it to send, "
        f"and {_seconds(here / end)} here"
    )


def _mean(rows: Sequence[Row], key: str) -> float:
    values = [float(r.cell[key]) for r in rows if key in r.cell]
    return sum(values) / len(values) if values else 0.0


def number(x: float) -> str:
    """Two significant digits, in full."""
    if x < 10:
        return f"{math.ceil(x)}"
    digits = math.floor(math.log10(x)) - 1
    return f"{round(x / 10**digits) * 10**digits:,}"


def _seconds(s: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if s >= scale:
            return f"{s / scale:.3g} {unit}"
    return f"{s / 1e-9:.3g} ns"
