"""What was prepared of something that is another by now, or of which a part is missing."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.decoding.jpeg import read_image
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.reel import STEP
from dali_pipes.decoding.video import read_frames
from dali_pipes.prepare import flow, frames, work
from dali_pipes.prepare.encode import write_video
from dali_pipes.prepare.shards import Made
from dali_pipes.prepare.store import publish
from dali_pipes.sources import Reels
from tests.dali_pipes.prepare.conftest import Run
from tests.dali_pipes.prepare.test_layout import images, names, tree

AGAIN = "1 videos are made again"
BEFORE = "1 videos were done before"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting workers would take most of the time."""

    def outcomes(stage, items, *_: object):  # type: ignore[no-untyped-def]
        for item in items:
            yield item, work._attempt(stage, item)

    monkeypatch.setattr(work, "_outcomes", outcomes)


def small(path: Path, seed: int, count: int = 4) -> Path:
    """A video of a texture of its own that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texture = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8)
    write_video(path, (np.roll(texture, t, axis=1) for t in range(count)))
    return path


@pytest.fixture(params=["synthetic", "real"])
def three(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """Three videos that differ."""
    if request.param == "synthetic":
        return [small(tmp_path / f"given/{seed}.avi", seed) for seed in range(3)]
    real_data = request.getfixturevalue("real_data")
    return sorted(real_data.glob("videos/ApplyEyeMakeup/*.avi"))[:3]


def shows(folder: Path, video: Path) -> bool:
    """Whether the images of a folder are the frames of a video, as near as JPEG comes."""
    wanted = read_frames(str(video), range(3))
    found = np.stack([read_image(str(folder / name)) for name in names(3)])
    return np.abs(found.astype(int) - wanted).mean() < 12


def fresh_flow(prepare: Run, rgb: Path, place: Path) -> dict[str, bytes]:
    """The flow of frame folders, computed where nothing was before."""
    shutil.copytree(rgb, place / "rgb")
    prepare("flow", place)
    return contents(place / "flow")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in tree(folder)}


def test_a_video_that_was_replaced(prepare: Run, three: list[Path], tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    shutil.copy(three[0], videos / "a.avi")
    shutil.copy(three[1], videos / "b.avi")
    make = ("frames", videos, "--out", out, "--clip-frames", 3)
    assert prepare(*make)[0] == 1  # too short for a clip, which is said of the list
    assert "flow of 2 videos\n" in prepare("flow", out)[1]
    before = tree(out)

    os.utime(videos / "b.avi", (0, 0))  # only touched
    shutil.copy(three[2], videos / "a.avi")
    _, said = prepare(*make)
    assert f"frames: {BEFORE}\nframes: {AGAIN}" in said
    assert "frames of 2 videos\n" in said
    assert "flow of 1 videos was of other frames and is removed" in said
    assert shows(out / "rgb/a", three[2])
    assert not (out / "flow/u/a").exists()
    assert not (out / "flow/v/a").exists()
    after = tree(out)
    assert all(after[name] == before[name] for name in before if "/b/" in name)

    _, said = prepare("flow", out)
    assert f"flow: {BEFORE}" in said
    assert "flow of 2 videos\n" in said
    assert contents(out / "flow") == fresh_flow(prepare, out / "rgb", tmp_path / "fresh")

    shutil.rmtree(out / "rgb/a")  # by hand, and replaced
    shutil.copy(three[0], videos / "a.avi")
    prepare(*make)
    assert shows(out / "rgb/a", three[0])
    assert not (out / "flow/u/a").exists()
    assert "flow of 2 videos\n" in prepare("flow", out)[1]
    assert contents(out / "flow") == fresh_flow(prepare, out / "rgb", tmp_path / "again")
    done = tree(out)
    assert "2 videos were done before" in prepare(*make)[1]
    assert "2 videos were done before" in prepare("flow", out)[1]
    assert {k: v for k, v in tree(out).items() if k.endswith(".jpg")} == {
        k: v for k, v in done.items() if k.endswith(".jpg")
    }


def test_frames_that_were_replaced_by_hand(prepare: Run, tmp_path: Path) -> None:
    """Also within the same files, as cp writes them, and where new flow fails."""
    out = tmp_path / "out"
    for name, seed in (("in", 0), ("other", 1)):
        small(tmp_path / name / "a.mp4", seed)
        prepare("frames", tmp_path / name, "--out", tmp_path / f"out-{name}")
    shutil.copytree(tmp_path / "out-in/rgb", out / "rgb")
    prepare("flow", out)
    for image in (tmp_path / "out-other/rgb/a").iterdir():
        shutil.copyfile(image, out / "rgb/a" / image.name)
    _, said = prepare("flow", out)
    assert AGAIN in said
    assert contents(out / "flow") == fresh_flow(prepare, out / "rgb", tmp_path / "fresh")

    (out / "rgb/a/frame000003.jpg").write_bytes(b"damaged")
    status, said = prepare("flow", out)
    assert status == 1
    assert "frame000003.jpg is no JPEG image; the flow that was there is removed" in said
    assert tree(out / "flow") == {}


def test_a_video_replaced_by_a_bad_one_keeps_its_frames(prepare: Run, tmp_path: Path) -> None:
    video, out = small(tmp_path / "in/a.mp4", 0), tmp_path / "out"
    good = shutil.copy(video, tmp_path / "good.mp4")
    prepare("frames", tmp_path / "in", "--out", out)
    video.write_bytes(b"no video")
    status, said = prepare("frames", tmp_path / "in", "--out", out)
    assert status == 1
    assert f"{video}: decode: " in said
    assert (out / "train.list").read_text() == "\n"
    assert shows(out / "rgb/a", good)


def test_what_was_prepared_without_records_stands(prepare: Run, tmp_path: Path) -> None:
    """And from then on a change is noticed."""
    video, out = small(tmp_path / "in/a.mp4", 0), tmp_path / "out"
    make = ("frames", tmp_path / "in", "--out", out)
    prepare(*make)
    prepare("flow", out)
    shutil.rmtree(out / ".made")
    before = {name: time for name, time in tree(out).items() if name.endswith(".jpg")}
    for command in (make, ("flow", out)):
        assert BEFORE in prepare(*command)[1]
    after = tree(out)
    assert {name: after[name] for name in before} == before
    small(video, 1)
    assert AGAIN in prepare(*make)[1]
    assert shows(out / "rgb/a", video)


@pytest.mark.parametrize("legacy", [False, True])
def test_flow_is_done_only_if_both_sides_are_whole(
    prepare: Run, tmp_path: Path, legacy: bool
) -> None:
    """Whatever ended a run, and with records or without."""
    for name in "abcdef":
        small(tmp_path / f"in/{name}.mp4", ord(name))
    out = tmp_path / "out"
    prepare("frames", tmp_path / "in", "--out", out)
    prepare("flow", out)
    whole = contents(out / "flow")
    shutil.rmtree(out / "flow/u/a")
    shutil.rmtree(out / "flow/v/b")
    (out / "flow/u/c/frame000002.jpg").unlink()
    (out / "flow/v/d/frame000003.jpg").unlink()
    (out / "flow/v/e/frame000001.jpg").write_bytes(b"")  # as a power cut leaves it
    if legacy:
        shutil.rmtree(out / ".made")
    _, said = prepare("flow", out)
    assert BEFORE in said  # f
    assert "5 videos are made again" in said
    assert contents(out / "flow") == whole


def test_flow_that_was_begun_of_other_frames_is_not_continued(prepare: Run, tmp_path: Path) -> None:
    video, out = small(tmp_path / "in/a.mp4", 0), tmp_path / "out"
    make = ("frames", tmp_path / "in", "--out", out)
    prepare(*make)
    flow._write_flow(flow._missing(seen(out), None, 2)[0], "cpu")  # and then killed
    assert [list(chunk.pairs) for chunk in flow._missing(seen(out), None, 2)] == [[3]]
    small(video, 1)
    prepare(*make)
    assert [list(chunk.pairs) for chunk in flow._missing(seen(out), None, 2)] == [[1, 2], [3]]
    prepare("flow", out)
    assert contents(out / "flow") == fresh_flow(prepare, out / "rgb", tmp_path / "fresh")
    assert not (out / ".flow.part").exists()


def seen(out: Path) -> flow._Video:
    return flow._Video.look(str(out / "rgb/a"), "a", 0, None, out)


def test_what_changes_while_it_is_read_is_not_published(
    prepare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out = small(tmp_path / "in/a.mp4", 0), tmp_path / "out"
    other = small(tmp_path / "other.mp4", 1)
    job = frames._Job(str(video), 0, "a", out, None)
    original = frames.decoded_rgb

    def replaced_meanwhile(path: str):  # type: ignore[no-untyped-def]
        yield from original(path)
        shutil.copy(other, video)

    monkeypatch.setattr(frames, "decoded_rgb", replaced_meanwhile)
    with pytest.raises(BadVideo, match="changed while it was read"):
        frames._write_frames(job)
    assert not job.target.exists()
    monkeypatch.undo()

    frames._write_frames(job)
    begun = with_parts(out)
    (out / "rgb/a/frame000004.jpg").unlink()
    with pytest.raises(BadVideo, match="changed while its flow was made"):
        begun.publish()
    assert not (out / "flow").exists()


def with_parts(out: Path) -> flow._Video:
    """A video all of whose flow is computed, and not yet in its place."""
    video = seen(out)
    for chunk in flow._missing(video, None, 16):
        flow._write_flow(chunk, "cpu")
    return video


def test_who_comes_second_takes_nothing_away(tmp_path: Path) -> None:
    """Two that work on one video, on a file system where a lock keeps nobody out."""
    video, out = small(tmp_path / "a.mp4", 0), tmp_path / "out"
    frames._write_frames(frames._Job(str(video), 0, "a", out, None))
    first, second = with_parts(out), with_parts(out)
    first.publish()
    made = contents(out / "flow")
    assert len(made) == 6
    with pytest.raises(BadVideo, match="what was made of it is gone"):
        second.publish()
    with pytest.raises(FileNotFoundError):
        publish(first.parts[0], first.targets[0])
    assert contents(out / "flow") == made
    assert seen(out).is_done()


def die_at(step: int, work: Callable[..., object], *arguments: object) -> None:
    """Do it in this process, which ends as if killed when it renames for the `step`th time."""
    done = 0

    def counted(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(*names: object) -> None:
            nonlocal done
            if done == step:
                os._exit(9)
            done += 1
            rename(*names)

        return renamed

    os.rename, os.replace = counted(os.rename), counted(os.replace)  # type: ignore[assignment]
    work(*arguments)


def killed_at(step: int, work: Callable[..., object], *arguments: object) -> bool:
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=die_at, args=(step, work, *arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, 9)
    return process.exitcode == 9


def test_killed_while_old_frames_give_way_to_new(tmp_path: Path) -> None:
    old, new = small(tmp_path / "old.mp4", 0), small(tmp_path / "new.mp4", 1)
    step, killed = 0, True
    while killed:
        out, video = tmp_path / f"out{step}", tmp_path / f"{step}.mp4"
        shutil.copy(old, video)
        job = frames._Job(str(video), 0, "a", out, None)
        frames._write_frames(job)
        assert frames._frames_made(job) == 4
        shutil.copy(new, video)
        killed = killed_at(step, frames._write_frames, job)
        assert not frames._frames_made(job) or shows(job.target, new)
        frames._write_frames(job)
        assert frames._frames_made(job) == 4
        assert shows(job.target, new)
        step += 1
    assert step > 4  # a record, the old folder, the new one, the record again


def test_killed_while_old_flow_gives_way_to_new(tmp_path: Path) -> None:
    old, new = small(tmp_path / "old.mp4", 0), small(tmp_path / "new.mp4", 1)
    wanted: dict[str, bytes] = {}
    step, killed = 0, True
    while killed:
        out = tmp_path / f"out{step}"
        frames._write_frames(frames._Job(str(old), 0, "a", out, None))
        with_parts(out).publish()
        assert seen(out).is_done()
        shutil.rmtree(out / "rgb")
        (out / ".made/frames").rename(out / "moved")
        frames._write_frames(frames._Job(str(new), 0, "a", tmp_path / f"b{step}", None))
        (tmp_path / f"b{step}/rgb").rename(out / "rgb")  # by hand: old flow is there still
        killed = killed_at(step, flow._Video.publish, with_parts(out))
        now = contents(out / "flow")
        if seen(out).is_done():
            wanted = wanted or now
            assert now == wanted
        else:
            with_parts(out).publish()
        assert seen(out).is_done()
        wanted = wanted or contents(out / "flow")
        assert contents(out / "flow") == wanted
        step += 1
    assert step > 6  # a record, twice the old and the new folder, the record again


def test_only_images_are_replaced(prepare: Run, tmp_path: Path) -> None:
    video, out = small(tmp_path / "in/a.mp4", 0), tmp_path / "out"
    make = ("frames", tmp_path / "in", "--out", out)
    prepare(*make)
    notes = out / "rgb/a/notes.txt"
    notes.write_text("mine")
    assert BEFORE in prepare(*make)[1]
    small(video, 1)
    status, said = prepare(*make)
    assert status == 1
    assert f"{notes.parent}: write: holds notes.txt, which is no image of a video" in said
    assert notes.read_text() == "mine"
    notes.unlink()
    assert AGAIN in prepare(*make)[1]
    assert shows(out / "rgb/a", video)


def test_flow_that_another_program_made_is_not_removed(prepare: Run, tmp_path: Path) -> None:
    video, out = small(tmp_path / "in/a.mp4", 0), tmp_path / "out"
    good = shutil.copy(video, tmp_path / "good.mp4")
    make = ("frames", tmp_path / "in", "--out", out)
    prepare(*make)
    shutil.copytree(out / "rgb/a", out / "flow/u/a")
    small(video, 1)
    status, said = prepare(*make)
    assert status == 1
    assert f"{out}/flow/u/a: write: is flow of other frames; move it away" in said
    assert images(out / "flow/u/a") == names(4)
    assert shows(out / "rgb/a", good)


@pytest.mark.parametrize("first", ["x.mp4", "x/y/z.mp4"])
def test_frames_of_an_earlier_run_are_not_built_over(
    prepare: Run, tmp_path: Path, first: str
) -> None:
    """A video was moved to where its frames would lie among its own old ones, or over them."""
    out = tmp_path / "out"
    old = small(tmp_path / "in" / first, 0, 3)
    prepare("frames", tmp_path / "in", "--out", out)
    made = tree(out / "rgb")
    (second,) = {"x.mp4", "x/y/z.mp4"} - {first}
    shutil.copy(old, tmp_path / "moved.mp4")
    old.unlink()
    new = small(tmp_path / "in" / second, 1, 3)
    status, said = prepare("frames", tmp_path / "in", "--out", out)
    assert status == 1
    assert "move it away" in said
    assert f"{new}: write: {out}/rgb/x holds" in said or f"{out}/rgb/x: write: holds y" in said
    assert tree(out / "rgb") == made


SMALL = ("--flow", "tvl1-fast", "--resize", "24x32")


def reel_frames(reels: Path) -> dict[str, np.ndarray]:
    source = Reels.found(reels)
    return {
        os.path.relpath(path, reels): source.read_clip(item, range(3), None)[0]
        for item, path in enumerate(source.paths)
    }


def same_reels(a: Path, b: Path) -> bool:
    first, second = reel_frames(a), reel_frames(b)
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def without_origins(index: Path) -> None:
    """As written before there were any."""
    with np.load(index) as columns:
        kept = {name: columns[name] for name in columns if name != "origins"}
    np.savez(index, **kept)


def test_reels_of_a_video_that_was_replaced(
    prepare: Run, three: list[Path], tmp_path: Path
) -> None:
    videos, reels = tmp_path / "videos", tmp_path / "reels"
    videos.mkdir()
    shutil.copy(three[0], videos / "a.avi")
    shutil.copy(three[1], videos / "b.avi")
    make = ("reels", videos, *SMALL, "--out")
    assert prepare(*make, reels)[0] == 0
    without_origins(reels / "index.npz")
    os.utime(videos / "b.avi", (0, 0))
    assert "2 videos were done before" in prepare(*make, reels)[1]
    shutil.copy(three[2], videos / "a.avi")
    os.utime(videos / "b.avi", (9, 9))
    status, said = prepare(*make, reels)
    assert status == 0
    assert f"reels: {BEFORE}\nreels: {AGAIN}" in said
    assert prepare(*make, tmp_path / "fresh")[0] == 0
    assert same_reels(reels, tmp_path / "fresh")
    assert "2 videos were done before" in prepare(*make, reels)[1]
    assert same_reels(reels, tmp_path / "fresh")

    (reels / "index.npz").unlink()  # what the shards hold twice is not known from them
    assert f"reels: {BEFORE}" in prepare(*make, reels)[1]
    assert same_reels(reels, tmp_path / "fresh")
    assert prepare("check", reels, "--min-frames", 3)[0] == 0


def test_of_reels_that_killed_runs_noted_the_one_of_today_counts(
    prepare: Run, tmp_path: Path
) -> None:
    video, reels = small(tmp_path / "in/a.mp4", 0), tmp_path / "reels"
    make = ("reels", tmp_path / "in", *SMALL, "--out", reels)
    shards = []
    for seed in (0, 1):
        small(video, seed)
        prepare(*make)
        shards.append(noted(reels, "a.mp4"))
    for order in ("01", "10"):
        for name, line in zip(order, shards, strict=True):
            (reels / f".done-{name}.jsonl").write_text(line)
        (reels / "index.npz").unlink()
        assert BEFORE in prepare(*make)[1]
        assert noted(reels, "a.mp4") == shards[1]


def noted(reels: Path, name: str) -> str:
    """The line that a run noted of a video, made up again from the index."""
    source = Reels.found(reels)
    with np.load(reels / "index.npz") as columns:
        origin = columns["origins"].tobytes().decode().rstrip("\0")
    steps = np.array(source.steps(0), STEP)
    height, width = source.sizes[0].tolist()
    return Made(
        name, source.shards[0], (height, width), float(source.fps[0]), steps, origin
    ).to_line()


def test_reels_of_frame_folders_that_were_replaced(prepare: Run, tmp_path: Path) -> None:
    out, reels = tmp_path / "out", tmp_path / "reels"
    for name in "ab":
        small(tmp_path / f"in/{name}.mp4", ord(name))
    prepare("frames", tmp_path / "in", "--out", out)
    prepare("flow", out)
    folders = (out / "rgb", out / "flow/u", out / "flow/v")
    make = ("reels", "--from-frames", *folders, "--resize", "24x32", "--out")
    assert prepare(*make, reels)[0] == 0
    image = out / "flow/v/a/frame000002.jpg"
    image.write_bytes((out / "flow/v/b/frame000001.jpg").read_bytes())
    status, said = prepare(*make, reels)
    assert status == 0
    assert f"reels: {BEFORE}\nreels: {AGAIN}" in said
    prepare(*make, tmp_path / "fresh")
    flows = [Reels.found(folder).read_flow(0, range(3)) for folder in (reels, tmp_path / "fresh")]
    np.testing.assert_array_equal(*flows)


def test_a_record_says_what_it_is_of(prepare: Run, tmp_path: Path) -> None:
    """And one that is damaged counts for nothing."""
    small(tmp_path / "in/c/a.mp4", 0)
    make = ("frames", tmp_path / "in", "--out", tmp_path / "out")
    prepare(*make)
    (record,) = (tmp_path / "out/.made/frames").iterdir()
    found = json.loads(record.read_text())
    assert (found["name"], found["images"]) == ("c/a", 4)
    for damaged in ("", "{", "[]", '{"origin": "x"}', record.read_text()[:-5]):
        record.write_text(damaged)
        assert AGAIN in prepare(*make)[1]
        assert json.loads(record.read_text()) == found
    assert images(tmp_path / "out/rgb/c/a") == names(4)
