"""docs/frames.png: the frames of REP 105 and who publishes what (needs matplotlib).

python tools/draw_frames.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parents[1] / "docs" / "frames.png"
AXES = ((0, "#d62728", "x"), (1, "#2ca02c", "y"), (2, "#1f77b4", "z"))
# a parallel projection: x to the lower right, y into the page, z up
PROJECTION = np.array([[0.85, 0.62, 0.0], [-0.4, 0.34, 1.0]])
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # R_base_camera
FRAMES = {  # name: place, axes, note
    "map": ((0.0, 0.0), np.eye(3), "z up, may jump"),
    "odom": ((3.0, 0.0), np.eye(3), "continuous, drifts"),
    "base_link": ((6.0, 0.0), np.eye(3), "x ahead, y left, z up"),
    "camera_optical_frame": ((8.6, 0.8), OPTICAL, "z ahead, x right, y down"),
}
LINKS = (
    ("map", "odom", "mapping_node\n20 Hz, ahead by tf_tolerance"),
    ("odom", "base_link", "odometry_node: every image\n(or the robot)"),
    ("base_link", "camera_optical_frame", "/tf_static\nof the robot"),
)


def main() -> None:
    figure, axes = plt.subplots(figsize=(11, 3.4), dpi=110)
    places = {name: np.array(place) for name, (place, _, _) in FRAMES.items()}
    for parent, child, text in LINKS:
        a, b = places[parent], places[child]
        style = {"arrowstyle": "-|>", "color": "#888888", "lw": 1.6, "shrinkA": 12, "shrinkB": 12}
        style["connectionstyle"] = "arc3,rad=-0.35"
        axes.annotate("", xy=b, xytext=a, arrowprops=style)
        lift = np.array([0.0, 1.05]) if parent != "base_link" else np.array([-0.2, 1.0])
        axes.text(
            *((a + b) / 2 + lift), text, ha="center", va="center", fontsize=9, color="#444444"
        )
    for name, (_, R, note) in FRAMES.items():
        origin = places[name]
        for axis, colour, letter in AXES:
            tip = PROJECTION @ R[:, axis] * 0.62
            axes.annotate(
                "", origin + tip, origin, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2}
            )
            axes.text(*(origin + 1.2 * tip), letter, color=colour, ha="center", va="center")
        low = 0.75 if R is not OPTICAL else 1.1
        axes.text(*(origin - [0, low]), name, ha="center", weight="bold", family="monospace")
        axes.text(*(origin - [0, low + 0.28]), note, ha="center", fontsize=9)
    axes.set_xlim(-1.2, 10.2)
    axes.set_ylim(-1.2, 2.2)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(OUT, bbox_inches="tight")


if __name__ == "__main__":
    main()
