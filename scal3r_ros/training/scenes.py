"""What stands in the procedural world: boxes and balls, from a family's recipe and a seed.

World axes are x right, y down, z forward, metres. A room is a box seen from inside.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.training.textures import TILES

FAMILIES = ("room", "corridor", "street", "outdoor", "clutter", "planes")
Number = float | int
Vector = tuple[Number, Number, Number]


@dataclass(frozen=True, eq=False)
class Box:
    centre: Vector
    half: Vector
    R_world_box: Float[ndarray, "3 3"]
    inside: bool  # seen from inside
    tones: tuple[Float[ndarray, " 3"], Float[ndarray, " 3"]]
    tile: int
    scale: float  # metres per tile


@dataclass(frozen=True, eq=False)
class Ball:
    centre: Vector
    radius: float
    tones: tuple[Float[ndarray, " 3"], Float[ndarray, " 3"]]


@dataclass(eq=False)
class Builder:
    """Collects boxes and balls of random colour and pattern."""

    rng: np.random.Generator
    boxes: list[Box] = field(default_factory=list)
    balls: list[Ball] = field(default_factory=list)

    def box(
        self,
        centre: Vector,
        half: Vector,
        yaw: float = 0.0,
        *,
        inside: bool = False,
        tilt: float = 0.0,
        scale: float = 0.0,
    ) -> None:
        rng = self.rng
        base = np.clip(rng.uniform(0.1, 0.95) + rng.normal(0, 0.1, 3) * [1, 0.6, 1], 0.02, 1)
        other = np.clip(base * rng.uniform(0.4, 1.3) + rng.normal(0, 0.06, 3), 0.02, 1)
        R = Rotation.from_euler("yx", [yaw, tilt]).as_matrix()
        tile, own = int(rng.integers(TILES)), float(rng.uniform(0.4, 3))
        self.boxes.append(Box(centre, half, R, inside, (base, other), tile, scale or own))

    def ball(self, centre: Vector, radius: Number) -> None:
        base = np.clip(self.rng.uniform(0.1, 0.9) + self.rng.normal(0, 0.13, 3), 0.02, 1)
        other = np.clip(base + self.rng.normal(0, 0.3, 3), 0, 1)
        self.balls.append(Ball(centre, radius, (base, other)))

    def thing(self, x: float, z: float, floor: float, size: float) -> None:
        """Whatever stands on a floor."""
        makers = (self._block, self._table, self._plant, self._pole, self._shelf, self._figure)
        kind, yaw = int(self.rng.integers(len(makers))), float(self.rng.uniform(0, np.pi))
        makers[kind](x, z, floor, size, yaw)

    def _block(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        h = size * self.rng.uniform(0.3, 1.6)
        depth = size * self.rng.uniform(0.2, 0.6)
        self.box((x, floor - h / 2, z), (size / 2, h / 2, depth), yaw)

    def _table(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        h = size * 0.7
        self.box((x, floor - h, z), (size * 0.7, size * 0.03, size * 0.4), yaw)
        c, s = np.cos(yaw), np.sin(yaw)
        for a, b in ((-0.6, -0.33), (0.6, -0.33), (-0.6, 0.33), (0.6, 0.33)):
            leg = (x + size * (a * c + b * s), floor - h / 2, z + size * (-a * s + b * c))
            self.box(leg, (size * 0.03, h / 2, size * 0.03), yaw)
        top = (x, floor - h - size * 0.12, z)
        self.box(top, (size * 0.15, size * 0.1, size * 0.1), yaw + 0.4)

    def _plant(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        self.box((x, floor - size * 0.15, z), (size * 0.15,) * 3, yaw)
        for _ in range(4):
            d = self.rng.normal(0, size * 0.15, 3)
            centre = (x + d[0], floor - size * 0.6 + d[1], z + d[2])
            self.ball(centre, size * self.rng.uniform(0.1, 0.25))

    def _pole(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        h = size * self.rng.uniform(1, 2.5)
        self.box((x, floor - h / 2, z), (size * 0.04, h / 2, size * 0.04), yaw)
        self.ball((x, floor - h, z), size * 0.15)

    def _shelf(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        h, c, s = size * 1.5, np.cos(yaw), np.sin(yaw)
        for k in range(4):
            board = (size * 0.5, size * 0.03, size * 0.15)
            self.box((x, floor - h * k / 3, z), board, yaw)
        for side in (-0.5 * size, 0.5 * size):
            cheek = (x + side * c, floor - h / 2, z - side * s)
            self.box(cheek, (size * 0.03, h / 2, size * 0.15), yaw)

    def _figure(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        self.box((x, floor - size * 0.4, z), (size * 0.3, size * 0.4, size * 0.3), yaw)
        self.ball((x, floor - size * 0.95, z), size * 0.2)


def build_scene(family: str, rng: np.random.Generator, path: Float[ndarray, "s 3"]) -> Builder:
    """A scene of one family; nothing stands in the camera's way."""
    b = Builder(rng)
    floor = float(rng.uniform(1.0, 1.8))
    if family in ("room", "clutter", "planes"):
        floor, spots, size = _room(b, family, floor)
    elif family == "corridor":
        spots, size = _corridor(b, floor)
    elif family == "street":
        spots, size = _street(b, floor)
    else:
        spots, size = _outdoor(b, floor)
    for x, z in spots:
        s = float(rng.uniform(*size))
        if np.linalg.norm(path[:, [0, 2]] - (x, z), axis=1).min() > s + 0.35:
            b.thing(x, z, floor, s)
    return b


Spots = list[tuple[float, float]]


def _room(b: Builder, family: str, floor: float) -> tuple[float, Spots, tuple[float, float]]:
    rng = b.rng
    w, d, h = rng.uniform(2.5, 6), rng.uniform(3, 8), rng.uniform(2.3, 3.5)
    if family == "clutter":
        floor = float(rng.uniform(0.35, 0.7))
    b.box((0, floor - h / 2, 0), (w, h / 2, d), inside=True, scale=rng.uniform(1, 3))
    spots = [(rng.uniform(-w, w), rng.uniform(-d, d)) for _ in range(26)]
    if family == "planes":
        for _ in range(6):
            centre = (rng.uniform(-w, w), floor - 1, rng.uniform(-d, d))
            half = (rng.uniform(0.5, 2), 1.5, 0.05)
            b.box(centre, half, rng.uniform(0, 3.1), tilt=rng.uniform(-0.5, 0.5))
    for side in range(8):  # panels on walls
        sign = 1 if side % 2 else -1
        high, long = rng.uniform(0.2, 0.7), rng.uniform(0.2, 1)
        b.box((sign * w, floor - rng.uniform(0.8, 2), rng.uniform(-d, d)), (0.04, high, long))
        high, long = rng.uniform(0.2, 0.7), rng.uniform(0.2, 1)
        b.box((rng.uniform(-w, w), floor - rng.uniform(0.8, 2), sign * d), (long, high, 0.04))
    return floor, spots, (0.15, 0.5) if family == "clutter" else (0.4, 1.3)


def _corridor(b: Builder, floor: float) -> tuple[Spots, tuple[float, float]]:
    rng = b.rng
    w, h = rng.uniform(0.9, 2), rng.uniform(2.2, 3)
    b.box((0, floor - h / 2, 20), (w, h / 2, 30), inside=True, scale=rng.uniform(1, 3))
    for _ in range(14):  # doors and frames
        centre = (w * rng.choice([-1, 1]), floor - rng.uniform(0.9, 1.2), rng.uniform(-8, 30))
        half = (rng.uniform(0.02, 0.25), rng.uniform(0.3, 1.1), rng.uniform(0.3, 0.7))
        b.box(centre, half)
    return [(w * rng.choice([-0.75, 0.75]), rng.uniform(-8, 30)) for _ in range(14)], (0.3, 0.8)


def _street(b: Builder, floor: float) -> tuple[Spots, tuple[float, float]]:
    rng = b.rng
    b.box((0, floor + 0.5, 0), (200, 0.5, 200), scale=rng.uniform(2, 8))
    for side in (-1, 1):
        z, off = -40.0, rng.uniform(5, 11)
        b.box((side * (off - 2.0), floor - 0.05, 20), (2, 0.07, 80), scale=2.0)
        while z < 110:
            length, height = rng.uniform(3, 10), rng.uniform(2.5, 8)
            if rng.random() < 0.85:
                centre = (side * (off + 4 + rng.uniform(0, 2)), floor - height, z + length)
                b.box(centre, (4, height, length), scale=rng.uniform(2, 6))
            z += 2 * length + rng.uniform(0, 3)
    for _ in range(12):  # cars
        x, z = rng.choice([-1, 1]) * rng.uniform(2.6, 4.5), rng.uniform(-20, 80)
        b.box((x, floor - 0.55, z), (0.85, 0.4, 2.0), rng.normal(0, 0.05))
        b.box((x, floor - 1.1, z + 0.2), (0.75, 0.3, 1.1), rng.normal(0, 0.05))
    spots = [(rng.choice([-1, 1]) * rng.uniform(4, 9), rng.uniform(-20, 80)) for _ in range(16)]
    return spots, (0.8, 2.5)


def _outdoor(b: Builder, floor: float) -> tuple[Spots, tuple[float, float]]:
    rng = b.rng
    b.box((0, floor + 0.5, 0), (200, 0.5, 200), scale=rng.uniform(1, 8))
    spots = [(rng.normal(0, 9), rng.normal(6, 12)) for _ in range(40)]
    for _ in range(6):  # hills
        centre = (rng.normal(0, 70), floor + 12, rng.uniform(60, 120))
        b.ball(centre, rng.uniform(14, 30))
    return spots, (0.6, 3.0)
