"""How mapping_node is doing: its status, its diagnostics, what it says when something is off."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.counters import Counters
from scal3r_ros.ros.conversions import header
from scal3r_ros.ros.fallback.diagnostics import DiagnosticStatusWrapper, diagnostic_updater
from scal3r_ros.ros.frame_queue import FrameCounters
from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.map_publisher import LATCHED
from scal3r_ros.ros.parameters import value

if TYPE_CHECKING:
    from scal3r_ros.ros.mapping_node import MappingNode

LOAD_PERIOD_S = TROUBLE_S = 30.0
SILENCE_PERIOD_S = 1.0  # how often the reason of a silence is looked for
OLD_IMAGE_S = 1.0  # between an image's stamp and its arrival
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class News(NamedTuple):
    discarded: int  # chunks since the last look
    interrupted: int


class Rates:
    """Images per second over the last five seconds: that arrived, that were not thinned."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, int, int]] = []

    def __call__(self, counters: FrameCounters) -> tuple[float, float]:
        now = time.monotonic()
        kept = counters.received - counters.dropped_overload - counters.dropped_invalid
        recent = [row for row in self._rows if now - row[0] < 5.0]
        self._rows = [*recent, (now, counters.received, kept)]
        began, received, kept_then = self._rows[0]
        if now <= began:
            return 0.0, 0.0
        return (counters.received - received) / (now - began), (kept - kept_then) / (now - began)


class MappingHealth:
    def __init__(self, node: "MappingNode") -> None:
        self.node = node
        self._status: Any = None
        self._rates = Rates()
        self._seen = News(0, 0)
        self._state_told = -1
        self._silence = ""  # the reason that was told last
        self._looked_s = 0.0
        self._dropped_told, self._load_told_s = 0, -LOAD_PERIOD_S
        self._trouble, self._trouble_s = "", 0.0  # of the mapper, and when
        self.updater = diagnostic_updater(node)  # once: it outlives the node's states
        tasks = {
            "map": self._map,
            "inference": self._inference,
            "input": self._input,
            "frames": self._frames,
        }
        self._tasks = {name: partial(self._unless_inactive, task) for name, task in tasks.items()}
        for name, task in self._tasks.items():
            self.updater.add(name, task)

    def open(self) -> None:
        """With the node's configuration."""
        self._status = self.node.create_publisher(Status, "status", LATCHED)
        self.updater.setHardwareID(self.node.device)

    def close(self) -> None:
        self.node.destroy_publisher(self._status)

    def note(self, trouble: str) -> None:
        """What went wrong while mapping; it counts for a while. Empty: nothing is wrong."""
        self._trouble, self._trouble_s = trouble, time.monotonic()

    @property
    def trouble(self) -> str:
        recent = time.monotonic() - self._trouble_s < TROUBLE_S
        return self._trouble if recent else ""

    def first(self) -> str:
        """Of the diagnostics that are not well the worst; empty where all is well."""
        told = [task(DiagnosticStatusWrapper()) for task in self._tasks.values()]
        worst = max(told, key=lambda status: status.level)
        return "" if worst.level == OK else worst.message

    def _unless_inactive(self, task: Callable[[Any], Any], status: Any) -> Any:
        if self.node.active:
            return task(status)
        failed = self.node.state == Status.ERROR
        status.summary(ERROR if failed else WARN, self.node.message or "not active")
        return status

    def news(self, counters: Counters) -> News:
        """What went wrong since the last call; a new session starts at zero."""
        now = News(counters.chunks_discarded, counters.interruptions)
        before, self._seen = self._seen, now
        if now.discarded < before.discarded or now.interrupted < before.interrupted:
            before = News(0, 0)
        return News(now.discarded - before.discarded, now.interrupted - before.interrupted)

    def watch(self) -> None:
        """Publishes another state at once. Says that no image comes, again where the reason is
        another one, and now and then that images are thinned."""
        node = self.node
        if node.state != self._state_told:
            self.publish()
        if not node.idle_for(value(node, "watchdog_period")):
            self._silence = ""
        elif time.monotonic() - self._looked_s > SILENCE_PERIOD_S:
            self._looked_s = time.monotonic()
            seen = "images stopped" if node.counters.received else "no images yet"
            silence = f"{seen} on {node.images.why_silent()}"
            if silence != self._silence:
                self._silence = silence
                node.get_logger().warning(silence)
        dropped = node.counters.dropped_overload
        waited = time.monotonic() - self._load_told_s >= LOAD_PERIOD_S
        if dropped != self._dropped_told and waited:
            seconds = node.mapper.counters.total_seconds[-5:]
            node.get_logger().warning(
                f"mapping is slower than the camera: {dropped} images thinned so far; a chunk "
                f"takes {np.mean(seconds) if seconds else float('nan'):.2f} s"
            )
            self._dropped_told, self._load_told_s = dropped, time.monotonic()

    def publish(self) -> None:
        node, mapper = self.node, self.node.mapper
        self._state_told = node.state
        counters, seconds = mapper.counters, mapper.counters.total_seconds
        newest = mapper.submaps[-1].T_map_submap if mapper.submaps else Sim3.identity()
        used, total = node.gpu_memory()
        input_rate, kept_rate = self._rates(node.counters)
        estimator = mapper.metric.estimator
        self._status.publish(
            Status(
                header=header(node.get_clock().now().nanoseconds, node.maps.map_frame),
                state=node.state,
                map_session=mapper.session,
                map_version=mapper.map_version,
                frames_received=node.counters.received,
                frames_used=counters.keyframes,
                frames_dropped_overload=node.counters.dropped_overload,
                frames_dropped_invalid=node.counters.dropped_invalid,
                chunks=counters.chunks,
                loops=counters.loops,
                loops_refused=counters.loops_refused,
                pending_frames=len(node.frames),
                input_rate=input_rate,
                effective_rate=kept_rate,
                inference_time_last=seconds[-1] if seconds else 0.0,
                inference_time_mean=float(np.mean(seconds)) if seconds else 0.0,
                latency=node.maps.latency_s,
                metric=mapper.metric.metric,
                scale=newest.s,
                scale_spread=float(np.nan_to_num(estimator.deviation, posinf=0.0)),
                intrinsics_source=node.images.intrinsics_source,
                chunk_size_effective=mapper.stream.chunker.config.size,
                gpu_memory_used=used,
                gpu_memory_total=total,
                device=node.device,
                message=self.first(),
            )
        )

    def _input(self, status: Any) -> Any:
        node = self.node
        rate, kept = self._rates(node.counters)
        age_s = node.images.age_s
        silent = node.idle_for(value(node, "watchdog_period"))
        if silent:
            status.summary(ERROR, node.images.why_silent())
        elif node.counters.dropped_in_a_row > 10:
            status.summary(ERROR, "stamps are not set or repeat, or images cannot be decoded")
        elif node.images.lacks_calibration:
            status.summary(WARN, "no camera_info: intrinsics are estimated")
        elif node.link.sensors.trouble:
            status.summary(WARN, node.link.sensors.trouble)
        elif not value(node, "use_sim_time") and abs(age_s) > OLD_IMAGE_S:
            status.summary(WARN, f"images are {age_s:.1f} s old when they arrive: clocks in step?")
        else:
            status.summary(OK, f"{rate:.1f} images/s")
        status.add("images received", str(node.counters.received))
        status.add("images per second", f"{rate:.2f}")
        status.add("images per second mapped from", f"{kept:.2f}")
        status.add("dropped, overload", str(node.counters.dropped_overload))
        status.add("dropped, invalid", str(node.counters.dropped_invalid))
        status.add("age of an image on arrival [s]", f"{age_s:.3f}")
        status.add("focal length", str(node.mapper.refiner.calibration))
        return status

    def _inference(self, status: Any) -> Any:
        node = self.node
        seconds = node.mapper.counters.total_seconds[-5:]
        thinned = node.counters.dropped_overload > self._dropped_told
        if node.state == Status.ERROR:
            status.summary(ERROR, node.message)
        elif thinned:
            status.summary(WARN, "slower than the camera: images are thinned")
        else:
            status.summary(OK, "running" if seconds else "no chunk yet")
        used, total = node.gpu_memory()
        status.add("device", node.device)
        status.add("seconds per chunk", f"{np.mean(seconds) if seconds else 0:.3f}")
        status.add("keyframes per chunk", str(node.mapper.stream.chunker.config.size))
        status.add("images waiting", str(len(node.frames)))
        status.add("GPU memory [MB]", f"{used / 1e6:.0f} of {total / 1e6:.0f}")
        celsius = node.gpu_temperature()
        status.add("GPU temperature [deg C]", "-" if celsius is None else f"{celsius:.0f}")
        return status

    def _map(self, status: Any) -> Any:
        node, mapper = self.node, self.node.mapper
        counters, metric = mapper.counters, mapper.metric
        if node.state == Status.LOST:
            status.summary(ERROR, self.trouble or "lost")
        elif self.trouble:
            status.summary(WARN, self.trouble)
        elif mapper.config.scale.source != "none" and not metric.metric:
            seen = len(metric.estimator)
            status.summary(WARN, f"not metric yet: {seen} scales seen")
        else:
            status.summary(OK, "mapping")
        edges = [e for e in mapper.graph.edges[-3:] if e.kind == "overlap"]
        status.add("submaps", str(len(mapper.submaps)))
        status.add("session", str(mapper.session))
        status.add("loops closed, refused", f"{counters.loops}, {counters.loops_refused}")
        status.add("chunks discarded", str(counters.chunks_discarded))
        status.add("metric", str(metric.metric))
        status.add("deviation of the scale", f"{metric.estimator.deviation:.3f}")
        status.add("residual of the newest overlap", f"{edges[-1].residual:.4f}" if edges else "-")
        return status

    def _frames(self, status: Any) -> Any:
        node = self.node
        if node.broadcaster.rival:
            status.summary(ERROR, node.broadcaster.rival)
        elif (
            node.active and node.maps.frame_id and node.robot.T_base_cam(node.maps.frame_id) is None
        ):
            status.summary(ERROR, f"/tf_static does not tell base_frame -> {node.maps.frame_id}")
        elif node.link.without_odometry:
            missing = node.link.odometry.missing(node.maps.frame_id)
            status.summary(WARN, f"{node.link.without_odometry} images without {missing}")
        else:
            status.summary(OK, "connected")
        for name in ("map_frame", "odom_frame", "base_frame"):
            status.add(name, value(node, name))
        status.add("frame of the images", node.maps.frame_id)
        return status
