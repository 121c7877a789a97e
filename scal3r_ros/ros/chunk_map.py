"""A map rebuilt from Chunk and Corrections messages alone: of rclpy or read from a bag."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.occupancy import Seen
from scal3r_ros.mapping.point_map import Cloud, Clouds, join
from scal3r_ros.mapping.shelf import Shelf
from scal3r_ros.mapping.trajectory import WeightedPoses, blended, middle_weight
from scal3r_ros.ros.conversions import list_to_sim3, message_to_cloud, stamp_to_ns


@dataclass(eq=False)
class MappedChunk:
    stamps_ns: list[int]
    overlap: int
    T_chunk_cam: Float[ndarray, "s 4 4"]  # chunk units
    T_map_chunk: Sim3

    @property
    def first(self) -> int:
        """Of its keyframes that is new in it; the points are those of the new ones."""
        return self.overlap if self.overlap < len(self.T_chunk_cam) else 0


class ChunkMap:
    """Clouds stay chunk-local, on disk; corrections re-pose them. A new session starts empty."""

    def __init__(self, storage_folder: str = "") -> None:
        self._folder = storage_folder
        self._begin(-1)

    def _begin(self, session: int) -> None:
        self.session = session
        self.chunks: dict[int, MappedChunk] = {}
        self.places: dict[int, Sim3] = {}  # told last, of chunks that are still under way too
        self.clouds = Clouds(Shelf(self._folder))  # chunk frames

    def add_chunk(self, message: Any) -> None:
        """Raises ValueError on a malformed one, and changes nothing."""
        cloud, T_map_chunk = message_to_cloud(message.points), list_to_sim3(message.sim3)
        T_map_cam = _poses(np.asarray(message.poses).reshape(-1, 7))
        chunk = MappedChunk(
            stamps_ns=[stamp_to_ns(s) for s in message.stamps],
            overlap=message.overlap,
            T_chunk_cam=T_map_chunk.inverse().apply_pose(T_map_cam),
            T_map_chunk=T_map_chunk,
        )
        known = self.chunks.get(message.chunk_id)
        began_anew = known is not None and known.stamps_ns != chunk.stamps_ns  # the mapper
        if message.map_session != self.session or began_anew:
            self._begin(message.map_session)
        chunk.T_map_chunk = self.places.get(message.chunk_id, chunk.T_map_chunk)
        self.chunks[message.chunk_id], self.clouds[message.chunk_id] = chunk, cloud

    def correct(self, message: Any) -> bool:
        """True where a chunk may have moved. One may overtake the chunks that it tells of: it is
        remembered for them. Of another session: the mapper was reset."""
        anew = message.map_session != self.session
        if anew:
            self._begin(message.map_session)
        numbers = np.asarray(message.sim3, dtype=np.float64).reshape(-1, 8)
        places = [list_to_sim3(place) for place in numbers]
        self.places |= dict(zip(message.chunk_ids, places, strict=True))
        for index in self.places.keys() & self.chunks.keys():
            self.chunks[index].T_map_chunk = self.places[index]
        return anew or len(places) > 0

    @property
    def missing(self) -> set[int]:
        """Chunks that were told of, by a place or by a later number, and are not there."""
        told = self.places.keys() | self.chunks.keys()
        return set(range(max(told, default=-1) + 1)) - self.chunks.keys()

    def cloud(self, most: int = 0) -> Cloud:
        """Everything, in the map frame; thinned evenly to `most` points, 0: all."""
        return join([cloud for _, cloud in self._placed(most)])

    def seen(self, most: int = 0) -> list[Seen]:
        """The same, chunk by chunk, with the keyframes that are new in it."""
        return [
            Seen(
                cloud.xyz.astype(np.float64),
                chunk.T_map_chunk.apply_pose(chunk.T_chunk_cam[chunk.first :]),
            )
            for chunk, cloud in self._placed(most)
        ]

    def _placed(self, most: int) -> Iterator[tuple[MappedChunk, Cloud]]:
        step = max(1, -(-self.clouds.points // most)) if most else 1
        for index, chunk in sorted(self.chunks.items()):
            cloud = self.clouds[index]
            xyz = chunk.T_map_chunk.apply(cloud.xyz[::step].astype(np.float64))
            yield chunk, Cloud(xyz.astype(np.float32), cloud.rgb[::step], cloud.confidence[::step])

    def keyframe_poses(self) -> dict[int, Float[ndarray, "4 4"]]:
        """Stamp [ns] -> T_map_cam, blended over the chunks that hold a keyframe."""
        found: WeightedPoses = {}
        for _, chunk in sorted(self.chunks.items()):
            poses = chunk.T_map_chunk.apply_pose(chunk.T_chunk_cam)
            for slot, stamp in enumerate(chunk.stamps_ns):
                weight = middle_weight(slot, len(poses))
                found.setdefault(stamp, []).append((weight, poses[slot]))
        return blended(found)


def _poses(numbers: Float[ndarray, "s 7"]) -> Float[ndarray, "s 4 4"]:
    from scipy.spatial.transform import Rotation

    T = np.tile(np.eye(4), (len(numbers), 1, 1))
    T[:, :3, 3] = numbers[:, :3]
    T[:, :3, :3] = Rotation.from_quat(numbers[:, 3:]).as_matrix()
    return T
