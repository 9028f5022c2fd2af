"""Decoding processes that die or hang, and scripts that start them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.pipelines.running import LoaderStopped, Running, _Work
from dali_pipes.pipelines.trace import Notes, Trace
from dali_pipes.sources import Synthetic

SMALL = {"resize": (32, 40), "size": 24}


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, though nobody has asked for its exit code


def take(loader: ClipLoader, batches: int) -> None:
    for _ in range(batches):
        loader.next_batch()


def test_a_killed_worker_ends_the_run_and_is_named() -> None:
    loader = ClipLoader(Synthetic.make(8, size=(48, 64)), batch_size=2, num_workers=2, **SMALL)
    loader.next_batch()
    running = loader._feed._running
    assert running is not None
    victim = running._work.workers[0].pid
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(LoaderStopped, match=rf"worker {victim} was killed .*synthetic/"):
        take(loader, 20)
    assert time.monotonic() - began < 30
    assert len(loader.next_batch()) == 2  # starts again where it stopped
    loader.close()


class Stuck(Synthetic):
    """A source with a file that never ends."""

    def read_clip(
        self, item: int, numbers: range, resize: tuple[int, int] | None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        if item == 3:
            time.sleep(60)
        return super().read_clip(item, numbers, resize)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stalled_decoder_is_named(workers: int) -> None:
    loader = ClipLoader(
        Stuck.make(4, size=(48, 64)),
        batch_size=1,
        num_workers=workers,
        stall_seconds=3,
        sampling="even",
        **SMALL,
    )
    with pytest.raises(
        LoaderStopped, match=r"no batch, and nothing read, for 3 s.*decode synthetic/-2\+2/000003"
    ):
        take(loader, 4)


class Long(Synthetic):
    """A source with a file that takes longer than a stall, but is read all the time."""

    def read_clip(
        self, item: int, numbers: range, resize: tuple[int, int] | None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        if item == 3:
            for _ in range(8):
                time.sleep(1)
                Path(__file__).read_bytes()
        return super().read_clip(item, numbers, resize)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_long_file_is_no_stall(workers: int) -> None:
    source = Long.make(4, size=(48, 64))
    loader = ClipLoader(
        source, batch_size=1, num_workers=workers, stall_seconds=4, sampling="even", **SMALL
    )
    take(loader, 4)
    loader.close()


def test_scripts_need_no_main_guard(tmp_path: Path) -> None:
    """Workers do not import the script that starts them: it would start them in turn."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, torch\n"
        "from dali_pipes import ClipLoader\n"
        "from dali_pipes.sources import Synthetic\n"
        "print('script runs')\n"
        "loader = ClipLoader(Synthetic.make(4, size=(48, 64)), batch_size=2, device='cpu',\n"
        "                    resize=(32, 40), size=24)\n"
        "for batch in loader:\n"
        "    print(len(batch), 'clips')\n"
        "for worker in loader._feed._running._work.workers:\n"
        "    print('torch' in open(f'/proc/{worker.pid}/maps').read())\n"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.split("\n") == [
        "script runs", "2 clips", "2 clips", "False", "False", "",
    ], result.stderr  # fmt: skip
    assert result.returncode == 0


def test_a_killed_run_leaves_no_workers_behind(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "from dali_pipes import ClipLoader\n"
        "from dali_pipes.sources import Synthetic\n"
        "loader = ClipLoader(Synthetic.make(4, size=(48, 64)), batch_size=2, device='cpu',\n"
        "                    resize=(32, 40), size=24, labels=False)\n"
        "loader.next_batch()\n"
        "print(*(worker.pid for worker in loader._feed._running._work.workers), flush=True)\n"
        "while True:\n"
        "    loader.next_batch()\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [int(pid) for pid in run.stdout.readline().split()]
        run.kill()
    assert len(workers) == 2
    until = time.monotonic() + 30
    while any(running(pid) for pid in workers):
        assert time.monotonic() < until, "workers go on"
        time.sleep(0.2)


@pytest.mark.parametrize("real", [False, True])
def test_loaders_of_two_threads_do_not_know_of_each_other(real: bool, real_data: Path) -> None:
    main = sys.modules["__main__"]
    videos = real_data / "videos" if real else Synthetic.make(8, size=(48, 64))
    common = {"batch_size": 2, "num_workers": 1, "labels": False, **SMALL}
    loaders = [ClipLoader(videos, **common) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        batches = list(threads.map(ClipLoader.next_batch, loaders))
    assert batches[0].frames.equal(batches[1].frames)
    first, second = (loader._feed._running._work.workers for loader in loaders)
    assert len(first) == len(second) == 1
    assert first[0].pid != second[0].pid
    loaders[0].close()
    assert not first[0].is_alive()
    assert second[0].is_alive()
    take(loaders[1], 4)
    assert sys.modules["__main__"] is main
    loaders[1].close()


@pytest.mark.parametrize("real", [False, True])
def test_an_interrupt_at_any_moment_costs_neither_time_nor_clips(
    real: bool, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    videos = real_data / "videos" if real else Synthetic.make(8, size=(48, 64))
    loader = ClipLoader(videos, batch_size=2, num_workers=1, labels=False, **SMALL)
    moments = [
        (ClipLoader, "_labels"),  # a batch has left the pipeline, and is not handed over
        (Running, "__init__"),
        (type(loader._feed.clock), "seconds_a_clip"),
    ]
    starts = []
    for home, name in moments:
        with monkeypatch.context() as patch:
            patch.setattr(home, name, interrupt)
            if name == "__init__":
                loader.close()
            with pytest.raises(KeyboardInterrupt):
                loader.next_batch()
        starts.append(loader.next_batch().start.tolist())
    with monkeypatch.context() as patch:  # and again while the first is answered
        assert loader._feed._running is not None
        patch.setattr(loader._feed._running._work.thread, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loader.close()
    began = time.monotonic()
    starts.append(loader.next_batch().start.tolist())
    assert time.monotonic() - began < loader.stall_seconds / 5
    loader.load_state_dict(loader.state_dict() | {"consumed": 0})
    assert [loader.next_batch().start.tolist() for _ in starts] == starts
    loader.close()


def test_an_interrupt_while_the_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    work = _Work(build=lambda _: object(), run=lambda _: None)  # type: ignore[arg-type, return-value]
    says_so = work.thread._started  # type: ignore[attr-defined]
    said = says_so.set
    monkeypatch.setattr(says_so, "wait", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(says_so, "set", lambda: (time.sleep(0.5), said()))
    with pytest.raises(KeyboardInterrupt):
        work.thread.start()
    work.put_away()
    assert not work.thread.is_alive()


def test_notes_say_who_is_at_what(tmp_path: Path) -> None:
    notes = Notes()
    trace = Trace(notes.place)
    trace.write("decode", "/videos/two\nlines é.mp4")
    (note,) = notes.read()
    assert (note.pid, note.stage, note.path) == (os.getpid(), "decode", "/videos/two\nlines é.mp4")
    assert note.seconds < 10
    trace.write("", "")
    assert not notes.read()
    notes.close()
    trace.write("decode", "/videos/a.mp4")
    with open(tmp_path / "mine", "w") as file:
        assert notes.place.endswith(f"/{file.fileno()}")
        late = Trace(notes.place)  # a worker that starts when its loader has ended
        late.write("decode", "/videos/a.mp4")
    assert not (tmp_path / "mine").read_text()
