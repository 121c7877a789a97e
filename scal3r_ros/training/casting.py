"""Rays against the boxes and balls of a scene, all of those that a bundle of rays can meet."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

NEAR, FAR = 0.15, 200.0  # metres
BUNDLE = 1024  # rays that are cast together
MARGIN = 1e-4  # of the planes round a bundle
BLOCK = 32  # pixels: rays of a square block of the image make a bundle that meets little
FACES = 6  # of a box: 2 axis + 1 where the normal points along the axis


@dataclass(frozen=True, eq=False)
class Solids:
    """Boxes (b) and balls (m), metres; of both the numbers by which surfaces are told apart."""

    centre: Float[Tensor, "b 3"]
    R_world_box: Float[Tensor, "b 3 3"]
    half: Float[Tensor, "b 3"]
    inside: Bool[Tensor, " b"]  # seen from inside
    box_number: Int[Tensor, " b"]
    ball: Float[Tensor, "m 4"]  # centre and radius
    ball_number: Int[Tensor, " m"]


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest surface along n rays; `t` in units of the ray, beyond FAR where there is none."""

    t: Float[Tensor, " n"]
    place: Float[Tensor, "n 2"]  # on the surface: metres on a box, quarter turns on a ball
    normal: Float[Tensor, "n 3"]
    number: Int[Tensor, " n"]  # of the solid
    face: Int[Tensor, " n"]  # of a box; 0 of a ball


@dataclass(frozen=True, eq=False)
class Rays:
    """Of an image, in bundles of neighbours, each enclosed by five planes (normals outwards)."""

    directions: Float[Tensor, "n 3"]
    planes: Float[Tensor, "bundles 5 3"]

    def turned(self, R: Float[Tensor, "3 3"]) -> "Rays":
        return Rays(self.directions @ R.T, self.planes @ R.T)


def block_order(height: int, width: int) -> Int[Tensor, " n"]:
    """Pixels of an image block by block."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    block = (v // BLOCK) * (width // BLOCK + 1) + u // BLOCK
    return block.flatten().argsort(stable=True)


def bundled(xy: Float[Tensor, "n 2"]) -> Rays:
    """Rays (x, y, 1) of a camera, in its own frame; neighbours should follow one another."""
    planes = []
    for part in xy.split(BUNDLE):
        (left, top), (right, bottom) = (
            (part.amin(0) - MARGIN).tolist(),
            (part.amax(0) + MARGIN).tolist(),
        )
        planes.append([[1, 0, -right], [-1, 0, left], [0, 1, -bottom], [0, -1, top], [0, 0, -1]])
    directions = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)
    return Rays(directions, torch.tensor(planes, dtype=xy.dtype, device=xy.device))


def cast(solids: Solids, origin: Float[Tensor, " 3"], rays: Rays) -> Hits:
    """Nearest of the boxes and balls along every ray."""
    boxes, balls = _in_sight(solids, origin, rays.planes)
    parts = [
        _cast(_chosen(solids, *seen), origin, part)
        for part, *seen in zip(rays.directions.split(BUNDLE), boxes, balls, strict=True)
    ]
    names = [f.name for f in fields(Hits)]
    return Hits(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _in_sight(
    solids: Solids, origin: Float[Tensor, " 3"], planes: Float[Tensor, "bundles 5 3"]
) -> tuple[Bool[Tensor, "bundles b"], Bool[Tensor, "bundles m"]]:
    """What is not wholly behind one of the planes round a bundle: nothing is lost."""
    sign = torch.tensor([-1.0, 1.0], device=solids.half.device)
    offsets = solids.half[:, None] * torch.cartesian_prod(sign, sign, sign)
    corners = torch.einsum("bij,bkj->bki", solids.R_world_box, offsets)
    corners = corners + (solids.centre - origin)[:, None]
    behind = torch.einsum("bki,qpi->qpbk", corners, planes) > 0
    apart = torch.einsum("mi,qpi->qpm", solids.ball[:, :3] - origin, planes)
    out = apart > solids.ball[:, 3] * planes.norm(dim=-1, keepdim=True)
    return ~behind.all(dim=3).any(dim=1), ~out.any(dim=1)


def _chosen(solids: Solids, boxes: Bool[Tensor, " b"], balls: Bool[Tensor, " m"]) -> Solids:
    box, ball = boxes.nonzero()[:, 0], balls.nonzero()[:, 0]
    return Solids(
        solids.centre[box],
        solids.R_world_box[box],
        solids.half[box],
        solids.inside[box],
        solids.box_number[box],
        solids.ball[ball],
        solids.ball_number[ball],
    )


def _cast(solids: Solids, origin: Float[Tensor, " 3"], directions: Float[Tensor, "n 3"]) -> Hits:
    box, ball = _cast_boxes(solids, origin, directions), _cast_balls(solids, origin, directions)
    nearer = ball.t < box.t
    return Hits(
        torch.where(nearer, ball.t, box.t),
        torch.where(nearer[:, None], ball.place, box.place),
        torch.where(nearer[:, None], ball.normal, box.normal),
        torch.where(nearer, ball.number, box.number),
        torch.where(nearer, ball.face, box.face),
    )


def _nothing(directions: Float[Tensor, "n 3"]) -> Hits:
    n = len(directions)
    zero = torch.zeros(n, dtype=torch.long, device=directions.device)
    nowhere = directions.new_zeros(n, 2)
    return Hits(directions.new_full((n,), 2 * FAR), nowhere, directions, zero, zero)


def _cast_boxes(solids: Solids, origin: Tensor, directions: Float[Tensor, "n 3"]) -> Hits:
    """Slab test; of a box seen from inside the far side counts."""
    if len(solids.half) == 0:
        return _nothing(directions)
    o = torch.einsum("bji,bj->bi", solids.R_world_box, origin - solids.centre)
    d = torch.einsum("bji,nj->bni", solids.R_world_box, directions)
    d = torch.where(d.abs() < 1e-8, torch.full_like(d, 1e-8), d)
    low, high = (-solids.half - o)[:, None] / d, (solids.half - o)[:, None] / d
    enter, axis_in = torch.minimum(low, high).max(-1)
    leave, axis_out = torch.maximum(low, high).min(-1)
    inside = solids.inside[:, None]
    t = torch.where(inside, leave, enter)
    hit = (enter < leave) & (t > NEAR)
    t, which = torch.where(hit, t, 2 * FAR).min(0)
    n = torch.arange(len(directions), device=t.device)
    side = torch.where(inside, axis_out, axis_in)[which, n]
    d = d[which, n]
    point = o[which] + d * t[:, None]
    place = torch.stack([point[n, (side + 1) % 3], point[n, (side + 2) % 3]], dim=-1)
    sign = -torch.sign(d[n, side])
    normal = functional.one_hot(side, 3) * sign[:, None]
    normal = torch.einsum("nij,nj->ni", solids.R_world_box[which], normal)
    return Hits(t, place, normal, solids.box_number[which], 2 * side + (sign > 0).long())


def _cast_balls(solids: Solids, origin: Tensor, directions: Float[Tensor, "n 3"]) -> Hits:
    if len(solids.ball) == 0:
        return _nothing(directions)
    away = origin - solids.ball[:, :3]
    b = directions @ away.T
    c = (away * away).sum(-1) - solids.ball[:, 3] ** 2
    a = (directions * directions).sum(-1, keepdim=True)
    root = b * b - a * c
    t = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, 2 * FAR)
    t, which = torch.where(t > NEAR, t, 2 * FAR).min(1)
    point = origin + directions * t[:, None]
    normal = (point - solids.ball[which, :3]) / solids.ball[which, 3:4]
    place = torch.stack([torch.atan2(normal[:, 0], normal[:, 2]) / 1.57, normal[:, 1]], dim=-1)
    return Hits(t, place, normal, solids.ball_number[which], torch.zeros_like(which))
