"""The fault battery: every file is used frame for frame, or named once with its reason."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.loader import Skip
from dali_pipes.prepare.encode import write_video
from tests.faults.damage import Fault, faults, flipped, moving, pictures, truncated, write_battery

EPOCHS = 2
SMALL = {"clip_len": 16, "size": 112, "flip": False}


class Outcome(NamedTuple):
    """What became of the battery in two epochs."""

    folder: Path
    clips: dict[str, list[tuple[int, tuple[int, int], np.ndarray]]]  # (start, crop, frames)
    skips: list[Skip]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("battery")
    write_battery(folder)
    loader = ClipLoader(folder, batch_size=7, num_workers=2, **SMALL)
    clips = defaultdict(list)
    for _ in range(EPOCHS):
        for batch in loader:
            for n, video in enumerate(batch.video.tolist()):
                top, left = batch.crop[n].tolist()
                taken = (int(batch.start[n]), (top, left), batch.frames[n].numpy())
                clips[Path(loader.paths[video]).name].append(taken)
    loader.close()
    return Outcome(folder / "class", clips, loader.skipped)


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_used_or_named_once(outcome: Outcome, fault: Fault) -> None:
    reasons = [str(skip) for skip in outcome.skips if Path(skip.path).name == fault.name]
    clips = outcome.clips.get(fault.name, [])
    assert len(reasons) <= 1
    if fault.reason is None:
        assert not reasons
        # The stream is a little longer than two epochs: batches run across their ends.
        assert len(clips) in (EPOCHS, EPOCHS + 1)
    elif fault.noticed:
        assert not clips
        assert fault.reason in reasons[0]
    else:
        assert clips or reasons

    if clips:
        right = pictures(outcome.folder / fault.name)
        for start, (top, left), frames in clips:
            wanted = [
                image[top : top + 112, left : left + 112] for image in right[start : start + 16]
            ]
            np.testing.assert_array_equal(frames, np.stack(wanted))
            # The texture moves and brightens in every frame.
            assert (np.diff(frames.astype(int), axis=0) != 0).any(axis=(1, 2, 3)).all()
            assert frames.std(axis=(1, 2, 3)).min() > 5


def test_battery_is_what_it_says(outcome: Outcome) -> None:
    """Damage is real: a plain decoder does not see what was encoded, or reports an error."""
    noticed = Counter(Path(skip.path).suffix for skip in outcome.skips if "flipped" in skip.path)
    assert sum(noticed.values()) >= 10
    extra = {Path(skip.path).name for skip in outcome.skips} - {fault.name for fault in faults()}
    assert not extra


def test_train_goes_on_and_lists_each_bad_file_once(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for n in range(3):
        write_video(videos / f"good {n}.mp4", moving(frames=20, seed=n))
    (videos / "empty.mp4").touch()
    truncated("mp4", 0.5)(videos / "cut.mp4")
    flipped("avi", 0)(videos / "flipped.avi")

    def train(out: str, *flags: str) -> subprocess.CompletedProcess[str]:
        command = ["train.py", "--width", "0.05", "--size", "32", "--resize", "36x48", "--bs", "3"]
        folders = ["--log_dir", tmp_path / out, "--model_save_dir", tmp_path / out]
        return subprocess.run(
            [sys.executable, *command, "--videos", videos, *folders, *flags],
            capture_output=True,
            text=True,
        )

    done = train("a", "--steps", "4")
    assert done.returncode == 0, done.stderr
    (lines,) = (tmp_path / "a").rglob("skipped.jsonl")
    listed = [json.loads(line) for line in lines.read_text().splitlines()]
    assert Counter(Path(skip["path"]).name for skip in listed) == {
        "empty.mp4": 1,
        "cut.mp4": 1,
        "flipped.avi": 1,
    }
    assert all(skip["reason"] and skip["stage"] for skip in listed)
    for skip in listed:
        assert f"{skip['path']}: {skip['reason']}" in done.stdout

    stopped = train("b", "--steps", "4", "--on-bad-file", "stop")
    assert stopped.returncode == 2
    assert re.search(r"(empty|cut)\.mp4: open: invalid data", stopped.stderr)
    assert "Traceback" not in stopped.stderr


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Five videos of 18 frames with flow, in the published layout."""
    random = np.random.default_rng(0)
    for n in range(5):
        images = list(moving((96, 128), 18, seed=n))
        fields = random.integers(90, 160, (2, 17, 96, 128), np.uint8)
        folders = (f"rgb/class/v{n}", f"u/v{n}", f"v/v{n}")
        for folder, files in zip(folders, (images, *fields), strict=True):
            (tmp_path / folder).mkdir(parents=True)
            for number, image in enumerate(files, start=1):
                cv2.imwrite(str(tmp_path / folder / f"frame{number:06d}.jpg"), image)
    return tmp_path


def test_frame_folders(layout: Path) -> None:
    rgb, u, v = layout / "rgb" / "class", layout / "u", layout / "v"
    (rgb / "v0" / "frame000009.jpg").unlink()  # a gap: eight frames are left
    image = (rgb / "v1" / "frame000010.jpg").read_bytes()
    (rgb / "v1" / "frame000010.jpg").write_bytes(image[: len(image) // 2])
    (v / "v2" / "frame000003.jpg").write_text("no image")
    for file in (v / "v3").iterdir():
        file.unlink()
    for folder in (u / "v4", v / "v4"):  # another size than the frames: resized as they are
        for file in folder.iterdir():
            half = cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (64, 48))
            cv2.imwrite(str(file), half)

    loader = ClipLoader(
        rgb_prefix=layout / "rgb", flow_x_prefix=u, flow_y_prefix=v, batch_size=3, num_workers=1
    )
    used = {loader.paths[v] for _ in range(6) for v in loader.next_batch().video.tolist()}
    loader.close()
    assert {Path(path).name for path in used} - {"v1", "v2"} == {"v4"}
    reasons = {str(Path(s.path).relative_to(layout)): s.reason for s in loader.skipped}
    assert len(reasons) == len(loader.skipped)
    assert reasons.pop("rgb/class/v0") == "has 8 frames, a clip needs 16"
    assert "v3" in reasons.pop("rgb/class/v3")
    # Each is in some of the possible clips only; six batches have met it.
    assert reasons == {
        "rgb/class/v1/frame000010.jpg": "is cut off",
        "v/v2/frame000003.jpg": "is no JPEG image",
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("class/v0 9 0", "has 18 frames, the listed clip needs 9 to 24"),
        ("class/missing 1 0", "no such file or directory"),
        ("class/v0 0 0", "line 1: start frames count from 1, got 0"),
        ("../secret 1 0", "line 1: ../secret is not inside"),
    ],
)
def test_lists_with_wrong_counts_and_paths(layout: Path, line: str, words: str) -> None:
    (layout / "bad.list").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="(?s)" + re.escape(words)):
        ClipLoader(
            rgb_prefix=layout / "rgb",
            flow_x_prefix=layout / "u",
            flow_y_prefix=layout / "v",
            data_list=layout / "bad.list",
        )
