"""The mapper's settings from the node's parameters."""

from os.path import expanduser
from pathlib import Path

from scal3r_ros.mapping.config import (
    ChunkConfig,
    ConfigError,
    KeyframeConfig,
    MapperConfig,
    profile,
    updated,
)
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.ros.parameters import AnyNode, value


def make_mapper(node: AnyNode) -> Mapper:
    """With the network that the parameters name; what is wrong with them is said by ConfigError,
    ValueError or OSError."""
    from scal3r_ros.mapping.predictor import NetworkPredictor

    config, checkpoint = mapper_config(node), value(node, "checkpoint")
    network = NetworkPredictor.load(
        value(node, "model"),
        Path(checkpoint).expanduser() if checkpoint else None,
        device=value(node, "device"),
        precision=value(node, "precision"),
        settings=config.network,
    )
    return Mapper(network, config)


def mapper_config(node: AnyNode) -> MapperConfig:
    """The library's settings from the parameters; ConfigError says what does not fit."""
    odometry = value(node, "odom_source")
    if value(node, "scale_source") == "odometry" and odometry not in ("topic", "tf"):
        raise ConfigError(f"scale_source odometry needs odom_source topic or tf, got {odometry}")
    base = profile(value(node, "model"))
    size = value(node, "chunk_size") or base.chunks.size
    overlap = value(node, "chunk_overlap") or min(base.chunks.overlap, size - 1)
    first = min(ChunkConfig.first_size, size)
    return updated(
        base,
        {
            "chunks": {"size": size, "overlap": overlap, "first_size": first},
            "keyframes": {
                "max_gap_s": value(node, "max_stamp_gap"),
                "min_flow": value(node, "keyframe_min_flow"),
                "max_interval_s": value(node, "keyframe_max_interval"),
                "standstill_flow": min(
                    KeyframeConfig.standstill_flow, value(node, "keyframe_min_flow")
                ),
            },
            "network": {
                "memory": value(node, "ttt_update"),
                "forget": value(node, "ttt_forget"),
                "memory_window": value(node, "ttt_window"),
                "reset_every": value(node, "ttt_reset_every"),
                "max_gpu_memory": value(node, "max_gpu_memory_fraction"),
                "compile": value(node, "compile"),
                "image_width": value(node, "image_size"),
                "attention_squares": value(node, "attention_squares"),
            },
            "loops": {
                "enabled": value(node, "loop_closure"),
                "min_gap": value(node, "loop_min_gap"),
                "min_score": value(node, "loop_min_score"),
            },
            "refinement": {"enabled": value(node, "refinement")},
            "scale": {
                "source": value(node, "scale_source"),
                "fixed": value(node, "fixed_scale"),
                "camera_height": value(node, "camera_height"),
                "min_baseline": value(node, "scale_min_baseline"),
                "window": value(node, "scale_window"),
                "lock_after": value(node, "scale_lock_after"),
                "lock_tolerance": value(node, "scale_lock_tolerance"),
            },
            "storage": {
                "in_memory": value(node, "submaps_in_memory"),
                "folder": expanduser(value(node, "storage_folder")),
            },
            "orientation": value(node, "map_orientation"),
        },
        "",
    )
