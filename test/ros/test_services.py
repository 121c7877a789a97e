"""Services, sources of odometry and scale, and what may change while a node runs: over DDS."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from scal3r_ros.ros.conversions import (
    matrix_to_transform,
    message_to_cloud,
    pose_to_matrix,
    rgb_to_image,
    stamp_to_ns,
)
from scal3r_ros.ros.fallback.tf import DYNAMIC, transform_broadcaster
from scal3r_ros.ros.interfaces import (
    Chunk,
    Corrections,
    GetTrajectory,
    LoadMap,
    SaveMap,
    SetMode,
    SetScale,
    Status,
)
from test.ros.conftest import FAKE, FAST, START_NS, Camera
from test.ros.test_nodes import LATCHED, call, latest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
STEP_NS = 100_000_000


def diagnosis(node, name: str) -> list[DiagnosticStatus]:
    """Fills with what one task says."""
    found: list[DiagnosticStatus] = []

    def take(message: DiagnosticArray) -> None:
        found.extend(s for s in message.status if s.name.endswith(f"mapping_node: {name}"))

    node.create_subscription(DiagnosticArray, "/diagnostics", take, 10)
    return found


def tell(nodes, node, place: PoseWithCovarianceStamped) -> None:
    told = node.create_publisher(PoseWithCovarianceStamped, "initialpose", 1)
    node.until(lambda: told.get_subscription_count(), 20, "it listens")
    told.publish(place)
    node.until(lambda: "told to be at" in nodes.said("mapping_node"), 20, "it has heard")


def set_parameter(node, name: str, number: float | str, of: str = "mapping_node"):
    kind = ParameterType.PARAMETER_STRING
    value = ParameterValue(type=kind, string_value=str(number))
    if isinstance(number, float):
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=number)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
    return call(node, SetParameters, f"{of}/set_parameters", request).results[0]


def test_a_map_is_saved_loaded_localised_in_and_gone_on_with(nodes, node, camera, office, tmp_path):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 50)
    corrections = latest(node, Corrections, "corrections", LATCHED)
    transforms = latest(node, TFMessage, "/tf", DYNAMIC)
    nodes.start("map_node", map_folder=tmp_path / "clouds")
    nodes.start("mapping_node", FAKE, map_folder=tmp_path, autosave_path="at_the_end", **FAST)
    camera.wait_for(1)
    camera.play(office[:24])
    node.until(lambda: len(chunks) >= 2 and status[-1].frames_received == 24, 60, "chunks")
    node.until(lambda: not status[-1].pending_frames, 60, "all is mapped")
    call(node, Trigger, "mapping_node/flush", Trigger.Request())

    way = call(node, GetTrajectory, "mapping_node/get_trajectory", GetTrajectory.Request())
    assert way.success and way.frame_id == "map"
    assert len(way.poses) == 7 * len(way.stamps)
    node.until(lambda: len(way.stamps) == status[-1].frames_used, 10, "a status that agrees")

    save = "mapping_node/save_map"
    assert call(node, SaveMap, save, SaveMap.Request(path="office")).success
    assert "overwrite" in call(node, SaveMap, save, SaveMap.Request(path="office")).message
    outside = call(node, SaveMap, save, SaveMap.Request(path="../../tmp/x"))
    assert not outside.success and "path must name something in" in outside.message

    load = "mapping_node/load_map"
    none = call(node, LoadMap, load, LoadMap.Request(path="nothing"))
    assert not none.success and "no stored map" in none.message
    odd = call(node, LoadMap, load, LoadMap.Request(path="office", mode="add"))
    assert "mode must be one of replace, merge, got 'add'" in odd.message
    before, session = len(chunks), status[-1].map_session
    mapped = len({c.chunk_id for c in chunks})
    done = call(node, LoadMap, load, LoadMap.Request(path="office", localization_only=True))
    assert done.success, done.message
    node.until(lambda: len(chunks) - before == mapped, 30, "the whole map is published again")
    assert corrections[-1].reason == Corrections.LOAD
    assert {c.map_session for c in chunks[before:]} == {session + 1}

    count = len(chunks)
    assert transforms
    transforms.clear()
    camera.play(office[24:40], START_NS + 100 * STEP_NS)
    node.until(lambda: "not recognised" in status[-1].message, 60, "the fake knows no places")
    assert len(chunks) == count  # the map does not grow
    assert not transforms  # nobody knows where odom is in the loaded map
    poses = latest(node, PoseWithCovarianceStamped, "pose", 5)
    nowhere = PoseWithCovarianceStamped(header=Header(frame_id="map"))
    nowhere.pose.pose.position.x, nowhere.pose.pose.orientation.w = 7.0, 1.0
    tell(nodes, node, nowhere)
    camera.play_until(lambda: poses, office, START_NS + 120 * STEP_NS, "it is where it was told")
    assert abs(poses[0].pose.pose.position.x - 7.0) < 1.0
    node.until(lambda: transforms, 10, "map -> odom again")
    request = LoadMap.Request(path="office", localization_only=True, use_initial_pose=True)
    request.initial_pose.orientation.w = 0.0
    assert "initial_pose" in call(node, LoadMap, load, request).message
    request.initial_pose.position.y, request.initial_pose.orientation.w = -4.0, 1.0
    assert call(node, LoadMap, load, request).success
    poses.clear()
    camera.play_until(lambda: poses, office, START_NS + 600 * STEP_NS, "where it was told")
    assert abs(poses[0].pose.pose.position.y + 4.0) < 1.0
    count = len(chunks)
    mode = SetMode.Request(mode=SetMode.Request.MAPPING)
    assert call(node, SetMode, "mapping_node/set_mode", mode).success
    camera.play(office[:16], START_NS + 1200 * STEP_NS)
    node.until(lambda: len(chunks) > count, 60, "it grows again")
    cloud = call(node, SaveMap, "map_node/save_map", SaveMap.Request(path="all.npz"))
    assert cloud.success and cloud.points > 0, cloud.message
    assert nodes.stop() == {"map_node": 0, "mapping_node": 0}
    assert (tmp_path / "at_the_end" / "map.json").exists()


def test_a_told_place_is_that_of_the_robot(nodes, node, camera, office):
    """The camera looks ahead from a mast, the robot stands where it was told, looking left."""
    poses = latest(node, PoseWithCovarianceStamped, "pose", 5)
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T_base_cam[:3, 3] = [0.3, 0, 0.5]
    mast = matrix_to_transform(T_base_cam, 0, "base_link", "camera_optical_frame")
    node.mount(mast)
    nodes.start("mapping_node", FAKE, base_frame="base_link", **FAST)
    camera.wait_for(1)
    there = PoseWithCovarianceStamped(header=Header(frame_id="map"))
    there.pose.pose.position.x = 7.0
    there.pose.pose.orientation.z = there.pose.pose.orientation.w = 0.5**0.5
    tell(nodes, node, there)
    camera.play_until(lambda: poses, office, START_NS, "a pose")
    T_map_base = pose_to_matrix(poses[0].pose.pose)
    np.testing.assert_allclose(T_map_base[:3, 3], [7, 0, 0], atol=0.5)
    np.testing.assert_allclose(T_map_base[:3, 0], [0, 1, 0], atol=0.3)


def test_a_told_scale_a_new_piece_and_a_pause(nodes, node, camera, office, tmp_path):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 50)
    corrections = latest(node, Corrections, "corrections", LATCHED)
    points, odometry = (
        latest(node, PointCloud2, "points", 10),
        latest(node, Odometry, "odometry", 9),
    )
    clouds, grids = latest(node, PointCloud2, "map_cloud"), latest(node, OccupancyGrid, "map")
    nodes.start("map_node", require_metric=True, map_publish_period=0.2, map_folder=tmp_path)
    tracker = latest(node, Status, "odometry_status")
    nodes.start("odometry_node", require_metric=True)
    nodes.start("mapping_node", FAKE, require_metric=True, **FAST)
    camera.wait_for(2)
    camera.play(office[:16])
    node.until(lambda: chunks, 60, "a chunk")
    save = SaveMap.Request(path="m.ply")
    node.until(lambda: call(node, SaveMap, "map_node/save_map", save).success, 20, "map_node's map")
    camera.play(office[16:24], START_NS + 16 * STEP_NS)
    # withheld until metres are known
    assert not (points or odometry or clouds or grids) and not status[-1].metric
    node.until(lambda: "waiting for metres" in tracker[-1].message, 10, "odometry_status tells it")
    assert tracker[-1].input_rate > 0
    scale = "mapping_node/set_scale"
    assert not call(node, SetScale, scale, SetScale.Request(scale=-1.0)).success
    assert call(node, SetScale, scale, SetScale.Request(scale=2.5)).success
    node.until(lambda: corrections and corrections[-1].reason == Corrections.SCALE, 20, "said")
    node.until(lambda: status[-1].metric, 20, "metric")
    camera.play(office[24:40], START_NS + 24 * STEP_NS)
    node.until(lambda: points and clouds and grids, 60, "points")
    metric = stamp_to_ns(chunks[-1].header.stamp)
    after_ns = camera.play_until(
        lambda: odometry, office[24:], START_NS + 60 * STEP_NS, "odometry in metres"
    )
    assert stamp_to_ns(odometry[0].header.stamp) >= metric
    assert chunks[-1].metric
    assert abs(np.median(message_to_cloud(points[-1]).xyz[:, 2]) - 5.0) < 0.5  # the wall, 2 m * 2.5

    assert call(node, Trigger, "mapping_node/new_map", Trigger.Request()).success
    for name, state in (("pause", Status.PAUSED), ("pause", Status.PAUSED)):
        assert call(node, Trigger, f"mapping_node/{name}", Trigger.Request()).success
        node.until(lambda s=state: status[-1].state == s, 10, name)
    used = status[-1].frames_used
    camera.play(office[32:40], after_ns + 60 * STEP_NS)
    assert status[-1].frames_used == used
    assert call(node, Trigger, "mapping_node/flush", Trigger.Request()).success
    told = status[-1].header.stamp
    node.until(lambda: status[-1].header.stamp != told, 10, "another status")
    assert status[-1].state == Status.PAUSED  # though something was mapped
    assert call(node, Trigger, "mapping_node/resume", Trigger.Request()).success
    node.until(lambda: status[-1].state == Status.TRACKING, 10, "tracking")
    stop = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    assert call(node, ChangeState, "odometry_node/change_state", stop).success
    node.until(lambda: tracker[-1].message == "not active", 10, "odometry_status tells it")
    assert tracker[-1].state == Status.PAUSED


def test_parameters_are_checked_at_the_start_and_live(nodes, node, camera, office):
    nodes.start("mapping_node", FAKE, scale_source="guess")
    assert nodes.running.pop("mapping_node").wait(timeout=60) == 2
    said = nodes.said("mapping_node")
    assert "scale_source must be one of none, fixed" in said and "Traceback" not in said

    points = latest(node, PointCloud2, "points", 10)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    assert "range" in set_parameter(node, "max_depth", -5.0).reason
    assert not set_parameter(node, "model", "scal3r").successful  # not while it runs
    assert set_parameter(node, "max_depth", 1.0).successful
    camera.play_until(lambda: points, office, START_NS, "points")
    assert points[-1].width == 0  # the wall is 2 units away
    assert set_parameter(node, "max_depth", 0.0).successful
    camera.play_until(lambda: points[-1].width, office, START_NS + 900 * STEP_NS, "points")
    assert points[-1].width > 8
    assert set_parameter(node, "voxel_size", 5.0).successful
    few = START_NS + 1400 * STEP_NS
    camera.play_until(lambda: points[-1].width <= 8, office, few, "one point in a cube of 5")
    assert points[-1].width > 0

    status = latest(node, Status, "status")
    assert set_parameter(node, "keyframe_min_flow", 1.0).successful
    assert set_parameter(node, "keyframe_max_interval", 30.0).successful
    node.until(lambda: status, 30, "the status")

    def used_after(images: list, begin: int) -> int:
        before = status[-1].frames_received
        camera.play(images, START_NS + begin * STEP_NS)
        node.until(
            lambda: (
                status[-1].frames_received >= before + len(images) and not status[-1].pending_frames
            ),
            30,
            "all are taken",
        )
        return status[-1].frames_used

    used = used_after(office[:12], 2000)  # the parameters are taken over meanwhile
    assert used_after(office[12:36], 2012) - used <= 1  # nothing moves that much


def test_another_publisher_of_our_frame_is_named_and_we_stop(nodes, node, camera, office):
    frames = diagnosis(node, "frames")
    chunks = latest(node, Chunk, "chunk", 50)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play_until(lambda: chunks, office, START_NS, "a chunk")
    broadcaster = transform_broadcaster(node)

    def told() -> bool:
        rival = TransformStamped(child_frame_id="odom")
        rival.header.frame_id = "world"
        rival.header.stamp = node.get_clock().now().to_msg()
        rival.transform.rotation.w = 1.0
        broadcaster.sendTransform(rival)
        return bool(frames) and frames[-1].level == DiagnosticStatus.ERROR

    node.until(told, 30, "the conflict is said")
    assert "two publishers of world -> odom" in frames[-1].message
    heard = latest(node, TFMessage, "/tf", DYNAMIC)
    camera.play(office[:10], START_NS + 900 * STEP_NS)
    assert not [t for m in heard for t in m.transforms if t.header.frame_id == "map"]


def test_diagnostics_tell_silence_and_health(nodes, node, camera, office):
    told, inference = diagnosis(node, "input"), diagnosis(node, "inference")
    status = latest(node, Status, "status")
    nodes.start("mapping_node", FAKE, watchdog_period=1.0, camera_info_timeout=600.0, **FAST)
    camera.wait_for(1)
    node.until(lambda: told and told[-1].level == DiagnosticStatus.ERROR, 30, "silence")
    assert "they are there but send nothing" in told[-1].message
    for number in range(60):
        camera.send(rgb_to_image(office[number % 40].image, Header()), camera_time(node), 0.1)
        if told[-1].level == DiagnosticStatus.OK and status[-1].state == Status.TRACKING:
            break
    assert told[-1].level == DiagnosticStatus.OK
    assert (status[-1].state, status[-1].message) == (Status.TRACKING, "")
    values = {v.key: v.value for v in told[-1].values}
    assert int(values["images received"]) > 0
    values = {v.key: v.value for v in inference[-1].values}
    assert (values["device"], values["GPU temperature [deg C]"]) == ("fake", "61")
    node.destroy_publisher(camera.images)
    node.until(lambda: told[-1].level == DiagnosticStatus.ERROR, 30, "silence again")
    node.until(lambda: "/image: 0 publishers" in status[-1].message, 10, "status tells it")
    assert status[-1].state == Status.DEGRADED
    again = Camera(node, reliable=False)  # the camera comes back as another kind
    again.wait_for(1)
    for number in range(60):
        again.send(rgb_to_image(office[number % 40].image, Header()), camera_time(node), 0.1)
        if told[-1].level == DiagnosticStatus.OK:
            break
    assert told[-1].level == DiagnosticStatus.OK


def camera_time(node) -> int:
    return node.get_clock().now().nanoseconds


def test_required_camera_info_is_waited_for(nodes, node, camera, office):
    status = latest(node, Status, "status")
    nodes.start("mapping_node", FAKE, use_camera_info="required", camera_info_timeout=1.0, **FAST)
    camera.wait_for(1)
    camera.play(office[:15])
    node.until(lambda: "nothing is mapped until it comes" in nodes.said("mapping_node"), 30, "it")
    assert status[-1].frames_used == 0
    assert status[-1].intrinsics_source == Status.INTRINSICS_UNKNOWN


def test_the_focal_length_of_an_uncalibrated_camera_is_in_the_diagnostics(
    nodes,
    node,
    camera,
    office,
):
    told = diagnosis(node, "input")

    def focal() -> list[str]:
        return [v.value for status in told for v in status.values if v.key == "focal length"]

    nodes.start("mapping_node", FAKE, **{**FAST, "refinement": True})
    node.until(lambda: "not estimated" in focal(), 30, "nothing yet")
    camera.wait_for(1)
    camera.play(office[:15])
    node.until(lambda: any(f.endswith("%, estimated") for f in focal()), 60, "an estimate")


def test_a_node_goes_through_its_states_and_back(nodes, node, camera, office):
    told, chunks = diagnosis(node, "input"), latest(node, Chunk, "chunk", 50)
    status = latest(node, Status, "status")
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    change = "mapping_node/change_state"
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert call(node, ChangeState, change, request).success
        if transition == Transition.TRANSITION_DEACTIVATE:
            node.until(lambda: status and status[-1].message == "not active", 10, "status tells it")
            assert status[-1].state == Status.PAUSED
        if transition == Transition.TRANSITION_CLEANUP:
            node.until(lambda: told and told[-1].message == "not active", 10, "it is said")
            for kind, name in (
                (SaveMap, "save_map"),
                (GetTrajectory, "get_trajectory"),
                *((Trigger, name) for name in ("reset", "pause", "resume", "flush", "new_map")),
            ):
                refused = call(node, kind, f"mapping_node/{name}", kind.Request())
                assert not refused.success and "not active" in refused.message, name
    camera.wait_for(1)
    camera.play_until(lambda: chunks, office, START_NS, "a chunk after it all")
    assert nodes.stop() == {"mapping_node": 0}
