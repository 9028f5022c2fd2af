"""The files of an address, by fsspec: byte ranges, tried again until patience ends.

Credentials, endpoints and regions come from the environment, as the libraries read it (AWS_*,
GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_*).
"""

import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.request import getproxies

from dali_pipes.storage.address import checked_address
from dali_pipes.storage.diagnosis import ABSENT, Final, code, diagnosis
from dali_pipes.storage.files import NotFetched, Stamp, Unreachable
from dali_pipes.storage.signed import SignedReads

Found = TypeVar("Found")

OPENING_SECONDS = 30.0  # patience before the first clip, when an address may be mistyped
AT_ONCE = 16  # requests under way where many files are looked at
CHUNK = 2**23  # bytes of a request where a whole file is wanted
SLOWEST = 2.5e5  # bytes a second: what is sent more slowly does not arrive
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  # seconds between attempts


@dataclass(frozen=True)
class Version:
    """Which content a file has."""

    size: int  # bytes
    tag: str  # ETag, or the time of change; "" where the server tells neither


@dataclass
class RemoteFiles:
    """The files of an address, without credentials in it.

    proof: a file that is there as long as any is.
    patience: seconds that passing faults of one file are borne.
    Raises ValueError if fsspec cannot talk to such an address.
    """

    place: str
    proof: str
    patience: float = OPENING_SECONDS
    versions: dict[str, Version | str] = field(default_factory=dict)  # as `look` saw them; or why
    _given_up: set[str] = field(default_factory=set, init=False)  # files borne long enough

    def __post_init__(self) -> None:
        self.place = checked_address(self.place)
        self.system  # noqa: B018  # now: who gave the address is told at once

    @cached_property
    def system(self) -> Any:
        """The fsspec file system. It does not try again by itself: that is done here."""
        return _system(self.place, self._seconds)

    @cached_property
    def _ranges(self) -> Any:
        """What reads byte ranges."""
        if self.place.partition("://")[0] in _PLAIN:
            return self.system
        return SignedReads(self.system, _system("https://", self._seconds, encoded=True))

    @property
    def _seconds(self) -> float:
        """That an answer may take."""
        return max(1.0, min(20.0, self.patience / 10))

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dict__.keys() - {"system", "_ranges"}}

    def with_patience(self, seconds: float) -> "RemoteFiles":
        """The same files, for which faults are borne so long."""
        return RemoteFiles(self.place, self.proof, seconds, self.versions)

    def look(self, names: Iterable[str]) -> None:
        """Find out what versions some files have, many at once. Raises Unreachable."""

        def seen(name: str) -> Version | str:
            try:
                return self.version(name)
            except OSError as error:
                return str(error.strerror)

        names = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self.versions = dict(zip(names, pool.map(seen, names), strict=True))
        if any(isinstance(one, str) and one != ABSENT for one in self.versions.values()):
            self._check_reachable()

    def version(self, name: str) -> Version:
        """What content the file has now. Raises NotFetched, FileNotFoundError."""
        info = self._tried(name, lambda: self.system.info(self._path(name)))
        if info.get("size") is None:
            raise NotFetched("its server does not tell how long it is")
        tags = ("ETag", "etag", "Last-Modified", "LastModified", "updated", "mtime")
        tag = next((str(info[name]) for name in tags if info.get(name)), "")
        return Version(int(info["size"]), tag)

    def stamp(self, name: str) -> Stamp:
        """As `look` saw the file. Raises OSError if it is not there."""
        version = self._seen(name)
        digest = blake2b(version.tag.encode(), digest_size=7).digest()
        return version.size, int.from_bytes(digest, "big")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly these bytes of a file that was looked at. Raises NotFetched, Unreachable."""
        version = self._seen(name)
        if offset + size > version.size:
            raise NotFetched(f"has {version.size} bytes, {offset + size} are needed")
        try:
            return self._range(name, offset, size)
        except OSError:
            self._check_reachable()
            raise

    def read_again(self, name: str, offset: int, size: int) -> bytes:
        """The same, once more. Raises NotFetched if the file was replaced since it was looked at;
        Unreachable."""
        data = self.read(name, offset, size)
        if self.versions[name] != self.version(name):
            raise NotFetched("was replaced while it was in use; start again")
        return data

    def read_whole(self, name: str) -> bytes:
        """All of a small file. Raises FileNotFoundError, NotFetched."""
        data: bytes = self._tried(name, lambda: self.system.cat_file(self._path(name)))
        return data

    def download(self, name: str, version: Version, file: Path, step: Callable[[int], Any]) -> None:
        """Write a file of a known version to the disk; `step` is told of bytes that have come.

        Raises NotFetched, also if it is replaced meanwhile; OSError of the disk.
        """
        with open(file, "wb") as out:
            for offset in range(0, version.size, CHUNK):
                data = self._range(name, offset, min(CHUNK, version.size - offset))
                out.write(data)
                step(len(data))
        if self.version(name) != version:
            raise NotFetched("was replaced while it was read; start again")

    def upload(self, file: Path, name: str) -> None:
        """Put a file there: whole, or not at all. Raises NotFetched."""
        size = file.stat().st_size

        def put() -> None:
            try:
                self._within(size, lambda: self.system.put_file(str(file), self._path(name)))
            except FileNotFoundError as error:
                if code(error) != "NoSuchUpload":
                    raise
                # the parts are one already, or gone: s3fs, which wanted to remove them, hides why
                raise OSError("what was sent was not confirmed") from None

        self._tried(name, put)

    def write(self, name: str, data: bytes) -> None:
        """Put bytes there: whole, or not at all. Raises NotFetched."""

        def put() -> None:
            self._within(len(data), lambda: self.system.pipe_file(self._path(name), data))

        self._tried(name, put)

    def remove(self, name: str) -> None:
        """Remove a file. Raises FileNotFoundError, NotFetched."""
        self._tried(name, lambda: self.system.rm_file(self._path(name)))

    def names(self) -> list[str]:
        """The files directly there. Raises NotFetched."""
        try:
            found = self._tried("", lambda: self.system.ls(self._path(""), detail=True))
        except FileNotFoundError:
            return []
        return sorted(str(one["name"]).rpartition("/")[2] for one in found if one["type"] == "file")

    def _seen(self, name: str) -> Version:
        """As `look` saw the file. Raises NotFetched if it did not."""
        version = self.versions[name]
        if isinstance(version, str):
            raise NotFetched(version)
        return version

    def _range(self, name: str, offset: int, size: int) -> bytes:
        def get() -> bytes:
            data: bytes = self._ranges.cat_file(self._path(name), start=offset, end=offset + size)
            if len(data) > size:
                raise Final("its server does not serve byte ranges")
            if len(data) < size:
                raise OSError(f"{len(data)} of {size} bytes came")
            return data

        return self._tried(name, get) if size else b""

    def _within(self, size: int, send: Callable[[], object]) -> None:
        """Send so many bytes. Raises OSError if that does not end: libraries wait for ever for a
        server that takes nothing."""
        outcome = Future[object]()

        def work() -> None:
            try:
                outcome.set_result(send())
            except BaseException as error:
                outcome.set_exception(error)

        Thread(target=work, daemon=True).start()
        seconds = 3 * self._seconds + size / SLOWEST
        try:
            outcome.result(seconds)
        except TimeoutError:
            if outcome.done():  # it was the library's
                raise
            raise OSError(f"not taken in {seconds:.0f} s") from None

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}" if name else self.place

    def _tried(self, name: str, get: Callable[[], Found]) -> Found:
        """What `get` gives, at last. Raises FileNotFoundError, NotFetched.

        A file that was borne to the end once gets one attempt, until it comes again.
        """
        began, pause, attempts = time.monotonic(), _FIRST_PAUSE, 0
        patience = 0.0 if name in self._given_up else self.patience
        while True:
            attempts += 1
            try:
                found = get()
            except Exception as error:
                why, passes = diagnosis(error)
                spent = time.monotonic() - began
                if not passes:
                    raise (
                        FileNotFoundError(2, why) if why == ABSENT else NotFetched(why)
                    ) from error
                if spent + pause >= patience:
                    self._given_up.add(name)
                    raise NotFetched(f"{why} ({_times(attempts)} in {spent:.0f} s)") from error
            else:
                self._given_up.discard(name)
                return found
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _check_reachable(self) -> None:
        """Raises Unreachable unless the file comes that is there as long as any is."""
        short = min(0.5, self.patience / 20)
        for pause in (short, 2 * short, None):  # a busy server refuses a few of all requests
            try:
                self.system.cat_file(self._path(self.proof), start=0, end=1)
                return
            except Exception as error:
                why, passes = diagnosis(error)
                if not passes or pause is None:
                    raise Unreachable(f"{self.place}: nothing comes any more: {why}") from error
            time.sleep(pause * random.uniform(0.5, 1.0))


_PLAIN = ("http", "https", "file")  # there is nothing to sign


def _times(attempts: int) -> str:
    return "tried once" if attempts == 1 else f"tried {attempts} times"


def _system(address: str, seconds: float, encoded: bool = False) -> Any:
    """The file system of an address, whose answers may take so long. Raises ValueError.

    encoded: HTTP addresses are taken as they are, as signed ones have to be.
    """
    import fsspec

    protocol = address.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False}  # or info() tells what once was
    if protocol in ("s3", "s3a"):
        options["config_kwargs"] = {
            "connect_timeout": seconds,
            "read_timeout": seconds,
            "max_pool_connections": 128,
            "signature_version": "s3v4",  # or signed URLs are of a kind that few stores take
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
    elif protocol in ("http", "https"):
        try:
            from aiohttp import ClientTimeout
        except ModuleNotFoundError as error:
            raise ValueError(_missing(address, error)) from error
        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        client = {"timeout": timeout, "trust_env": bool(getproxies())}  # it costs a millisecond
        options |= {"client_kwargs": client, "encoded": encoded}
    try:
        system = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
    except ImportError as error:
        raise ValueError(_missing(address, error)) from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error
    system.retries = 1  # of s3fs, which would try five times
    return system


def _missing(address: str, error: ImportError) -> str:
    return f"{address}: {error}; pip install '.[remote]', or what fsspec names for it"
