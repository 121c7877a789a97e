"""The procedural world: images with exact depth, poses and intrinsics, from a seed.

A scene is a set of textured boxes and balls; rays are cast against all that they can meet. Lengths
are metres, world axes x right, y down, z forward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from scal3r_ros.training.camera_effects import degrade, degrade_harshly
from scal3r_ros.training.casting import FACES, FAR, Hits, Rays, Solids, block_order, bundled, cast
from scal3r_ros.training.paths import camera_path
from scal3r_ros.training.scenes import FAMILIES, Ball, Builder, Surface, build_scene
from scal3r_ros.training.textures import LEVELS, SETS, TILE, Tiles, plain_tiles, texture_tiles

FOV_DEG = (45.0, 95.0)
FINE = 5.3  # repetitions of fine grain in a tile
GRAZING = 0.1  # cosine; flatter views are as flat as that to patterns
QUARTER = 1.57  # of a turn
DEGRADATIONS = {"none": None, "mild": degrade, "harsh": degrade_harshly}


@dataclass(frozen=True, eq=False)
class WorldClip:
    """What a camera saw, and the truth; on the host, wherever it was rendered."""

    images: UInt8[Tensor, "s h w 3"]
    depth: Float[Tensor, "s h w"]  # metres along z, 0 = sky
    K: Float[Tensor, "s 3 3"]  # pixels, centres at half-integers
    T_world_cam: Float[Tensor, "s 4 4"]
    family: str


@dataclass(frozen=True, eq=False)
class Scene:
    """What stands there, what it looks like, and the light."""

    solids: Solids
    tones: Float[Tensor, "k 6 2 3"]  # of every solid's faces
    tile: Int[Tensor, "k 6"]
    scale: Float[Tensor, "k 6"]  # of a tile, in the unit of `Hits.place`
    size: Float[Tensor, "k 6"]  # of a tile, metres
    tiles: Tiles
    sun: Float[Tensor, " 3"]  # direction to a lamp far away
    lamp: Float[Tensor, " 3"]  # place of a lamp that is near
    ambient: float
    sky: Float[Tensor, " 3"]


def render_clip(
    seed: int,
    frames: int,
    height: int,
    width: int,
    *,
    family: str = "",
    degradation: str = "mild",
    stride: float = 1.0,
    path: Callable[[np.random.Generator, int], Float[np.ndarray, "s 4 4"]] | None = None,
    fov_deg: tuple[float, float] = FOV_DEG,
    photographs: Path | None = None,
    textured: bool = True,
    device: str = "cpu",
) -> WorldClip:
    """A clip of one scene; any family where none is named, degraded like a camera's images (none,
    mild, harsh). `path` makes the poses, else the family has its own way to move. `fov_deg`: over
    the longer side, from and to. Not `textured`: every face has one colour."""
    rng = np.random.default_rng(seed)
    family = family or str(rng.choice(FAMILIES))
    poses = path(rng, frames) if path else camera_path(family, rng, frames, stride)
    built = build_scene(family, rng, poses[:, :3, 3])

    def tiles(number: int) -> Tiles:
        return texture_tiles(number, photographs) if textured else plain_tiles()

    scene = scene_tensors(built, rng, tiles, torch.device(device))
    K = random_intrinsics(rng, height, width, fov_deg)
    order = block_order(height, width)
    rays = _rays(K, height, width, order, torch.device(device))
    back = order.argsort().to(device)
    T_world_cam = torch.tensor(poses, dtype=torch.float32)
    images, depths = [], []
    for T in T_world_cam.to(device):
        turned = rays.turned(T[:3, :3])
        hits = cast(scene.solids, T[:3, 3], turned)
        image = shade(scene, hits, T[:3, 3], turned.directions, 1 / float(K[0, 0]))
        images.append(image[back].reshape(height, width, 3))
        depths.append(torch.where(hits.t < FAR, hits.t, 0.0)[back].reshape(height, width))
    picture, effects = torch.stack(images), DEGRADATIONS[degradation]
    picture = effects(picture, rng) if effects else picture
    pixels = (picture.clamp(0, 1) * 255).round().byte().cpu()
    return WorldClip(
        pixels, torch.stack(depths).cpu(), K.expand(frames, 3, 3).clone(), T_world_cam, family
    )


def _rays(
    K: Float[Tensor, "3 3"], height: int, width: int, order: Int[Tensor, " n"], device: torch.device
) -> Rays:
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    uv = torch.stack([u, v], dim=-1).reshape(-1, 2)[order]
    return bundled(((uv - K[:2, 2]) / K.diagonal()[:2]).to(device))


def random_intrinsics(
    rng: np.random.Generator, height: int, width: int, fov_deg: tuple[float, float]
) -> Float[Tensor, "3 3"]:
    """Principal point near the middle."""
    focal = max(height, width) / 2 / np.tan(np.radians(rng.uniform(*fov_deg)) / 2)
    cx, cy = (size / 2 + rng.normal(0, 0.01) * size for size in (width, height))
    return torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float32)


def scene_tensors(
    b: Builder,
    rng: np.random.Generator,
    tiles: Callable[[int], Tiles],
    device: torch.device,
) -> Scene:
    def tensor(values: list) -> Tensor:
        return torch.tensor(np.array(values, dtype=np.float32), device=device)

    unseen = Surface((np.zeros(3), np.zeros(3)), 0, 1.0)
    balls = b.balls or [Ball((0.0, 0.0, -500.0), 0.1, unseen)]
    faces = [box.faces for box in b.boxes] + [(ball.surface,) * FACES for ball in balls]
    boxes, count = len(b.boxes), len(faces)
    sun = rng.normal(0, 1, 3) + [0, -1.2, 0]
    sky = np.clip(rng.uniform(0.5, 0.95) + np.array([-0.1, 0, 0.1]) * rng.random(), 0, 1)
    solids = Solids(
        centre=tensor([x.centre for x in b.boxes]),
        R_world_box=tensor([x.R_world_box for x in b.boxes]),
        half=tensor([x.half for x in b.boxes]),
        inside=torch.tensor([x.inside for x in b.boxes], device=device),
        box_number=torch.arange(boxes, device=device),
        ball=tensor([(*x.centre, x.radius) for x in balls]),
        ball_number=torch.arange(boxes, count, device=device),
    )
    scale = tensor([[s.scale for s in six] for six in faces])
    return Scene(
        solids=solids,
        tones=tensor([[s.tones for s in six] for six in faces]),
        tile=torch.tensor([[s.tile for s in six] for six in faces], device=device),
        scale=scale,
        size=scale * tensor([1.0] * boxes + [QUARTER * ball.radius for ball in balls])[:, None],
        tiles=tiles(int(rng.integers(SETS))).to(device),
        sun=tensor(list(sun / np.linalg.norm(sun))),
        lamp=tensor(list(rng.uniform([-2, -1.5, -2], [2, -0.8, 4]))),
        ambient=float(rng.uniform(0.3, 0.6)),
        sky=tensor(list(sky)),
    )


def shade(
    scene: Scene,
    hits: Hits,
    origin: Float[Tensor, " 3"],
    directions: Float[Tensor, "n 3"],
    pixel: float,
) -> Float[Tensor, "n 3"]:
    """Pattern between two tones, a far and a near lamp, haze with distance; sky where nothing is
    hit. `pixel`: its size at unit depth."""
    tones = scene.tones[hits.number, hits.face]
    uv = hits.place / scene.scale[hits.number, hits.face][:, None]
    uv = uv + (0.37 * hits.number + 0.21 * hits.face)[:, None]
    length = directions.norm(dim=1)
    facing = ((hits.normal * directions).sum(1).abs() / length).clamp_min(GRAZING)
    per_pixel = pixel * hits.t / facing.sqrt() / scene.size[hits.number, hits.face]
    pattern = _pattern(scene.tiles, scene.tile[hits.number, hits.face], uv, per_pixel)
    grain = _pattern(scene.tiles, torch.zeros_like(hits.number), FINE * uv, FINE * per_pixel)
    colour = tones[:, 0] * pattern + tones[:, 1] * (1 - pattern)
    to_lamp = scene.lamp - origin - directions * hits.t[:, None]
    distance = to_lamp.norm(dim=1)
    near = (hits.normal * to_lamp).sum(1).clamp_min(0) / distance / (1 + distance**2 / 9)
    light = scene.ambient + 0.5 * (hits.normal @ scene.sun).clamp_min(0) + 0.5 * near
    haze = 1 - 0.25 * (hits.t / 12).clamp_max(1)
    colour = colour * (0.75 + 0.5 * grain) * (light * haze)[:, None]
    up = (-directions[:, 1:2] / length[:, None]).clamp(0, 1)
    blue = torch.tensor([-0.15, -0.05, 0.1], device=up.device)
    sky = scene.sky * (0.75 + 0.25 * (1 - up)) + blue * up
    return torch.where((hits.t < FAR)[:, None], colour, sky)


def _pattern(
    tiles: Tiles,
    tile: Int[Tensor, " n"],
    uv: Float[Tensor, "n 2"],
    per_pixel: Float[Tensor, " n"],
) -> Float[Tensor, "n 3"]:
    """Bilinear, repeating, from the copy whose texels are about as large as pixels: `per_pixel` is
    how much of a tile's side a pixel sees. Finer ones would flicker from image to image."""
    level = (per_pixel * TILE).clamp_min(1).log2().round().long().clamp_max(LEVELS - 1)
    side = TILE >> level
    xy = (uv % 1) * side[:, None]
    start = tiles.first[level] + tile * side * side
    x0, y0 = (xy.long() % side[:, None]).unbind(-1)
    fx, fy = (xy - xy.floor())[:, :, None].unbind(1)
    x1, y1 = (x0 + 1) % side, (y0 + 1) % side
    low, high = start + y0 * side, start + y1 * side
    upper = tiles.texels[low + x0] * (1 - fx) + tiles.texels[low + x1] * fx
    lower = tiles.texels[high + x0] * (1 - fx) + tiles.texels[high + x1] * fx
    return upper * (1 - fy) + lower * fy
