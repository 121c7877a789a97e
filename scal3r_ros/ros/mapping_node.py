"""mapping_node, the slow lane: images become chunks, chunks a map that corrects itself.

Callbacks convert and enqueue; one worker thread owns the mapper and the GPU.
"""

import time
from typing import Any, cast

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from scal3r_ros.mapping.config import ConfigError
from scal3r_ros.mapping.process import steady_heap
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.ros.frame_queue import FrameCounters, FrameQueue
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.health import MappingHealth
from scal3r_ros.ros.interfaces import Corrections, Status
from scal3r_ros.ros.map_odom import GuardedBroadcaster
from scal3r_ros.ros.map_publisher import MapPublisher
from scal3r_ros.ros.parameters import MAPPING, declare, value
from scal3r_ros.ros.robot_link import RobotLink
from scal3r_ros.ros.running import STEADY, said, spin, wind_down
from scal3r_ros.ros.services import MappingServices
from scal3r_ros.ros.settings import make_mapper, mapper_config
from scal3r_ros.ros.subscriptions import ImageInput, resets_on_jump
from scal3r_ros.ros.worker import MapWorker

OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STATUS_PERIOD_S = 0.5


class MappingNode(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("mapping_node")
        declare(self, MAPPING)
        self.counters = FrameCounters()
        self._state = Status.UNCONFIGURED
        self.message = ""  # why it failed
        self.active = self.paused = False
        self.last_image_s = time.monotonic()
        self._discarded_in_a_row = 0
        self.services_offered = MappingServices(self)
        self.health = MappingHealth(self)

    @property
    def state(self) -> int:
        """Of Status: paused is paused, whatever the chunk in flight has found, and nothing is
        tracked without images."""
        if self._state in (Status.UNCONFIGURED, Status.ERROR):
            return self._state
        if self.paused or not self.active:
            return Status.PAUSED
        silent = self._state == Status.TRACKING and self.idle_for(value(self, "watchdog_period"))
        return Status.DEGRADED if silent else self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state = state

    @said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the weights: what is wrong with them is said here, in one line."""
        try:
            mapper = make_mapper(self)
            network = cast(Any, mapper.predictor)
            if value(self, "warmup") and str(network.device).startswith("cuda"):
                network.warm_up(mapper.config.chunks.size)
        except (ConfigError, ValueError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            self.state, self.message = Status.ERROR, str(error)
            return FAILURE
        self.mapper, self._wanted = mapper, mapper.config
        self.device, self.gpu_memory = str(network.device), network.gpu_memory
        self.gpu_temperature = network.gpu_temperature
        self.frames = FrameQueue(
            value(self, "max_pending_frames"), self.counters, value(self, "overload_policy")
        )
        self.robot = RobotFrame(self, value(self, "base_frame"))
        self.maps = MapPublisher(self, self.mapper, self.robot)
        self.broadcaster = GuardedBroadcaster(self)
        self.link = RobotLink(self, self.mapper, self.robot, self.maps, self.broadcaster)
        self.worker = MapWorker(
            self.mapper,
            self.frames,
            complete=self._complete,
            mapped=self._mapped,
            failed=self._failed,
            idle=lambda: self.idle_for(value(self, "max_chunk_wait")),
            behind=self.device == "cpu",  # odometry comes first where both want the cores
        )
        self.health.open()
        self.state, self.paused = Status.WAITING, False
        return OK

    @said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.images = ImageInput(self, self._on_frame, self.counters, on_jump=self._back_in_time)
        self.worker.start()
        self._periodic = [
            self.create_timer(STATUS_PERIOD_S, self._report, clock=STEADY),
            self.create_timer(1 / value(self, "tf_publish_rate"), self._tick, clock=STEADY),
        ]
        self.active, self.last_image_s = True, time.monotonic()
        self.get_logger().info(
            f"mapping on {self.device}: {self.images.describe()}; frames "
            f"{value(self, 'map_frame')} -> {value(self, 'odom_frame')} -> "
            f"{value(self, 'base_frame') or 'the frame of the images'}; "
            f"odometry: {value(self, 'odom_source')}; scale: {value(self, 'scale_source')}"
        )
        return super().on_activate(state)

    @said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        for timer in self._periodic:
            self.destroy_timer(timer)
        self.health.publish()
        self.images.close()
        return super().on_deactivate(state)

    @said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Gives the GPU's memory back."""
        for part in (self.link, self.maps, self.health, self.broadcaster, self.robot):
            part.close()
        del self.mapper, self.worker, self.maps, self.link
        self.state = Status.UNCONFIGURED
        return super().on_cleanup(state)

    @said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return wind_down(self, state)

    def close(self) -> None:
        """Ends the worker after the chunk it is in; saves the map where that was asked for."""
        if not self.active:
            return
        self.active = False
        self.worker.close()
        path = value(self, "autosave_path")
        if path and self.mapper.submaps:
            try:
                files, _ = self.services_offered.save(path, overwrite=True)
                self.get_logger().info(f"saved the map: {len(files)} files below {path}")
            except (ValueError, OSError) as error:
                self.get_logger().error(f"the map could not be saved: {error}")

    def idle_for(self, seconds: float) -> bool:
        """No image came and none was mapped: a camera may wait for us while a chunk takes long."""
        return time.monotonic() - max(self.last_image_s, self.worker.last_s) > seconds

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Raises ValueError after a fault: nothing is mapped before another session begins."""
        self.paused = False
        if self.worker.broken:
            raise ValueError(f"mapping has stopped ({self.message}): reset or load_map begin anew")
        self.last_image_s = time.monotonic()  # nobody asked for one meanwhile
        self.state = Status.TRACKING if self.mapper.submaps else Status.WAITING

    def start_again(self) -> None:
        """Clears memory, map and trajectory; a chunk in flight is dropped."""
        if self.active:
            self.worker.drop_all()
            self.link.clear()
            self.worker.submit(self._reset)

    def loaded(self) -> None:
        """A map came from disk: everything is published again. On the worker's thread."""
        if self.worker.broken:
            self.frames.clear()  # images of before the fault
        self.worker.broken = False
        self.link.map_odom.reset()
        self._begin()
        self.maps.reset()
        self.maps.publish_everything()

    def _back_in_time(self) -> None:
        """The images that come now begin a new piece of the map by themselves; a finished map in
        which the camera is localised is never given up."""
        if resets_on_jump(self) and not self.mapper.localising:
            self.start_again()
        else:
            self.link.clear()

    def _on_frame(self, frame: Frame, frame_id: str) -> None:
        self.last_image_s = time.monotonic()
        if self.state == Status.WAITING:
            self.state = Status.INITIALIZING
        if not self.paused:
            self.link.see(frame, frame_id)
            self.frames.put(frame)

    def _complete(self, frame: Frame, waited_s: float) -> Frame | None:
        return self.link.complete(frame, wait=waited_s < value(self, "tf_timeout"))

    def _mapped(self, updates: list[MapUpdate]) -> None:
        """On the worker's thread, after every image and command."""
        for update in updates:
            self.state = Status.TRACKING
            if update.kept:
                self.maps.publish(update)
            else:
                self.maps.publish_whereabouts(update.submap)
            self.link.correct(update.submap)
        counters = self.mapper.counters
        news = self.health.news(counters)
        if news.discarded:
            self.state = Status.LOST
            self._discarded_in_a_row += news.discarded
        elif updates:
            self._discarded_in_a_row = 0
        elif news.interrupted:
            self.state = Status.DEGRADED
        if self.mapper.trouble:
            self.health.note(self.mapper.trouble)
            self.mapper.trouble = ""
        limit = value(self, "lost_reset_after")
        if limit and self._discarded_in_a_row >= limit:
            self.get_logger().error(f"{self._discarded_in_a_row} chunks discarded: starting again")
            self._discarded_in_a_row = 0
            self._reset()

    def _failed(self, error: Exception) -> None:
        self.state, self.message = Status.ERROR, f"{type(error).__name__}: {error}"
        self.get_logger().fatal(f"mapping stopped: {self.message}")

    def _report(self) -> None:
        """Also takes over parameters that were changed."""
        config = mapper_config(self)
        if config != self._wanted:
            self._wanted = config
            self.worker.submit(lambda: self.mapper.adopt(config))
        self.frames.limit = value(self, "max_pending_frames")
        self.frames.policy = value(self, "overload_policy")
        self.health.publish()

    def _tick(self) -> None:
        self.health.watch()
        self.link.publish()

    def _reset(self) -> None:
        self.mapper.reset()
        self.worker.broken = False
        self.maps.reset()
        self.link.reset()
        self._begin()

    def _begin(self) -> None:
        self.state, self.message = Status.WAITING, ""
        self.health.note("")

    def publish_places(self) -> None:
        """Every submap's place, after the map changed its unit."""
        self.maps.publish_corrections(Corrections.SCALE)


def main() -> None:
    steady_heap()
    spin(MappingNode)


if __name__ == "__main__":
    main()
