"""Every ROS parameter, declared once: name, default, meaning, range, choices."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)

from scal3r_ros.mapping.config import ORIENTATIONS, SCALE_SOURCES

AnyNode = Any  # rclpy's Node, or the OfflineNode of a replay


@dataclass(frozen=True)
class Parameter:
    name: str
    default: Any
    meaning: str
    low: float | int | None = None
    high: float | int | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  # may change while the node runs


Live = partial(Parameter, live=True)

TRANSFORMS = (
    Parameter("odom_frame", "odom", "continuous frame of the odometry"),
    Parameter("base_frame", "", "frame of the robot below odom; empty: the frame of the images"),
    Parameter("camera_frame", "", "optical frame of the camera; empty: that of the image headers"),
    Live("publish_tf", True, "broadcast transforms"),
)
MAP_TRANSFORMS = (
    Parameter("map_frame", "map", "z-up world frame, may jump (REP 105)"),
    Live("tf_tolerance", 0.1, "s that map -> odom is stamped ahead", 0.0, 5.0),
    Parameter("tf_publish_rate", 20.0, "Hz at which map -> odom is repeated", 1.0, 100.0),
)
IMAGES = (
    Parameter("image_transport", "raw", "raw or compressed", choices=("raw", "compressed")),
    Parameter(
        "image_reliability",
        "auto",
        "auto, reliable or best_effort",
        choices=("auto", "reliable", "best_effort"),
    ),
    Parameter("image_queue_depth", 10, "messages kept by the subscription", 1, 1000),
    Live("rectify", True, "remove the lens distortion that camera_info tells"),
    Parameter(
        "use_camera_info",
        "auto",
        "auto (the network estimates until it arrives), required (wait for it) or never",
        choices=("auto", "required", "never"),
    ),
    Live("camera_info_timeout", 5.0, "s without camera_info before a warning", 0.0, 600.0),
    Parameter("intrinsics", [0.0], "fx, fy, cx, cy in pixels instead of camera_info; [0]: none"),
    Live("max_rate", 0.0, "Hz, images beyond it are passed over; 0: all", 0.0, 240.0),
    Parameter("autostart", True, "configure and activate at the start"),
    Live(
        "on_time_jump",
        "auto",
        "when stamps go back: reset (start again), new_map (go on in a new piece of the map), "
        "ignore, or auto (reset under simulated time, else new_map)",
        choices=("auto", "reset", "new_map", "ignore"),
    ),
    Parameter("mask_topic", "", "mono8, 0 where the robot itself is seen; waited for; empty: none"),
    Live("watchdog_period", 5.0, "s without images before a warning", 0.1, 600.0),
)
NETWORK = (
    Parameter(
        "model",
        "nano",
        "nano (ships with the package) or scal3r (needs a checkpoint)",
        choices=("nano", "scal3r"),
    ),
    Parameter("checkpoint", "", "path of the weights; empty: those of the package"),
    Parameter("device", "auto", "auto, cpu or cuda:N"),
    Parameter(
        "precision",
        "auto",
        "auto (half where the device multiplies it), fp32, fp16 or bf16",
        choices=("auto", "fp32", "fp16", "bf16"),
    ),
    Parameter("image_size", 0, "image width in the network, pixels; 0: the model's own", 0, 1036),
    Parameter(
        "attention_squares",
        0,
        "patches a side of the squares that attention across images looks at: 2 is faster and "
        "coarser; 1: single patches; 0: as the weights were trained, 2 where nano sees large "
        "images",
        0,
        8,
    ),
    Parameter("chunk_size", 0, "keyframes of a chunk; 0: the model's profile", 0, 128),
    Parameter("chunk_overlap", 0, "keyframes shared by chunks; 0: the model's profile", 0, 127),
    Parameter("ttt_update", True, "carry the test-time memory from chunk to chunk"),
    Parameter("ttt_forget", 1.0, "share of the memory kept from chunk to chunk", 0.5, 1.0),
    Parameter("ttt_window", 0, "chunks that the memory holds; 0: all", 0, 1000),
    Parameter("ttt_reset_every", 0, "chunks after which it begins again; 0: never", 0, 100000),
    Parameter("warmup", True, "on a GPU: run the network on a blank chunk while configuring"),
    Parameter("max_gpu_memory_fraction", 0.9, "share of the GPU that chunks may fill", 0.1, 1.0),
    Parameter(
        "compile",
        "off",
        "torch.compile: off, on, or auto (the faster, measured)",
        choices=("off", "on", "auto"),
    ),
)
KEYFRAMES = (
    Live("keyframe_min_flow", 0.03, "motion between keyframes, share of the width", 0.0, 1.0),
    Live("keyframe_max_interval", 1.0, "s between keyframes while moving", 0.0, 30.0),
    Live("max_chunk_wait", 3.0, "s without images: map what waits", 0.1, 60.0),
    Live("max_stamp_gap", 2.0, "s between images that end a piece of the map", 0.1, 3600.0),
    Live("max_pending_frames", 256, "images that may wait before some are dropped", 8, 4096),
    Live(
        "overload_policy",
        "thin",
        "which are dropped then: thin (every second one, evenly) or drop_oldest (less delay, gaps)",
        choices=("thin", "drop_oldest"),
    ),
)
BACK_END = (
    Live("refinement", True, "refine poses and depth with feature tracks"),
    Live("loop_closure", True, "search and close loops"),
    Live("loop_min_gap", 24, "keyframes between two visits of a place", 1, 100000),
    Live("loop_min_score", 0.08, "likeness of two places, cosine of their words", 0.0, 1.0),
    Parameter("submaps_in_memory", 4, "newest ones; older lie on disk; 0: all", 0, 1000000),
    Parameter("storage_folder", "", "for those on disk; empty: the system's temporary folder"),
    Live("lost_reset_after", 0, "discarded chunks in a row before a reset; 0: never", 0, 1000),
    Parameter("map_folder", "", "folder of saved maps; empty: the working directory"),
    Live("autosave_path", "", "map saved at the end, below map_folder; empty: none"),
)
METRIC = Live("require_metric", False, "publish poses and points once in metres")
METRES = (
    Parameter("scale_source", "none", ", ".join(SCALE_SOURCES), choices=SCALE_SOURCES),
    Parameter("fixed_scale", 1.0, "metres per unit of the first submap", 1e-6, 1e6),
    Parameter("camera_height", 0.0, "m of the camera above the ground", 0.0, 1000.0),
    Parameter("scale_min_baseline", 0.5, "m of motion before odometry counts", 0.01, 1000.0),
    Parameter("scale_window", 40, "observations that are looked at", 2, 1000),
    Parameter("scale_lock_after", 10, "observations before the scale is locked", 2, 1000),
    Parameter(
        "scale_lock_tolerance",
        0.03,
        "relative standard deviation of the scale at which it is",
        0.001,
        1.0,
    ),
    METRIC,
    Parameter(
        "sensor_tolerance", 0.02, "s between an image and its depth or right image", 0.0, 1.0
    ),
    Parameter(
        "map_orientation",
        "camera_level",
        "which way is up: " + ", ".join(ORIENTATIONS) + "; base where base_frame is set",
        choices=ORIENTATIONS,
    ),
)
ODOM = (
    Parameter(
        "odom_source",
        "tracker",
        "tracker (odometry_node), topic (nav_msgs/Odometry on odom), tf, or none (chunk rate)",
        choices=("tracker", "topic", "tf", "none"),
    ),
    Live("tf_timeout", 0.5, "s that an image waits for the robot's odometry", 0.0, 10.0),
    Live("correction_blend_time", 0.0, "s over which map -> odom moves", 0.0, 60.0),
)
OUTPUT = (
    Live("publish_points", True, "observation cloud of every chunk"),
    Live("publish_chunk_points", True, "new points of every chunk in the map"),
    Live("publish_depth", True, "depth images of the keyframes"),
    Live("min_confidence", 0.0, "of published points: 1 - 1/c", 0.0, 1.0),
    Live("min_depth", 0.0, "of points, map units", 0.0, 1000.0),
    Live("max_depth", 0.0, "of points, map units; 0: any", 0.0, 1000.0),
    Live("voxel_size", 0.0, "published points have one each, map units; 0: all", 0.0, 5.0),
    Live("point_stride", 1, "every n-th point is published", 1, 32),
    Live("max_points_per_msg", 300000, "thinned evenly beyond", 1000, 5000000),
    Live("path_max_poses", 1000, "poses in the published path", 2, 100000),
    Live("min_position_stddev", 0.02, "of published poses, map units", 0.0, 100.0),
)
MAPPING = (
    *NETWORK,
    *KEYFRAMES,
    *BACK_END,
    *METRES,
    *ODOM,
    *OUTPUT,
    *IMAGES,
    *MAP_TRANSFORMS,
    *TRANSFORMS,
)
ODOMETRY = (
    Parameter("use_imu", False, "the gyroscope on `imu` tells turns before images do"),
    METRIC,
    *IMAGES,
    *TRANSFORMS,
)
MAP = (
    Parameter("map_frame", "map", "frame of the published map"),
    Parameter("storage_folder", "", "for clouds; empty: the system's temporary folder"),
    Parameter("map_folder", "", "folder for saved maps; empty: the working directory"),
    Parameter("map_publish_period", 2.0, "s between publications", 0.1, 600.0),
    METRIC,
    Live("map_voxel_size", 0.0, "map_cloud has one point each, map units; 0: all", 0.0, 5.0),
    Live("max_map_points", 20000000, "looked at for map_cloud, map, elevation", 1000, 1000000000),
    Live("max_map_points_published", 500000, "points of map_cloud", 1000, 20000000),
    Live("grid_resolution", 0.05, "cell of the occupancy grid, map units", 0.001, 5.0),
    Live("grid_min_height", 0.1, "lowest obstacle above the ground, map units", -100.0, 100.0),
    Live("grid_max_height", 2.0, "highest obstacle above the ground, map units", -100.0, 100.0),
    Live(
        "grid_height_frame",
        "ground",
        "heights count from: ground (a plane fitted to the floor) or map (its z = 0)",
        choices=("ground", "map"),
    ),
    Live("grid_min_hits", 2, "points that make a cell occupied", 1, 1000),
)
NODES = {"mapping_node": MAPPING, "odometry_node": ODOMETRY, "map_node": MAP}


# of mapping_node, that say nothing to a replay in lock-step
ONLINE = (
    "autosave_path",
    "autostart",
    "lost_reset_after",
    "max_chunk_wait",
    "max_pending_frames",
    "overload_policy",
    "tf_publish_rate",
    "warmup",
    "watchdog_period",
)


def refusal(p: Parameter, value: Any) -> str:
    """Why a value of the right type does not fit; empty where it does."""
    if p.choices and value not in p.choices:
        return f"{p.name} must be one of {', '.join(p.choices)}, got {value!r}"
    if p.low is not None and p.high is not None and not p.low <= value <= p.high:
        return f"{p.name} must be in [{p.low:g}, {p.high:g}], got {value!r}"
    if p.name == "intrinsics" and len(value) != 1 and (len(value) != 4 or min(value[:2]) <= 0):
        told = "fx, fy, cx, cy with positive fx and fy, or [0]"
        return f"{p.name} must be {told}, got {list(value)}"
    return ""


def declare(node: AnyNode, parameters: tuple[Parameter, ...]) -> None:
    """Declares with ranges and choices, checked at the start and at every later change."""
    known = {p.name: p for p in parameters}

    def check(changes: list[Any]) -> SetParametersResult:
        for change in changes:
            p = known.get(change.name)
            if p is not None and (reason := refusal(p, change.value)):
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    for p in parameters:
        descriptor = ParameterDescriptor(description=p.meaning, read_only=not p.live)
        if p.choices:
            descriptor.additional_constraints = f"one of {', '.join(p.choices)}"
        if p.low is not None and p.high is not None:
            if isinstance(p.default, int):
                bounds = IntegerRange(from_value=int(p.low), to_value=int(p.high), step=1)
                descriptor.integer_range = [bounds]
            else:
                bounds = FloatingPointRange(from_value=float(p.low), to_value=float(p.high))
                descriptor.floating_point_range = [bounds]
        node.declare_parameter(p.name, p.default, descriptor)


def value(node: AnyNode, name: str) -> Any:
    return node.get_parameter(name).value
