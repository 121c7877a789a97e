"""nav2.launch.py, with a stand-in for Nav2's own launch file."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import yaml

from scal3r_ros.ros.nav2_parameters import laid_over, laid_over_file
from test.conftest import ROOT

NAVIGATION = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument

OWN = {
    "namespace": "", "use_sim_time": "false", "autostart": "true", "params_file": "none",
    "use_composition": "False", "container_name": "nav2_container", "use_respawn": "False",
    "log_level": "info",
}


def generate_launch_description():
    return LaunchDescription([DeclareLaunchArgument(n, default_value=v) for n, v in OWN.items()])
"""
OWN = {
    "docking_server": {"ros__parameters": {"dock_plugins": ["simple_charging_dock"]}},
    "local_costmap": {
        "local_costmap": {
            "ros__parameters": {
                "robot_radius": 0.22,
                "width": 3,
                "plugins": ["voxel_layer", "denoise_layer", "inflation_layer"],
                "inflation_layer": {"cost_scaling_factor": 3.0, "inflation_radius": 0.7},
            }
        }
    },
}


def test_mappings_are_joined_and_lists_take_the_place_of_lists():
    under = {"a": {"kept": 1, "list": [1, 2, 3], "deep": {"x": 1, "y": 2}}, "only": {"here": 1}}
    over = {"a": {"list": [4], "deep": {"y": 3}}, "new": {"z": 1}}
    assert laid_over(under, over) == {
        "a": {"kept": 1, "list": [4], "deep": {"x": 1, "y": 3}},
        "only": {"here": 1},
        "new": {"z": 1},
    }
    assert laid_over(under, {}) == under and laid_over({}, over) == over
    assert laid_over({"a": None}, over)["a"] == over["a"]
    assert under["a"]["list"] == [1, 2, 3]  # what was given stays as it is


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_ours_over_a_robots_own_file(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(OWN))
    content = yaml.safe_load(laid_over_file(own, ROOT / "config" / "nav2_scal3r.yaml").read_text())
    assert content["docking_server"] == OWN["docking_server"]
    local = content["local_costmap"]["local_costmap"]["ros__parameters"]
    assert local["robot_radius"] == 0.22 and local["width"] == 6
    assert local["plugins"] == ["voxel_layer", "inflation_layer"]
    assert local["voxel_layer"]["scal3r"]["topic"] == "/scal3r/points"
    assert local["inflation_layer"]["cost_scaling_factor"] == 3.0
    own.write_text("just some text")
    with pytest.raises(ValueError, match=r"own.yaml must name nodes"):
        laid_over_file(own, ROOT / "config" / "nav2_scal3r.yaml")


@pytest.fixture
def shares(tmp_path, monkeypatch) -> Path:
    """Where packages lie: this checkout, and a Nav2 that only declares its arguments."""
    nav2 = tmp_path / "share" / "nav2_bringup"
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    for folder in (nav2 / "launch", nav2 / "params", index):
        folder.mkdir(parents=True)
    (nav2 / "launch" / "navigation_launch.py").write_text(NAVIGATION)
    (nav2 / "params" / "nav2_params.yaml").write_text(yaml.safe_dump(OWN))
    (tmp_path / "share" / "scal3r_ros").symlink_to(ROOT)
    for name in ("nav2_bringup", "scal3r_ros"):
        (index / name).touch()
    before = os.environ.get("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}{os.pathsep}{before}")
    return tmp_path


def visited(given: dict[str, str]) -> tuple[list, dict[str, str]]:
    """Nodes that nav2.launch.py would start, and Nav2's arguments at its end."""
    from test.ros.test_launch import description, launch, launch_ros  # skips where they are not

    context = launch.LaunchContext()
    context.launch_configurations.update(given)
    nodes = []

    def visit(entity) -> None:
        if isinstance(entity, launch_ros.actions.Node):
            nodes.append(entity)
            return
        for inner in entity.visit(context) or []:
            visit(inner)

    with mock.patch.dict(os.environ):
        visit(description("nav2.launch.py").generate_launch_description())
    return nodes, dict(context.launch_configurations)


def test_arguments_of_mapping_are_not_those_of_nav2(shares):
    nodes, nav2 = visited({})
    assert [node.node_executable for node in nodes] == ["mapping_node", "map_node"]
    assert (nav2["namespace"], nav2["use_sim_time"]) == ("", "false")
    assert (nav2["autostart"], nav2["log_level"]) == ("true", "info")
    _, nav2 = visited({"use_sim_time": "true"})  # what the user gives is for both
    assert nav2["use_sim_time"] == "true"


def test_nav2_has_its_own_parameters_below_ours(shares):
    for given, radius in (({}, 0.22), ({"nav2_params_file": str(shares / "mine.yaml")}, 0.5)):
        local = {"local_costmap": {"ros__parameters": {"robot_radius": 0.5}}}
        (shares / "mine.yaml").write_text(yaml.safe_dump({"local_costmap": local}))
        both = Path(visited(given)[1]["params_file"])
        content = yaml.safe_load(both.read_text())["local_costmap"]["local_costmap"]
        assert content["ros__parameters"]["robot_radius"] == radius
        assert content["ros__parameters"]["voxel_layer"]["observation_sources"] == "scal3r"


def test_nothing_in_map_units_reaches_nav2(shares):
    from test.ros.test_launch import parameters

    nodes, _ = visited({})
    assert all(parameters(node)["require_metric"] for node in nodes)
