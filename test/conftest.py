"""Shared ground: the example sequence, the procedural world, a predictor that knows the truth."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.types import Chunk, Frame, Prediction

ROOT = Path(__file__).parents[1]
OFFICE = ROOT / "examples" / "office"


def pytest_configure() -> None:
    """Open3D's wheel wants libusb, which small machines lack: a wheel brings it."""
    try:
        import libusb_package
    except ImportError:
        return
    path = libusb_package.get_library_path()
    if path is not None:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@dataclass
class TruthPredictor:
    """A stand-in for a perfect network: every chunk in its own frame and at its own scale."""

    clip: object  # training.world.WorldClip
    scales: tuple[float, ...] = (1.0, 2.0, 0.5, 1.3)
    chunks: int = 0
    on_host: bool = False

    def initial_memory(self) -> int:
        return 0

    def predict(self, chunk: Chunk, memory: int, *, write: bool = True) -> tuple[Prediction, int]:
        rows = [f.index for f in chunk.frames]
        unit = self.scales[self.chunks % len(self.scales)]
        self.chunks += 1
        T = self.clip.T_world_cam[rows].double().numpy()
        T = invert_pose(T[chunk.reference]) @ T
        T[:, :3, 3] /= unit
        depth = (self.clip.depth[rows] / unit).numpy().astype(np.float32)
        ones = np.ones_like(depth)
        descriptors = np.eye(64, dtype=np.float32)[[r % 64 for r in rows]]
        K = self.clip.K[rows].double().numpy()
        return Prediction(depth, 2 * ones, ones, K, T, descriptors), memory + 1

    def use_smaller_images(self) -> bool:
        return False


@dataclass
class World:
    """A rendered walk with its truth."""

    clip: object
    frames: list[Frame]

    @property
    def T_world_cam(self) -> np.ndarray:
        return self.clip.T_world_cam.double().numpy()


def steadily(_rng: np.random.Generator, frames: int) -> np.ndarray:
    """T_world_cam: half a metre a second along an arc, at 10 Hz, turning to the left."""
    n = np.arange(frames)
    yaw, along = 0.64 - 0.03 * n, 0.45 - 0.03 * n
    steps = 0.053 * np.stack([np.sin(along), 0 * along, np.cos(along)], axis=1)
    T = np.tile(np.eye(4), (frames, 1, 1))
    angles = np.stack([yaw, 0 * yaw - 0.02, 0 * yaw + 0.03], axis=1)
    T[:, :3, :3] = Rotation.from_euler("YXZ", angles).as_matrix()
    T[:, :3, 3] = np.cumsum(steps, axis=0) - [0.2, 0, 0]
    T[:, 1, 3] += 0.01 * np.sin(1.3 * n)
    return T


@pytest.fixture(scope="session")
def walk() -> World:
    """60 images through a room, camera moving steadily."""
    from scal3r_ros.training.world import render_clip

    clip = render_clip(18, 60, 112, 154, family="room", degradation="none", path=steadily)
    frames = [
        Frame(i, 10**9 + i * 10**8, image.numpy(), clip.K[i].double().numpy())
        for i, image in enumerate(clip.images)
    ]
    return World(clip, frames)


@pytest.fixture(scope="session")
def there_and_back() -> World:
    """A walk and the same walk backwards: every place is seen twice."""
    import torch

    from scal3r_ros.training.world import WorldClip, render_clip

    clip = render_clip(12, 28, 196, 252, family="clutter", stride=0.8, degradation="none")
    order = torch.tensor([*range(28), *range(26, -1, -1)])
    both = WorldClip(
        clip.images[order], clip.depth[order], clip.K[order], clip.T_world_cam[order], "room"
    )
    frames = [
        Frame(i, 10**9 + i * 10**8, image.numpy(), both.K[i].double().numpy())
        for i, image in enumerate(both.images)
    ]
    return World(both, frames)


def random_sim3(rng: np.random.Generator) -> Sim3:
    return Sim3.exp(rng.normal(0, [1, 1, 1, 2, 2, 2, 0.7]))
