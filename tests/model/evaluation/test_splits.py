"""Published split files, splits by name, and pairs."""

from pathlib import Path

import numpy as np
import pytest

from model.evaluation.splits import (
    group_of,
    read_pairs,
    shared_groups,
    split_by_list,
    split_by_name,
    split_files,
)

PATHS = [
    "/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "/data/Basketball/v_Basketball_g02_c01.avi",
    "/data/Basketball/v_Basketball_g09_c03.mp4",
]


def test_split_files_are_known_by_their_names(tmp_path: Path) -> None:
    hmdb = [tmp_path / f"{name}_test_split2.txt" for name in ("cartwheel", "brush_hair")]
    for file in hmdb:
        file.touch()
    assert split_files(tmp_path, 2) == ("HMDB51", sorted(hmdb), sorted(hmdb))
    (tmp_path / "trainlist02.txt").touch()
    (tmp_path / "testlist02.txt").touch()
    ucf = [tmp_path / "trainlist02.txt"], [tmp_path / "testlist02.txt"]
    assert split_files(tmp_path, 2) == ("UCF101", *ucf)
    with pytest.raises(ValueError, match="neither trainlist01"):
        split_files(tmp_path, 1)


def test_split_by_list() -> None:
    train = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Basketball/v_Basketball_g09_c03.avi"]
    test = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01", "Basketball/v_Basketball_g02_c99"]
    split = split_by_list(PATHS, train, test, "UCF101 split 1")
    assert (split.train, split.test) == ([1, 3], [0])  # the suffix on disk may differ
    assert split.missing == ["Basketball/v_Basketball_g02_c99"]
    with pytest.raises(ValueError, match="finds 0 training and 0 test videos among 1"):
        split_by_list(["/data/other/x.avi"], train, test, "UCF101 split 1")


def test_the_same_name_in_two_classes() -> None:
    paths = ["/h/cartwheel/a b(1)_x.avi", "/h/cartwheel/c.avi", "/h/brush_hair/c.avi"]
    split = split_by_list(paths, ["brush_hair/c", "cartwheel/a b(1)_x"], ["cartwheel/c"], "x")
    assert (split.train, split.test, split.missing) == ([2, 0], [1], [])


def test_groups_on_both_sides_are_seen() -> None:
    assert group_of(PATHS[0]) == "v_ApplyEyeMakeup_g01"
    assert group_of("/x/abseiling_k400.mp4") is None
    assert shared_groups(PATHS[:2], PATHS[2:]) == []
    twin = "/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi"
    assert shared_groups(PATHS[:2], [twin]) == ["v_ApplyEyeMakeup_g01"]


def test_split_by_name_keeps_groups_together_and_every_class_in_training() -> None:
    paths, classes = [], []
    for class_id in range(3):
        for group in range(5):
            for clip in range(4):
                paths.append(f"/d/c{class_id}/v_c{class_id}_g{group:02}_c{clip:02}.avi")
                classes.append(class_id)
    paths.append("/d/alone/only.avi")
    classes.append(3)
    split = split_by_name(paths, np.array(classes), 0.4)
    assert sorted(split.train + split.test) == list(range(len(paths)))
    assert shared_groups([paths[i] for i in split.train], [paths[i] for i in split.test]) == []
    assert [sum(classes[i] == c for i in split.test) for c in range(4)] == [8, 8, 8, 0]
    # Which videos, depends on their names and the seed, not on where the folder lies.
    moved = [path.replace("/d/", "/elsewhere/d/") for path in paths]
    assert split_by_name(moved, np.array(classes), 0.4).test == split.test
    assert split_by_name(paths, np.array(classes), 0.4, seed=1).test != split.test
    # With nothing but one group, its videos must do.
    assert len(split_by_name(paths[:4], np.array(classes[:4]), 0.4).test) == 2
    with pytest.raises(ValueError, match="no class has two videos"):
        split_by_name(paths[:1], np.array(classes[:1]), 0.4)


def test_pairs(tmp_path: Path) -> None:
    paths = ["/a/one.avi", "/a/two.with.dots.avi", "/a/three.avi"]
    file = tmp_path / "pairs.txt"
    file.write_text(
        "# fold, video, video, same\n"
        "1, one.avi, two.with.dots, 1\n2 three one 0\n\n"
        "10\ttwo.with.dots.avi\tthree\t1\n1 one gone 0\n"
    )
    pairs = read_pairs(file, paths)
    np.testing.assert_array_equal(pairs.first, [0, 2, 1])
    np.testing.assert_array_equal(pairs.second, [1, 0, 2])
    np.testing.assert_array_equal(pairs.same, [True, False, True])
    np.testing.assert_array_equal(pairs.folds, [1, 2, 10])
    assert pairs.missing == ["one gone"]
    file.write_text("1 one three yes\n")
    with pytest.raises(ValueError, match=r"pairs\.txt:1: not `fold video video same`"):
        read_pairs(file, paths)
    file.write_text("1 x y 1\n")
    with pytest.raises(ValueError, match="none of its 1 pairs"):
        read_pairs(file, paths)
