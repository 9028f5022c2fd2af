"""Which clips exist: folders, lists, and what is wrong with them."""

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes.decoding.opening import BadVideo, TooShort
from dali_pipes.sources import FrameFolders, Synthetic, VideoFiles, open_source, split
from dali_pipes.sources.lists import NO_START, read_list


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(source: VideoFiles | FrameFolders, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in source.paths]


def test_a_folder_is_searched_for_videos_and_their_folder_is_the_class(tmp_path: Path) -> None:
    odd = 'jump rope/it\'s "5 é ü" 日本.MKV'
    touch(
        *(tmp_path / n for n in ("b/2.mp4", "b/1.avi", "top.webm", "a/deep/x.mov", odd)),
        *(tmp_path / n for n in ("b/notes.txt", ".hidden/x.mp4", "b/._1.avi")),
    )
    (tmp_path / "dir.mp4").mkdir()
    touch(tmp_path / "dir.mp4" / "inner.mp4")
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    (tmp_path / "loop.avi").symlink_to(tmp_path / "loop.avi")
    source = VideoFiles.found(tmp_path)
    expected = [
        "a/deep/x.mov",
        "b/1.avi",
        "b/2.mp4",
        "dir.mp4/inner.mp4",
        odd,
        "loop.avi",
        "top.webm",
    ]
    assert names(source, tmp_path) == expected
    classes = ["a/deep", "b", "b", "dir.mp4", "jump rope", tmp_path.name, tmp_path.name]
    assert [source.class_names[c] for c in source.class_ids] == classes
    with pytest.raises(BadVideo, match=r"loop\.avi: open: too many levels of symbolic links"):
        source.stamp(5)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.avi")
    with open(path, "wb"):
        pass
    source = pickle.loads(pickle.dumps(VideoFiles.found(tmp_path)))
    assert os.fsencode(source.paths[0]) == path
    with pytest.raises(BadVideo) as caught:
        source.probe(0)
    assert "caf\\xe9.avi" in str(caught.value)  # can be printed anywhere


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BadVideo, match="no regular file"):
        VideoFiles.found(tmp_path).probe(0)


@pytest.mark.parametrize(
    ("text", "start", "class_id"),
    [
        ("c/v 1 0\n", 0, 0),
        ("c/v 120 7\r\n", 119, 7),
        ("\ufeffc/v 2 0\n\n\n", 1, 0),
        ("c/v\n", NO_START, -1),
        ("c/v 5\nc/v 21\nd/x 5\n", 4, -1),  # a video has several: start frames
        ("c/v 3\nc/w 3\nd/x 4\n", NO_START, 3),  # one number a folder: classes
        ("c/two words 3 1\n", 2, 1),
        ("c/v 0\nc/w 0\nd/x 1\n", NO_START, 0),  # classes from 0
    ],
)
def test_list_format(tmp_path: Path, text: str, start: int, class_id: int) -> None:
    path = tmp_path / "a.list"
    path.write_bytes(text.encode())
    entry = read_list(path)[0]
    assert entry.path in ("c/v", "c/two words")
    assert (entry.start, entry.class_id) == (start, class_id)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"c/v 1 0\nc/w 0 0\n", "line 2: start frames count from 1"),
        (b"c/v 1 0\nc/w\n", "line 2: has no class"),
        (b"c/v 1 0\nc/w 1\n", "line 2: is 1 a start frame or a class"),
        (b"c/v 5\n", "line 1: is 5 a start frame or a class"),
        (b"a.mp4 3\nb.mp4 7\nd.mp4 12\ne.mp4 30\n", "line 1: .*start frame or a class"),
        (b"c/v 3\nc/w 3\nc/x 3\n", "line 1: is 3 a start frame or a class"),  # UCF, one class
        (b"c/v 3\nd/w 7\n", "line 1: is 3 a start frame or a class"),
        (b"c/v.mp4,3\nd/w.mp4,4\n", "csv.*for example"),
        (b"c/v.mp4, 3\nd/w.mp4, 4\n", "csv.*for example"),
        (b"c/v.mp4;3\n", "csv.*for example"),
        (b"label,youtube_id,time_start,time_end,split\nplaying guitar,x,1,11,train\n", "csv"),
        (b"c\\v.mp4 1 0\nd\\w.mp4 1 1\n", r"has \\ between folder and file"),
        (b"\0\0\1\2", "is no text file"),
        (b"../v 1 0\n", r"line 1: \.\./v is not inside"),
        (b"c/v 1 0\n/etc/passwd 1 0\n", "line 2: /etc/passwd is not inside"),
        (b"c/../../v 1 0\n", "line 1: .* is not inside"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.list"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.list.*{words}"):
        VideoFiles.listed(path)


def test_a_list_names_videos_with_or_without_suffix(tmp_path: Path) -> None:
    touch(
        tmp_path / "videos/c/v_1.avi", tmp_path / "videos/d/v_2.mp4", tmp_path / "videos/d/v_2.txt"
    )
    data_list = tmp_path / "train.list"
    data_list.write_text("c/v_1 11 4\nd/v_2.mp4 1 2\nd/gone 1 2\nc/v_1 31 4\n")
    source = open_source(tmp_path / "videos", data_list)
    assert names(source, tmp_path / "videos") == ["c/v_1.avi", "d/v_2.mp4", "d/gone", "c/v_1.avi"]
    assert source.starts.tolist() == [10, 0, 0, 30]
    assert source.class_ids.tolist() == [4, 2, 2, 4]
    assert [source.class_names[c] for c in (4, 2)] == ["c", "d"]
    with pytest.raises(BadVideo, match="gone: open: no such file"):
        source.stamp(2)
    beside = tmp_path / "videos" / "own.list"
    beside.write_text("c/v_1.avi\n")
    assert names(open_source(beside), tmp_path / "videos") == ["c/v_1.avi"]


def test_a_name_that_may_mean_two_videos_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "c/a.mkv", tmp_path / "c/a.mp4", tmp_path / "c/a.txt", tmp_path / "c/b.mp4")
    data_list = tmp_path / "train.list"
    data_list.write_text("c/b 1 0\nc/a 1 0\n")
    with pytest.raises(ValueError) as error:
        open_source(data_list)
    assert str(error.value) == (
        f"{data_list}, line 2: c/a may be {tmp_path}/c/a.mkv or {tmp_path}/c/a.mp4; "
        "write the suffix"
    )
    data_list.write_text("c/b 1 0\nc/a.mkv 1 0\n")
    assert names(open_source(data_list), tmp_path) == ["c/b.mp4", "c/a.mkv"]


def test_published_layout(real_data: Path) -> None:
    frames = real_data / "frames"
    flow = (frames / "flow/u", frames / "flow/v")
    listed = FrameFolders.listed(frames / "train.list", frames / "rgb", *flow)
    found = FrameFolders.found(frames / "rgb", *flow)
    assert sorted(listed.paths) == found.paths
    assert len(found) == 6
    assert listed.starts.tolist() == [0] * 6
    assert [listed.class_names[c] for c in listed.class_ids] == [
        os.path.basename(os.path.dirname(path)) for path in listed.paths
    ]
    assert found.probe(0).frames == 17
    clip, native = found.read_clip(0, range(1, 5), None)
    assert clip.shape == (4, *native, 3)


def write_frames(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, n + 1):
        image = np.full((16, 24, 3), number, np.uint8)
        cv2.imwrite(str(folder / f"frame{number:06d}.jpg"), image)


def test_frame_folders_without_the_class_level_and_without_flow(tmp_path: Path) -> None:
    write_frames(tmp_path / "rgb" / "v_1", 5)
    write_frames(tmp_path / "rgb" / "v_2", 5)
    write_frames(tmp_path / "u" / "v_1", 3)
    write_frames(tmp_path / "v" / "v_1", 4)
    (tmp_path / "a.list").write_text("c/v_1 1 0\n")
    prefixes = (tmp_path / "rgb", tmp_path / "u", tmp_path / "v")
    listed = FrameFolders.listed(tmp_path / "a.list", *prefixes)
    assert names(listed, tmp_path) == ["rgb/v_1"]
    assert listed.probe(0).frames == 4  # three fields of u
    found = FrameFolders.found(*prefixes)
    assert names(found, tmp_path) == ["rgb/v_1"]
    assert [str(left) for left in found.left_out] == [
        f"{tmp_path}/rgb/v_2: flow: has no flow in {tmp_path}/u/v_2"
    ]
    frames_only = FrameFolders.found(tmp_path / "rgb")
    assert len(frames_only) == 2
    assert frames_only.probe(0).frames == 5
    (tmp_path / "rgb/v_1/frame000003.jpg").unlink()
    with pytest.raises(BadVideo, match=r"frame000003\.jpg: decode: no such file"):
        frames_only.read_clip(0, range(5), None)
    whole = (tmp_path / "rgb/v_1/frame000002.jpg").read_bytes()
    for damaged in (whole[:-40], whole[:40], b"", b"text", whole[:-2], whole[:180] + whole[190:]):
        (tmp_path / "rgb/v_1/frame000002.jpg").write_bytes(damaged)
        with pytest.raises(BadVideo, match=r"frame000002\.jpg: decode: (is|cannot)"):
            frames_only.read_clip(0, range(2), None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give videos .* or rgb_prefix"),
        ({"videos": "missing"}, "missing: no such folder"),
        ({"videos": "empty"}, "empty: no video files"),
        ({"videos": "empty/a.list"}, "no such folder"),
        ({"data_list": "a.list"}, r"a\.list: no such list file"),
        ({"videos": "clip.mp4"}, r"clip\.mp4: is a video; give its folder"),
        ({"rgb_prefix": "empty"}, r"no folder below it has a frame000001\.jpg"),
        ({"rgb_prefix": "empty", "flow_x_prefix": "empty"}, "both flow_x_prefix and flow_y_prefix"),
        ({"videos": "empty", "rgb_prefix": "empty"}, "not both"),
        ({"videos": "empty", "flow_x_prefix": "empty"}, "need rgb_prefix"),
    ],
)
def test_what_a_user_can_get_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=words):
        open_source(**given)


def test_synthetic_videos_move_as_they_say() -> None:
    source = Synthetic.make(8, frames=20, size=(60, 80))
    for item in range(8):
        clip, native = source.read_clip(item, range(3, 6), None)
        assert native == (60, 80)
        assert clip.std() > 20
        u, v = source.motion(item)
        assert np.array_equal(clip[1], np.roll(clip[0], (v, u), axis=(0, 1)))
    with pytest.raises(TooShort):
        source.read_clip(0, range(10, 26), None)


def test_split_keeps_the_clips_of_a_file_together() -> None:
    source = Synthetic.make(40)
    source = source.subset([*range(40), *range(40)])
    train, held = split(source, 0.25, seed=1)
    assert len(held) == 20
    assert set(train.paths).isdisjoint(held.paths)
    assert set(train.paths) | set(held.paths) == set(source.paths)
    assert set(split(source.subset(range(39, -1, -1)), 0.25, seed=1)[1].paths) == set(held.paths)
    assert set(split(source, 0.25, seed=2)[1].paths) != set(held.paths)
    with pytest.raises(ValueError, match="one video cannot be split"):
        split(source.subset([0]), 0.5)


def images(folder: Path, numbers: range, name: str = "frame{:06d}.jpg") -> None:
    """Images that show their number; of flow, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / name.format(number)), np.full((16, 24, 3), 5 * number, np.uint8))


@pytest.mark.parametrize(
    ("rgb", "flow"),
    [
        ("img_{:05d}.jpg", "flow_{:05d}.jpg"),
        ("image_{:05d}.jpg", "frame{:06d}.jpg"),
        ("{:04d}.JPEG", "x{:03d}.jpeg"),
        ("odd {{1}} 2_{:05d}.jpg", "frame{:06d}.jpg"),
    ],
)
def test_images_may_be_called_otherwise(rgb: str, flow: str, tmp_path: Path) -> None:
    for video in ("a/one", "b/two"):
        images(tmp_path / "rgb" / video, range(1, 8), rgb)
        for side in "uv":
            images(tmp_path / side / video[2:], range(1, 7), flow)
    (tmp_path / "a.list").write_text("a/one 1 0\nb/two 1 1\n")
    sides = (tmp_path / "rgb", tmp_path / "u", tmp_path / "v")
    for source in (FrameFolders.found(*sides), FrameFolders.listed(tmp_path / "a.list", *sides)):
        assert len(source) == 2
        assert not source.left_out
        assert source.probe(1).frames == 7
        clip, _ = source.read_clip(1, range(2, 5), None)
        assert np.abs(clip[:, 0, 0, 0] - np.array([15, 20, 25])).max() <= 1
        assert len(source.read_encoded(0, range(7), range(6))[2]) == 6
        assert pickle.loads(pickle.dumps(source)).subset([1]).probe(0).frames == 7


@pytest.mark.parametrize(
    "names",
    [
        ["img_00001.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg"],  # three in one folder
        ["img_1.jpg", "img_10.jpg"],  # without leading zeros
        ["first.jpg", "second.jpg"],
    ],
)
def test_images_whose_naming_is_uncertain_are_refused(names: list[str], tmp_path: Path) -> None:
    for name in names:
        images(tmp_path / "rgb" / "a" / "one", range(1), name)
    with pytest.raises(ValueError, match=r"a/one: cannot tell how its images are called.*frame0"):
        FrameFolders.found(tmp_path / "rgb")


@pytest.mark.parametrize("name", ["frame{:06d}.jpg", "img_{:05d}.jpg"])
@pytest.mark.parametrize("side", ["rgb/a", "u", "v"])
def test_images_that_count_from_zero_are_refused(side: str, name: str, tmp_path: Path) -> None:
    for place in ("rgb/a", "u", "v"):
        images(tmp_path / place / "one", range(0 if place == side else 1, 9), name)
    with pytest.raises(ValueError, match=r"one: open: images count from 1, and there is \w+0\.jpg"):
        FrameFolders.found(tmp_path / "rgb", tmp_path / "u", tmp_path / "v")


def test_a_folder_among_others_that_counts_from_zero_is_named(tmp_path: Path) -> None:
    images(tmp_path / "rgb/one", range(1, 9))
    images(tmp_path / "rgb/two", range(9))
    images(tmp_path / "rgb/three", range(1, 9))
    source = FrameFolders.found(tmp_path / "rgb")
    bad = {}
    for item in range(3):
        try:
            source.probe(item)
        except BadVideo as error:
            bad[Path(error.path).name] = error.reason
    assert bad == {"two": "images count from 1, and there is frame000000.jpg; rename them"}


def test_folders_without_a_first_image_are_named(tmp_path: Path) -> None:
    images(tmp_path / "rgb/a/good", range(1, 9))
    images(tmp_path / "rgb/a/late", range(2, 9))
    images(tmp_path / "rgb/b/other", range(1, 9), "img_{:05d}.jpg")
    (tmp_path / "rgb/b/empty").mkdir()
    (tmp_path / "rgb/notes").mkdir()
    (tmp_path / "rgb/notes/read.me").write_text("of no concern")
    images(tmp_path / "rgb/a", range(1), "cover.jpg")
    source = FrameFolders.found(tmp_path / "rgb")
    assert names(source, tmp_path / "rgb") == ["a/good"]
    left = {os.path.relpath(bad.path, tmp_path / "rgb"): bad.reason for bad in source.left_out}
    assert left.pop("a") == "has no frame000001.jpg (its first image is cover.jpg)"
    assert left == {
        "a/late": "has no frame000001.jpg (its first image is frame000002.jpg)",
        "b/other": "has no frame000001.jpg (its first image is img_00001.jpg)",
        "b/empty": "is empty",
    }


@pytest.mark.parametrize("listed", [False, True])
def test_videos_that_would_share_flow_are_refused(listed: bool, tmp_path: Path) -> None:
    for video in ("a/one", "b/one", "b/two"):
        images(tmp_path / "rgb" / video, range(1, 9))
    for side in "uv":
        for video in ("one", "two"):
            images(tmp_path / side / video, range(1, 8))
    (tmp_path / "a.list").write_text("a/one 1 0\na/one 2 0\nb/one 1 1\nb/two 1 1\n")
    data_list = tmp_path / "a.list" if listed else None
    folders = {"rgb_prefix": tmp_path / "rgb", "data_list": data_list}
    assert len(open_source(**folders)) == (4 if listed else 3)  # without flow each is itself
    flow = {"flow_x_prefix": tmp_path / "u", "flow_y_prefix": tmp_path / "v"}
    with pytest.raises(ValueError, match=r"a/one and .*b/one have one name and would share"):
        open_source(**folders, **flow)
    (tmp_path / "a.list").write_text("a/one 1 0\na/one 2 0\nb/two 1 1\n")
    if listed:
        assert len(open_source(**folders, **flow)) == 3
