"""How cameras move through the procedural world."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.spatial.transform import Rotation

MOTIONS = ("walk", "drive", "sideways", "orbit", "turn", "fly", "back", "stop", "return")
SHARES = (0.28, 0.15, 0.12, 0.14, 0.08, 0.08, 0.05, 0.05, 0.05)
SPEED = {"street": 0.9, "outdoor": 0.4, "clutter": 0.05, "corridor": 0.2}  # metres an image
START = {"room": 0.5, "planes": 0.5, "clutter": 0.15}  # spread of the first position, metres


def camera_path(
    family: str, rng: np.random.Generator, frames: int, stride: float
) -> Float[ndarray, "s 4 4"]:
    """T_world_cam of a hand-held or driven camera; `stride` multiplies its speed."""
    motion = str(rng.choice(MOTIONS, p=SHARES))
    narrow = family in ("street", "corridor")
    speed = stride * rng.uniform(0.3, 1.0) * SPEED.get(family, 0.12)
    n = _progress(motion, frames, rng)
    heading = rng.uniform(-0.3, 0.3) if narrow else rng.uniform(-np.pi, np.pi)
    yaw = heading + rng.normal(0, 0.03 if narrow else 0.1) * stride * n
    position = np.zeros((frames, 3))
    if motion == "orbit":
        radius = rng.uniform(0.6, 2.0) * (3 if family in ("street", "outdoor") else 1)
        yaw = heading + np.sign(rng.normal()) * n * min(speed / radius, 0.25)
        position[:, 0] = radius * (np.sin(heading) - np.sin(yaw))
        position[:, 2] = radius * (np.cos(heading) - np.cos(yaw))
    elif motion == "turn":
        yaw = heading + n * rng.choice([-1, 1]) * rng.uniform(0.04, 0.15) * stride
    else:
        position = _ahead(motion, yaw, speed * np.diff(n, prepend=n[0]), rng)
    if motion == "walk":
        position[:, 1] += 0.03 * np.sin(n * 1.3 + rng.uniform(0, 6))
    if motion == "fly":
        position[:, 1] -= n * speed * rng.uniform(-0.1, 0.4)
    shake = np.cumsum(rng.normal(0, 0.006 * stride, (frames, 2)), axis=0)
    pitch, roll = rng.normal(-0.03, 0.15) + shake[:, 0], rng.normal(0, 0.05) + shake[:, 1]
    position[:, [0, 2]] += rng.normal(0, START.get(family, 0.2), 2)
    T = np.tile(np.eye(4), (frames, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("YXZ", np.stack([yaw, pitch, roll], axis=1)).as_matrix()
    T[:, :3, 3] = position
    return T


def _progress(motion: str, frames: int, rng: np.random.Generator) -> Int[ndarray, " s"]:
    """Images' worth of way gone: a camera that stops stands, one that returns goes back."""
    n = np.arange(frames)
    turn = max(1, int(frames * rng.uniform(0.3, 0.7)))
    if motion == "stop":
        return np.minimum(n, turn)
    return turn - np.abs(n - turn) if motion == "return" else n


def _ahead(
    motion: str,
    yaw: Float[ndarray, " s"],
    steps: Float[ndarray, " s"],
    rng: np.random.Generator,
) -> Float[ndarray, "s 3"]:
    """Forward, sideways or backward along the heading."""
    across = np.pi / 2 if motion == "sideways" else rng.normal(0, 0.25)
    signed = -steps if motion == "back" else steps
    way = np.stack([np.sin(yaw + across), 0 * yaw, np.cos(yaw + across)], axis=1)
    return np.cumsum(way * signed[:, None], axis=0)


TOUR_STEP = 0.05  # metres an image, about
TOUR_AXES = (1.6, 1.0)  # of an ellipse, metres
TOUR_PRECESSION = 0.13  # turns of the ellipse a round


def tour(rng: np.random.Generator, frames: int) -> Float[ndarray, "s 4 4"]:
    """For as long as wanted through a room without leaving it, round an ellipse that turns: never
    the same way. The camera looks where it goes, and never turns on the spot."""
    n = np.arange(frames)
    axes = rng.uniform(0.9, 1.0, 2) * TOUR_AXES
    side, start = rng.choice([-1, 1]), rng.uniform(0, 2 * np.pi)
    t = n * TOUR_STEP / np.mean(axes)
    turned = start + TOUR_PRECESSION * t
    a, b = axes[0] * np.sin(t), axes[1] * np.cos(t)
    position = np.zeros((frames, 3))
    position[:, 0] = side * (a * np.cos(turned) - b * np.sin(turned))
    position[:, 1] = 0.02 * np.sin(1.3 * n)
    position[:, 2] = a * np.sin(turned) + b * np.cos(turned)
    heading = np.gradient(position, axis=0)
    yaw = np.unwrap(np.arctan2(heading[:, 0], heading[:, 2]))
    pitch, roll = 0.05 * np.sin(0.21 * n), 0.03 * np.sin(0.13 * n)
    T = np.tile(np.eye(4), (frames, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("YXZ", np.stack([yaw, pitch, roll], axis=1)).as_matrix()
    T[:, :3, 3] = position
    return T


ROUND_IMAGES = 180  # of one round
ROUND_AXES = (1.5, 1.0)  # metres
ASTRAY_M, ASTRAY_RAD, ASTRAY_EVERY = (0.07, 0.03, 0.07), (0.06, 0.05, 0.03), 30


def rounds(rng: np.random.Generator, frames: int) -> Float[ndarray, "s 4 4"]:
    """Round and round a room by about the same way: a few centimetres and degrees astray."""

    def astray(deviation: float) -> Float[ndarray, " s"]:
        knots = np.arange(0, frames + ASTRAY_EVERY, ASTRAY_EVERY)
        return np.interp(np.arange(frames), knots, rng.normal(0, deviation, len(knots)))

    t = 2 * np.pi * np.arange(frames) / ROUND_IMAGES
    position = np.zeros((frames, 3))
    position[:, 0], position[:, 2] = ROUND_AXES[0] * np.sin(t), ROUND_AXES[1] * np.cos(t)
    heading = np.gradient(position, axis=0)
    yaw = np.unwrap(np.arctan2(heading[:, 0], heading[:, 2]))
    angles = np.stack([yaw, np.zeros(frames), np.zeros(frames)], axis=1)
    angles += np.stack([astray(deviation) for deviation in ASTRAY_RAD], axis=1)
    T = np.tile(np.eye(4), (frames, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("YXZ", angles).as_matrix()
    T[:, :3, 3] = position + np.stack([astray(deviation) for deviation in ASTRAY_M], axis=1)
    return T
