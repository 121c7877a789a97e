"""What flows through the mapper. All values are immutable but `Submap.T_map_submap`.

Axes: s frames of a chunk, h w pixels, d descriptor. Frames: cam is optical (x right, y down,
z forward); submap is the camera frame of the chunk's reference keyframe; map is the first submap
turned z-up. Lengths are submap units until a Sim3 brings them to map units.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.shelf import Shelf, Shelved

TOLERANCE = 1e-3  # of what a network says in single precision
# of a submap: what lies on disk when it is old
BULKY = ("depth", "confidence", "edge_certainty", "thumbnails", "descriptors", "K")


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One image of the camera, undistorted."""

    index: int  # position in the stream, counts every image
    stamp_ns: int
    image: UInt8[ndarray, "h w 3"]  # RGB
    K: Float[ndarray, "3 3"] | None = None  # pixels of `image`; None where unknown
    T_odom_cam: Float[ndarray, "4 4"] | None = None  # odometry sampled at arrival
    depth: Float32[ndarray, "h2 w2"] | None = None  # of a sensor, registered, m along z, 0 = none
    scene: Bool[ndarray, "h w"] | None = None  # False where the robot itself is seen
    right: UInt8[ndarray, "h w 3"] | None = None  # of a rectified stereo pair
    baseline: float = 0.0  # of the pair, m

    def with_odometry(self, T_odom_cam: Float[ndarray, "4 4"] | None) -> "Frame":
        return replace(self, T_odom_cam=T_odom_cam)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Keyframes that pass the network together, chronological."""

    index: int  # position in the stream; -1: a bridge between two places
    frames: tuple[Frame, ...]
    overlap: int  # leading frames shared with the previous chunk
    reference: int  # whose camera is the submap frame


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of a chunk, at the network's resolution, in submap units."""

    depth: Float32[ndarray, "s h w"]  # along z; 0 = none
    confidence: Float32[ndarray, "s h w"]  # >= 1
    edge_certainty: Float32[ndarray, "s h w"]  # 0..1, largest gate weight; 1 with a single head
    K: Float[ndarray, "s 3 3"]  # pixels of `depth`
    T_submap_cam: Float[ndarray, "s 4 4"]
    descriptors: Float32[ndarray, "s d"]  # unit length

    def __post_init__(self) -> None:
        for name in ("depth", "confidence", "edge_certainty", "K", "T_submap_cam", "descriptors"):
            if not np.isfinite(getattr(self, name)).all():
                raise PredictionError(f"prediction.{name} must be finite, got NaN or infinity")
        self._check_shapes()
        R = self.T_submap_cam[:, :3, :3]
        for valid, said in (
            ((self.depth >= 0).all(), "depth must not be negative"),
            ((self.depth > 0).any(), "depth holds no depth"),
            ((self.confidence >= 1 - TOLERANCE).all(), "confidence must be at least 1"),
            (np.abs(self.edge_certainty - 0.5).max() <= 0.5 + TOLERANCE,
             "edge_certainty must be in [0, 1]"),
            ((self.K[:, [0, 1], [0, 1]] > 0).all(), "K must have positive focal lengths"),
            (np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max() < TOLERANCE,
             "T_submap_cam must be rigid"),
        ):  # fmt: skip
            if not valid:
                raise PredictionError(f"prediction.{said}")

    def _check_shapes(self) -> None:
        if self.depth.ndim != 3:
            raise PredictionError(f"prediction.depth must be s h w, got {self.depth.shape}")
        s = len(self.depth)
        for name, shape in (
            ("confidence", self.depth.shape),
            ("edge_certainty", self.depth.shape),
            ("K", (s, 3, 3)),
            ("T_submap_cam", (s, 4, 4)),
            ("descriptors", (s, *self.descriptors.shape[1:2])),
        ):
            found = getattr(self, name).shape
            if found != shape:
                raise PredictionError(f"prediction.{name} must be {shape}, got {found}")


class PredictionError(ValueError):
    """A network output that cannot be used; the mapper discards the chunk and says so."""


class ChunkTooLargeError(PredictionError):
    """A chunk that the device has no memory for; the mapper goes on with shorter ones."""

    def __init__(self, message: str, fits: int) -> None:
        super().__init__(message)
        self.fits = fits  # keyframes that should pass together


@dataclass(eq=False)
class Submap:
    """A chunk that has been placed. `T_map_submap` is the one field that changes."""

    index: int
    frame_indices: tuple[int, ...]
    stamps_ns: tuple[int, ...]
    overlap: int  # leading frames shared with the previous submap
    depth: Float16[ndarray, "s h w"]  # submap units, 0 = none
    confidence: Float16[ndarray, "s h w"]
    edge_certainty: Float16[ndarray, "s h w"]
    K: Float[ndarray, "s 3 3"]
    T_submap_cam: Float[ndarray, "s 4 4"]
    descriptors: Float32[ndarray, "s d"]
    thumbnails: UInt8[ndarray, "s h w 3"]  # RGB at the depth's resolution
    T_map_submap: Sim3 = field(default_factory=Sim3.identity)
    carried: bool = False  # its unit and first poses are those of the submap before
    far_end: Float[ndarray, " 7"] | None = None  # deviations of its newest camera, where known

    @property
    def first_new(self) -> int:
        """The first slot that gives the map points; 0 where all frames are shared ones."""
        return self.overlap if self.overlap < len(self.T_submap_cam) else 0

    @property
    def median_depth(self) -> float:
        """Submap units; 1 where there is no depth."""
        known = self.depth[self.depth > 0]
        return float(np.median(known)) if len(known) else 1.0

    @property
    def end(self) -> Float[ndarray, "4 4"]:
        """T_map_cam of its newest frame."""
        return self.T_map_submap.apply_pose(self.T_submap_cam[-1])

    def beginning_at(self, T_map_cam: Float[ndarray, "4 4"], s: float) -> Sim3:
        """The T_map_submap that puts the first camera there, at a scale."""
        T_cam_submap = np.linalg.inv(self.T_submap_cam[0])
        return Sim3.from_pose(T_map_cam, s) @ Sim3.from_pose(T_cam_submap)

    def shelve(self, shelf: Shelf) -> None:
        """Moves what is large to disk; from there it reads the same."""
        self._shelved = shelf.put(**{name: getattr(self, name) for name in BULKY})
        for name in BULKY:
            delattr(self, name)

    def __getattr__(self, name: str) -> ndarray:
        shelved: Shelved | None = vars(self).get("_shelved")
        if name not in BULKY or shelved is None:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return shelved[name]


@dataclass(frozen=True, eq=False, slots=True)
class Edge:
    """A measured relation of two submaps, with its evidence."""

    source: int
    target: int
    T_target_source: Sim3
    # of (rotation, translation, log scale): in the source's axes, lengths in the target's unit
    information: Float[ndarray, "7 7"]
    kind: str  # overlap, loop or odometry
    inliers: float  # share of points within the robust threshold, 0..1
    residual: float  # median point distance over median depth


@dataclass(frozen=True, eq=False)
class MapUpdate:
    """What one chunk changed."""

    submap: Submap
    moved: tuple[int, ...]  # indices of older submaps whose T_map_submap changed
    rescaled: float = 1.0  # factor by which the map changed its unit
    kept: bool = True  # False: the submap only says where the camera is (localisation)
