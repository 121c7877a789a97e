"""Registration of two chunks beside the published fit of neighbours, on pairs with known truth and
on the official program's stored cases."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.evaluation.neighbour_chain import fit_neighbour
from scal3r_ros.geometry.align import robust_align, umeyama
from scal3r_ros.geometry.camera import intrinsics
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import RegistrationConfig
from scal3r_ros.mapping.registration import points_of, register, shared_frames
from scal3r_ros.mapping.types import Submap

FRAMES, SHARED, HEIGHT, WIDTH = 24, 16, 42, 74
SEEDS = 10
NOISE = 0.02  # of a pixel's log depth
FRAME_NOISE = 0.01  # of a frame's
TURN_NOISE, WAY_NOISE = 0.004, 0.005  # of a camera: radians, metres
TRUTH = Sim3(Rotation.from_rotvec([0.2, -0.5, 0.1]).as_matrix(), np.array([3.0, -1.0, 2.0]), 1.3)


@dataclass(frozen=True)
class Case:
    """What is wrong with the newer chunk, and what both look at."""

    T_target_source: Sim3 = TRUTH
    outliers: float = 0.0  # share of the pixels, in patches, whose depth is 2 to 5 times too large
    failed: float = 0.0  # share of the frames whose depth has another unit
    plane: bool = False  # a flat wall
    turning: bool = False  # the camera only turns


CASES = {
    "clean": Case(),
    "unit five times smaller": Case(replace(TRUTH, s=0.2)),
    "10 % outliers": Case(outliers=0.1),
    "30 % outliers": Case(outliers=0.3),
    "a quarter of the frames failed": Case(failed=0.25),
    "a flat wall": Case(plane=True),
    "a flat wall, 30 % outliers": Case(plane=True, outliers=0.3),
    "the camera only turns": Case(turning=True),
}


def bench_registration(parity: Mapping[str, ndarray] | None) -> dict[str, Any]:
    """Median errors of both ways over the seeds, for every case; the stored cases, if given; the
    time of a large pair."""
    found: dict[str, Any] = {"cases": {}}
    for name, case in CASES.items():
        pairs = [make_pair(case, np.random.default_rng(seed)) for seed in range(SEEDS)]
        found["cases"][name] = {
            way: np.median([_errors(fit(*p), case.T_target_source) for p in pairs], axis=0)
            .round(4)
            .tolist()
            for way, fit in (("ours", _ours), ("published", _published))
        }
    if parity is not None:
        found["stored cases"] = stored_cases(parity)
    found["ms a pair of 60 shared frames of 518x294"] = large_pair_ms()
    return found


def _ours(source: Submap, target: Submap) -> Sim3:
    return register(source, target, RegistrationConfig()).T_target_source


def _published(source: Submap, target: Submap) -> Sim3:
    """All pixels of all shared frames."""
    slots = [list(s) for s in zip(*shared_frames(source, target), strict=True)]
    (_, a, a_trust), (_, b, b_trust) = points_of(target, slots[1]), points_of(source, slots[0])
    flat = (a.reshape(-1, 3), b.reshape(-1, 3), a_trust.reshape(-1), b_trust.reshape(-1))
    return fit_neighbour(*flat)


def _errors(T: Sim3, truth: Sim3) -> Float[ndarray, " 3"]:
    """Rotation [degrees], where the scene's middle comes to lie [% of its depth], scale [%]."""
    turn = np.degrees(Rotation.from_matrix(truth.R.T @ T.R).magnitude())
    middle = np.array([[2.0, 0.0, 3.0]])
    apart = np.linalg.norm(T.apply(middle) - truth.apply(middle)) / (3.0 * truth.s)
    return np.array([turn, 100 * apart, 100 * abs(T.s / truth.s - 1)])


def make_pair(case: Case, rng: np.random.Generator) -> tuple[Submap, Submap]:
    """(source, target): the newer chunk, in which things are wrong, and the older one."""
    target = _submap(0, 0, case, case.T_target_source, rng)
    source = _submap(1, FRAMES - SHARED, case, Sim3.identity(), rng)
    depth = source.depth.astype(np.float64)
    wrong = rng.random((FRAMES, HEIGHT // 6 + 1, WIDTH // 6 + 1)) < case.outliers
    wrong = wrong.repeat(6, axis=1).repeat(6, axis=2)[:, :HEIGHT, :WIDTH]
    depth = np.where(wrong, depth * rng.uniform(2, 5, depth.shape), depth)
    failed = rng.permutation(SHARED)[: round(case.failed * SHARED)]
    depth[failed] *= rng.uniform(1.5, 3, (len(failed), 1, 1))
    return replace(source, depth=depth.astype(np.float16)), target


def _submap(
    index: int, first: int, case: Case, T_submap_world: Sim3, rng: np.random.Generator
) -> Submap:
    steps = np.arange(first, first + FRAMES)
    walk = np.tile(np.eye(4), (FRAMES, 1, 1))
    walk[:, :3, :3] = Rotation.from_rotvec(0.02 * steps[:, None] * [0, 1, 0]).as_matrix()
    if not case.turning:
        walk[:, 0, 3], walk[:, 1, 3] = 0.1 * steps, 0.05 * np.sin(steps)
    K = intrinsics(60.0, 60.0, WIDTH / 2, HEIGHT / 2)
    xy = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), axis=-1)
    ray = np.concatenate([(xy - K[:2, 2]) / 60.0, np.ones((HEIGHT, WIDTH, 1))], axis=-1)
    world = np.einsum("nij,hwj->nhwi", walk[:, :3, :3], ray)
    depth = (3.0 - walk[:, 2, 3, None, None]) / world[..., 2]  # a wall at z = 3
    if not case.plane:
        x = walk[:, 0, 3, None, None] + depth * world[..., 0]
        depth *= 1 + 0.15 * np.sin(3 * x) + 0.1 * np.cos(5 * depth * world[..., 1])
    frames = rng.normal(0, FRAME_NOISE, (FRAMES, 1, 1))
    depth *= T_submap_world.s * np.exp(frames + rng.normal(0, NOISE, depth.shape))
    T = np.tile(np.eye(4), (FRAMES, 1, 1))
    shake = Rotation.from_rotvec(rng.normal(0, TURN_NOISE, (FRAMES, 3))).as_matrix()
    T[:, :3, :3] = T_submap_world.R @ walk[:, :3, :3] @ shake
    T[:, :3, 3] = T_submap_world.apply(walk[:, :3, 3])
    T[:, :3, 3] += rng.normal(0, WAY_NOISE * T_submap_world.s, (FRAMES, 3))
    return Submap(
        index=index,
        frame_indices=tuple(int(k) for k in steps),
        stamps_ns=tuple(int(k) * 10**8 for k in steps),
        overlap=SHARED if index else 0,
        depth=depth.astype(np.float16),
        confidence=np.full(depth.shape, 2, np.float16),
        edge_certainty=np.ones(depth.shape, np.float16),
        K=np.tile(K, (FRAMES, 1, 1)),
        T_submap_cam=T,
        descriptors=np.zeros((FRAMES, 4), np.float32),
        thumbnails=np.zeros((*depth.shape, 3), np.uint8),
    )


def stored_cases(stored: Mapping[str, ndarray]) -> dict[str, dict[str, list[float]]]:
    """The official program's three problems (clean; noise; outliers), whose truth is stored: errors
    of our robust fit of the same points, and of the official result."""
    found = {}
    for case in sorted({name.split(".")[0] for name in stored}):
        part = {n.split(".", 1)[1]: x for n, x in stored.items() if n.startswith(f"{case}.")}
        R, t, s = (part[f"true_{n}"].astype(np.float64) for n in ("R", "t", "s"))
        truth = Sim3(R, t, float(s[0]))
        trust = np.sqrt(part["tar_cnf"] * part["src_cnf"])[:, 0].astype(np.float64)
        points = [part[n].astype(np.float64) for n in ("tar", "src")]
        ways: dict[str, Callable[[], Sim3]] = {
            "ours": lambda p=points, w=trust: robust_align(*p, w).T_a_b,
            "official": lambda q=part: Sim3(
                *(q[f"wet.{n}"].astype(np.float64) for n in ("R", "t")), float(q["wet.s"][0])
            ),
            "least squares": lambda p=points, w=trust: umeyama(*p, w),
        }
        found[case] = {n: _errors(way(), truth).round(4).tolist() for n, way in ways.items()}
    return found


def large_pair_ms() -> float:
    """Median time to register two chunks of 60 frames of 518x294 that share all."""
    rng = np.random.default_rng(0)
    pair = []
    for index in (1, 0):
        one = _submap(index, 0, Case(), Sim3.identity(), rng)
        rows = np.arange(60) % FRAMES
        large = one.depth[rows].repeat(7, axis=1).repeat(7, axis=2)
        K = one.K[rows].copy()
        K[:, :2] *= 7
        T = one.T_submap_cam[rows].copy()
        T[:, 2, 3] += 0.3 * (np.arange(60) // FRAMES)
        numbers = tuple(range(60))
        maps = {"confidence": np.full(large.shape, 2, np.float16), "depth": large}
        maps["edge_certainty"] = maps["confidence"]
        maps["thumbnails"] = np.zeros((*large.shape, 3), np.uint8)
        maps["descriptors"] = np.zeros((60, 4), np.float32)
        places = {"K": K, "T_submap_cam": T, "frame_indices": numbers, "stamps_ns": numbers}
        pair.append(replace(one, **places, **maps))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        register(*pair, RegistrationConfig())
        times.append(1e3 * (time.perf_counter() - began))
    return round(float(np.median(times)), 1)
