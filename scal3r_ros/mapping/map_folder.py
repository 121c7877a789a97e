"""A map on disk with everything needed to go on with it: submaps, graph, places, memory, cloud.

    map.json             what it is, and the SHA-256 of every other file
    submaps/000000.npz   depth, confidence, poses, intrinsics, descriptors, thumbnails
    graph.npz            places of the submaps, edges, scales, tilt
    keyframes.npz        compressed images and their words, for recognising places
    memory.safetensors   the test-time memory
    map.ply              the cloud, for other tools
    mesh.ply             the surface, if it was asked for

Written beside the target and renamed: a crash leaves the old folder, if only beside the target, or
the new one. Nothing is unpickled, and a file that changed since is refused by its name.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy import ndarray

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.kept_keyframes import NO_PIXELS, KeptKeyframe, KeptKeyframes
from scal3r_ros.mapping.map_file import digest, put_in_place, write_atomically, write_ply
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.mesh import write_mesh
from scal3r_ros.mapping.point_map import submap_cloud
from scal3r_ros.mapping.shelf import Shelf
from scal3r_ros.mapping.types import Edge, Frame, Submap

FORMAT, VERSION = "scal3r_map", 3
FACTS = {"metric": bool, "submaps": int, "files": dict}  # that are needed of map.json
NO_ARRAYS = ("index", "overlap", "T_map_submap", "carried", "far_end")  # or only for new links
ARRAYS = tuple(f.name for f in fields(Submap) if f.name not in NO_ARRAYS)
EDGE_KINDS, NO_K = ("overlap", "loop", "odometry"), np.full((3, 3), np.nan)


class MapFolderError(ValueError):
    """A folder that is no map, of another version, or damaged; names the file."""


@runtime_checkable
class RemembersOnDisk(Protocol):
    """A predictor whose memory can be stored."""

    def save_memory(self, path: Path, memory: object) -> None: ...

    def load_memory(self, path: Path) -> object: ...


@dataclass(eq=False)
class StoredMap:
    """What a folder holds."""

    facts: dict[str, Any]
    submaps: list[Submap]
    edges: list[Edge]
    scales: dict[int, tuple[float, float]]
    levels: dict[int, tuple[ndarray, float]]
    keyframes: KeptKeyframes
    words: ndarray  # of every keyframe
    closed: list[tuple[int, int]]
    memory_file: Path | None


def save_map(
    folder: Path, mapper: Mapper, *, overwrite: bool = False, mesh: bool = False
) -> list[Path]:
    """Writes the whole map; returns the files. Raises FileExistsError, OSError or ValueError."""
    if not mapper.submaps:
        raise ValueError("there is no map yet")
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists; set overwrite to replace it")
    if folder.exists() and any(folder.iterdir()) and not (folder / "map.json").exists():
        raise FileExistsError(f"{folder} is no stored map: it is not replaced")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write(draft, mapper, mesh)
        draft.chmod(0o755)
        put_in_place(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return sorted(p for p in folder.rglob("*") if p.is_file())


def read_map(folder: Path, storage: str = "") -> StoredMap:
    """Checks every file first; large arrays go to the `storage` folder. Raises MapFolderError."""
    try:
        facts = json.loads((folder / "map.json").read_text())
    except (OSError, ValueError) as error:
        raise MapFolderError(f"{folder} is no stored map: {error}") from error
    if not isinstance(facts, dict):
        raise MapFolderError(f"{folder / 'map.json'} is damaged: it holds a {type(facts).__name__}")
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        found = f"{facts.get('format')} version {facts.get('version')}"
        raise MapFolderError(f"{folder / 'map.json'}: expected {FORMAT} version {VERSION}: {found}")
    for name, kind in FACTS.items():
        if not isinstance(facts.get(name), kind):
            told = f"{name} must be a {kind.__name__}, it is {facts.get(name)!r}"
            raise MapFolderError(f"{folder / 'map.json'} is damaged: {told}")
    for name, told in facts["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise MapFolderError(f"{folder / 'map.json'} names {name}, outside the folder")
        if not path.is_file():
            raise MapFolderError(f"{path} is missing")
        if digest(path) != told:
            raise MapFolderError(f"{path} is damaged: its checksum differs from map.json")
    try:
        return _read(folder, facts, Shelf(storage))
    except (KeyError, ValueError, OSError) as error:
        raise MapFolderError(f"{folder} cannot be read: {error}") from error


def restore(mapper: Mapper, stored: StoredMap, *, merge: bool = False) -> None:
    """Puts a stored map into a mapper, as a new session. With `merge` what was mapped so far stays,
    as a piece of its own until a loop joins it. A ValueError leaves the mapper as it was."""
    metric, present = stored.facts["metric"], _snapshot(mapper) if merge else None
    images = _images(present) if present else set()
    if images and metric != mapper.metric.metric:  # each has its own unit until a loop joins them
        raise ValueError("a map in metres and one in another unit cannot be merged")
    memory, before, refiner = _memory(mapper, stored), mapper.metric, mapper.refiner
    stream, counters, carries = mapper.stream, mapper.counters, mapper._carries
    mapper.reset()
    mapper.memory = memory
    mapper.metric.estimator.scale, mapper.metric.estimator.locked = 1.0, metric
    _append(mapper, stored, frames_from=min({0} | images) - 1 - max(_images(stored)))
    if present is not None:
        _append(mapper, present, frames_from=0)
        mapper.stream, mapper.counters, mapper._carries = stream, counters, carries
        mapper.refiner = refiner
        mapper.metric.go_on_from(before, len(stored.submaps))
    mapper._take(mapper.graph.optimise_batch())


def _memory(mapper: Mapper, stored: StoredMap) -> object:
    if stored.memory_file is not None and isinstance(mapper.predictor, RemembersOnDisk):
        return mapper.predictor.load_memory(stored.memory_file)
    return mapper.predictor.initial_memory()


def _append(mapper: Mapper, stored: StoredMap, frames_from: int) -> None:
    """Numbers go on where the mapper's end; images of an earlier run get negative numbers, so that
    no new image is taken for one of them."""
    first, first_keyframe = len(mapper.submaps), len(mapper.loop_detector.keyframes)
    graph, detector = mapper.graph, mapper.loop_detector
    tied = {edge.source for edge in stored.edges if edge.kind != "loop"}
    for submap in stored.submaps:
        indices = tuple(i + frames_from for i in submap.frame_indices)
        index = submap.index + first
        placed = replace(submap, index=index, frame_indices=indices)
        mapper.submaps.append(placed)
        mapper.shelve()
        graph.add_submap(index, placed.T_map_submap, fixed=submap.index not in tied)
        mapper.point_map.submaps[index] = placed
        mapper.point_map.clouds[index] = submap_cloud(placed, mapper.config.points)
    for edge in stored.edges:
        graph.add_edge(replace(edge, source=edge.source + first, target=edge.target + first))
    for index, (log_scale, deviation) in stored.scales.items():
        graph.add_scale(index + first, log_scale, deviation)
    for index, (up, deviation) in stored.levels.items():
        graph.add_level(index + first, up, deviation)
    for kept, words in zip(stored.keyframes, stored.words, strict=True):
        frame = replace(kept.frame, index=kept.frame.index + frames_from)
        known = replace(kept, frame=frame, submap=kept.submap + first)
        brought = stored.submaps[kept.submap]
        slot = brought.frame_indices.index(kept.frame.index)
        detector.take(known, words, brought.descriptors[slot])
    detector.closed += [(a + first_keyframe, b + first_keyframe) for a, b in stored.closed]


def _snapshot(mapper: Mapper) -> StoredMap:
    graph, detector = mapper.graph, mapper.loop_detector
    return StoredMap(
        {"metric": mapper.metric.metric},
        mapper.submaps,
        graph.edges,
        graph.scales,
        graph.levels,
        detector.keyframes,
        detector.words.all(),
        detector.closed,
        None,
    )


def _images(stored: StoredMap) -> set[int]:
    return {i for submap in stored.submaps for i in submap.frame_indices}


def _write(folder: Path, mapper: Mapper, mesh: bool) -> None:
    (folder / "submaps").mkdir()
    for submap in mapper.submaps:
        arrays = {name: np.asarray(getattr(submap, name)) for name in ARRAYS}
        place = _numbers(submap.T_map_submap)
        path = folder / "submaps" / f"{submap.index:06d}.npz"
        _save(path, overlap=np.array(submap.overlap), T_map_submap=place, **arrays)
    graph, detector = mapper.graph, mapper.loop_detector
    scales = [(i, *graph.scales[i]) for i in sorted(graph.scales)]
    levels = [(i, *up, deviation) for i, (up, deviation) in sorted(graph.levels.items())]
    _save(
        folder / "graph.npz",
        ends=np.array([(e.source, e.target) for e in graph.edges], np.int64).reshape(-1, 2),
        relations=np.array([_numbers(e.T_target_source) for e in graph.edges]).reshape(-1, 13),
        information=np.array([e.information for e in graph.edges]).reshape(-1, 7, 7),
        kinds=np.array([EDGE_KINDS.index(e.kind) for e in graph.edges], np.int64),
        evidence=np.array([(e.inliers, e.residual) for e in graph.edges]).reshape(-1, 2),
        scales=np.array(scales, np.float64).reshape(-1, 3),
        levels=np.array(levels, np.float64).reshape(-1, 5),
        closed=np.array(detector.closed, np.int64).reshape(-1, 2),
    )
    kept = detector.keyframes
    sizes = np.cumsum([0, *(len(k.jpeg) for k in kept)])
    _save(
        folder / "keyframes.npz",
        jpeg=np.concatenate([k.jpeg for k in kept]) if kept else np.zeros(0, np.uint8),
        begins=sizes.astype(np.int64),
        indices=np.array([(k.frame.index, k.frame.stamp_ns, k.submap) for k in kept], np.int64),
        K=np.array([NO_K if k.frame.K is None else k.frame.K for k in kept]),
        words=detector.words.all(),
    )
    if isinstance(mapper.predictor, RemembersOnDisk):
        mapper.predictor.save_memory(folder / "memory.safetensors", mapper.memory)
    write_ply(folder / "map.ply", mapper.point_map.cloud())
    if mesh:
        write_mesh(folder / "mesh.ply", mapper.submaps, mapper.config.points)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "metric": mapper.metric.metric,
        "submaps": len(mapper.submaps),
        "keyframes": len(kept),
        "map_version": mapper.map_version,
        "files": {str(p.relative_to(folder)): digest(p) for p in files},
    }
    write_atomically(folder / "map.json", (json.dumps(facts, indent=1) + "\n").encode())


def _read(folder: Path, facts: dict[str, Any], shelf: Shelf) -> StoredMap:
    submaps = [_submap(folder, index, shelf) for index in range(facts["submaps"])]
    graph, kept = _load(folder / "graph.npz"), _load(folder / "keyframes.npz")
    edges = [
        Edge(int(ends[0]), int(ends[1]), _sim3(T), information, EDGE_KINDS[kind], *map(float, seen))
        for ends, T, information, kind, seen in zip(
            *(graph[n] for n in ("ends", "relations", "information", "kinds", "evidence")),
            strict=True,
        )
    ]
    jpeg, keyframes = kept["jpeg"], KeptKeyframes(shelf)
    for i, (index, stamp_ns, submap) in enumerate(kept["indices"].tolist()):
        K = kept["K"][i]
        frame = Frame(index, stamp_ns, NO_PIXELS, K if np.isfinite(K).all() else None)
        begin, end = kept["begins"][i : i + 2]
        keyframes.take(KeptKeyframe(frame, jpeg[begin:end], submap))
    memory = folder / "memory.safetensors"
    return StoredMap(
        facts,
        submaps,
        edges,
        {int(i): (float(log), float(sigma)) for i, log, sigma in graph["scales"]},
        {int(row[0]): (row[1:4], float(row[4])) for row in graph["levels"]},
        keyframes,
        kept["words"],
        [(int(a), int(b)) for a, b in graph["closed"]],
        memory if memory.exists() else None,
    )


def _submap(folder: Path, index: int, shelf: Shelf) -> Submap:
    arrays = _load(folder / "submaps" / f"{index:06d}.npz")
    for name in ("frame_indices", "stamps_ns"):
        arrays[name] = tuple(arrays[name].tolist())
    place, overlap = _sim3(arrays.pop("T_map_submap")), int(arrays.pop("overlap"))
    submap = Submap(index=index, overlap=overlap, T_map_submap=place, **arrays)
    submap.shelve(shelf)
    return submap


def _save(path: Path, **arrays: ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _numbers(T: Sim3) -> ndarray:
    return np.concatenate([T.R.flatten(), T.t, [T.s]])


def _sim3(numbers: ndarray) -> Sim3:
    return Sim3(numbers[:9].reshape(3, 3), numbers[9:12], float(numbers[12]))
