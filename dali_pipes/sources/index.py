"""What is known of videos, kept between runs: frame counts, sizes, codecs, what counting showed.

The index is an SQLite file beside the list or in the folder of videos, or in the user's cache
folder where that place is not writable. A row is void when the file's size or time of change is
another. It is a cache: losing it costs time, never a clip. Files that cannot be used are not in it
but opened each time: what was wrong may have been the system's, or been mended.
"""

import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from multiprocessing import parent_process
from pathlib import Path

from dali_pipes.decoding.video import VideoInfo
from kernels.cache import cache_folder

UNKNOWN = -1

_VERSION, _WITHOUT_COUNTED = 4, 3  # 3: no table `counted`
_LARGEST = 2**31 - 1
_OF_A_FILE = "path BLOB PRIMARY KEY, size INTEGER, time INTEGER"
_TABLES = {
    "videos": f"{_OF_A_FILE}, frames INTEGER, decoded INTEGER, height INTEGER, width INTEGER, "
    "codec TEXT, unsure TEXT",
    "counted": f"{_OF_A_FILE}, shown BLOB",  # apart: `rows` need not read it
}


@dataclass(frozen=True)
class Row:
    """What is known of one file."""

    path: str
    stamp: tuple[int, int]  # Source.stamp when it was probed
    info: VideoInfo
    decoded: int = UNKNOWN  # frames, where decoding proved fewer than `info.frames`

    def serves(self, for_gpu: bool) -> bool:
        """Whether it says all that is asked."""
        return not for_gpu or self.info.unsure is not None


class Index:
    """The index file. Errors of the disk or of other processes make it forgetful, never fail."""

    def __init__(self, path: Path | None) -> None:
        """Open or create it; None: kept in memory."""
        self.path: Path | None = None
        self._base = b""
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        for place in [] if path is None else [path, _in_cache_folder(path)]:
            db = _open(place)
            if db is not None:
                self._db, self.path = db, place
                break
        else:
            for table, columns in _TABLES.items():
                self._db.execute(f"CREATE TABLE {table} ({columns})")
        if path is not None:
            self._base = os.fsencode(os.path.join(os.path.abspath(path.parent), ""))

    def rows(self) -> Iterator[Row]:
        """Everything that is known."""
        try:
            for found in self._db.execute("SELECT * FROM videos"):
                if row := self._row(found):
                    yield row
        except sqlite3.Error as error:
            warnings.warn(f"index {self.path} cannot be read: {error}", stacklevel=2)

    def row(self, path: str) -> Row | None:
        """What is known of one file."""
        try:
            query = self._db.execute("SELECT * FROM videos WHERE path = ?", (self._key(path),))
            found = query.fetchone()
        except sqlite3.Error:
            return None
        return found and self._row(found)

    def put(self, rows: Iterable[Row]) -> None:
        """Write rows, all or none."""
        table = [
            (
                self._key(row.path),
                *row.stamp,
                row.info.frames,
                row.decoded,
                row.info.height,
                row.info.width,
                row.info.codec,
                row.info.unsure,
            )
            for row in rows
        ]
        self._write(f"REPLACE INTO videos VALUES ({'?, ' * 8}?)", table)

    def counted(self, path: str, stamp: tuple[int, int]) -> "CountedShelf":
        """What counting showed of one file, as long as its stamp is this."""
        return CountedShelf(self, path, stamp)

    def _write(self, statement: str, table: list[tuple]) -> None:
        try:
            with self._db:
                self._db.executemany(statement, table)
        except sqlite3.Error as error:
            warnings.warn(f"index {self.path} cannot be written: {error}", stacklevel=2)

    def close(self) -> None:
        self._db.close()

    def _key(self, path: str) -> bytes:
        """Relative to the index where possible, so that both can be moved together."""
        return os.fsencode(path).removeprefix(self._base)

    def _row(self, row: tuple) -> Row | None:
        """None: nothing that `put` would have written."""
        key, size, time, frames, decoded, height, width, codec, unsure = row
        numbers = (frames, decoded, height, width)
        if not (
            all(type(number) is int and UNKNOWN <= number <= _LARGEST for number in numbers)
            and isinstance(key, bytes)
            and isinstance(codec, str)
            and isinstance(unsure, str | None)
        ):
            return None
        return Row(
            os.fsdecode(key if key.startswith(b"/") else self._base + key),
            (size, time),
            VideoInfo(frames, height, width, codec, unsure),
            decoded,
        )


@dataclass(frozen=True)
class CountedShelf:
    """A place of the index, for `decoding.counted`."""

    index: Index
    path: str
    stamp: tuple[int, int]

    def get(self) -> bytes | None:
        query = "SELECT shown FROM counted WHERE path = ? AND size = ? AND time = ?"
        try:
            found = self.index._db.execute(query, self._key).fetchone()
        except sqlite3.Error:
            return None
        return found[0] if found and isinstance(found[0], bytes) else None

    def put(self, shown: bytes) -> None:
        self.index._write("REPLACE INTO counted VALUES (?, ?, ?, ?)", [(*self._key, shown)])

    @property
    def _key(self) -> tuple[bytes, int, int]:
        return self.index._key(self.path), *self.stamp


@lru_cache(maxsize=4)
def index_at(path: Path | None) -> Index:
    """The index of that place, opened once in a process; None: one in memory, for files alone."""
    return Index(path)


def _open(path: Path) -> sqlite3.Connection | None:
    """A database with the tables of this version, or None if the place cannot hold one."""
    for attempt in range(2):
        db = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.stat().st_mode & 0o222:
                return None  # read-only by intent: root could write all the same
            if path.exists() and not path.is_file():
                return None
            db = sqlite3.connect(path, timeout=10, check_same_thread=False)
            if not _is_ours(db):
                db.close()
                _say_foreign(path)
                return None
            with db:
                db.execute("BEGIN IMMEDIATE")  # fails where the file is not writable
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version != _VERSION:
                    for table, columns in _TABLES.items():
                        if version != _WITHOUT_COUNTED or table != "videos":
                            db.execute(f"DROP TABLE IF EXISTS {table}")
                            db.execute(f"CREATE TABLE {table} ({columns})")
                db.execute(f"PRAGMA user_version = {_VERSION}")
            return db
        except (sqlite3.Error, OSError) as error:
            if db is not None:
                db.close()
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            )
            if not damaged or attempt or path.is_symlink():
                return None
            path.unlink(missing_ok=True)  # the name is ours
    return None


def _is_ours(db: sqlite3.Connection) -> bool:
    """Whether it holds nothing, or tables of this or of an earlier version and nothing else."""
    if db.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
        ours = [f"CREATE TABLE {table} ({columns})" for table, columns in _TABLES.items()]
    else:
        ours = [f"CREATE TABLE {table} ({_OF_A_FILE}" for table in _TABLES]
    made = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    return all(sql.startswith(tuple(ours)) for (sql,) in made)


def _say_foreign(path: Path) -> None:
    if parent_process() is None:  # once, not from every worker
        warnings.warn(
            f"{path} is a database of something else and is left alone; what is known of the "
            f"videos is kept in {cache_folder()}",
            stacklevel=2,
        )


def _in_cache_folder(path: Path) -> Path:
    name = blake2b(os.fsencode(os.path.abspath(path)), digest_size=16).hexdigest()
    return cache_folder() / f"{name}.sqlite"
