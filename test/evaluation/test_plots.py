"""Pictures are written, of everything that is told; a curve shows where its numbers are."""

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from scal3r_ros.evaluation import plots


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are saved, as matplotlib knows them."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (saved.append(f), save(f, *a, **k)))
    return saved


def test_ways_are_drawn_along_their_extent(tmp_path, figures, rng):
    """A circle that stands upright in the room is drawn as a circle; the estimate beside it."""
    angle = np.linspace(0, 2 * np.pi, 50)
    circle = np.stack([np.zeros(50), 3 * np.cos(angle), 2 * np.sin(angle)], axis=1)
    ways = {plots.TRUTH: circle, "ours": circle + rng.normal(0, 0.01, circle.shape)}
    plots.draw_ways({"round": ways, "again": ways}, tmp_path / "ways.png")
    picture = cv2.imread(str(tmp_path / "ways.png"))
    assert picture is not None and picture.std() > 5
    axes = figures[0].axes
    assert [a.get_title() for a in axes] == ["round", "again"]
    for line, who in zip(axes[0].get_lines(), ways, strict=True):
        assert line.get_label() == who
        x, y = (np.asarray(v) for v in line.get_data())
        assert np.ptp(x) == pytest.approx(6, rel=0.05) and np.ptp(y) == pytest.approx(4, rel=0.05)
        assert abs(axes[0].get_xlim()[0]) > np.abs(x).max()


def test_a_long_run_is_drawn_from_nothing_up(tmp_path, figures):
    samples = [{"frames": 500 * k, "memory_mb": 200 + k, "chunk_s": 0.5} for k in range(1, 6)]
    plots.draw_long_run({"samples": samples}, tmp_path / "run.png")
    assert cv2.imread(str(tmp_path / "run.png")) is not None
    memory, seconds = figures[0].axes
    assert memory.get_ylim()[0] == seconds.get_ylim()[0] == 0
    np.testing.assert_allclose(memory.get_lines()[0].get_ydata(), [201, 202, 203, 204, 205])


def test_bars_stand_beside_each_other_and_what_is_not_told_is_missing(tmp_path, figures):
    told = {"walk": {"depth": 0.6, "stereo": 2.0}, "road": {"depth": 1.5}}
    plots.draw_bars(told, "off, %", tmp_path / "bars.png", goal=3.0)
    assert cv2.imread(str(tmp_path / "bars.png")) is not None
    (axis,) = figures[0].axes
    bars = [(round(p.get_x() + p.get_width() / 2, 3), p.get_height()) for p in axis.patches]
    assert bars == [(-0.2, 0.6), (0.8, 1.5), (0.2, 2.0)]
    (legend,) = figures[0].legends
    assert [t.get_text() for t in legend.get_texts()] == ["goal", "depth", "stereo"]
