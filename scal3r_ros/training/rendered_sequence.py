"""A walk through the procedural world as a sequence on disk."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.data.sequence_folder import StereoRig, write_sequence
from scal3r_ros.training.paths import rounds
from scal3r_ros.training.world import render_clip

SIZE = (240, 320)
STEP_NS = 10**8


def render_rounds(out: Path, seed: int, count: int, baseline: float = 0.0) -> None:
    """Images of a room, twice round for 360; with a baseline [m] also what a right camera sees and
    depth."""

    def pairs(rng: np.random.Generator, poses: int) -> Float[ndarray, "s 4 4"]:
        """Left and right in turn."""
        left = rounds(rng, poses // 2)
        shift = np.eye(4)
        shift[0, 3] = baseline
        return np.stack([left, left @ shift], axis=1).reshape(-1, 4, 4)

    eyes, path = (2, pairs) if baseline > 0 else (1, rounds)
    clip = render_clip(seed, eyes * count, *SIZE, family="room", path=path)
    images, depth = clip.images.numpy(), clip.depth.numpy()
    rig = StereoRig(baseline, images[1::2], depth[::2]) if baseline > 0 else None
    poses = clip.T_world_cam.double().numpy()[::eyes]
    stamps = [(i + 1) * STEP_NS for i in range(count)]
    write_sequence(out, images[::eyes], poses, stamps, clip.K[0].double().numpy(), rig)
