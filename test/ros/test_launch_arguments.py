"""What launch files make of their arguments, without the launch system."""

from xml.etree import ElementTree

import pytest
import yaml

from scal3r_ros.ros.launch_arguments import (
    SENSORS,
    beside,
    camera_topics,
    given,
    in_file,
    played_topics,
    sensor_topics,
    yes,
)
from test.conftest import ROOT


def test_yes_and_no_in_every_usual_spelling_and_nothing_else():
    assert all(map(yes, ("true", "True", "1", "yes", "ON")))
    assert not any(map(yes, ("false", "False", "0", "no", "off")))
    with pytest.raises(ValueError, match="true or false is expected, got 'maybe'"):
        yes("maybe")


def test_what_is_not_given_is_left_to_the_file():
    arguments = {"device": "", "fixed_scale": "2.5", "publish_tf": "False"}
    kinds = {"device": str, "fixed_scale": float, "publish_tf": yes}
    assert given(arguments, kinds) == {"fixed_scale": 2.5, "publish_tf": False}
    with pytest.raises(ValueError, match="fixed_scale: could not convert"):
        given(arguments | {"fixed_scale": "two"}, kinds)


@pytest.mark.parametrize(
    "key", ["mapping_node", "/robot/mapping_node", "/*", "/**", "/**/mapping_node"]
)
def test_a_file_says_where_odometry_comes_from(tmp_path, key):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{key}:\n  ros__parameters:\n    odom_source: tf\nother:\n")
    assert in_file(str(file), "mapping_node", "odom_source") == "tf"
    assert in_file(str(file), "mapping_node", "device") is None
    file.write_text("")
    assert in_file(str(file), "mapping_node", "odom_source") is None
    file.write_text("just some text")
    with pytest.raises(ValueError, match=r"mine.yaml must name nodes"):
        in_file(str(file), "mapping_node", "odom_source")


def test_files_that_are_shipped_can_be_read():
    for file in sorted((ROOT / "config").glob("*.yaml")):
        if "ros__parameters" in file.read_text():
            in_file(str(file), "mapping_node", "odom_source")
    assert in_file(str(ROOT / "config" / "mapping.yaml"), "mapping_node", "model") == "nano"


def test_rviz_tells_the_nodes_where_the_robot_is():
    content = yaml.safe_load((ROOT / "config" / "scal3r.rviz").read_text())
    tools = {tool["Class"]: tool for tool in content["Visualization Manager"]["Tools"]}
    pose = tools["rviz_default_plugins/SetInitialPose"]
    assert pose["Topic"]["Value"] == "initialpose"  # relative: below the namespace, as the node's


def test_calibration_lies_beside_the_images():
    assert beside("/camera/image_raw", "camera_info") == "/camera/camera_info"
    assert beside("/image_raw", "camera_info") == "/camera_info"
    assert beside("image_raw", "camera_info") == "camera_info"
    assert camera_topics("a/image", "b/info")["camera_info"] == "b/info"


def test_a_secured_node_may_hear_every_topic_that_launch_gives_it_by_default():
    images = camera_topics("/camera/image_raw")
    roles = images | sensor_topics(*SENSORS.values())
    listens = {"mapping_node": set(roles), "odometry_node": {*images, "imu"}}
    policy = ElementTree.parse(ROOT / "config" / "sros2_policy.xml").getroot()
    for profile in policy.iter("profile"):
        lists = [e for e in profile.iter("topics") if "subscribe" in e.attrib]
        allowed = {f"/{topic.text}" for e in lists for topic in e.iter("topic")}
        wanted = {roles[role] for role in listens.get(profile.get("node"), ())}
        assert wanted <= allowed, f"{profile.get('node')}: {wanted - allowed} is not allowed"


IMAGES = ["/front/image", "/front/image/compressed", "/front/camera_info"]
REMAPPED = camera_topics("/front/image") | sensor_topics(*SENSORS.values())


@pytest.mark.parametrize(
    ("given", "file", "others"),
    [
        ({}, "", []),
        ({"odom_source": "topic"}, "", ["/odom"]),
        ({"odom_source": "tf"}, "", ["/tf"]),
        ({"odom_source": "tracker"}, "odom_source: tf", []),
        ({}, "scale_source: depth", [SENSORS["sensor_depth/image"]]),
        (
            {"scale_source": "stereo"},
            "map_orientation: imu",
            ["/camera/right/image_rect", "/camera/right/camera_info", "/imu/data"],
        ),
        ({"scale_source": "imu"}, "", ["/imu/data"]),
        ({"use_imu": "true"}, "", ["/imu/data"]),
        ({"use_imu": "false"}, "use_imu: true", []),
        ({}, "use_imu: true", ["/imu/data"]),
        ({}, "mask_topic: mask", ["/robot/mask"]),
        ({"bag_topics": "/scan joints"}, "", ["/scan", "/robot/joints"]),
    ],
)
def test_of_a_bag_what_the_nodes_listen_to_is_played(tmp_path, given, file, others):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"/**:\n  ros__parameters:\n    model: nano\n    {file}\n")
    names = ("odom_source", "scale_source", "map_orientation", "use_imu", "bag_topics")
    arguments = dict.fromkeys(names, "") | {"params_file": str(mine), "namespace": "/robot"}
    played = played_topics(arguments | given, REMAPPED)
    assert sorted(played) == sorted([*IMAGES, *others, "/tf_static"])


def test_transforms_of_a_bag_are_the_robots_own_where_they_lie_below_its_namespace():
    tf = {"/tf": "tf", "/tf_static": "tf_static", "image": "camera/image"}
    arguments = {"namespace": "robot", "odom_source": "tf", "use_imu": "no", "bag_topics": ""}
    arguments |= {"params_file": str(ROOT / "config" / "mapping.yaml")}
    played = played_topics(arguments, REMAPPED | tf)
    assert {"/robot/camera/image", "/robot/tf", "/robot/tf_static"} <= set(played)
    assert not {"/tf", "/tf_static"} & set(played)
