"""Rows as pictures. Guarantee: each carries its provenance, and no mark mixes what ran with what did not.

Drawn without a display and without pyplot's global state. Colours are Okabe and Ito's, told apart by
colour-blind readers; lines are labelled where they end, and differ by dash too.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import UsageError
from accel.core.row import Row
from accel.experiments.breakeven import (
    GPUS,
    Assumptions,
    Curve,
    Start,
    Verdict,
    number,
    reach,
    remote_seconds,
    verdict,
)
from accel.experiments.embed_benchmark import SECONDS
from accel.experiments.tables import best_engines, groups, machine_of, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008
_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9"
_INK, _QUIET, _FAINT = "#222222", "#555555", "#8A8A8A"
_GPU_COLOURS = dict(zip(GPUS, (_ORANGE, _GREEN, _BLUE, _PURPLE), strict=True))
_DPI = 160
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": _FAINT, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "axes.axisbelow": True,
    "svg.hashsalt": "accel",
}  # fmt: skip


def plot_embedding(rows: Sequence[Row], path: Path) -> Path:
    """Passages per second by batch size, each engine at its best setting, every sample a dot.

    ``rows`` are of one group (``tables.groups``). Raises UsageError when there is nothing to draw,
    ValueError for rows that were not made alike.
    """
    mine = [r for r in rows if r.metric == SECONDS and r.cell.get("what") == "embed"]
    if not mine:
        raise UsageError("no embedding was measured: there is nothing to draw.")
    if len(groups(mine)) != 1:
        raise ValueError("rows of two realms, devices or sets of versions do not share a picture")
    with canvas(7.6, 4.7) as figure:
        axes = figure.add_axes((0.1, 0.315, 0.72, 0.565))
        ends = []
        for engine, colour, marker in (("accel", _BLUE, "o"), ("sentence-transformers", _ORANGE, "s")):
            points = sorted((r for r in best_engines(mine) if r.cell.get("engine") == engine), key=size_of)
            if not points:
                continue
            for row in points:
                rates = [size_of(row) / s for s in row.samples]
                axes.plot([size_of(row)] * row.n, rates, marker, ms=4, color=colour, alpha=0.35, mew=0)
            x = [size_of(r) for r in points]
            y = [size_of(r) / r.median for r in points]
            axes.plot(x, y, color=colour, lw=2, marker=marker, ms=6)
            ends.append((y[-1], "accel" if engine == "accel" else "sentence-\ntransformers", colour))
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        sizes = sorted({size_of(r) for r in mine})
        axes.set_xticks(sizes, [f"{s:,}" for s in sizes])
        axes.minorticks_off()
        axes.set_xlabel("passages in a batch")
        axes.set_ylabel("passages per second")
        low, high = axes.get_ylim()
        _label_ends(axes, [(y / (high - low), t, c) for y, t, c in ends], gap=0.13)
        first = mine[0]
        figure.text(0.1, 0.925, f"Embedding with {first.cell['model']}, {first.cell['numerics']}",
                    size=13, weight="bold", color=_INK)  # fmt: skip
        tokens = sum(float(r.cell["tokens_per_text"]) for r in mine) / len(mine)
        alike = groups(mine)[0]
        caption(
            figure,
            0.1,
            f"Lines: medians; dots: each of n={_counts(mine)} warm calls; {tokens:.0f} tokens a passage on "
            "average. Baseline: sentence-transformers' encode at its fastest batch_size, same passages, same "
            f"run, calls in turn. {_sentence(alike.provenance)}",
            width=122,
        )
        return save(figure, path)


def plot_breakeven(found: Sequence[Curve], assumed: Assumptions, path: Path) -> Path:
    """Seconds here (measured) and on remote GPUs (estimated) by size, one panel for each curve.

    Raises UsageError for no curves, ValueError when they were not measured alike.
    """
    if not found:
        raise UsageError("nothing was measured on this machine: there is no break-even picture.")
    rows = [r for c in found for r in c.rows]
    if len({machine_of(r) for r in rows}) != 1:
        raise ValueError("curves of two machines do not share a picture")
    with canvas(12.0, 5.9) as figure:
        left, width, gap = 0.072, 0.228, 0.091
        for i, curve in enumerate(found):
            axes = figure.add_axes((left + i * (width + gap), 0.325, width, 0.43))
            _panel(axes, curve, assumed)
            if i == 0:
                axes.set_ylabel("time for one call")
        figure.text(left, 0.943, "From what size on would a remote GPU beat this machine?",
                    size=14, weight="bold", color=_INK)  # fmt: skip
        figure.text(left, 0.9, "Black: measured here. Coloured: estimated from data sheets, nothing ran.",
                    size=10, color=_QUIET)  # fmt: skip
        caption(
            figure, left,
            f"Black dots, realm real: measured here, medians of n={_counts(rows)}, warm, "
            f"{found[0].numerics}, fastest engine at each size; the grey line extends them. Coloured "
            "lines, realm simulated: estimated, nothing ran; "
            f"dashed: GPU warm, dotted: GPU cold. Assumed: {'; '.join(assumed.told())}. Search is the dense "
            "half, exact, over random vectors; reranking is late interaction over passages not seen before. "
            f"{' '.join(_sentence(g.provenance) for g in groups(rows))}",
            width=184,
        )  # fmt: skip
        return save(figure, path)


def _panel(axes: Axes, curve: Curve, assumed: Assumptions) -> None:
    told = {s: [verdict(curve, g, s, assumed) for g in GPUS] for s in Start}
    x = _steps(curve, told)
    axes.set_xscale("log")
    axes.set_yscale("log")
    past = [v for v in x if v >= curve.sizes[-1]]
    axes.plot(past, [curve.at(v) for v in past], color=_FAINT, lw=1.6, ls=(0, (1, 1.2)))
    axes.plot(curve.sizes, curve.seconds, color=_INK, lw=2, marker="o", ms=5, zorder=5)
    for start, dash in ((Start.WARM, (0, (5, 2))), (Start.COLD, (0, (1, 1)))):
        for gpu in GPUS:
            there = [v for v in x if v <= reach(curve, gpu)]
            y = [remote_seconds(curve.load, v, gpu, start, curve.numerics, assumed) for v in there]
            axes.plot(there, y, color=_GPU_COLOURS[gpu], lw=1.4, ls=dash)
    axes.yaxis.set_major_formatter(lambda v, _: _axis_seconds(v))
    axes.xaxis.set_major_formatter(lambda v, _: _axis_count(v))
    axes.minorticks_off()
    axes.set_xlim(x[0] * 0.85, x[-1])
    axes.set_ylim(bottom=axes.get_ylim()[0] * 0.6)
    axes.set_xlabel(curve.load.axis)
    _name_lines(axes, curve, x, assumed)
    name = curve.load.stage.value.capitalize()
    axes.text(0, 1.175, name, transform=axes.transAxes, size=12, weight="bold", color=_INK)
    axes.text(0, 1.03, "\n".join(f"{s} GPU {_summary(told[s], curve)}" for s in Start),
              transform=axes.transAxes, size=9.5, color=_INK, linespacing=1.35)  # fmt: skip


def _name_lines(axes: Axes, curve: Curve, x: Sequence[float], assumed: Assumptions) -> None:
    """GPU names where their lines end; "warm", "cold" and "this machine" on the lines themselves."""
    low, high = axes.get_ylim()
    ends = []
    for start in Start:
        shown = [(g, min(x[-1], reach(curve, g))) for g in GPUS]
        for gpu, end in shown:
            y = remote_seconds(curve.load, end, gpu, start, curve.numerics, assumed)
            ends.append((math.log(y / low) / math.log(high / low), f"{gpu} {start}", _GPU_COLOURS[gpu]))
        y = remote_seconds(curve.load, x[0], GPUS[0], start, curve.numerics, assumed)
        above = start is Start.COLD  # beside each other where the two lie close
        axes.annotate(f"remote GPU, {start}", (x[0], y), xytext=(2, 5 if above else -6),
                      textcoords="offset points", va="bottom" if above else "top", size=8.5, color=_QUIET,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1})  # fmt: skip
    _label_ends(axes, _merged(ends), gap=0.062, size=8.5)
    # left of the last point: there no GPU's line lies, those are below it or far above
    axes.annotate("this machine", (curve.sizes[-1], curve.seconds[-1]), xytext=(-7, 6), ha="right",
                  textcoords="offset points", size=9.5, weight="bold", color=_INK, va="bottom")  # fmt: skip


def _steps(curve: Curve, told: dict[Start, list[Verdict]]) -> list[float]:
    """Where a panel's lines are drawn: from the smallest size to well past the last break-even shown."""
    crossings = [v.at for each in told.values() for v in each if v.at is not None]
    end = max(4 * max(crossings, default=0.0), 4 * curve.sizes[-1])
    end = min(end, max(reach(curve, g) for g in GPUS))
    count = 160
    made = [curve.sizes[0] * (end / curve.sizes[0]) ** (i / count) for i in range(count + 1)]
    return sorted({*made, curve.sizes[-1]})


def _summary(told: Sequence[Verdict], curve: Curve) -> str:
    """One line for all GPUs: from where on they win."""
    sizes = [v.at for v in told if v.at is not None]
    if not sizes:
        return "never wins"
    low, high = number(min(sizes)), number(max(sizes))
    some = "" if len(sizes) == len(told) else f" ({', '.join(v.gpu for v in told if v.at is not None)} only)"
    if max(sizes) <= curve.sizes[0]:
        return f"wins at every size measured{some}"
    extended = "≈ " if any(v.extended for v in told if v.at is not None) else ""
    return f"wins from {extended}{low if low == high else f'{low} to {high}'} on{some}"


def _merged(labels: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Labels of one start that would lie on each other become one, in the colour of ink."""
    kept: list[tuple[float, list[str], str]] = []
    for y, text, colour in sorted(labels):
        if kept and kept[-1][1][0].split()[1] == text.split()[1] and y - kept[-1][0] < 0.04:
            kept[-1] = (kept[-1][0], [*kept[-1][1], text], _INK)
        else:
            kept.append((y, [text], colour))
    out = []
    for y, texts, colour in kept:
        names = sorted((t.split()[0] for t in texts), key=GPUS.index)
        out.append((y, names[0] if len(names) == 1 else f"{names[0]}–{names[-1]}", colour))
    return out


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]], gap: float, size: float = 10) -> None:
    """Labels (height as a share of the axis, text, colour) right of the axis, pushed ``gap`` apart."""
    last = -1.0
    for y, text, colour in sorted(labels):
        last = max(y, last + gap)
        axes.text(1.02, last, text, transform=axes.transAxes, color=colour, size=size, va="center")


def caption(figure: Figure, left: float, text: str, width: int) -> None:
    figure.text(left, 0.02, "\n".join(textwrap.wrap(text, width)),
                size=7.6, color=_QUIET, va="bottom", linespacing=1.35)  # fmt: skip


def _counts(rows: Sequence[Row]) -> str:
    counts = sorted({r.n for r in rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _axis_seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale * 0.999:
            return f"{value / scale:,.0f} {unit}"
    return f"{value:.0e} s"


def _axis_count(value: float) -> str:
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """A figure that draws itself to a file: no window, no pyplot, the style only while it is open."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.stem + ".part.png")
    figure.savefig(part, metadata={"Software": None})
    part.replace(path)
    return path
