"""Whose files a run may write over: its own, and nobody else's."""

from pathlib import Path

import pytest

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.evaluation.results_folder import (
    FILES,
    FOLDERS,
    claim_folder,
    clear_results,
    empty_folder,
)


def test_a_folder_is_made_and_an_empty_one_is_taken(tmp_path):
    for _ in range(2):
        claim_folder(tmp_path / "new" / "out", tmp_path / "images")
        assert list((tmp_path / "new" / "out").iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_run_are_not_written_over_unless_asked(tmp_path, name):
    (tmp_path / name).write_text("an hour's work")
    with pytest.raises(SequenceError, match=f"results already .{name}.; pass --overwrite"):
        claim_folder(tmp_path, tmp_path / "images")
    claim_folder(tmp_path, tmp_path / "images", overwrite=True)
    assert (tmp_path / name).read_text() == "an hour's work"  # until there is something better


@pytest.mark.parametrize("name", [name for name, mark in FOLDERS.items() if mark])
def test_folders_that_are_not_ours_are_never_replaced(tmp_path, name):
    (tmp_path / name).mkdir()
    claim_folder(tmp_path, tmp_path / "images", overwrite=True)
    (tmp_path / name / "diary.txt").touch()
    with pytest.raises(SequenceError, match="it is not ours"):
        claim_folder(tmp_path, tmp_path / "images", overwrite=True)


def make_bag(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information:\n")
    (folder / "a.mcap").touch()
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("x/bag", "x"),  # would be replaced
        ("x/bag/a.mcap", "x"),
        ("x/bag", "x/bag"),
        ("x/bag", "x/bag/out"),
        ("x/bag/", "x/other/.."),
    ],
)
def test_the_input_bag_is_never_written_over(tmp_path, source, out, overwrite):
    make_bag(tmp_path / "x" / "bag")
    (tmp_path / "x" / "other").mkdir()
    with pytest.raises(SequenceError, match="would write over the input"):
        claim_folder(tmp_path / out, tmp_path / source, overwrite=overwrite)


def test_pictures_of_the_map_do_not_become_images_of_the_sequence(tmp_path):
    with pytest.raises(SequenceError, match="would write over the input"):
        claim_folder(tmp_path, tmp_path)
    claim_folder(tmp_path / "map of it", tmp_path)


def test_what_cannot_be_written_is_said_before_anything_is_computed(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SequenceError, match=r"notes.txt is a file"):
        claim_folder(tmp_path / "notes.txt", tmp_path / "images")
    with pytest.raises(OSError, match="/proc"):
        claim_folder(Path("/proc"), tmp_path / "images")


def test_a_folder_is_emptied_only_if_all_of_it_is_our_own(tmp_path):
    own = {"run.log", "bag"}
    empty_folder(tmp_path / "new", own, mark="run.log")
    out = tmp_path / "new"
    (out / "bag").mkdir()
    (out / "bag" / "a.mcap").touch()
    with pytest.raises(SequenceError, match="no run.log"):  # a bag of somebody else
        empty_folder(out, own, mark="run.log")
    (out / "run.log").touch()
    (out / "thesis.tex").touch()
    with pytest.raises(SequenceError, match="thesis.tex"):
        empty_folder(out, own, mark="run.log")
    assert sorted(p.name for p in out.rglob("*")) == ["a.mcap", "bag", "run.log", "thesis.tex"]
    (out / "thesis.tex").unlink()
    empty_folder(out, own, mark="run.log")
    assert list(out.iterdir()) == []
    (out / "run.log").write_text("again")
    with pytest.raises(SequenceError, match="is a file"):
        empty_folder(out / "run.log", own, mark="run.log")


def test_nothing_of_an_earlier_run_is_left_beside_the_new_results_but_what_is_not_ours(tmp_path):
    for name in FILES:
        (tmp_path / name).touch()
    for name, mark in FOLDERS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / (mark or "000012.png")).touch()
    (tmp_path / "notes.txt").touch()
    clear_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "diary.txt").touch()
    clear_results(tmp_path)
    assert (tmp_path / "depth" / "diary.txt").exists()
