"""Procedural scenes with exact depth, poses and intrinsics, from a seed.

A scene is a set of textured boxes (a room is a box seen from inside) and spheres; rays are cast
against all of them at once. Lengths are metres, world axes x right, y down, z forward.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

FAMILIES = ("room", "corridor", "street", "outdoor", "clutter", "planes")
TILE, TILES = 128, 24
NEAR, FAR = 0.15, 200.0


@dataclass(frozen=True, eq=False)
class WorldClip:
    """What a camera saw, and the truth."""

    images: UInt8[Tensor, "s h w 3"]
    depth: Float[Tensor, "s h w"]  # metres along z, 0 = sky
    K: Float[Tensor, "s 3 3"]  # pixels, centres at half-integers
    T_world_cam: Float[Tensor, "s 4 4"]
    family: str


@dataclass(eq=False)
class Scene:
    centre: Tensor  # b 3
    axes: Tensor  # b 3 3 world from local
    half: Tensor  # b 3
    inside: Tensor  # b bool
    colour: Tensor  # b 2 3 two tones
    tile: Tensor  # b
    scale: Tensor  # b metres per tile
    ball: Tensor  # m 4
    ball_colour: Tensor  # m 2 3
    ball_tile: Tensor
    tiles: Tensor  # t 128 128
    light: Tensor
    sky: Tensor


@lru_cache(maxsize=16)
def noise_tiles(seed):
    rng = np.random.default_rng(seed)
    tiles = []
    for i in range(TILES):
        kind = i % 8
        octaves = sum(
            np.kron(rng.random((2**o, 2**o)), np.ones((TILE // 2**o,) * 2)) * 0.7 ** (o - 1)
            for o in range(1 + kind % 3, 8)
        )
        octaves = (octaves - octaves.min()) / np.ptp(octaves)
        y, x = np.mgrid[:TILE, :TILE]
        n = 2 ** rng.integers(1, 5)
        if kind == 1:
            octaves = 0.6 * (((x * n // TILE) + (y * n // TILE)) % 2) + 0.4 * octaves
        elif kind == 2:
            octaves = 0.5 * ((x * n // TILE) % 2) + 0.5 * octaves
        elif kind == 3:  # bricks
            row = y * n // TILE
            edge = ((y * n) % TILE < 12) | (((x * n // 2 + (row % 2) * TILE // 2) % TILE) < 8)
            octaves = 0.3 * octaves + np.where(edge, 0.7, 0.1)
        elif kind == 4:  # marks like text
            marks = np.kron(rng.random((32, 32)) > 0.6, np.ones((4, 4)))
            lines = (y // 8) % 2
            octaves = 0.2 * octaves + 0.8 * (1 - marks * lines)
        elif kind == 5:
            octaves = 0.15 * octaves + 0.4
        elif kind == 6:  # wood
            octaves = (
                0.5 + 0.3 * np.sin((x + 6 * octaves * 4) * 2 * np.pi * n / TILE) + 0.2 * octaves
            )
        tiles.append(octaves)
    return torch.tensor(np.stack(tiles), dtype=torch.float32).clamp(0, 1)


class Builder:
    def __init__(self, rng):
        self.rng, self.boxes, self.balls = rng, [], []

    def box(self, centre, half, yaw=0.0, inside=False, tilt=0.0, scale=None):
        r = Rotation.from_euler("yx", [yaw, tilt]).as_matrix()
        base = np.clip(
            self.rng.uniform(0.1, 0.95) + self.rng.normal(0, 0.1, 3) * [1, 0.6, 1], 0.02, 1
        )
        other = np.clip(base * self.rng.uniform(0.4, 1.3) + self.rng.normal(0, 0.06, 3), 0.02, 1)
        self.boxes.append(
            (
                centre,
                r,
                half,
                inside,
                (base, other),
                self.rng.integers(TILES),
                scale or self.rng.uniform(0.4, 3),
            )
        )

    def ball(self, centre, radius):
        base = np.clip(self.rng.uniform(0.1, 0.9) + self.rng.normal(0, 0.13, 3), 0.02, 1)
        self.balls.append((*centre, radius, base, np.clip(base + self.rng.normal(0, 0.3, 3), 0, 1)))

    def thing(self, x, z, floor, size):
        """Furniture, a plant, a lamp, a person-like stack: whatever stands on a floor."""
        rng = self.rng
        kind, yaw = rng.integers(6), rng.uniform(0, np.pi)
        if kind == 0:
            h = size * rng.uniform(0.3, 1.6)
            self.box((x, floor - h / 2, z), (size / 2, h / 2, size * rng.uniform(0.2, 0.6)), yaw)
        elif kind == 1:  # table
            h = size * 0.7
            self.box((x, floor - h, z), (size * 0.7, size * 0.03, size * 0.4), yaw)
            c, s = np.cos(yaw), np.sin(yaw)
            for a, b in ((-0.6, -0.33), (0.6, -0.33), (-0.6, 0.33), (0.6, 0.33)):
                lx, lz = size * (a * c + b * s), size * (-a * s + b * c)
                self.box((x + lx, floor - h / 2, z + lz), (size * 0.03, h / 2, size * 0.03), yaw)
            self.box(
                (x, floor - h - size * 0.12, z), (size * 0.15, size * 0.1, size * 0.1), yaw + 0.4
            )
        elif kind == 2:  # plant
            self.box((x, floor - size * 0.15, z), (size * 0.15, size * 0.15, size * 0.15), yaw)
            for _ in range(4):
                d = rng.normal(0, size * 0.15, 3)
                self.ball(
                    (x + d[0], floor - size * 0.6 + d[1], z + d[2]), size * rng.uniform(0.1, 0.25)
                )
        elif kind == 3:  # pole
            h = size * rng.uniform(1, 2.5)
            self.box((x, floor - h / 2, z), (size * 0.04, h / 2, size * 0.04), yaw)
            self.ball((x, floor - h, z), size * 0.15)
        elif kind == 4:  # shelf
            h = size * 1.5
            for k in range(4):
                self.box((x, floor - h * k / 3, z), (size * 0.5, size * 0.03, size * 0.15), yaw)
            for side in (-1, 1):
                self.box(
                    (
                        x + side * size * 0.5 * np.cos(yaw),
                        floor - h / 2,
                        z - side * size * 0.5 * np.sin(yaw),
                    ),
                    (size * 0.03, h / 2, size * 0.15),
                    yaw,
                )
        else:
            self.box((x, floor - size * 0.4, z), (size * 0.3, size * 0.4, size * 0.3), yaw)
            self.ball((x, floor - size * 0.95, z), size * 0.2)


def build(family, rng, path):
    b = Builder(rng)
    floor = rng.uniform(1.0, 1.8)
    if family in ("room", "clutter", "planes"):
        w, d, h = rng.uniform(2.5, 6), rng.uniform(3, 8), rng.uniform(2.3, 3.5)
        if family == "clutter":
            floor = rng.uniform(0.35, 0.7)
        b.box((0, floor - h / 2, 0), (w, h / 2, d), inside=True, scale=rng.uniform(1, 3))
        spots = [(rng.uniform(-w, w), rng.uniform(-d, d)) for _ in range(26)]
        size = (0.15, 0.5) if family == "clutter" else (0.4, 1.3)
        if family == "planes":
            for _ in range(6):
                b.box(
                    (rng.uniform(-w, w), floor - 1, rng.uniform(-d, d)),
                    (rng.uniform(0.5, 2), 1.5, 0.05),
                    rng.uniform(0, 3.1),
                    tilt=rng.uniform(-0.5, 0.5),
                )
        for side in range(8):  # panels on walls
            sx = w * (1 if side % 2 else -1)
            b.box(
                (sx, floor - rng.uniform(0.8, 2), rng.uniform(-d, d)),
                (0.04, rng.uniform(0.2, 0.7), rng.uniform(0.2, 1)),
            )
            sz = d * (1 if side % 2 else -1)
            b.box(
                (rng.uniform(-w, w), floor - rng.uniform(0.8, 2), sz),
                (rng.uniform(0.2, 1), rng.uniform(0.2, 0.7), 0.04),
            )
    elif family == "corridor":
        w, h = rng.uniform(0.9, 2), rng.uniform(2.2, 3)
        b.box((0, floor - h / 2, 20), (w, h / 2, 30), inside=True, scale=rng.uniform(1, 3))
        for _ in range(14):
            sx = w * rng.choice([-1, 1])
            b.box(
                (sx, floor - rng.uniform(0.9, 1.2), rng.uniform(-8, 30)),
                (rng.uniform(0.02, 0.25), rng.uniform(0.3, 1.1), rng.uniform(0.3, 0.7)),
            )
        spots = [(w * rng.choice([-0.75, 0.75]), rng.uniform(-8, 30)) for _ in range(14)]
        size = (0.3, 0.8)
    elif family == "street":
        b.box((0, floor + 0.5, 0), (200, 0.5, 200), scale=rng.uniform(2, 8))
        for side in (-1, 1):
            z = -40.0
            off = rng.uniform(5, 11)
            b.box((side * (off - 2), floor - 0.05, 20), (2, 0.07, 80), scale=2)
            while z < 110:
                length, height = rng.uniform(3, 10), rng.uniform(2.5, 8)
                if rng.random() < 0.85:
                    b.box(
                        (side * (off + 4 + rng.uniform(0, 2)), floor - height, z + length),
                        (4, height, length),
                        scale=rng.uniform(2, 6),
                    )
                z += 2 * length + rng.uniform(0, 3)
        for _ in range(12):  # cars
            sx, z = rng.choice([-1, 1]) * rng.uniform(2.6, 4.5), rng.uniform(-20, 80)
            b.box((sx, floor - 0.55, z), (0.85, 0.4, 2.0), rng.normal(0, 0.05))
            b.box((sx, floor - 1.1, z + 0.2), (0.75, 0.3, 1.1), rng.normal(0, 0.05))
        spots = [(rng.choice([-1, 1]) * rng.uniform(4, 9), rng.uniform(-20, 80)) for _ in range(16)]
        size = (0.8, 2.5)
    else:
        b.box((0, floor + 0.5, 0), (200, 0.5, 200), scale=rng.uniform(1, 8))
        spots = [(rng.normal(0, 9), rng.normal(6, 12)) for _ in range(40)]
        size = (0.6, 3.0)
        for _ in range(6):
            b.ball((rng.normal(0, 70), floor + 12, rng.uniform(60, 120)), rng.uniform(14, 30))
    for x, z in spots:
        s = rng.uniform(*size)
        if np.min(np.linalg.norm(path[:, [0, 2]] - (x, z), axis=1)) > s * 1.0 + 0.35:
            b.thing(x, z, floor, s)
    return b


def camera_path(family, rng, frames, stride):
    motion = rng.choice(
        ["walk", "drive", "sideways", "orbit", "turn", "fly", "back"],
        p=[0.3, 0.2, 0.12, 0.14, 0.08, 0.1, 0.06],
    )
    big = family in ("street", "outdoor")
    speed = (
        stride
        * rng.uniform(0.3, 1.0)
        * {"street": 0.9, "outdoor": 0.4, "clutter": 0.05, "corridor": 0.2}.get(family, 0.12)
    )
    n = np.arange(frames)
    heading = (
        rng.uniform(-0.3, 0.3) if family in ("street", "corridor") else rng.uniform(-np.pi, np.pi)
    )
    turn = rng.normal(0, 0.03 if family in ("street", "corridor") else 0.1) * stride
    yaw = heading + turn * n
    pos = np.zeros((frames, 3))
    if motion == "orbit":
        radius = rng.uniform(0.6, 2.0) * (3 if big else 1)
        a = np.sign(rng.normal()) * n * min(speed / radius, 0.25)
        yaw = heading + a
        pos = np.stack(
            [
                -radius * np.sin(yaw) + radius * np.sin(heading),
                0 * n,
                -radius * np.cos(yaw) + radius * np.cos(heading),
            ],
            1,
        )
    elif motion == "turn":
        yaw = heading + n * rng.choice([-1, 1]) * rng.uniform(0.04, 0.15) * stride
    else:
        direction = yaw + {"sideways": np.pi / 2}.get(motion, rng.normal(0, 0.25))
        sign = -1 if motion == "back" else 1
        step = np.stack([np.sin(direction), 0 * n, np.cos(direction)], 1) * speed * sign
        pos = np.cumsum(step, 0) - step[:1]
    if motion == "walk":
        pos[:, 1] += 0.03 * np.sin(n * 1.3 + rng.uniform(0, 6))
    if motion == "fly":
        pos[:, 1] -= n * speed * rng.uniform(-0.1, 0.4)
    shake = np.cumsum(rng.normal(0, 0.006 * stride, (frames, 2)), 0)
    pitch = rng.normal(-0.03, 0.15) + shake[:, 0]
    roll = rng.normal(0, 0.05) + shake[:, 1]
    start = {"room": 0.5, "planes": 0.5, "clutter": 0.15}.get(family, 0.2)
    pos[:, [0, 2]] += rng.normal(0, start, 2)
    T = np.tile(np.eye(4), (frames, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("YXZ", np.stack([yaw, pitch, roll], 1)).as_matrix()
    T[:, :3, 3] = pos
    return T


def to_scene(b, rng):
    def f(x):
        return torch.tensor(np.array(x, dtype=np.float32))

    balls = b.balls or [(0, 0, -500, 0.1, np.zeros(3), np.zeros(3))]
    light = rng.normal(0, 1, 3) + [0, -1.2, 0]
    return Scene(
        f([x[0] for x in b.boxes]),
        f([x[1] for x in b.boxes]),
        f([x[2] for x in b.boxes]),
        torch.tensor([x[3] for x in b.boxes]),
        f([x[4] for x in b.boxes]),
        torch.tensor([int(x[5]) for x in b.boxes]),
        f([x[6] for x in b.boxes]),
        f([x[:4] for x in balls]),
        f([x[4:] for x in balls]),
        torch.tensor(rng.integers(0, TILES, len(balls))),
        noise_tiles(int(rng.integers(16))),
        f(light / np.linalg.norm(light)),
        f(np.clip(rng.uniform(0.5, 0.95) + np.array([-0.1, 0, 0.1]) * rng.random(), 0, 1)),
    )


def cast(scene, o, d):
    """Nearest surface along rays: depth factor, colour tone 2 3, pattern, shade."""
    n = len(d)
    local_o = torch.einsum("bji,bj->bi", scene.axes, o - scene.centre)
    local_d = torch.einsum("bji,nj->bni", scene.axes, d)
    safe = torch.where(local_d.abs() < 1e-8, torch.full_like(local_d, 1e-8), local_d)
    a = (-scene.half[:, None] - local_o[:, None]) / safe
    c = (scene.half[:, None] - local_o[:, None]) / safe
    enter, axis_in = torch.minimum(a, c).max(-1)
    leave, axis_out = torch.maximum(a, c).min(-1)
    inside = scene.inside[:, None]
    t = torch.where(inside, leave, enter)
    axis = torch.where(inside, axis_out, axis_in)
    hit = (enter < leave) & (t > NEAR)
    t = torch.where(hit, t, FAR * 2)
    best, which = t.min(0)
    oc = o - scene.ball[:, :3]
    bq = d @ oc.T
    cq = (oc * oc).sum(-1) - scene.ball[:, 3] ** 2
    aq = (d * d).sum(-1, keepdim=True)
    disc = bq * bq - aq * cq
    tb = torch.where(disc > 0, (-bq - disc.clamp_min(0).sqrt()) / aq, FAR * 2)
    tb = torch.where(tb > NEAR, tb, FAR * 2)
    best_b, which_b = tb.min(1)
    r = torch.arange(n)
    ax = axis[which, r]
    point = local_o[which] + local_d[which, r] * best[:, None]
    uv = torch.stack(
        [
            point.gather(1, ((ax + 1) % 3)[:, None])[:, 0],
            point.gather(1, ((ax + 2) % 3)[:, None])[:, 0],
        ],
        -1,
    )
    uv = uv / scene.scale[which][:, None] + which[:, None] * 0.37 + ax[:, None] * 0.21
    local_n = functional.one_hot(ax, 3).float() * -torch.sign(
        local_d[which, r].gather(1, ax[:, None])
    )
    normal = torch.einsum("nij,nj->ni", scene.axes[which], local_n)
    tone, tile = scene.colour[which], scene.tile[which]
    use = best_b < best
    pb = o + d * best_b[:, None]
    nb = (pb - scene.ball[which_b, :3]) / scene.ball[which_b, 3:4]
    uvb = torch.stack([torch.atan2(nb[:, 0], nb[:, 2]) / 1.57, nb[:, 1]], -1)
    t = torch.where(use, best_b, best)
    uv = torch.where(use[:, None], uvb, uv)
    normal = torch.where(use[:, None], nb, normal)
    tone = torch.where(use[:, None, None], scene.ball_colour[which_b], tone)
    tile = torch.where(use, scene.ball_tile[which_b], tile)
    return t, uv, normal, tone, tile


def shade(scene, t, uv, normal, tone, tile, d):
    xy = (uv % 1) * TILE
    i = xy.long() % TILE
    f = xy - xy.floor()
    j = (i + 1) % TILE

    def g(y, x):
        return scene.tiles[tile, y, x]

    p = (g(i[:, 1], i[:, 0]) * (1 - f[:, 0]) + g(i[:, 1], j[:, 0]) * f[:, 0]) * (1 - f[:, 1]) + (
        g(j[:, 1], i[:, 0]) * (1 - f[:, 0]) + g(j[:, 1], j[:, 0]) * f[:, 0]
    ) * f[:, 1]
    colour = tone[:, 0] * p[:, None] + tone[:, 1] * (1 - p[:, None])
    lambert = (normal @ scene.light).clamp_min(0)
    colour = colour * (0.45 + 0.55 * lambert)[:, None] * (1 - 0.25 * (t / 12).clamp_max(1))[:, None]
    up = (-d[:, 1:2] / d.norm(dim=1, keepdim=True)).clamp(0, 1)
    sky = scene.sky * (0.75 + 0.25 * (1 - up)) + torch.tensor([-0.15, -0.05, 0.1]) * up
    return torch.where((t < FAR)[:, None], colour, sky)


@torch.no_grad()
def render_clip(
    seed,
    frames,
    height,
    width,
    *,
    family=None,
    device="cpu",
    augment=True,
    supersample=1,
    stride=1.0,
):
    rng = np.random.default_rng(seed)
    family = family or str(rng.choice(FAMILIES))
    T = camera_path(family, rng, frames, stride)
    scene = to_scene(build(family, rng, T[:, :3, 3]), rng)
    fov = np.radians(rng.uniform(45, 95))
    fx = width / 2 / np.tan(fov / 2) if width >= height else height / 2 / np.tan(fov / 2)
    K = torch.tensor(
        [
            [fx, 0, width / 2 + rng.normal(0, 0.01) * width],
            [0, fx, height / 2 + rng.normal(0, 0.01) * height],
            [0, 0, 1],
        ],
        dtype=torch.float32,
    )
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], -1).reshape(-1, 3) @ torch.linalg.inv(K).T
    images, depth = [], []
    T = torch.tensor(T, dtype=torch.float32)
    for pose in T:
        d = rays @ pose[:3, :3].T
        t, uv, normal, tone, tile = cast(scene, pose[:3, 3], d)
        images.append(shade(scene, t, uv, normal, tone, tile, d).reshape(height, width, 3))
        depth.append(torch.where(t < FAR, t, 0).reshape(height, width))
    images, depth = torch.stack(images), torch.stack(depth)
    if augment:
        images = degrade(images, rng)
    return WorldClip(
        (images.clamp(0, 1) * 255).round().byte(), depth, K.expand(frames, 3, 3).clone(), T, family
    )


def degrade(x, rng):
    """Exposure, white balance, gamma, vignette, blur, noise."""
    s, h, w = x.shape[:3]
    gain = rng.uniform(0.6, 1.35) * np.exp(np.cumsum(rng.normal(0, 0.02, s)))
    x = (
        x
        * torch.tensor(gain, dtype=torch.float32)[:, None, None, None]
        * torch.tensor(rng.uniform(0.85, 1.15, 3), dtype=torch.float32)
    )
    x = x.clamp(1e-4, 1) ** float(rng.uniform(0.7, 1.4))
    v, u = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    x = x * (1 - float(rng.uniform(0, 0.3)) * (u * u + v * v) / 2)[..., None]
    if rng.random() < 0.5:
        k = float(rng.uniform(0.05, 0.25))
        kernel = torch.tensor([k, 1 - 2 * k, k])
        kernel = (kernel[:, None] * kernel[None]).expand(3, 1, 3, 3).contiguous()
        x = functional.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1, groups=3).permute(
            0, 2, 3, 1
        )
    return x + torch.randn(
        x.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31)))
    ) * float(rng.uniform(0, 0.03))
