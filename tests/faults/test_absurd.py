"""Small files that claim to be immense: refused before memory is taken for what they claim."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.decoding import claims, needed, video
from dali_pipes.decoding.claims import MOST_PIXELS, endless
from dali_pipes.decoding.jpeg import image_name
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic, VideoFiles

ROOT = Path(__file__).parents[2]


def box(data: bytes, kind: bytes) -> int:
    return data.index(kind) + 4  # its version and flags


def claiming(path: Path, samples: int, size: int = 10) -> Path:
    """An MP4 whose tables say that it holds so many samples of one size."""
    write_video(path, np.zeros((20, 48, 64, 3), np.uint8), b_frames=0)
    data = bytearray(path.read_bytes())
    number = samples.to_bytes(4, "big")
    at = box(data, b"stts")
    data[at + 8 : at + 12] = number
    at = box(data, b"stsz")
    data[at + 4 : at + 12] = size.to_bytes(4, "big") + number
    at = box(data, b"stsc")  # all of them in the first chunk
    data[at + 4 : at + 20] = b"".join(n.to_bytes(4, "big") for n in (1, 1, samples, 1))
    at = box(data, b"stco")
    data[at + 4 : at + 8] = (1).to_bytes(4, "big")
    path.write_bytes(data)
    return path


MEASURE = """
import resource, sys
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import probe, read_clip, picture_count
av = __import__("av")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (probe, picture_count, lambda path: read_clip(path, range(70, 86), (48, 64))):
    try:
        read(sys.argv[1])
    except BadVideo as error:
        print(error.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("samples", [10**6, 8 * 10**7, 10**9, 2**32 - 1])
def test_tables_of_more_pictures_than_bytes(tmp_path: Path, samples: int) -> None:
    path = claiming(tmp_path / "a.mp4", samples)
    assert path.stat().st_size < 4096
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    *reasons, mebibytes = run.stdout.splitlines()
    said = f"says that it holds {samples} pictures in {path.stat().st_size} bytes"
    assert reasons == [said] * 3
    assert int(mebibytes) < 100
    assert time.monotonic() - began < 30


def test_tables_that_are_right(tmp_path: Path) -> None:
    """Raw pictures are all of one size, and so is sound, of which there may be less than said."""
    path = tmp_path / "a.mov"
    write_video(path, np.zeros((20, 48, 64, 3), np.uint8), "rawvideo", pix_fmt="rgb24")
    data = path.read_bytes()
    assert data[box(data, b"stsz") + 4 :][:4] == (48 * 64 * 3).to_bytes(4, "big")
    assert endless(path) is None

    path = tmp_path / "sound.mov"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("pcm_u8", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 40_000), np.uint8), "u8", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[:20_000])
    assert (40_000).to_bytes(4, "big") in path.read_bytes()
    assert endless(path) is None


def huge_jpeg(height: int, width: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def test_images_of_billions_of_pixels(tmp_path: Path) -> None:
    for name in ("huge", "sound"):
        (tmp_path / "class" / name).mkdir(parents=True)
        for n in range(1, 21):
            image = np.full((48, 64, 3), n, np.uint8)
            cv2.imwrite(str(tmp_path / "class" / name / image_name(n)), image)
    (tmp_path / "class" / "huge" / image_name(7)).write_bytes(huge_jpeg(65500, 65500))
    skipped = []
    loader = ClipLoader(
        rgb_prefix=tmp_path, batch_size=2, num_workers=1, device="cpu", labels=False,
        resize=(48, 64), size=32, on_skip=skipped.append, sampling="even",
    )  # fmt: skip
    batch = loader.next_batch()
    loader.close()
    assert len(batch) == 1
    (skip,) = skipped
    assert "huge" in skip.path
    assert skip.reason == f"says that it is 65500x65500 pixels; {MOST_PIXELS} are taken at most"


def test_videos_of_too_many_pixels(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = (tmp_path / "a.mkv").read_bytes()
    at = data.index(b"\xff\xc0")
    data = data[: at + 5] + (16000).to_bytes(2, "big") * 2 + data[at + 9 :]
    (tmp_path / "a.mkv").write_bytes(data)
    with pytest.raises(BadVideo):
        video.read_frames(tmp_path / "a.mkv", [0])


def test_large_packets_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of large pictures behind one keyframe do not lie in memory: they are decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 128, 3), np.uint8)
    path = tmp_path / "a.mp4"
    write_video(path, noise, keyframe_every=1000, options={"crf": "1"})
    numbers = range(40, 56)
    frames = video.read_frames(path, numbers)
    assert video._read_needed(path, numbers, None) is not None
    monkeypatch.setattr(needed, "MOST_KEPT", path.stat().st_size // 2)
    assert video._read_needed(path, numbers, None) is None
    assert np.array_equal(video.read_frames(path, numbers), frames)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_what_would_take_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """A megabyte of large black pictures takes hours. Here fewer pixels are too many."""
    path = tmp_path / "a.mkv"
    write_video(path, np.zeros((140, 96, 128, 3), np.uint8), codec, b_frames=0, keyframe_every=1000)
    monkeypatch.setattr(claims, "MOST_DECODED", 100 * 96 * 128)
    source = VideoFiles.one(path)
    for start in (80, 70, 0):
        frames, _ = source.read_clip(0, range(start, start + 16), None)
        assert frames.shape == (16, 96, 128, 3)
    for _ in range(2):
        with pytest.raises(BadVideo, match=r"takes 116 pictures of 128x96 .*cut it into parts"):
            source.read_clip(0, range(100, 116), None)


INTERRUPTED = """
import sys, time
from dali_pipes import ClipLoader
from dali_pipes.decoding import video
video.probe = lambda path: time.sleep(120)
print("opens", flush=True)
ClipLoader(sys.argv[1], device="cpu")
"""


def test_an_interrupt_need_not_wait_for_a_slow_file(tmp_path: Path) -> None:
    for n in range(4):
        write_video(tmp_path / f"{n}.mp4", np.zeros((20, 48, 64, 3), np.uint8))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell in the background has SIGINT ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "opens\n"
    time.sleep(2)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - began < 20  # some 2 s on a quiet machine


@pytest.fixture(params=["synthetic", "real"])
def an_avi(request: pytest.FixtureRequest, tmp_path: Path, real_data: Path) -> Path:
    path = tmp_path / "clips" / "a.avi"
    path.parent.mkdir()
    if request.param == "real":
        path.write_bytes(min((real_data / "videos").glob("*/*.avi")).read_bytes())
    else:
        images, _ = Synthetic.make(1, frames=20, size=(48, 64)).read_clip(0, range(20), None)
        write_video(path, images, "mpeg4")
    return path


def test_a_download_that_was_never_finished(an_avi: Path) -> None:
    """FFmpeg would look through such a hole for minutes."""
    written = an_avi.stat().st_size
    os.truncate(an_avi, 20 << 30)
    began = time.monotonic()
    with pytest.raises(BadVideo) as refused:
        video.probe(an_avi)
    assert time.monotonic() - began < 10
    found = re.match(
        r"was never written from byte (\d+) to (\d+) of \2; fini", refused.value.reason
    )
    assert found is not None
    assert 0 <= int(found[1]) - written < 1 << 20


def test_a_hole_in_an_mp4_is_not_looked_through(tmp_path: Path) -> None:
    """Recorders leave room behind; the index says what there is."""
    images, _ = Synthetic.make(1, frames=20, size=(48, 64)).read_clip(0, range(20), None)
    write_video(tmp_path / "a.mp4", images)
    frames = video.read_frames(tmp_path / "a.mp4", range(4, 20))
    os.truncate(tmp_path / "a.mp4", 1 << 30)
    assert np.array_equal(video.read_frames(tmp_path / "a.mp4", range(4, 20)), frames)


def test_lists_of_other_files_are_no_videos(an_avi: Path) -> None:
    lists = {
        "concat": "ffconcat version 1.0\nfile a.avi\n" * 8,
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.avi\n#EXT-X-ENDLIST\n",
        "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "dash": '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation '
        'id="1"><BaseURL>a.avi</BaseURL></Representation></AdaptationSet></Period></MPD>',
    }
    for name, text in lists.items():
        path = an_avi.with_name(f"{name}.avi")
        path.write_text(text)
        with pytest.raises(BadVideo) as refused:
            video.probe(path)
        assert re.search("none of the containers that are read|invalid data", refused.value.reason)
    skipped = []
    loader = ClipLoader(
        an_avi.parent, batch_size=1, num_workers=0, device="cpu", labels=False, resize=(32, 40),
        size=24, on_skip=skipped.append,
    )  # fmt: skip
    assert {Path(skip.path).stem for skip in skipped} == set(lists)
    assert len(loader.next_batch()) == 1
    loader.close()


def test_colons_in_names(an_avi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg takes what comes before one for a protocol."""
    monkeypatch.chdir(an_avi.parent)
    an_avi.rename("data:1.avi")
    assert video.probe("data:1.avi").frames >= 20
