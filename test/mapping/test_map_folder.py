"""A map that is saved and loaded is the same map, and can be gone on with."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from scal3r_ros.evaluation.trajectory import align
from scal3r_ros.geometry.camera import transform_points, unproject
from scal3r_ros.mapping.config import (
    ScaleConfig,
)
from scal3r_ros.mapping.map_folder import MapFolderError, read_map, restore, save_map
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.mesh import VOXELS, MeshError, write_mesh
from test.mapping.conftest import CONFIG, loaded
from test.mapping.test_loops import Describing


def test_what_is_loaded_is_what_was_saved(mapped, folder, there_and_back):
    again = loaded(folder, there_and_back)
    np.testing.assert_allclose(again.point_map.cloud().xyz, mapped.point_map.cloud().xyz, atol=1e-4)
    poses = list(again.keyframe_poses().values())
    np.testing.assert_allclose(poses, list(mapped.keyframe_poses().values()), atol=1e-5)
    assert len(again.graph.edges) == len(mapped.graph.edges)
    assert [k.jpeg.tobytes() for k in again.loop_detector.keyframes] == [
        k.jpeg.tobytes() for k in mapped.loop_detector.keyframes
    ]
    open3d = pytest.importorskip("open3d")
    assert len(open3d.io.read_point_cloud(str(folder / "map.ply")).points) == len(
        mapped.point_map.cloud()
    )


def test_a_mesh_on_request_is_the_surface_of_the_scene(mapped, tmp_path, there_and_back):
    """Nine of ten vertices lie within two voxels of where true depth puts a surface."""
    open3d = pytest.importorskip("open3d")
    files = save_map(tmp_path / "maps" / "office", mapped, mesh=True)
    path = tmp_path / "maps" / "office" / "mesh.ply"
    assert path in files
    mesh = open3d.io.read_triangle_mesh(str(path))
    vertices = np.asarray(mesh.vertices)
    assert len(mesh.triangles) > 1000 and mesh.has_vertex_colors()
    clip = there_and_back.clip
    estimate = mapped.keyframe_poses()
    true = np.stack([clip.T_world_cam[i].double().numpy() for i in estimate])
    T = align(true[:, :3, 3], np.stack(list(estimate.values()))[:, :3, 3], "sim3")
    depth, K = clip.depth.double().numpy(), clip.K.double().numpy()
    surface = [
        transform_points(pose, unproject(depth[i], K[i]))
        for i, pose in zip(estimate, true, strict=True)
    ]
    tree = cKDTree(np.concatenate([xyz.reshape(-1, 3) for xyz in surface]))
    apart, _ = tree.query(T.apply(vertices))
    typical = float(np.median(depth[depth > 0]))
    assert np.quantile(apart, 0.9) < 2 * VOXELS * CONFIG.points.voxel * typical
    map_again = tmp_path / "maps" / "again"
    assert not any(f.name == "mesh.ply" for f in save_map(map_again, mapped))
    assert loaded(tmp_path / "maps" / "office", there_and_back).submaps


def test_a_map_without_surface_gives_no_mesh(mapped, tmp_path):
    nothing = replace(CONFIG.points, max_depth=1e-6)
    blind = [replace(s, depth=np.zeros_like(s.depth)) for s in mapped.submaps]
    for submaps, config in ((mapped.submaps, nothing), (blind, CONFIG.points)):
        with pytest.raises(MeshError, match="no surface"):
            write_mesh(tmp_path / "mesh.ply", submaps, config)
    assert not list(tmp_path.iterdir())


def test_a_submap_without_depth_takes_no_part_in_the_mesh(mapped, tmp_path):
    """A mask may hide all that its images show."""
    pytest.importorskip("open3d")
    blind = replace(mapped.submaps[-1], depth=np.zeros_like(mapped.submaps[-1].depth))
    path, seeing = tmp_path / "mesh.ply", mapped.submaps[:-1]
    count = write_mesh(path, [*seeing, blind], CONFIG.points)
    assert count == write_mesh(path, seeing, CONFIG.points)


@pytest.mark.parametrize("name", ["graph.npz", "submaps/000001.npz", "keyframes.npz", "map.ply"])
def test_a_damaged_file_is_refused_by_name(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(MapFolderError, match=f"{name} is damaged"):
        read_map(folder)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ([], "it holds a list"),
        ({"files": None}, "files must be a dict, it is None"),
        ({"submaps": "two"}, "submaps must be a int, it is 'two'"),
        ({"metric": None}, "metric must be a bool, it is None"),
    ],
)
def test_damaged_facts_are_refused_by_name(folder, facts, said):
    told = json.loads((folder / "map.json").read_text())
    (folder / "map.json").write_text(json.dumps(told | facts if isinstance(facts, dict) else facts))
    with pytest.raises(MapFolderError, match=f"map.json is damaged: {said}"):
        read_map(folder)


def test_what_is_no_map_or_leads_outside_is_refused(folder, tmp_path):
    with pytest.raises(MapFolderError, match="no stored map"):
        read_map(tmp_path)
    facts = json.loads((folder / "map.json").read_text())
    facts["files"] |= {"../../secret": "0"}
    (folder / "map.json").write_text(json.dumps(facts))
    with pytest.raises(MapFolderError, match="outside the folder"):
        read_map(folder)


def test_nothing_is_replaced_unasked(folder, mapped, tmp_path):
    with pytest.raises(FileExistsError, match="set overwrite"):
        save_map(folder, mapped)
    save_map(folder, mapped, overwrite=True)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["office"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no stored map"):
        save_map(tmp_path / "other", mapped, overwrite=True)


def test_a_map_that_cannot_be_replaced_is_kept(folder, mapped, monkeypatch):
    rename = Path.rename

    def fail(path, target):
        if path.name.startswith(".office.") and target == folder and not path.suffix == ".old":
            raise OSError("no longer there")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no longer there"):
        save_map(folder, mapped, overwrite=True)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["office"]
    assert read_map(folder).submaps


def test_the_old_map_goes_once_the_new_one_is_on_disk(folder, mapped, monkeypatch):
    on_disk, removed = set(), []

    def remove(path, **options):
        wanted = [folder.parent, folder, *folder.rglob("*")]
        assert {p.stat().st_ino for p in wanted} <= on_disk
        removed.append(path)

    monkeypatch.setattr(os, "fsync", lambda file: on_disk.add(os.fstat(file).st_ino))
    monkeypatch.setattr(shutil, "rmtree", remove)
    save_map(folder, mapped, overwrite=True)
    assert removed


def test_what_is_loaded_lies_on_disk_and_where_the_graph_puts_it(folder, there_and_back, tmp_path):
    storage = tmp_path / "storage"
    storage.mkdir()
    stored = read_map(folder, str(storage))
    assert isinstance(stored.submaps[0].depth, np.memmap) and any(storage.iterdir())
    again = Mapper(Describing(there_and_back.clip), CONFIG)
    restore(again, stored)
    for submap in again.submaps:
        place = again.graph.poses[submap.index].as_matrix()
        np.testing.assert_array_equal(submap.T_map_submap.as_matrix(), place)


def test_a_map_without_metres_has_none_after_it_is_loaded(folder, there_and_back):
    fixed = replace(CONFIG, scale=ScaleConfig(source="fixed", fixed=0.3))
    again = Mapper(Describing(there_and_back.clip), fixed)
    assert again.metric.metric
    restore(again, read_map(folder))
    assert not again.metric.metric
