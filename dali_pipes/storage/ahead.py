"""Fetching ahead of those who read: the order of what they will ask for is known.

    n     n+1  n+2  ...  n+ahead  |  n+ahead+1  ...      ranges of bytes, a clip each
    ^     '------------------'       next to be fetched
    asked for    fetched, or on their way

Ranges are taken up some at a time, those in the cache left out, neighbours in one request.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from dali_pipes.storage.cache import PAGE, Cache, Held, Piece
from dali_pipes.storage.remote import RemoteFiles

NEAR = 2**16  # bytes between two ranges that one request may well bring along
LARGEST = 2**23  # bytes of a request for several
MOST_REQUESTS = 128  # under way at once
_LATE = 4  # times what is fetched ahead: nobody lags so far behind


class Range(NamedTuple):
    """The bytes of a clip in a shard, part of a piece that the cache keeps together."""

    shard: str
    offset: int
    size: int
    piece: Piece

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def pages(self) -> tuple[int, int]:
        """Of the piece: the first, and the one after the last."""
        return (self.offset - self.piece.begin) // PAGE, -(-(self.end - self.piece.begin) // PAGE)


@dataclass
class _Part:
    """What has to come of a range: the bytes begin..end of its shard, whole pages with a cache."""

    range: Range
    future: Future[bytes | Held]
    begin: int
    end: int


class Ahead:
    """Byte ranges of remote files, fetched before they are asked for.

    plan: the n-th range that will be asked for; None where there is none. ahead: how many are
    fetched before their turn. Safe to use from several threads.
    """

    def __init__(
        self,
        files: RemoteFiles,
        cache: Cache | None,
        plan: Callable[[int], Range | None],
        ahead: int,
    ) -> None:
        self._files, self._cache, self._plan, self._ahead = files, cache, plan, ahead
        self.reached = -1  # number in the plan of what was asked for so far
        self._next = 0  # number in the plan of the first that is not taken up
        self._coming: dict[tuple[str, int, int], deque[tuple[int, Future[bytes | Held]]]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(min(ahead + 1, MOST_REQUESTS))
        with self._lock:
            self._go_on(-1)

    def get(self, shard: str, offset: int, size: int) -> bytes | Held:
        """The bytes, once they are here, or where. Raises what `RemoteFiles.read` raises."""
        key = shard, offset, size
        with self._lock:
            future = None
            if key in self._coming:
                number, future = self._coming[key].popleft()
                if not self._coming[key]:
                    del self._coming[key]
                self._go_on(number)
        return self._files.read(*key) if future is None else future.result()

    def get_again(self, wrong: Range) -> bytes:
        """The bytes anew from where they lie: those that came before were wrong."""
        if self._cache is not None:
            self._cache.forget(wrong.piece, *wrong.pages)
        return self._files.read_again(wrong.shard, wrong.offset, wrong.size)

    def _go_on(self, reached: int) -> None:
        """Take up what is within reach, once it is enough for neighbours to be among it.

        The lock is held.
        """
        self.reached = max(self.reached, reached)
        until = self.reached + 1 + self._ahead
        if until - self._next < max(1, self._ahead // 4):
            return
        self._forget(self.reached - _LATE * self._ahead)
        parts = []
        for number in range(self._next, until):
            if (found := self._plan(number)) is not None:
                part = _Part(found, Future[bytes | Held](), found.offset, found.end)
                key = found.shard, found.offset, found.size
                self._coming.setdefault(key, deque()).append((number, part.future))
                parts.append(part)
        self._next = until
        self._pool.submit(self._fetch, parts)

    def _forget(self, until: int) -> None:
        """What came before number `until` and nobody asked for, or it would stay for ever."""
        for key, waiting in list(self._coming.items()):
            while waiting and waiting[0][0] < until:
                waiting.popleft()
            if not waiting:
                del self._coming[key]

    def _fetch(self, parts: Sequence[_Part]) -> None:
        """Give what the cache has, and send requests for the rest."""
        groups: list[list[_Part]] = []
        for part in sorted(filter(self._has_to_come, parts), key=_place):
            last = groups[-1] if groups else []
            if last and _fits(last, part):
                last.append(part)
            else:
                groups.append([part])
        for group in groups:
            self._pool.submit(self._request, group)

    def _has_to_come(self, part: _Part) -> bool:
        """Whether any of it does; narrows it to what does."""
        if self._cache is None:
            return True
        wanted, piece = part.range, part.range.piece
        absent = self._cache.absent(piece, *wanted.pages)
        if not absent:
            held = self._cache.held(piece, wanted.offset - piece.begin, wanted.size)
            part.future.set_result(held)
            return False
        part.begin = piece.begin + absent[0] * PAGE
        part.end = piece.begin + min((absent[-1] + 1) * PAGE, piece.size)
        return True

    def _request(self, group: Sequence[_Part]) -> None:
        begin, end = group[0].begin, max(part.end for part in group)
        try:
            data = self._files.read(group[0].range.shard, begin, end - begin)
        except BaseException as error:
            if len(group) == 1:
                group[0].future.set_exception(error)
            else:  # which of them is to blame?
                for part in group:
                    self._pool.submit(self._request, [part])
            return
        for part in group:
            try:
                part.future.set_result(
                    self._whole(part, data[part.begin - begin : part.end - begin])
                )
            except BaseException as error:
                part.future.set_exception(error)

    def _whole(self, part: _Part, came: bytes) -> bytes:
        """The range, of which the cache has what did not have to come."""
        wanted, piece = part.range, part.range.piece
        if self._cache is not None:
            self._cache.write(piece, (part.begin - piece.begin) // PAGE, came)
        before = self._held(wanted, wanted.offset, part.begin)
        after = self._held(wanted, part.end, wanted.end)
        if before is None or after is None:  # it was there a moment ago
            return self._files.read(wanted.shard, wanted.offset, wanted.size)
        inner = came[max(0, wanted.offset - part.begin) : wanted.end - part.begin]
        return before + inner + after

    def _held(self, wanted: Range, begin: int, end: int) -> bytes | None:
        """Bytes begin..end of the shard, if there are any between, as the cache has them."""
        if begin >= end:
            return b""
        assert self._cache is not None
        return self._cache.held(wanted.piece, begin - wanted.piece.begin, end - begin).read()


def _place(part: _Part) -> tuple[str, int]:
    return part.range.shard, part.begin


def _fits(group: Sequence[_Part], part: _Part) -> bool:
    """Whether a part, which lies behind the others, is better fetched with them."""
    first, end = group[0], max(one.end for one in group)
    return (
        first.range.shard == part.range.shard
        and part.begin <= end + NEAR
        and part.end - first.begin <= LARGEST
    )
