"""Storage formats: each is read at the right frames, and one that is not is never timed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import cold, formats, small_files, stored
from benchmarks.stored import GIVEN, RAW, REELS, Format, Stored
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.showing import decoded
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import VideoFiles

LONG, SHORT = 88, 24  # frames
CLIP_BYTES = 16 * 128 * 171 * 3


def write_texture(path: Path, frames: int, codec: str = "libx264") -> None:
    """A texture that moves by 2 px a frame to the right and is a little larger than the picture."""
    noise = np.random.default_rng(frames).standard_normal((96, 128 + 2 * frames, 3))
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    path.parent.mkdir(exist_ok=True)
    write_video(path, (texture[:, 2 * t :][:, :128].astype(np.uint8) for t in range(frames)), codec)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_texture(folder / "a/long.mp4", LONG)
    write_texture(folder / "b/short.avi", SHORT, "mpeg4")
    write_texture(folder / "b/tiny.mp4", 9)
    (folder / "b/broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def kept(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return stored.store(videos, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def clips(kept: Stored) -> list[formats.Clip]:
    return formats.counted(kept, formats.draw(kept, 6))


def by_name(kept: Stored) -> dict[str, Format]:
    return {form.name: form for form in kept.formats}


def files_below(folder: Path, suffix: str) -> dict[str, int]:
    """Size of every file with the suffix, by path."""
    return {str(p): p.stat().st_size for p in folder.rglob(f"*{suffix}") if p.is_file()}


def test_a_run_appends_a_row_of_all_formats(
    videos: Path, kept: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(formats, "ROUNDS", 2)
    monkeypatch.setattr(formats, "COLD_ROUNDS", 2)
    made = {path: os.stat(path).st_mtime_ns for path in files_below(kept.folder, "")}
    command = ["--videos", str(videos), "--out", str(kept.folder.parent), "--clips", "4"]
    assert formats.main([*command, "--seconds", "0.01", "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "tiny.mp4: clip: has 9 frames, 16 needed" in text
    assert "broken.mp4: decode: invalid data" in text
    for path, when in made.items():
        if path.endswith((".rgb", ".mp4", ".jpg", ".tar")):
            assert os.stat(path).st_mtime_ns == when, f"{path} was made again"
    row = json.loads((tmp_path / "formats.jsonl").read_text())
    results = {one["format"]: one for one in row["results"]}
    assert list(results) == [form.name for form in kept.formats]
    assert all(one["clips_per_s"] > 0 and one["cpu_us_per_clip"] > 0 for one in results.values())
    assert all(("ratio" in one) == (name != REELS) for name, one in results.items())
    for name, one in results.items():
        assert (one["error"] == 0) == (name in (GIVEN, RAW))
        assert ("psnr_db" in one) == (name not in (GIVEN, RAW))
        assert one.get("psnr_db", 99) > 28
        assert one.get("disk_kb_per_clip", 1) > 0
    assert results[RAW]["bytes_per_frame"] == 128 * 171 * 3
    assert results[REELS]["bytes_with_flow"] > results[REELS]["bytes_per_frame"]


def test_videos_that_serve_are_in_all_formats(videos: Path, kept: Stored) -> None:
    assert kept.paths == [str(videos / "a/long.mp4"), str(videos / "b/short.avi")]
    assert kept.frames == [LONG, SHORT]


def test_bytes_are_those_on_the_disk(videos: Path, kept: Stored) -> None:
    def on_disk(folder: Path, suffix: str) -> int:
        return sum(files_below(folder, suffix).values())

    given, near, far, layout, reel, raw = kept.formats
    assert given.size == sum(os.path.getsize(path) for path in kept.paths)
    assert near.size == on_disk(kept.folder / f"h264-crf{small_files.CRF}-every8", ".mp4")
    assert far.size == on_disk(kept.folder / f"h264-crf{small_files.CRF}-every16", ".mp4")
    assert layout.size == on_disk(kept.folder / "layout/rgb", ".jpg")
    assert raw.size == on_disk(kept.folder / "raw", ".rgb") == (LONG + SHORT) * 128 * 171 * 3
    shards, index = (on_disk(kept.folder / "reels", suffix) for suffix in (".tar", "index.npz"))
    assert reel.size + reel.flow_size == shards + index
    headers = b"".join(path.read_bytes() for path in (kept.folder / "reels").glob("*.tar"))
    fields = [json.loads(part.split(b"}")[0] + b"}")["flow_bytes"]
              for part in headers.split(b"\0") if part.startswith(b'{"name"')]  # fmt: skip
    assert sorted(map(len, fields)) == [SHORT, LONG]
    assert reel.flow_size == sum(map(sum, fields))


@pytest.fixture(params=small_files.KEYFRAMES)
def h264(kept: Stored, request: pytest.FixtureRequest) -> str:
    return str(small_files.h264_file(kept.folder, "a/long.mp4", request.param))


def test_h264_is_read_exactly_from_every_start(h264: str) -> None:
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded(h264)])
    keys = [n for n, frame in enumerate(decoded(h264)) if frame.key_frame]
    assert shown.shape == (LONG, 128, 172, 3)
    assert len(keys) >= LONG // 16
    for start in range(LONG - 16 + 1):
        images = small_files.read_h264(h264, range(start, start + 16))
        np.testing.assert_array_equal(images, shown[start : start + 16, :, :171])


def test_h264_that_ends_too_soon_is_said(h264: str) -> None:
    with pytest.raises(BadVideo, match=rf"ends before frame {LONG}$"):
        small_files.read_h264(h264, range(LONG - 15, LONG + 1))


def test_right_frames_are_let_through(kept: Stored, clips: list[formats.Clip]) -> None:
    assert {clip.video for clip in clips} == {0, 1}
    for form in kept.formats:
        assert formats.verified(form, clips, kept)["error"] < 8


def shifted(form: Format, by: int) -> Format:
    return replace(form, read=lambda v, n: form.read(v, range(n.start + by, n.stop + by)))


def one_frame_twice(form: Format) -> Format:
    order = [0, 1, 2, 3, 4, 5, 6, 7, 7, 9, 10, 11, 12, 13, 14, 15]
    return replace(form, read=lambda v, n: form.read(v, n)[order])


@pytest.mark.parametrize("number", range(6), ids=lambda n: f"format {n}")
def test_other_frames_are_not_timed(kept: Stored, clips: list[formats.Clip], number: int) -> None:
    form = kept.formats[number]
    inner = [clip for clip in clips if clip.numbers.start > 0 and clip.numbers.stop < SHORT]
    assert inner
    first = inner[0].numbers.start
    for by in (-1, 1):
        with pytest.raises(SystemExit, match=rf"frame {first}: is frame {first + by};"):
            formats.verified(shifted(form, by), inner, kept)
    with pytest.raises(SystemExit, match=rf"frame {first + 8}: is frame {first + 7};"):
        formats.verified(one_frame_twice(form), inner, kept)
    with pytest.raises(SystemExit, match="15 frames; nothing is timed"):
        formats.verified(replace(form, read=lambda v, n: form.read(v, n)[1:]), inner, kept)


def test_exact_formats_must_give_the_very_pixels(kept: Stored, clips: list[formats.Clip]) -> None:
    def off_by_one_level(video: int, numbers: range) -> small_files.Images:
        images = raw.read(video, numbers)
        images[3, 4, 5, 0] ^= 1
        return images

    raw = by_name(kept)[RAW]
    with pytest.raises(SystemExit, match=r"raw arrays: .*: pixels differ"):
        formats.verified(replace(raw, read=off_by_one_level), clips, kept)


def test_the_error_is_that_of_the_pixels(kept: Stored, clips: list[formats.Clip]) -> None:
    raw = by_name(kept)[RAW]
    wrong = replace(raw, exact=False, read=lambda v, n: raw.read(v, n) ^ 2)  # 2 levels everywhere
    psnr = round(10 * float(np.log10(255**2 / 4)), 1)
    assert formats.verified(wrong, clips, kept) == {"error": 2.0, "psnr_db": psnr}


def test_stale_files_are_told(kept: Stored, videos: Path) -> None:
    raw = small_files.raw_file(kept.folder, "b/short.avi")
    whole = raw.read_bytes()
    raw.write_bytes(whole[: -3 * small_files.FRAME_BYTES])
    try:
        with pytest.raises(stored.BadInput, match="has 24 frames, the video has 21; remove"):
            stored.store(videos, kept.folder.parent)
    finally:
        raw.write_bytes(whole)


def test_a_changed_video_is_stored_anew(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"1")
    found = VideoFiles.found(tmp_path)
    before = stored._fingerprint(found)
    assert stored._fingerprint(VideoFiles.found(tmp_path)) == before
    os.utime(video, ns=(1, 1))
    assert stored._fingerprint(found) != before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(300_000))
    return path


def test_cold_reads_come_from_the_disk_or_have_no_time(file: Path) -> None:
    file.read_bytes()
    reads = {
        "dropped": [cold.Read(file.read_bytes, [str(file)])] * 3,
        "not dropped": [cold.Read(file.read_bytes, [])] * 3,
    }
    found = cold.timed_cold(reads, rounds=2)
    assert "not dropped" not in found
    if "dropped" in found:  # a file system in memory has no disk
        assert found["dropped"].from_disk >= 300_000
        assert found["dropped"].timing.repeats == 2
