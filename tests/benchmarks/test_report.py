"""The report: measured on verified inputs only, complete, and the same in all its forms."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from benchmarks import __main__ as report
from benchmarks import (
    ceilings,
    gpu_stages,
    inputs,
    loaders,
    networks,
    page,
    reel_stages,
    stages,
    training,
)
from benchmarks.training import Step
from dali_pipes.decoding.video import read_frames
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Reels, Synthetic


@pytest.fixture(scope="session")
def prepared(few_samples: Path, bench: Path) -> Path:
    return inputs.in_published_layout(few_samples, bench)


@pytest.mark.usefixtures("traced_only", "few_reels", "prepared")
def test_a_run_leaves_the_same_figures_as_text_json_page_and_row(
    few_samples: Path,
    bench: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loaders, "BATCH", 2)
    monkeypatch.setattr(reel_stages, "CLIPS", 4)
    monkeypatch.setattr(report, "STAGE_CLIPS", 2)
    monkeypatch.setattr(ceilings, "SIDE", {"cpu": 256})
    monkeypatch.setattr(training, "SHOWN_STEPS", 2)
    tvl1_flow = stages.tvl1_flow
    monkeypatch.setattr(stages, "tvl1_flow", lambda frames: tvl1_flow(frames[:2]))
    made = set(bench.iterdir())
    arguments = ["--videos", str(few_samples), "--only", "stages", "loader", "training"]
    arguments += ["--width", "0.05", "--bs", "2", "--seconds", "0.01"]
    assert report.main([*arguments, "--out", str(bench), "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    reports = {bench / f"report.{form}" for form in ("txt", "json", "html")}
    assert set(bench.iterdir()) == made | reports  # nothing is made twice
    row = json.loads((tmp_path / "report.jsonl").read_text())
    content = json.loads((bench / "report.json").read_text())
    assert row["results"] == content["results"]
    by_stage = {one["stage"]: one for one in row["results"] if one["section"] == "stage"}
    path = {stages.DECODE, stages.RESIZE, stages.FLOW, "labels, corrected", "training step"}
    assert path | {reel_stages.READ, reel_stages.DECODE} <= set(by_stage)
    assert by_stage["training step"]["percent_of_ceiling"] > 0
    whole = {one["input"]: one for one in row["results"] if one["section"] == "loader"}
    assert set(whole) == {"videos", "JPEG folders", "reels"}
    assert whole["JPEG folders"]["flow"] == whole["reels"]["flow"] == "stored"
    for name, loader in whole.items():
        alone = by_stage[f"all, from {name}"]["us_per_clip"] / report.cores()
        assert loader["of_stages"] == pytest.approx(loader["us_per_clip"] / alone, rel=0.02)
    steps = [one for one in row["results"] if one["section"] == "training"]
    assert [one["loader"] for one in steps] == [
        "real batches",
        "real batches, reels",
        "cached batches",
    ]
    assert all(one["of_cached"] > 0 for one in steps[:2])
    assert 0 <= steps[0]["share_waiting"] <= 1
    ways = [one["network"] for one in row["results"] if "compile_seconds" in one]
    assert ways == [networks.COMPILED]
    for text in (printed, (bench / "report.txt").read_text(), (bench / "report.html").read_text()):
        assert "bottleneck: " in text
        assert str(by_stage["decode"]["us_per_clip"]) in text
    drawn = (bench / "report.html").read_text()
    assert drawn.count("<svg") == 3  # stages, time line, loaders
    assert not re.search(r"(src|href)=\W?(?!data:|#)\w", drawn)  # nothing to fetch


def test_a_stage_that_differs_from_the_loader_is_not_timed(
    few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = inputs.some_clips(few_samples, 3)
    stages.verify(clips)
    right = stages.resized

    def wrong(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return right(image, size) // 2 * 2

    monkeypatch.setattr(stages, "resized", wrong)
    with pytest.raises(SystemExit, match=r"frames of .*: the stages differ from the loader"):
        stages.verify(clips)


def test_stages_of_reels_that_differ_from_the_loader_are_not_timed(
    few_reels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reels = Reels.found(few_reels), inputs.some_clips(few_reels, 4)
    assert {True, False} == set(reels[1].batch.flip.tolist())
    assert reel_stages.from_reels(*reels)() == 4
    right = reel_stages.cut_flow
    monkeypatch.setattr(reel_stages, "cut_flow", lambda *a: right(*a) ^ 1)
    with pytest.raises(SystemExit, match=r"flow of .*: the stages differ from the loader"):
        reel_stages.from_reels(*reels)


def test_jpeg_decoders_must_show_what_opencv_shows(
    prepared: Path, few_reels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_reels = reel_stages.for_gpu(Reels.found(few_reels), inputs.some_clips(few_reels, 2))
    assert [len(kind) for kind in of_reels] == [32, 32]
    stages.jpeg_decoder(of_reels)()
    images = stages.read_images(inputs.some_image_paths(prepared, 2))
    assert [len(kind) for kind in images] == [32, 32, 32]
    stages.jpeg_decoder(images)()
    stages.jpeg_decoder(images, resize=True)()
    right = stages._decoded
    monkeypatch.setattr(stages, "_decoded", lambda *a: np.roll(right(*a), 3, axis=1))
    with pytest.raises(SystemExit, match="other pixels"):
        stages.jpeg_decoder(images)


def test_gpu_decoding_is_checked_frame_by_frame(tmp_path: Path) -> None:
    """On the CPU, for a codec that DALI decodes there."""
    moving, _ = Synthetic.make(1, frames=60, size=(160, 208)).read_clip(0, range(60), None)
    write_video(tmp_path / "a.webm", moving, "libvpx-vp9")
    clips = inputs.some_clips(tmp_path, 2)
    encoded = gpu_stages.examine(clips)
    decoded = gpu_stages.video_decoder([one for one in encoded if one], "cpu")()
    gpu_stages.verify(decoded, clips)
    late = dataclasses.replace(clips.batch, start=clips.batch.start + 1)
    with pytest.raises(SystemExit, match=r"a\.webm: frame \d+ where \d+ should be"):
        gpu_stages.verify(decoded, dataclasses.replace(clips, batch=late))

    native = [read_frames(tmp_path / "a.webm", range(16))] * 2
    (small,) = gpu_stages.resizer(native, "cpu")()
    wanted = stages.resize(native)[0][:, :112, :112].astype(int)
    assert np.abs(np.asarray(small.at(0)) - wanted).max() <= 1


def test_a_large_folder_is_measured_on_some_of_its_videos(
    few_samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inputs.few_videos(few_samples, tmp_path) == few_samples
    monkeypatch.setattr(inputs, "MOST_VIDEOS", 2)
    links = inputs.few_videos(few_samples, tmp_path)
    found = sorted(path.relative_to(links) for path in links.rglob("*.*"))
    assert [str(path.parent) for path in found] == ["left", "up"]  # spread over the classes
    assert inputs.few_videos(few_samples, tmp_path) == links


def test_a_folder_without_videos_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--videos", str(tmp_path), "--out", str(tmp_path / "out")]
    assert report.main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert str(tmp_path) in lines[0]


def test_the_page_draws_what_there_is() -> None:
    steps = [Step(0.0, 0.1, 0.5), Step(0.5, 0.55, 1.0)]
    sweep = [
        {"section": "growth", "what": "labels", "by": "batch", "at": n, "us_per_clip": 1.0}
        for n in (1, 2, 4)
    ]
    drawn = page.figures(sweep, steps)
    assert drawn.count("<svg") == 2
    assert "How speed grows" in drawn


def test_names_on_the_page_are_text() -> None:
    hostile = "<img src=x onerror=alert(1)>\udcff"
    drawn = page.page(hostile, hostile, [f"{hostile}\n", hostile], f"{hostile}\nx", Markup())
    assert "<img" not in drawn
    printed = r"&lt;img src=x onerror=alert(1)&gt;\xff"
    assert drawn.count(printed) == 2 + 1 + 2 + 1  # the title is a heading, too
    assert rf"<li>{printed}\n" in drawn
    assert f"\n{printed}\nx\n</pre>" in drawn


def test_ceilings_are_rates_and_distances_follow() -> None:
    columns = stages.of_ceiling(us_per_clip=1000, work=5_000, rate=10_000_000)
    assert columns == {"ceiling": 2000, "percent_of_ceiling": 50.0}
    assert stages.of_ceiling(1000, 0, 1e9) == {}
