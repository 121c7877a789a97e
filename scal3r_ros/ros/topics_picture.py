"""topics.png: what a user sees of the topics in RViz, drawn from a recording."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.evaluation.render import (
    BACKGROUND,
    PATH_COLOUR,
    View,
    colour_depth,
    draw_cloud,
    draw_lines,
    overview,
    typical_spacing,
)
from scal3r_ros.mapping.point_map import Cloud

WIDTH, HEIGHT, STRIP = 640, 400, 26
ODOMETRY_COLOUR = (90, 200, 255)
GRID_COLOURS = {-1: (52, 56, 64), 0: (225, 228, 232), 100: (25, 25, 28)}


def render_topics(
    path: Path,
    *,
    image: UInt8[ndarray, "h w 3"],
    depth: Float[ndarray, "h2 w2"],
    points: Cloud,
    map_cloud: Cloud,
    keyframes: Float[ndarray, "k 4 4"],
    odometry: Float[ndarray, "n 3"],
    grid: Any = None,
) -> None:
    """Six panels as a PNG. `points` is in the camera's optical frame, `grid` an OccupancyGrid."""
    view = overview(map_cloud, keyframes, WIDTH, HEIGHT)
    drawn, _ = draw_cloud(map_cloud, view, typical_spacing(map_cloud))
    draw_lines(drawn, view, keyframes[:, :3, 3], PATH_COLOUR, 2)
    panels = (
        ("image", _fitted(image)),
        ("depth/preview/compressed", _fitted(colour_depth(depth))),
        ("points, from behind the camera", _from_behind(points)),
        ("map_cloud, path", drawn),
        ("map, path from above", _grid(grid, keyframes)),
        ("path (orange), odometry (blue), from above", _lines(keyframes[:, :3, 3], odometry)),
    )
    titled = [np.concatenate([_title(text), panel]) for text, panel in panels]
    rows = [np.concatenate(titled[k : k + 3], axis=1) for k in (0, 3)]
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))


def _title(text: str) -> UInt8[ndarray, "h w 3"]:
    strip = np.full((STRIP, WIDTH, 3), BACKGROUND, np.uint8)
    where, font = (8, STRIP - 9), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, text, where, font, 0.5, (230,) * 3, 1, cv2.LINE_AA)
    return strip


def _fitted(picture: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h2 w2 3"]:
    """As large as a panel allows, on the background."""
    scale = min(WIDTH / picture.shape[1], HEIGHT / picture.shape[0])
    size = int(picture.shape[1] * scale), int(picture.shape[0] * scale)
    panel = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    left, top = (WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2
    shown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    panel[top : top + size[1], left : left + size[0]] = shown
    return panel


def _from_behind(points: Cloud) -> UInt8[ndarray, "h w 3"]:
    """A little behind, right of and above the camera that saw them."""
    if not len(points):
        return np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    far = float(np.median(points.xyz[:, 2]))
    T_view_cam = np.eye(4)
    T_view_cam[:3, :3] = cv2.Rodrigues(np.array([-0.25, -0.3, 0.0]))[0]
    T_view_cam[:3, 3] = -T_view_cam[:3, :3] @ (far * np.array([0.0, 0.0, 1.0]))
    T_view_cam[:3, 3] += far * np.array([0.0, 0.0, 1.5])
    view = View(T_view_cam, 0.8 * WIDTH, WIDTH, HEIGHT)
    return draw_cloud(points, view, typical_spacing(points))[0]


def _grid(grid: Any, keyframes: Float[ndarray, "k 4 4"]) -> UInt8[ndarray, "h w 3"]:
    """North is +y; cells as planners take them."""
    if grid is None:
        return np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    info = grid.info
    cells = np.asarray(grid.data, np.int8).reshape(info.height, info.width)
    colours = np.zeros((*cells.shape, 3), np.uint8)
    for value, colour in GRID_COLOURS.items():
        colours[cells == value] = colour
    big = max(1, 800 // max(cells.shape))
    shown = cv2.resize(colours, None, fx=big, fy=big, interpolation=cv2.INTER_NEAREST)
    origin = np.array([info.origin.position.x, info.origin.position.y])
    steps = (keyframes[:, :2, 3] - origin) / info.resolution * big
    cv2.polylines(shown, [steps.astype(np.int32)], False, PATH_COLOUR, 2, cv2.LINE_AA)
    return _fitted(np.ascontiguousarray(np.asarray(shown)[::-1]))


def _lines(*paths: Float[ndarray, "_ 3"]) -> UInt8[ndarray, "h w 3"]:
    panel = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    everything = np.concatenate(paths)[:, :2]
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = 0.85 * min(np.array([WIDTH, HEIGHT]) / np.maximum(high - low, 1e-6))
    for path, colour in zip(paths, (PATH_COLOUR, ODOMETRY_COLOUR), strict=True):
        uv = (path[:, :2] - (low + high) / 2) * scale * [1, -1] + np.array([WIDTH, HEIGHT]) / 2
        cv2.polylines(panel, [uv.astype(np.int32)], False, colour, 2, cv2.LINE_AA)
    return panel
