"""Similarity transforms: the one class for everything that has a scale."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation


@dataclass(frozen=True, eq=False)
class Sim3:
    """x_a = s R x_b + t for T_a_b."""

    R: Float[ndarray, "3 3"]
    t: Float[ndarray, " 3"]
    s: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.s) and self.s > 0):
            raise ValueError(f"scale must be positive and finite, got {self.s}")

    @classmethod
    def identity(cls) -> "Sim3":
        return cls(np.eye(3), np.zeros(3), 1.0)

    @classmethod
    def from_pose(cls, T_a_b: Float[ndarray, "4 4"], s: float = 1.0) -> "Sim3":
        """Rigid pose, with the scale given beside it."""
        return cls(T_a_b[:3, :3].copy(), T_a_b[:3, 3].copy(), float(s))

    @classmethod
    def from_matrix(cls, matrix: Float[ndarray, "4 4"]) -> "Sim3":
        """From the 4x4 that holds sR: the scale is the cube root of its determinant."""
        s = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        return cls(matrix[:3, :3] / s, matrix[:3, 3].copy(), s)

    @classmethod
    def exp(cls, tangent: Float[ndarray, " 7"]) -> "Sim3":
        """From (rotation vector, translation part, log scale)."""
        return cls.from_matrix(np.asarray(expm(_hat(tangent)), dtype=np.float64))

    def log(self) -> Float[ndarray, " 7"]:
        """(rotation vector [rad], translation part, log scale); inverse of `exp`."""
        generator = np.real(logm(self.as_matrix()))
        rotation = Rotation.from_matrix(self.R).as_rotvec()
        return np.concatenate([rotation, generator[:3, 3], [np.log(self.s)]])

    @property
    def pose(self) -> Float[ndarray, "4 4"]:
        """The rigid part: where the origin and axes of b are in a."""
        T_a_b = np.eye(4)
        T_a_b[:3, :3] = self.R
        T_a_b[:3, 3] = self.t
        return T_a_b

    def as_matrix(self) -> Float[ndarray, "4 4"]:
        """4x4 that holds sR, for homogeneous points only; never a pose."""
        matrix = self.pose
        matrix[:3, :3] *= self.s
        return matrix

    def inverse(self) -> "Sim3":
        return Sim3(self.R.T, -self.R.T @ self.t / self.s, 1.0 / self.s)

    def __matmul__(self, other: "Sim3") -> "Sim3":
        """T_a_c = T_a_b @ T_b_c."""
        return Sim3(self.R @ other.R, self.s * self.R @ other.t + self.t, self.s * other.s)

    def apply(self, xyz_b: Float[ndarray, "*batch 3"]) -> Float[ndarray, "*batch 3"]:
        """Points of b in a."""
        return self.s * xyz_b @ self.R.T + self.t

    def apply_pose(self, T_b_c: Float[ndarray, "*batch 4 4"]) -> Float[ndarray, "*batch 4 4"]:
        """Rigid T_a_c of a rigid T_b_c: rotations compose, origins are mapped with the scale."""
        T_a_c = np.zeros(T_b_c.shape)
        T_a_c[..., :3, :3] = self.R @ T_b_c[..., :3, :3]
        T_a_c[..., :3, 3] = self.apply(T_b_c[..., :3, 3])
        T_a_c[..., 3, 3] = 1.0
        return T_a_c


def _hat(tangent: Float[ndarray, " 7"]) -> Float[ndarray, "4 4"]:
    x, y, z = tangent[:3]
    generator = np.zeros((4, 4))
    generator[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    generator[:3, :3] += tangent[6] * np.eye(3)
    generator[:3, 3] = tangent[3:6]
    return generator


def invert_pose(T_a_b: Float[ndarray, "*batch 4 4"]) -> Float[ndarray, "*batch 4 4"]:
    """T_b_a of rigid poses."""
    R_b_a = np.swapaxes(T_a_b[..., :3, :3], -1, -2)
    T_b_a = np.zeros(T_a_b.shape)
    T_b_a[..., :3, :3] = R_b_a
    T_b_a[..., :3, 3] = -np.einsum("...ij,...j->...i", R_b_a, T_a_b[..., :3, 3])
    T_b_a[..., 3, 3] = 1.0
    return T_b_a


def interpolate(
    A: Float[ndarray, "4 4"], B: Float[ndarray, "4 4"], share: float
) -> Float[ndarray, "4 4"]:
    """On SO(3) x R3."""
    turn = Rotation.from_matrix(A[:3, :3].T @ B[:3, :3]).as_rotvec()
    T = np.eye(4)
    T[:3, :3] = A[:3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
    T[:3, 3] = (1 - share) * A[:3, 3] + share * B[:3, 3]
    return T
