"""The long run measures what it says; the full length is a benchmark."""

from itertools import islice, pairwise

import numpy as np

from scal3r_ros.evaluation.long_run import PAGE, STEP_PX, WIDTH, long_run, wall
from scal3r_ros.evaluation.report import resident_mb
from scal3r_ros.mapping.config import ChunkConfig, MapperConfig, RefinementConfig, StorageConfig


def test_a_run_tells_memory_and_time_along_the_way():
    config = MapperConfig(
        chunks=ChunkConfig(8, 4, 4),
        refinement=RefinementConfig(enabled=False),
        storage=StorageConfig(in_memory=2),
    )
    result = long_run(120, config)
    assert result["chunks"] > 5 and result["points"] > 1000
    assert [s["frames"] for s in result["samples"]] == list(range(6, 121, 6))
    assert 0 < result["samples"][0]["memory_mb"] <= 1.5 * resident_mb()
    assert result["memory_ratio"] > 0.5 and result["time_ratio"] > 0


def test_the_wall_goes_on_and_is_never_the_same():
    """Also where one page of the painting ends and the next begins."""
    page, step = round(PAGE / STEP_PX), round(STEP_PX)
    begin = list(islice(wall(3, 0), 3))
    border = list(islice(wall(2 * page, 0), page - 30, page + 3))
    for before, after in pairwise(border):
        shared = before.image[:, step:].astype(int) - after.image[:, : WIDTH - step]
        assert np.abs(shared).mean() < 12  # fractions of a pixel
    apart = begin[0].image.astype(int) - border[-3].image
    assert np.abs(apart).mean() > 30
