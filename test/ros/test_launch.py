"""The launch files, with the real launch system where it is installed."""

import importlib.util

import pytest

from test.conftest import ROOT

launch = pytest.importorskip("launch", reason="launch is not installed")
launch_ros = pytest.importorskip("launch_ros", reason="launch_ros is not installed")

OTHERS = {  # arguments that leave their default, and what must be seen for it
    "namespace": "robot",
    "namespaced_tf": "true",
    "odom_source": "topic",
    "bag": "some_bag",
    "rviz": "true",
    "foxglove": "true",
    "image_topic": "/front/image_rect",
    "image_transport": "compressed",
    "scale_source": "fixed",
    "fixed_scale": "2.5",
    "autosave_path": "office",
}


def description(name: str):
    path = ROOT / "launch" / name
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entities(name: str, given: dict[str, str]) -> list:
    """Everything that a launch file starts, with its arguments."""
    module = description(name)
    context = launch.LaunchContext()
    for action in module.generate_launch_description().entities:
        if isinstance(action, launch.actions.DeclareLaunchArgument):
            value = given.get(action.name)
            if value is None:
                assert action.default_value is not None, f"{action.name} has no default"
                value = launch.utilities.perform_substitutions(context, action.default_value)
            context.launch_configurations[action.name] = value
    found = []

    def walk(actions: list) -> None:
        for action in actions:
            found.append(action)
            if isinstance(action, launch.actions.GroupAction):
                walk(action.get_sub_entities())

    walk(module.start(context))
    return found


def executables(found: list) -> list[str]:
    return [a.node_executable for a in found if isinstance(a, launch_ros.actions.Node)]


def remapped(node) -> dict[str, str]:
    context = launch.LaunchContext()
    perform = launch.utilities.perform_substitutions
    pairs = node._Node__remappings
    return {perform(context, list(a)): perform(context, list(b)) for a, b in pairs}


def test_mapping_by_default_starts_three_nodes_on_the_usual_topics():
    found = entities("mapping.launch.py", {})
    assert executables(found) == ["mapping_node", "odometry_node", "map_node"]
    nodes = [a for a in found if isinstance(a, launch_ros.actions.Node)]
    names = remapped(nodes[0])
    assert names["image"] == "/camera/image_raw"
    assert names["camera_info"] == "/camera/camera_info"
    assert "/tf" not in names


def test_mapping_with_every_argument():
    found = entities("mapping.launch.py", OTHERS)
    assert executables(found) == [
        "mapping_node", "map_node", "rviz2", "foxglove_bridge", "when_ready",
    ]  # fmt: skip
    nodes = [a for a in found if isinstance(a, launch_ros.actions.Node)]
    names = remapped(nodes[0])
    assert names["image/compressed"] == "/front/image_rect/compressed"
    assert names["camera_info"] == "/front/camera_info"
    assert names["/tf"] == "tf"  # two robots do not share a tree
    declared = description("mapping.launch.py").ARGUMENTS
    assert set(OTHERS) <= set(declared)


def parameters(node) -> dict:
    """What the launch file itself sets, beside the file of parameters."""
    from launch_ros.utilities.evaluate_parameters import evaluate_parameter_dict

    context = launch.LaunchContext()
    found = {}
    for given in node._Node__parameters[1:]:
        found |= evaluate_parameter_dict(context, given)
    return found


def test_what_is_not_given_stays_as_the_file_of_parameters_says(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("mapping_node:\n  ros__parameters:\n    odom_source: tf\n")
    found = entities("mapping.launch.py", {"params_file": str(file), "device": "cpu"})
    assert executables(found) == ["mapping_node", "map_node"]
    nodes = [a for a in found if isinstance(a, launch_ros.actions.Node)]
    assert [parameters(node) for node in nodes] == [{"device": "cpu"}, {}]


def test_the_tracker_may_run_beside_another_source_of_odometry():
    given = {"odom_source": "tf", "odometry": "True", "use_imu": "true", "imu_topic": "/gyro"}
    found = entities("mapping.launch.py", given)
    nodes = [a for a in found if isinstance(a, launch_ros.actions.Node)]
    assert executables(found) == ["mapping_node", "odometry_node", "map_node"]
    assert parameters(nodes[0]) == {"odom_source": "tf"}
    assert parameters(nodes[1]) == {"publish_tf": False, "use_imu": True}
    assert remapped(nodes[1])["imu"] == "/gyro"


def test_nodes_have_time_to_finish_a_chunk_and_save():
    found = entities("mapping.launch.py", {})
    for node in (a for a in found if isinstance(a, launch_ros.actions.Node)):
        timeouts = [node._ExecuteLocal__sigterm_timeout, node._ExecuteLocal__sigkill_timeout]
        assert performed(timeouts) == ["60", "30"]


def test_every_node_is_told_to_wait_for_metres():
    found = entities("mapping.launch.py", {"require_metric": "true"})
    nodes = [a for a in found if isinstance(a, launch_ros.actions.Node)]
    assert [parameters(node) for node in nodes] == [{"require_metric": True}] * 3


def test_the_filters_header_asks_for_metres_of_both_nodes():
    header = (ROOT / "config" / "ekf_scal3r.yaml").read_text().split("ekf_filter_node:")[0]
    given = dict(word.rstrip(".").split(":=") for word in header.split() if ":=" in word)
    assert set(given) <= set(description("mapping.launch.py").ARGUMENTS)
    found = entities("mapping.launch.py", given)
    mapping, odometry = [a for a in found if isinstance(a, launch_ros.actions.Node)][:2]
    assert parameters(mapping)["scale_source"] == "odometry"
    assert parameters(mapping)["require_metric"] and parameters(odometry)["require_metric"]
    assert not parameters(odometry)["publish_tf"]  # that is the filter's


def test_a_bags_own_map_does_not_meet_ours():
    recorded = entities("record.launch.py", {"profile": "outputs", "namespace": "robot"})[0]
    outputs = {w for w in performed(recorded.cmd) if w[0] == "/" and "tf_static" not in w}
    found = entities("mapping.launch.py", OTHERS)
    play = next(a for a in found if getattr(a, "node_executable", "") == "when_ready")
    words = performed(play.cmd[1:])
    assert words[:7] == ["ros2", "bag", "play", "some_bag", "--clock", "100", "--topics"]
    assert {"/front/image_rect/compressed", "/front/camera_info", "/odom"} <= set(words)
    assert not outputs & set(words[7:])


def performed(words: list) -> list[str]:
    context = launch.LaunchContext()
    return [launch.utilities.perform_substitutions(context, word) for word in words]


def test_record_knows_its_profiles_and_replay_needs_a_bag():
    command = entities("record.launch.py", {"profile": "outputs", "namespace": "robot"})[0]
    context = launch.LaunchContext()
    words = [launch.utilities.perform_substitutions(context, part) for part in command.cmd]
    assert words[:3] == ["ros2", "bag", "record"]
    assert {"/robot/chunk", "/robot/corrections", "/tf", "/robot/tf"} <= set(words)
    sensors = entities("record.launch.py", {"profile": "inputs", "depth_topic": "/d/image"})[0]
    words = [launch.utilities.perform_substitutions(context, part) for part in sensors.cmd]
    assert {"/d/image", "/imu/data", "/odom", "/camera/right/camera_info"} <= set(words)
    with pytest.raises(ValueError, match="profile must be one of"):
        entities("record.launch.py", {"profile": "all"})
    with pytest.raises(ValueError, match="bag:=PATH is needed"):
        entities("replay.launch.py", {})


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "launch").glob("*.launch.py")))
def test_every_launch_file_describes_itself(name):
    if name == "nav2.launch.py":
        packages = pytest.importorskip("ament_index_python.packages")
        try:
            packages.get_package_share_directory("nav2_bringup")
        except LookupError:
            pytest.skip("nav2_bringup is not installed")
    actions = description(name).generate_launch_description().entities
    arguments = [a for a in actions if isinstance(a, launch.actions.DeclareLaunchArgument)]
    needed = {a.name for a in arguments if a.default_value is None}
    assert needed <= {"sequence"}
