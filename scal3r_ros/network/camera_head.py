"""Camera head: iterative refinement of pose and field of view from the camera tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.layers import Block, Mlp
from scal3r_ros.network.shapes import Float

ENCODING = 9  # translation 3, quaternion xyzw 4, vertical and horizontal field of view [rad]
MIN_FOV_RAD = 1e-3  # ReLU can give 0, whose focal length is infinite


class CameraHead(nn.Module):
    """Four rounds: the pose so far modulates the tokens, a small trunk proposes a correction."""

    def __init__(self, dim: int, depth: int, heads: int, iterations: int = 4) -> None:
        super().__init__()
        self.iterations = iterations
        self.token_norm = nn.LayerNorm(dim)
        self.empty_pose = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, dim)
        self.modulation = nn.Linear(dim, 3 * dim)
        self.trunk = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.trunk_norm = nn.LayerNorm(dim)
        self.pose_branch = Mlp(dim, dim // 2, ENCODING)

    def forward(self, tokens: Float[Tensor, "b s c"]) -> list[Float[Tensor, "b s 9"]]:
        """Pose encoding after every round; the last is the answer."""
        tokens = self.token_norm(tokens)
        normed = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        encoding, rounds = None, []
        for _ in range(self.iterations):
            encoding = None if encoding is None else encoding.detach()  # each round for itself
            guess = self.empty_pose if encoding is None else encoding
            condition = functional.silu(self.embed_pose(guess))
            shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
            x = tokens + gate * (normed * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            delta = self.pose_branch(self.trunk_norm(x))
            encoding = delta if encoding is None else encoding + delta
            rounds.append(torch.cat([encoding[..., :7], encoding[..., 7:].relu()], dim=-1))
        return rounds


def quaternion_matrix(quat_xyzw: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of a quaternion that need not be normalised."""
    q = functional.normalize(quat_xyzw, dim=-1, eps=1e-12)
    x, y, z, w = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def decode_camera(
    encoding: Float[Tensor, "*batch 9"], height: int, width: int
) -> tuple[Float[Tensor, "*batch 3 4"], Float[Tensor, "*batch 3 3"]]:
    """[R|t] from submap to camera (optical axes) and K in pixels of a height x width image."""
    R = quaternion_matrix(encoding[..., 3:7])
    T_cam_submap = torch.cat([R, encoding[..., :3, None]], dim=-1)
    fov_y, fov_x = encoding[..., 7:].clamp_min(MIN_FOV_RAD).unbind(-1)
    K = torch.zeros(*encoding.shape[:-1], 3, 3, device=encoding.device, dtype=encoding.dtype)
    K[..., 0, 0] = width / 2 / torch.tan(fov_x / 2)
    K[..., 1, 1] = height / 2 / torch.tan(fov_y / 2)
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = width / 2, height / 2, 1.0
    return T_cam_submap, K
