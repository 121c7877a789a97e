"""The benchmark counts what it should; how fast it is here says nothing."""

from dataclasses import replace

import pytest
import torch

from scal3r_ros.network.bench import bench, report, table_line
from scal3r_ros.network.scal3r import Scal3RConfig

SMALL = replace(Scal3RConfig.nano(), encoder_depth=1)


def test_a_row_for_every_setting():
    cpu = torch.device("cpu")
    rows = bench(SMALL, ((56, 42), (84, 56)), ((4, 2), (3, 0)), device=cpu, repeats=1)
    assert [(r.width, r.window, r.overlap) for r in rows] == [
        (56, 4, 2),
        (56, 3, 0),
        (84, 4, 2),
        (84, 3, 0),
    ]
    for row in rows:
        assert set(row.stages_ms) == {
            "encoder",
            "frame attention",
            "global attention",
            "memory",
            "camera head",
            "depth head",
        }
        assert min(row.stages_ms.values()) > 0
        expected = 1e3 * (row.window - row.overlap) / row.ms_per_chunk
        assert row.keyframes_per_s == pytest.approx(expected, rel=0.01)
        assert row.tflops > 0
        assert f"{row.width}x{row.height}" in table_line(row)
    assert len(report(rows, cpu)["rows"]) == 4


def test_operations_grow_faster_than_the_window():
    """The memory's step costs the same for any window, attention grows with its square."""
    windows = ((3, 0), (6, 0), (9, 0))
    rows = bench(SMALL, ((84, 56),), windows, device=torch.device("cpu"), repeats=1)
    three, six, nine = (row.gflop for row in rows)
    assert 0 < six - three < nine - six


@pytest.mark.parametrize(
    ("size", "precision", "said"),
    [((100, 56), "fp32", "multiples of 14, got 100x56"), ((84, 56), "fp8", "got .'fp8'.")],
)
def test_wrong_settings_are_refused(size, precision, said):
    with pytest.raises(ValueError, match=said):
        bench(SMALL, (size,), ((3, 0),), device=torch.device("cpu"), precisions=(precision,))
