"""Recent images and their poses, for keyframes that arrive late."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.sim3 import interpolate
from scal3r_ros.tracking.motion import velocity_of

SHORTEST_S = 0.01  # between images: stamps of arrival may lie nearer than the images themselves


@dataclass(frozen=True, eq=False)
class TrackedImage:
    stamp_ns: int
    grey: UInt8[ndarray, "h w"]
    T_odom_cam: Float[ndarray, "4 4"] | None  # None before the first keyframe

    def usable(self, grey: UInt8[ndarray, "h w"]) -> bool:
        """Its corners can be sought in that image."""
        return self.T_odom_cam is not None and self.grey.shape == grey.shape


def velocity_between(
    before: TrackedImage, T_odom_cam: Float[ndarray, "4 4"], stamp_ns: int
) -> Float[ndarray, " 6"]:
    """(translation, rotation vector) a second, in the axes of the first camera."""
    assert before.T_odom_cam is not None
    seconds = max((stamp_ns - before.stamp_ns) * 1e-9, SHORTEST_S)
    return velocity_of(before.T_odom_cam, T_odom_cam, seconds)


class History:
    """At most `size` images; when full every second one goes, so that it reaches further back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[TrackedImage] = []

    @property
    def newest(self) -> TrackedImage | None:
        return self.images[-1] if self.images else None

    def add(self, image: TrackedImage) -> None:
        if len(self.images) >= self.size:
            self.images = self.images[::-2][::-1]
        self.images.append(image)

    def clone(self) -> "History":
        other = History(self.size)
        other.images = list(self.images)
        return other

    def forget_before(self, stamp_ns: int) -> None:
        """Keeps one image at or before the stamp, to interpolate from."""
        older = sum(image.stamp_ns <= stamp_ns for image in self.images)
        self.images = self.images[max(older - 1, 0) :]

    def move(self, moved: Callable[[Float[ndarray, "4 4"]], Float[ndarray, "4 4"]]) -> None:
        """All poses, by one rule."""
        self.images = [
            i if i.T_odom_cam is None else replace(i, T_odom_cam=moved(i.T_odom_cam))
            for i in self.images
        ]

    def after(self, stamp_ns: int, at_most: int) -> list[TrackedImage]:
        """Later images, thinned evenly to `at_most`; the newest is always there."""
        later = [image for image in self.images if image.stamp_ns > stamp_ns]
        if len(later) <= at_most:
            return later
        picks = np.linspace(0, len(later) - 1, at_most + 1).round().astype(int)[1:]
        return [later[i] for i in picks]

    def pose_at(self, stamp_ns: int) -> Float[ndarray, "4 4"]:
        """Interpolated; the nearest where the stamp is outside."""
        posed = [(i.stamp_ns, i.T_odom_cam) for i in self.images if i.T_odom_cam is not None]
        assert posed, "a pose is asked for only after the first keyframe"
        stamps = np.array([stamp for stamp, _ in posed])
        k = int(np.searchsorted(stamps, stamp_ns))
        if k == len(posed) or stamps[k] == stamp_ns or k == 0:
            return posed[min(k, len(posed) - 1)][1]
        (t_a, T_a), (t_b, T_b) = posed[k - 1], posed[k]
        return interpolate(T_a, T_b, (stamp_ns - t_a) / (t_b - t_a))
