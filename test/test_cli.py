"""The command line as a user meets it: products, and one line with exit code 2 on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from scal3r_ros.data.tum import read_trajectory
from test.conftest import OFFICE, ROOT


def scal3r(*arguments: object, timeout: float = 200) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scal3r_ros.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """The first 26 images of the example."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "images").mkdir()
    for path in sorted((OFFICE / "images").iterdir())[:26]:
        (folder / "images" / path.name).write_bytes(path.read_bytes())
    times = (OFFICE / "times.txt").read_text().split()[:26]
    (folder / "times.txt").write_text("\n".join(times) + "\n")
    (folder / "camera.yaml").write_text((OFFICE / "camera.yaml").read_text())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["causal", "offline"])
def test_map_writes_everything(clip, tmp_path, schedule):
    out = tmp_path / "out"
    done = scal3r("map", clip, "--out", out, "--schedule", schedule, "--save-depth")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == 26
    assert report["schedule"] == schedule
    assert report["peak_host_memory_mb"] > 100
    assert {"versions", "commit", "drops", "scale", "loops", "seconds"} <= set(report)
    assert len(read_trajectory(out / "trajectory.txt")) == 26
    for name in ("map.ply", "map.png", "depth.png", "keyframes.txt", "odometry.txt"):
        assert (out / name).stat().st_size > 100
    depth = cv2.imread(str(next((out / "depth").iterdir())), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert depth.max() > 0
    again = scal3r("map", clip, "--out", out)
    assert (again.returncode, "--overwrite" in again.stderr) == (2, True)


@pytest.mark.slow
def test_two_processes_make_the_map_of_one(clip, tmp_path):
    out = {schedule: tmp_path / schedule for schedule in ("offline", "parallel")}
    alone = scal3r("map", clip, "--out", out["offline"], "--schedule", "offline")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    launch += ["-m", "scal3r_ros.cli", "map", str(clip), "--out", str(out["parallel"])]
    together = subprocess.run(
        [*launch, "--schedule", "parallel"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert (alone.returncode, together.returncode) == (0, 0), together.stderr
    one, two = (read_trajectory(folder / "trajectory.txt") for folder in out.values())
    assert one.keys() == two.keys()
    apart = [np.linalg.norm(one[s][:3, 3] - two[s][:3, 3]) for s in one]
    assert max(apart) < 0.05  # sums in another order, through robust estimators
    assert together.stdout.count("picture:") == 1


def one_image(path: Path) -> None:
    path.mkdir()
    cv2.imwrite(str(path / "a.png"), np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (None, [], "does not exist"),
        (Path.mkdir, [], "holds no images"),
        (one_image, [], "at least 2 images are needed, got 1"),
        ("clip", ["--checkpoint", "/no/such/file"], "/no/such/file"),
        ("clip", ["--schedule", "sideways"], "schedule must be one of"),
        ("clip", ["--schedule", "parallel"], "started by torchrun"),
        ("clip", ["--schedule", "offline", "--no-memory"], "--no-memory excludes it"),
        ("clip", ["--model", "huge"], "model must be nano or scal3r, got huge"),
        ("clip", ["--config", "/no/such.yaml"], "cannot be read"),
        ("clip", ["--config", ROOT / "config" / "mapping.yaml"], "`scal3r replay --params-file`"),
        ("clip", ["--scale-source", "fixed"], "metres per unit are needed"),
        ("clip", ["--model", "scal3r"], "checkpoint"),
        ("clip", ["--device", "tpu"], "tpu"),
        ("clip", ["--frobnicate"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(clip, tmp_path, make, options, said):
    source = clip if make == "clip" else tmp_path / "input"
    if callable(make):
        make(source)
    done = scal3r("map", source, "--out", tmp_path / "out", *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("scal3r: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["bench", "train"])
def test_a_device_that_does_not_exist_is_one_line(command):
    options = ["world"] if command == "bench" else ["--config", ROOT / "config" / "train_nano.yaml"]
    done = scal3r(command, *options, "--device", "foo")
    assert (done.returncode, "got foo" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "filters", OFFICE, "--plot", "fi.xyz"], "fi.xyz must end in .png or .jpg"),
        (["eval", "baselines", "/no/bag", "--out", "x", "--topic", "/a"], "/no/bag does not exist"),
        (["bench", "tracker", "--sequence", OFFICE, "--size", "0x0"], "WIDTHxHEIGHT, got 0x0"),
        (["bench", "memory", "--frames", "50"], "greater than or equal to 100"),
        (["bench", "backend"], "either --poses or --stored is needed"),
        (["bench", "backend", "--stored", "nope"], "nope/pgo.safetensors"),
        (["bench", "ros", "--size", "0x0"], "size must be WIDTHxHEIGHT, got 0x0"),
        (["bench", "ros", "--sequence", "nope"], "nope does not exist"),
    ],
)
def test_what_cannot_be_measured_is_one_line_at_once(arguments, said):
    done = scal3r(*arguments, timeout=60)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_take_the_map_is_refused_before_mapping(clip, tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "replayed").mkdir()
    (tmp_path / "replayed" / "map.ply").touch()  # of another command
    for out, said in (
        ("notes.txt", "results go into a folder, but"),
        ("notes.txt/out", "Not a directory"),
        ("replayed", "holds results already (map.ply); pass --overwrite"),
    ):
        done = scal3r("map", clip, "--out", tmp_path / out)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "mapping:" not in done.stderr  # the bar
    done = scal3r("map", clip, "--out", clip)
    assert (done.returncode, "write over the input" in done.stderr) == (2, True), done.stderr


def test_a_wrong_checkpoint_says_what_it_is(clip, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    done = scal3r("map", clip, "--out", tmp_path / "o", "--checkpoint", tmp_path / "w.safetensors")
    assert done.returncode == 2
    assert "w.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_finds_the_shipped_weights(tmp_path):
    done = scal3r("doctor", "--json", tmp_path / "d.json")
    findings = {f["name"]: f for f in json.loads((tmp_path / "d.json").read_text())}
    assert findings["nano weights"]["ok"]
    assert findings["python"]["ok"]
    assert done.returncode == (0 if all(f["ok"] for f in findings.values()) else 1)


def test_eval_writes_json(tmp_path):
    truth = OFFICE / "groundtruth.txt"
    done = scal3r("eval", "trajectory", truth, truth, "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["ate_rmse"] < 1e-9
    bad = scal3r("eval", "trajectory", truth, tmp_path / "none.txt")
    assert (bad.returncode, "does not exist" in bad.stderr) == (2, True)


def test_a_scale_that_images_cannot_tell_is_refused(clip, tmp_path):
    """Better than a map that never becomes metric and does not say why."""
    (tmp_path / "c.yaml").write_text("scale: {source: odometry}\n")
    done = scal3r("map", clip, "--out", tmp_path / "out", "--config", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert "scale source odometry needs more than images" in done.stderr
    done = scal3r("map", clip, "--out", tmp_path / "out", "--scale-source", "depth")
    assert done.returncode == 2
    assert "depth of a folder is read from" in done.stderr and "is no folder" in done.stderr
    done = scal3r("map", clip / "images", "--out", tmp_path / "out", "--scale-source", "depth")
    assert done.returncode == 2
    assert "scale source depth needs more than images" in done.stderr


@pytest.mark.slow
def test_a_camera_that_never_moved_is_told_of(clip, tmp_path):
    """One image is mapped as if it were a scene: rarely what was wanted."""
    image = next(iter(sorted((clip / "images").iterdir())))
    (tmp_path / "still").mkdir()
    for i in range(12):
        (tmp_path / "still" / f"{i}.jpg").write_bytes(image.read_bytes())
    done = scal3r("map", tmp_path / "still", "--out", tmp_path / "out")
    assert (done.returncode, "the camera never moved" in done.stderr) == (0, True), done.stderr
