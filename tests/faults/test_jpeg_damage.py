"""Damage within the scan of a JPEG, where no marker is: how often it is noticed, and by what.

`python -m pytest -m battery -s tests/faults/test_jpeg_damage.py` prints what docs/faults.md says.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.decoding.jpeg import damage, image_name, read_image, read_image_strictly
from dali_pipes.loader import Skip
from dali_pipes.prepare.__main__ import main as prepare

Random = np.random.Generator


def _scan(data: bytes) -> tuple[int, int]:
    at = data.index(b"\xff\xda") + 2
    return at + int.from_bytes(data[at : at + 2], "big"), len(data) - 2


def one_byte(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    changed[random.integers(*_scan(data))] ^= random.integers(1, 256)
    return bytes(changed)


def one_in_500(data: bytes, random: Random) -> bytes:
    begin, end = _scan(data)
    changed = bytearray(data)
    for at in random.integers(begin, end, max(1, (end - begin) // 500)):
        changed[at] = random.integers(256)
    return bytes(changed)


def hole(data: bytes, random: Random) -> bytes:
    """4 KiB of zeros, as a sector that was not written; half of what is smaller."""
    begin, end = _scan(data)
    size = min(4096, (end - begin) // 2)
    at = random.integers(begin, end - size)
    return data[:at] + bytes(size) + data[at + size :]


KINDS = (one_byte, one_in_500, hole)


def noticed(
    images: list[bytes], kind: Callable[[bytes, Random], bytes], tries: int, folder: Path
) -> tuple[float, float, float]:
    """The shares that markers and libjpeg notice; how many pixels, unnoticed, are off by over 8."""
    random = np.random.default_rng(0)
    walked = warned = 0
    worst = 0.0
    path = folder / "a.jpg"
    for n in range(tries):
        data = images[n % len(images)]
        damaged = kind(data, random)
        path.write_bytes(damaged)
        walked += damage(damaged) is not None
        try:
            got = read_image_strictly(str(path))
        except ValueError:
            warned += 1
            continue
        right = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert right is not None
        off = np.abs(got.astype(int) - right).max(-1) > 8
        worst = max(worst, float(off.mean()))
    return walked / tries, warned / tries, worst


def texture(n: int) -> bytes:
    noise = np.random.default_rng(n).integers(0, 256, (240, 320, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 1.5))[1].tobytes()


def test_what_decoders_warn_of_is_damage(tmp_path: Path) -> None:
    images = [texture(n) for n in range(8)]
    for n, data in enumerate(images):
        (tmp_path / f"{n}.jpg").write_bytes(data)
        plain = read_image(str(tmp_path / f"{n}.jpg"))
        assert np.array_equal(read_image_strictly(str(tmp_path / f"{n}.jpg")), plain)
    for kind, least in ((one_in_500, 0.9), (hole, 0.8)):
        _, warned, _ = noticed(images, kind, 80, tmp_path)
        assert warned >= least


def test_reels_are_not_made_of_damaged_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "sound"):
        (tmp_path / "rgb" / "class" / name).mkdir(parents=True)
        for n in range(1, 21):
            (tmp_path / "rgb" / "class" / name / image_name(n)).write_bytes(texture(n))
    bad = tmp_path / "rgb" / "class" / "bad" / image_name(7)
    begin, end = _scan(bad.read_bytes())
    bad.write_bytes(bad.read_bytes()[: (begin + end) // 2] + b"\xff\xd9")
    assert damage(bad.read_bytes()) is None
    command = ["reels", "--from-frames", str(tmp_path / "rgb"), "--out", str(tmp_path / "reels")]
    assert prepare([*command, "--flow", "tvl1-fast"]) == 1
    out, err = capfd.readouterr()
    assert f"{bad}: decode: is damaged: libjpeg says: Corrupt JPEG data" in out + err
    assert "1 failed" in out + err


@pytest.mark.battery
def test_how_often_damage_of_real_images_is_noticed(real_data: Path, tmp_path: Path) -> None:
    for kind_of_image in ("rgb", "flow"):
        files = sorted((real_data / "frames" / kind_of_image).rglob("*.jpg"))[:400]
        images = [file.read_bytes() for file in files]
        for kind in KINDS:
            walked, warned, worst = noticed(images, kind, 1000, tmp_path)
            print(
                f"{kind_of_image}, {kind.__name__}: markers {walked:.1%}, libjpeg {warned:.1%}, "
                f"unnoticed at most {worst:.0%} of the pixels off"
            )
            assert warned >= (0.2 if kind is one_byte else 0.8)


def _changed(data: bytes, marker: int, offset: int, new: bytes) -> bytes:
    """With bytes after the first such marker replaced; offset 0 is the marker's second byte."""
    at = data.index(bytes([0xFF, marker])) + 1 + offset
    return data[:at] + new + data[at + len(new) :]


def _without(data: bytes, marker: int) -> bytes:
    """Without the segments of that kind before the scan."""
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if data[at + 1] == marker else data[at:end]
        at = end
    return kept + data[at:]


REFUSED = {
    "12 bit": lambda data: _changed(data, 0xC0, 3, b"\x0c"),
    "lossless": lambda data: _changed(data, 0xC0, 0, b"\xc3"),
    "two components": lambda data: _changed(data, 0xC0, 8, b"\x02"),
    "no quantisation": lambda data: _without(data, 0xDB),
    "another table": lambda data: _changed(data, 0xDB, 3, b"\x03"),
    "no size": lambda data: _changed(data, 0xC0, 4, bytes(4)),
    "no height": lambda data: _changed(data, 0xC0, 4, bytes(2)),
    "65500 x 65500": lambda data: _changed(data, 0xC0, 4, (65500).to_bytes(2, "big") * 2),
    "unknown marker": lambda data: _changed(data, 0xE0, 0, b"\x84"),
}


@pytest.mark.parametrize("real", [False, True])
def test_images_that_decoders_refuse_are_named(real: bool, tmp_path: Path, real_data: Path) -> None:
    """Their markers are sound, so that the decoder of the pipeline is the first to notice."""
    rgb = min((real_data / "frames/rgb").glob("*/*/frame000001.jpg"))
    grey = min((real_data / "frames/flow/u").glob("*/frame000001.jpg"))
    code = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(texture(0), np.uint8), 0))[1]
    good = (rgb.read_bytes(), grey.read_bytes()) if real else (texture(0), code.tobytes())
    kinds = [("rgb/c/{}", 0), ("u/{}", 1), ("v/{}", 1)]
    named = set()
    for n, name in enumerate(["sound", *REFUSED]):
        for folder, which in kinds:
            (tmp_path / folder.format(name)).mkdir(parents=True)
            for number in range(1, 17):
                file = tmp_path / folder.format(name) / image_name(number)
                file.write_bytes(good[which])
        if name in REFUSED:
            folder, which = kinds[n % 3]
            bad = tmp_path / folder.format(name) / image_name(7)
            bad.write_bytes(REFUSED[name](good[which]))
            named.add(str(bad))
    skipped: list[Skip] = []
    loader = ClipLoader(
        rgb_prefix=tmp_path / "rgb", flow_x_prefix=tmp_path / "u", flow_y_prefix=tmp_path / "v",
        batch_size=4, num_workers=1, device="cpu", resize=(48, 64), size=32, sampling="even",
        on_skip=skipped.append,
    )  # fmt: skip
    used = [loader.paths[video] for batch in loader for video in batch.video.tolist()]
    loader.close()
    assert {skip.path for skip in skipped} == named
    assert {Path(path).name for path in used} == {"sound"}
    for path in named:
        with pytest.raises(
            ValueError, match=r"no JPEG image that can be decoded|are taken at most"
        ):
            read_image(path)
