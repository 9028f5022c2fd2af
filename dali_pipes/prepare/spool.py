"""Making reels at an address: shards grow on this machine, and are sent as soon as they are closed.

    ADDRESS/reels.json                        as in a folder, like index.npz
    ADDRESS/reels-0000-00000-HEX.tar          no two runs ever choose one name: nothing is replaced
    ADDRESS/reels-0000-00000-HEX.done.jsonl   the lines of its videos, until they are in the index
    SPOOL/HASH/HEX/       what a rank has not sent yet, a folder as `shards` describes it
    SPOOL/HASH/HEX.lock   held as long as the rank lives

Lines are sent before their shard, and count once it is there. What a killed run left on this
machine is sent by the next one. Ranks need not see each other's disks.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from dali_pipes.decoding.opening import words
from dali_pipes.lock import held_if_free, locked
from dali_pipes.prepare.origins import short_hash
from dali_pipes.prepare.shards import (
    Made,
    ShardWriter,
    by_name,
    finish,
    forget_lines,
    of_index,
    of_lines,
    read_done,
    read_shard,
    recover,
)
from dali_pipes.prepare.store import check_claim, recorded, unclaimed
from dali_pipes.prepare.work import BadInput, Ranks, bad_input
from dali_pipes.sources.reel_index import INDEX_FILE
from dali_pipes.sources.reels import MANIFEST
from dali_pipes.storage import NotFetched, RemoteFiles
from dali_pipes.storage.remote import AT_ONCE
from kernels.cache import cache_folder

PATIENCE_SECONDS = 600.0  # once the work has begun; before it, an address may be mistyped

_LINES = ".done.jsonl"


class Address:
    """An address where reels are made, as `reels.Folder` is a folder."""

    def __init__(self, address: str, spool: Path | None) -> None:
        """Raises BadInput if fsspec cannot talk to such an address, or it holds credentials."""
        with bad_input():
            self._files = RemoteFiles(address, MANIFEST)
        self._spool = spool or cache_folder() / "prepare"
        self._own = self._spool  # this rank's folder, as soon as there is one
        self._lines: list[str] = []  # files whose lines are in what `done` found

    @property
    def parts(self) -> Path:
        return self._own / ".parts"

    def begin(
        self,
        place: Ranks,
        held: ExitStack,
        settings: dict[str, Any],
        notes: dict[str, Any],
        is_current: Callable[[Made], bool],
    ) -> dict[str, str]:
        """Claim the address and send what a killed run left. The origins of what is made, by name.

        Raises BadInput; OSError where what was left cannot be sent.
        """
        # What was made in another way must never be sent among these.
        hashed = short_hash(json.dumps([self._files.place, settings]))
        root = self._spool / hashed
        place.first(lambda: self._claim(root, held, settings, notes))
        self._files = self._files.with_patience(PATIENCE_SECONDS)
        _make(root)
        self._send_left_overs(root)  # first: the disk may be full of them
        held.enter_context(self._own_folder(root))
        place.meet(None)
        return place.first(lambda: self._origins(is_current))

    def writer(self, rank: int) -> ShardWriter:
        def suffix() -> str:
            return f"-{secrets.token_hex(4)}"

        return ShardWriter(self._own, rank, suffix, lambda: self._send(self._own))

    def done(self, is_current: Callable[[Made], bool]) -> dict[str, Made]:
        """The videos that are whole at the address, by name. Raises OSError."""
        with self._continued():
            return self._done(is_current)

    def finish(self, done: dict[str, Made]) -> None:
        """Write the index of what is done, and remove the lines it was made of. Raises OSError."""
        finish(self.parts, done)
        with self._continued(INDEX_FILE):
            self._files.upload(self.parts / INDEX_FILE, INDEX_FILE)
        with self._continued():
            for name in self._lines:
                with suppress(FileNotFoundError):
                    self._files.remove(name)

    def _claim(
        self, root: Path, held: ExitStack, settings: dict[str, Any], notes: dict[str, Any]
    ) -> None:
        _make(root)
        with bad_input():
            held.enter_context(locked(root / ".lock", "`prepare reels`"))
        address, files = self._files.place, self._files
        record = f"{address}/{MANIFEST}"
        with self._opening():
            try:
                check_claim(files.read_whole(MANIFEST), record, address, settings)
            except FileNotFoundError:
                if files.names():
                    raise unclaimed(record, address) from None
                files.write(MANIFEST, recorded(settings, notes).encode())

    @contextmanager
    def _own_folder(self, root: Path) -> Iterator[None]:
        """A folder for this rank alone. It stays, for the next run, where an error ends this."""
        own = root / secrets.token_hex(8)
        with locked(_lock(own), "`prepare reels`"):
            self._own = own
            _make(self.parts)
            yield
            _remove(own)

    def _send_left_overs(self, root: Path) -> None:
        """Whichever rank comes first to what a dead one left."""
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            with held_if_free(_lock(folder)) as is_free:
                if is_free:
                    recover(folder, read_done(folder))
                    self._send(folder)
                    _remove(folder)

    def _send(self, folder: Path) -> None:
        """Send the closed shards of a folder where none grows, and remove them. Raises OSError."""
        done = read_done(folder)
        for shard in sorted(folder.glob("reels-*.tar")):
            lines = "".join(made.to_line() for made in done.values() if made.shard == shard.name)
            with self._continued(shard.name):
                self._files.write(f"{shard.stem}{_LINES}", lines.encode())
                self._files.upload(shard, shard.name)
            shard.unlink()
        forget_lines(folder)

    def _origins(self, is_current: Callable[[Made], bool]) -> dict[str, str]:
        with self._opening():
            return {name: made.origin for name, made in self._done(is_current).items()}

    def _done(self, is_current: Callable[[Made], bool]) -> dict[str, Made]:
        names = self._files.names()
        sizes = self._sizes(name for name in names if name.endswith(".tar"))
        # Lines of other shards stay: another run may be about to send one.
        self._lines = [name for name in names if name.endswith(_LINES) and _shard_of(name) in sizes]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            noted = list(chain.from_iterable(pool.map(self._noted, self._lines)))
        # The index after the lines: a run that ends meanwhile removes them once it has written it.
        known = self._indexed()
        if known is None:
            rest = sorted(sizes.keys() - {made.shard for made in noted})
            known = list(chain.from_iterable(map(self._read_shard, rest)))
        there = [made for made in [*known, *noted] if made.end <= sizes.get(made.shard, 0)]
        return by_name(there, is_current)

    def _sizes(self, shards: Iterator[str]) -> dict[str, int]:
        """Bytes of files that were listed. Raises NotFetched."""
        self._files.look(shards)
        return {name: self._files.stamp(name)[0] for name in self._files.versions}

    def _noted(self, lines: str) -> list[Made]:
        try:
            return list(of_lines(self._files.read_whole(lines).decode(errors="replace")))
        except FileNotFoundError:
            return []  # removed meanwhile, and so in the index

    def _indexed(self) -> list[Made] | None:
        """The videos of the index; None: there is none, or it is damaged."""
        try:
            with self._fetched(INDEX_FILE) as file:
                return of_index(file)
        except (FileNotFoundError, ValueError):
            return None

    def _read_shard(self, name: str) -> list[Made]:
        """The videos of a shard, as it says itself."""
        print(f"reels: in no index; reading {self._files.place}/{name}", flush=True)
        with self._fetched(name) as file:
            return list(read_shard(file))

    @contextmanager
    def _fetched(self, name: str) -> Iterator[Path]:
        """A file of the address on this disk. Raises FileNotFoundError, NotFetched, OSError."""
        file = self.parts / name
        try:
            self._files.download(name, self._files.version(name), file, lambda size: None)
            yield file
        finally:
            file.unlink(missing_ok=True)  # what is mapped of it stays

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Whatever does not come within was given wrong. Raises BadInput."""
        try:
            yield
        except FileNotFoundError as error:
            reason = "there is no such bucket or folder; make it first"
            raise BadInput(f"{self._files.place}: {reason}") from error
        except NotFetched as error:
            raise BadInput(f"{self._files.place}: {error.strerror}") from error

    @contextmanager
    def _continued(self, name: str = "") -> Iterator[None]:
        """What fails within is made up for by the next run. Raises OSError that says so."""
        try:
            yield
        except (FileNotFoundError, NotFetched) as error:
            where = f"{self._files.place}/{name}" if name else self._files.place
            reason = f"{error.strerror}; nothing that is whole is lost, the same command continues"
            raise OSError(f"{where}: {reason}") from error


def _shard_of(lines: str) -> str:
    return f"{lines.removesuffix(_LINES)}.tar"


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    """Its lock last: whoever sees the folder has to find it held."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock(folder).unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """Raises BadInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: {words(error)}; choose another --spool") from error
