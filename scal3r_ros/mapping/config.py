"""Every setting of the mapper, with its one default; YAML and ROS parameters derive from here."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class KeyframeConfig:
    min_flow: float = 0.03  # median flow since the last keyframe, share of the image width
    max_interval_s: float = 1.0  # while moving
    standstill_flow: float = 0.002  # below it the camera stands still: no keyframe
    min_tracked: float = 0.4  # share of corners that must survive, else a keyframe at once
    max_gap_s: float = 2.0  # between images, and five times the usual: chunks do not span more

    def __post_init__(self) -> None:
        _check(
            0 <= self.standstill_flow <= self.min_flow,
            f"standstill_flow must be in [0, {self.min_flow}], got {self.standstill_flow}",
        )


@dataclass(frozen=True)
class ChunkConfig:
    size: int = 16  # keyframes
    overlap: int = 8  # keyframes shared with the previous chunk
    first_size: int = 8  # keyframes of the first, partial chunk

    def __post_init__(self) -> None:
        _check(
            0 < self.overlap < self.size,
            f"overlap must be in (0, {self.size}), got {self.overlap}",
        )
        _check(
            1 < self.first_size <= self.size,
            f"first_size must be in (1, {self.size}], got {self.first_size}",
        )


@dataclass(frozen=True)
class RefinementConfig:
    enabled: bool = True
    max_width: int = 640  # pixels at which features are tracked
    features: int = 500  # per frame
    min_distance: float = 0.012  # between corners, share of the width
    min_tracks: int = 40  # fewer: the network's poses stay
    huber_px: float = 1.0
    prior_rotation_rad: float = 0.3  # trust in the network's poses
    prior_translation: float = 0.5  # share of the median depth
    carry: bool = True  # frames shared with the chunk before keep its poses, depth and unit
    carried_rotation_rad: float = 0.005  # trust in these
    carried_translation: float = 0.01  # share of the median depth
    prior_leap: float = 0.1  # change of the velocity between frames, share of the usual one
    min_parallax_rad: float = 0.02  # of a point that may correct the depth
    depth_smoothing: float = 0.12  # correction field, share of the image diagonal
    densify: bool = True  # depth of every pixel from optical flow where there is parallax


@dataclass(frozen=True)
class RegistrationConfig:
    scale_walk: float = 0.1  # of log scale, between submaps whose unit was carried over
    max_points: int = 8000
    iterations: int = 10
    min_inliers: float = 0.2
    min_points: int = 200
    rotation_floor: float = 0.002  # rad, smallest standard deviation believed
    translation_floor: float = 0.005  # share of the scene's depth
    scale_floor: float = 0.005


@dataclass(frozen=True)
class LoopConfig:
    enabled: bool = True
    min_score: float = 0.08  # of two places, cosine of their words
    tokens: bool = True  # what the network's tokens find alike is looked at, too
    min_token_score: float = 0.70  # cosine of these
    min_gap: int = 24  # keyframes between the two places
    votes: int = 2  # of five neighbouring keyframes that must agree
    per_chunk: int = 2  # candidates verified after a chunk
    min_inliers: int = 15  # matched features that agree on one pose
    min_share: float = 0.35  # of the matches
    min_coverage: float = 0.35  # of the image by inliers, 1 = evenly all over
    agreeing: int = 3  # pairs of images, of nine, that must say the same
    agree_rad: float = 0.12
    agree_depth: float = 0.15  # translation, share of the median depth
    agree_log_scale: float = 0.25
    max_turn_rad: float = 1.0  # by which a loop may turn against the graph
    bridge_keyframes: int = 8  # of either place, that pass the network together
    bridges_per_chunk: int = 1  # where features do not tie a candidate; 0: the network is not asked
    bridge_residual: float = 0.15  # of the bridge's points in both submaps, share of the depth
    bridge_overlap: float = 0.25  # of the views of both places that is shared
    bridge_same: float = 0.6  # of that, where both say that it is


@dataclass(frozen=True)
class PoseGraphConfig:
    huber: float = 1.345
    loop_probability: float = 0.99  # of a true loop's error, up to which one is believed


@dataclass(frozen=True)
class PointMapConfig:
    drop_confidence: float = 0.35  # share of a frame's pixels, the least confident
    drop_certainty: float = 0.05  # share of a frame's pixels, where the gate is least certain
    max_depth: float = 5.0  # times the median depth of the submap
    voxel: float = 0.008  # times the median depth of the submap
    crowd: int = 50  # points of the submap in a cube of 7.5 voxels around each; stragglers have few
    grazing_cos: float = 0.12
    isolation: int = 8  # neighbours of 24 within 5 % depth
    consistency: float = 0.03  # relative depth difference to another frame that agrees
    min_support: int = 3  # frames of the submap that must agree on a point


SCALE_SOURCES = ("none", "fixed", "odometry", "camera_height", "depth", "stereo", "imu")
ORIENTATIONS = ("base", "imu", "ground", "camera_level", "raw_optical")


@dataclass(frozen=True)
class ScaleConfig:
    source: str = "none"  # one of SCALE_SOURCES
    fixed: float = 1.0  # metres per unit of the first submap
    camera_height: float = 0.0  # metres above the ground
    min_baseline: float = 0.5  # metres of odometry before it counts
    window: int = 40
    lock_after: int = 10
    lock_tolerance: float = 0.03  # relative standard deviation of the scale

    def __post_init__(self) -> None:
        known = SCALE_SOURCES
        _check(self.source in known, f"scale source must be one of {known}, got {self.source}")
        _check(self.fixed > 0, f"fixed scale must be positive, got {self.fixed}")
        _check(
            self.source != "camera_height" or self.camera_height > 0,
            f"scale source camera_height needs camera_height > 0, got {self.camera_height}",
        )
        _check(
            0 < self.lock_after <= self.window,
            f"lock_after must be in [1, window = {self.window}], got {self.lock_after}",
        )


@dataclass(frozen=True)
class StorageConfig:
    """Where the map lies while it grows."""

    in_memory: int = 4  # submaps whose images stay in memory, the newest; 0: all
    folder: str = ""  # for those that do not; empty: the system's temporary folder

    def __post_init__(self) -> None:
        _check(self.in_memory >= 0, f"in_memory must be >= 0, got {self.in_memory}")


@dataclass(frozen=True)
class NetworkConfig:
    """How the network is run."""

    memory: bool = True  # carried from chunk to chunk; without it each sees only itself
    forget: float = 1.0  # share of the memory kept from chunk to chunk
    memory_window: int = 0  # chunks that the memory holds, 0: all; each costs a gradient
    reset_every: int = 0  # chunks after which the memory begins again; 0: never
    image_width: int = 0  # pixels; 0: what the weights were trained at
    attention_squares: int = 0  # side [patches] of what global layers look at; 0: as suits
    max_gpu_memory: float = 0.9  # share of the GPU that chunks may fill
    compile: str = "off"  # torch.compile: off, on, auto (the faster)

    def __post_init__(self) -> None:
        known = ("off", "on", "auto")
        _check(self.compile in known, f"compile must be one of {known}, got {self.compile}")
        _check(0 < self.forget <= 1, f"forget must be in (0, 1], got {self.forget}")
        _check(self.memory_window >= 0, f"memory_window must be >= 0, got {self.memory_window}")
        _check(self.reset_every >= 0, f"reset_every must be >= 0, got {self.reset_every}")
        _check(self.image_width >= 0, f"image_width must be >= 0, got {self.image_width}")
        side = self.attention_squares
        _check(0 <= side <= 8, f"attention_squares must be in [0, 8], got {side}")
        share = self.max_gpu_memory
        _check(0 < share <= 1, f"max_gpu_memory must be in (0, 1], got {share}")


@dataclass(frozen=True)
class MapperConfig:
    network: NetworkConfig = field(default_factory=NetworkConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    chunks: ChunkConfig = field(default_factory=ChunkConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)
    loops: LoopConfig = field(default_factory=LoopConfig)
    graph: PoseGraphConfig = field(default_factory=PoseGraphConfig)
    points: PointMapConfig = field(default_factory=PointMapConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    orientation: str = "camera_level"  # of the map: one of ORIENTATIONS

    def __post_init__(self) -> None:
        known = ORIENTATIONS
        _check(self.orientation in known, f"orientation must be in {known}, got {self.orientation}")


PROFILES = {"nano": (16, 8), "scal3r": (48, 32)}


def profile(name: str) -> MapperConfig:
    """Window and overlap that suit a network."""
    _check(name in PROFILES, f"model must be {' or '.join(PROFILES)}, got {name}")
    size, overlap = PROFILES[name]
    small = name == "nano"  # its tokens hardly tell places apart, nor its poses how they lie
    loops = LoopConfig(tokens=not small, bridges_per_chunk=0 if small else 1)
    return MapperConfig(chunks=ChunkConfig(size=size, overlap=overlap), loops=loops)


def load_config(path: Path, base: MapperConfig | None = None) -> MapperConfig:
    """Settings of a YAML file over the defaults; unknown names and wrong types are refused."""
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    _check(
        "ros__parameters" not in str(content),
        f"{path} is of the nodes and of `scal3r replay --params-file`; settings are written in "
        "sections, as scale: {source: fixed, fixed: 0.3}",
    )
    return updated(base or MapperConfig(), content, "")


def updated(config: Any, values: Any, where: str) -> Any:
    """A copy of a settings dataclass with some values replaced, checked against their types."""
    _check(isinstance(values, dict), f"{where or 'settings'} must be a mapping, got {values!r}")
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    changes = {}
    for name, value in values.items():
        full = f"{where}.{name}" if where else str(name)
        _check(name in known, f"unknown setting {full}; known: {', '.join(known)}")
        old = known[name]
        changes[name] = updated(old, value, full) if is_dataclass(old) else _typed(old, value, full)
    return replace(config, **changes)


def _typed(old: Any, value: Any, name: str) -> Any:
    wanted = type(old)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is tuple and isinstance(value, list):
        return tuple(value)
    _check(
        type(value) is wanted,
        f"{name} must be {wanted.__name__}, got {value!r}"
        + (" (write 1.0e-6, YAML reads 1e-6 as text)" if wanted is float else ""),
    )
    return value
