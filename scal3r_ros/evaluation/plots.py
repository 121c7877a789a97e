"""Pictures of what evaluations and benchmarks find; matplotlib is asked for only here."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.evaluation.backend import METHODS, averages

COLOURS = ("tab:blue", "tab:orange", "tab:red")
TRUTH = "truth"  # the name under which the true way is drawn

Ways = Mapping[str, Float[ndarray, "n 3"]]  # positions by who tells them


def draw_backend(result: dict[str, Any], path: Path) -> None:
    """Error by level of noise and by share of false loops. Raises ImportError where matplotlib is
    missing, as all of these."""
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


def draw_ways(sequences: Mapping[str, Ways], path: Path) -> None:
    """From above, as it were: along the two directions in which the true way extends furthest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(sequences), 4.2), layout="constrained")
    axes = figure.subplots(1, len(sequences), squeeze=False)[0]
    for axis, (name, ways) in zip(axes, sequences.items(), strict=True):
        middle = ways[TRUTH].mean(axis=0)
        directions = np.linalg.svd(ways[TRUTH] - middle, full_matrices=False)[2][:2]
        for k, (who, xyz) in enumerate(ways.items()):
            x, y = directions @ (xyz - middle).T
            look = {"c": "black", "lw": 2.5, "alpha": 0.35} if who == TRUTH else {"lw": 1}
            axis.plot(x, y, label=who, zorder=k, **look)
        reach = 0.75 * float(np.abs((ways[TRUTH] - middle) @ directions.T).max())
        axis.set(title=name, xlabel="m", aspect="equal")
        axis.set(xlim=(-2 * reach, 2 * reach), ylim=(-2 * reach, 2 * reach))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def draw_long_run(result: dict[str, Any], path: Path) -> None:
    """Memory and time a chunk over the images so far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    images = [sample["frames"] for sample in result["samples"]]
    shown = {"memory_mb": "host memory, MB", "chunk_s": "a chunk, s"}
    for axis, (of, label) in zip(figure.subplots(1, 2), shown.items(), strict=True):
        values = [sample[of] for sample in result["samples"]]
        axis.plot(images, values, "o-", ms=3)
        axis.set(xlabel="images", ylabel=label, ylim=(0, 1.2 * max(values)))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_bars(
    groups: Mapping[str, Mapping[str, float]],
    label: str,
    path: Path,
    *,
    goal: float | None = None,
    logarithmic: bool = False,
) -> None:
    """A cluster for every group, in it a bar for each of what is told of it; a line at the goal."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    figure = Figure(figsize=(max(5.0, 1.1 * len(groups) * len(names) ** 0.5), 3.4))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    width = 0.8 / max(len(names), 1)
    for k, name in enumerate(names):
        places = [g + (k - (len(names) - 1) / 2) * width for g in range(len(groups))]
        told = zip(places, groups.values(), strict=True)
        shown = [(x, bars[name]) for x, bars in told if name in bars]
        axis.bar(*zip(*shown, strict=True), width=width, label=name)
    if goal is not None:
        axis.axhline(goal, c="black", ls="--", lw=1, label="goal")
    axis.set_xticks(range(len(groups)), [textwrap.fill(name, 16) for name in groups], fontsize=8)
    axis.set(ylabel=label, yscale="log" if logarithmic else "linear")
    axis.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)
