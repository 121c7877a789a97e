"""What the network's output says to the mapper: arrays of the host, for whole images."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor

from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.types import Chunk, Frame, Prediction, PredictionError
from scal3r_ros.network.camera_head import decode_camera
from scal3r_ros.network.preprocess import Crop, uncut
from scal3r_ros.network.scal3r import ChunkOutput

MAX_DEPTH = 1000.0  # submap units; beyond it nothing was measured


def to_prediction(output: ChunkOutput, chunk: Chunk, crop: Crop) -> Prediction:
    """Host arrays of one chunk, for whole images, without depth where the network did not look; K
    is the camera's where it is known, else the network's."""
    encoding, depth, confidence, certainty, descriptors = to_host(
        output.encodings[-1][0],
        uncut(output.depth[0], crop, 0.0),
        uncut(output.confidence[0], crop, 1.0),
        uncut(output.edge_certainty[0], crop, 1.0),
        output.descriptors[0],
    )
    if not np.isfinite(encoding).all():
        raise PredictionError("prediction.T_submap_cam must be finite, got NaN or infinity")
    cameras = decode_camera(torch.from_numpy(encoding).double(), *crop.size)
    T_cam_submap, K_network = (part.numpy() for part in cameras)
    K_network[:, :2, 2] += crop.offset[::-1]
    return Prediction(
        depth=np.where(np.isfinite(depth) & (depth > MAX_DEPTH), np.float32(0), depth),
        confidence=confidence,
        edge_certainty=certainty,
        K=np.stack([_intrinsics(f, crop, K_network[i]) for i, f in enumerate(chunk.frames)]),
        T_submap_cam=_poses(T_cam_submap, chunk.reference),
        descriptors=descriptors,
    )


def to_host(*parts: Tensor) -> list[Float32[ndarray, "..."]]:
    """Tensors of a device as float32 arrays of their own, in one transfer."""
    flat = torch.cat([part.float().reshape(-1) for part in parts]).cpu().numpy()
    ends = np.cumsum([part.numel() for part in parts])[:-1]
    pieces = zip(np.split(flat, ends), parts, strict=True)
    return [piece.copy().reshape(part.shape) for piece, part in pieces]  # no view keeps the rest


def _intrinsics(
    frame: Frame, crop: Crop, K_network: Float[ndarray, "3 3"]
) -> Float[ndarray, "3 3"]:
    if frame.K is None:
        return K_network
    return scale_intrinsics(frame.K, frame.image.shape[:2], crop.resized)


def _poses(T_cam_submap: Float[ndarray, "s 3 4"], reference: int) -> Float[ndarray, "s 4 4"]:
    """Camera to submap, with the predicted reference camera exactly at the origin."""
    T_cam = np.tile(np.eye(4), (len(T_cam_submap), 1, 1))
    T_cam[:, :3] = T_cam_submap
    return T_cam[reference] @ invert_pose(T_cam)
