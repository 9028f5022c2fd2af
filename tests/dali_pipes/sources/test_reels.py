"""Clips from reels against those of the videos they were made from, and a reader of ten lines."""

import json
import os
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dali_pipes import ClipLoader
from dali_pipes.clips import ClipSpec, clip_at
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.reel import STEP
from dali_pipes.decoding.video import read_frames
from dali_pipes.flow import fast_flow
from dali_pipes.pipelines.fetch import FetchImages, FetchReels, Share
from dali_pipes.pipelines.images import image_pipeline
from dali_pipes.prepare.__main__ import main
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Reels, open_source, open_video, reel_index
from dali_pipes.sources.reel_index import Columns
from dali_pipes.sources.survey import Survey
from tests.faults.damage import moving

SIZE = (36, 48)
SMALL = {"resize": SIZE, "size": 32, "device": "cpu", "batch_size": 5}
NAMES = ["a/one.mp4", "a/two.avi", "b/one.mkv", "b/v_x.y.mp4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        write_video(folder / name, moving((96, 128), 20 + 3 * seed, seed), codec)
    return folder


def make(videos: Path, out: Path, resize: str) -> Path:
    flags = ["--flow", "tvl1-fast", "--resize", resize, "--workers", "1"]
    assert main(["reels", str(videos), "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="module")
def reels(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(videos, tmp_path_factory.mktemp("made") / "reels", "36x48")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, grey levels."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def grey(frames: np.ndarray) -> np.ndarray:
    """[...,3] -> [...]: JPEG images store colours coarsely, and these textures are all colour."""
    return frames @ np.array([0.299, 0.587, 0.114])


def test_frames_and_fields_are_the_videos_own(videos: Path, reels: Path) -> None:
    source = Reels.found(reels)
    assert [Path(path).relative_to(reels).as_posix() for path in source.paths] == NAMES
    assert source.class_names == ["a", "b"]
    for item, name in enumerate(NAMES):
        count = 20 + 3 * item
        info = source.probe(item)
        assert (info.frames, info.height, info.width) == (count, 96, 128)
        assert source.fps[item] == 25
        truth = read_frames(videos / name, range(count), SIZE)
        frames, native = source.read_clip(item, range(count), SIZE)
        assert native == (96, 128)
        error = distance(grey(frames), grey(truth))
        assert error < 1.5
        assert distance(grey(frames[1:]), grey(truth[:-1])) > 3 * error, "frames are off by one"
        flow = source.read_flow(item, range(count - 1))
        true_flow = np.moveaxis(fast_flow(truth, native), 1, -1)
        assert distance(flow, true_flow) < 2
        np.testing.assert_array_equal(
            source.read_clip(item, range(3, 11, 2), None)[0], frames[3:11:2]
        )


def test_clips_are_those_of_the_videos(videos: Path, reels: Path) -> None:
    flips = []
    ours = ClipLoader(reels=reels, **SMALL, num_workers=2)
    theirs = ClipLoader(videos, flow="tvl1-fast", **SMALL, num_workers=0)
    assert (ours.flow, theirs.flow) == ("stored", "tvl1-fast")
    for _ in range(3):
        batch, same = ours.next_batch(), theirs.next_batch()
        for name in ("video", "start", "crop", "flip"):
            assert torch.equal(getattr(batch, name), getattr(same, name))
        assert distance(grey(batch.frames.numpy()), grey(same.frames.numpy())) < 1.5
        assert distance(batch.flow.numpy(), same.flow.numpy()) < 2
        flips += same.flip.tolist()
    assert 0 < sum(flips) < len(flips)
    assert set(ours.seconds_a_clip) == {"waiting", "decode", "labels"}
    ours.close()


def test_reading_needs_the_standard_library_only(reels: Path) -> None:
    """docs/reels.md, as somebody else would write it."""
    source = Reels.found(reels)
    found = {}
    for shard in reels.glob("reels-*.tar"):
        with tarfile.open(shard) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        for name, data in members.items():
            if not name.endswith(".json"):
                continue
            video, pictures = json.loads(data), members[name.removesuffix("json") + "reel"]
            at, images = 0, []
            sizes = zip(video["rgb_bytes"], video["flow_bytes"], video["crc32"], strict=True)
            for rgb, flow, crc32 in sizes:
                assert zlib.crc32(pictures[at : at + rgb + flow]) == crc32
                images.append((pictures[at : at + rgb], pictures[at + rgb : at + rgb + flow]))
                at += rgb + flow
            assert at == len(pictures)
            found[video["name"]] = images
    assert sorted(found) == NAMES
    for item, name in enumerate(NAMES):
        frames = [
            cv2.imdecode(np.frombuffer(rgb, np.uint8), 1)[..., ::-1] for rgb, _ in found[name]
        ]
        np.testing.assert_array_equal(source.read_clip(item, range(len(frames)), None)[0], frames)
        assert found[name][-1][1] == b"", "there is no flow after the last frame"
        field = cv2.imdecode(np.frombuffer(found[name][4][1], np.uint8), 0)
        np.testing.assert_array_equal(
            source.read_flow(item, [4])[0], np.stack(np.split(field, 2), axis=-1)
        )


def test_readers_of_samples_find_a_video_a_sample(reels: Path) -> None:
    """They group neighbours by what precedes the first dot of the file name."""
    (shard,) = reels.glob("reels-*.tar")
    with tarfile.open(shard) as archive:
        names = archive.getnames()
    keys = [name[: name.index(".", name.rindex("/"))] for name in names]
    kinds = [name.removeprefix(key) for name, key in zip(names, keys, strict=True)]
    assert keys[::2] == keys[1::2]
    assert kinds == [".json", ".reel"] * len(NAMES)
    assert len(set(keys)) == len(NAMES)


@pytest.mark.parametrize(
    "spec",
    [ClipSpec(resize=(36, 48), size=32), ClipSpec(rule="reference", resize=(114, 150))],
    ids=["corrected", "reference"],  # which has a field more
)
def test_gpu_graph_gives_the_clips_of_the_cpu_form(
    videos: Path, tmp_path: Path, spec: ClipSpec
) -> None:
    """NVJPEG's place is taken by DALI's decoder for the CPU, whose pixels are OpenCV's."""
    height, width = spec.resize
    source = Reels.found(make(videos, tmp_path / "reels", f"{height}x{width}"))
    arguments = (source, spec, Survey.unknown(len(source)), Share(0, 1), "")
    images, clips = FetchImages(*arguments, 4), FetchReels(*arguments)
    assert b"mixed" in image_pipeline(images, 2, 2, 8, "mixed").serialize()
    pipeline = image_pipeline(images, 0, 2, 2)
    pipeline.build()
    frames, flow, report, _ = pipeline.run()
    flips = []
    for n in range(4):
        own_frames, own_flow, *_ = clips.clip(n)
        flips.append(clip_at(n, len(source), spec).flip)
        samples = range(n * spec.clip_len, (n + 1) * spec.clip_len)
        np.testing.assert_array_equal([frames.at(i) for i in samples], own_frames)
        got = np.array([flow.at(i) for i in samples])[: spec.flow_fields]
        np.testing.assert_array_equal(got, own_flow)
        assert report.at(samples[0])[0] == n
    assert 0 < sum(flips) < 4


def test_lists(reels: Path, tmp_path: Path) -> None:
    listed = tmp_path / "train.list"
    listed.write_text("a/one 3 0\nb/v_x.y.mp4 1 1\nb/absent 1 1\na/one.mp4 2 0\n")
    source = open_source(reels=reels, data_list=listed)
    assert source.starts.tolist() == [2, 0, 0, 1]
    assert source.class_ids.tolist() == [0, 1, 1, 0]
    assert source.frames.tolist() == [20, 29, 0, 20]
    loader = ClipLoader(reels=reels, data_list=listed, **SMALL, num_workers=0)
    (skip,) = loader.skipped
    assert skip.path.endswith("b/absent")
    assert "not in the reels" in skip.reason
    batch = loader.next_batch()
    assert set(batch.video.tolist()) == {0, 1, 3}
    assert {(int(v), int(s)) for v, s in zip(batch.video, batch.start, strict=True)} == {
        (0, 2), (1, 0), (3, 1),
    }  # fmt: skip


def test_a_name_that_may_mean_two_videos_is_refused(tmp_path: Path) -> None:
    columns = Columns(
        ["c/a.mkv", "c/a.mp4", "c/b.mp4"], ["reels-0000-00000.tar"], np.zeros(3, np.int32),
        np.full(3, 20, np.int32), np.full((3, 2), 48, np.int32), np.full(3, 25, np.float32),
    )  # fmt: skip
    reel_index.write(tmp_path / "index.npz", columns, [np.zeros(63, STEP)], [""] * 3)
    made = {"format": 1, "resize": [48, 48], "flow": "tvl1", "flow_computed_by": "CPU"}
    (tmp_path / "reels.json").write_text(json.dumps(made | {"jpeg_quality": 95}))
    listed = tmp_path / "train.list"
    listed.write_text("c/b 1 0\nc/a 1 0\n")
    with pytest.raises(ValueError, match=r"line 2: c/a may be c/a.mkv or c/a.mp4; write the suff"):
        Reels.listed(listed, tmp_path)
    listed.write_text("c/b 1 0\nc/a.mp4 1 0\nc/b.avi 1 0\n")
    names = [os.path.relpath(path, tmp_path) for path in Reels.listed(listed, tmp_path).paths]
    assert names == ["c/b.mp4", "c/a.mp4", "c/b.mp4"]


def test_what_cannot_be_is_said(reels: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames are 36x48, not 128x171; set resize to 36x48"):
        ClipLoader(reels=reels, device="cpu")
    with pytest.raises(ValueError, match=r"no reels \(there is no reels.json in it\)"):
        ClipLoader(reels=videos, **SMALL)
    with pytest.raises(ValueError, match="flow images are given: use them"):
        ClipLoader(reels=reels, flow="tvl1", **SMALL)
    with pytest.raises(ValueError, match="give reels alone"):
        ClipLoader(videos, reels=reels, **SMALL)
    with pytest.raises(ValueError, match="have no such video"):
        open_video(reels / "a/none.mp4")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "reels.json").write_bytes((reels / "reels.json").read_bytes())
    with pytest.raises(ValueError, match="not finished; give the same `prepare reels` command"):
        ClipLoader(reels=begun, **SMALL)
    (begun / "reels.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        ClipLoader(reels=begun, **SMALL)


def test_reels_are_found_where_videos_are_expected(reels: Path) -> None:
    assert isinstance(open_source(reels), Reels)
    one = open_video(reels / "b/one.mkv")
    assert isinstance(one, Reels)
    assert one.probe(0).frames == 26
    assert len(one) == 1


def test_flow_may_be_computed_from_frames_of_reels(videos: Path, reels: Path) -> None:
    batch = ClipLoader(reels=reels, flow="tvl1-fast", **SMALL, num_workers=0).next_batch()
    same = ClipLoader(videos, flow="tvl1-fast", **SMALL, num_workers=0).next_batch()
    assert torch.equal(batch.video, same.video)
    assert distance(batch.flow.numpy(), same.flow.numpy()) < 6


def test_a_frame_of_another_size_is_no_frame(reels: Path) -> None:
    source = Reels.found(reels)
    images, _ = source.read_encoded(0, [0, 1])
    small = cv2.imencode(".jpg", resized(next(iter(source.frames_of(0, images, [0]))), (18, 24)))[1]
    with pytest.raises(BadVideo, match="frame 1 cannot be decoded"):
        list(source.frames_of(0, [images[0], small], [0, 1]))
