"""Reels in an object store that fails: no clip is lost, doubled or wrong, and nothing hangs."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from dali_pipes import ClipLoader
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.prepare import shards
from dali_pipes.prepare.__main__ import main as prepare
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Reels
from kernels.cache import cache_folder
from tests.faults import audit
from tests.faults.damage import moving
from tests.object_store import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    Fault,
    FaultyProxy,
    ObjectStore,
    Request,
    always,
    at_random,
)

ROOT = Path(__file__).parents[2]
VIDEOS = 9
SHARD = "reels-0000-00001.tar"  # of one of them
PASSING = [
    Fault("status", status=500),
    Fault("status", status=503),
    Fault("status", status=429),
    Fault("reset"),
    Fault("truncate"),
    Fault("refuse"),
    Fault("delay", seconds=0.05),
]

Noted = list[tuple[int, str, int, str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reels of nine small videos, each in a shard of its own."""
    folder = tmp_path_factory.mktemp("made")
    for seed in range(VIDEOS):
        path = folder / f"videos/class/{seed}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving((48, 64), 40, seed))
    flags = ["--flow", "tvl1-fast", "--resize", "24x32", "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 1)
        assert prepare(["reels", str(folder / "videos"), "--out", f"{folder}/reels", *flags]) == 0
    return folder / "reels"


@pytest.fixture
def address(local: Path, object_store: ObjectStore, faulty: FaultyProxy) -> str:
    return object_store.upload(local)


def loader(reels: Path | str, **more: Any) -> ClipLoader:
    given = {"reels": reels, "batch_size": 3, "num_workers": 0, **audit.CLIPS, **more}
    return ClipLoader(**given)


def epochs(reels: Path | str, count: int, **more: Any) -> tuple[Noted, list[str]]:
    """Every clip of some epochs, and which videos were left out and why."""
    found: Noted = []
    with closing(loader(reels, **more)) as clips:
        while clips.epoch < count:
            found += audit.clips(clips)
        return found, [str(skip) for skip in clips.skipped]


class closing:  # as contextlib's, for loaders
    def __init__(self, clips: ClipLoader) -> None:
        self.clips = clips

    def __enter__(self) -> ClipLoader:
        return self.clips

    def __exit__(self, *_: object) -> None:
        self.clips.close()


class ThreeTimes:
    """Each range that is asked for fails three times; no byte comes wrong more than once."""

    def __init__(self) -> None:
        self._wrong: list[tuple[str, int, int]] = []

    def __call__(self, request: Request) -> Fault | None:
        turn = request.attempt % 4
        draw = random.Random(f"{request.name} {request.range} {request.attempt}")
        if turn == 3:
            return None
        if turn == 1 and self._is_first(request):
            return Fault("corrupt")
        if turn == 0 and draw.random() < 0.02:
            return Fault("hang", seconds=60)
        return draw.choice(PASSING)

    def _is_first(self, request: Request) -> bool:
        assert request.range is not None
        first, last = map(int, request.range.removeprefix("bytes=").split("-"))
        key = request.path
        if any(one == key and first <= end and begin <= last for one, begin, end in self._wrong):
            return False
        self._wrong.append((key, first, last))
        return True


def until_it_ends(clips: ClipLoader) -> None:
    while True:
        audit.clips(clips)


def test_500_faults_change_no_loss(
    local: Path, address: str, faulty: FaultyProxy, tmp_path: Path
) -> None:
    def losses(reels: Path | str, *flags: str) -> list[float]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        small = "--width 0.05 --clip_len 8 --size 24 --resize 24x32 --precision float32 --bs 4"
        folders = ["--log_dir", f"{out}/logs", "--model_save_dir", f"{out}/saved"]
        command = ["--reels", str(reels), *small.split(), *folders, "--device", "cpu", *flags]
        assert train.main(command) == 0
        (events,) = (out / "logs").iterdir()
        assert (events / "skipped.jsonl").read_text() == ""
        read = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
        return [event.value for event in read.Scalars("mse_loss")]

    steps = ["--steps", "60", "--num_workers", "2", "--fetch-ahead", "4"]
    faulty.schedule = ThreeTimes()
    remote = losses(address, *steps, "--stall-seconds", "40")
    assert sum(faulty.injected.values()) >= 500
    assert min(faulty.injected[kind] for kind in ("corrupt", "reset", "truncate", "hang")) > 0
    assert remote == losses(local, *steps)


def test_every_clip_once_an_epoch_whatever_fails(
    local: Path, address: str, faulty: FaultyProxy, tmp_path: Path
) -> None:
    faulty.schedule = ThreeTimes()
    truth, _ = epochs(local, 3)
    cached: dict[str, Any] = {"cache": tmp_path / "cache", "stall_seconds": 16}
    for more in (cached, cached | {"cache_size": 50_000, "num_workers": 2}):
        faulty.clear()
        faulty.schedule = ThreeTimes()
        found, skipped = epochs(address, 3, **more)
        assert skipped == []
        assert found == truth
    for epoch in range(3):
        videos = Counter(name for slot, name, *_ in truth if slot // VIDEOS == epoch)
        assert set(videos.values()) == {1}
        assert len(videos) == VIDEOS


def test_a_second_run_takes_all_from_the_cache(
    address: str, faulty: FaultyProxy, tmp_path: Path
) -> None:
    first, _ = epochs(address, 3, cache=tmp_path / "cache")
    faulty.clear()
    second, _ = epochs(address, 3, cache=tmp_path / "cache")
    assert second == first
    assert not [request for request in faulty.log if request.method == "GET" and request.range]


def test_wrong_bytes_in_the_cache_come_anew(local: Path, address: str, tmp_path: Path) -> None:
    truth, _ = epochs(address, 2, cache=tmp_path / "cache")
    for piece in (tmp_path / "cache/pieces").rglob("*"):
        if piece.is_file():
            with open(piece, "r+b") as file:
                file.seek(4096)
                file.write(bytes(os.path.getsize(piece) - 4096))
    assert epochs(address, 2, cache=tmp_path / "cache") == (truth, [])
    assert epochs(local, 2) == (truth, [])


def test_order_resume_and_lists_are_those_of_the_folder(
    local: Path, address: str, tmp_path: Path
) -> None:
    listed = tmp_path / "clips.list"
    listed.write_text("class/3 5 0\nclass/1 9 0\nclass/3 30 0\nclass/8 1 0\n")
    for more in (
        {"sampling": "even", "clips_per_video": 3, "flip": False},
        {"data_list": listed, "labels": False},
        {"stride": 3, "clips_per_video": 2},
    ):
        assert epochs(address, 1, **more) == epochs(local, 1, **more)
    with closing(loader(local)) as there, closing(loader(address, batch_size=2)) as here:
        audit.clips(there)
        audit.clips(here)
        here.load_state_dict(there.state_dict())
        assert audit.clips(here) == audit.clips(there)[:2]


def test_neighbours_come_together(address: str, faulty: FaultyProxy) -> None:
    even: dict[str, Any] = {"sampling": "even", "clips_per_video": 10, "flip": False}
    found, _ = epochs(address, 1, **even)
    assert len(found) == 10 * VIDEOS
    assert len([one for one in faulty.log if one.path.endswith(".tar")]) <= 4 * VIDEOS


def test_a_shard_that_does_not_come_is_named_and_left_out(
    address: str, faulty: FaultyProxy, local: Path
) -> None:
    faulty.schedule = always(Fault("status", status=503))
    faulty.only = lambda request: request.name == SHARD and request.range is not None
    truth, _ = epochs(local, 2)
    found, skipped = epochs(address, 2, stall_seconds=4)
    (skip,) = skipped
    assert f"{SHARD}: the server answers 503" in skip
    (lost,) = {name for _, name, *_ in truth} - {name for _, name, *_ in found}
    assert skip.startswith(f"{address}/{lost}: ")
    assert found == [clip for clip in truth if clip[1] != lost]


def test_a_shard_that_is_not_there_is_named_at_once(
    object_store: ObjectStore, address: str
) -> None:
    object_store.delete(f"{address}/{SHARD}")
    began = time.monotonic()
    _, skipped = epochs(address, 1)
    assert time.monotonic() - began < 20
    assert skipped
    assert all(f"{SHARD}: no such file; copy the shard again" in skip for skip in skipped)


def test_a_shard_that_is_replaced_during_the_run_is_noticed(
    object_store: ObjectStore, address: str
) -> None:
    with closing(loader(address, fetch_ahead=1)) as clips:
        audit.clips(clips)
        shard = object_store.get(f"{address}/{SHARD}")
        object_store.put(f"{address}/{SHARD}", bytes(len(shard)))
        while clips.epoch < 3:
            audit.clips(clips)
        reasons = {skip.reason for skip in clips.skipped}
    (reason,) = reasons
    assert f"{SHARD}: was replaced while it was in use; start again" in reason


def test_bytes_that_are_wrong_in_the_store_are_named(
    object_store: ObjectStore, address: str
) -> None:
    shard = bytearray(object_store.get(f"{address}/{SHARD}"))
    shard[len(shard) // 2 :] = bytes(len(shard) - len(shard) // 2)
    object_store.put(f"{address}/{SHARD}", bytes(shard))
    _, skipped = epochs(address, 1)
    assert skipped
    assert all(f"is damaged in {SHARD}" in skip for skip in skipped)


def test_nothing_comes_any_more_ends_the_run_in_a_line(address: str, faulty: FaultyProxy) -> None:
    with closing(loader(address, fetch_ahead=1, stall_seconds=4, num_workers=1)) as clips:
        audit.clips(clips)
        began = time.monotonic()
        with faulty.away(), pytest.raises(LoaderStopped, match="nothing comes any more") as stopped:
            until_it_ends(clips)
        assert time.monotonic() - began < 15
        assert address in str(stopped.value)
        assert "\n" not in str(stopped.value)
        assert audit.clips(clips)  # it is back


def test_access_that_is_taken_away_ends_the_run_in_a_line(
    address: str, faulty: FaultyProxy
) -> None:
    with closing(loader(address, fetch_ahead=1)) as clips:
        audit.clips(clips)
        faulty.only = lambda request: True
        faulty.schedule = always(Fault("status", status=403))
        with pytest.raises(LoaderStopped, match="access denied"):
            until_it_ends(clips)


def test_a_fetcher_that_dies_ends_the_run_in_a_line(address: str) -> None:
    with closing(loader(address, fetch_ahead=1)) as clips:
        audit.clips(clips)
        (child,) = children(os.getpid(), b"spawn_main")
        os.kill(child, signal.SIGKILL)
        with pytest.raises(LoaderStopped, match="the process that fetches from there ended"):
            until_it_ends(clips)
        assert audit.clips(clips)
    assert not children(os.getpid(), b"spawn_main")


def children(parent: int, command: bytes) -> list[int]:
    """The processes that one has started, by a part of their command."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            theirs = status.with_name("cmdline").read_bytes()
            if int(fields[1]) == parent and command in theirs and fields[0] != "Z":
                found.append(int(status.parent.name))
    return found


def test_credentials_go_nowhere(
    address: str, faulty: FaultyProxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = f"--reels {address} --width 0.05 --clip_len 8 --size 24 --resize 24x32 --steps 2"
    command += f" --log_dir {out}/logs --model_save_dir {out}/saved --cache {out}/cache"
    assert train.main([*command.split(), "--device", "cpu", "--num_workers", "1"]) == 0
    faulty.only = lambda request: True
    faulty.schedule = always(Fault("status", status=403))
    assert train.main([*command.split(), "--device", "cpu"]) == 2
    said = capfd.readouterr()
    assert "access denied" in said.err
    text = (said.out + said.err).encode()
    for path in out.rglob("*"):
        text += path.read_bytes() if path.is_file() else os.fsencode(path)
    assert len(text) > 10_000
    assert ACCESS_KEY.encode() not in text
    assert SECRET_KEY.encode() not in text


def test_a_damaged_index_is_fetched_again_once(address: str, faulty: FaultyProxy) -> None:
    faulty.only = lambda request: request.name == "index.npz" and request.method == "GET"
    faulty.schedule = lambda request: Fault("corrupt") if request.attempt < 1 else None
    assert len(Reels.found(address)) == VIDEOS
    assert faulty.injected["corrupt"] == 1


def test_an_index_that_is_damaged_there_says_so(local: Path, tmp_path: Path) -> None:
    shutil.copytree(local, tmp_path / "reels")
    index = tmp_path / "reels/index.npz"
    index.write_bytes(index.read_bytes()[:-2000] + bytes(2000))
    with pytest.raises(ValueError, match=r"index\.npz: is damaged"):
        Reels.found(f"file://{tmp_path}/reels")
    assert not list((cache_folder() / "copies").glob("*.npz"))


def test_prepared_and_checked_through_faults(
    local: Path, object_store: ObjectStore, faulty: FaultyProxy, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    address = f"s3://{BUCKET}/prepared"
    faulty.only = lambda request: request.path.rpartition(".")[2] in ("tar", "npz", "jsonl")
    passing = [Fault("status", status=500), Fault("reset"), Fault("truncate"), Fault("refuse")]
    faulty.schedule = at_random(1, 0.4, *passing)
    flags = ["--flow", "tvl1-fast", "--resize", "24x32", "--workers", "1"]
    command = ["reels", str(local.parent / "videos"), "--out", address, *flags]
    assert prepare([*command, "--spool", str(tmp_path / "spool")]) == 0
    assert prepare(["check", address, "--workers", "1", "--min-frames", "40"]) == 0
    assert faulty.injected
    assert "every checksum is right" in capsys.readouterr().out
    faulty.calm()
    assert epochs(address, 2) == epochs(local, 2)

    one, other, *_ = (k for k in object_store.keys(f"{address}/reels-") if k.endswith(".tar"))
    shard = bytearray(object_store.get(one))
    shard[len(shard) // 3] ^= 1
    object_store.put(one, bytes(shard))
    object_store.delete(other)
    assert prepare(["check", address, "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert f"{Path(other).name}: no such file" in said
    assert f"is damaged in {Path(one).name}" in said
    assert said.count(f"{address}/class/") == 2


def test_an_address_without_reels_says_so(object_store: ObjectStore, address: str) -> None:
    with pytest.raises(ValueError, match="no reels"):
        Reels.found(f"{address}/nowhere")
    object_store.delete(f"{address}/index.npz")
    with pytest.raises(ValueError, match="not finished"):
        Reels.found(address)


@pytest.fixture
def torchrun(address: str, tmp_path: Path) -> Iterator[Any]:
    """Starts the audit on a node: (its number, of how many, ranks on it)."""
    started = []
    ports: list[int] = []  # a run each

    def start(node: int, nodes: int, ranks: int) -> subprocess.Popen[bytes]:
        if node == 0:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        place = f"--nnodes {nodes} --node-rank {node} --nproc-per-node {ranks}"
        place += f" --master-addr 127.0.0.1 --master-port {ports[-1]}"
        command = [sys.executable, "-m", "torch.distributed.run", *place.split()]
        command += [str(ROOT / "tests/faults/audit.py"), "--reels", address, "--epochs", "8"]
        command += ["--caches", str(tmp_path / "caches"), "--notes", str(tmp_path / "log")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        kill(process)


def kill(node: subprocess.Popen[bytes]) -> None:
    """As if its machine were switched off: torchrun and its ranks, whose workers end with them."""
    for pid in (*children(node.pid, b"audit.py"), node.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


def test_two_nodes_of_which_one_is_lost(
    torchrun: Any, local: Path, faulty: FaultyProxy, tmp_path: Path
) -> None:
    """Two nodes of two ranks, a cache each; both are lost; one comes again with three ranks."""
    log = tmp_path / "log"
    faulty.schedule = ThreeTimes()
    nodes = [torchrun(node, 2, 2) for node in range(2)]
    deadline = time.monotonic() + 120
    while len(list(audit.lines(log))) < 2 and time.monotonic() < deadline:
        assert all(node.poll() is None for node in nodes)
        time.sleep(0.01)
    for node in reversed(nodes):
        kill(node)
    assert 2 <= len(list(audit.lines(log))) < 9
    assert torchrun(0, 1, 3).wait(timeout=120) == 0
    noted = [tuple(clip) for line in audit.lines(log) for clip in line["clips"]]
    truth, _ = epochs(local, 9)
    assert sorted(noted) == truth[: len(noted)]
    assert len(noted) >= 8 * VIDEOS
    assert all((tmp_path / "caches" / node / "pieces").is_dir() for node in "01")
