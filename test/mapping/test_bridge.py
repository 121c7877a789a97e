"""Bridge chunks: what the network says of two places is believed where all of it fits."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.bridge import _mutual
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.registration import on_grid
from scal3r_ros.mapping.types import ChunkTooLargeError
from test.mapping.test_loops import CONFIG, Describing
from test.mapping.test_registration import TRUTH, submap

# no features: whatever is tied here is tied by the network
ALONE = replace(CONFIG, loops=replace(CONFIG.loops, min_inliers=10**6, bridges_per_chunk=2))


class Bridging(Describing):
    """Knows the truth of every chunk; `relation` changes what it says of a bridge's new place."""

    def __init__(self, clip, relation=None, noise=0.0) -> None:
        super().__init__(clip)
        self.relation, self.noise, self.bridges = relation, noise, 0

    def predict(self, chunk, memory, *, write=True):
        prediction, memory = super().predict(chunk, memory, write=write)
        assert not (write and chunk.index < 0)  # a bridge is not remembered
        rng = np.random.default_rng(len(chunk.frames) + chunk.frames[0].index)
        waves = 1 + self.noise * rng.normal(0, 1, (len(prediction.depth), 3, 4))
        height, width = prediction.depth.shape[1:]
        field = np.kron(waves, np.ones((-(-height // 3), -(-width // 4))))[:, :height, :width]
        prediction = replace(prediction, depth=(prediction.depth * field).astype(np.float32))
        if chunk.index >= 0:
            return prediction, memory
        self.bridges += 1
        if self.relation is None:
            return prediction, memory
        T = prediction.T_submap_cam.copy()
        new = np.array([f.index for f in chunk.frames]) >= 28
        T[new] = self.relation(self.bridges, T[new], T[~new])
        return replace(prediction, T_submap_cam=T), memory


def mapped(world, network, config=ALONE) -> Mapper:
    mapper = Mapper(network, config)
    map_sequence(world.frames, mapper, None)
    return mapper


def loops_of(mapper: Mapper) -> list:
    return [e for e in mapper.graph.edges if e.kind == "loop"]


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_places_are_tied_by_the_network_alone(there_and_back, noise):
    """Views that share no feature; depth that is 3 % off here and there."""
    network = Bridging(there_and_back.clip, noise=noise)
    mapper = mapped(there_and_back, network)
    loops = loops_of(mapper)
    assert network.bridges > len(loops) >= 1
    assert mapper.memory == mapper.counters.chunks  # no bridge is counted
    for edge in loops:
        old, new = (mapper.submaps[i] for i in (edge.target, edge.source))
        T = [there_and_back.T_world_cam[s.frame_indices[0]] for s in (old, new)]
        T_old_new = (
            old.T_submap_cam[0] @ invert_pose(T[0]) @ T[1] @ invert_pose(new.T_submap_cam[0])
        )
        turned = Rotation.from_matrix(edge.T_target_source.R.T @ T_old_new[:3, :3])
        assert np.degrees(turned.magnitude()) < 2.0


def test_one_bridge_is_not_enough(there_and_back):
    """Only one candidate is ever asked about, of a whole way back."""

    class Once(Bridging):
        def predict(self, chunk, memory, *, write=True):
            if chunk.index < 0 and self.bridges:
                raise ChunkTooLargeError("no room for a second bridge", 4)
            return super().predict(chunk, memory, write=write)

    mapper = mapped(there_and_back, Once(there_and_back.clip))
    assert mapper.predictor.bridges == 1
    assert loops_of(mapper) == []
    assert mapper.counters.chunks_discarded == 0  # the chunk itself was mapped


def turned_anew(bridge, new, old):
    """Another relation every time: rolled and shifted along the wall it looks at."""
    roll = np.eye(4)
    roll[:3, :3] = Rotation.from_euler("z", 25.0 * (-1) ** bridge, degrees=True).as_matrix()
    return new @ roll


def beside(bridge, new, old):
    """The same wrong relation every time, which no depth confirms."""
    return np.array([[1.0, 0, 0, 0.6], [0, 1, 0, 0], [0, 0, 1, -0.8], [0, 0, 0, 1]]) @ new


@pytest.mark.parametrize("relation", [turned_anew, beside])
def test_a_network_that_errs_about_the_relation_closes_no_loop(there_and_back, relation):
    network = Bridging(there_and_back.clip, relation)
    mapper = mapped(there_and_back, network)
    assert network.bridges > 1
    assert loops_of(mapper) == []
    assert mapper.counters.loops_refused > 0


def test_no_more_bridges_than_are_allowed(there_and_back):
    for most in (0, 1):
        config = replace(ALONE, loops=replace(ALONE.loops, bridges_per_chunk=most))
        network = Bridging(there_and_back.clip)
        mapper = mapped(there_and_back, network, config)
        assert network.bridges <= most * mapper.counters.chunks


def test_a_dropped_camera_is_recognised_by_bridges(there_and_back):
    """The way there is mapped, then the camera is put down on the way back."""
    mapper = Mapper(Bridging(there_and_back.clip), ALONE)
    for frame in there_and_back.frames[:28]:
        mapper.add_frame(frame)
    mapper.set_localising(True)
    updates = []
    for frame in there_and_back.frames[30:46]:
        updates += mapper.add_frame(frame)
    updates += mapper.flush()
    assert mapper.localiser.recognised >= 1
    submap = updates[-1].submap
    T = submap.T_map_submap.apply_pose(submap.T_submap_cam)
    first = mapper.submaps[0]
    T_world_map = there_and_back.T_world_cam[first.frame_indices[0]] @ invert_pose(
        first.T_map_submap.apply_pose(first.T_submap_cam[:1])[0]
    )
    true = there_and_back.T_world_cam[list(submap.frame_indices)]
    turned = Rotation.from_matrix(
        true[:, :3, :3].transpose(0, 2, 1) @ (T_world_map[:3, :3] @ T[:, :3, :3])
    )
    assert np.degrees(turned.magnitude()).max() < 3.0


def test_places_are_compared_whatever_the_size_of_their_images(rng):
    """Each shrunk on its own would be 127 and 128 pixels wide."""
    old = on_grid(submap(0, 0, TRUTH, rng), (392, 518))
    new = on_grid(submap(1, 4, Sim3.identity(), rng), (294, 392))
    shared, same = _mutual(old, [4, 5, 6, 7], new, [0, 1, 2, 3], TRUTH)
    assert shared > 0.9 and same > 0.9
