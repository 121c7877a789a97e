"""The graph: a closed loop takes the drift out."""

import numpy as np

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import PoseGraphConfig
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.types import Edge

INFORMATION = np.diag([1e4] * 3 + [1e4] * 3 + [1e4])


def ring(count: int) -> list[Sim3]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [Sim3.exp(np.array([0, 0, a, 0, 0, 0, 0.1 * np.sin(a)])) for a in angles]


def drifted(truth: list[Sim3], rng: np.random.Generator) -> PoseGraph:
    graph = PoseGraph(PoseGraphConfig())
    place = truth[0]
    graph.add_submap(0, place, fixed=True)
    for i in range(1, len(truth)):
        step = truth[i - 1].inverse() @ truth[i] @ Sim3.exp(rng.normal(0, 0.01, 7))
        place = graph.poses[i - 1] @ step
        graph.add_submap(i, place)
        graph.add_edge(Edge(i, i - 1, step, INFORMATION, "overlap", 1.0, 0.0))
        graph.optimise()
    return graph


def worst(graph: PoseGraph, truth: list[Sim3]) -> float:
    return max(
        float(np.linalg.norm((truth[i].inverse() @ graph.poses[i]).log()))
        for i in range(len(truth))
    )


def test_a_loop_pulls_the_chain_back(rng):
    truth = ring(24)
    graph = drifted(truth, rng)
    before = worst(graph, truth)
    loop = truth[0].inverse() @ truth[-1]
    edge = Edge(len(truth) - 1, 0, loop, INFORMATION, "loop", 1.0, 0.0)
    open_by = np.linalg.norm(graph.residual(edge))
    graph.add_edge(edge)
    moved = graph.optimise()
    assert len(moved) > 10
    assert worst(graph, truth) < 0.7 * before
    assert np.linalg.norm(graph.residual(edge)) < 0.5 * open_by


def test_a_pose_keeps_no_solution_of_the_whole_graph(rng):
    """A view of it would: memory that grows with the square of the way."""
    graph = PoseGraph(PoseGraphConfig())
    for i in range(24):
        graph.add_submap(
            i, Sim3(np.eye(3), np.array([i, 0, 0]) + rng.normal(0, 0.01, 3)), fixed=not i
        )
        if i:
            step = Sim3(np.eye(3), np.array([1.0, 0, 0]))
            graph.add_edge(Edge(i, i - 1, step, INFORMATION, "overlap", 1.0, 0.0))
        assert bool(graph.optimise()) == (i > 0)
    for T in graph.poses.values():
        for array in (T.R, T.t):
            whole = array if array.base is None else array.base
            assert whole.size <= 16, f"{array.shape} keeps {whole.shape}"


def test_incremental_and_batch_agree(rng):
    graph = drifted(ring(12), rng)
    online = {i: T.as_matrix() for i, T in graph.poses.items()}
    graph.optimise_batch()
    for index, T in graph.poses.items():
        np.testing.assert_allclose(T.as_matrix(), online[index], atol=2e-3)


def test_covariance_grows_with_distance_from_the_fixed_submap(rng):
    graph = drifted(ring(12), rng)
    spread = [np.trace(graph.covariance(i)) for i in range(12)]
    assert spread[0] < spread[3] < spread[11]


def test_false_loops_are_refused_and_true_ones_kept_in_whatever_order_they_come(rng):
    truth = ring(40)
    graph = drifted(truth, rng)
    before = worst(graph, truth)
    wanted = {}
    for old, new, true in ((0, 39, True), (3, 20, False), (1, 38, True), (8, 30, False)):
        relation = truth[old].inverse() @ truth[new] if true else Sim3.exp(rng.normal(0, 0.1, 7))
        wanted[len(graph.edges)] = true
        graph.add_edge(Edge(new, old, relation, INFORMATION, "loop", 1.0, 0.0))
        graph.optimise()
    assert graph.refused == {position for position, true in wanted.items() if not true}
    assert graph.loops == 2
    assert worst(graph, truth) < 0.7 * before


def test_the_one_loop_that_joins_two_pieces_is_kept(rng):
    truth = ring(24)
    graph = drifted(truth, rng)
    graph.add_submap(24, truth[0], fixed=True)
    joint = Edge(24, 5, Sim3.exp(np.full(7, 0.2)), INFORMATION, "loop", 1.0, 0.0)
    graph.add_edge(joint)
    graph.optimise()
    assert not graph.refused and graph.piece(24) == 0
    np.testing.assert_allclose(graph.residual(joint), 0, atol=1e-6)


def test_kilometres_of_a_chain_are_taken_in_one_by_one(rng, caplog):
    """Cholesky found such a graph indeterminate after 275 submaps."""
    step = Sim3(np.eye(3), np.array([0.0, -0.64, 0.0]), 1.0)
    information = np.diag([1e6] * 3 + [1.6e6] * 3 + [3e3])
    graph = PoseGraph(PoseGraphConfig())
    graph.add_submap(0, Sim3.identity(), fixed=True)
    for i in range(1, 400):
        measured = step @ Sim3.exp(rng.normal(0, 1e-3, 7))
        graph.add_submap(i, graph.poses[i - 1] @ measured)
        graph.add_edge(Edge(i, i - 1, measured, information, "overlap", 1.0, 0.0))
        graph.optimise()
    assert "iSAM2" not in caplog.text
    assert np.isfinite(graph.covariance(399)).all()
    assert graph.covariance(399)[3, 3] > graph.covariance(10)[3, 3]


def tilt(T: Sim3) -> float:
    """Angle between the submap's vertical, which is its own z here, and the map's."""
    return float(np.arccos(np.clip(T.R[2, 2], -1, 1)))


def heading(T: Sim3) -> float:
    return float(np.arctan2(T.R[1, 0], T.R[0, 0]))


def test_what_an_imu_says_holds_the_tilt_and_leaves_the_heading(rng):
    """A chain that rolls by half a degree a step and turns by 15, all the way round."""
    bend = Sim3.exp(np.array([0.009, 0, np.radians(15), 0, 0, 0, 0.0]))
    forward = Sim3(bend.R, np.array([1.0, 0, 0]), 1.0)
    free, held = PoseGraph(PoseGraphConfig()), PoseGraph(PoseGraphConfig())
    for graph in (free, held):
        graph.add_submap(0, Sim3.identity(), fixed=True)
        for i in range(1, 25):
            graph.add_submap(i, graph.poses[i - 1] @ forward)
            graph.add_edge(Edge(i, i - 1, forward, INFORMATION, "overlap", 1.0, 0.0))
            if graph is held:
                up = np.array([0, 0, 1.0]) + rng.normal(0, 0.01, 3)
                graph.add_level(i, 9.81 * up, 0.02)
            graph.optimise()
    assert max(map(tilt, held.poses.values())) < 0.3 * max(map(tilt, free.poses.values()))
    step = heading(held.poses[12]) - heading(held.poses[11])
    assert abs((step + np.pi) % (2 * np.pi) - np.pi - np.radians(15)) < 0.01
    held.optimise_batch()  # the factors are made anew, from where the submaps are now
    assert max(map(tilt, held.poses.values())) < 0.3 * max(map(tilt, free.poses.values()))


def test_one_wrong_word_about_the_tilt_is_borne(rng):
    """An IMU that was shaken says half a right angle once."""
    forward = Sim3(np.eye(3), np.array([1.0, 0, 0]), 1.0)
    graph = PoseGraph(PoseGraphConfig())
    graph.add_submap(0, Sim3.identity(), fixed=True)
    for i in range(1, 12):
        graph.add_submap(i, graph.poses[i - 1] @ forward)
        graph.add_edge(Edge(i, i - 1, forward, INFORMATION, "overlap", 1.0, 0.0))
        up = np.array([0, 1, 1.0]) if i == 6 else np.array([0, 0, 1.0])
        graph.add_level(i, up, 0.035)
        graph.optimise()
    assert max(map(tilt, graph.poses.values())) < 0.03
