"""Long lists and long runs: memory stays flat, start-up reads nothing that it need not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.clips import clip_at
from dali_pipes.decoding.reel import STEP
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources.reel_index import Columns, write
from tests.faults.damage import moving

SMALL = {"clip_len": 8, "size": 32, "resize": (36, 48)}
MIB = 2**20


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for n in range(8):
        write_video(folder / f"{n}.mp4", moving((48, 64), 20, seed=n))
    (folder / "bad.mp4").write_text("no video")
    return folder


def resident(pid: int) -> int:
    """Bytes of memory that a process has to itself or shares with files."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("batches", [300, pytest.param(2000, marks=pytest.mark.soak)])
def test_memory_is_flat(videos: Path, batches: int) -> None:
    loader = ClipLoader(videos, batch_size=4, num_workers=1, **SMALL)

    def run(count: int) -> int:
        for _ in range(count):
            loader.next_batch()
        own = os.getpid()
        workers = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return sum(resident(int(pid)) for pid in [own, *workers])

    run(batches // 3)  # caches and pools fill
    before = run(1)
    after = run(batches - batches // 3 - 1)
    loader.close()
    assert after - before < 24 * MIB


SCRIPT = """
import sys, time
from pathlib import Path
began = time.monotonic()
from dali_pipes import ClipLoader
loader = ClipLoader(data_list=sys.argv[1], batch_size=4, num_workers=2,
                    clip_len=8, size=32, resize=(36, 48))
print(time.monotonic() - began)
loader.next_batch()
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)  # of this program: rusage has its parent's
print(sum(len(loader.next_batch()) for _ in range(3)))
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("length", [20_000, pytest.param(240_000, marks=pytest.mark.soak)])
def test_long_lists(videos: Path, tmp_path: Path, length: int) -> None:
    """Nothing is decoded at the start, and a rank stays below 1 GiB before its first batch."""
    names = []
    for n in range(length):
        folder = tmp_path / f"c{n // 1000}"
        if n % 1000 == 0:
            folder.mkdir()
        (folder / f"v{n}.mp4").symlink_to(videos / f"{n % 8}.mp4")
        names.append(f"c{n // 1000}/v{n}.mp4 1 {n // 1000}")
    data_list = tmp_path / "train.list"
    data_list.write_text("\n".join(names))
    for _ in ("first time", "again"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, data_list], capture_output=True, text=True, check=True
        )
        seconds, memory, clips = map(float, done.stdout.split())
        print(f"{length} videos: start-up {seconds:.1f} s, {memory / MIB:.0f} MiB")
        assert memory < 1024 * MIB
        assert clips == 12
        if length == 240_000:  # on two cores; a soak test runs by itself
            assert seconds < 20


@pytest.mark.parametrize("ranks", [[1], [2], [4], [3, 5, 2]])
def test_every_clip_once_whatever_the_number_of_ranks(videos: Path, ranks: list[int]) -> None:
    """Two epochs, the number of ranks changing on the way, a bad file among the good."""
    arguments = {"num_workers": 0, "batch_size": 2, "seed": 5, **SMALL}
    state, seen = None, []
    for count in ranks:
        loaders = [ClipLoader(videos, rank=r, world_size=count, **arguments) for r in range(count)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
            for _ in range(-(-18 // (2 * count * len(ranks)))):
                batch = loader.next_batch()
                crops = [tuple(crop) for crop in batch.crop.tolist()]
                seen += zip(batch.video.tolist(), crops, batch.flip.tolist(), strict=True)
        state = loaders[0].state_dict()
        assert all(loader.state_dict() == state for loader in loaders)
        bad = [Path(path).name for path in loaders[0].paths].index("bad.mp4")
        spec = loaders[0].spec
    assert state["consumed"] >= 18
    stream = [clip_at(i, 9, spec) for i in range(state["consumed"])]
    wanted = [(clip.video, clip.crop, clip.flip) for clip in stream if clip.video != bad]
    assert sorted(seen) == sorted(wanted)


REELS = """
import sys, time
from pathlib import Path
from dali_pipes import ClipLoader

def resident(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name)[1].split()[0]) * 1024

before, began = resident("VmRSS:"), time.monotonic()
loader = ClipLoader(reels=sys.argv[1], num_workers=0, device="cpu")
print(time.monotonic() - began, resident("VmHWM:") - before, len(loader.paths))
"""


@pytest.mark.parametrize("length", [20_000, pytest.param(240_000, marks=pytest.mark.soak)])
def test_opening_many_reels(tmp_path: Path, length: int) -> None:
    """The table of steps, 1.2 GB for 240,000 videos of 300 frames, is not read."""
    names = sorted(f"class {n % 400:03d}/a_video_of_this_name_{n:06d}.mp4" for n in range(length))
    shards = [f"reels-0000-{n:05d}.tar" for n in range(length // 250)]
    for shard in shards:
        (tmp_path / shard).touch()
    places = np.arange(length, dtype=np.int32) % len(shards)
    columns = Columns(
        names, shards, places, np.full(length, 300, np.int32),
        np.full((length, 2), 240, np.int32), np.full(length, 25, np.float32),
    )  # fmt: skip
    write(tmp_path / "index.npz", columns, [np.zeros(301 * length, STEP)], [""] * length)
    made = {"format": 1, "resize": [128, 171], "flow": "tvl1", "flow_computed_by": "CPU"}
    (tmp_path / "reels.json").write_text(json.dumps(made | {"jpeg_quality": 95}))
    done = subprocess.run(
        [sys.executable, "-c", REELS, tmp_path], capture_output=True, text=True, check=True
    )
    seconds, memory, found = map(float, done.stdout.split())
    print(f"{length} reels: {seconds:.1f} s, {memory / MIB:.0f} MiB")
    assert found == length
    assert memory < 300 * MIB
    if length == 240_000:  # on two cores; a soak test runs by itself
        assert seconds < 5
