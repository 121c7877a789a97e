"""The picture of `scal3r bench backend`: error by level of noise and by share of false loops."""

from pathlib import Path
from typing import Any

from scal3r_ros.evaluation.backend import METHODS, averages

COLOURS = ("tab:blue", "tab:orange", "tab:red")


def draw(result: dict[str, Any], path: Path) -> None:
    """Raises ImportError where matplotlib is missing."""
    from matplotlib.figure import Figure

    rows = averages(result)
    levels = sorted({row["level"] for row in rows})
    figure = Figure(figsize=(4 * len(levels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for axis, level in zip(axes, levels, strict=True):
        these = [row for row in rows if row["level"] == level]
        shares = [100 * row["false_loops"] for row in these]
        for method, colour in zip(METHODS, COLOURS, strict=True):
            axis.plot(shares, [row["ate"][method] for row in these], "o-", c=colour, label=method)
        axis.set(title=f"errors x {level:g}", xlabel="false loops, % of all", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ATE, m, mean of the sequences")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(METHODS), frameon=False)
    figure.savefig(path, dpi=110)
