"""The GPU graphs: serialised anywhere, run on a CPU where DALI can, compared on a GPU."""

from functools import partial
from pathlib import Path
from unittest.mock import create_autospec

import cv2
import numpy as np
import pytest
import torch

from dali_pipes import ClipLoader
from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.video import read_frames
from dali_pipes.pipelines import feed
from dali_pipes.pipelines import gpu as gpu_pipeline
from dali_pipes.pipelines.fetch import FetchEncoded, FetchImages, Share
from dali_pipes.pipelines.images import image_pipeline
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import FrameFolders, Synthetic, VideoFiles
from dali_pipes.sources.survey import Survey
from kernels.flow import cuda as cuda_flow
from kernels.flow.tvl1 import FAST


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two videos that DALI decodes on a CPU, and two that workers must."""
    folder = tmp_path / "videos"
    folder.mkdir()
    texture = Synthetic.make(4, frames=40, size=(160, 208))
    codecs = {"a.webm": "libvpx-vp9", "b.webm": "libvpx", "c.mp4": "libx264", "d.avi": "mpeg4"}
    for item, (name, codec) in enumerate(codecs.items()):
        clip, _ = texture.read_clip(item, range(40), None)
        write_video(folder / name, clip, codec)
    return folder


def encoded(folder: Path, spec: ClipSpec | None = None) -> FetchEncoded:
    source = VideoFiles.found(folder)
    known = Survey.unknown(len(source))
    return FetchEncoded(source, spec or ClipSpec(), known, Share(0, 1), "")


@pytest.mark.parametrize("flow", ["tvl1", "tvl1-fast", "nvof"])
def test_video_graph_serialises(videos: Path, flow: str) -> None:
    fetch = encoded(videos, ClipSpec(rule="reference"))
    fetch.flow = flow
    graph = gpu_pipeline.video_pipeline(fetch, 4, 2, 2, 8, None).serialize()
    assert b"VideoDecoder" in graph or b"decoders__Video" in graph
    assert (b"OpticalFlow" in graph) == (flow == "nvof")
    assert b"mixed" in graph


def test_image_graph_serialises(real_data: Path) -> None:
    frames = real_data / "frames"
    source = FrameFolders.found(frames / "rgb", frames / "flow/u", frames / "flow/v")
    known = Survey.unknown(len(source))
    fetch = FetchImages(source, ClipSpec(), known, Share(0, 1), "", 4)
    assert b"mixed" in image_pipeline(fetch, 2, 2, 8, "mixed").serialize()


def stub_tvl1(frames, crops, flips, resize, size, settings, native_sizes) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Flow that shows which clip it was given: its first pixel, and its crop."""
    if settings == FAST:
        assert {tuple(clip.shape[1:3]) for clip in frames} == {resize}
        assert set(native_sizes) == {(160, 208)}
    flow = torch.empty(len(frames), len(frames[0]) - 1, size, size, 2, dtype=torch.uint8)
    for n, (clip, (top, left)) in enumerate(zip(frames, crops, strict=True)):
        flow[n] = torch.tensor([int(clip[0, 0, 0, 0]), top + left], dtype=torch.uint8)
    return flow


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of a GPU on a CPU: NVDEC's place is taken by DALI's own VP8 and VP9."""

    def on_cpu(fetch, batch_size, workers, prefetch, threads, device_id):  # type: ignore[no-untyped-def]
        return gpu_video_pipeline(fetch, batch_size, workers, prefetch, threads, None, "cpu")

    gpu_video_pipeline = gpu_pipeline.video_pipeline
    monkeypatch.setattr(gpu_pipeline, "video_pipeline", on_cpu)
    monkeypatch.setattr(
        cuda_flow, "tvl1_crops", create_autospec(cuda_flow.tvl1_crops, side_effect=stub_tvl1)
    )


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("flow", ["tvl1", "tvl1-fast"])
def test_video_graph_gives_the_clips_of_the_cpu_form(
    videos: Path, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "e.mp4").write_bytes((videos / "c.mp4").read_bytes()[:900])
    other = ClipLoader(videos, batch_size=5, num_workers=0)
    expected = [other.next_batch() for _ in range(2)]
    monkeypatch.setattr(feed, "decodes_on_gpu", lambda flow, device: True)
    loader = ClipLoader(videos, batch_size=5, num_workers=0)
    loader.flow = loader._feed.flow = flow
    for same in expected:
        batch = loader.next_batch()
        for name in ("video", "start", "crop", "flip"):
            assert torch.equal(getattr(batch, name), getattr(same, name))
        assert batch.flow.shape == same.flow.shape
        for n, video in enumerate(batch.video.tolist()):
            path = loader.paths[video]
            start, (top, left) = int(batch.start[n]), batch.crop[n].tolist()
            first = int(batch.flow[n, 0, 0, 0, 0])  # of the frames that TV-L1 was given
            native = read_frames(path, [start], (128, 171) if flow == "tvl1-fast" else None)[0]
            difference = (batch.frames[n].float() - same.frames[n].float()).abs()
            if Path(path).name in ("c.mp4", "d.avi"):  # decoded by workers
                assert difference.max() == 0
                assert first == native[0, 0, 0]
            else:  # DALI converts colours in its own way
                assert difference.mean() < 4
                assert abs(first - int(native[0, 0, 0])) < 30
                shifted = (batch.frames[n, 1:].float() - same.frames[n, :-1].float()).abs()
                assert shifted.mean() > 3 * difference.mean(), "frames are off by one"
            assert batch.flow[n, 0, 0, 0, 1] == top + left
        assert set(loader.seconds_a_clip) == {"waiting", "flow", "labels"}  # DALI decodes
    assert [Path(skip.path).name for skip in loader.skipped] == ["e.mp4"]


def hardware_flow(clip: np.ndarray, grid: int = 1, device_id: int | None = 0) -> np.ndarray:
    from nvidia.dali import Pipeline, fn

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    with pipeline:
        frames = fn.external_source(lambda: [clip], layout="FHWC")
        frames = frames if device_id is None else frames.gpu()
        pipeline.set_outputs(gpu_pipeline.hardware_flow(frames, 5, grid))
    pipeline.build()
    return np.asarray(pipeline.run()[0].as_cpu().at(0))


def test_hardware_is_shown_the_next_frame_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator relates frame i + 1 to frame i; here it shows which frames it was given."""
    from nvidia.dali import fn

    def unit(frames, output_grid, preset):  # type: ignore[no-untyped-def]
        return 16 * frames[1:] + frames[:-1]

    monkeypatch.setattr(fn, "optical_flow", unit)
    clip = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1)
    assert hardware_flow(clip, device_id=None).ravel().tolist() == [0x12, 0x23, 0x34, 0x45]
    assert hardware_flow(clip[:3], device_id=None).ravel().tolist() == [0x12, 0x23, 0x30, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("grid", [1, 4])
def test_hardware_flow_points_to_the_next_frame(grid: int) -> None:
    """A texture moves by another step each frame, so that a field out of place shows."""
    noise = np.random.default_rng(1).standard_normal((200, 240, 3))
    texture = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    steps = np.array([[3, 1], [-2, 2], [1, -3], [4, 0]])  # px right, px down
    places = 30 - np.concatenate([[[0, 0]], steps.cumsum(0)])
    clip = np.stack([texture[y : y + 128, x : x + 160] for x, y in places])
    flow = hardware_flow(clip, grid)
    inner = flow[:, 32 // grid : -32 // grid, 32 // grid : -32 // grid]
    np.testing.assert_allclose(np.median(inner, (1, 2)), steps, atol=0.3)


@pytest.mark.gpu
@pytest.mark.parametrize("flow", ["tvl1", "nvof", "tvl1-fast"])
def test_gpu_gives_the_clips_of_the_cpu(real_data: Path, flow: str) -> None:
    """Frame by frame, each must be nearest to the frame of that number."""
    options = {"batch_size": 7, "clips_per_video": 3, "sampling": "even"}
    on_cpu = ClipLoader(real_data / "videos", device="cpu", **options)
    on_gpu = ClipLoader(real_data / "videos", device="cuda", flow=flow, **options)
    for batch, wanted in zip(on_gpu, on_cpu, strict=True):
        assert batch.frames.is_cuda
        assert batch.labels.is_cuda
        for name in ("video", "start", "crop", "flip"):
            assert torch.equal(getattr(batch, name).cpu(), getattr(wanted, name))
        for got, frames in zip(batch.frames.cpu().float(), wanted.frames.float(), strict=True):
            difference = (got - frames).abs().mean((1, 2, 3))
            assert difference.max() < 4
            moved = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3))
            for n in np.flatnonzero(moved.numpy() > 4):
                assert (got[n] - frames[n + 1]).abs().mean() > difference[n]
    assert not on_gpu.skipped


@pytest.mark.gpu
def test_gpu_decodes_stored_frames_as_the_cpu(real_data: Path) -> None:
    frames = real_data / "frames"
    given = partial(
        ClipLoader,
        rgb_prefix=frames / "rgb",
        flow_x_prefix=frames / "flow/u",
        flow_y_prefix=frames / "flow/v",
        batch_size=6,
    )
    batch, wanted = given(device="cuda").next_batch(), given(device="cpu").next_batch()
    for name in ("frames", "flow"):
        difference = (getattr(batch, name).cpu().float() - getattr(wanted, name).float()).abs()
        assert difference.mean() < 1.5
