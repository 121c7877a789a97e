"""A pose in the map for every image, from keyframes and the tracker's motion between them."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.sim3 import interpolate, invert_pose
from scal3r_ros.mapping.types import Submap

Poses = dict[int, Float[ndarray, "4 4"]]  # image index -> T
AROUND = 5  # pairs of keyframes to either side that say how long the tracker's unit is


class PoseLog(Mapping[int, Float[ndarray, "4 4"]]):
    """A pose of every image of a long run, by image index, in a hundred bytes each."""

    def __init__(self) -> None:
        self._indices, self._numbers = array("q"), array("d")

    def append(self, index: int, T: Float[ndarray, "4 4"]) -> None:
        """Raises ValueError unless the index is larger than all before."""
        if self._indices and index <= self._indices[-1]:
            raise ValueError(f"index must be above {self._indices[-1]}, got {index}")
        self._indices.append(index)
        self._numbers.extend(T[:3].ravel().tolist())

    def __getitem__(self, index: int) -> Float[ndarray, "4 4"]:
        k = bisect_left(self._indices, index)
        if k == len(self) or self._indices[k] != index:
            raise KeyError(index)
        T = np.eye(4)
        T[:3] = np.reshape(self._numbers[12 * k : 12 * (k + 1)], (3, 4))
        return T

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


WeightedPoses = dict[int, list[tuple[float, Float[ndarray, "4 4"]]]]  # key -> (weight, T)


def middle_weight(slot: int, frames: int) -> float:
    """How much a chunk knows of its frame: most in the middle, little at the ends."""
    return min(slot, frames - 1 - slot) + 0.25


def blended(poses: WeightedPoses) -> Poses:
    """One pose per key. Chunks that share frames hand over gradually, without a step."""
    result: Poses = {}
    for key, found in sorted(poses.items()):
        total, T = 0.0, found[0][1]
        for weight, other in found:
            total += weight
            T = interpolate(T, other, weight / total)
        result[key] = T
    return result


def keyframe_poses(submaps: Sequence[Submap]) -> Poses:
    """T_map_cam of every keyframe, blended over the submaps that hold it."""
    found: WeightedPoses = {}
    for submap in submaps:
        poses = submap.T_map_submap.apply_pose(submap.T_submap_cam)
        for slot, index in enumerate(submap.frame_indices):
            weight = middle_weight(slot, len(poses))
            found.setdefault(index, []).append((weight, poses[slot]))
    return blended(found)


def keyframe_stamped_poses(
    submaps: Sequence[Submap],
) -> list[tuple[int, Float[ndarray, "4 4"]]]:
    """(stamp [ns], T_map_cam) of every keyframe, in the order of the images."""
    stamps = {
        i: stamp for s in submaps for i, stamp in zip(s.frame_indices, s.stamps_ns, strict=True)
    }
    return [(stamps[i], T) for i, T in keyframe_poses(submaps).items()]


def camera_trajectory(
    keyframes: Poses, tracked: Mapping[int, Float[ndarray, "4 4"]], images: Iterable[int]
) -> Poses:
    """T_map_cam of every image.

    Between keyframes the tracker's motion is carried from both sides and blended, so that it meets
    the keyframes; its scale is fitted to them. Where it has none, poses are interpolated; before
    the first and after the last keyframe the nearest motion is used or the pose held.
    """
    if not keyframes:
        return {}
    known = sorted(keyframes)
    scales = _scales(known, keyframes, tracked)
    return {i: _pose_at(i, known, scales, keyframes, tracked) for i in images}


def _pose_at(
    index: int,
    known: list[int],
    scales: Float[ndarray, " n"],
    keyframes: Poses,
    tracked: Mapping[int, Float[ndarray, "4 4"]],
) -> Float[ndarray, "4 4"]:
    if index in keyframes:
        return keyframes[index]
    position = int(np.searchsorted(known, index))
    ends = known[max(position - 1, 0) : position + 1]
    scale = scales[min(max(position - 1, 0), len(scales) - 1)]
    carried = [
        keyframes[end] @ _scaled(invert_pose(tracked[end]) @ tracked[index], scale)
        for end in ends
        if index in tracked and end in tracked
    ]
    if len(ends) == 1:  # before the first keyframe, after the last
        return carried[0] if carried else keyframes[ends[0]]
    before, after = ends
    either = carried if len(carried) == 2 else [keyframes[before], keyframes[after]]
    return interpolate(*either, (index - before) / (after - before))


def _scales(
    known: list[int], keyframes: Poses, tracked: Mapping[int, Float[ndarray, "4 4"]]
) -> Float[ndarray, " n"]:
    """Map length over tracked length from each keyframe to the next. The map may have changed its
    unit, so they need not be near one; but a pair that hardly moved says little, and counts no more
    than half or twice what those around it say."""
    ratios = np.full(max(len(known) - 1, 1), np.nan)
    for k, pair in enumerate(pairwise(known)):
        if all(i in tracked for i in pair):
            ways = ([poses[i][:3, 3] for i in pair] for poses in (keyframes, tracked))
            length, seen = (float(np.linalg.norm(b - a)) for a, b in ways)
            ratios[k] = length / seen if length > 0 and seen > 0 else np.nan
    usual = np.ones_like(ratios)
    for k in range(len(ratios)):
        around = ratios[max(k - AROUND, 0) : k + AROUND + 1]
        if np.isfinite(around).any():
            usual[k] = np.nanmedian(around)
    return np.clip(np.where(np.isfinite(ratios), ratios, usual), usual / 2, usual * 2)


def _scaled(T: Float[ndarray, "4 4"], scale: float) -> Float[ndarray, "4 4"]:
    scaled = T.copy()
    scaled[:3, 3] *= scale
    return scaled
