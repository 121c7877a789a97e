"""The long run measures what it says; the full length is a benchmark."""

from scal3r_ros.evaluation.long_run import long_run
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
