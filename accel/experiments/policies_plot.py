"""Policies as a picture. Guarantee: one mark a policy, with its interval both ways, realm simulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.core.errors import UsageError
from accel.core.row import Provenance
from accel.experiments import plots
from accel.experiments.policies_compare import COST, IN_TIME, by_contestant, mean
from accel.experiments.policies_contestants import OURS, Outcome

# Okabe and Ito's, as in ``plots``; a marker for each as well
_LOOKS = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#AA4499", "D"), ("#56B4E9", "v"),
    ("#E69F00", "P"), ("#555555", "X"),
)  # fmt: skip


def plot_policies(outcomes: Sequence[Outcome], env: Provenance, told: str, path: Path) -> Path:
    """Deadlines met over money, in the manner of ann-benchmarks: the upper left is where one wants to be.

    told: the assumptions in one sentence, for the caption. Raises UsageError when nothing was played.
    """
    played = by_contestant(outcomes)
    if not played or not next(iter(played.values())):
        raise UsageError("no episode was played by all: there is nothing to draw.")
    n = len(next(iter(played.values())))
    with plots.canvas(8.2, 5.6) as figure:
        axes = figure.add_axes((0.1, 0.29, 0.62, 0.6))
        for (name, seeds), (colour, marker) in zip(played.items(), _LOOKS, strict=False):
            x, y = (mean([m.of(o) for o in seeds.values()]) for m in (COST, IN_TIME))
            axes.errorbar(
                x.value, y.value * 100, marker=marker, ms=9 if name == OURS else 7, color=colour, capsize=3,
                xerr=[[x.value - x.low], [x.high - x.value]], lw=1.2, label=name, ls="none",
                yerr=[[(y.value - y.low) * 100], [(y.high - y.value) * 100]], zorder=5 if name == OURS else 3,
            )  # fmt: skip
        axes.set_xlabel("dollars per 1,000 requests, as the providers invoice")
        axes.set_ylabel("deadlines met, %")
        axes.set_xlim(left=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
        axes.annotate("better", xy=(0.02, 0.98), xytext=(0.13, 0.87), xycoords="axes fraction", size=9,
                      color="#555555", arrowprops={"arrowstyle": "->", "color": "#8A8A8A"})  # fmt: skip
        figure.text(0.1, 0.93, "Routing policies on real arrivals and real spot markets (simulated)", size=13,
                    weight="bold", color="#222222")  # fmt: skip
        when = f"{env.measured_at:%Y-%m-%d}, commit {env.commit}, python {env.python}"
        plots.caption(
            figure, 0.1,
            f"Realm simulated: nothing ran. Marks: means over n={n} seeds, every policy on the same "
            "episodes; whiskers: 95 % bootstrap intervals over seeds (wider than those of the paired "
            f"differences, which the table gives). Baseline: each other. {told} {when}.".replace("$", r"\$"),
            128,
        )  # fmt: skip
        return plots.save(figure, path)
