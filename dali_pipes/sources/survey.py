"""What is known of a source's items before the first clip: looked up, or found out by opening."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Thread
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dali_pipes.decoding.encoded import unsure
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.sources.index import UNKNOWN, Index, Row
from dali_pipes.sources.reels import Reels
from dali_pipes.sources.source import Source

Key = TypeVar("Key")
Found = TypeVar("Found")

PROBE_AT_START = 1000  # unknown videos; above that, workers probe what they open


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

        def look(path: str) -> Row:
            return probe(source, first[path], stamps[path], for_gpu)

        hidden = None if progress and stamps else True  # None: hidden unless on a terminal
        for path, found in tqdm(
            in_threads(look, stamps),
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


def in_threads(
    look: Callable[[Key], Found], keys: Iterable[Key]
) -> Iterator[tuple[Key, Found | BadVideo]]:
    """Each key and what a look at it finds, or why it is no use, as it is found.

    An interrupt need not wait for a slow file.
    """
    todo = SimpleQueue[Key | None]()
    done = SimpleQueue[tuple[Key, Found | Exception]]()
    for key in keys:
        todo.put(key)
    left, threads = todo.qsize(), os.cpu_count() or 1

    def work() -> None:
        while (key := todo.get()) is not None:
            try:
                done.put((key, look(key)))
            except Exception as error:
                done.put((key, error))

    for _ in range(min(threads, left)):
        todo.put(None)
        Thread(target=work, daemon=True).start()
    for _ in range(left):
        key, found = done.get()
        if isinstance(found, Exception) and not isinstance(found, BadVideo):
            raise found
        yield key, found


def probe(source: Source, item: int, stamp: tuple[int, int], for_gpu: bool = False) -> Row:
    """Open an item and write down what it is. Raises BadVideo."""
    path, info = source.paths[item], source.probe(item)
    return Row(path, stamp, replace(info, unsure=unsure(path)) if for_gpu else info)
