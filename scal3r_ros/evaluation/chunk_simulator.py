"""Predictions with the errors of a feed-forward network, along a trajectory that is known.

A chunk has a unit of its own, a scale that drifts along it, poses whose errors grow away from its
reference, and depth that is biased with range; some chunks fail. No images: this drives a back end.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.camera import intrinsics
from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.types import Submap

HEIGHT, WIDTH = 20, 60  # pixels of the depth
FOCAL = 0.58 * WIDTH
CAMERA_HEIGHT = 1.65  # m above the street
FAR = 60.0  # m
FAILED = 15.0  # times the errors of a chunk that is fine
DESCRIPTOR = np.array([[1.0]], np.float32)


@dataclass(frozen=True)
class ChunkErrors:
    """Standard deviations. Level 1 drifts by about a percent of the way, chunk by chunk."""

    log_unit: float = 0.4  # of a chunk's unit
    scale_drift: float = 4e-4  # of the log scale's slope along a chunk, a frame
    rotation_rad: float = 4e-4  # random walk, a frame
    translation: float = 0.02  # random walk, share of the step
    frame_depth: float = 0.02  # log depth, a frame
    range_bias: float = 0.05  # log depth per log range, a chunk
    pixel_depth: float = 0.04  # log depth
    failed_chunks: float = 0.01  # share
    loop_rotation_rad: float = 0.01
    loop_translation: float = 0.3  # m
    loop_log_scale: float = 0.02

    def at(self, level: float) -> "ChunkErrors":
        """Every error that many times as large; the unit is arbitrary anyway."""
        larger = {name: level * size for name, size in vars(self).items()}
        return replace(self, **larger | {"log_unit": self.log_unit})


@dataclass(frozen=True, eq=False)
class SimulatedChunk:
    submap: Submap
    units: Float[ndarray, " s"]  # submap units a metre, at every frame


@dataclass(frozen=True)
class Revisit:
    """What a loop detector says of two frames: T_old_new [m], and whether it is so."""

    old: int  # frame
    new: int
    T_old_new: Float[ndarray, "4 4"]
    log_scale: float  # error of the scale
    true: bool


class ChunkSimulator:
    def __init__(self, T_world_cam: Float[ndarray, "n 4 4"], errors: ChunkErrors, seed: int):
        self.T_world_cam, self.errors = T_world_cam, errors
        self.rng = np.random.default_rng(seed)
        self.K = intrinsics(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)

    def chunk(self, index: int, frames: range, overlap: int) -> SimulatedChunk:
        """The submap of some frames; its frame is the camera of the middle one."""
        rng, e = self.rng, self.errors
        if rng.random() < e.failed_chunks:
            e = e.at(FAILED)
        s, middle = len(frames), (len(frames) - 1) // 2
        away = np.arange(s) - middle
        bare = np.stack([self._depth(i) for i in frames])  # m
        unit = np.exp(rng.normal(0, self.errors.log_unit)) / bare.mean()  # as VGGT normalises
        units = unit * np.exp(np.clip(rng.normal(0, e.scale_drift) * away, -1, 1))
        truth = invert_pose(self.T_world_cam[frames[middle]]) @ self.T_world_cam[frames]
        poses = _drifting(truth, units, e, rng)
        depth = units[:, None, None] * bare
        frame_bias = rng.normal(0, e.frame_depth, s)[:, None, None]
        range_bias = rng.normal(0, e.range_bias) * np.log(depth / np.median(depth))
        noise = rng.normal(0, e.pixel_depth, depth.shape)
        depth = depth * np.exp(np.clip(frame_bias + range_bias + noise, -2, 2))
        submap = Submap(
            index=index,
            frame_indices=tuple(frames),
            stamps_ns=tuple(100_000_000 * i for i in frames),
            overlap=overlap,
            depth=depth.astype(np.float16),
            confidence=(1 + 10 / (1 + bare / 10)).astype(np.float16),
            edge_certainty=np.ones(depth.shape, np.float16),
            K=np.tile(self.K, (s, 1, 1)),
            T_submap_cam=poses,
            descriptors=np.repeat(DESCRIPTOR, s, 0),
            thumbnails=np.zeros((s, HEIGHT, WIDTH, 3), np.uint8),
        )
        return SimulatedChunk(submap, units)

    def revisits(self, gap: int, apart: int, false_share: float) -> list[Revisit]:
        """Pairs of frames at one place, `apart` frames from each other, and false ones among them:
        two places that look alike. Where nothing is revisited there are three false ones."""
        true = [self._revisit(i, j, true=True) for i, j in self._pairs(gap, apart)]
        count = round(len(true) * false_share / (1 - false_share))
        count = max(count, 3) if false_share > 0 else 0
        false, n = [], len(self.T_world_cam)
        while len(false) < count:
            old, new = sorted(int(i) for i in self.rng.integers(0, n, 2))
            if new - old > gap and not self._near(old, new):
                false.append(self._revisit(old, new, true=False))
        return sorted(true + false, key=lambda revisit: revisit.new)

    def _depth(self, frame: int) -> Float[ndarray, "h w"]:
        """A street as the camera sees it: ground, and facades that come and go."""
        v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        down, right = (v - HEIGHT / 2) / FOCAL, (u - WIDTH / 2) / FOCAL
        walls = 9 + 4 * np.sin(0.05 * frame + np.array([0.0, 2.0]))
        wall = np.where(right > 0, walls[0], walls[1]) / np.maximum(np.abs(right), 1e-6)
        ground = CAMERA_HEIGHT / np.maximum(down, 1e-6)
        return np.minimum(np.minimum(ground, wall), FAR)

    def _near(self, old: int, new: int) -> bool:
        T = invert_pose(self.T_world_cam[old]) @ self.T_world_cam[new]
        turned = Rotation.from_matrix(T[:3, :3]).magnitude()
        return bool(np.linalg.norm(T[:3, 3]) < 5.0 and turned < 0.6)

    def _pairs(self, gap: int, apart: int) -> list[tuple[int, int]]:
        from scipy.spatial import cKDTree

        tree = cKDTree(self.T_world_cam[:, :3, 3])
        close = tree.query_pairs(5.0, output_type="ndarray")
        close = close[close[:, 1] - close[:, 0] > gap]
        found: list[tuple[int, int]] = []
        for old, new in close[np.argsort(close[:, 1], kind="stable")].tolist():
            again = any(abs(old - a) <= apart and abs(new - b) <= apart for a, b in found[-50:])
            if not again and self._near(old, new):
                found.append((old, new))
        return found

    def _revisit(self, old: int, new: int, *, true: bool) -> Revisit:
        e, rng = self.errors, self.rng
        T = invert_pose(self.T_world_cam[old]) @ self.T_world_cam[new]
        if not true:  # as if the camera stood about there
            T = np.eye(4)
            T[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
            T[:3, 3] = rng.normal(0, 1.0, 3)
        T[:3, 3] += rng.normal(0, e.loop_translation, 3)
        T[:3, :3] = (
            T[:3, :3] @ Rotation.from_rotvec(rng.normal(0, e.loop_rotation_rad, 3)).as_matrix()
        )
        return Revisit(old, new, T, float(rng.normal(0, e.loop_log_scale)), true)


def submap_relation(revisit: Revisit, old: SimulatedChunk, new: SimulatedChunk) -> Sim3:
    """T_old_new of two submaps, from a revisit of two of their frames."""
    i = old.submap.frame_indices.index(revisit.old)
    j = new.submap.frame_indices.index(revisit.new)
    T = revisit.T_old_new.copy()
    T[:3, 3] *= old.units[i]
    relation = Sim3.from_pose(T, float(old.units[i] / new.units[j] * np.exp(revisit.log_scale)))
    cam_new = Sim3.from_pose(new.submap.T_submap_cam[j]).inverse()
    return Sim3.from_pose(old.submap.T_submap_cam[i]) @ relation @ cam_new


def _drifting(
    truth: Float[ndarray, "s 4 4"],
    units: Float[ndarray, " s"],
    errors: ChunkErrors,
    rng: np.random.Generator,
) -> Float[ndarray, "s 4 4"]:
    """Poses put together from steps that are each a little wrong, both ways from the middle."""
    s, middle = len(truth), (len(truth) - 1) // 2
    poses = np.tile(np.eye(4), (s, 1, 1))
    for way in (1, -1):
        for k in range(middle + way, s if way > 0 else -1, way):
            step = invert_pose(truth[k - way]) @ truth[k]
            length = float(np.linalg.norm(step[:3, 3]))
            step[:3, 3] += rng.normal(0, errors.translation * length, 3)
            step[:3, 3] *= units[k]
            turn = Rotation.from_rotvec(rng.normal(0, errors.rotation_rad, 3)).as_matrix()
            step[:3, :3] = turn @ step[:3, :3]
            poses[k] = poses[k - way] @ step
    return poses
