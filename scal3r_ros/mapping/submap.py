"""From a prediction to a submap, and from a submap to what a tracker needs."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.mapping.refinement import RefinementReport
from scal3r_ros.mapping.types import Chunk, Frame, Prediction, Submap

LARGEST = 6e4  # that half precision holds


def submap_of(
    chunk: Chunk, prediction: Prediction, report: RefinementReport | None, index: int
) -> Submap:
    """In half precision: it is kept. Without depth where a mask hides the scene."""
    size = prediction.depth.shape[1:]
    scene = np.stack([_scene(f, size) for f in chunk.frames])
    return Submap(
        index=index,
        frame_indices=tuple(f.index for f in chunk.frames),
        stamps_ns=tuple(f.stamp_ns for f in chunk.frames),
        overlap=chunk.overlap,
        depth=np.where(scene, np.minimum(prediction.depth, LARGEST), 0).astype(np.float16),
        confidence=np.minimum(prediction.confidence, LARGEST).astype(np.float16),
        edge_certainty=prediction.edge_certainty.astype(np.float16),
        K=prediction.K,
        T_submap_cam=prediction.T_submap_cam,
        descriptors=prediction.descriptors,
        thumbnails=np.stack([thumbnail(f.image, *size) for f in chunk.frames]),
        carried=report is not None and report.carried > 0,
        far_end=report.far_end if report is not None else None,
    )


def _scene(frame: Frame, size: tuple[int, ...]) -> Bool[ndarray, "h w"]:
    """Pixels of the depth that show nothing but the scene."""
    if frame.scene is None:
        return np.ones(size, bool)
    share = cv2.resize(frame.scene.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(share) > 0.99


def intrinsics(frame: Frame, submaps: Sequence[Submap]) -> Float[ndarray, "3 3"] | None:
    """K of an image: its own, else as the newest submap has it; None before there is one."""
    if frame.K is not None or not submaps:
        return frame.K
    newest = submaps[-1]
    return scale_intrinsics(newest.K[-1], newest.depth.shape[1:], frame.image.shape[:2])


def keyframe_of(submap: Submap, frame: Frame, unit: float) -> Keyframe:
    """The last frame of a submap with depth in map units, for the tracker."""
    K = intrinsics(frame, [submap])
    assert K is not None
    s = submap.T_map_submap.s
    return Keyframe(
        index=frame.index,
        stamp_ns=frame.stamp_ns,
        image=frame.image,
        depth=(submap.depth[-1].astype(np.float64) * s).astype(np.float32),
        K=K,
        T_map_cam=submap.end,
        unit=unit,
    )


def thumbnail(image: UInt8[ndarray, "h w 3"], height: int, width: int) -> UInt8[ndarray, "h2 w2 3"]:
    """The image at the depth's resolution."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
