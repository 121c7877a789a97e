"""Loops and relocalisation against the truth: how many places are found again, how truly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.tum import Trajectory, read_trajectory
from scal3r_ros.evaluation.trajectory import align, associate
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.loop_closure import LoopCandidate, LoopDetector
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.types import Edge, Frame, Submap

MAX_TURN_DEG = 30.0  # between two views of the same place
TRUE_TURN_DEG = 10.0  # by which the measured relation of a true loop may be off
MAPPED = 0.6  # share of a sequence that is mapped before the camera is sought in it
TRIES = 2  # chunks within which a camera should be recognised


class Witness(LoopDetector):
    """Remembers what became of every candidate."""

    verdicts: list[tuple[LoopCandidate, Edge | None]]

    def verify(
        self, candidate: LoopCandidate, submaps: Sequence[Submap], graph: PoseGraph
    ) -> Edge | None:
        edge = super().verify(candidate, submaps, graph)
        self.verdicts.append((candidate, edge))
        return edge


def evaluate_loops(
    folder: Path, predictor: Predictor, config: MapperConfig, radius: float
) -> dict[str, Any]:
    """Of the candidates and of the loops that the graph believes, how many are true; of the chunks
    that see a place again, how many are tied to it. `radius` in metres: views from farther apart,
    or that look more than 30 degrees another way, are not of the same place."""
    truth = read_trajectory(folder / "groundtruth.txt")
    mapper = Mapper(predictor, config)
    witness = Witness(config.loops, mapper.shelf)
    witness.verdicts, mapper.loop_detector = [], witness
    map_sequence(open_sequence(folder), mapper, None)
    poses = _true_poses(truth, [k.frame.stamp_ns for k in witness.keyframes])
    same = _same_place(poses, poses, radius)
    late = np.subtract.outer(np.arange(len(poses)), np.arange(len(poses))) >= config.loops.min_gap
    again = (same & late).any(axis=1)
    chunks = {k.submap for k, seen in zip(witness.keyframes, again, strict=True) if seen}
    refused = {id(mapper.graph.edges[i]) for i in mapper.graph.refused}
    believed = [(c, e) for c, e in witness.verdicts if e is not None and id(e) not in refused]
    errors = [_loop_error(mapper.submaps, witness, poses, c, e) for c, e in believed]
    true = [turn < TRUE_TURN_DEG and way < radius for turn, way in errors]
    tied = {edge.source for (_, edge), right in zip(believed, true, strict=True) if right}
    return {
        "keyframes": len(poses),
        "chunks": len(mapper.submaps),
        "chunks that come back": len(chunks),
        "candidates": len(witness.verdicts),
        "candidates true": sum(bool(same[c.old, c.new]) for c, _ in witness.verdicts),
        "loops": len(believed),
        "loops true": sum(true),
        "chunks tied": len(tied & chunks),
        "median error deg, m": np.round(np.median(errors, axis=0), 3).tolist() if errors else [],
    }


def evaluate_relocalisation(
    folder: Path, predictor: Predictor, config: MapperConfig, radius: float
) -> dict[str, Any]:
    """The first 60 % of a sequence are mapped; in what remains the camera is dropped again and
    again, for two chunks each time, and has to say where it is."""
    truth = read_trajectory(folder / "groundtruth.txt")
    frames = [f for f in open_sequence(folder) if _known(truth, f.stamp_ns)]
    mapper = Mapper(predictor, config)
    count = round(MAPPED * len(frames))
    map_sequence(frames[:count], mapper, None)
    A, B, _ = associate(truth, dict(mapper.keyframe_stamped_poses()))
    scale = align(A[:, :3, 3], B[:, :3, 3], "sim3").s
    length = config.chunks.first_size + (TRIES - 1) * (config.chunks.size - config.chunks.overlap)
    found: dict[str, int] = {"dropped": 0, "in the map": 0, "recognised": 0, "rightly": 0}
    errors = []
    for begin in range(count, len(frames) - length, length):
        piece = frames[begin : begin + length]
        there = _same_place(_true_poses(truth, [f.stamp_ns for f in piece]), A, radius).any()
        found["dropped"] += 1
        found["in the map"] += int(there)
        placed = _placed(mapper, piece)
        if placed:
            error = _error_in_map(placed, _true_poses(truth, list(placed)), A, B, scale)
            errors.append(error)
            found["recognised"] += 1
            found["rightly"] += int(error[0] < TRUE_TURN_DEG and error[1] < radius)
    middle = np.round(np.median(errors, axis=0), 3).tolist() if errors else []
    return {**found, "median error deg, m": middle}


def _placed(mapper: Mapper, piece: list[Frame]) -> dict[int, Float[ndarray, "4 4"]]:
    """T_map_cam of the keyframes of a recognised chunk, by stamp; none where it is not."""
    mapper.set_localising(True)
    updates = [u for frame in piece for u in mapper.add_frame(frame)] + mapper.flush()
    if not updates:
        return {}
    first = updates[0].submap  # there is none before the map is recognised
    T = first.T_map_submap.apply_pose(first.T_submap_cam)
    return dict(zip(first.stamps_ns, T, strict=True))


def _error_in_map(
    placed: dict[int, Float[ndarray, "4 4"]],
    true: Float[ndarray, "n 4 4"],
    A: Float[ndarray, "m 4 4"],
    B: Float[ndarray, "m 4 4"],
    scale: float,
) -> tuple[float, float]:
    """Against the nearest mapped keyframe (true poses A, in the map B): what the map itself is off
    elsewhere does not count."""
    apart = np.linalg.norm(true[:, None, :3, 3] - A[None, :, :3, 3], axis=2)
    nearest = apart.argmin(axis=1)
    measured = invert_pose(B[nearest]) @ np.stack(list(placed.values()))
    measured[:, :3, 3] *= scale
    return _errors(invert_pose(A[nearest]) @ true, measured)


def _known(truth: Trajectory, stamp_ns: int, tolerance_ns: int = 10_000_000) -> bool:
    return min(abs(t - stamp_ns) for t in truth) <= tolerance_ns


def _true_poses(truth: Trajectory, stamps_ns: list[int]) -> Float[ndarray, "n 4 4"]:
    known = np.array(sorted(truth))
    return np.stack([truth[int(known[np.abs(known - s).argmin()])] for s in stamps_ns])


def _same_place(
    A: Float[ndarray, "n 4 4"], B: Float[ndarray, "m 4 4"], radius: float
) -> Bool[ndarray, "n m"]:
    apart = np.linalg.norm(A[:, None, :3, 3] - B[None, :, :3, 3], axis=2)
    axes = np.clip(A[:, :3, 2] @ B[:, :3, 2].T, -1, 1)
    return (apart < radius) & (axes > np.cos(np.radians(MAX_TURN_DEG)))


def _errors(
    truth: Float[ndarray, "n 4 4"], estimate: Float[ndarray, "n 4 4"]
) -> tuple[float, float]:
    """Median turn [deg] and distance between poses."""
    difference = invert_pose(truth) @ estimate
    turn = np.degrees(Rotation.from_matrix(difference[:, :3, :3]).magnitude())
    apart = np.linalg.norm(truth[:, :3, 3] - estimate[:, :3, 3], axis=1)
    return float(np.median(turn)), float(np.median(apart))


def _loop_error(
    submaps: Sequence[Submap],
    witness: LoopDetector,
    poses: Float[ndarray, "n 4 4"],
    candidate: LoopCandidate,
    edge: Edge,
) -> tuple[float, float]:
    """Turn [deg] and distance [m] by which the measured place of the new keyframe, seen from the
    old one, is off; the old submap's unit is what its own way says."""
    rows = {k.frame.index: i for i, k in enumerate(witness.keyframes)}
    old, new = submaps[edge.target], submaps[edge.source]
    slots = [
        s.frame_indices.index(witness.keyframes[k].frame.index)
        for s, k in ((old, candidate.old), (new, candidate.new))
    ]
    T_new = edge.T_target_source.apply_pose(new.T_submap_cam[slots[1]])
    measured = invert_pose(old.T_submap_cam[slots[0]]) @ T_new
    true_way = poses[[rows[i] for i in old.frame_indices], :3, 3]
    ways = [
        float(np.linalg.norm(np.diff(xyz, axis=0), axis=1).sum())
        for xyz in (true_way, old.T_submap_cam[:, :3, 3])
    ]
    measured[:3, 3] *= ways[0] / max(ways[1], 1e-9)
    true = invert_pose(poses[candidate.old]) @ poses[candidate.new]
    return _errors(true[None], measured[None])
