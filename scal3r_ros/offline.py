"""`scal3r map`: a sequence on disk becomes a map, without ROS."""

import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from scal3r_ros.data.sequence import Sequence, SequenceError, open_sequence
from scal3r_ros.data.sequence_folder import SensorSequence
from scal3r_ros.evaluation.products import write_products
from scal3r_ros.evaluation.results_folder import claim_folder
from scal3r_ros.mapping.config import ConfigError, MapperConfig, load_config, profile
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.mesh import load_open3d
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.predictor import NetworkPredictor
from scal3r_ros.mapping.types import Chunk, Frame, MapUpdate
from scal3r_ros.network.devices import name_of
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.memory_file import load_context, save_context
from scal3r_ros.network.parallel import Process, join_processes, own_device
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig

logger = logging.getLogger(__name__)

OWN_SCALES = ("none", "fixed", "camera_height")  # that images alone can feed
SCHEDULES = ("causal", "offline", "parallel")


@dataclass(frozen=True)
class OfflineRun:
    """The options of `scal3r map`."""

    source: Path
    out: Path
    model: str = "nano"
    checkpoint: Path | None = None
    schedule: str = "causal"
    memory: bool = True
    resume: Path | None = None
    compile: str | None = None
    depth_head: str = "auto"
    config: Path | None = None
    scale_source: str = ""  # other than the settings'
    device: str = "auto"
    precision: str = "auto"
    topic: str = ""
    track: bool = True
    save_depth: bool = False
    mesh: bool = False  # the surface too
    view: bool = False
    overwrite: bool = False


def run(options: OfflineRun) -> dict[str, Any]:
    """Maps the sequence, writes everything into `out`, returns the report; nothing in the other
    processes of the parallel schedule."""
    if options.schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {options.schedule}")
    if options.schedule != "causal" and not options.memory:
        raise ValueError(
            f"schedule {options.schedule} is about the memory: --no-memory excludes it"
        )
    if options.resume and not (options.memory and options.schedule == "causal"):
        raise ValueError("a stored memory is resumed by the causal schedule, with memory")
    settings = mapper_config(options)
    wanted = settings.scale.source
    if wanted in ("depth", "stereo") and (options.source / "images").is_dir():
        sequence = SensorSequence(options.source, wanted)
    elif wanted in OWN_SCALES:
        sequence = open_sequence(options.source, options.topic)
    else:
        raise ConfigError(f"scale source {wanted} needs more than images: use `scal3r replay BAG`")
    if options.mesh:
        load_open3d()  # said before an hour of mapping, not after
    claim_folder(options.out, options.source, overwrite=options.overwrite)
    viewer = open_viewer() if options.view else None
    predictor = NetworkPredictor.load(
        options.model,
        options.checkpoint,
        device=own_device(options.device) if options.schedule == "parallel" else options.device,
        precision=options.precision,
        depth_head=options.depth_head,
        settings=settings.network,
    )
    mapper = Mapper(predictor, settings)
    if options.resume:
        mapper.memory = load_context(options.resume, predictor.model)
    if options.schedule != "causal":
        process = join_processes(predictor.device) if options.schedule == "parallel" else None
        remember_everything(sequence, mapper, predictor, process)
        if process is not None and process.rank > 0:
            return {}  # the memory is complete: the first process maps with it
    tracker = Tracker(TrackerConfig()) if options.track else None
    bar = tqdm(total=len(sequence), unit="image", desc="mapping")
    with bar, logging_redirect_tqdm(), Interrupt() as interrupt:

        def progress(frame: Frame, updates: list[MapUpdate]) -> None:
            bar.update()
            if updates:
                bar.set_postfix(chunks=mapper.counters.chunks, loops=mapper.counters.loops)
                if viewer is not None:
                    viewer.show(mapper)

        frames = takewhile(lambda _: not interrupt.came, sequence)
        result = map_sequence(frames, mapper, tracker, progress)
    if viewer is not None:
        viewer.show(mapper)  # the last, shorter chunk too
    if not mapper.submaps:
        if interrupt.came:
            raise KeyboardInterrupt
        raise SequenceError(f"{sequence.name}: no chunk could be mapped, the camera never moved")
    report = write_products(
        options.out,
        mapper,
        result,
        save_depth=options.save_depth,
        mesh=options.mesh,
        invalid=len(sequence.left_out),
        input=sequence.name,
        model=options.model,
        schedule=options.schedule,
        memory=settings.network.memory,
        depth_head=options.depth_head,
        device=str(predictor.device),
        precision=name_of(predictor.precision),
        interrupted=interrupt.came,
        track_ms_per_image=round(1e3 * result.track_seconds / max(len(sequence), 1), 2),
    )
    if settings.network.memory:
        assert isinstance(mapper.memory, GlobalContext)
        save_context(options.out / "memory.safetensors", mapper.memory, predictor.model)
    if report["keyframes"] < 2:
        logger.warning("%s: the camera never moved: one image is all of the map", sequence.name)
    elif not report["points"]:
        logger.warning("%s: no depth is sure enough for the map, it has no points", sequence.name)
    return report


class Interrupt:
    """The first Ctrl-C ends the sequence, so that the map so far is written; the second, all."""

    came = False

    def __enter__(self) -> "Interrupt":
        self._usual = signal.signal(signal.SIGINT, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._usual)

    def _come(self, *_: object) -> None:
        self.came = True
        signal.signal(signal.SIGINT, self._usual)
        logger.warning("interrupted: the map so far is written, Ctrl-C again ends without it")


def mapper_config(options: OfflineRun) -> MapperConfig:
    base = profile(options.model)
    config = load_config(options.config, base) if options.config else base
    network = replace(config.network, memory=options.memory and config.network.memory)
    if options.compile:
        network = replace(network, compile=options.compile)
    if options.scale_source == "fixed" and not options.config:
        raise ConfigError(
            "metres per unit are needed: --config with scale: {source: fixed, fixed: 0.3}"
        )
    source = options.scale_source or config.scale.source
    return replace(config, network=network, scale=replace(config.scale, source=source))


def remember_everything(
    sequence: Sequence, mapper: Mapper, predictor: NetworkPredictor, process: Process | None
) -> None:
    """The first pass of the offline schedule: the memory of all chunks, layer by layer, every frame
    counted once. The mapper then reads it without writing. In parallel every process prepares the
    chunks that are dealt to it.
    """
    inputs, count = [], 0
    with tqdm(total=len(sequence), desc="remembering", unit="image") as bar:
        for chunk in _chunks(sequence, mapper, bar):
            if process is None or process.owns(count):
                inputs.append(predictor.prepare(chunk, chunk.overlap))
            count += 1
    memory = predictor.remember(inputs, parallel=process is not None)
    mapper.reset()
    mapper.memory = memory
    mapper.write_memory = False


def _chunks(sequence: Sequence, mapper: Mapper, bar: tqdm) -> Iterator[Chunk]:
    """What the mapper will map, the last, shorter chunk too."""
    for frame in sequence:
        bar.update()
        yield from mapper.stream.add(frame)
    chunk = mapper.stream.chunker.flush()
    if chunk is not None:
        yield chunk


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
