"""nav2.launch.py, with a stand-in for Nav2's own launch file."""

import os
from pathlib import Path
from unittest import mock

import pytest
import yaml

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


def test_nothing_in_map_units_reaches_nav2(shares):
    from test.ros.test_launch import parameters

    nodes, _ = visited({})
    assert all(parameters(node)["require_metric"] for node in nodes)
