"""map_node: keeps the whole map from chunks and corrections, publishes and saves it.

A process of its own, so that a large publication never delays an image.
"""

from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from scal3r_ros.geometry.voxels import strongest_per_voxel
from scal3r_ros.mapping.map_file import write_npz, write_pcd, write_ply
from scal3r_ros.mapping.occupancy import UNKNOWN, Grid, HeightField, height_field, occupancy_grid
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.ros.chunk_map import ChunkMap
from scal3r_ros.ros.conversions import (
    cloud_to_message,
    header,
    matrix_to_pose,
    stamp_to_ns,
    to_ros_bytes,
)
from scal3r_ros.ros.elevation import elevation_message, grid_map_type
from scal3r_ros.ros.interfaces import Chunk, Corrections, SaveMap
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.map_publisher import CHUNKS, LATCHED
from scal3r_ros.ros.parameters import MAP, declare, value
from scal3r_ros.ros.running import STEADY, spin, stand_back
from scal3r_ros.ros.services import inside

ASK_PERIOD_S = 5.0
WRITERS = {"ply": write_ply, "pcd": write_pcd, "npz": write_npz}


class MapNode(Node):
    def __init__(self) -> None:
        super().__init__("map_node")
        stand_back()  # odometry of the next image comes first
        declare(self, MAP)
        self.map = ChunkMap(expanduser(value(self, "storage_folder")))
        self._version = 0  # of the map, counts changes
        self._stamp_ns = 0
        self._metric = False  # the newest chunk
        self.add_on_set_parameters_callback(self._on_parameters)
        listen(self, Chunk, "chunk", self._on_chunk, CHUNKS)
        listen(self, Corrections, "corrections", self._on_corrections, LATCHED)
        self._cloud = self.create_publisher(PointCloud2, "map_cloud", LATCHED)
        self._keyframes = self.create_publisher(PoseArray, "keyframes", LATCHED)
        self._grid = self.create_publisher(OccupancyGrid, "map", LATCHED)
        self._told = dict.fromkeys((self._cloud, self._grid, self._keyframes), 0)
        kind = grid_map_type()
        self._elevation = kind and self.create_publisher(kind, "elevation", LATCHED)
        if self._elevation:
            self._told[self._elevation] = 0
        self.create_timer(value(self, "map_publish_period"), self._publish, clock=STEADY)
        self._mapper = self.create_client(Trigger, "mapping_node/publish_map")
        self._missing: set[int] | None = None  # at the last look; None: there was none yet
        self._asked_for: set[int] = set()
        self.create_timer(ASK_PERIOD_S, self._ask, clock=STEADY)
        self.create_service(SaveMap, "~/save_map", self._on_save)

    def _on_parameters(self, _: list[Any]) -> SetParametersResult:
        """The map looks different from here on."""
        self._version += self._version > 0
        return SetParametersResult(successful=True)

    def _on_chunk(self, message: Chunk) -> None:
        self.map.add_chunk(message)
        self._metric = message.metric
        self._stamp_ns = stamp_to_ns(message.header.stamp)
        self._version += 1

    def _on_corrections(self, message: Corrections) -> None:
        self._version += self.map.correct(message)

    def _ask(self) -> None:
        """For the map so far where none has come since the start; later for chunks that did not
        come: once for each."""
        if not self._mapper.service_is_ready():
            return
        missing, before = self.map.missing, self._missing
        lasting = missing & before if before else set()  # a place may overtake its chunk
        silent = before is None and not self.map.chunks
        if silent or lasting - self._asked_for:
            self._asked_for = missing
            self._mapper.call_async(Trigger.Request())
        self._missing = missing

    def _publish(self) -> None:
        """What somebody listens to, where it changed since it was published last."""
        due = [
            publisher
            for publisher, version in self._told.items()
            if publisher.get_subscription_count() and version < self._version
        ]
        withheld = value(self, "require_metric") and self.map.chunks and not self._metric
        if withheld or not due:
            return
        self._told |= dict.fromkeys(due, self._version)
        head = header(self._stamp_ns, value(self, "map_frame"))
        if self._keyframes in due:
            poses = [matrix_to_pose(T) for T in self.map.keyframe_poses().values()]
            self._keyframes.publish(PoseArray(header=head, poses=poses))
        if due == [self._keyframes]:
            return
        cloud = self.map.cloud(value(self, "max_map_points"))
        if self._cloud in due:
            self._cloud.publish(cloud_to_message(self._thinned(cloud), head))
        if self._grid in due:
            self._grid.publish(self._grid_message(head))
        if self._elevation in due:
            self._elevation.publish(elevation_message(self._heights(cloud), head))

    def _heights(self, cloud: Cloud) -> HeightField:
        """One unknown cell where there is no map."""
        resolution = value(self, "grid_resolution")
        if not len(cloud):
            return HeightField(np.full((1, 1), np.nan, np.float32), (0.0, 0.0), resolution)
        return height_field(cloud.xyz, resolution=resolution)

    def _thinned(self, cloud: Cloud) -> Cloud:
        """One point a voxel, and no more than viewers bear."""
        rows, voxel = np.arange(len(cloud)), value(self, "map_voxel_size")
        if voxel > 0 and len(cloud):
            rows = strongest_per_voxel(cloud.xyz, voxel, cloud.confidence)
        rows = rows[:: max(1, -(-len(rows) // value(self, "max_map_points_published")))]
        return Cloud(cloud.xyz[rows], cloud.rgb[rows], cloud.confidence[rows])

    def _grid_message(self, head) -> OccupancyGrid:
        seen = self.map.seen(value(self, "max_map_points"))
        resolution = value(self, "grid_resolution")
        grid = Grid(np.full((1, 1), UNKNOWN, np.int8), (0.0, 0.0), resolution)
        if any(len(part.xyz) for part in seen):
            grid = occupancy_grid(
                seen,
                resolution=resolution,
                height_range=(value(self, "grid_min_height"), value(self, "grid_max_height")),
                min_hits=value(self, "grid_min_hits"),
                ground=0.0 if value(self, "grid_height_frame") == "map" else None,
            )
        message = OccupancyGrid(header=head)
        message.info.resolution = grid.resolution
        message.info.height, message.info.width = grid.cells.shape
        message.info.origin.position.x, message.info.origin.position.y = grid.origin
        message.info.origin.orientation.w = 1.0
        message.data = to_ros_bytes(grid.cells.astype(np.int8))
        return message

    def _on_save(self, request: SaveMap.Request, response: SaveMap.Response) -> SaveMap.Response:
        """Writes below the map folder only; nothing is replaced unless asked."""
        kind = request.format or Path(request.path).suffix.removeprefix(".")
        try:
            path = inside(value(self, "map_folder"), request.path)
        except ValueError as error:
            response.message = str(error)
            return response
        if kind not in WRITERS:
            response.message = f"format must be one of {', '.join(WRITERS)}, got {kind!r}"
        elif not self.map.chunks:
            response.message = "there is no map yet"
        elif path.exists() and not request.overwrite:
            response.message = f"{path} exists; set overwrite to replace it"
        else:
            cloud = self.map.cloud()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                WRITERS[kind](path, cloud)
            except OSError as error:
                response.message = str(error)
                return response
            response.success, response.files, response.points = True, [str(path)], len(cloud)
        return response


def main() -> None:
    spin(MapNode)


if __name__ == "__main__":
    main()
