"""Published split files, splits by name, and pairs."""

from pathlib import Path

import numpy as np
import pytest

from model.evaluation.splits import (
    group_of,
    read_pairs,
    read_split,
    shared_groups,
    split_by_name,
)

PATHS = [
    "/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "/data/Basketball/v_Basketball_g02_c01.avi",
    "/data/Basketball/v_Basketball_g09_c03.mp4",
]


def test_ucf101_split_files(tmp_path: Path) -> None:
    (tmp_path / "trainlist01.txt").write_text(
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nBasketball/v_Basketball_g09_c03.avi 2\n"
    )
    (tmp_path / "testlist01.txt").write_text(
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nBasketball/v_Basketball_g02_c01.avi\n"
        "Basketball/v_Basketball_g02_c99.avi\n\n"
    )
    split = read_split(tmp_path, 1, PATHS)
    assert (split.train, split.test) == ([1, 3], [0, 2])  # the suffix on disk may differ
    assert split.missing == ["Basketball/v_Basketball_g02_c99.avi"]
    assert split.name == "UCF101 split 1"
    with pytest.raises(ValueError, match="neither trainlist02"):
        read_split(tmp_path, 2, PATHS)
    with pytest.raises(ValueError, match="finds 0 training and 0 test videos among 1"):
        read_split(tmp_path, 1, ["/data/other/x.avi"])


def test_hmdb51_split_files(tmp_path: Path) -> None:
    (tmp_path / "cartwheel_test_split2.txt").write_text("a b(1)_x.avi 1 \nc.avi 2 \nd.avi 0 \n")
    (tmp_path / "brush_hair_test_split2.txt").write_text("c.avi 1 \n")
    paths = [f"/h/{name}.avi" for name in ("cartwheel/a b(1)_x", "cartwheel/c", "cartwheel/d")]
    paths.append("/h/brush_hair/c.avi")  # the same name in two classes
    split = read_split(tmp_path, 2, paths)
    assert (split.train, split.test, split.missing) == ([3, 0], [1], [])
    (tmp_path / "cartwheel_test_split2.txt").write_text("c.avi 7\n")
    with pytest.raises(ValueError, match=r"cartwheel_test_split2\.txt: not a video name"):
        read_split(tmp_path, 2, paths)


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
    with pytest.raises(ValueError, match="no class has two videos"):
        split_by_name(paths[:4], np.array(classes[:4]), 0.4)


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
