"""Ours beside the published fit, on pairs with known truth."""

import numpy as np
import pytest

from scal3r_ros.evaluation import registration_bench
from scal3r_ros.evaluation.registration_bench import bench_registration, stored_cases
from test.conftest import ROOT

STORED = ROOT.parent / "shared" / "parity" / "sim3_align.safetensors"


@pytest.fixture(scope="module")
def found() -> dict:
    patched = pytest.MonkeyPatch()
    patched.setattr(registration_bench, "SEEDS", 5)
    yield bench_registration(None)["cases"]
    patched.undo()


@pytest.mark.parametrize("case", ["clean", "unit five times smaller", "a flat wall"])
def test_where_the_published_fit_is_right_ours_is_too(found, case):
    """Degrees, percent of depth, percent of scale."""
    assert np.all(np.array(found[case]["published"]) < [0.5, 1, 1])
    assert np.all(np.array(found[case]["ours"]) < [0.5, 1, 1])


@pytest.mark.parametrize(
    "case", ["10 % outliers", "30 % outliers", "a quarter of the frames failed"]
)
def test_outliers_that_bend_the_published_fit_leave_ours(found, case):
    published, ours = np.array(found[case]["published"]), np.array(found[case]["ours"])
    assert ours[1] < 0.8 * published[1] and ours[2] < 0.2 * published[2]
    assert np.all(ours < [0.5, 1, 1])


def test_a_camera_that_only_turns_is_placed(found):
    assert np.all(np.array(found["the camera only turns"]["ours"]) < [0.5, 1, 1])


@pytest.mark.skipif(not STORED.exists(), reason="needs the official program's stored numbers")
def test_stored_cases_are_fitted_at_least_as_well_as_officially():
    from safetensors.numpy import load_file

    cases = stored_cases(load_file(STORED))
    assert len(cases) == 3
    for errors in cases.values():
        assert np.all(np.array(errors["ours"]) <= np.array(errors["official"]) + 1e-3)
