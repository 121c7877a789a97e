"""Kilometres, simulated: three back ends on identical chunks along true trajectories.

Ours; a chain of Sim(3)s between neighbours (VGGT-Long's and Scal3R's way); and that chain after the
published kind of loop optimiser: a pose graph without weights, robust kernel or gauge (Scal3R 3.3).
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gtsam
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from tqdm import tqdm

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.data.tum import Trajectory, read_trajectory
from scal3r_ros.evaluation.chunk_simulator import (
    ChunkErrors,
    ChunkSimulator,
    Revisit,
    SimulatedChunk,
    submap_relation,
)
from scal3r_ros.evaluation.neighbour_chain import chain, fit_neighbour, owned_frames
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import PoseGraphConfig, RegistrationConfig
from scal3r_ros.mapping.place_match import loop_information
from scal3r_ros.mapping.pose_graph import PoseGraph, from_gtsam, to_gtsam
from scal3r_ros.mapping.registration import overlap_edges, points_of, shared_frames
from scal3r_ros.mapping.trajectory import keyframe_poses
from scal3r_ros.mapping.types import Edge, Submap

METHODS = ("ours", "chain", "chain, loops unweighted")
GAP = 100  # frames between two visits
APART = 25  # frames between two loops of the same places
ROUNDS = 30  # of the published optimiser


@dataclass(frozen=True)
class Setting:
    """One run."""

    level: float = 1.0  # of the errors
    false_loops: float = 0.0  # share of all loops
    chunk: int = 48  # frames
    stride: int = 16
    every: int = 2  # frames of the trajectory: one of so many is a keyframe
    seed: int = 0


@dataclass(eq=False)
class Run:
    """Identical input of all back ends."""

    T_world_cam: Float[ndarray, "n 4 4"]
    chunks: list[SimulatedChunk]
    revisits: list[Revisit]
    setting: Setting
    holders: dict[int, int] = field(default_factory=dict)  # frame -> chunk that shows it best

    @property
    def submaps(self) -> list[Submap]:
        return [c.submap for c in self.chunks]


def read_poses(path: Path) -> Float[ndarray, "n 4 4"]:
    """T_world_cam of a KITTI odometry file, twelve numbers a line, or of one in TUM form."""
    try:
        rows = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise SequenceError(f"{path} cannot be read: {error}") from error
    if rows.shape[1] == 8:
        return np.stack([T for _, T in sorted(read_trajectory(path).items())])
    if rows.shape[1] != 12:
        raise SequenceError(f"{path}: 12 or 8 numbers a line expected, got {rows.shape[1]}")
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, :3] = rows.reshape(-1, 3, 4)
    return T


def simulate(T_world_cam: Float[ndarray, "n 4 4"], setting: Setting) -> Run:
    """Chunks, loops, and what is false among them."""
    T = T_world_cam[:: setting.every]
    simulator = ChunkSimulator(T, ChunkErrors().at(setting.level), setting.seed)
    chunks, begin, shared = [], 0, 0
    while True:
        end = min(begin + setting.chunk, len(T))
        chunks.append(simulator.chunk(len(chunks), range(begin, end), shared))
        if end == len(T):
            break
        shared = setting.chunk - setting.stride
        begin = end - shared
    run = Run(T, chunks, simulator.revisits(GAP, APART, setting.false_loops), setting)
    best: dict[int, int] = {}
    for index, chunk in enumerate(chunks):
        frames = chunk.submap.frame_indices
        for slot, frame in enumerate(frames):
            inner = min(slot, len(frames) - 1 - slot)
            if inner >= best.get(frame, -1):
                best[frame], run.holders[frame] = inner, index
    return run


def compare(T_world_cam: Float[ndarray, "n 4 4"], setting: Setting) -> dict[str, Any]:
    """ATE [m], Sim(3)-aligned over all frames, and seconds of every back end."""
    run = simulate(T_world_cam, setting)
    results: dict[str, Any] = {
        "frames": len(run.T_world_cam),
        "chunks": len(run.chunks),
        "loops": sum(r.true for r in run.revisits),
        "false loops": sum(not r.true for r in run.revisits),
    }
    neighbours, seconds = _neighbours(run)
    for method in METHODS:
        began = time.perf_counter()
        if method == "ours":
            poses = _ours(run)
        else:
            placed = chain(neighbours)
            if method != "chain":
                placed = _unweighted(placed, neighbours, run)
            poses = _owned_poses(run, placed)
        taken = time.perf_counter() - began + (0.0 if method == "ours" else seconds)
        truth: Trajectory = {i: T for i, T in enumerate(run.T_world_cam)}
        results[method] = {"ate": evaluate(truth, poses).ate_rmse, "seconds": taken}
    return results


def _ours(run: Run) -> Trajectory:
    """As the mapper does it, online: registration, graph, loops as they come."""
    graph = PoseGraph(PoseGraphConfig())
    placed: list[Submap] = []
    waiting = list(run.revisits)
    for chunk in run.chunks:
        submap = chunk.submap
        edges = overlap_edges(submap, placed, RegistrationConfig())
        placed.append(submap)
        if edges:
            nearest = max(edges, key=lambda edge: edge.target)
            place = placed[nearest.target].T_map_submap @ nearest.T_target_source
        else:
            place = Sim3.identity() if len(placed) == 1 else placed[-2].T_map_submap
        graph.add_submap(submap.index, place, fixed=not edges)
        submap.T_map_submap = place
        for edge in edges:
            graph.add_edge(edge)
        due = [r for r in waiting if run.holders[r.new] <= submap.index]
        waiting = [r for r in waiting if run.holders[r.new] > submap.index]
        for revisit in due:
            edge = _loop_edge(run, revisit)
            if edge is not None:
                graph.add_edge(edge)
        for index, T in graph.optimise().items():
            placed[index].T_map_submap = T
    for index, T in graph.optimise_batch().items():
        placed[index].T_map_submap = T
    return keyframe_poses(placed)


def _loop_edge(run: Run, revisit: Revisit) -> Edge | None:
    old, new = (run.chunks[run.holders[frame]] for frame in (revisit.old, revisit.new))
    if old is new or shared_frames(old.submap, new.submap):
        return None
    slot = old.submap.frame_indices.index(revisit.old)
    depth = float(np.median(old.submap.depth[slot].astype(np.float64)))
    T = submap_relation(revisit, old, new)
    information = loop_information(np.zeros(7), depth, T.s)
    return Edge(new.submap.index, old.submap.index, T, information, "loop", 1.0, 0.0)


def _neighbours(run: Run) -> tuple[list[Sim3], float]:
    """T_j_j+1 by the published fit, and the seconds that it took."""
    began = time.perf_counter()
    found = []
    for target, source in zip(run.submaps, run.submaps[1:], strict=False):
        i, j = (list(slots) for slots in zip(*shared_frames(source, target), strict=True))
        _, xyz_i, confidence_i = points_of(source, i)
        _, xyz_j, confidence_j = points_of(target, j)
        found.append(
            fit_neighbour(
                xyz_j.reshape(-1, 3),
                xyz_i.reshape(-1, 3),
                confidence_j.reshape(-1),
                confidence_i.reshape(-1),
            )
        )
    return found, time.perf_counter() - began


def _unweighted(placed: list[Sim3], neighbours: list[Sim3], run: Run) -> list[Sim3]:
    edges = [_loop_edge(run, revisit) for revisit in run.revisits]
    loops = [((e.source, e.target), e.T_target_source) for e in edges if e is not None]
    return unweighted_graph(placed, neighbours, loops)


def unweighted_graph(
    placed: list[Sim3], neighbours: list[Sim3], loops: list[tuple[tuple[int, int], Sim3]]
) -> list[Sim3]:
    """The published kind of optimiser: all relations count alike, false ones too; the first chunk
    keeps its place. `neighbours` are T_j_j+1, loops ((i, j), T_j_i)."""
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    noise = gtsam.noiseModel.Unit.Create(7)
    for index, T in enumerate(placed):
        values.insert(index, to_gtsam(T))
    graph.add(gtsam.PriorFactorSimilarity3(0, to_gtsam(placed[0]), noise))
    for index, T in enumerate(neighbours):
        graph.add(gtsam.BetweenFactorSimilarity3(index, index + 1, to_gtsam(T), noise))
    for (source, target), T in loops:
        graph.add(gtsam.BetweenFactorSimilarity3(target, source, to_gtsam(T), noise))
    parameters = gtsam.LevenbergMarquardtParams()
    parameters.setMaxIterations(ROUNDS)
    solved = gtsam.LevenbergMarquardtOptimizer(graph, values, parameters).optimize()
    return [from_gtsam(solved.atSimilarity3(index)) for index in range(len(placed))]


def _owned_poses(run: Run, placed: list[Sim3]) -> Trajectory:
    """Every frame from about the middle of its chunk, as published."""
    lengths = [len(s.frame_indices) for s in run.submaps]
    poses: Trajectory = {}
    owned = owned_frames(lengths, run.setting.chunk - run.setting.stride)
    for submap, T, keep in zip(run.submaps, placed, owned, strict=True):
        for slot in np.flatnonzero(keep):
            poses[submap.frame_indices[slot]] = T.apply_pose(submap.T_submap_cam[slot])
    return poses


def sweep(
    folder: Path, levels: tuple[float, ...], false_loops: tuple[float, ...], seed: int
) -> dict[str, Any]:
    """Every pose file of a folder at every level of errors and share of false loops."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise SequenceError(f"{folder} holds no pose files (*.txt)")
    settings = [Setting(level, share, seed=seed) for level in levels for share in false_loops]
    runs = []
    with tqdm(total=len(files) * len(settings), unit="run") as bar:
        for file in files:
            T_world_cam = read_poses(file)
            for setting in settings:
                runs.append({"sequence": file.stem, **vars(setting)})
                runs[-1] |= compare(T_world_cam, setting)
                bar.update()
    return {"methods": METHODS, "runs": runs}


def averages(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Over the sequences, for every level and share: ATE and seconds of each method, and how ours
    compares with the better of the others."""
    rows = []
    keys = sorted({(run["level"], run["false_loops"]) for run in result["runs"]})
    for level, share in keys:
        runs = [r for r in result["runs"] if (r["level"], r["false_loops"]) == (level, share)]
        ate = {m: float(np.mean([r[m]["ate"] for r in runs])) for m in METHODS}
        seconds = {m: float(np.mean([r[m]["seconds"] for r in runs])) for m in METHODS}
        best = float(np.mean([min(r[m]["ate"] for m in METHODS[1:]) for r in runs]))
        rows.append({"level": level, "false_loops": share, "ate": ate, "seconds": seconds})
        rows[-1]["ratio"] = ate[METHODS[0]] / best
    return rows


def table(result: dict[str, Any]) -> str:
    lines = ["| errors | false loops | " + " | ".join(METHODS) + " | ours / better of the two |"]
    lines.append("|---|---|" + "---|" * (len(METHODS) + 1))
    for row in averages(result):
        cells = [f"{row['ate'][m]:.2f} m ({row['seconds'][m]:.1f} s)" for m in METHODS]
        lines.append(
            f"| x {row['level']:g} | {row['false_loops']:.0%} | {' | '.join(cells)} "
            f"| {row['ratio']:.2f} |"
        )
    return "\n".join(lines)
