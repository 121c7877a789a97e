"""What travels between a tracker's owner and the process beside it."""

import pickle

import numpy as np
import pytest

from scal3r_ros.tracking.messages import Ready, SeenImage, TurnAsked, from_bytes, to_bytes
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig
from test.tracking.test_tracker import keyframe


def test_a_tracker_goes_on_as_if_it_had_never_travelled(walk):
    here = Tracker(TrackerConfig())
    for frame in walk.frames[:6]:
        here.track(frame.image, frame.K, frame.stamp_ns)
        if frame.index == 2:
            here.set_keyframe(keyframe(walk, 1))
    there, kept = from_bytes(to_bytes((here, keyframe(walk, 4))))
    there.turn = None
    here.set_keyframe(keyframe(walk, 4))
    there.set_keyframe(kept)
    for frame in walk.frames[6:12]:
        a, b = (t.track(frame.image, frame.K, frame.stamp_ns) for t in (here, there))
        np.testing.assert_array_equal(a.T_odom_cam, b.T_odom_cam)
        np.testing.assert_array_equal(a.covariance, b.covariance)
        assert (a.state, a.inliers) == (b.state, b.inliers)


def test_messages_arrive_as_they_were(rng):
    grey = rng.integers(0, 255, (4, 6)).astype(np.uint8)[:, ::2]  # not in one piece
    seen = from_bytes(to_bytes(SeenImage(grey, np.eye(3), 2**62 + 1)))
    assert isinstance(seen, SeenImage) and seen.stamp_ns == 2**62 + 1
    np.testing.assert_array_equal(seen.grey, grey)
    assert from_bytes(to_bytes(TurnAsked(3, 2**61))) == TurnAsked(3, 2**61)
    assert from_bytes(to_bytes(Ready())) == Ready()
    assert from_bytes(to_bytes(None)) is None
    values = [np.nan, -0.0, 0.1, True, "a", np.zeros((0, 2))]
    for a, b in zip(from_bytes(to_bytes(values)), values, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_listed_neither_leaves_nor_arrives():
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        to_bytes({1, 2})
    with pytest.raises(Exception, match="header|Header"):
        from_bytes(pickle.dumps(Ready()))
    strange = to_bytes(Ready()).replace(b"Ready", b"Popen")
    with pytest.raises(KeyError, match="Popen"):
        from_bytes(strange)
