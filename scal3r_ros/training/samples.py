"""Clips of the procedural world as training samples: sizes, chunks, normalised targets."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import IterableDataset

from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.textures import photographs_in
from scal3r_ros.training.world import WorldClip, render_clip

PATCH = 14
SIZES = 0.45, 0.65, 1.0  # of images, as shares of the patches that a network is for
POOL = 300  # sequences that are kept to be shown again


@dataclass(frozen=True)
class SampleConfig:
    """What one training sequence looks like."""

    patches: tuple[int, ...] = ()  # per frame, about; none: as the network's image width asks
    frames_per_step: int = 8  # frames that pass the network in one step, about
    min_frames: int = 1  # of one chunk
    max_frames: int = 6
    max_chunks: int = 3  # of one sequence; they share the memory
    stride: tuple[float, float] = (0.5, 2.0)  # from and to: of a family's usual speed
    reuse: int = 1  # earlier sequences shown again after each fresh one: rendering is not free
    held_out_family: str = ""  # never rendered for training
    first_seed: int = 1_000_000  # evaluation worlds lie below
    photographs: str = ""  # folder of pictures that surfaces may show
    render_device: str = "cpu"  # cuda: with no workers beside

    def __post_init__(self) -> None:
        if self.held_out_family and self.held_out_family not in FAMILIES:
            raise ValueError(
                f"samples.held_out_family must be one of {FAMILIES}, got {self.held_out_family}"
            )
        slow, fast = self.stride
        if not 0 < slow <= fast:
            raise ValueError(f"samples.stride must be from > 0 to no less, got {self.stride}")
        if self.photographs:
            photographs_in(Path(self.photographs))

    def for_width(self, image_width: int) -> "SampleConfig":
        """Where no sizes are given: up to 4:3 images as wide as the network is for [pixels]."""
        most = 0.75 * (image_width / PATCH) ** 2
        return replace(self, patches=self.patches or tuple(round(s * most) for s in SIZES))


@dataclass(frozen=True, eq=False)
class ChunkSample:
    """Network input and targets of one chunk; lengths divided by the mean point distance."""

    images: Float[Tensor, "b s 3 h w"]  # 0..1
    depth: Float[Tensor, "b s h w"]
    valid: Bool[Tensor, "b s h w"]
    encoding: Float[Tensor, "b s 9"]  # translation, quaternion xyzw, vertical and horizontal fov
    reference: int
    overlap: int

    def to(self, device: torch.device) -> "ChunkSample":
        return ChunkSample(
            self.images.to(device),
            self.depth.to(device),
            self.valid.to(device),
            self.encoding.to(device),
            self.reference,
            self.overlap,
        )


def camera_encoding(
    T_world_cam: Float[Tensor, "s 4 4"], K: Float[Tensor, "s 3 3"], reference: int, size: tuple
) -> Float[Tensor, "s 9"]:
    """World-to-camera pose relative to the reference camera, and fields of view [rad]."""
    T_cam_ref = torch.linalg.inv(T_world_cam.double()) @ T_world_cam[reference].double()
    quat_xyzw = torch.from_numpy(Rotation.from_matrix(T_cam_ref[:, :3, :3].numpy()).as_quat())
    quat_xyzw = quat_xyzw * torch.where(quat_xyzw[:, 3:] < 0, -1.0, 1.0)
    fov_y = 2 * torch.atan(size[0] / 2 / K[:, 1, 1].double())
    fov_x = 2 * torch.atan(size[1] / 2 / K[:, 0, 0].double())
    parts = [T_cam_ref[:, :3, 3], quat_xyzw, fov_y[:, None], fov_x[:, None]]
    return torch.cat(parts, dim=1).float()


def mean_distance(
    depth: Float[Tensor, "s h w"],
    K: Float[Tensor, "s 3 3"],
    T_world_cam: Float[Tensor, "s 4 4"],
    reference: int,
) -> float:
    """Mean distance of the chunk's valid points from the reference camera (VGGT's unit)."""
    s, h, w = depth.shape
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1) @ torch.linalg.inv(K).mT[:, None]
    T_ref_cam = torch.linalg.inv(T_world_cam[reference]) @ T_world_cam
    points = (rays * depth[..., None]).reshape(s, -1, 3) @ T_ref_cam[:, :3, :3].mT
    distance = (points + T_ref_cam[:, None, :3, 3]).norm(dim=-1)
    valid = (depth > 0).reshape(s, -1)
    return float(distance[valid].mean()) if valid.any() else 1.0


def chunk_sample(clips: list[WorldClip], start: int, frames: int, overlap: int) -> ChunkSample:
    """The same window of several clips, as one batch."""
    reference = (frames + 1) // 2 - 1
    images, depths, encodings = [], [], []
    for clip in clips:
        part = slice(start, start + frames)
        depth, K, T = clip.depth[part], clip.K[part], clip.T_world_cam[part]
        unit = mean_distance(depth, K, T, reference)
        encoding = camera_encoding(T, K, reference, tuple(depth.shape[-2:]))
        encoding[:, :3] /= unit
        images.append(clip.images[part].permute(0, 3, 1, 2).float() / 255)
        depths.append(depth / unit)
        encodings.append(encoding)
    depth = torch.stack(depths)
    return ChunkSample(
        torch.stack(images), depth, depth > 0, torch.stack(encodings), reference, overlap
    )


def random_size(rng: np.random.Generator, patches: int) -> tuple[int, int]:
    """(height, width), multiples of the patch, near the wanted number of patches."""
    aspect = rng.choice([4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4, 2.6], p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05])
    rows = max(2, round((patches / aspect) ** 0.5))
    return rows * PATCH, max(2, round(rows * aspect)) * PATCH


@dataclass(frozen=True, eq=False)
class Clips:
    """A training sequence as it was rendered: 7 bytes a pixel, samples have 17 or more."""

    batch: list[WorldClip]
    chunks: int
    frames: int  # of a chunk
    overlap: int

    def samples(self) -> list[ChunkSample]:
        step = self.frames - self.overlap
        return [
            chunk_sample(self.batch, i * step, self.frames, self.overlap if i else 0)
            for i in range(self.chunks)
        ]


class WorldSamples(IterableDataset):
    """Endless, seeded training sequences: each item is the chunks of one sequence, in order."""

    def __init__(self, config: SampleConfig, seed: tuple[int, ...]) -> None:
        self.config, self.seed = config, seed

    def __iter__(self) -> Iterator[list[ChunkSample]]:
        worker = torch.utils.data.get_worker_info()
        lane = worker.id if worker else 0
        rng = np.random.default_rng([*self.seed, lane])
        pool: list[Clips] = []  # no samples: a tensor that a worker sends keeps a file open
        while True:
            pool = [*pool[-POOL + 1 :], self.sequence(rng)]
            yield pool[-1].samples()
            for index in rng.integers(len(pool), size=self.config.reuse):
                yield pool[index].samples()

    def sequence(self, rng: np.random.Generator) -> Clips:
        config = self.config
        frames = int(rng.integers(config.min_frames, config.max_frames + 1))
        chunks = 1 if frames == 1 else int(rng.integers(1, config.max_chunks + 1))
        if rng.random() < 0.5:
            chunks = 1
        overlap = frames // 2
        count = max(1, round(config.frames_per_step / (frames * chunks)))
        height, width = random_size(rng, int(rng.choice(config.patches)))
        families = [f for f in FAMILIES if f != config.held_out_family]
        total = frames + (chunks - 1) * (frames - overlap)
        stride = float(rng.uniform(*config.stride))
        batch = [
            render_clip(
                config.first_seed + int(rng.integers(2**31)),
                total,
                height,
                width,
                family=str(rng.choice(families)),
                stride=stride,
                degradation="harsh",
                photographs=Path(config.photographs) if config.photographs else None,
                device=config.render_device,
            )
            for _ in range(count)
        ]
        return Clips(batch, chunks, frames, overlap)
