"""What goes wrong on robots, row by row: over DDS, every node in a process of its own."""

import signal

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from scal3r_ros.ros.conversions import rgb_to_image, stamp_to_ns, to_ros_bytes
from scal3r_ros.ros.interfaces import Chunk, LoadMap, SaveMap, Status
from test.ros.conftest import FAKE, FAST, START_NS, Camera
from test.ros.test_nodes import call, latest

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_a_bag_that_starts_again_starts_a_new_map(nodes, node, camera, office):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    odometry = latest(node, Odometry, "odometry", 100)
    nodes.start("odometry_node")
    nodes.start("mapping_node", on_time_jump="reset", **FAST)
    camera.wait_for(2)
    camera.play_until(lambda: chunks and odometry, office, START_NS, "odometry")
    session = status[-1].map_session
    odometry.clear()
    again_ns = START_NS + 7  # back in time, and every stamp tells which of the two runs it is of

    def second_run() -> list[bool]:
        return [(stamp_to_ns(m.header.stamp) - again_ns) % 100_000_000 == 0 for m in odometry]

    camera.play_until(
        lambda: any(second_run()) and chunks[-1].map_session == session + 1,
        office,
        again_ns,
        "a new map",
    )
    assert "stamps went back by" in nodes.said("mapping_node")
    new = [stamp_to_ns(s) for c in chunks if c.map_session == session + 1 for s in c.stamps]
    assert {(stamp_ns - again_ns) % 100_000_000 for stamp_ns in new} == {0}
    seen = second_run()
    assert all(seen[seen.index(True) :])  # nothing of the first run comes back
    assert nodes.stop() == {"odometry_node": 0, "mapping_node": 0}


def test_odometry_goes_on_when_a_bag_starts_again_and_the_map_stays(nodes, node, camera, office):
    """The last chunk of the first run comes after its time was taken back."""
    odometry, chunks = latest(node, Odometry, "odometry", 400), latest(node, Chunk, "chunk", 20)
    nodes.start("odometry_node")
    nodes.start("mapping_node", on_time_jump="new_map", **FAST)
    camera.wait_for(2)
    last_ns = camera.play_until(lambda: chunks and len(odometry) > 20, office, START_NS, "odometry")
    again_ns = START_NS - 600_000_000_000
    camera.play_until(
        lambda: any(stamp_to_ns(m.header.stamp) < START_NS for m in odometry),
        office,
        again_ns,
        "odometry of the second run",
    )
    assert last_ns > START_NS and "tracking began anew" not in nodes.said("odometry_node")
    assert nodes.stop() == {"odometry_node": 0, "mapping_node": 0}


def test_a_tracker_that_starts_late_has_the_last_keyframe_of_a_robot_at_rest(
    nodes, node, camera, office
):
    chunks, odometry = latest(node, Chunk, "chunk", 20), latest(node, Odometry, "odometry", 100)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    last_ns = camera.play_until(lambda: chunks, office, START_NS, "a chunk")
    count = len(chunks)
    node.until(lambda: len(chunks) > count, 20, "what waited is mapped")
    nodes.start("odometry_node")
    camera.wait_for(2)
    still = rgb_to_image(office[0].image, Header())
    for step in range(1, 100):
        camera.send(still, last_ns + step * 100_000_000, pause_s=0.1)
        if odometry:
            break
    assert odometry


def test_a_fault_leaves_what_was_mapped_to_be_saved_and_a_reset_begins_anew(
    nodes, node, camera, office, tmp_path
):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.environment["FAKE_NETWORK"] = "breaks"
    nodes.start("mapping_node", FAKE, map_folder=str(tmp_path), **FAST)
    camera.wait_for(1)
    camera.play(office[:40])
    node.until(lambda: status[-1].state == Status.ERROR, 30, "the fault")
    assert "a fault that nobody thought of" in status[-1].message
    saved = call(node, SaveMap, "mapping_node/save_map", SaveMap.Request(path="rescued"))
    assert saved.success and saved.points > 0
    assert call(node, Trigger, "mapping_node/pause", Trigger.Request()).success
    resumed = call(node, Trigger, "mapping_node/resume", Trigger.Request())
    assert not resumed.success and "reset or load_map begin anew" in resumed.message
    assert status[-1].state == Status.ERROR
    load = LoadMap.Request(path="rescued")
    assert call(node, LoadMap, "mapping_node/load_map", load).success
    node.until(lambda: status[-1].state != Status.ERROR, 10, "another session")
    camera.play_until(  # mapping goes on, to the next fault
        lambda: status[-1].state == Status.ERROR, office, START_NS + 10**12, "another fault"
    )
    count = len(chunks)
    assert call(node, Trigger, "mapping_node/reset", Trigger.Request()).success
    node.until(lambda: status[-1].state != Status.ERROR, 10, "a new session")
    camera.play(office[:30], START_NS + 10**13)
    node.until(lambda: len(chunks) > count, 30, "chunks again")
    assert nodes.stop() == {"mapping_node": 0}


def test_another_image_size_and_a_pause_begin_new_pieces(nodes, node, camera, office):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    odometry = latest(node, Odometry, "odometry", 100)
    nodes.start("odometry_node")
    nodes.start("mapping_node", **FAST)
    camera.wait_for(2)
    last_ns = camera.play_until(lambda: chunks and odometry, office, START_NS, "odometry")
    camera.play(office[:16], last_ns + 100_000_000, scale=0.5)
    node.until(lambda: "image size changed from" in nodes.said("mapping_node"), 30, "the size")
    count = len(chunks)
    node.until(lambda: len(chunks) > count, 60, "chunks of the new size")
    after_ns = last_ns + 60_000_000_000
    camera.play(office[16:32], after_ns, scale=0.5)
    node.until(lambda: "no image for" in nodes.said("mapping_node"), 30, "the pause")
    node.until(lambda: stamp_to_ns(odometry[-1].header.stamp) >= after_ns, 30, "odometry")
    node.until(lambda: not status[-1].pending_frames, 60, "all is mapped")
    assert status[-1].frames_dropped_invalid == 0
    assert nodes.stop() == {"odometry_node": 0, "mapping_node": 0}


def test_stamps_that_are_zero_or_repeat_are_counted_and_said(nodes, node, camera, office):
    status = latest(node, Status, "status")
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    image = rgb_to_image(office[0].image, Header())
    camera.send(image, 0)
    camera.send(image, START_NS)
    camera.send(image, START_NS)  # twice
    camera.send(image, START_NS - 50_000_000)  # late, not a jump
    camera.send(image, START_NS + 1)
    node.until(lambda: status and status[-1].frames_received == 5, 30, "five images")
    assert status[-1].frames_dropped_invalid == 3
    assert "image stamps must be set and increase" in nodes.said("mapping_node")
    assert status[-1].map_session == 0


def test_every_listed_encoding_arrives_and_an_unlisted_one_is_named(nodes, node, camera, office):
    status = latest(node, Status, "status")
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    grey = cv2.cvtColor(office[0].image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    planes = {
        "mono8": (grey, width),
        "mono16": (grey.astype(np.uint16) * 256, 2 * width),
        "bayer_rggb8": (grey, width),
        "bgr8": (office[0].image[..., ::-1], 3 * width),
        "rgba8": (cv2.cvtColor(office[0].image, cv2.COLOR_RGB2RGBA), 4 * width),
        "yuv422": (np.dstack([np.full_like(grey, 128), grey]), 2 * width),
        "nv12": (np.vstack([grey, np.full((height // 2, width), 128, np.uint8)]), width),
    }
    for index, (encoding, (pixels, step)) in enumerate(planes.items()):
        message = Image(height=height, width=width, encoding=encoding, step=step)
        message.data = to_ros_bytes(np.ascontiguousarray(pixels))
        camera.send(message, START_NS + index)
    node.until(lambda: status and status[-1].frames_received == len(planes), 30, "all of them")
    assert status[-1].frames_dropped_invalid == 0
    message = Image(height=height, width=width, encoding="rgb565", step=2 * width)
    message.data = to_ros_bytes(np.zeros((height, 2 * width), np.uint8))
    short = Image(height=height, width=width, encoding="mono8", step=width)
    short.data = to_ros_bytes(grey[:5])
    camera.send(message, START_NS + 100)
    camera.send(short, START_NS + 101)
    node.until(lambda: status[-1].frames_dropped_invalid == 2, 30, "both are counted")
    said = nodes.said("mapping_node")
    assert "encoding must be one of rgb8" in said and "got 'rgb565'" in said
    assert f"image of {height} rows of {width} bytes" in said


def test_an_uncalibrated_camera_info_is_said_and_intrinsics_are_estimated(
    nodes, node, camera, office
):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    said = "camera_info holds no calibration"

    def told() -> bool:
        camera.infos.publish(CameraInfo(height=360, width=540))
        return said in nodes.said("mapping_node")

    node.until(told, 30, "the warning")
    camera.play(office[:10])
    node.until(lambda: chunks, 60, "a chunk all the same")
    assert status[-1].intrinsics_source == Status.INTRINSICS_ESTIMATED


def test_a_missing_transform_is_said_and_odometry_waits_for_it(nodes, node, camera, office):
    odometry = latest(node, Odometry, "odometry", 100)
    chunks = latest(node, Chunk, "chunk", 20)
    nodes.start("odometry_node", base_frame="base_link")
    nodes.start("mapping_node", FAKE, base_frame="base_link", **FAST)
    camera.wait_for(2)
    missing = "until /tf_static tells base_link -> camera_optical_frame"
    last_ns = camera.play_until(
        lambda: chunks and missing in nodes.said("odometry_node"), office, START_NS, "the warning"
    )
    assert not odometry
    turned = TransformStamped()
    turned.header.frame_id, turned.child_frame_id = "base_link", "camera_optical_frame"
    turned.transform.rotation.w = 1.0
    node.mount(turned)
    camera.play_until(lambda: odometry, office, last_ns + 100_000_000, "odometry")
    assert odometry[-1].child_frame_id == "base_link"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "discarded: prediction.depth must be finite"),
        ("oom", "chunks of 8, 4 shared, from here on"),
        ("large", "smaller images from here on"),
    ],
)
def test_a_network_that_fails_is_survived(nodes, node, camera, office, fault, said):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.environment["FAKE_NETWORK"] = fault
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play(office[:40])
    node.until(lambda: said in nodes.said("mapping_node"), 60, "the failure is said")
    node.until(lambda: not status[-1].pending_frames and len(chunks) >= 3, 60, "mapping goes on")
    node.until(lambda: said in status[-1].message, 20, "status tells it")
    assert status[-1].chunk_size_effective == (8 if fault == "oom" else 16)
    assert nodes.stop() == {"mapping_node": 0}


def test_a_slow_network_thins_images_and_never_blocks_odometry(nodes, node, camera, office):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.environment["FAKE_NETWORK"] = "slow"
    nodes.start("mapping_node", FAKE, max_pending_frames=8, **FAST)
    camera.wait_for(1)
    camera.play(office)
    node.until(lambda: status[-1].frames_dropped_overload > 0, 60, "thinning")
    node.until(lambda: "mapping is slower than the camera" in nodes.said("mapping_node"), 30, "it")
    node.until(lambda: status[-1].frames_received == len(office), 10, "callbacks kept up")
    node.until(lambda: chunks, 60, "chunks all the same")
    assert status[-1].effective_rate < status[-1].input_rate


def test_a_reset_drops_the_chunk_in_flight(nodes, node, camera, office):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.environment["FAKE_NETWORK"] = "slow"
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play(office[:20])
    node.until(lambda: status[-1].frames_used >= 8, 30, "the first chunk is in the network")
    assert call(node, Trigger, "mapping_node/reset", Trigger.Request()).success
    node.until(lambda: status[-1].map_session == 1, 30, "a new session")
    camera.play(office[:20], START_NS + 10_000_000_000)
    node.until(lambda: chunks, 60, "a chunk")
    assert {c.map_session for c in chunks} == {1}


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_while_the_network_runs_it_ends_cleanly(nodes, node, camera, office, asked):
    status = latest(node, Status, "status")
    nodes.environment["FAKE_NETWORK"] = "slow"
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play(office[:20])
    node.until(lambda: status[-1].frames_used >= 8, 30, "the first chunk is in the network")
    assert status[-1].chunks == 0
    nodes.running["mapping_node"].send_signal(asked)
    assert nodes.running.pop("mapping_node").wait(timeout=20) == 0
    assert "Traceback" not in nodes.said("mapping_node")


def test_the_others_go_on_when_mapping_is_killed(nodes, node, camera, office, tmp_path):
    odometry = latest(node, Odometry, "odometry", 100)
    clouds = latest(node, PointCloud2, "map_cloud")
    nodes.start("map_node", map_folder=tmp_path)
    nodes.start("odometry_node")
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(2)
    last_ns = camera.play_until(lambda: clouds and odometry, office, START_NS, "both lanes")
    nodes.running["mapping_node"].send_signal(signal.SIGKILL)
    assert nodes.running.pop("mapping_node").wait(timeout=10) == -signal.SIGKILL
    after_ns = last_ns + 100_000_000
    camera.play_until(
        lambda: stamp_to_ns(odometry[-1].header.stamp) > after_ns, office, after_ns, "odometry"
    )
    saved = call(node, SaveMap, "map_node/save_map", SaveMap.Request(path="kept.ply"))
    assert saved.success and saved.points > 0
    nodes.running["odometry_node"].send_signal(signal.SIGTERM)  # as systemd and docker do
    assert nodes.running.pop("odometry_node").wait(timeout=20) == 0
    assert nodes.stop() == {"map_node": 0}


def test_best_effort_cameras_are_heard(nodes, node, office):
    """Small images: large ones need the Fast DDS profile of the launch files."""
    status = latest(node, Status, "status")
    camera = Camera(node, reliable=False)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    info = CameraInfo(height=office[0].image.shape[0] // 4, width=office[0].image.shape[1] // 4)
    info.k = [60.0, 0.0, 40.0, 0.0, 60.0, 30.0, 0.0, 0.0, 1.0]
    camera.infos.publish(info)
    camera.play(office[:10], scale=0.25)
    node.until(lambda: status[-1].frames_received >= 8, 30, "images")
    known = Status.INTRINSICS_CAMERA_INFO
    node.until(lambda: status[-1].intrinsics_source == known, 10, "calibration of the same QoS")
