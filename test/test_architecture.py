"""The rooms: what each may import, and that the mapper needs neither torch nor ROS."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scal3r_ros"

COMMON = {"numpy", "jaxtyping"}
# room -> (rooms of ours it may import, packages of others)
ROOMS = {
    "geometry": (set(), {"scipy"}),
    "network": (set(), {"torch", "einops", "safetensors", "tqdm"}),
    "tracking": ({"geometry"}, {"cv2", "scipy", "safetensors"}),
    "mapping": ({"geometry"}, {"scipy", "cv2", "gtsam", "yaml"}),
    "data": ({"geometry", "mapping"}, {"cv2", "rosbags", "yaml", "scipy"}),
    "evaluation": ({"geometry", "mapping", "tracking", "data"}, {"scipy", "cv2", "tqdm"}),
    "training": (
        {"network", "data", "geometry", "evaluation"},
        {"torch", "scipy", "tqdm", "einops", "safetensors", "cv2"},
    ),
    "ros": (
        {"geometry", "mapping", "tracking", "data", "evaluation", "doctor"},
        {"cv2", "scipy", "rosbags", "tqdm", "yaml"},
    ),
}
ROS = {
    "rclpy", "rcl_interfaces", "builtin_interfaces", "std_msgs", "std_srvs", "sensor_msgs",
    "geometry_msgs", "nav_msgs", "rosgraph_msgs", "lifecycle_msgs", "tf2_msgs", "tf2_ros",
    "ament_index_python", "diagnostic_msgs", "diagnostic_updater", "message_filters",
    "cv_bridge", "grid_map_msgs",
}  # fmt: skip
EXCEPTIONS = {  # file -> what it alone may import in addition
    "mapping/predictor.py": {"torch", "network"},
    "mapping/network_output.py": {"torch", "network"},
    "mapping/process.py": {"threadpoolctl"},
    "evaluation/backend.py": {"gtsam"},  # the published optimiser, for comparison
    "evaluation/plots.py": {"matplotlib"},
}
TYPES_ONLY = {"data": {"mapping.types"}}
FORBIDDEN_NAMES = {"utils", "core", "common", "helpers", "engine"}
FILES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", [f for f in FILES if len(f.parts) > 1], ids=str)
def test_rooms_import_only_what_the_plan_allows(file):
    room = file.parts[0]
    ours, others = ROOMS[room]
    extra = EXCEPTIONS.get(str(file), set())
    for name in imports(PACKAGE / file):
        top, *rest = name.split(".")
        if top == "scal3r_ros":
            other = rest[0] if rest else room
            if other == "msg" or other == "srv":
                assert room == "ros", f"{file} imports {name}"
                continue
            assert other == room or other in ours | extra, f"{file} imports {name}"
            if room in TYPES_ONLY and other not in (room, "geometry"):
                assert ".".join(rest) in TYPES_ONLY[room], f"{file} imports {name}"
        elif top not in sys.stdlib_module_names:
            allowed = COMMON | others | extra | (ROS if room == "ros" else set())
            assert top in allowed, f"{file} imports {name}"


def test_every_room_has_a_line_in_the_plan():
    rooms = {f.parts[0] for f in FILES if len(f.parts) > 1 and f.parts[0] not in ("msg", "srv")}
    assert rooms == set(ROOMS)


def test_no_room_is_a_drawer_for_everything():
    assert not {f.stem for f in FILES} & FORBIDDEN_NAMES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_stay_readable(file):
    assert len((PACKAGE / file).read_text().splitlines()) <= 300


def test_the_mapper_needs_neither_torch_nor_ros():
    code = (
        "import sys\n"
        "for name in ('torch', 'rclpy'): sys.modules[name] = None\n"
        "import scal3r_ros.mapping.mapper, scal3r_ros.tracking.tracker, scal3r_ros.data.rosbag\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_versions_agree_and_the_package_lists_what_the_card_asks_for():
    version = re.search(r"<version>(.*)</version>", (ROOT / "package.xml").read_text()).group(1)
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    text = (ROOT / "package.xml").read_text()
    for name in ("rclpy", "cv_bridge", "sensor_msgs_py", "tf_transformations", "message_filters"):
        assert f"<exec_depend>{name}</exec_depend>" in text
    for name in ("rviz2", "ros2bag", "rosbag2_storage_mcap"):  # of the README's first commands
        assert f"<exec_depend>{name}</exec_depend>" in text
    for name in ("torch", "numpy", "open3d"):
        assert name in text
        assert name in (ROOT / "requirements" / "base.txt").read_text()


def test_no_trace_of_the_machine_it_was_written_on():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    kinds = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".xml", ".sh", "")
    names = [name for name in listed.stdout.split("\0") if name and Path(name).suffix in kinds]
    assert names
    for path in (ROOT / name for name in names):
        if path.is_file() and path.stat().st_size < 1_000_000:
            text = path.read_text(errors="ignore")
            assert "/work" + "/" not in text, path
            assert "/root" + "/" not in text, path
