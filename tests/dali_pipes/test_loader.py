"""The loader against a plain restatement: decode from frame 0, resize, flow, crop, flip, label."""

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.clips import clip_at, clip_start
from dali_pipes.decoding.video import probe
from dali_pipes.flow import fast_flow
from dali_pipes.loader import NothingUsable, Skip
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic
from kernels.labels import clip_labels


@lru_cache
def counted(path: str) -> list[np.ndarray]:
    """All frames of a video, in the plainest way there is."""
    with av.open(path, metadata_errors="replace") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def cut(images: np.ndarray, crop: tuple[int, int], flip: bool, size: int = 112) -> np.ndarray:
    top, left = crop
    images = images[:, top : top + size, left : left + size]
    return images[:, :, ::-1] if flip else images


def cut_flow(flow: np.ndarray, crop: tuple[int, int], flip: bool, size: int = 112) -> np.ndarray:
    flow = cut(flow, crop, flip, size).copy()
    if flip:
        flow[..., 0] = 255 - flow[..., 0]
    return flow


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """Three classes of two small videos with texture that moves."""
    videos = Synthetic.make(6, frames=30, size=(48, 64))
    for item in range(6):
        clip, _ = videos.read_clip(item, range(18 + 2 * item), None)
        folder = tmp_path / "videos" / f"class {item // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix, codec = ((".mp4", "libx264"), (".avi", "mpeg4"))[item % 2]
        write_video(folder / f"v_{item}{suffix}", clip, codec)
    return tmp_path / "videos"


SMALL = {"resize": (32, 40), "size": 24, "num_workers": 0}


def check_batch(batch: ClipBatch, loader: ClipLoader, slots: list[int]) -> None:
    """Every array of a batch of videos, recomputed from the files."""
    spec = loader.spec
    for n, slot in enumerate(slots):
        clip = clip_at(slot, len(loader.paths), spec)
        frames = counted(loader.paths[clip.video])
        packets = probe(loader.paths[clip.video]).frames
        start = clip_start(clip.position, None, packets, len(frames), spec.needs)
        assert batch.video[n] == clip.video
        assert batch.start[n] == start
        assert tuple(batch.crop[n].tolist()) == clip.crop
        assert bool(batch.flip[n]) == clip.flip
        wanted = frames[start : start + spec.needs : spec.stride]
        height, width = spec.resize
        small = np.stack([cv2.resize(frame, (width, height)) for frame in wanted])
        planes = fast_flow(small, frames[0].shape[:2])
        flow = np.moveaxis(planes, 1, -1)[: spec.flow_fields]
        assert np.array_equal(
            batch.frames[n], cut(small[: spec.clip_len], clip.crop, clip.flip, spec.size)
        )
        assert np.array_equal(batch.flow[n], cut_flow(flow, clip.crop, clip.flip, spec.size))
    labels = clip_labels(batch.frames, batch.flow, spec.rule)
    assert torch.equal(batch.labels, labels)
    assert len(batch) == len(slots)


def test_every_real_video_arrives_exactly(real_data: Path) -> None:
    skips: list[Skip] = []
    loader = ClipLoader(real_data / "videos", batch_size=4, num_workers=2, on_skip=skips.append)
    slot = 0
    seen = set()
    for batch in loader:
        check_batch(batch, loader, list(range(slot, slot + 4)))
        slot += 4
        seen.update(batch.video.tolist())
    loader.close()
    assert (slot, loader.consumed, loader.epoch) == (16, 16, 1)
    assert seen == set(range(14))
    # The HMDB51 file has one packet that holds no picture: a redrawn start is no fault.
    assert not skips
    assert {loader.source.class_names[c] for c in loader.source.class_ids} == {
        "ApplyEyeMakeup", "Basketball", "BenchPress", "abseiling", "cartwheel", "pancake",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"flip": False}, {"stride": 2, "clip_len": 8}, {"clips_per_video": 3}, {"sampling": "even"}],
)
def test_options(rendered: Path, options: dict) -> None:
    loader = ClipLoader(rendered, batch_size=5, **SMALL, **options)
    for number in range(2):
        check_batch(loader.next_batch(), loader, list(range(5 * number, 5 * number + 5)))


def test_frames_without_labels(rendered: Path) -> None:
    (rendered / "class 1" / "bad.mp4").write_bytes(b"bad")
    arguments = {**SMALL, "batch_size": 4, "sampling": "even", "clips_per_video": 2}
    plain = ClipLoader(rendered, labels=False, **arguments)
    for bare, labelled in zip(plain, ClipLoader(rendered, **arguments), strict=True):
        for name in ("frames", "video", "start", "crop", "flip"):
            assert torch.equal(getattr(bare, name), getattr(labelled, name))
        assert bare.flow.shape == (len(labelled), 0, 24, 24, 2)
        assert not bare.labels.any()
    assert len(plain.skipped) == 1


def test_reference_rule_reads_one_frame_more(rendered: Path) -> None:
    loader = ClipLoader(rendered, batch_size=3, num_workers=0, rule="reference")
    batch = loader.next_batch()
    assert batch.flow.shape == (3, 16, 112, 112, 2)
    check_batch(batch, loader, [0, 1, 2])


def test_published_frames(real_data: Path) -> None:
    """Frame folders: decoded as OpenCV does; resizing differs by 1 in some values."""
    frames = real_data / "frames"
    loader = ClipLoader(
        data_list=frames / "train.list",
        rgb_prefix=frames / "rgb",
        flow_x_prefix=frames / "flow/u",
        flow_y_prefix=frames / "flow/v",
        batch_size=3,
        num_workers=2,
        rule="reference",
    )
    assert loader.flow == "stored"
    for number in range(4):
        batch = loader.next_batch()
        assert torch.equal(batch.labels, clip_labels(batch.frames, batch.flow, "reference"))
        assert batch.start.tolist() == [0, 0, 0]
        for n in range(3):
            clip = clip_at(3 * number + n, 6, loader.spec)
            path = Path(loader.paths[clip.video])

            def images(folder: Path, flag: int, count: int = 16) -> np.ndarray:
                names = [str(folder / f"frame{k:06d}.jpg") for k in range(1, count + 1)]
                return np.stack([cv2.resize(cv2.imread(f, flag), (171, 128)) for f in names])

            rgb = images(path, cv2.IMREAD_COLOR_RGB)
            flow = np.stack(
                [images(frames / "flow" / c / path.name, cv2.IMREAD_GRAYSCALE) for c in "uv"], -1
            )
            got, got_flow = batch.frames[n].numpy(), batch.flow[n].numpy()
            for mine, theirs in (
                (got, cut(rgb, clip.crop, clip.flip)),
                (got_flow, cut_flow(flow, clip.crop, clip.flip)),
            ):
                difference = np.abs(mine.astype(int) - theirs)
                assert difference.max() <= 1
                assert (difference > 0).mean() < 0.15
    running = loader._feed._running
    assert running is not None
    assert running._work.notes.rooms == 2, "both workers take batches"
    loader.close()


def test_frames_without_flow_images(real_data: Path) -> None:
    loader = ClipLoader(rgb_prefix=real_data / "frames/rgb", batch_size=2, num_workers=0)
    assert loader.flow == "tvl1-fast"
    batch = loader.next_batch()
    assert torch.equal(batch.labels, clip_labels(batch.frames, batch.flow))
    clip = clip_at(0, 6, loader.spec)
    folder = Path(loader.paths[clip.video])
    first = cv2.imread(
        str(folder / f"frame{int(batch.start[0]) + 1:06d}.jpg"), cv2.IMREAD_COLOR_RGB
    )
    small = cv2.resize(first, (171, 128))[None]
    assert np.array_equal(batch.frames[0, :1], cut(small, clip.crop, clip.flip))


def stream(loader: ClipLoader, batches: int) -> list[ClipBatch]:
    return [loader.next_batch() for _ in range(batches)]


def same(a: ClipBatch, b: ClipBatch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_ranks_share_the_stream(rendered: Path) -> None:
    whole = stream(ClipLoader(rendered, batch_size=4, **SMALL), 3)
    ranks = [
        stream(ClipLoader(rendered, batch_size=2, rank=rank, world_size=2, **SMALL), 3)
        for rank in range(2)
    ]
    for both, first, second in zip(whole, *ranks, strict=True):
        assert both.video[0::2].tolist() == first.video.tolist()
        assert both.video[1::2].tolist() == second.video.tolist()
        assert torch.equal(both.frames[0::2], first.frames)
        assert torch.equal(both.labels[1::2], second.labels)


class Counting(Synthetic):
    """Says how many clips it was asked for."""

    read = 0

    def read_clip(self, *arguments: Any) -> Any:
        type(self).read += 1
        return super().read_clip(*arguments)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_so_many_batches_are_prepared_ahead(prefetch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "read", 0)
    options = {**SMALL, "flow": "tvl1-fast", "batch_size": 2}
    loader = ClipLoader(Counting.make(6, 20, (48, 64)), prefetch=prefetch, **options)
    usual = ClipLoader(Synthetic.make(6, 20, (48, 64)), **options)
    for batches in range(1, 4):
        assert same(loader.next_batch(), usual.next_batch())
        wanted = 2 * (batches + prefetch)
        while Counting.read < wanted:  # else the test's time limit ends it
            time.sleep(0.01)
        time.sleep(0.2)
        assert Counting.read == wanted


def test_memory_follows_what_is_prepared_ahead(rendered: Path) -> None:
    def mib(prefetch: int) -> int:
        text = ClipLoader(rendered, prefetch=prefetch, batch_size=64).describe()
        return int(text.split("\nmemory")[1].split()[0])

    assert mib(4) - mib(2) == pytest.approx(mib(6) - mib(4), abs=2)
    assert mib(4) > 1.5 * mib(2)


def test_state_continues_the_stream(rendered: Path) -> None:
    loader = ClipLoader(rendered, batch_size=4, **SMALL)
    stream(loader, 1)
    state = loader.state_dict()
    assert state["consumed"] == 4  # what was prepared ahead does not count
    later = stream(loader, 2)
    resumed = ClipLoader(rendered, batch_size=4, **SMALL)
    resumed.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(later, stream(resumed, 2), strict=True))

    resumed.load_state_dict(state)  # back, while batches are under way
    assert same(later[0], resumed.next_batch())

    other = ClipLoader(rendered, batch_size=1, world_size=3, **SMALL)  # the rest of that epoch
    other.load_state_dict(state)
    assert other.next_batch().video.tolist() == later[0].video[:1].tolist()


@pytest.mark.parametrize(
    ("change", "words"), [({"seed": 1}, "seed was 0, is 1"), ({"flip": False}, "flip was True")]
)
def test_state_of_another_stream_is_refused(rendered: Path, change: dict, words: str) -> None:
    state = ClipLoader(rendered, **SMALL).state_dict()
    with pytest.raises(ValueError, match=words):
        ClipLoader(rendered, **SMALL, **change).load_state_dict(state)
    (rendered / "class 0" / "v_0.mp4").unlink()
    with pytest.raises(ValueError, match=r"items was 6 .*, is 5 "):
        ClipLoader(rendered, **SMALL).load_state_dict(state)


def test_epochs(rendered: Path) -> None:
    loader = ClipLoader(rendered, batch_size=4, **SMALL)  # 6 clips an epoch
    lengths = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        expected = len(loader)
        lengths.append(sum(1 for _ in loader))
        assert lengths[-1] == expected
    assert lengths == [2, 1, 2]  # 8 clips, 12, 20: batches run across the ends of epochs
    loader.set_epoch(1)
    assert loader.consumed == 6
    again = loader.next_batch()
    assert again.video.tolist() == [clip_at(i, 6, loader.spec).video for i in range(6, 10)]


def test_bad_files_are_left_out_and_named_once(rendered: Path) -> None:
    (rendered / "class 0" / "text.mp4").write_text("no video")
    write_video(rendered / "class 0" / "short.mp4", np.zeros((15, 48, 64, 3), np.uint8))
    whole = (rendered / "class 2" / "v_4.mp4").read_bytes()
    skips: list[Skip] = []
    loader = ClipLoader(rendered, batch_size=4, on_skip=skips.append, **SMALL)
    assert [(Path(skip.path).name, skip.stage, skip.slot) for skip in skips] == [
        ("short.mp4", "open", None),
        ("text.mp4", "open", None),
    ]
    assert skips[0].reason == "has 15 frames, a clip needs 16"
    described = loader.describe()
    assert "8 videos or clips, 2 unusable" in described
    assert "text.mp4: open: invalid data" in described

    (rendered / "class 2" / "v_4.mp4").write_bytes(whole[:400])  # goes bad during the run
    batches = stream(loader, 4)  # two epochs
    assert [Path(skip.path).name for skip in skips] == ["short.mp4", "text.mp4", "v_4.mp4"]
    assert loader.skipped == skips
    gone = {loader.paths.index(skip.path) for skip in skips}
    order = [clip_at(i, 8, loader.spec).video for i in range(16)]
    left = [[v for v in order[i : i + 4] if v not in gone] for i in range(0, 16, 4)]
    assert [batch.video.tolist() for batch in batches] == left
    for batch in batches:
        assert len(batch) == len(batch.frames) == len(batch.labels)
        assert all(frames.float().std() > 10 for frames in batch.frames)  # nothing black


def test_nothing_usable(tmp_path: Path, rendered: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.mp4").write_text("no video")
    with pytest.raises(NothingUsable, match=r"(?s)bad: nothing usable.*a\.mp4: open: invalid data"):
        ClipLoader(folder, **SMALL)
    loader = ClipLoader(rendered, batch_size=2, **SMALL)
    for path in loader.paths:
        Path(path).write_bytes(b"")
    with pytest.raises(NothingUsable, match="videos: nothing usable"):
        list(loader)


def test_a_callback_may_stop_the_run(rendered: Path) -> None:
    class Stop(Exception):
        pass

    def stop(skip: Skip) -> None:
        raise Stop(skip.path)

    loader = ClipLoader(rendered, batch_size=6, on_skip=stop, **SMALL)
    Path(loader.paths[2]).write_bytes(b"")
    with pytest.raises(Stop, match="v_2"):
        loader.next_batch()


def test_numbers_of_frames_are_no_start_frames(rendered: Path) -> None:
    """A list as TSN's: path, number of frames, class."""
    data_list = rendered / "tsn.txt"
    rows = [f"class {i // 2}/v_{i} {18 + 2 * i} {i // 2}\n" for i in range(6)]
    data_list.write_text("".join(rows))
    with pytest.raises(ValueError, match=r"tsn\.txt.*are they numbers of frames.*for example"):
        ClipLoader(rendered, data_list=data_list, **SMALL)


def test_listed_starts_are_honoured(rendered: Path) -> None:
    data_list = rendered / "a.list"
    data_list.write_text("class 0/v_0 2 0\nclass 2/v_5 9 1\nclass 2/v_5 14 1\nclass 1/gone 1 1\n")
    loader = ClipLoader(rendered, data_list=data_list, batch_size=4, sampling="even", **SMALL)
    assert [(Path(s.path).name, s.reason) for s in loader.skipped] == [
        ("v_5.avi", "has 28 frames, the listed clip needs 14 to 29"),
        ("gone", "no such file or directory"),
    ]
    batch = loader.next_batch()
    assert batch.video.tolist() == [0, 1]
    assert batch.start.tolist() == [1, 8]


def test_true_counts_enter_the_index(real_data: Path, tmp_path: Path) -> None:
    """A file with more packets than pictures: same clips before and after that is known."""
    (tmp_path / "c").mkdir()
    source = next((real_data / "videos/cartwheel").glob("*.avi"))
    (tmp_path / "c" / source.name).write_bytes(source.read_bytes())
    options = {"batch_size": 3, "clip_len": 2, "clips_per_video": 3, "sampling": "even", **SMALL}
    first = ClipLoader(tmp_path, **options)
    assert (first._known.frames[0], first._known.decoded[0]) == (84, -1)
    before = stream(first, 1)
    after = ClipLoader(tmp_path, **options)
    assert after._known.decoded[0] == 83
    assert before[0].start.tolist() == [0, 41, 81]  # frame 83 of 84 is none: drawn again
    assert same(before[0], stream(after, 1)[0])
    assert not first.skipped


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"prefetch": 0}, "prefetch"),
        ({"rank": 2, "world_size": 2}, "rank must lie in 0..1"),
        ({"device": "cuda:7"}, "device cuda:7 is not there"),
        ({"rule": "new"}, "corrected, reference"),
        ({"flow": "stored"}, "flow_x_prefix"),
        ({"size": 64}, "does not fit"),
        ({"size": 20}, "multiple of 8"),
    ],
)
def test_arguments_that_cannot_work(rendered: Path, given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClipLoader(rendered, **SMALL | given)
