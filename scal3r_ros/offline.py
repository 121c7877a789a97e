"""`scal3r map`: a sequence on disk becomes a map, without ROS."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scal3r_ros.data.sequence import Sequence, SequenceError, open_sequence
from scal3r_ros.evaluation.products import write_products
from scal3r_ros.mapping.config import MapperConfig, load_config, profile
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.predictor import NetworkPredictor
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig

SCHEDULES = ("causal", "offline")


@dataclass(frozen=True)
class OfflineRun:
    """The options of `scal3r map`."""

    source: Path
    out: Path
    model: str = "nano"
    checkpoint: Path | None = None
    schedule: str = "causal"
    memory: bool = True
    depth_head: str = "moe"
    config: Path | None = None
    device: str = "auto"
    topic: str = ""
    track: bool = True
    save_depth: bool = False
    view: bool = False
    overwrite: bool = False


def run(options: OfflineRun) -> dict[str, Any]:
    """Maps the sequence, writes everything into `out`, returns the report."""
    if options.schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {options.schedule}")
    sequence = open_sequence(options.source, options.topic)
    settings = mapper_config(options)
    if (options.out / "report.json").exists() and not options.overwrite:
        raise SequenceError(
            f"{options.out} holds results already; pass --overwrite to replace them"
        )
    viewer = open_viewer() if options.view else None
    predictor = NetworkPredictor.load(
        options.model,
        options.checkpoint,
        device=options.device,
        depth_head=options.depth_head,
        memory=options.memory,
    )
    mapper = Mapper(predictor, settings)
    if options.schedule == "offline":
        remember_everything(sequence, mapper)
    tracker = Tracker(TrackerConfig()) if options.track else None
    with tqdm(total=len(sequence), unit="image", desc="mapping") as bar:

        def progress(frame: Frame, updates: list[MapUpdate]) -> None:
            bar.update()
            if updates:
                bar.set_postfix(chunks=mapper.counters.chunks, loops=mapper.counters.loops)
                if viewer is not None:
                    viewer.show(mapper)

        result = map_sequence(sequence, mapper, tracker, progress)
    if not mapper.submaps:
        raise SequenceError(f"{sequence.name}: no chunk could be mapped, the camera never moved")
    options.out.mkdir(parents=True, exist_ok=True)
    return write_products(
        options.out,
        mapper,
        result,
        save_depth=options.save_depth,
        input=sequence.name,
        model=options.model,
        schedule=options.schedule,
        memory=options.memory,
        depth_head=options.depth_head,
        device=str(predictor.device),
        track_ms_per_image=round(1e3 * sum(result.track_seconds) / max(len(sequence), 1), 2),
    )


def mapper_config(options: OfflineRun) -> MapperConfig:
    base = profile(options.model) if options.model in ("nano", "scal3r") else MapperConfig()
    return load_config(options.config, base) if options.config else base


def remember_everything(sequence: Sequence, mapper: Mapper) -> None:
    """The offline schedule's first pass: the memory sees every chunk before any is mapped.

    The mapper then reads this memory without writing it.
    """
    memory = mapper.predictor.initial_memory()
    for frame in tqdm(sequence, desc="remembering", unit="image"):
        if mapper.gate.accept(frame):
            chunk = mapper.chunker.add(frame)
            if chunk is not None:
                _, memory = mapper.predictor.predict(chunk, memory)
    chunk = mapper.chunker.flush()
    if chunk is not None:
        _, memory = mapper.predictor.predict(chunk, memory)
    mapper.reset()
    mapper.memory = memory
    mapper.write_memory = False


class MapViewer:
    """The growing map in rerun."""

    def __init__(self, rerun: Any) -> None:
        self._rerun = rerun
        rerun.init("scal3r_ros", spawn=True)

    def show(self, mapper: Mapper) -> None:
        for index in (s.index for s in mapper.submaps):
            cloud = mapper.point_map.placed(index)
            self._rerun.log(
                f"map/submap_{index}", self._rerun.Points3D(cloud.xyz, colors=cloud.rgb)
            )
        path = [T[:3, 3] for T in mapper.keyframe_poses().values()]
        self._rerun.log("map/path", self._rerun.LineStrips3D([path]))


def open_viewer() -> MapViewer:
    try:
        import rerun
    except ImportError as error:
        raise ValueError("--view needs rerun: pip install rerun-sdk") from error
    return MapViewer(rerun)
