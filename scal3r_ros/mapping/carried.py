"""What the chunk before has found out about the frames that both chunks hold.

Refined on its own, a chunk takes its unit from the network alone, and where its shared frames only
turn, no fit of the two chunks finds it again. Carried over, poses and unit of the shared frames
are known before the chunk is refined: bundle adjustment over a sliding window.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.registration import on_grid
from scal3r_ros.mapping.types import Chunk, Prediction, Submap


@dataclass(frozen=True, eq=False)
class Carried:
    """The leading frames of a chunk, in the submap before."""

    depth: Float32[ndarray, "o h w"]  # units of the submap before, 0 = none
    confidence: Float32[ndarray, "o h w"]
    T_before_cam: Float[ndarray, "o 4 4"]

    def __len__(self) -> int:
        return len(self.depth)


def carried_from(before: Submap, chunk: Chunk, prediction: Prediction) -> Carried | None:
    """In the size of the chunk's prediction; None where it shares no frame with the submap."""
    slots = {index: slot for slot, index in enumerate(before.frame_indices)}
    rows = [slots[f.index] for f in chunk.frames[: chunk.overlap] if f.index in slots]
    if not rows or len(rows) != chunk.overlap:
        return None
    before = on_grid(before, prediction.depth.shape[1:])
    maps = (m[rows].astype(np.float32) for m in (before.depth, before.confidence))
    return Carried(*maps, before.T_submap_cam[rows])


def carry_over(
    prediction: Prediction, carried: Carried, reference: int, settled: int = 0
) -> Prediction:
    """The prediction in the unit of the submap before: shared frames keep its poses and depth, the
    first of them, which are `settled`, its confidence too; the others follow by the predicted
    motion. Unchanged where no depth is shared."""
    count = len(carried)
    both = (prediction.depth[:count] > 0) & (carried.depth > 0)
    if not both.any():
        return prediction
    ratio = carried.depth[both] / prediction.depth[:count][both]
    s = float(np.exp(np.median(np.log(ratio))))
    motion = invert_pose(prediction.T_submap_cam[:-1]) @ prediction.T_submap_cam[1:]
    motion[:, :3, 3] *= s
    T = list(carried.T_before_cam)
    for step in motion[count - 1 :]:
        T.append(T[-1] @ step)
    T_before_cam = np.stack(T)
    depth = np.concatenate([carried.depth, np.float32(s) * prediction.depth[count:]])
    T_submap_cam = invert_pose(T_before_cam[reference]) @ T_before_cam
    confidence = prediction.confidence.copy()
    confidence[:settled] = carried.confidence[:settled]
    return replace(prediction, depth=depth, confidence=confidence, T_submap_cam=T_submap_cam)
