"""Byte ranges fetched before they are asked for: right bytes, few requests, none too early."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dali_pipes.storage import NotFetched, RemoteFiles
from dali_pipes.storage.ahead import LARGEST, NEAR, Ahead, Range
from dali_pipes.storage.cache import PAGE, Cache, Held, Piece

SIZE = 2**22
FAR = 4 * NEAR  # apart: in requests of their own


class Counted(RemoteFiles):
    """Files of an address that note what is asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: list[tuple[str, int, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def read(self, name: str, offset: int, size: int) -> bytes:
        self.asked.append((name, offset, size))
        self.gate.wait(10)
        return super().read(name, offset, size)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "there").mkdir()
    made = {"one": os.urandom(SIZE), "two": os.urandom(SIZE)}
    for name, content in made.items():
        (tmp_path / "there" / name).write_bytes(content)
    return made


@pytest.fixture
def files(tmp_path: Path, data: dict[str, bytes]) -> Counted:
    found = Counted(f"file://{tmp_path}/there", proof="one", patience=0.1)
    found.look([*data, "missing"])
    return found


def ranges(*wanted: tuple[str, int, int]) -> Callable[[int], Range | None]:
    """A plan of these, each in a piece of its whole file."""
    planned = [Range(*one, Piece(one[0], 0, SIZE)) for one in wanted]
    return lambda n: planned[n] if n < len(planned) else None


def got(ahead: Ahead, name: str, offset: int, size: int) -> bytes | None:
    """The bytes, wherever they are."""
    found = ahead.get(name, offset, size)
    return found.read() if isinstance(found, Held) else found


def settled(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.05)  # what comes after
    return condition()


def far_apart(count: int) -> list[tuple[str, int, int]]:
    return [("one" if n % 2 else "two", n // 2 * FAR, 1000) for n in range(count)]


def test_right_bytes_in_any_order(files: Counted, data: dict[str, bytes]) -> None:
    wanted = far_apart(24)
    ahead = Ahead(files, None, ranges(*wanted), 8)
    for first in range(0, 24, 4):  # workers are not in step
        for name, offset, size in reversed(wanted[first : first + 4]):
            assert ahead.get(name, offset, size) == data[name][offset : offset + size]
    assert sorted(files.asked) == sorted(wanted)  # each once


def test_no_further_ahead_than_asked_for(files: Counted) -> None:
    wanted = far_apart(30)
    ahead = Ahead(files, None, ranges(*wanted), 8)
    assert settled(lambda: len(files.asked) == 8)
    ahead.get(*wanted[0])
    assert settled(lambda: len(files.asked) == 8)  # not enough for neighbours to be found
    ahead.get(*wanted[1])
    assert settled(lambda: len(files.asked) == 10)


def test_many_are_under_way_at_once(files: Counted) -> None:
    files.gate.clear()
    wanted = far_apart(30)
    ahead = Ahead(files, None, ranges(*wanted), 16)
    assert settled(lambda: len(files.asked) == 16)
    files.gate.set()
    ahead.get(*wanted[15])


def test_neighbours_come_in_one_request(files: Counted, data: dict[str, bytes]) -> None:
    wanted = [("one", 5000, 100), ("two", 0, 10), ("one", 5100, 100), ("one", 5050, 400)]
    wanted += [("one", 5500 + NEAR, 100), ("one", 10**6, 10)]
    ahead = Ahead(files, None, ranges(*wanted), 8)
    for name, offset, size in wanted:
        assert ahead.get(name, offset, size) == data[name][offset : offset + size]
    assert sorted(files.asked) == [
        ("one", 5000, 450),
        ("one", 5500 + NEAR, 100),
        ("one", 10**6, 10),
        ("two", 0, 10),
    ]


def test_a_request_does_not_grow_without_end(files: Counted) -> None:
    part = LARGEST // 4
    wanted = [("one", 0, part), ("one", part - 1, part)]
    assert LARGEST >= 2 * part > SIZE // 4
    ahead = Ahead(files, None, ranges(*wanted), 4)
    for one in wanted:
        ahead.get(*one)
    assert len(files.asked) == 1


def test_the_same_clip_twice(files: Counted, data: dict[str, bytes]) -> None:
    ahead = Ahead(files, None, ranges(*[("one", 7, 70)] * 3), 4)
    for _ in range(3):
        assert ahead.get("one", 7, 70) == data["one"][7:77]


def test_what_is_not_of_the_plan_comes_too(files: Counted, data: dict[str, bytes]) -> None:
    ahead = Ahead(files, None, ranges(("one", 0, 10)), 4)
    assert ahead.get("two", 33, 44) == data["two"][33:77]


def test_what_nobody_asks_for_is_forgotten(files: Counted) -> None:
    ahead = Ahead(files, None, ranges(*far_apart(30)), 2)
    for n in range(1, 30):
        ahead.get(*far_apart(30)[n])
    assert not ahead._coming
    assert files.asked.count(far_apart(30)[0]) == 1


def test_one_that_cannot_be_had_is_alone_in_that(files: Counted, data: dict[str, bytes]) -> None:
    beyond = ("one", SIZE - 50, 100)
    wanted = [("one", SIZE - 100, 50), beyond, ("missing", 0, 10), ("two", 0, 10)]
    ahead = Ahead(files, None, ranges(*wanted), 4)
    assert ahead.get(*wanted[0]) == data["one"][-100:-50]
    with pytest.raises(NotFetched, match=f"has {SIZE} bytes"):
        ahead.get(*beyond)
    with pytest.raises(NotFetched, match="no such file"):
        ahead.get("missing", 0, 10)
    assert ahead.get(*wanted[3]) == data["two"][:10]


class TestWithCache:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Cache:
        return Cache(tmp_path / "cache", 10**9, 1, dict)

    def test_whole_pages_come_once(
        self, files: Counted, data: dict[str, bytes], cache: Cache
    ) -> None:
        near = [("one", PAGE + 10, 100), ("one", PAGE // 2, 3 * PAGE), ("one", SIZE - 10, 10)]
        for turn in range(2):
            ahead = Ahead(files, cache, ranges(near[turn], near[2]), 1)
            for name, offset, size in (near[turn], near[2]):
                assert got(ahead, name, offset, size) == data[name][offset : offset + size]
        assert sorted(files.asked) == [
            ("one", 0, 4 * PAGE),  # from the first page that is missing to the last
            ("one", PAGE, PAGE),
            ("one", SIZE - PAGE, PAGE),
        ]

    def test_what_is_there_needs_no_request(
        self, files: Counted, data: dict[str, bytes], cache: Cache
    ) -> None:
        wanted = far_apart(12)
        for _ in range(3):
            ahead = Ahead(files, cache, ranges(*wanted), 4)
            for name, offset, size in wanted:
                assert got(ahead, name, offset, size) == data[name][offset : offset + size]
        assert len(files.asked) == 12

    def test_what_it_has_beside_is_put_together(
        self, files: Counted, data: dict[str, bytes], cache: Cache
    ) -> None:
        first = ("one", 3 * PAGE, 10)
        Ahead(files, cache, ranges(first), 1).get(*first)
        wide = ("one", 2 * PAGE + 5, 2 * PAGE)
        for wanted in (("one", 3 * PAGE + 5, 2 * PAGE), wide):
            assert (
                got(Ahead(files, cache, ranges(wanted), 1), *wanted)
                == data["one"][wanted[1] : wanted[1] + wanted[2]]
            )
        assert files.asked[1:] == [("one", 4 * PAGE, 2 * PAGE), ("one", 2 * PAGE, PAGE)]

    def test_wrong_pages_are_replaced(
        self, files: Counted, data: dict[str, bytes], cache: Cache, tmp_path: Path
    ) -> None:
        wanted = ("one", PAGE + 10, 100)
        plan = ranges(wanted)
        Ahead(files, cache, plan, 1).get(*wanted)
        (file,) = (tmp_path / "cache/pieces/one").iterdir()
        marks = file.read_bytes()[:4096]
        file.write_bytes(marks + bytes(SIZE))
        ahead = Ahead(files, cache, plan, 1)
        assert got(ahead, *wanted) == bytes(100)  # who reads has the checksums
        found = plan(0)
        assert found is not None
        assert ahead.get_again(found) == data["one"][PAGE + 10 : PAGE + 110]
        again = Ahead(files, cache, plan, 1)
        assert got(again, *wanted) == data["one"][PAGE + 10 : PAGE + 110]

    def test_files_that_vanish_are_nowhere(
        self, files: Counted, cache: Cache, tmp_path: Path
    ) -> None:
        """Whoever reads asks again, then."""
        wanted = ("one", 0, 100)
        Ahead(files, cache, ranges(wanted), 1).get(*wanted)
        found = Ahead(files, cache, ranges(wanted), 1).get(*wanted)
        assert isinstance(found, Held)
        for path in (tmp_path / "cache/pieces/one").iterdir():
            path.write_bytes(b"\1" * 4096)  # cut short
        assert found.read() is None
        os.unlink(found.path)
        assert found.read() is None
