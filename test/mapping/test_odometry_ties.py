"""The robot's odometry in the graph: across breaks, beside images, and against loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.evaluation.trajectory import align
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import (
    ChunkConfig,
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
    PoseGraphConfig,
    RefinementConfig,
    ScaleConfig,
)
from scal3r_ros.mapping.map_folder import read_map, restore, save_map
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.types import Edge
from test.conftest import TruthPredictor

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.0, standstill_flow=0.0, max_gap_s=2.0),
    chunks=ChunkConfig(8, 4, 8),
    refinement=RefinementConfig(enabled=False),
    loops=LoopConfig(enabled=False),  # or the pieces are joined because a place is recognised
    scale=ScaleConfig(source="odometry", min_baseline=0.1, lock_after=2),
)
SURE, TIE = np.diag([1e4] * 7), np.diag([1e3] * 3 + [4e2] * 3 + [10.0])
FORWARD = Sim3(np.eye(3), np.array([1.0, 0, 0]), 1.0)


def broken(walk, *, odometry: bool):
    """The walk without images 30 to 39, half a minute apart; odometry went on."""
    frames = walk.frames[:30] + walk.frames[40:]
    late = [replace(f, stamp_ns=f.stamp_ns + (f.index >= 40) * 30 * 10**9) for f in frames]
    if not odometry:
        return late
    return [replace(f, T_odom_cam=walk.T_world_cam[f.index]) for f in late]


def mapped(walk, *, odometry: bool) -> Mapper:
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    if not odometry:
        mapper.set_scale(1.0)
    map_sequence(broken(walk, odometry=odometry), mapper, None)
    return mapper


def test_odometry_leads_across_a_break(walk, caplog):
    mapper = mapped(walk, odometry=True)
    assert mapper.metric.metric and mapper.graph.gauges == [0]
    assert "odometry alone leads to it" in caplog.text
    poses = mapper.keyframe_poses()
    found = np.stack(list(poses.values()))[:, :3, 3]
    true = walk.T_world_cam[list(poses), :3, 3]
    way = np.linalg.norm(np.diff(true, axis=0), axis=1).sum()
    fit = align(true, found, "se3")
    apart = np.linalg.norm(fit.apply(found) - true, axis=1)
    assert apart.max() < 0.03 * way


def test_without_odometry_a_break_begins_a_new_piece(walk):
    mapper = mapped(walk, odometry=False)
    assert len(mapper.graph.gauges) == 2
    assert all(edge.kind == "overlap" for edge in mapper.graph.edges)


def test_nothing_is_tied_while_a_metre_is_unknown(walk):
    mapper = Mapper(TruthPredictor(walk.clip), replace(CONFIG, scale=ScaleConfig(source="none")))
    map_sequence(broken(walk, odometry=True), mapper, None)
    assert len(mapper.graph.gauges) == 2
    assert all(edge.kind == "overlap" for edge in mapper.graph.edges)


def test_a_saved_map_keeps_its_bridge(walk, tmp_path):
    mapper = mapped(walk, odometry=True)
    save_map(tmp_path / "map", mapper)
    again = Mapper(TruthPredictor(walk.clip), CONFIG)
    restore(again, read_map(tmp_path / "map"))
    assert again.graph.gauges == [0]
    assert len({again.graph.piece(s.index) for s in again.submaps}) == 2  # images tie two pieces
    for index, T in mapper.graph.poses.items():
        np.testing.assert_allclose(again.graph.poses[index].as_matrix(), T.as_matrix(), atol=1e-3)


def chain(graph: PoseGraph, first: int, count: int, begin: Sim3 | None = None) -> None:
    """Submaps a unit apart; without a beginning, the first of them must have an edge already."""
    if begin is not None:
        graph.add_submap(first, begin, fixed=True)
    for i in range(first + 1, first + count):
        graph.add_submap(i, graph.poses[i - 1] @ FORWARD)
        graph.add_edge(Edge(i, i - 1, FORWARD, SURE, "overlap", 1.0, 0.0))
    graph.optimise()


def bridged(relation: Sim3) -> PoseGraph:
    """Two chains of ten; odometry says how the second continues the first."""
    graph = PoseGraph(PoseGraphConfig())
    chain(graph, 0, 10, Sim3.identity())
    graph.add_submap(10, graph.poses[9] @ relation)
    graph.add_edge(Edge(10, 9, relation, TIE, "odometry", 1.0, 0.0))
    chain(graph, 10, 10)
    return graph


def loop(graph: PoseGraph, old: int, new: int, relation: Sim3) -> None:
    graph.add_edge(Edge(new, old, relation, SURE, "loop", 1.0, 0.0))
    graph.optimise()


@pytest.mark.parametrize("turn", [0.0, 2.5])
def test_loops_overrule_a_camera_that_was_carried_while_the_wheels_stood(turn):
    """Odometry says it is where it was; two loops say it is back at the start, and turned."""
    graph = bridged(Sim3.identity())
    R = Rotation.from_euler("z", turn).as_matrix()
    T_2_11 = Sim3(R, np.array([0.0, 0.5, 0.0]), 1.0)
    loop(graph, 2, 11, T_2_11)
    loop(graph, 2, 13, T_2_11 @ FORWARD @ FORWARD)
    assert graph.refused == {9} and graph.loops == 2  # the bridge
    assert graph.piece(11) == 0 and graph.gauges == [0]
    found = graph.poses[2].inverse() @ graph.poses[11]
    np.testing.assert_allclose(found.as_matrix(), T_2_11.as_matrix(), atol=0.02)


def test_a_false_loop_does_not_overrule_a_bridge_that_true_ones_bear_out():
    graph = bridged(FORWARD)
    back = Sim3(np.eye(3), np.array([9.0, 0.0, 0.0]), 1.0)
    loop(graph, 3, 12, back)
    loop(graph, 4, 16, Sim3(np.eye(3), np.array([-3.0, 2.0, 0.0]), 1.0))
    assert [graph.edges[i].source for i in graph.refused] == [16]
    np.testing.assert_allclose(graph.poses[19].t, [19, 0, 0], atol=0.1)


def test_pieces_with_and_without_odometry_join_into_one():
    """A break without odometry, then one with; a loop from the last piece to the first moves both
    younger ones, and one gauge is left."""
    graph = PoseGraph(PoseGraphConfig())
    chain(graph, 0, 5, Sim3.identity())
    chain(graph, 5, 5, Sim3(np.eye(3), np.array([50.0, 0, 0]), 1.0))
    graph.add_submap(10, graph.poses[9] @ FORWARD)
    graph.add_edge(Edge(10, 9, FORWARD, TIE, "odometry", 1.0, 0.0))
    chain(graph, 10, 5)
    loop(graph, 0, 12, Sim3(np.eye(3), np.array([0.0, 3.0, 0.0]), 1.0))
    assert graph.gauges == [0] and not graph.refused
    np.testing.assert_allclose(graph.poses[12].t, [0, 3, 0], atol=1e-3)
    np.testing.assert_allclose(graph.poses[5].t, [-7, 3, 0], atol=1e-3)


def test_odometry_holds_the_heading_of_a_chain_that_images_bend(rng):
    """Half a degree a submap, always the same way, as a network may; wheels err to both sides."""
    bend = Sim3(Rotation.from_euler("z", 0.01).as_matrix(), np.array([1.0, 0, 0]), 1.0)
    free, held = PoseGraph(PoseGraphConfig()), PoseGraph(PoseGraphConfig())
    for graph in (free, held):
        graph.add_submap(0, Sim3.identity(), fixed=True)
        for i in range(1, 40):
            graph.add_submap(i, graph.poses[i - 1] @ bend)
            graph.add_edge(Edge(i, i - 1, bend, np.diag([2.5e3] * 7), "overlap", 1.0, 0.0))
            if graph is held:
                turn = Rotation.from_euler("z", rng.normal(0, 0.005)).as_matrix()
                tie = Sim3(turn, np.array([1.0, 0, 0]), 1.0)
                graph.add_edge(Edge(i, i - 1, tie, SURE, "odometry", 1.0, 0.0))
            graph.optimise()
    off = [np.linalg.norm(graph.poses[39].t - [39, 0, 0]) for graph in (free, held)]
    assert off[1] < 0.4 * off[0]
