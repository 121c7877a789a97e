"""Loops and relocalisation against the truth: how many places are found again, how truly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.tum import Trajectory, read_trajectory
from scal3r_ros.evaluation.trajectory import TOLERANCE_NS
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.loop_closure import LoopCandidate, LoopDetector
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.places import Descriptors
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.types import Edge, Frame, Submap

MAX_TURN_DEG = 30.0  # between two views of the same place
TRUE_TURN_DEG = 10.0  # by which the measured relation of a true loop may be off
MAPPED = 0.6  # share of a sequence that is mapped before the camera is sought in it
TRIES = 2  # chunks within which a camera should be recognised


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of a candidate."""

    candidate: LoopCandidate
    edge: Edge | None
    old: tuple[Submap, int]  # and the slot of the keyframe in it
    new: tuple[Submap, int]


class Witness(LoopDetector):
    """Remembers the verdict on every candidate."""

    verdicts: list[Verdict]

    def verify(
        self, candidate: LoopCandidate, submaps: Sequence[Submap], graph: PoseGraph
    ) -> Edge | None:
        edge = super().verify(candidate, submaps, graph)
        ends = []
        for keyframe in (self.keyframes[candidate.old], self.keyframes[candidate.new]):
            submap = submaps[keyframe.submap]
            ends.append((submap, submap.frame_indices.index(keyframe.frame.index)))
        self.verdicts.append(Verdict(candidate, edge, *ends))
        return edge


def evaluate_loops(
    folder: Path, predictor: Predictor, config: MapperConfig, radius: float
) -> dict[str, Any]:
    """Of the candidates and of the loops that the graph believes, how many are true; of the chunks
    that see a place again, how many are tied to it. `radius` in metres: views from farther apart,
    or that look more than 30 degrees another way, are not of the same place."""
    truth = read_trajectory(folder / "groundtruth.txt")
    mapper, witness = _witnessed(predictor, config)
    map_sequence(open_sequence(folder), mapper, None)
    poses = _true_poses(truth, [k.frame.stamp_ns for k in witness.keyframes])
    same = _same_place(poses, poses, radius)
    late = np.subtract.outer(np.arange(len(poses)), np.arange(len(poses))) >= config.loops.min_gap
    again = (same & late).any(axis=1)
    chunks = {k.submap for k, seen in zip(witness.keyframes, again, strict=True) if seen}
    refused = {id(mapper.graph.edges[i]) for i in mapper.graph.refused}
    believed = [v for v in witness.verdicts if v.edge is not None and id(v.edge) not in refused]
    errors = [_error(truth, v) for v in believed]
    true = [turn < TRUE_TURN_DEG and way < radius for turn, way in errors]
    tied = {v.new[0].index for v, right in zip(believed, true, strict=True) if right}
    return {
        "keyframes": len(poses),
        "chunks": len(mapper.submaps),
        "chunks that come back": len(chunks),
        "nearest by words true": _nearest_true(witness.words, same, late),
        "nearest by tokens true": _nearest_true(witness.tokens, same, late),
        "candidates": len(witness.verdicts),
        "candidates true": sum(
            bool(same[v.candidate.old, v.candidate.new]) for v in witness.verdicts
        ),
        "loops": len(believed),
        "loops true": sum(true),
        "chunks tied": len(tied & chunks),
        "median error deg, m": np.round(np.median(errors, axis=0), 3).tolist() if errors else [],
    }


def _nearest_true(
    places: Descriptors, same: Bool[ndarray, "n n"], late: Bool[ndarray, "n n"]
) -> float:
    """Of the keyframes that come back, the share whose most alike earlier one is the same place."""
    nearest = np.where(late, places.likeness(0), -np.inf).argmax(axis=1)
    again = (same & late).any(axis=1)
    right = same[np.arange(len(same)), nearest][again]
    return round(float(right.mean()), 3) if len(right) else 0.0


def evaluate_relocalisation(
    folder: Path, predictor: Predictor, config: MapperConfig, radius: float
) -> dict[str, Any]:
    """The first 60 % of a sequence are mapped; in what remains the camera is dropped again and
    again, for two chunks each time, and has to say where it is."""
    truth = read_trajectory(folder / "groundtruth.txt")
    frames = [
        f for f in open_sequence(folder) if min(abs(t - f.stamp_ns) for t in truth) <= TOLERANCE_NS
    ]
    mapper, witness = _witnessed(predictor, config)
    count = round(MAPPED * len(frames))
    map_sequence(frames[:count], mapper, None)
    mapped = _true_poses(truth, [k.frame.stamp_ns for k in witness.keyframes])
    found: dict[str, int] = {"dropped": 0, "in the map": 0, "recognised": 0, "rightly": 0}
    errors = []
    for piece in _pieces(frames[count:], config):
        there = _same_place(_true_poses(truth, [f.stamp_ns for f in piece]), mapped, radius).any()
        found["dropped"] += 1
        found["in the map"] += int(there)
        seen = [_error(truth, v) for v in _dropped(mapper, witness, piece)]
        if seen:
            errors.append(seen[0])
            found["recognised"] += 1
            found["rightly"] += int(seen[0][0] < TRUE_TURN_DEG and seen[0][1] < radius)
    middle = np.round(np.median(errors, axis=0), 3).tolist() if errors else []
    return {**found, "median error deg, m": middle}


def evaluate_strangers(
    folder: Path, strangers: Path, predictor: Predictor, config: MapperConfig
) -> dict[str, Any]:
    """A sequence is mapped; a camera is dropped somewhere else, and should not be recognised."""
    mapper, witness = _witnessed(predictor, config)
    mapped = list(open_sequence(folder))
    map_sequence(mapped, mapper, None)
    others = [replace(f, index=f.index + len(mapped)) for f in open_sequence(strangers)]
    seen = [bool(_dropped(mapper, witness, piece)) for piece in _pieces(others, config)]
    return {"dropped": len(seen), "recognised": sum(seen)}


def _witnessed(predictor: Predictor, config: MapperConfig) -> tuple[Mapper, Witness]:
    mapper = Mapper(predictor, config)
    witness = Witness(config, mapper.shelf, mapper.loop_detector.bridges.ask)
    witness.verdicts, mapper.loop_detector = [], witness
    return mapper, witness


def _pieces(frames: list[Frame], config: MapperConfig) -> Iterator[list[Frame]]:
    """As many images as two chunks take, if each is a keyframe."""
    length = config.chunks.first_size + (TRIES - 1) * (config.chunks.size - config.chunks.overlap)
    for begin in range(0, len(frames) - length, length):
        yield frames[begin : begin + length]


def _dropped(mapper: Mapper, witness: Witness, piece: list[Frame]) -> list[Verdict]:
    """Where a camera that is put down there is recognised."""
    mapper.set_localising(True)
    witness.verdicts = []
    for frame in piece:
        mapper.add_frame(frame)
    mapper.flush()
    return [v for v in witness.verdicts if v.edge is not None]


def _true_poses(truth: Trajectory, stamps_ns: list[int]) -> Float[ndarray, "n 4 4"]:
    known = np.array(sorted(truth))
    return np.stack([truth[int(known[np.abs(known - s).argmin()])] for s in stamps_ns])


def _same_place(
    A: Float[ndarray, "n 4 4"], B: Float[ndarray, "m 4 4"], radius: float
) -> Bool[ndarray, "n m"]:
    apart = np.linalg.norm(A[:, None, :3, 3] - B[None, :, :3, 3], axis=2)
    axes = np.clip(A[:, :3, 2] @ B[:, :3, 2].T, -1, 1)
    return (apart < radius) & (axes > np.cos(np.radians(MAX_TURN_DEG)))


def _error(truth: Trajectory, verdict: Verdict) -> tuple[float, float]:
    """Turn [deg] and distance [m] by which the measured place of the new keyframe, seen from the
    old one, is off; the old submap's unit is what its own way says."""
    assert verdict.edge is not None
    (old, at), (new, now) = verdict.old, verdict.new
    T_new = verdict.edge.T_target_source.apply_pose(new.T_submap_cam[now])
    measured = invert_pose(old.T_submap_cam[at]) @ T_new
    true_old, true_new = (_true_poses(truth, list(s.stamps_ns)) for s in (old, new))
    ways = [
        float(np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum())
        for T in (true_old, old.T_submap_cam)
    ]
    measured[:3, 3] *= ways[0] / max(ways[1], 1e-9)
    difference = invert_pose(invert_pose(true_old[at]) @ true_new[now]) @ measured
    turn = float(np.degrees(Rotation.from_matrix(difference[:3, :3]).magnitude()))
    return turn, float(np.linalg.norm(difference[:3, 3]))
