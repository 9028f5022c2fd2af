"""`prepare reels` at an address: the same reels, whatever ends a run on the way there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from dali_pipes.lock import locked
from dali_pipes.prepare import reels as command
from dali_pipes.prepare import shards, spool
from dali_pipes.sources import Reels
from dali_pipes.storage import RemoteFiles
from tests.dali_pipes.prepare.conftest import Run

ROOT = Path(__file__).parents[3]
SMALL = ("--flow", "tvl1-fast", "--resize", "24x32")


def bytes_of(reels: Path) -> dict[str, tuple[bytes, int]]:
    """Of each video, by name: its pictures, and its frames. Every checksum is compared."""
    source = Reels.found(reels)
    found = {}
    for item, path in enumerate(source.paths):
        steps = source.steps(item)
        source.read_encoded(item, range(len(steps) - 1))
        begin, end = steps["offset"][[0, -1]].tolist()
        data = Path(source.shard_path(item)).read_bytes()[begin:end]
        found[os.path.relpath(path, reels)] = data, len(steps) - 1
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_this_process(stage, items, *_: object, before: int = 0, **__: object):  # type: ignore[no-untyped-def]
    print(f"{before} videos were done before")
    for item in items:
        yield item, stage(item)


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    for n in range(6):
        make_video(tmp_path / f"videos/{'ab'[n % 2]}/{n}.mp4", 18 + n)
    return tmp_path / "videos"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an address; shards of two or three videos; what failed is not tried again."""
    monkeypatch.setattr(command, "each", in_this_process)
    monkeypatch.setattr(shards, "SHARD_BYTES", 30_000)
    monkeypatch.setattr(spool, "PATIENCE_SECONDS", 0.0)
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


@pytest.fixture
def make(prepare: Run, videos: Path, there: Path, tmp_path: Path) -> Run:
    """Makes reels at the address: (exit status, what was printed)."""

    def run(*flags: object) -> tuple[int, str]:
        arguments = ("reels", videos, "--out", f"file://{there}", "--spool", tmp_path / "spool")
        return prepare(*arguments, *SMALL, *flags)

    return run


@pytest.fixture
def local(prepare: Run, videos: Path, tmp_path: Path) -> Callable[[], dict]:
    """What a folder made of the same videos holds."""

    def contents() -> dict:
        assert prepare("reels", videos, "--out", tmp_path / "local", *SMALL)[0] == 0
        return bytes_of(tmp_path / "local")

    return contents


def spooled(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "spool").rglob("*") if path.is_file())


def test_the_same_reels_as_in_a_folder(
    make: Run, there: Path, local: Callable[[], dict], tmp_path: Path
) -> None:
    status, said = make()
    assert status == 0, said
    assert "6 videos, 123 frames" in said
    assert bytes_of(there) == local()
    *made, index, manifest = sorted(names(there), key=lambda name: name[5] != "-")
    assert {index, manifest} == {"index.npz", "reels.json"}
    assert [name[:17] for name in made] == [f"reels-0000-{n:05d}-" for n in range(len(made))]
    assert len(made) > 1
    assert spooled(tmp_path) == [".lock"]
    before = (there / "index.npz").read_bytes()
    status, said = make()
    assert (status, "6 videos were done before" in said) == (0, True)
    assert (there / "index.npz").read_bytes() == before
    assert len(names(there)) == len(made) + 2


def test_new_and_changed_videos_are_taken_up(
    make: Run, there: Path, videos: Path, local: Callable[[], dict], make_video: Callable[..., Path]
) -> None:
    aside = videos.parent / "aside.mp4"
    (videos / "a/2.mp4").rename(aside)
    assert make()[0] == 0
    first = names(there)
    aside.rename(videos / "a/2.mp4")
    make_video(videos / "b/1.mp4", 30)
    status, said = make()
    assert (status, "4 videos were done before" in said) == (0, True), said
    assert bytes_of(there) == local()
    assert set(first) < set(names(there))


def _fails(number: int, then: Callable[..., object]) -> Callable[..., object]:
    """A function whose call of this number ends the run, before or after it has worked."""
    calls = []

    def wrapped(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt  # passes everything, as the end of a process would
        return then(*arguments)

    return wrapped


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(shards, "_write_member"), (RemoteFiles, "write"), (RemoteFiles, "upload"),
     (RemoteFiles, "remove"), (Path, "rename"), (shards, "_to_disk")],
)  # fmt: skip
def test_ended_anywhere_and_continued(
    make: Run,
    there: Path,
    local: Callable[[], dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    number: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _fails(number, getattr(owner, name)))
        status, said = make()
        assert (status, "the same command continues" in said) == (130, True), said
    whole = bytes_of(there) if (there / "index.npz").exists() else {}
    status, said = make()
    assert status == 0, said
    found = bytes_of(there)
    assert found == local()
    assert whole.items() <= found.items()
    assert spooled(tmp_path) == [".lock"]
    assert not list(there.glob("*.jsonl"))


def killed_after_two(make: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that `kill -9` ends while its shard has two videos and a part of the third."""
    with monkeypatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 10**9)
        patch.setattr(shards.ShardWriter, "_finish", lambda *_: None)
        patch.setattr(shards, "_write_member", _fails(6, shards._write_member))
        assert make()[0] == 130


def test_what_a_killed_run_left_is_sent_and_not_made_again(
    make: Run, there: Path, local: Callable[[], dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_two(make, monkeypatch)
    assert names(there) == ["reels.json"]
    status, said = make()
    assert (status, "2 videos were done before" in said) == (0, True), said
    assert bytes_of(there) == local()


def test_what_is_not_whole_there_is_made_again(
    make: Run, there: Path, local: Callable[[], dict], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The machine is lost: lines without their shard, and a shard that is cut short."""
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFiles, "upload", _fails(2, RemoteFiles.upload))
        assert make()[0] == 130
    shutil.rmtree(tmp_path / "spool")
    (first,) = there.glob("*.tar")
    os.truncate(first, first.stat().st_size - 2000)
    status, said = make()
    assert status == 0
    assert "0 videos were done before" not in said
    assert "6 videos were done before" not in said
    assert bytes_of(there) == local()


@pytest.mark.parametrize("index", [None, b"PK damaged"])
def test_an_index_is_made_anew_from_the_shards(
    make: Run, there: Path, tmp_path: Path, index: bytes | None
) -> None:
    assert make()[0] == 0
    before = bytes_of(there)
    (there / "index.npz").unlink()
    if index:
        (there / "index.npz").write_bytes(index)
    status, said = make()
    assert (status, "6 videos were done before" in said) == (0, True), said
    assert bytes_of(there) == before
    assert spooled(tmp_path) == [".lock"]


@pytest.mark.parametrize("call", ["write", "upload"])
def test_an_upload_that_fails_loses_nothing(
    make: Run, there: Path, local: Callable[[], dict], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    secret = "s3cr3ts3cr3t"
    monkeypatch.setenv("STORE_SECRET", secret)
    system = {"write": "pipe_file", "upload": "put_file"}[call]
    original = getattr(LocalFileSystem, system)

    def refused(self: object, *arguments: object, **options: object) -> None:
        if not str(arguments[0]).endswith("reels.json"):
            raise ConnectionError(f"lost while {secret} was sent")
        original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, system, refused)
        status, said = make()
    assert status == 1
    lines = [line for line in said.splitlines() if "ConnectionError" in line]
    assert len(lines) == 1, said
    assert f"file://{there}/reels-0000-00000-" in lines[0]
    assert "lost while *** was sent (tried once in 0 s)" in lines[0]
    assert "nothing that is whole is lost, the same command continues" in lines[0]
    assert secret not in said
    status, said = make()
    assert (status, "0 videos were done before" not in said) == (0, True)
    assert bytes_of(there) == local()


def test_a_spool_that_is_in_use_is_left_alone(make: Run, there: Path, tmp_path: Path) -> None:
    assert make()[0] == 0
    (root,) = (tmp_path / "spool").iterdir()
    (root / "one").mkdir()
    (root / "one/reels-0000-00000-00000000.tar").write_bytes(b"")
    (root / "two").mkdir()
    with locked(root / "one.lock", "`prepare reels`"):
        assert make()[0] == 0
        assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["one"]
    assert make()[0] == 0
    assert names(root) == [".lock"]
    with locked(root / ".lock", "`prepare reels`"):
        status, said = make()
    assert (status, "another `prepare reels` works there" in said) == (2, True)


def test_what_cannot_be_is_said(
    prepare: Run, make: Run, videos: Path, there: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("")
    for out, flags, words in (
        ("s3://me:hidden@bucket/reels", (), "credentials belong in the environment"),
        ("s3://bucket/reels?sig=hidden", (), "credentials belong in the environment"),
        ("zz://bucket/reels", (), "zz://bucket/reels: Protocol not known: zz"),
        (f"file://{tmp_path}/none", (), "there is no such bucket or folder; make it first"),
        (f"file://{tmp_path}/full", (), "holds data, but there is no"),
        (f"file://{there}", ("--spool", tmp_path / "file"), "choose another --spool"),
        (tmp_path / "reels", ("--spool", tmp_path), "--spool is for an address"),
    ):
        status, said = prepare("reels", videos, "--out", out, *SMALL, *flags)
        assert (status, words in said) == (2, True), said
        assert "hidden" not in said
    assert make()[0] == 0
    before = names(there)
    status, said = make("--quality", "90")
    assert (status, "was begun with jpeg_quality 95 (now 90)" in said) == (2, True)
    assert names(there) == before


def test_ranks_share_and_send_what_a_killed_run_left(
    make: Run, there: Path, videos: Path, local: Callable[[], dict], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    killed_after_two(make, monkeypatch)
    flags = ["--out", f"file://{there}", "--spool", tmp_path / "spool", *SMALL, "--workers", "1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.run(
        [sys.executable, *launcher, "-m", "dali_pipes.prepare", "reels", videos, *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    assert "were done before" in process.stderr
    made = [path.name[:10] for path in there.glob("*.tar")]
    assert sorted(made) == ["reels-0000", "reels-0000", "reels-0001"]
    assert bytes_of(there) == local()
    assert spooled(tmp_path) == [".lock"]
