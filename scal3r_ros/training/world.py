"""The procedural world: images with exact depth, poses and intrinsics, from a seed.

A scene is a set of textured boxes and balls; rays are cast against all of them at once. Lengths
are metres, world axes x right, y down, z forward.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from scal3r_ros.training.paths import camera_path
from scal3r_ros.training.scenes import FAMILIES, Ball, Builder, build_scene
from scal3r_ros.training.textures import TILE, TILES, texture_tiles

NEAR, FAR = 0.15, 200.0
RAYS = 4096  # cast at a time


@dataclass(frozen=True, eq=False)
class WorldClip:
    """What a camera saw, and the truth."""

    images: UInt8[Tensor, "s h w 3"]
    depth: Float[Tensor, "s h w"]  # metres along z, 0 = sky
    K: Float[Tensor, "s 3 3"]  # pixels, centres at half-integers
    T_world_cam: Float[Tensor, "s 4 4"]
    family: str


@dataclass(frozen=True, eq=False)
class Scene:
    """Boxes (b) and balls (m) as tensors."""

    centre: Float[Tensor, "b 3"]
    R_world_box: Float[Tensor, "b 3 3"]
    half: Float[Tensor, "b 3"]
    inside: Bool[Tensor, " b"]
    tones: Float[Tensor, "b 2 3"]
    tile: Int[Tensor, " b"]
    scale: Float[Tensor, " b"]
    ball: Float[Tensor, "m 4"]  # centre and radius
    ball_tones: Float[Tensor, "m 2 3"]
    ball_tile: Int[Tensor, " m"]
    tiles: Float[Tensor, "t 128 128"]
    light: Float[Tensor, " 3"]
    sky: Float[Tensor, " 3"]


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest surface along n rays; `t` in units of the ray, beyond FAR where there is none."""

    t: Float[Tensor, " n"]
    uv: Float[Tensor, "n 2"]  # in tiles
    normal: Float[Tensor, "n 3"]
    tones: Float[Tensor, "n 2 3"]
    tile: Int[Tensor, " n"]


def render_clip(
    seed: int,
    frames: int,
    height: int,
    width: int,
    *,
    family: str = "",
    augment: bool = True,
    stride: float = 1.0,
    path: Callable[[np.random.Generator, int], Float[np.ndarray, "s 4 4"]] | None = None,
) -> WorldClip:
    """A clip of one scene; any family where none is named, degraded like a camera's images. `path`
    makes the poses, else the family has its own way to move."""
    rng = np.random.default_rng(seed)
    family = family or str(rng.choice(FAMILIES))
    poses = path(rng, frames) if path else camera_path(family, rng, frames, stride)
    scene = scene_tensors(build_scene(family, rng, poses[:, :3, 3]), rng)
    K = random_intrinsics(rng, height, width)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1).reshape(-1, 3) @ torch.linalg.inv(K).T
    T_world_cam = torch.tensor(poses, dtype=torch.float32)
    images, depths = [], []
    for T in T_world_cam:
        directions = rays @ T[:3, :3].T
        hits = cast(scene, T[:3, 3], directions)
        images.append(shade(scene, hits, directions).reshape(height, width, 3))
        depths.append(torch.where(hits.t < FAR, hits.t, 0.0).reshape(height, width))
    picture = torch.stack(images)
    picture = degrade(picture, rng) if augment else picture
    pixels = (picture.clamp(0, 1) * 255).round().byte()
    return WorldClip(
        pixels, torch.stack(depths), K.expand(frames, 3, 3).clone(), T_world_cam, family
    )


def random_intrinsics(rng: np.random.Generator, height: int, width: int) -> Float[Tensor, "3 3"]:
    """45 to 95 degrees over the longer side, principal point near the middle."""
    focal = max(height, width) / 2 / np.tan(np.radians(rng.uniform(45, 95)) / 2)
    cx, cy = (size / 2 + rng.normal(0, 0.01) * size for size in (width, height))
    return torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float32)


def scene_tensors(b: Builder, rng: np.random.Generator) -> Scene:
    def tensor(values: list) -> Tensor:
        return torch.tensor(np.array(values, dtype=np.float32))

    nowhere = Ball((0.0, 0.0, -500.0), 0.1, (np.zeros(3), np.zeros(3)))
    balls = b.balls or [nowhere]
    light = rng.normal(0, 1, 3) + [0, -1.2, 0]
    sky = np.clip(rng.uniform(0.5, 0.95) + np.array([-0.1, 0, 0.1]) * rng.random(), 0, 1)
    return Scene(
        centre=tensor([x.centre for x in b.boxes]),
        R_world_box=tensor([x.R_world_box for x in b.boxes]),
        half=tensor([x.half for x in b.boxes]),
        inside=torch.tensor([x.inside for x in b.boxes]),
        tones=tensor([x.tones for x in b.boxes]),
        tile=torch.tensor([x.tile for x in b.boxes]),
        scale=tensor([x.scale for x in b.boxes]),
        ball=tensor([(*x.centre, x.radius) for x in balls]),
        ball_tones=tensor([x.tones for x in balls]),
        ball_tile=torch.tensor(rng.integers(0, TILES, len(balls))),
        tiles=texture_tiles(int(rng.integers(16))),
        light=tensor(list(light / np.linalg.norm(light))),
        sky=tensor(list(sky)),
    )


def cast(scene: Scene, origin: Float[Tensor, " 3"], directions: Float[Tensor, "n 3"]) -> Hits:
    """Nearest of boxes and balls, for as many rays at a time as caches hold."""
    parts = [_cast(scene, origin, part) for part in directions.split(RAYS)]
    names = [f.name for f in fields(Hits)]
    return Hits(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _cast(scene: Scene, origin: Float[Tensor, " 3"], directions: Float[Tensor, "n 3"]) -> Hits:
    box, ball = _cast_boxes(scene, origin, directions), _cast_balls(scene, origin, directions)
    nearer = ball.t < box.t
    return Hits(
        torch.where(nearer, ball.t, box.t),
        torch.where(nearer[:, None], ball.uv, box.uv),
        torch.where(nearer[:, None], ball.normal, box.normal),
        torch.where(nearer[:, None, None], ball.tones, box.tones),
        torch.where(nearer, ball.tile, box.tile),
    )


def _cast_boxes(scene: Scene, origin: Tensor, directions: Float[Tensor, "n 3"]) -> Hits:
    """Slab test; of a box seen from inside the far side counts."""
    o = torch.einsum("bji,bj->bi", scene.R_world_box, origin - scene.centre)
    d = torch.einsum("bji,nj->bni", scene.R_world_box, directions)
    d = torch.where(d.abs() < 1e-8, torch.full_like(d, 1e-8), d)
    low, high = (-scene.half - o)[:, None] / d, (scene.half - o)[:, None] / d
    enter, axis_in = torch.minimum(low, high).max(-1)
    leave, axis_out = torch.maximum(low, high).min(-1)
    inside = scene.inside[:, None]
    t = torch.where(inside, leave, enter)
    hit = (enter < leave) & (t > NEAR)
    t, which = torch.where(hit, t, FAR * 2).min(0)
    n = torch.arange(len(directions))
    side = torch.where(inside, axis_out, axis_in)[which, n]
    d = d[which, n]
    point = o[which] + d * t[:, None]
    uv = torch.stack([point[n, (side + 1) % 3], point[n, (side + 2) % 3]], dim=-1)
    uv = uv / scene.scale[which][:, None] + which[:, None] * 0.37 + side[:, None] * 0.21
    normal = functional.one_hot(side, 3) * -torch.sign(d[n, side])[:, None]
    normal = torch.einsum("nij,nj->ni", scene.R_world_box[which], normal)
    return Hits(t, uv, normal, scene.tones[which], scene.tile[which])


def _cast_balls(scene: Scene, origin: Tensor, directions: Float[Tensor, "n 3"]) -> Hits:
    away = origin - scene.ball[:, :3]
    b = directions @ away.T
    c = (away * away).sum(-1) - scene.ball[:, 3] ** 2
    a = (directions * directions).sum(-1, keepdim=True)
    root = b * b - a * c
    t = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, FAR * 2)
    t, which = torch.where(t > NEAR, t, FAR * 2).min(1)
    point = origin + directions * t[:, None]
    normal = (point - scene.ball[which, :3]) / scene.ball[which, 3:4]
    uv = torch.stack([torch.atan2(normal[:, 0], normal[:, 2]) / 1.57, normal[:, 1]], dim=-1)
    return Hits(t, uv, normal, scene.ball_tones[which], scene.ball_tile[which])


def shade(scene: Scene, hits: Hits, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Pattern between two tones, one lamp, haze with distance; sky where nothing is hit."""
    pattern = _pattern(scene.tiles, hits.tile, hits.uv)[:, None]
    colour = hits.tones[:, 0] * pattern + hits.tones[:, 1] * (1 - pattern)
    lambert = (hits.normal @ scene.light).clamp_min(0)
    haze = 1 - 0.25 * (hits.t / 12).clamp_max(1)
    colour = colour * ((0.45 + 0.55 * lambert) * haze)[:, None]
    up = (-directions[:, 1:2] / directions.norm(dim=1, keepdim=True)).clamp(0, 1)
    sky = scene.sky * (0.75 + 0.25 * (1 - up)) + torch.tensor([-0.15, -0.05, 0.1]) * up
    return torch.where((hits.t < FAR)[:, None], colour, sky)


def _pattern(tiles: Tensor, tile: Int[Tensor, " n"], uv: Float[Tensor, "n 2"]) -> Tensor:
    """Bilinear, repeating."""
    xy = (uv % 1) * TILE
    x0, y0 = (xy.long() % TILE).unbind(-1)
    fx, fy = (xy - xy.floor()).unbind(-1)
    x1, y1 = (x0 + 1) % TILE, (y0 + 1) % TILE
    upper = tiles[tile, y0, x0] * (1 - fx) + tiles[tile, y0, x1] * fx
    lower = tiles[tile, y1, x0] * (1 - fx) + tiles[tile, y1, x1] * fx
    return upper * (1 - fy) + lower * fy


def degrade(images: Float[Tensor, "s h w 3"], rng: np.random.Generator) -> Float[Tensor, "s h w 3"]:
    """Exposure, white balance, gamma, vignette, blur, noise."""
    s, h, w = images.shape[:3]
    gain = rng.uniform(0.6, 1.35) * np.exp(np.cumsum(rng.normal(0, 0.02, s)))
    balance = torch.tensor(rng.uniform(0.85, 1.15, 3), dtype=torch.float32)
    x = images * torch.tensor(gain, dtype=torch.float32)[:, None, None, None] * balance
    x = x.clamp(1e-4, 1) ** float(rng.uniform(0.7, 1.4))
    v, u = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    x = x * (1 - float(rng.uniform(0, 0.3)) * (u * u + v * v) / 2)[..., None]
    if rng.random() < 0.5:
        k = float(rng.uniform(0.05, 0.25))
        kernel = torch.tensor([k, 1 - 2 * k, k])
        kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3).contiguous()
        x = functional.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1, groups=3)
        x = x.permute(0, 2, 3, 1)
    noise = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return x + torch.randn(x.shape, generator=noise) * float(rng.uniform(0, 0.03))
