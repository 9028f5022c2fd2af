"""The sample videos move as their class says, and nothing but the motion tells the class."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dali_pipes.prepare.__main__ import main
from dali_pipes.prepare.samples import HEIGHT, MOTIONS, WIDTH, render, write_sample


def measured_motion(motion: str, number: int) -> np.ndarray:
    """(u, v, divergence, curl) of what moves against the background, by OpenCV's DIS flow."""
    frames = list(render(motion, number))
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = []
    for t in range(2, len(gray) - 1, 8):
        flow = dis.calc(gray[t], gray[t + 1], None)
        flow -= np.median(flow, axis=(0, 1))  # the background's drift
        moving = np.hypot(*flow.transpose(2, 0, 1)) > 0.5
        (du_dy, du_dx), (dv_dy, dv_dx) = (np.gradient(flow[..., i]) for i in (0, 1))
        field = np.stack([flow[..., 0], flow[..., 1], du_dx + dv_dy, dv_dx - du_dy], axis=-1)
        if moving.any():
            found.append(np.median(field[moving], axis=0))
    return np.median(found, axis=0)


@pytest.mark.parametrize("motion", MOTIONS)
def test_videos_move_as_their_class_says(motion: str) -> None:
    u, v, divergence, curl = np.median([measured_motion(motion, i) for i in range(3)], axis=0)
    right, down, outwards, clockwise = MOTIONS[motion]
    if right or down:
        assert np.hypot(u - 2.5 * right, v - 2.5 * down) < 1.5  # speeds lie about 1 to 6 px
    else:
        assert np.hypot(u, v) < 1
        wanted, other = (divergence, curl) if outwards else (curl, divergence)
        assert wanted * (outwards or clockwise) > max(0.01, 2 * abs(other))


def test_same_arguments_same_frames() -> None:
    first, again = (next(render("up", 3, "train", 5)) for _ in range(2))
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert (first == again).all()
    for other in [("up", 4, "train", 5), ("up", 3, "test", 5), ("up", 3, "train", 6)]:
        assert (next(render(*other)) != first).mean() > 0.5


def test_faster_shapes_look_alike_and_go_further() -> None:
    slow, fast = (list(render("right", 3, speed=speed)) for speed in (1, 2.5))
    assert (slow[0] != fast[0]).mean() < 0.5  # places differ by the first frame's step
    gray = [[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames[20:22]] for frames in (slow, fast)]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    u = [dis.calc(*pair, None)[..., 0] for pair in gray]
    u = [np.median(of[of > 0.8]) for of in u]
    assert u[1] / u[0] == pytest.approx(2.5, rel=0.3)


def test_splits_share_no_hue() -> None:
    def hues(split: str) -> np.ndarray:  # of clearly coloured pixels, in steps of 60 degrees
        total = np.zeros(6)
        for number in range(6):
            hsv = cv2.cvtColor(next(render("left", number, split)), cv2.COLOR_RGB2HSV_FULL)
            vivid = hsv[(hsv[..., 1] > 80) & (hsv[..., 2] > 80)]
            total += np.bincount(vivid[:, 0].astype(int) * 6 // 256, minlength=6)
        return total / total.sum()

    # Colours between two of a palette can have a hue of neither.
    assert hues("train")[::2].sum() > 0.6
    assert hues("test")[1::2].sum() > 0.6


def test_command_writes_both_codecs_with_b_frames(tmp_path: Path, capsys) -> None:
    out = tmp_path / "samples"
    command = ["samples", "--out", str(out), "--videos-per-class", "2", "--split", "test"]
    mine = tmp_path / "samples.unfinished" / "mine"
    mine.parent.mkdir()
    mine.touch()
    assert main(command) == 0
    assert mine.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples", "samples.unfinished"]
    assert sorted(folder.name for folder in out.iterdir()) == sorted(MOTIONS)
    for path, codec in [(out / "up" / "up_000.mp4", "h264"), (out / "up" / "up_001.avi", "mpeg4")]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == (codec, 320, 240)
            decoded = list(container.decode(stream))
        assert any(frame.pict_type == av.video.frame.PictureType.B for frame in decoded)
        picture = decoded[0].to_ndarray(format="rgb24").astype(int)
        rendered = next(render("up", int(path.stem[-1]), "test"))
        assert np.abs(picture - rendered).mean() < 8
        again = tmp_path / path.name
        write_sample(again, "up", int(path.stem[-1]), "test", seed=0)
        assert again.read_bytes() == path.read_bytes()
    assert main(command) == 2  # never writes over what is there
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--height=121", "--height=18", "--speed=0", "--speed=nan", "--videos-per-class=0"]
)
def test_bad_flags_are_one_line(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["samples", "--out", str(tmp_path / "samples"), flag]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flag.partition("=")[0] in line
    assert not any(tmp_path.iterdir())
