"""The simulated kilometres: honest input, and a back end that stands false loops."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.evaluation.backend import (
    METHODS,
    Setting,
    compare,
    read_poses,
    simulate,
    table,
    unweighted_graph,
)
from scal3r_ros.evaluation.chunk_simulator import ChunkErrors, ChunkSimulator, submap_relation
from scal3r_ros.evaluation.neighbour_chain import chain
from scal3r_ros.evaluation.stored_graphs import read_graphs, solve_graphs
from scal3r_ros.geometry.sim3 import Sim3

PARITY = Path(__file__).parents[3] / "shared" / "parity"
OURS, CHAIN, UNWEIGHTED = METHODS


@pytest.fixture(scope="module")
def rounds():
    """Twice around a block, 500 m."""
    angle = np.linspace(0, 4 * np.pi, 500)
    T = np.tile(np.eye(4), (500, 1, 1))
    T[:, 0, 3], T[:, 2, 3] = 40 * np.cos(angle), 40 * np.sin(angle)
    T[:, :3, :3] = Rotation.from_rotvec(np.outer(-angle, [0.0, 1.0, 0.0])).as_matrix()
    return T


def test_without_errors_chunks_differ_from_the_truth_by_their_unit_only(rounds):
    simulator = ChunkSimulator(rounds, ChunkErrors().at(0.0), seed=1)
    made = simulator.chunk(0, range(40, 60), 0)
    unit = made.units[0]
    true = np.linalg.inv(rounds[49]) @ rounds[40:60]
    np.testing.assert_allclose(made.units, unit)
    np.testing.assert_allclose(made.submap.T_submap_cam[:, :3, 3], unit * true[:, :3, 3], atol=1e-9)
    assert 0.2 < np.mean(made.submap.depth.astype(float)) < 5  # normalised, as a network does


def test_a_revisit_relates_submaps_of_different_units(rounds):
    simulator = ChunkSimulator(rounds, ChunkErrors().at(0.0), seed=2)
    old, new = simulator.chunk(0, range(0, 20), 0), simulator.chunk(1, range(250, 270), 0)
    found = simulator.revisits(100, 1, 0.0)
    revisit = next(r for r in found if r.old < 20 and 250 <= r.new < 270)
    relation = submap_relation(revisit, old, new)
    world = [
        Sim3.from_pose(rounds[k]) @ Sim3(np.eye(3), np.zeros(3), 1 / c.units[0])
        for k, c in ((9, old), (259, new))
    ]
    np.testing.assert_allclose(
        relation.as_matrix(), (world[0].inverse() @ world[1]).as_matrix(), atol=1e-6
    )


def test_the_same_seed_gives_the_same_input(rounds):
    first, second = (simulate(rounds, Setting(false_loops=0.4, seed=5)) for _ in range(2))
    for a, b in zip(first.submaps, second.submaps, strict=True):
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.T_submap_cam, b.T_submap_cam)
    assert [(r.old, r.new, r.true) for r in first.revisits] == [
        (r.old, r.new, r.true) for r in second.revisits
    ]
    false = [r for r in first.revisits if not r.true]
    assert len(false) >= 3 and len(false) < len(first.revisits)


@pytest.mark.parametrize("false_loops", [0.0, 0.4])
def test_ours_is_at_most_half_as_wrong_as_the_better_of_the_others(rounds, false_loops):
    found = [compare(rounds, Setting(false_loops=false_loops, every=1, seed=s)) for s in range(3)]
    ours = np.mean([r[OURS]["ate"] for r in found])
    others = np.mean([min(r[CHAIN]["ate"], r[UNWEIGHTED]["ate"]) for r in found])
    assert ours <= 0.5 * others, table({"runs": [{"level": 1.0, "false_loops": 0, **found[0]}]})
    if false_loops:
        assert all(r[UNWEIGHTED]["ate"] > 3 * r[OURS]["ate"] for r in found)


def test_pose_files_of_kitti_and_tum_are_read_and_others_refused(tmp_path):
    kitti, tum, other = (tmp_path / f"{name}.txt" for name in ("kitti", "tum", "other"))
    kitti.write_text("1 0 0 5 0 1 0 6 0 0 1 7\n" * 2)
    tum.write_text("0.0 5 6 7 0 0 0 1\n0.1 5 6 7 0 0 0 1\n")
    other.write_text("1 2 3\n")
    np.testing.assert_array_equal(read_poses(kitti), read_poses(tum))
    with pytest.raises(SequenceError, match="12 or 8 numbers a line expected, got 3"):
        read_poses(other)
    with pytest.raises(SequenceError, match="nowhere"):
        read_poses(Path(tmp_path / "nowhere.txt"))


def test_the_published_optimiser_is_well_imitated_and_ours_leaves_less_of_every_relation():
    """On the two graphs that the official program solved, which makes the sum of squares small."""
    if not PARITY.is_dir():
        pytest.skip(f"{PARITY} is not here")
    chunks = json.loads((PARITY / "loop.json").read_text())
    graphs = read_graphs(load_file(PARITY / "pgo.safetensors"), chunks)
    ring = graphs["ring of 20 chunks"]
    imitated = unweighted_graph(chain(ring.neighbours), ring.neighbours, ring.loops)
    apart = max(np.linalg.norm(a.t - b.t) for a, b in zip(ring.official, imitated, strict=True))
    assert apart < 0.01 * max(np.linalg.norm(T.t) for T in ring.official)

    found = solve_graphs(graphs)
    for graph in found.values():
        ours, official = graph["ours"], graph["official"]
        assert all(ours[measure] < official[measure] for measure in official)
        assert official["sum of squares"] < graph["chain"]["sum of squares"]
    closed = found["ring of 20 chunks"]
    assert closed["ours"]["loops"] < 0.5 * closed["official"]["loops"]
