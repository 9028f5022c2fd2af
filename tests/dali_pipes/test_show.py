"""The picture of a labelled clip shows the labels it was given."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes import show
from dali_pipes.drawing import page
from dali_pipes.drawing.panels import motion_boundaries
from dali_pipes.drawing.picture import clip_picture
from dali_pipes.prepare.samples import write_sample
from kernels.flow.code import encode
from kernels.labels import clip_labels
from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import INDEX, LABELS
from kernels.labels.words import octant_rgb, value_words


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square that moves right over noise: frames, coded flow, labels."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (1, 112, 112, 3), np.uint8), 16, axis=0)
    flow = np.zeros((15, 112, 112, 2), np.float32)
    for t in range(16):
        frames[t, 30:50, 20 + 4 * t : 40 + 4 * t] = (200, 40, 40)
        if t < 15:
            flow[t, 30:50, 20 + 4 * t : 40 + 4 * t, 0] = 4 + 0.2 * t
    coded = encode(flow)
    return frames, coded, clip_labels(frames[None], coded[None])[0]


def changed(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what differs between two pictures of one size."""
    y, x = np.nonzero((before != after).any(axis=-1))
    return x.min(), y.min(), x.max(), y.max()


def panel(row: int, column: int, height: int) -> tuple[int, int]:
    """The middle (x, y) of a pattern's panel."""
    step = page.PANEL + page.GAP
    left = page.MARGIN + page.GUTTER
    bottom = height - 34 - 3 * step
    return left + column * step + page.PANEL // 2, bottom + row * step + page.PANEL // 2


def test_every_label_is_drawn_where_it_belongs(clip) -> None:
    frames, flow, labels = clip
    picture = clip_picture(frames, flow, labels)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (page.WIDTH, 3)
    for name in ("u1p", "u3o", "v2p", "1dp", "2cc"):
        label = LABELS[INDEX[name]]
        other = labels.copy()
        other[INDEX[name]] = other[INDEX[name]] % label.classes() + 1
        left, top, right, bottom = changed(picture, clip_picture(frames, flow, other))
        row = "uv".index(name[0]) if label.family == "motion" else 2
        x, y = panel(row, label.pattern - 1, len(picture))
        # The panel changed and the words to its right, and no other row.
        assert x - page.PANEL / 2 - 9 < left < x + page.PANEL / 2
        assert right > panel(row, 3, len(picture))[0] - page.PANEL / 2
        assert y - page.PANEL / 2 - 9 < top < bottom < y + page.PANEL / 2 + 9


def test_prediction_is_drawn_only_where_there_is_one(clip) -> None:
    frames, flow, labels = clip
    none, right = (
        clip_picture(frames, flow, labels, predicted=predicted)
        for predicted in (np.zeros(27, np.int64), labels)
    )
    wrong = labels.copy()
    wrong[INDEX["u1p"]] = labels[INDEX["u1p"]] % 16 + 1
    pink = np.array([255, 79, 216])

    def pink_in_panels(picture: np.ndarray) -> int:
        x, _ = panel(0, 3, len(picture))
        return int((picture[:, : x - page.PANEL // 2] == pink).all(axis=-1).sum())

    assert pink_in_panels(none) == pink_in_panels(right) == 0
    assert pink_in_panels(clip_picture(frames, flow, labels, predicted=wrong)) > 20


def test_boundaries_drawn_are_those_the_labels_come_from(clip) -> None:
    _, flow, labels = clip
    for component in "uv":
        strength = motion_boundaries(flow, component)
        blocks = PATTERN_SLICES[0]
        sums = [strength[partition(112).mask(b)].sum() for b in range(blocks.start, blocks.stop)]
        assert int(np.argmax(sums)) + 1 == labels[INDEX[f"{component}1p"]]


def test_colour_words_and_swatches_match_the_labels(clip) -> None:
    _, flow, _ = clip
    named = {
        "dark": (0, 0, 0),
        "light": (1, 1, 1),
        "red": (1, 0, 0),
        "green": (0, 1, 0),
        "blue": (0, 0, 1),
        "cyan": (0, 1, 1),
        "magenta": (1, 0, 1),
        "yellow": (1, 1, 0),
    }
    for word, bits in named.items():
        frames = np.full((1, 16, 112, 112, 3), 255, np.uint8) * np.array(bits, np.uint8)
        value = int(clip_labels(frames, flow[None])[0, INDEX["gc"]])
        assert value_words("gc", value) == word
        assert tuple(round(channel) for channel in octant_rgb(value)) == bits


def test_orientation_words_match_the_labels() -> None:
    y, x = np.mgrid[:112, :112].astype(np.float32) / 16
    for words, ramp in {"→ right": x, "↙ down left": y - x, "↑ up": -y}.items():
        flow = np.stack([np.zeros_like(ramp), ramp], axis=-1)  # v grows that way
        frames = np.zeros((1, 16, 112, 112, 3), np.uint8)
        values = clip_labels(frames, np.broadcast_to(flow, (1, 15, *flow.shape)).copy())[0]
        assert value_words("v1o", int(values[INDEX["v1o"]])) == f"grows {words}"


def test_block_words_say_where_the_block_lies() -> None:
    for name, pattern in (("u1p", 0), ("u3p", 2)):
        for value in range(1, LABELS[INDEX[name]].classes() + 1):
            mask = partition(112).mask(PATTERN_SLICES[pattern].start + value - 1)
            y, x = (np.mean(axis) / 112 - 0.5 for axis in np.nonzero(mask))
            words = value_words(name, value)
            if pattern == 0:
                assert words == f"row {int(4 * (y + 0.5)) + 1}, column {int(4 * (x + 0.5)) + 1}"
            elif abs(x) > abs(y):
                assert words == f"{'left' if x < 0 else 'right'}, {_above(y)} middle"
            else:
                side = "left" if x < 0 else "right"
                assert words == f"{'top' if y < 0 else 'bottom'}, {side} of middle"
    with pytest.raises(ValueError, match=r"u1p lies in 1\.\.16, got 17"):
        value_words("u1p", 17)


def _above(y: float) -> str:
    return "above" if y < 0 else "below"


def test_clip_without_motion_under_the_reference_rule() -> None:
    frames, flow = np.zeros((1, 16, 112, 112, 3), np.uint8), np.full((1, 16, 112, 112, 2), 128)
    labels = clip_labels(frames, flow.astype(np.uint8), "reference")
    assert labels[0, INDEX["u1p"]] == 0
    clip_picture(frames[0], flow[0].astype(np.uint8), labels[0], "reference")


def test_command(tmp_path: Path, capsys) -> None:
    video, out = tmp_path / "up.mp4", tmp_path / "up.png"
    write_sample(video, "up", 0, "train", 0)
    assert show.main([str(video), "--start", "20", "--out", str(out)]) == 0
    assert cv2.imread(str(out)).shape[1] == page.WIDTH
    assert show.main([str(video), "--start", "900", "--out", str(out)]) == 2
    assert f"{video}: decode: has" in capsys.readouterr().err
    for start in (2**63, 10**30, -1):
        assert show.main([str(video), "--start", str(start), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"no clip of 16 begins at {start}" in error
        assert error.count("\n") == 1
    assert show.main([str(tmp_path / "none.mp4")]) == 2
    assert "none.mp4" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path, capsys) -> None:
    video = tmp_path / "up.mp4"
    write_sample(video, "up", 0, "train", 0)
    (tmp_path / "folder.png").mkdir()
    for out, words in (
        ("picture.tiffany", "must end in .png"),
        ("picture", "must end in .png"),
        ("up.mp4/picture.png", "up.mp4"),
        ("folder.png", "folder.png"),
    ):
        flags = ["--flow", "tvl1-fast", "--out", str(tmp_path / out)]
        assert show.main([str(video), *flags]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert err.count("\n") == 1
    new = tmp_path / "new" / "picture.jpg"
    assert show.main([str(video), "--flow", "tvl1-fast", "--out", str(new)]) == 0
    assert cv2.imread(str(new)).shape[1] == page.WIDTH
