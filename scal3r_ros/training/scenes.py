"""What stands in the procedural world: boxes and balls, from a family's recipe and a seed.

World axes are x right, y down, z forward, metres. A room is a box seen from inside.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.training.textures import TILES, tile_of

FAMILIES = ("room", "corridor", "street", "outdoor", "clutter", "planes")
Number = float | int
Vector = tuple[Number, Number, Number]
FLOOR, CEILING = 2, 3  # faces of a box seen from inside: what looks up, what looks down


@dataclass(frozen=True, eq=False)
class Surface:
    tones: tuple[Float[ndarray, " 3"], Float[ndarray, " 3"]]
    tile: int
    scale: float  # metres a tile; on a ball quarter turns


@dataclass(frozen=True, eq=False)
class Box:
    centre: Vector
    half: Vector
    R_world_box: Float[ndarray, "3 3"]
    inside: bool  # seen from inside
    faces: tuple[Surface, ...]  # in the order of `casting.Hits.face`


@dataclass(frozen=True, eq=False)
class Ball:
    centre: Vector
    radius: float
    surface: Surface


@dataclass(eq=False)
class Builder:
    """Collects boxes and balls of random colour and pattern."""

    rng: np.random.Generator
    boxes: list[Box] = field(default_factory=list)
    balls: list[Ball] = field(default_factory=list)

    def surface(self, pattern: str = "", scale: Number = 0.0) -> Surface:
        rng = self.rng
        base = np.clip(rng.uniform(0.15, 0.95) + rng.normal(0, 0.12, 3) * [1, 0.6, 1], 0.02, 1)
        far = rng.uniform(0.15, 0.8) if rng.random() < 0.6 else rng.uniform(1.1, 2.5)
        other = np.clip(base * far + rng.normal(0, 0.08, 3), 0.02, 1)
        tile = tile_of(pattern, rng) if pattern else int(rng.integers(TILES))
        own = float(rng.uniform(0.3, 2.5))
        return Surface((base, other), tile, scale or own)

    def box(
        self,
        centre: Vector,
        half: Vector,
        yaw: float = 0.0,
        *,
        tilt: float = 0.0,
        scale: Number = 0.0,
        pattern: str = "",
    ) -> None:
        """One surface all round."""
        R = Rotation.from_euler("yx", [yaw, tilt]).as_matrix()
        faces = (self.surface(pattern, scale),) * 6
        self.boxes.append(Box(centre, half, R, False, faces))

    def hall(self, centre: Vector, half: Vector) -> None:
        """A box seen from inside: walls, a floor, a ceiling."""
        wall, floor = self.surface(scale=self.rng.uniform(0.8, 3)), self.surface()
        faces = [wall] * 6
        faces[FLOOR], faces[CEILING] = floor, self.surface("plaster", 1.5)
        if self.rng.random() < 0.4:  # one wall of another colour
            faces[int(self.rng.choice([0, 1, 4, 5]))] = self.surface()
        self.boxes.append(Box(centre, half, np.eye(3), True, tuple(faces)))

    def ball(self, centre: Vector, radius: Number, pattern: str = "") -> None:
        self.balls.append(Ball(centre, radius, self.surface(pattern, self.rng.uniform(0.3, 1.5))))

    def thing(self, x: float, z: float, floor: float, size: float) -> None:
        """Whatever stands on a floor."""
        makers = (
            self._block,
            self._table,
            self._desk,
            self._chair,
            self._plant,
            self._pole,
            self._shelf,
            self._figure,
            self._fence,
        )
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

    def _desk(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        """A table with a screen and a few books on it."""
        self._table(x, z, floor, size, yaw)
        top, c, s = floor - size * 0.73, np.cos(yaw), np.sin(yaw)
        screen = (x + size * 0.2 * s, top - size * 0.2, z + size * 0.2 * c)
        self.box(screen, (size * 0.25, size * 0.15, size * 0.015), yaw, pattern="text")
        for along in self.rng.uniform(-0.6, 0.6, 3):
            book = (x + size * along * c, top - size * 0.05, z - size * along * s)
            half = size * self.rng.uniform([0.06, 0.02, 0.08], [0.12, 0.05, 0.12])
            self.box((book[0], book[1], book[2]), tuple(half), yaw + self.rng.normal())

    def _chair(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        h, c, s = size * 0.45, np.cos(yaw), np.sin(yaw)
        seat = self.surface()
        R = Rotation.from_euler("y", yaw).as_matrix()
        back = (x + size * 0.22 * s, floor - size * 0.75, z + size * 0.22 * c)
        for centre, half in (
            ((x, floor - h, z), (size * 0.25, size * 0.03, size * 0.25)),
            (back, (size * 0.25, size * 0.25, size * 0.02)),
        ):
            self.boxes.append(Box(centre, half, R, False, (seat,) * 6))
        for a, b in ((-0.22, -0.22), (0.22, -0.22), (-0.22, 0.22), (0.22, 0.22)):
            leg = (x + size * (a * c + b * s), floor - h / 2, z + size * (-a * s + b * c))
            self.box(leg, (size * 0.02, h / 2, size * 0.02), yaw)

    def _fence(self, x: float, z: float, floor: float, size: float, yaw: float) -> None:
        """Thin bars under a rail."""
        c, s = np.cos(yaw), np.sin(yaw)
        self.box((x, floor - size, z), (size, size * 0.02, size * 0.02), yaw)
        for along in np.linspace(-1, 1, 9) * size:
            bar = (x + along * c, floor - size / 2, z - along * s)
            self.box(bar, (size * 0.015, size / 2, size * 0.015), yaw)

    def tree(self, x: float, z: float, floor: float, height: float) -> None:
        trunk = height * 0.5
        self.box(
            (x, floor - trunk / 2, z), (height * 0.03, trunk / 2, height * 0.03), pattern="wood"
        )
        leaves = self.surface("cells", 0.7)
        for _ in range(6):
            d = self.rng.normal(0, height * 0.13, 3)
            centre = (x + d[0], floor - height * 0.7 + d[1], z + d[2])
            self.balls.append(Ball(centre, height * self.rng.uniform(0.1, 0.22), leaves))


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
    b.hall((0, floor - h / 2, 0), (w, h / 2, d))
    spots = [(rng.uniform(-w, w), rng.uniform(-d, d)) for _ in range(30)]
    if family == "planes":
        for _ in range(6):
            centre = (rng.uniform(-w, w), floor - 1, rng.uniform(-d, d))
            half = (rng.uniform(0.5, 2), 1.5, 0.05)
            b.box(centre, half, rng.uniform(0, 3.1), tilt=rng.uniform(-0.5, 0.5))
    for side in range(10):  # doors, pictures and shelves on walls
        sign, pattern = 1 if side % 2 else -1, str(rng.choice(["poster", "wood", "text", ""]))
        high, long = rng.uniform(0.2, 1.0), rng.uniform(0.2, 1)
        at, thick = floor - rng.uniform(0.8, 2), rng.choice([0.03, 0.03, 0.25])
        b.box((sign * w, at, rng.uniform(-d, d)), (thick, high, long), pattern=pattern)
        b.box((rng.uniform(-w, w), at, sign * d), (long, high, thick), pattern=pattern)
    return floor, spots, (0.15, 0.5) if family == "clutter" else (0.4, 1.3)


def _corridor(b: Builder, floor: float) -> tuple[Spots, tuple[float, float]]:
    rng = b.rng
    w, h = rng.uniform(0.9, 2), rng.uniform(2.2, 3)
    b.hall((0, floor - h / 2, 20), (w, h / 2, 30))
    for _ in range(20):  # doors and frames
        centre = (w * rng.choice([-1, 1]), floor - rng.uniform(0.9, 1.2), rng.uniform(-8, 30))
        half = (rng.uniform(0.02, 0.25), rng.uniform(0.3, 1.1), rng.uniform(0.3, 0.7))
        b.box(centre, half, pattern=str(rng.choice(["wood", "poster", "text", ""])))
    for z in np.arange(-8, 40, rng.uniform(3, 6)):  # beams or lamps
        b.box((0, floor - h, z), (w, 0.06, 0.12), pattern="plaster")
    return [(w * rng.choice([-0.75, 0.75]), rng.uniform(-8, 30)) for _ in range(14)], (0.3, 0.8)


def _street(b: Builder, floor: float) -> tuple[Spots, tuple[float, float]]:
    rng = b.rng
    b.box((0, floor + 0.5, 0), (200, 0.5, 200), scale=rng.uniform(2, 8), pattern="speckle")
    for z in range(-40, 100, 6):  # marks on the road
        b.box((0, floor, z), (0.08, 0.012, 1.2), pattern="plaster")
    for side in (-1, 1):
        z, off = -40.0, rng.uniform(5, 11)
        pavement = str(rng.choice(["bricks", "checks", "cells"]))
        b.box((side * (off - 2.0), floor - 0.05, 20), (2, 0.07, 80), scale=2.0, pattern=pavement)
        for tree in np.arange(-30, 90, rng.uniform(8, 20)):
            if rng.random() < 0.6:
                b.tree(side * (off - 1), float(tree + rng.normal()), floor, rng.uniform(3, 7))
        while z < 110:
            length, height = rng.uniform(3, 10), rng.uniform(2.5, 8)
            if rng.random() < 0.85:
                centre = (side * (off + 4 + rng.uniform(0, 2)), floor - height, z + length)
                pattern = str(rng.choice(["windows", "windows", "bricks", ""]))
                b.box(centre, (4, height, length), scale=rng.uniform(3, 8), pattern=pattern)
            z += 2 * length + rng.uniform(0, 3)
    for _ in range(14):  # cars
        x, z = rng.choice([-1, 1]) * rng.uniform(2.6, 4.5), rng.uniform(-20, 80)
        b.box((x, floor - 0.55, z), (0.85, 0.4, 2.0), rng.normal(0, 0.05))
        b.box((x, floor - 1.1, z + 0.2), (0.75, 0.3, 1.1), rng.normal(0, 0.05), pattern="windows")
    spots = [(rng.choice([-1, 1]) * rng.uniform(4, 9), rng.uniform(-20, 80)) for _ in range(16)]
    return spots, (0.8, 2.5)


def _outdoor(b: Builder, floor: float) -> tuple[Spots, tuple[float, float]]:
    rng = b.rng
    ground = str(rng.choice(["cells", "speckle", "weave"]))
    b.box((0, floor + 0.5, 0), (200, 0.5, 200), scale=rng.uniform(1, 6), pattern=ground)
    for _ in range(12):
        far, angle = rng.uniform(4, 40), rng.uniform(0, 2 * np.pi)
        b.tree(far * np.sin(angle), far * np.cos(angle), floor, rng.uniform(2, 8))
    for _ in range(3):  # houses
        far, angle = rng.uniform(15, 50), rng.uniform(0, 2 * np.pi)
        half = (rng.uniform(2, 6), rng.uniform(1.5, 4), rng.uniform(2, 6))
        at = (far * np.sin(angle), floor - half[1], far * np.cos(angle))
        b.box(at, half, rng.uniform(0, 3), scale=rng.uniform(3, 6), pattern="windows")
    spots = [(rng.normal(0, 9), rng.normal(6, 12)) for _ in range(40)]
    for _ in range(6):  # hills
        centre = (rng.normal(0, 70), floor + 12, rng.uniform(60, 120))
        b.ball(centre, rng.uniform(14, 30), "cells")
    return spots, (0.6, 3.0)
