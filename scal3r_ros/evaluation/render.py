"""Pictures of maps and depth, drawn by ourselves: no window and no GPU is needed."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from scipy.spatial import cKDTree

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.point_map import Cloud

BACKGROUND = (18, 20, 24)
CANDIDATES = 16  # keyframes whose views are tried
MAX_RADIUS = 4  # of a splat, half pixels
STRIDE = 7  # of the points while views are compared
PATH_COLOUR, FRUSTUM_COLOUR = (255, 190, 60), (90, 200, 255)


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole camera that looks at the map."""

    T_cam_map: Float[ndarray, "4 4"]
    focal: float
    width: int
    height: int

    def project(
        self, xyz: Float[ndarray, "n 3"]
    ) -> tuple[Float[ndarray, "n 2"], Float[ndarray, " n"]]:
        cam = xyz @ self.T_cam_map[:3, :3].T + self.T_cam_map[:3, 3]
        z = cam[:, 2]
        safe = np.where(z > 1e-6, z, np.nan)
        uv = cam[:, :2] / safe[:, None] * self.focal + np.array([self.width, self.height]) / 2
        return uv, z


def look_at(
    eye: Float[ndarray, " 3"], target: Float[ndarray, " 3"], width: int, height: int, fov_deg: float
) -> View:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= max(float(np.linalg.norm(right)), 1e-9)
    down = np.cross(forward, right)
    T_map_cam = np.eye(4)
    T_map_cam[:3, :3] = np.stack([right, down, forward], axis=1)
    T_map_cam[:3, 3] = eye
    focal = width / 2 / np.tan(np.radians(fov_deg) / 2)
    return View(invert_pose(T_map_cam), focal, width, height)


def overview(
    cloud: Cloud, poses: Float[ndarray, "s 4 4"], width: int = 1600, height: int = 900
) -> View:
    """Of raised views over the shoulder of some keyframes, the one that shows most map and path."""
    picks = np.linspace(0, len(poses) - 1, min(len(poses), CANDIDATES)).astype(int)
    views = [
        over_the_shoulder(cloud, poses, int(i), (back, up), width, height)
        for i in picks
        for back, up in ((0.6, 0.35), (1.0, 0.6), (1.6, 1.0))
    ]
    some = Cloud(cloud.xyz[::STRIDE], cloud.rgb[::STRIDE], cloud.confidence[::STRIDE])
    return max(views, key=lambda view: _shown(some, poses, view))


def over_the_shoulder(
    cloud: Cloud,
    poses: Float[ndarray, "s 4 4"],
    index: int,
    offset: tuple[float, float],
    width: int,
    height: int,
) -> View:
    """From behind and above a camera, in multiples of the depth before it."""
    pose = poses[index]
    ahead = (cloud.xyz[::STRIDE].astype(np.float64) - pose[:3, 3]) @ pose[:3, 2]
    depth = float(np.median(ahead[ahead > 0])) if (ahead > 0).any() else 1.0
    heading = pose[:3, 2] * [1, 1, 0]
    length = float(np.linalg.norm(heading))
    heading = heading / length if length > 1e-6 else np.array([1.0, 0.0, 0.0])
    eye = pose[:3, 3] + depth * (offset[1] * np.array([0, 0, 1]) - offset[0] * heading)
    return look_at(eye, pose[:3, 3] + 0.7 * depth * heading, width, height, 60.0)


def _shown(cloud: Cloud, poses: Float[ndarray, "s 4 4"], view: View) -> float:
    """Share of the picture that is map, times the share of the path that is in it."""
    small = View(view.T_cam_map, view.focal / 10, view.width // 10, view.height // 10)
    _, depth = draw_cloud(cloud, small)
    uv, z = view.project(poses[:, :3, 3])
    inside = (z > 0) & (uv > 0).all(axis=1) & (uv < [view.width, view.height]).all(axis=1)
    return float(np.isfinite(depth).mean() * (0.2 + inside.mean()))


def draw_cloud(
    cloud: Cloud, view: View, point_size: float = 0.0
) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "h w"]]:
    """Square splats, nearest in front, with eye-dome shading; colours and depth of the picture.

    `point_size` is the side of a splat in map units; at least three half pixels, at most nine.
    """
    scale = 2
    big = View(view.T_cam_map, view.focal * scale, view.width * scale, view.height * scale)
    uv, z = big.project(cloud.xyz.astype(np.float64))
    rim = MAX_RADIUS + 1
    visible = (z > 1e-3) & (uv > rim).all(axis=1)
    visible &= (uv < np.array([big.width, big.height]) - rim).all(axis=1)
    order = np.flatnonzero(visible)
    order = order[np.argsort(-z[order])]  # far first: near points overwrite
    column, row = uv[order].astype(np.int64).T
    z = z[order]
    radius = np.clip(big.focal * point_size / z / 2, 1, MAX_RADIUS).astype(np.int64)
    depth = np.full((big.height, big.width), np.inf, np.float32)
    nearest = np.full((big.height, big.width), -1, np.int32)
    reach = int(radius.max()) if len(radius) else 0
    for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
        wide = np.flatnonzero(radius >= max(abs(dy), abs(dx)))
        layer = np.full(depth.shape, np.inf, np.float32)
        layer[row[wide] + dy, column[wide] + dx] = z[wide]
        owner = np.empty(depth.shape, np.int32)
        owner[row[wide] + dy, column[wide] + dx] = order[wide]
        nearer = layer < depth
        depth[nearer], nearest[nearer] = layer[nearer], owner[nearer]
    image = np.full((big.height, big.width, 3), BACKGROUND, np.uint8)
    hit = nearest >= 0
    image[hit] = cloud.rgb[nearest[hit]]
    image[hit] = (image[hit] * eye_dome(depth.astype(np.float64))[hit][:, None]).astype(np.uint8)
    small = cv2.resize(image, (view.width, view.height), interpolation=cv2.INTER_AREA)
    return np.asarray(small), depth[::scale, ::scale].astype(np.float64)


def eye_dome(depth: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """Darkens what lies behind its neighbours, which makes edges of shape visible."""
    log_depth = np.log2(np.where(np.isfinite(depth), depth, np.nan))
    shade = np.zeros(depth.shape)
    for dy, dx in ((0, 3), (3, 0), (0, -3), (-3, 0)):
        other = np.roll(log_depth, (dy, dx), axis=(0, 1))
        shade += np.nan_to_num(np.maximum(0, log_depth - other))
    return np.exp(-6 * np.minimum(shade, 0.2))


def draw_lines(
    image: UInt8[ndarray, "h w 3"],
    view: View,
    xyz: Float[ndarray, "n 3"],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """A polyline, drawn over the cloud."""
    uv, _ = view.project(xyz)
    for a, b in itertools.pairwise(uv):
        if (
            np.isfinite(a).all()
            and np.isfinite(b).all()
            and max(np.abs(a).max(), np.abs(b).max()) < 1e5
        ):
            ends = [tuple(round(16 * v) for v in p) for p in (a, b)]
            cv2.line(image, *ends, colour, thickness, cv2.LINE_AA, 4)


def frustum(T_map_cam: Float[ndarray, "4 4"], size: float) -> Float[ndarray, "n 3"]:
    x, y = 0.8 * size, 0.5 * size
    corners = np.array([[x, y, size], [-x, y, size], [-x, -y, size], [x, -y, size]])
    origin = np.zeros(3)
    loop = [
        origin,
        *corners,
        corners[0],
        origin,
        corners[1],
        origin,
        corners[2],
        origin,
        corners[3],
    ]
    return np.array(loop) @ T_map_cam[:3, :3].T + T_map_cam[:3, 3]


def typical_spacing(cloud: Cloud) -> float:
    """Median distance of a point to its third neighbour, from a sample."""
    xyz = cloud.xyz.astype(np.float64)
    sample = xyz[:: max(1, len(xyz) // 2000)]
    distance, _ = cKDTree(xyz).query(sample, k=min(4, len(xyz)))
    return float(np.median(np.atleast_2d(distance)[:, -1]))


def render_map(path: Path, cloud: Cloud, poses: Float[ndarray, "s 4 4"]) -> None:
    """Coloured points, the camera's path and some of its frusta, as a PNG."""
    if not len(cloud):
        raise ValueError("the map is empty: nothing to draw")
    view = overview(cloud, poses)
    image, _ = draw_cloud(cloud, view, typical_spacing(cloud))
    draw_lines(image, view, poses[:, :3, 3], PATH_COLOUR, 2)
    size = 0.02 * float(
        np.linalg.norm(np.ptp(np.quantile(cloud.xyz, [0.03, 0.97], axis=0), axis=0))
    )
    for pose in poses[:: max(1, len(poses) // 24)]:
        draw_lines(image, view, frustum(pose, size), FRUSTUM_COLOUR, 1)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def render_depth(
    path: Path,
    images: list[UInt8[ndarray, "h w 3"]],
    depths: list[Float[ndarray, "h w"]],
    certainties: list[Float[ndarray, "h w"]],
) -> None:
    """Rows of image, depth (near is warm) and gate certainty, as a PNG."""
    rows = [_strip("image", "depth", "gate certainty", width=images[0].shape[1])]
    for image, depth, certainty in zip(images, depths, certainties, strict=True):
        rows.append(np.concatenate([image, colour_depth(depth), _grey(certainty)], axis=1))
    picture = np.concatenate(rows)
    scale = max(1, 1500 // picture.shape[1])
    big = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), cv2.cvtColor(np.asarray(big), cv2.COLOR_RGB2BGR))


def _strip(*titles: str, width: int) -> UInt8[ndarray, "h w 3"]:
    strip = np.full((14, width * len(titles), 3), BACKGROUND, np.uint8)
    for i, title in enumerate(titles):
        cv2.putText(
            strip,
            title,
            (i * width + 4, 10),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.32,
            (230,) * 3,
            1,
            cv2.LINE_AA,
        )
    return strip


def colour_depth(depth: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Inverse depth between its 2nd and 98th percentile; none is black."""
    valid = depth > 0
    inverse = np.where(valid, 1 / np.where(valid, depth, 1), 0)
    low, high = np.quantile(inverse[valid], [0.02, 0.98]) if valid.any() else (0.0, 1.0)
    level = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
    coloured = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.where(valid[..., None], np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)), 0)


def _grey(certainty: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    level = (255 * np.clip(certainty, 0, 1)).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)
