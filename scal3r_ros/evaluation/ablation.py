"""What refinement buys: one sequence, mapped in several ways from the very same predictions."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from numpy import ndarray
from tqdm import tqdm

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.plots import TRUTH
from scal3r_ros.evaluation.trajectory import aligned_places, evaluate
from scal3r_ros.mapping.config import MapperConfig, RefinementConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.types import Chunk, Frame, Prediction

WAYS = {
    "network alone": RefinementConfig(enabled=False),
    "every chunk on its own": RefinementConfig(carry=False, densify=False),
    "carried from chunk to chunk": RefinementConfig(densify=False),
    "and depth from flow (default)": RefinementConfig(),
}


class Remembered:
    """Asks the network once for every chunk."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._answers: dict[tuple[int, ...], tuple[Prediction, object]] = {}

    @property
    def on_host(self) -> bool:
        return self.predictor.on_host

    def initial_memory(self) -> object:
        return self.predictor.initial_memory()

    def predict(
        self, chunk: Chunk, memory: object, *, write: bool = True
    ) -> tuple[Prediction, object]:
        key = tuple(frame.index for frame in chunk.frames)
        if key not in self._answers:
            prediction, memory = self.predictor.predict(chunk, memory, write=write)
            self._answers[key] = prediction, memory
        return self._answers[key]

    def use_smaller_images(self) -> bool:
        return self.predictor.use_smaller_images()


def ablate_refinement(
    folder: Path,
    predictor: Predictor,
    config: MapperConfig,
    places: dict[str, Float[ndarray, "n 3"]] | None = None,
    *,
    calibrated: bool = True,
) -> dict[str, dict[str, Any]]:
    """Errors of the keyframes' trajectory after Sim(3) alignment, by way; the same keyframes. Not
    `calibrated`: as if nobody knew K. Where they are, and where they were in truth, goes into
    `places`."""
    truth = read_trajectory(folder / "groundtruth.txt")
    remembered, found = Remembered(predictor), {}
    for way, refinement in tqdm(WAYS.items(), desc=folder.name):
        mapper = Mapper(remembered, replace(config, refinement=refinement))
        frames = open_sequence(folder)
        map_sequence(frames if calibrated else _without_K(frames), mapper, None)
        estimate = dict(mapper.keyframe_stamped_poses())
        errors = evaluate(truth, estimate)
        if places is not None:
            places[TRUTH], places[way] = aligned_places(truth, estimate)
        keyframes = mapper.counters.keyframes
        found[way] = {
            "keyframes": keyframes,
            "ate m": round(errors.ate_rmse, 3),
            "rpe m/s": round(errors.rpe_translation, 3),
            "rpe deg/s": round(errors.rpe_rotation_deg, 2),
            **({} if calibrated else {"focal, image widths": mapper.refiner.calibration.focal}),
            "loops": mapper.counters.loops,
            "refinement ms a keyframe": round(1e3 * mapper.refiner.seconds / keyframes, 1),
        }
    return found


def _without_K(frames: Iterable[Frame]) -> list[Frame]:
    return [replace(frame, K=None) for frame in frames]
