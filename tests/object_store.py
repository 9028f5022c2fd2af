"""An object store that speaks S3, and a proxy before it that spoils answers by a schedule.

    def test_it(object_store, faulty, tmp_path):       # fixtures; the environment names the proxy
        address = object_store.upload(tmp_path)         # s3://bucket/prefix
        faulty.schedule = at_random(1, 0.2, Fault("reset"), Fault("status", status=503))
        ...
        assert faulty.injected["reset"] > 0

Processes that a test starts see them by `environment`.
"""

import asyncio
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest

BUCKET = "reels-of-tests"
ACCESS_KEY = "AKIAFAKEKEYOFTESTS01"  # recognisable: in no message, log or file
SECRET_KEY = "fake+secret/of/tests/DoNotRepeatMe0123456"

Result = TypeVar("Result")


def environment(url: str) -> dict[str, str]:
    """Variables by which an S3 client finds `url`, and no profile of whoever runs the tests."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


STRAY = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3")

_MOTO = """
import ctypes, sys
ctypes.CDLL(None).prctl(1, 9)  # ends with the process that started it, however that ends
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class ObjectStore:
    """A server process with one bucket, there until `close`."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._uploads = itertools.count()
        command = [sys.executable, "-c", _MOTO, str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            self._wait(port)
            self.client = self._client()
            self.client.create_bucket(Bucket=BUCKET)
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """By which S3 clients find the store itself, without the proxy."""
        return environment(self.url)

    def upload(self, folder: Path, prefix: str | None = None) -> str:
        """Put the files of a folder under a prefix, by default one of its own; the address."""
        prefix = prefix or f"uploads/{next(self._uploads)}"
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def put(self, key: str, data: bytes) -> None:
        """An object; `key` may be its whole address."""
        self.client.put_object(Bucket=BUCKET, Key=_key(key), Body=data)

    def get(self, key: str) -> bytes:
        """What an object holds."""
        data: bytes = self.client.get_object(Bucket=BUCKET, Key=_key(key))["Body"].read()
        return data

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.client.delete_object(Bucket=BUCKET, Key=_key(key))

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin so."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=_key(prefix)
        )
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, port: int) -> None:
        log: deque[bytes] = deque(maxlen=20)
        threading.Thread(target=lambda: log.extend(self._process.stderr), daemon=True).start()
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the object store did not start: {b''.join(log).decode()}")

    def _client(self) -> Any:
        import boto3

        with mock.patch.dict(os.environ, self.environment):
            for name in STRAY:
                os.environ.pop(name, None)
            return boto3.session.Session().client("s3")


def _key(key: str) -> str:
    return key.removeprefix(f"s3://{BUCKET}/")


@dataclass(frozen=True)
class Fault:
    """What becomes of an answer.

    delay     `seconds` late, and right
    refuse    the connection is closed instead
    reset     the connection is reset in the middle of the body
    truncate  the length is announced in full, the body ends early
    status    `status` instead, with an error as of S3 that says `text`
    hang      nothing for `seconds`, then the connection is closed
    corrupt   one bit of the body is another one
    whole     the server knows nothing of ranges: everything comes, with status 200
    """

    kind: str
    seconds: float = 0.0
    status: int = 503
    text: str = "injected"


@dataclass(frozen=True)
class Request:
    """What a client asked for, and what became of it."""

    method: str
    path: str  # as the server finds it: /bucket/key
    query: str
    range: str | None  # of bytes, as the header has it
    attempt: int  # so many times was just this asked before
    fault: Fault | None = None

    @property
    def key(self) -> str:
        """The object's, without the bucket."""
        return self.path.lstrip("/").partition("/")[2]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.path.rpartition("/")[2]


Schedule = Callable[[Request], Fault | None]


def of_shards(request: Request) -> bool:
    """Whether it reads from a .tar."""
    return request.method == "GET" and request.path.endswith(".tar")


def anything(request: Request) -> bool:
    """For `only`: faults meet all requests."""
    return True


def never(request: Request) -> None:
    """No faults."""


def always(fault: Fault) -> Schedule:
    """Every time."""
    return lambda request: fault


def first(count: int, fault: Fault) -> Schedule:
    """The first times that anything is asked for: so many tries of each range of each file fail."""
    return lambda request: fault if request.attempt < count else None


def at_random(seed: int, share: float, *faults: Fault) -> Schedule:
    """This share of answers, whatever the order in which requests come."""

    def draw(request: Request) -> Fault | None:
        what = f"{seed} {request.method} {request.name} {request.range} {request.attempt}"
        draw = random.Random(what)
        return draw.choice(faults) if draw.random() < share else None

    return draw


@dataclass
class FaultyProxy:
    """A proxy before a server of objects, in a thread of its own. Faults meet GETs of shards alone,
    unless `only` says otherwise."""

    target: str  # URL of the server
    schedule: Schedule = never
    only: Callable[[Request], bool] = of_shards
    latency: float = 0.0  # seconds that each request takes longer
    log: list[Request] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)  # kind: how often

    def __post_init__(self) -> None:
        where = urlsplit(self.target)
        self._target = where.hostname, where.port
        self._port = 0
        self._asked: Counter[tuple[str, str, str, str | None]] = Counter()
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())

    @property
    def url(self) -> str:
        """Where it stands for the server."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """By which S3 clients find it."""
        return environment(self.url)

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """S3 clients of this process, and of those it starts, find the proxy."""
        with pytest.MonkeyPatch.context() as patch:
            for name in STRAY:
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield

    def calm(self) -> None:
        """As it was at first: no faults, nothing asked."""
        self.schedule, self.only, self.latency = never, of_shards, 0.0
        self.clear()

    def clear(self) -> None:
        """Forget what was asked and injected."""
        self.log.clear()
        self.injected.clear()
        self._asked.clear()

    @contextmanager
    def away(self) -> Iterator[None]:
        """As if the server's machine were switched off: connections break, none is accepted."""
        self._run(self._leave())
        try:
            yield
        finally:
            self._run(self._listen())

    def close(self) -> None:
        """End it, and every connection."""
        self._run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._connection, "127.0.0.1", self._port, limit=_LIMIT, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def _leave(self) -> None:
        self._server.close()
        for writer in list(self._open):
            _reset(writer)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(reader, writer):
                pass
        self._open.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can take another."""
        line, headers = await _head(reader)
        method, target, _ = line.split(" ", 2)
        path, _, query = target.partition("?")
        asked = (method, unquote(path), query, headers.get("range"))
        request = Request(*asked, self._asked[asked])
        fault = self.schedule(request) if self.only(request) else None
        request = replace(request, fault=fault)
        self._asked[asked] += 1
        self.log.append(request)
        if fault is not None:
            self.injected[fault.kind] += 1
        if headers.pop("expect", "") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(self.latency)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind in ("delay", "hang"):
            await asyncio.sleep(fault.seconds)
        if kind in ("hang", "refuse"):
            return False
        if fault is not None and kind == "status":
            await _body(reader, None, headers)
            writer.write(_error(fault, method))
            await writer.drain()
            return True
        if kind == "whole":
            headers.pop("range", None)
        server_reader, server = await asyncio.open_connection(*self._target, limit=_LIMIT)
        try:
            server.write(_written(line, {**headers, "connection": "close"}))
            await _body(reader, server, headers)
            status, answer = await _head(server_reader)
            while status.split()[1] == "100":
                status, answer = await _head(server_reader)
            bodiless = method == "HEAD" or status.split()[1] in ("204", "304")
            until_end = not bodiless and not {"content-length", "transfer-encoding"} & set(answer)
            keeps = "close" if until_end else "keep-alive"
            writer.write(_written(status, {**answer, "connection": keeps}))
            if bodiless:
                await writer.drain()
            elif until_end:
                await _copy(server_reader, writer, -1)
            elif kind in ("reset", "truncate", "corrupt") and "content-length" in answer:
                data = await server_reader.readexactly(int(answer["content-length"]))
                return await _spoilt(writer, data, kind, len(self.log))
            else:
                await _body(server_reader, writer, answer)
            return not until_end
        finally:
            server.close()


_LIMIT = 2**18  # bytes that are held of a stream
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "TooManyRequests", 500: "InternalError"}


def _error(fault: Fault, method: str) -> bytes:
    code = _CODES.get(fault.status, "SlowDown")
    body = f"<Error><Code>{code}</Code><Message>{fault.text}</Message></Error>".encode()
    headers = {"content-type": "application/xml", "content-length": str(len(body))}
    head = _written(f"HTTP/1.1 {fault.status} {code}", headers)
    return head if method == "HEAD" else head + body


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """First line and headers, of which each name is there once."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return lines[0], {name.lower(): value.strip() for name, _, value in pairs}


def _written(line: str, headers: dict[str, str]) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, size: int
) -> None:
    """So many bytes as they are; all, if negative."""
    while size:
        data = await reader.read(_LIMIT if size < 0 else min(size, _LIMIT))
        if not data:
            if size > 0:
                raise ConnectionResetError("ended early")
            return
        size = size if size < 0 else size - len(data)
        if writer is not None:
            writer.write(data)
            await writer.drain()


async def _body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, headers: dict[str, str]
) -> None:
    """A body as it comes: of a known length, or in chunks."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        await _copy(reader, writer, int(headers.get("content-length", 0)))
        return
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if writer is not None:
            writer.write(line)
        if size:
            await _copy(reader, writer, size + 2)
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        if writer is not None:
            writer.write(line)
    if writer is not None:
        writer.write(line)
        await writer.drain()


async def _spoilt(writer: asyncio.StreamWriter, data: bytes, kind: str, seed: int) -> bool:
    draw = random.Random(seed)
    at = draw.randrange(len(data)) if data else 0
    if kind == "corrupt":
        bit = bytes([data[at] ^ 1 << draw.randrange(8)]) if data else b""
        writer.write(data[:at] + bit + data[at + 1 :])
        await writer.drain()
        return True
    writer.transport.set_write_buffer_limits(0)
    writer.write(data[:at])
    await writer.drain()
    if kind == "reset":
        await asyncio.sleep(0.01)  # that the client sees the first part
        _reset(writer)
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An object store for all tests; `upload` gives each a prefix of its own."""
    with ObjectStore() as store:
        yield store


@pytest.fixture
def faulty(object_store: ObjectStore) -> Iterator[FaultyProxy]:
    """A proxy before the object store, which S3 clients find in the environment; no faults yet."""
    with FaultyProxy(object_store.url) as proxy, proxy.in_environment():
        yield proxy
