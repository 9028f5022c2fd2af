"""CPU flow against known motion, and the choice of a source."""

import argparse

import cv2
import numpy as np
import pytest

from dali_pipes.flow import add_flow_argument, fast_flow, flow_size, resolve_flow, tvl1_flow
from kernels.flow.code import decode


def moving(u: int, v: int, frames: int = 3, size: tuple[int, int] = (128, 171)) -> np.ndarray:
    """A texture that moves by (u, v) px a frame -> [T,h,w,3]."""
    noise = np.random.default_rng(3).integers(0, 256, (size[0] + 64, size[1] + 64), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    crops = [
        texture[32 - v * t : 32 - v * t + size[0], 32 - u * t : 32 - u * t + size[1]]
        for t in range(frames)
    ]
    return np.repeat(np.stack(crops)[..., None], 3, axis=-1)


@pytest.mark.parametrize(("u", "v"), [(3, 0), (0, -4), (-3, 4), (0, 0)])
def test_fast_flow_finds_motion_in_native_pixels(u: int, v: int) -> None:
    native = (256, 342)  # twice the resized frames
    coded = fast_flow(moving(u, v), native)
    assert coded.shape == (2, 2, 128, 171)  # pairs, u above v
    assert coded.dtype == np.uint8
    found = decode(coded)[:, :, 16:-16, 16:-16]
    assert np.abs(found - np.reshape([2 * u, 2 * v], (2, 1, 1))).mean() < 0.5


def test_flow_is_measured_in_pixels_of_at_most_256_lines() -> None:
    assert flow_size((240, 320)) == (240, 320)
    assert flow_size((1080, 1920)) == (256, 455)
    assert flow_size((1920, 1080)) == (455, 256)
    small, large = (fast_flow(moving(2, 1), size) for size in ((256, 342), (2048, 2736)))
    assert np.array_equal(small, large)


def test_tvl1_finds_motion() -> None:
    found = tvl1_flow(moving(2, -1, 2, (64, 80)))
    assert found.shape == (1, 64, 80, 2)
    assert found.dtype == np.float32
    assert np.abs(found[:, 8:-8, 8:-8] - [2, -1]).mean() < 0.5


@pytest.mark.parametrize(
    ("choice", "device", "stored", "name", "words"),
    [
        ("auto", "cpu", True, "stored", "images are given"),
        ("auto", "cuda", True, "stored", "images are given"),
        ("auto", "cpu", False, "tvl1-fast", "70 %"),
        ("auto", "cuda", False, "tvl1", "96 %"),
        ("tvl1-fast", "cuda", False, "tvl1-fast", "asked for"),
        ("nvof", "cuda", False, "nvof", "84 %"),
    ],
)
def test_choice(choice: str, device: str, stored: bool, name: str, words: str) -> None:
    chosen, reason = resolve_flow(choice, device, stored)
    assert chosen == name
    assert words in reason


@pytest.mark.parametrize(
    ("choice", "device", "stored", "words"),
    [
        ("farneback", "cpu", False, "auto, stored"),
        ("stored", "cpu", False, "flow_x_prefix"),
        ("tvl1", "cpu", False, "prepare reels"),
        ("dis", "cpu", False, "'tvl1-fast' takes about half its time"),
        ("nvof", "cpu", False, "tvl1-fast"),
        ("tvl1", "cuda", True, "flow images are given"),
    ],
)
def test_impossible_choices_name_the_remedy(
    choice: str, device: str, stored: bool, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_flow(choice, device, stored)


def test_what_is_gone_names_its_successor(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_flow_argument(parser)
    assert parser.parse_args([]).flow == "auto"
    with pytest.raises(SystemExit):
        parser.parse_args(["--flow", "dis"])
    assert "'dis' is no more; 'tvl1-fast' takes" in capsys.readouterr().err
