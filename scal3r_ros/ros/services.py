"""The services of mapping_node. Long ones wait for the worker without blocking the executor."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from jaxtyping import Float
from numpy import ndarray
from std_srvs.srv import Trigger

from scal3r_ros.mapping.ground import R_MAP_OPTICAL
from scal3r_ros.mapping.map_folder import read_map, restore, save_map
from scal3r_ros.ros.conversions import matrix_to_numbers, ns_to_stamp, pose_to_matrix
from scal3r_ros.ros.interfaces import GetTrajectory, LoadMap, SaveMap, SetMode, SetScale
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import value

if TYPE_CHECKING:
    from scal3r_ros.ros.mapping_node import MappingNode

MODES = ("replace", "merge")


def inside(folder: str, path: str) -> Path:
    """A path below the map folder. Raises ValueError for one that leads out of it."""
    root = Path(folder or ".").expanduser().resolve()
    wanted = (root / path).resolve()
    if not path or wanted == root or not wanted.is_relative_to(root):
        raise ValueError(f"path must name something in {root}, got {path!r}")
    return wanted


def checked_pose(pose: Any) -> Float[ndarray, "4 4"]:
    """T_map_base of a message. Raises ValueError for one that is no pose."""
    p, o = pose.position, pose.orientation
    turn = np.array([o.x, o.y, o.z, o.w])
    if not np.isfinite([p.x, p.y, p.z, *turn]).all() or not turn.any():
        raise ValueError(
            f"initial_pose must have finite numbers and a quaternion that is not zero, got "
            f"{[p.x, p.y, p.z, *turn.tolist()]}"
        )
    return pose_to_matrix(pose)


class MappingServices:
    """Every answer says what was done or, in one line, why not."""

    def __init__(self, node: "MappingNode") -> None:
        self.node = node
        triggers = {
            "reset": self._reset,
            "pause": self._pause,
            "resume": self._resume,
            "flush": self._flush,
            "new_map": self._new_map,
            "publish_map": self._publish_map,
        }
        for name, answer in triggers.items():
            node.create_service(Trigger, f"~/{name}", answer)
        node.create_service(SaveMap, "~/save_map", self._save)
        node.create_service(LoadMap, "~/load_map", self._load)
        node.create_service(SetMode, "~/set_mode", self._set_mode)
        node.create_service(SetScale, "~/set_scale", self._set_scale)
        node.create_service(GetTrajectory, "~/get_trajectory", self._trajectory)
        listen(node, PoseWithCovarianceStamped, "initialpose", self._on_initial_pose, 1)

    def save(self, path: str, *, overwrite: bool, mesh: bool = False) -> tuple[list[Path], int]:
        """Files and points. On the worker's thread."""
        mapper, folder = self.node.mapper, inside(value(self.node, "map_folder"), path)
        files = save_map(folder, mapper, overwrite=overwrite, mesh=mesh)
        return files, mapper.point_map.clouds.points

    async def _answer(self, response: Any, command: Any) -> Any:
        """The command's result, or None with the error's text in the response."""
        node = self.node
        if not node.active:
            response.message = "the node is not active"
            return None
        try:
            result = await node.worker.submit(command, node.executor)
        except (ValueError, OSError) as error:
            response.message = str(error)
            return None
        except Exception as error:  # the worker has told it in full
            response.message = f"{type(error).__name__}: {error}"
            return None
        response.success = True
        return result

    def _at_once(self, response: Any, action: Callable[[], None], done: str) -> Any:
        """What needs no worker; refused while there is nothing to act on."""
        if not self.node.active:
            response.message = "the node is not active"
            return response
        try:
            action()
        except ValueError as error:
            response.message = str(error)
            return response
        response.success, response.message = True, done
        return response

    def _reset(self, _: Any, response: Any) -> Any:
        return self._at_once(response, self.node.start_again, "a new map session starts")

    def _pause(self, _: Any, response: Any) -> Any:
        return self._at_once(response, self.node.pause, "images are passed over")

    def _resume(self, _: Any, response: Any) -> Any:
        return self._at_once(response, self.node.resume, "mapping goes on")

    async def _flush(self, _: Any, response: Any) -> Any:
        node = self.node
        await self._answer(response, lambda: node.worker.run(node.mapper.flush))
        return response

    async def _new_map(self, _: Any, response: Any) -> Any:
        node = self.node
        if await self._answer(response, lambda: node.worker.run(node.mapper.begin_piece)) is None:
            response.message = response.message or "the next image begins a new piece of the map"
        return response

    async def _publish_map(self, _: Any, response: Any) -> Any:
        """Chunks again; not the first one that is under way, which comes anyway."""
        node = self.node
        began = node.maps.began

        def publish() -> str:
            if began and node.mapper.submaps:
                node.maps.publish_everything()
            return f"{len(node.mapper.submaps) if began else 0} chunks"

        response.message = await self._answer(response, publish) or response.message
        return response

    async def _save(self, request: Any, response: Any) -> Any:
        if request.format not in ("", "mesh"):
            response.message = f"format must be empty or mesh, got {request.format}"
            return response
        mesh = request.format == "mesh"
        done = await self._answer(
            response, lambda: self.save(request.path, overwrite=request.overwrite, mesh=mesh)
        )
        if done is not None:
            files, response.points = done
            response.files = [str(f) for f in files]
            response.message = f"{len(files)} files"
        return response

    async def _load(self, request: Any, response: Any) -> Any:
        node = self.node

        def load() -> int:
            if request.mode not in ("", *MODES):
                raise ValueError(f"mode must be one of {', '.join(MODES)}, got {request.mode!r}")
            if request.use_initial_pose:
                checked_pose(request.initial_pose)
            folder = inside(value(node, "map_folder"), request.path)
            stored = read_map(folder, node.mapper.config.storage.folder)
            restore(node.mapper, stored, merge=request.mode == "merge")
            node.mapper.localising = request.localization_only
            node.loaded()
            if request.use_initial_pose:
                self._begin_at(checked_pose(request.initial_pose))
            return len(stored.submaps)

        count = await self._answer(response, load)
        if count is not None:
            response.message = f"{count} submaps"
        return response

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        """As RViz's tool tells it: level. Without base_frame it is a level camera that is there."""
        node, frame = self.node, message.header.frame_id
        if frame != value(node, "map_frame"):
            wanted = value(node, "map_frame")
            raise ValueError(f"initialpose must be in {wanted}, got {frame!r}")
        T_map_base = checked_pose(message.pose.pose)
        if not value(node, "base_frame"):
            T_map_base[:3, :3] = T_map_base[:3, :3] @ R_MAP_OPTICAL

        if node.active:
            node.worker.submit(lambda: self._begin_at(T_map_base))

    def _begin_at(self, T_map_base: Float[ndarray, "4 4"]) -> None:
        """What comes next is a piece of its own, at a told place. On the worker's thread."""
        self.node.worker.run(self.node.mapper.begin_piece)
        self.node.link.begin_at(T_map_base)
        x, y, z = T_map_base[:3, 3]
        self.node.get_logger().info(f"told to be at ({x:.2f}, {y:.2f}, {z:.2f})")

    async def _set_mode(self, request: Any, response: Any) -> Any:
        if request.mode not in (SetMode.Request.MAPPING, SetMode.Request.LOCALIZATION):
            response.message = f"mode must be 0 (mapping) or 1 (localization), got {request.mode}"
            return response
        localising = request.mode == SetMode.Request.LOCALIZATION

        def switch() -> str:
            if localising and not self.node.mapper.submaps:
                raise ValueError("there is no map yet to localise in")
            self.node.worker.run(lambda: self.node.mapper.set_localising(localising))
            return "localising in the finished map" if localising else "mapping"

        response.message = await self._answer(response, switch) or response.message
        return response

    async def _set_scale(self, request: Any, response: Any) -> Any:
        def change() -> str:
            if not 0 <= request.scale < float("inf"):
                raise ValueError(f"scale must be positive, or 0 to unlock, got {request.scale}")
            self.node.mapper.set_scale(request.scale)
            self.node.publish_places()
            return "metric" if request.scale > 0 else "the scale is estimated again"

        response.message = await self._answer(response, change) or response.message
        return response

    async def _trajectory(self, _: Any, response: Any) -> Any:
        node = self.node
        poses = await self._answer(response, lambda: node.mapper.keyframe_stamped_poses())
        if poses is not None:
            response.frame_id = value(self.node, "map_frame")
            response.stamps = [ns_to_stamp(stamp_ns) for stamp_ns, _ in poses]
            response.poses = [n for _, T in poses for n in matrix_to_numbers(T)]
            response.message = f"{len(poses)} keyframes"
        return response
