"""Depth that a sensor or a stereo pair measures: it takes the place of what the network guesses."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from scal3r_ros.mapping.dense_flow import FlowDepth
from scal3r_ros.mapping.types import Chunk, Frame, Prediction

MIN_PIXELS = 100  # of a frame, that both depths know
SIGMA = 0.02  # of a measured log depth
EDGE = 1.1  # furthest over nearest around a pixel: more, and it may belong to either surface
EDGE_PX = 9
STEREO_WIDTH = 640  # pixels at which stereo is matched
STEREO_BLOCK = 5
DISPARITIES = 96


@dataclass(frozen=True, eq=False)
class MeasuredDepth:
    """Of a chunk's frames, at the size of its prediction and in its unit."""

    depth: Float32[ndarray, "s h w"]  # 0 = none
    smooth: Bool[ndarray, "s h w"]  # measured, and away from the edges of what was measured

    def among(self, prediction: Prediction) -> Float32[ndarray, "s h w"]:
        """What is measured where it is, what is predicted elsewhere."""
        return np.where(self.depth > 0, self.depth, prediction.depth)

    def beside(self, flow: FlowDepth | None, i: int) -> FlowDepth:
        """Of frame i, with the flow's depth where nothing is measured."""
        known = self.depth[i] > 0
        log_depth = np.log(np.where(known, self.depth[i], np.float32(1)))
        information = known.astype(np.float32) / np.float32(SIGMA**2)
        if flow is not None:
            log_depth = np.where(known, log_depth, flow.log_depth)
            information = np.where(known, information, flow.information)
        return FlowDepth(log_depth, information)


def measured_depth(chunk: Chunk, prediction: Prediction, known: int) -> MeasuredDepth | None:
    """None where nothing is measured. The unit is the prediction's: of the first frames, which are
    `known` from the chunk before, or of all."""
    found = [metres(frame, prediction.depth.shape[1:]) for frame in chunk.frames]
    logs = {}
    for i, (sensor, depth) in enumerate(zip(found, prediction.depth, strict=True)):
        if sensor is None:
            continue
        both = (sensor > 0) & (depth > 0)
        if both.sum() >= MIN_PIXELS:
            logs[i] = np.median(np.log(sensor[both] / depth[both]))
    if not logs:
        return None
    carried = [log for i, log in logs.items() if i < known]
    unit = np.float32(np.exp(np.median(carried or list(logs.values()))))
    nothing = np.zeros(prediction.depth.shape[1:], np.float32)
    depth = np.stack([nothing if d is None else d / unit for d in found])
    return MeasuredDepth(depth, np.stack([_smooth(d) for d in depth]))


def with_measured(prediction: Prediction, measured: MeasuredDepth) -> Prediction:
    """Measured depth where there is some, as sure as a pixel can be."""
    known, confidence = measured.depth > 0, prediction.confidence
    most = confidence.max(axis=(1, 2), keepdims=True)
    return replace(
        prediction,
        depth=measured.among(prediction),
        confidence=np.where(known, most, confidence),
    )


def _smooth(depth: Float32[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    window = np.ones((EDGE_PX, EDGE_PX), np.uint8)
    return (depth > 0) & (cv2.dilate(depth, window) < EDGE * cv2.erode(depth, window))


def metres(frame: Frame, size: tuple[int, ...]) -> Float32[ndarray, "h w"] | None:
    """What is measured along z, at this size, 0 = none."""
    if frame.depth is None:
        return None
    nearest = cv2.resize(frame.depth, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.where(np.isfinite(nearest) & (nearest > 0), nearest, 0).astype(np.float32)


def with_stereo_depth(frame: Frame) -> Frame:
    """With depth in place of the right image, if there is one that can be matched."""
    depth = stereo_depth(frame) if frame.depth is None else None
    return frame if depth is None else replace(frame, depth=depth, right=None)


def stereo_depth(frame: Frame) -> Float32[ndarray, "h w"] | None:
    """Metres along z of a rectified pair by semi-global matching (Hirschmueller 2008)."""
    if frame.right is None or frame.K is None or frame.baseline <= 0:
        return None
    height, width = frame.image.shape[:2]
    shrink = min(1.0, STEREO_WIDTH / width)
    size = (round(width * shrink), round(height * shrink))
    left, right = (
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for image in (frame.image, frame.right)
    )
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=DISPARITIES,
        blockSize=STEREO_BLOCK,
        P1=8 * STEREO_BLOCK**2,
        P2=32 * STEREO_BLOCK**2,
        disp12MaxDiff=1,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.StereoSGBM_MODE_SGBM_3WAY,
    )
    disparity = matcher.compute(left, right).astype(np.float32) / 16
    focal = float(frame.K[0, 0]) * size[0] / width
    seen = disparity > 1
    return np.where(seen, focal * frame.baseline / np.where(seen, disparity, 1), 0).astype(
        np.float32
    )
