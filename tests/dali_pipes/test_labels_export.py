"""`python -m dali_pipes.labels`: every clip once, with the labels of its own frames and flow."""

import json
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.decoding.video import read_clip
from dali_pipes.flow import fast_flow
from dali_pipes.labels import main
from dali_pipes.prepare.encode import write_video
from kernels.labels import clip_labels
from kernels.labels.schema import NAMES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, frames in (("a/one.avi", 40), ("b/two 2.mp4", 24), ("b/three.mp4", 30)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texture = rng.integers(0, 256, (15, 20, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        codec = "mpeg4" if path.suffix == ".avi" else "libx264"
        write_video(path, (np.roll(texture, (t, 3 * t), axis=(0, 1)) for t in range(frames)), codec)
    return tmp_path / "in"


def expected(path: Path, start: int) -> np.ndarray:
    """The labels of the centre crop, without any pipeline."""
    frames, native = read_clip(path, range(start, start + 16), (128, 171))
    flow = np.moveaxis(fast_flow(frames, native), 1, -1)
    crop = (slice(None), slice(None), slice(8, 120), slice(29, 141))
    return clip_labels(frames[None][crop].copy(), flow[None][crop].copy())[0]


def test_every_clip_once_with_its_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b/short.avi").write_bytes((folder / "a/one.avi").read_bytes()[:3000])
    out = tmp_path / "labels.npz"
    # 12 clips in batches of 5: the last batch reaches into the second epoch.
    arguments = [str(folder), "--clips_per_video", "3", "--bs", "5", "--num_workers", "0"]
    assert main([*arguments, "--out", str(out)]) == 1
    assert "short.avi: " in capsys.readouterr().out
    file = np.load(out)
    assert list(zip(file["video"], file["start"], strict=True)) == [
        (video, start)
        for video, starts in (
            ("a/one.avi", (0, 12, 24)), ("b/three.mp4", (0, 7, 14)), ("b/two 2.mp4", (0, 4, 8))
        )
        for start in starts
    ]  # fmt: skip
    assert tuple(file["names"]) == NAMES
    for video, start, labels in zip(file["video"], file["start"], file["labels"], strict=True):
        assert labels.tolist() == expected(folder / video, start).tolist()
    assert json.loads(str(file["made"]))["flow"] == "tvl1-fast"


def test_parquet_holds_the_same(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("npz", "parquet"):
        out = ["--out", str(tmp_path / f"labels.{suffix}")]
        assert main([str(folder), "--num_workers", "0", *out]) == 0
    file = np.load(tmp_path / "labels.npz")
    rows = parquet.read_table(tmp_path / "labels.parquet")
    assert rows.column_names == ["video", "start", *NAMES]
    assert rows["video"].to_pylist() == file["video"].tolist()
    assert rows["start"].to_pylist() == file["start"].tolist()
    columns = [rows[name].to_numpy() for name in NAMES]
    assert np.array_equal(np.stack(columns, axis=1), file["labels"])
    assert rows.schema.metadata[b"made"].decode() == str(file["made"])


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, out, words in (
        ("none", "labels.npz", "no such folder"),
        (".", "labels.npz", "no video files"),
        (".", "labels.csv", ".parquet"),
    ):
        assert main([str(tmp_path / folder), "--out", str(tmp_path / out)]) == 2
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_numbers_devices_and_places_that_cannot_be(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for flags, words in (
        ("--device tpu", "device 'tpu' is none of cpu, cuda, cuda:N"),
        ("--device cuda:99999999999999999999", "is none of"),
        ("--device mps", "device mps is not there"),
        ("--bs 1000000000", "batches of 1000000000 clips under way take"),
        (f"--bs {10**30}", "GiB, the machine has"),
        ("--bs 0", "must be at least 1"),
        ("--num_workers 1000000", "num_workers lie in 0..1024"),
        (f"--stride {10**20}", "stride must lie in 1..4096"),
        (f"--clips_per_video {10**20}", "clips_per_video must lie in"),
        ("--size 1000000 --resize 1000000x1000000", "size must lie in 1..4096"),
        ("--clip_len -1", "at least 2 frames"),
        (f"--out {tmp_path / 'file' / 'a.npz'}", "file"),
        (f"--out {tmp_path / 'folder.npz'}", "is a folder"),
        ("--out /proc/a.npz", "/proc"),
    ):
        assert main([str(folder), "--out", str(tmp_path / "labels.npz"), *flags.split()]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("labels*"))


def test_a_disk_that_is_full_in_the_end_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main([str(folder), "--num_workers", "0", "--out", str(tmp_path / "labels.npz")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "[Errno 28] No space left on device"
    assert not list(tmp_path.glob("*labels*"))
