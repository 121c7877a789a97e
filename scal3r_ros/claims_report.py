"""docs/claims.md: tables, verdicts and a picture of what `scal3r eval claims` has measured."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from scal3r_ros.evaluation.filters import filter_shares
from scal3r_ros.mapping.config import PointMapConfig

Rows = list[dict[str, Any]]
MOST_FLYING, MOST_ABS_REL = 0.75, 1.02  # of the single head's; boundary F1 must not be lower
ALONE = ("single", "guided")  # heads without experts
COLLAPSED = 0.95  # mean weight of one expert: the gate has failed
LEAST_GAIN, LONG = 0.20, 16  # of causal memory over none, at so many chunks and more
MEASURES = ("flying", "swapped", "outside", "boundary_f1", "abs_rel_interior", "abs_rel_boundary")
MODES = ("none", "causal", "offline")  # of the memory
REFINED = {False: "the network alone", True: "refined by bundle adjustment"}
BETA = 0.5  # of the F-measure: a wrong point in the map counts for more than a missing one


def write_report(rows: dict[str, Rows], path: Path) -> None:
    """Raises ImportError where matplotlib is missing."""
    text = [HEAD]
    if rows["heads"]:
        text += [HEADS, *_heads(rows["heads"])]
        text += ["", f"![Boundary F1 by flying points]({path.stem}.png)"]
    if rows["memory"]:
        text += [MEMORY]
        for refined, title in REFINED.items():
            these = [r for r in rows["memory"] if r["refined"] == refined]
            text += ["", f"**{title}**:", *_memory(these)] if these else []
        text += ["", f"![ATE by chunks]({path.stem}_memory.png)"]
    if rows["filters"]:
        text += [FILTERS, *_filters(rows["filters"])]
    if rows["thresholds"]:
        text += [THRESHOLDS, *_thresholds(rows["thresholds"])]
    if rows["heads"]:
        _draw_heads(rows["heads"], path.with_suffix(".png"))
    if rows["memory"]:
        _draw_memory(rows["memory"], path.with_name(f"{path.stem}_memory.png"))
    path.write_text("\n".join(text) + "\n")


def mean_range(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student); NaN for a single value."""
    x = np.array(list(values))
    if len(x) < 2:
        return float(x.mean()), float("nan")
    half = float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return float(x.mean()), half


def verdict(ratios: dict[str, float], usage: float) -> str:
    """By the rule that HEADS states."""
    if usage > COLLAPSED:
        return "gate collapsed: failed"
    fewer = ratios["air"] <= MOST_FLYING
    as_right = ratios["abs_rel_interior"] <= MOST_ABS_REL
    as_sharp = ratios["boundary_f1"] >= 1
    if fewer and as_right and as_sharp:
        return "holds"
    if fewer:
        costs = [n for n, ok in (("interior", as_right), ("boundary F1", as_sharp)) if not ok]
        return f"a trade: costs {' and '.join(costs)}"
    return "does not hold"


def _in_the_air(row: dict[str, Any]) -> float:
    return max(row["flying"] + row["outside"], 1e-9)


def _heads(rows: Rows) -> list[str]:
    """Runs of as many steps on the same test worlds are compared, the newest first."""
    text = []
    for run in sorted({_run(r) for r in rows}, reverse=True):
        these = [r for r in rows if _run(r) == run]
        test_seed, steps, scenes = run
        title = f"{scenes}, {steps} steps, test worlds from {test_seed}"
        text += ["", f"**{title}**:", "", TABLE, "|---" * 10 + "|"]
        single = {r["seed"]: r for r in these if r["arm"] == "single"}
        for arm, decoding in dict.fromkeys((r["arm"], r["decoding"]) for r in these):
            mine = [r for r in these if (r["arm"], r["decoding"]) == (arm, decoding)]
            text.append(_head_line(arm, decoding, mine, single))
    return text


def _run(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["test_seed"], row["steps"], row["scenes"]


def _head_line(arm: str, decoding: str, mine: Rows, single: dict[int, dict[str, Any]]) -> str:
    cells = [arm, decoding if arm not in ALONE else "", str(len(mine))]
    for name in MEASURES:
        mean, half = mean_range(r[name] for r in mine)
        cells.append(f"{mean:.3g} ± {half:.1g}")
    judged = ""
    if arm != "single":
        pairs = [(r, single[r["seed"]]) for r in mine if r["seed"] in single]
        air, half = mean_range(_in_the_air(r) / _in_the_air(s) for r, s in pairs)
        ratios = {"air": air}
        for name in ("abs_rel_interior", "boundary_f1"):
            ratios[name], _ = mean_range(r[name] / max(s[name], 1e-9) for r, s in pairs)
        usage = max(r["largest_usage"] for r in mine) if arm not in ALONE else 0.0
        judged = f"in the air x {air:.2f} ± {half:.2f}: {verdict(ratios, usage)}"
    return "| " + " | ".join([*cells, judged]) + " |"


def _memory(rows: Rows) -> list[str]:
    text = ["", "| chunks | worlds | " + " | ".join(f"{m}: ATE, drift" for m in MODES)]
    text[-1] += " | causal against none |"
    text.append("|---" * (len(MODES) + 3) + "|")
    for chunks in sorted({r["chunks"] for r in rows}):
        these = [r for r in rows if r["chunks"] == chunks]
        by_mode = {m: {r["seed"]: r for r in these if r["mode"] == m} for m in MODES}
        seeds = set.intersection(*(set(found) for found in by_mode.values()))
        if not seeds:
            continue
        cells = [str(chunks), str(len(seeds))]
        for mode in MODES:
            mine = [by_mode[mode][s] for s in seeds]
            ate, drift = (np.mean([r[n] for r in mine]) for n in ("ate_m", "scale_drift"))
            cells.append(f"{ate:.3f} m, {drift:.3f}")
        gain, half = mean_range(
            by_mode["causal"][s]["ate_m"] / by_mode["none"][s]["ate_m"] - 1 for s in seeds
        )
        sure = gain + half < 0  # the interval excludes none
        judged = "holds" if gain <= -LEAST_GAIN and sure else "does not hold"
        judged = f": {judged}" if chunks >= LONG else ""
        cells.append(f"{100 * gain:+.0f} ± {100 * half:.0f} %{judged}")
        text.append("| " + " | ".join(cells) + " |")
    return text


def _filters(rows: Rows) -> list[str]:
    titles = list(filter_shares(rows[0]))
    text = ["", "| filter | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for row in rows:
        cells = [f"{100 * share:.0f} %" for share in filter_shares(row).values()]
        text.append(f"| {row['filter']} | " + " | ".join(cells) + " |")
    return text


def _thresholds(rows: Rows) -> list[str]:
    usual = asdict(PointMapConfig())
    text = ["", "| threshold | value: F (the default bold) |", "|---|---|"]
    for name in dict.fromkeys(r["threshold"] for r in rows):
        mine = [r for r in rows if r["threshold"] == name]
        cells = [f"{r['value']:g}: {f_measure(r):.3f}" for r in mine]
        marked = [
            f"**{cell}**" if r["value"] == usual[name] else cell
            for cell, r in zip(cells, mine, strict=True)
        ]
        text.append(f"| `{name}` | " + ", ".join(marked) + " |")
    return text


def f_measure(row: dict[str, Any]) -> float:
    """Of keeping the points that are right."""
    precision = row["right_kept"] / max(row["points_kept"], 1)
    recall = row["right_kept"] / max(row["right"], 1)
    return (1 + BETA**2) * precision * recall / max(BETA**2 * precision + recall, 1e-9)


def _draw_heads(rows: Rows, path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    arms: dict[tuple[int, int], set[str]] = {}
    for row in rows:
        arms.setdefault(_run(row)[:2], set()).add(row["arm"])
    fullest = max(arms, key=lambda run: (len(arms[run]), run))
    known = [r for r in rows if _run(r) == (*fullest, "known families")]
    shown = dict.fromkeys((r["arm"], r["decoding"]) for r in known)
    colours = colormaps["tab20"](range(len(shown)))
    for (arm, decoding), colour in zip(shown, colours, strict=True):
        mine = [r for r in known if (r["arm"], r["decoding"]) == (arm, decoding)]
        x, y = ([r[n] for r in mine] for n in ("flying", "boundary_f1"))
        if arm in ALONE:
            axes.plot(x, y, "k*" if arm == "single" else "k+", ms=9, label=arm)
        else:
            axes.plot(x, y, "o", c=colour, ms=5, label=f"{arm}, {decoding}")
    axes.set(xlabel="flying points, share of edge pixels", ylabel="boundary F1")
    axes.set_title(f"{fullest[1]} steps, known families", fontsize=8)
    axes.grid(alpha=0.3)
    if known:
        axes.legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=110)


def _draw_memory(rows: Rows, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    lengths = sorted({r["chunks"] for r in rows})
    for (refined, title), axes in zip(REFINED.items(), panels, strict=True):
        for mode in MODES:
            mine = [r for r in rows if (r["mode"], r["refined"]) == (mode, refined)]
            chunks = sorted({r["chunks"] for r in mine})
            mean = [np.mean([r["ate_m"] for r in mine if r["chunks"] == c]) for c in chunks]
            axes.plot(chunks, mean, "o-", label=f"memory: {mode}")
        axes.set(xlabel="chunks", ylabel="ATE without loops, m", xscale="log", title=title)
        axes.set_xticks(lengths, [str(n) for n in lengths], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


HEAD = """# The claims of the two papers, in our hands

`scal3r eval claims --out DIR` runs all of this and writes this page; `--report-only` writes it
from what has been run. Worlds are procedural, other seeds than any training; nothing was tuned on
them but what is said below. The rules were fixed beforehand but for one thing: points outside
both surfaces of an edge count as in the air since the first runs, where picking from `mean` moved
flying points there. The experiments have the size that two CPU cores allow: they say what happens
at that size, not what the papers' networks do."""

HEADS = """
## A mixture of experts sharpens depth edges (MoE3D)

The project's depth heads on a small pyramid of convolutions that stands in for the backbone, equal
in parameters within half a percent; the same 6000 windows of 32x32 pixels with an edge in them,
0.09 to 0.19 degrees a pixel (an image of 60 degrees that is 320 to 640 wide), colour and coarse
depth in; the same steps, rate. The gate of B and C is led by colour (`network/colour_guide.py`);
`guided`: a single head whose features are, without experts. `joint`: half the L1 of the mean depth,
half that of each expert by its weight, a tenth of the likelihood, and a twentieth for uneven use of
the experts (chosen on worlds from 840000, one seed). `mean`: L1 of the mean depth, gate entropy
1e-3, temperature 1 to 0.3 (the paper's recipe). `likelihood`: of a mixture of Laplacians of fixed
scale 0.05, gate entropy 0.05. What has no row was not run. Shares of the pixels at an edge of two
surfaces: flying between them, swapped to the wrong one, outside both; in the air are the first and
the last. The rule: points in the air at most 0.75 of the single head's, interior AbsRel at most
1.02, boundary F1 not lower; fewer of them at the cost of another is a trade. ± is half of a 95 %
interval over seeds (Student), nan where there is one.

On test worlds from 900000 nothing was chosen; what was run on them was fixed beforehand.
[training.md](training.md) tells how it was found, [trials.md](trials.md) what was run before, on
coarser windows and with a gate that no colour leads."""

TABLE = (
    "| head, recipe | decoding | seeds | flying | swapped | outside | boundary F1 "
    "| AbsRel interior | AbsRel edge | verdict |"
)

MEMORY = """
## Memory that is trained while it maps reduces drift (Scal3R)

The shipped nano weights on tours round rooms (never the same way, 5 cm an image, 10 Hz), loop
closure off: what the network alone says, and what the mapper makes of it. ATE after a similarity
alignment; drift: deviation of the log scale of eighths of the path. The rule: none > causal >=
offline, causal at least 20 % better than none at 16 chunks and more; the verdict is about the
latter, and an interval that holds zero shows nothing. Chunks are whole ones: a short first one
makes the network's passes one more (2, 5, 17, 65)."""

FILTERS = """
## Filters against points in the air

Maps of 24 clips, four of each family, with the shipped nano weights, refined; K is known. Every
filter of the map alone at its default, and all together. Right: a depth within 5 % of the truth at
its submap's scale; wrong: off by more than 30 %. Flying: at an edge, between its two surfaces, or
outside both by more than a fifth of their distance."""

THRESHOLDS = """
Thresholds, on 24 clips of other worlds: F-measure of keeping what is right (beta 0.5: a wrong point
counts for more than a missing one), one threshold changed and all others at their defaults."""
