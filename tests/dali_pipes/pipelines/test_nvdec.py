"""Trust in a GPU's decoders, with DALI's own on the CPU in their place: it has VP8 and VP9 only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_pipes.clips import Clip, ClipSpec
from dali_pipes.decoding.encoded import GPU_CODECS
from dali_pipes.pipelines import nvdec
from dali_pipes.pipelines.feed import Feed
from dali_pipes.pipelines.fetch import FetchEncoded, Share
from dali_pipes.pipelines.fetcher import Fetching
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic, VideoFiles
from dali_pipes.sources.index import Index
from dali_pipes.sources.survey import Survey, survey

untrusting = nvdec.trusted_codecs.__wrapped__  # without memory


def clip_of(video: int) -> Clip:
    return Clip(0, video, 0.0, (0, 0), False)


def test_a_codec_is_trusted_once_it_gave_the_right_frames() -> None:
    assert untrusting(None, "cpu") == ("vp8", "vp9")


def test_a_decoder_that_is_off_by_one_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = nvdec.decode

    def late(encoded: Any, first: Any, *others: Any, **options: Any) -> Any:
        return decode(encoded, first + 1, *others, **options)

    monkeypatch.setattr(nvdec, "decode", late)
    assert untrusting(None, "cpu") == ()


def test_a_codec_that_cannot_be_tried_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "_ENCODERS", nvdec._ENCODERS | {"vp9": "no such encoder"})
    assert untrusting(None, "cpu") == ("vp8",)


@pytest.mark.gpu
def test_this_gpu_decodes_every_codec() -> None:
    assert untrusting(0) == GPU_CODECS


@pytest.fixture
def source(tmp_path: Path) -> VideoFiles:
    frames = Synthetic.make(1, frames=20, size=(160, 208)).read_clip(0, range(20), None)[0]
    write_video(tmp_path / "a.webm", frames, "libvpx-vp9")
    write_video(tmp_path / "b.mp4", frames)
    write_video(tmp_path / "c.avi", frames, "mjpeg", pix_fmt="yuvj420p")
    write_video(tmp_path / "d.avi", frames, "mjpeg", pix_fmt="yuvj420p")
    small = np.ascontiguousarray(frames[:, :24, :48])
    write_video(tmp_path / "e.mp4", small)
    return VideoFiles.found(tmp_path)


def test_the_summary_says_who_decodes_how_many_files_and_why(source: VideoFiles) -> None:
    index = Index(source.index_path)
    assert survey(source, index).unsure == {}  # nobody asked
    known = survey(source, index, for_gpu=True)
    assert survey(source, index, for_gpu=True).unsure == known.unsure  # kept
    assert [known.unsure[item] for item in range(3)] == ["", "", "its codec is mjpeg"]
    work = {"batch_size": 2, "workers": 0, "prefetch": 1, "decode_threads": 2, "stall_seconds": 9}
    fetching = Fetching(1, None, 1, 0, 1)
    feed = Feed(source, ClipSpec(), known, "tvl1", torch.device("cpu"), fetching=fetching, **work)
    assert feed.decoder == (
        "video on the GPU (NVDEC: vp8, vp9): 2 files; on the CPU (PyAV): 3 (its codec is mjpeg: 2, "
        "its sides are not within 144 to 4096 pixels: 1); this GPU does not decode h264, hevc, "
        "mpeg4: workers do"
    )


def test_frames_too_small_for_hardware_flow_are_refused_by_name(source: VideoFiles) -> None:
    known = Survey.unknown(len(source))
    tvl1, unit = (
        FetchEncoded(source, ClipSpec(), known, Share(0, 1), "", flow=flow)
        for flow in ("tvl1", "nvof")
    )
    assert tvl1.read(clip_of(4), range(16))[-1].shape == (16, 24, 48, 3)
    with pytest.raises(Exception, match=r"e\.mp4: flow: is 48x24; .* choose flow 'tvl1'"):
        unit.read(clip_of(4), range(16))
    least = min(unit.placeholder()[-1].shape[1:3])
    assert least == 32, "the unit takes the placeholder of a bad file"


def test_what_is_known_to_be_for_workers_is_not_examined_again(
    source: VideoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_pipes.pipelines import fetch

    asked = []

    def examine(path: str, *_: Any) -> None:
        asked.append(Path(path).name)
        raise fetch.Unsure("cannot be told")

    monkeypatch.setattr(fetch, "encoded_clip", examine)
    known = Survey.unknown(len(source))
    clips = FetchEncoded(source, ClipSpec(), known, Share(0, 1), "")
    for _ in range(2):
        clips.read(clip_of(0), range(16))
    assert asked == ["a.webm"]
    assert known.unsure == {0: "cannot be told"}
