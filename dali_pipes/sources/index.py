"""What is known of videos, kept between runs: frame counts, sizes, codecs.

The index is an SQLite file beside the list or in the folder of videos, or in the user's cache
folder where that place is not writable. A row is void when the file's size or time of change is
another. It is a cache: losing it costs time, never a clip. Files that cannot be used are not in it
but opened each time: what was wrong may have been the system's, or been mended.
"""

import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dali_pipes.decoding.encoded import unsure
from dali_pipes.decoding.video import BadVideo, VideoInfo
from dali_pipes.sources.reels import Reels
from dali_pipes.sources.source import Source
from kernels.cache import cache_folder

PROBE_AT_START = 1000  # unknown videos; above that, workers probe what they open
UNKNOWN = -1

_VERSION = 3
_COLUMNS = (
    "path BLOB PRIMARY KEY, size INTEGER, time INTEGER, frames INTEGER, decoded INTEGER, "
    "height INTEGER, width INTEGER, codec TEXT, unsure TEXT"
)


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
            self._db.execute(f"CREATE TABLE videos ({_COLUMNS})")
        if path is not None:
            self._base = os.fsencode(os.path.join(os.path.abspath(path.parent), ""))

    def rows(self) -> Iterator[Row]:
        """Everything that is known."""
        try:
            for row in self._db.execute("SELECT * FROM videos"):
                yield self._row(row)
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
        try:
            with self._db:
                self._db.executemany(f"REPLACE INTO videos VALUES ({'?, ' * 8}?)", table)
        except sqlite3.Error as error:
            warnings.warn(f"index {self.path} cannot be written: {error}", stacklevel=2)

    def close(self) -> None:
        self._db.close()

    def _key(self, path: str) -> bytes:
        """Relative to the index where possible, so that both can be moved together."""
        return os.fsencode(path).removeprefix(self._base)

    def _row(self, row: tuple) -> Row:
        key, size, time, frames, decoded, height, width, codec, unsure = row
        return Row(
            os.fsdecode(key if key.startswith(b"/") else self._base + key),
            (size, time),
            VideoInfo(frames, height, width, codec, unsure),
            decoded,
        )


@dataclass
class Survey:
    """What is known of a source's items before the first clip."""

    frames: NDArray[np.int32]  # [items], as probed, or UNKNOWN
    decoded: NDArray[np.int32]  # [items], where decoding proved fewer, or UNKNOWN
    bad: dict[int, BadVideo] = field(default_factory=dict)  # by item
    unsure: dict[int, str] = field(default_factory=dict)  # by item; VideoInfo.unsure

    @classmethod
    def unknown(cls, items: int) -> Self:
        return cls(np.full(items, UNKNOWN, np.int32), np.full(items, UNKNOWN, np.int32))

    def learn(self, item: int, row: Row) -> None:
        self.frames[item], self.decoded[item] = row.info.frames, row.decoded
        if row.info.unsure is not None:
            self.unsure[item] = row.info.unsure


def survey(source: Source, index: Index, progress: bool = True, for_gpu: bool = False) -> Survey:
    """Look at every file without opening it; open those not in the index, if they are few.

    `for_gpu`: say of each, too, why a GPU does not decode it.
    """
    known = Survey.unknown(len(source))
    if isinstance(source, Reels):  # their own index says it all
        known.frames = np.where(source.frames == 0, UNKNOWN, source.frames)
        known.bad |= source.missing()
        return known
    first: dict[str, int] = {}  # a list may hold a file many times
    same = [first.setdefault(path, item) for item, path in enumerate(source.paths)]
    stamps = {}
    for path, item in first.items():
        try:
            stamps[path] = source.stamp(item)
        except BadVideo as error:
            known.bad[item] = error
    for row in index.rows():
        if stamps.get(row.path) == row.stamp and row.serves(for_gpu):
            known.learn(first[row.path], row)
            del stamps[row.path]
    if len(stamps) <= PROBE_AT_START:
        new = []

        def look(path: str) -> Row | BadVideo:
            try:
                return probe(source, first[path], stamps[path], for_gpu)
            except BadVideo as error:
                return error

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hidden = None if progress and stamps else True  # None: hidden unless on a terminal
            for path, found in tqdm(
                zip(stamps, pool.map(look, stamps), strict=True),
                "opening videos", len(stamps), unit="video", leave=False, disable=hidden,
            ):  # fmt: skip
                if isinstance(found, BadVideo):
                    known.bad[first[path]] = found
                else:
                    known.learn(first[path], found)
                    new.append(found)
        index.put(new)
    known.frames, known.decoded = known.frames[same], known.decoded[same]
    known.bad = {item: known.bad[like] for item, like in enumerate(same) if like in known.bad}
    known.unsure = {
        item: known.unsure[like] for item, like in enumerate(same) if like in known.unsure
    }
    return known


def probe(source: Source, item: int, stamp: tuple[int, int], for_gpu: bool = False) -> Row:
    """Open an item and write down what it is. Raises BadVideo."""
    path, info = source.paths[item], source.probe(item)
    return Row(path, stamp, replace(info, unsure=unsure(path)) if for_gpu else info)


def _open(path: Path) -> sqlite3.Connection | None:
    """A database with the table of this version, or None if the place cannot hold one."""
    for attempt in range(2):
        db = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.stat().st_mode & 0o222:
                return None  # read-only by intent: root could write all the same
            db = sqlite3.connect(path, timeout=10, check_same_thread=False)
            with db:
                db.execute("BEGIN IMMEDIATE")  # fails where the file is not writable
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version in (1, 2):  # these held unusable files, too, and 1 not `unsure`
                    unsure = "NULL" if version == 1 else "unsure"
                    columns = "path, size, time, frames, decoded, height, width, codec"
                    db.execute("ALTER TABLE videos RENAME TO old")
                    db.execute(f"CREATE TABLE videos ({_COLUMNS})")
                    db.execute(
                        f"INSERT INTO videos SELECT {columns}, {unsure} FROM old "
                        "WHERE stage IS NULL"
                    )
                    db.execute("DROP TABLE old")
                elif version != _VERSION:
                    db.execute("DROP TABLE IF EXISTS videos")
                    db.execute(f"CREATE TABLE videos ({_COLUMNS})")
                db.execute(f"PRAGMA user_version = {_VERSION}")
            return db
        except (sqlite3.Error, OSError) as error:
            if db is not None:
                db.close()
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            )
            if not damaged or attempt:
                return None
            path.unlink(missing_ok=True)
    return None


def _in_cache_folder(path: Path) -> Path:
    name = blake2b(os.fsencode(os.path.abspath(path)), digest_size=16).hexdigest()
    return cache_folder() / f"{name}.sqlite"
