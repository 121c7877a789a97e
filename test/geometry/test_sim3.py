"""Sim(3) by its laws."""

import gtsam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.pose_graph import from_gtsam, to_gtsam

tangents = arrays(np.float64, 7, elements=st.floats(-1.2, 1.2))


@given(tangents, tangents)
def test_composition_acts_as_one_after_the_other(a, b):
    x = np.array([[0.3, -1.0, 2.0], [5.0, 0.1, -0.4]])
    A, B = Sim3.exp(a), Sim3.exp(b)
    np.testing.assert_allclose((A @ B).apply(x), A.apply(B.apply(x)), atol=1e-9)


@given(tangents)
def test_log_inverts_exp(a):
    np.testing.assert_allclose(Sim3.exp(a).log(), a, atol=1e-6)


@given(tangents)
def test_inverse_undoes(a):
    A = Sim3.exp(a)
    np.testing.assert_allclose((A @ A.inverse()).as_matrix(), np.eye(4), atol=1e-9)


def test_a_quarter_turn_about_z_by_hand():
    T = Sim3(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([10.0, 0, 0]), 2.0)
    np.testing.assert_allclose(T.apply(np.array([1.0, 0, 0])), [10, 2, 0])


@given(tangents)
def test_poses_move_with_their_points(a):
    """Scaling a submap scales the origin of its cameras, not their rotation."""
    A = Sim3.exp(a)
    T_b_c = np.eye(4)
    T_b_c[:3, 3] = [1, 2, 3]
    T_a_c = A.apply_pose(T_b_c)
    np.testing.assert_allclose(T_a_c[:3, 3], A.apply(T_b_c[:3, 3]))
    np.testing.assert_allclose(T_a_c[:3, :3] @ T_a_c[:3, :3].T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(invert_pose(T_a_c) @ T_a_c, np.eye(4), atol=1e-9)


@given(tangents)
def test_gtsam_holds_the_same_transform(a):
    """GTSAM's Similarity3 acts as s (R x + t)."""
    A, x = Sim3.exp(a), np.array([0.5, -2.0, 1.0])
    similarity = to_gtsam(A)
    assert isinstance(similarity, gtsam.Similarity3)
    np.testing.assert_allclose(similarity.transformFrom(x), A.apply(x), atol=1e-9)
    np.testing.assert_allclose(from_gtsam(similarity).as_matrix(), A.as_matrix(), atol=1e-9)
