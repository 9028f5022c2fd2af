"""The node's cache: pages that are there or not, room for what is needed next, and no harm ever."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dali_pipes.storage.cache import PAGE, Cache, Piece

PIECE = Piece("version", 1000, 5 * PAGE + 17)


def cache(folder: Path, limit: int = 10**9, uses: dict[str, int] | None = None) -> Cache:
    return Cache(folder, limit, 1, lambda: uses or {})


def content(pages: int) -> bytes:
    return os.urandom(pages * PAGE)


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_pages_are_there_once_written(tmp_path: Path) -> None:
    mine, others = cache(tmp_path), cache(tmp_path)
    assert mine.absent(PIECE, 0, 6) == [0, 1, 2, 3, 4, 5]
    assert mine.held(PIECE, 0, 1).read() is None
    two, end = content(2), content(1)[:17]
    mine.write(PIECE, 1, two)
    mine.write(PIECE, 5, end)
    assert others.absent(PIECE, 0, 6) == [0, 3, 4]
    assert others.absent(PIECE, 1, 3) == []
    assert others.held(PIECE, PAGE + 5, PAGE).read() == two[5 : PAGE + 5]
    assert others.held(PIECE, 5 * PAGE, 17).read() == end
    assert others.held(PIECE, 5 * PAGE, 18).read() is None  # the piece ends before


def test_only_what_is_written_takes_room(tmp_path: Path) -> None:
    large = Piece("version", 0, 10_000 * PAGE)
    cache(tmp_path).write(large, 7000, content(1))
    assert used(tmp_path) < 3 * PAGE


def test_pages_that_were_wrong_are_forgotten(tmp_path: Path) -> None:
    mine = cache(tmp_path)
    mine.write(PIECE, 0, content(4))
    mine.forget(PIECE, 1, 3)
    assert mine.absent(PIECE, 0, 4) == [1, 2]
    mine.forget(Piece("other", 0, 10), 0, 1)  # not there: nothing to do


def test_another_version_is_another_piece(tmp_path: Path) -> None:
    mine = cache(tmp_path)
    mine.write(PIECE, 0, content(5))
    assert mine.absent(PIECE._replace(key="newer"), 0, 1) == [0]


def test_what_is_needed_last_goes_first_and_the_limit_holds(tmp_path: Path) -> None:
    pieces = [Piece("version", 100 * PAGE * n, 8 * PAGE) for n in range(40)]
    uses = {piece.name: (n * 7) % 40 for n, piece in enumerate(pieces) if n % 4}
    mine = cache(tmp_path, 160 * PAGE, uses)
    for piece in pieces:
        mine.write(piece, 0, content(8))
        assert used(tmp_path) <= 160 * PAGE
    left = [piece.name for piece in pieces[:-1] if not mine.absent(piece, 0, 8)]
    gone = [piece.name for piece in pieces[:-1] if piece.name not in left]
    assert len(left) > 8
    never = [name for name in left if name not in uses]
    assert len(never) <= 1  # the last one written before the cache was measured
    # Whatever went was needed later than all that stayed, of what was there at the time.
    assert max(uses[name] for name in left if name in uses) < max(uses.get(n, 99) for n in gone)
    assert min(uses[name] for name in left if name in uses) == 1


def test_a_full_disk_ends_writing_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mine, kept = cache(tmp_path), content(1)
    mine.write(PIECE, 0, kept)
    whole = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if len(data) < 100:
            return whole(file, data, offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    mine.write(PIECE, 2, content(1))
    mine.write(PIECE, 3, content(1))
    assert mine.absent(PIECE, 0, 4) == [1, 2, 3]
    assert mine.held(PIECE, 0, PAGE).read() == kept
    (line,) = capfd.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert "No space left" in line


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    mine = cache(tmp_path / "file")
    mine.write(PIECE, 0, content(1))
    assert mine.absent(PIECE, 0, 1) == [0]
    assert len(capfd.readouterr().err.splitlines()) == 1


KILLED = """
import os, sys
from dali_pipes.storage.cache import PAGE, Cache, Piece
whole = os.pwrite
def die(file, data, offset):
    if len(data) > 100:
        whole(file, data[: len(data) // 2], offset)
        os.kill(os.getpid(), 9)
    return whole(file, data, offset)
os.pwrite = die
from pathlib import Path
piece = Piece("version", 1000, 5 * PAGE + 17)
Cache(Path(sys.argv[1]), 10**9, 1, dict).write(piece, 1, bytes(PAGE))
"""


def test_a_process_that_dies_at_it_leaves_no_half_page(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert died.returncode == -9
    mine = cache(tmp_path)
    assert mine.absent(PIECE, 0, 5) == [0, 1, 2, 3, 4]
    data = content(1)
    mine.write(PIECE, 1, data)
    assert mine.held(PIECE, PAGE, PAGE).read() == data


WRITES = """
import sys
from pathlib import Path
from dali_pipes.storage.cache import PAGE, Cache, Piece
mine = Cache(Path(sys.argv[1]), 100 * PAGE, 2, dict)
for n in range(300):
    piece = Piece("version", n % 30 * 1000 * PAGE, 8 * PAGE)
    page = n * 5 % 8
    mine.write(piece, page, bytes([n % 30]) * PAGE)
    if not mine.absent(piece, page, page + 1):
        got = mine.held(piece, page * PAGE, PAGE).read()
        assert got is None or set(got) <= {n % 30}, n
"""


def test_two_processes_share_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES, str(tmp_path)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert 0 < used(tmp_path) <= 100 * PAGE
