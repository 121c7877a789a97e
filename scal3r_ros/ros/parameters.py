"""Every ROS parameter, declared once: name, default, meaning, range; YAML is generated here."""

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from scal3r_ros.mapping.config import ChunkConfig, MapperConfig, profile, updated


@dataclass(frozen=True)
class Parameter:
    name: str
    default: Any
    meaning: str
    low: float | int | None = None
    high: float | int | None = None
    read_only: bool = True


FRAMES = (
    Parameter("map_frame", "map", "z-up world frame, may jump (REP 105)"),
    Parameter("odom_frame", "odom", "continuous frame of the odometry"),
    Parameter("base_frame", "", "frame of the robot below odom; empty: the frame of the images"),
    Parameter("publish_tf", True, "broadcast transforms"),
    Parameter("tf_publish_rate", 20.0, "Hz at which map -> odom is repeated", 1.0, 100.0),
    Parameter("tf_tolerance", 0.1, "s that map -> odom is stamped ahead", 0.0, 5.0),
)
IMAGES = (
    Parameter("image_transport", "raw", "raw or compressed"),
    Parameter("image_reliability", "auto", "auto, reliable or best_effort"),
    Parameter("image_queue_depth", 10, "messages kept by the subscription", 1, 1000),
    Parameter("autostart", True, "configure and activate at the start"),
    Parameter("on_time_jump", "reset", "when stamps go back: reset (start again) or ignore"),
    Parameter("watchdog_period", 5.0, "s without images before a warning", 0.1, 600.0),
)
MAPPING = (
    Parameter("model", "nano", "nano (ships with the package) or scal3r (needs a checkpoint)"),
    Parameter("checkpoint", "", "path of the weights; empty: those of the package"),
    Parameter("device", "auto", "auto, cpu or cuda:N"),
    Parameter("precision", "auto", "auto, fp32, fp16 or bf16"),
    Parameter("chunk_size", 0, "keyframes of a chunk; 0: the model's profile", 0, 128),
    Parameter("chunk_overlap", 0, "keyframes shared by chunks; 0: the model's profile", 0, 127),
    Parameter("ttt_update", True, "carry the test-time memory from chunk to chunk"),
    Parameter("ttt_forget", 1.0, "share of the memory kept from chunk to chunk", 0.5, 1.0),
    Parameter("ttt_window", 0, "chunks that the memory holds; 0: all", 0, 1000),
    Parameter("max_gpu_memory_fraction", 0.9, "share of the GPU that chunks may fill", 0.1, 1.0),
    Parameter("compile", "off", "torch.compile: off, on, graphs, or auto (the fastest, measured)"),
    Parameter("loop_closure", True, "search and close loops"),
    Parameter("refinement", True, "refine poses and depth with feature tracks"),
    Parameter(
        "max_chunk_wait", 3.0, "s without images before a partial chunk is mapped", 0.1, 60.0
    ),
    Parameter("max_stamp_gap", 2.0, "s between images that end a piece of the map", 0.1, 3600.0),
    Parameter("max_pending_frames", 256, "images that may wait before they are thinned", 8, 4096),
    Parameter("odom_source", "tracker", "tracker (odometry_node) or none (chunk-rate odometry)"),
    Parameter("scale_source", "none", "none or fixed"),
    Parameter("fixed_scale", 1.0, "metres per unit of the first submap", 1e-6, 1e6),
    Parameter("path_max_poses", 1000, "poses in the published path", 2, 100000),
    *IMAGES,
    *FRAMES,
)
ODOMETRY = (*IMAGES, *FRAMES)
MAP = (
    Parameter("map_frame", "map", "frame of the published map"),
    Parameter("map_folder", "", "folder for saved maps; empty: the working directory"),
    Parameter("map_publish_period", 2.0, "s between publications", 0.1, 600.0),
    Parameter("max_map_points_published", 500000, "points of map_cloud", 1000, 20000000),
    Parameter("grid_resolution", 0.05, "cell of the occupancy grid, map units", 0.001, 5.0),
    Parameter("grid_min_height", 0.1, "lowest obstacle above the ground, map units", -100.0, 100.0),
    Parameter(
        "grid_max_height", 2.0, "highest obstacle above the ground, map units", -100.0, 100.0
    ),
    Parameter("grid_min_hits", 2, "points that make a cell occupied", 1, 1000),
)
NODES = {"mapping_node": MAPPING, "odometry_node": ODOMETRY, "map_node": MAP}


def declare(node: Node, parameters: tuple[Parameter, ...]) -> None:
    for p in parameters:
        descriptor = ParameterDescriptor(description=p.meaning, read_only=p.read_only)
        if p.low is not None and p.high is not None:
            if isinstance(p.default, int):
                bounds = IntegerRange(from_value=int(p.low), to_value=int(p.high), step=1)
                descriptor.integer_range = [bounds]
            else:
                bounds = FloatingPointRange(from_value=float(p.low), to_value=float(p.high))
                descriptor.floating_point_range = [bounds]
        node.declare_parameter(p.name, p.default, descriptor)


def value(node: Node, name: str) -> Any:
    return node.get_parameter(name).value


def mapper_config(node: Node) -> MapperConfig:
    """The library's settings from the parameters; ConfigError says what does not fit."""
    base = profile(value(node, "model"))
    size = value(node, "chunk_size") or base.chunks.size
    overlap = value(node, "chunk_overlap") or min(base.chunks.overlap, size - 1)
    first = min(ChunkConfig.first_size, size)
    return updated(
        base,
        {
            "chunks": {"size": size, "overlap": overlap, "first_size": first},
            "keyframes": {"max_gap_s": value(node, "max_stamp_gap")},
            "network": {
                "memory": value(node, "ttt_update"),
                "forget": value(node, "ttt_forget"),
                "memory_window": value(node, "ttt_window"),
                "max_gpu_memory": value(node, "max_gpu_memory_fraction"),
                "compile": value(node, "compile"),
            },
            "loops": {"enabled": value(node, "loop_closure")},
            "refinement": {"enabled": value(node, "refinement")},
            "scale": {"source": value(node, "scale_source"), "fixed": value(node, "fixed_scale")},
        },
        "",
    )


def yaml_text() -> str:
    """config/mapping.yaml: all nodes, any namespace, every default with its meaning."""
    lines = ["# Generated from scal3r_ros/ros/parameters.py: every parameter with its default."]
    for node, parameters in NODES.items():
        lines += [f"/**/{node}:", "  ros__parameters:"]
        lines += [f"    {p.name}: {_yaml(p.default)}  # {_explain(p)}" for p in parameters]
    return "\n".join(lines) + "\n"


def _yaml(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _explain(p: Parameter) -> str:
    bounds = "" if p.low is None else f" [{p.low:g} to {p.high:g}]"
    return p.meaning + bounds


def main() -> None:
    """Prints the YAML (used to write config/mapping.yaml)."""
    print(yaml_text(), end="")


if __name__ == "__main__":
    main()
