"""The server of objects for figures of speed: right bytes, right answers, and late ones."""

import http.client
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from benchmarks.object_server import part, serving
from tests.object_store import environment

DATA = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "bucket/some prefix").mkdir(parents=True)
    (folder / "bucket/some prefix/ä.tar").write_bytes(DATA)
    (folder / "bucket/empty").touch()
    (folder.parent / "outside").write_text("no")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_both_file_systems_read_right_bytes(
    url: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem(protocol, skip_instance_cache=True)
    place = "s3://bucket" if protocol == "s3" else f"{url}/bucket"
    shard = f"{place}/some prefix/ä.tar"
    assert system.info(shard)["size"] == len(DATA)
    assert system.info(shard)["ETag"]
    assert system.cat_file(shard) == DATA
    assert system.cat_file(f"{place}/empty") == b""
    parts = [(at * 10_007, at * 10_007 + 70_001) for at in range(40)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda ends: system.cat_file(shard, start=ends[0], end=ends[1]), parts))
    assert got == [DATA[begin:end] for begin, end in parts]
    with pytest.raises(FileNotFoundError):
        system.cat_file(f"{place}/missing.tar")


def ask(connection: http.client.HTTPConnection, path: str, method: str, asked: str) -> tuple:
    connection.request(method, path, headers={"Range": asked} if asked else {})
    answer = connection.getresponse()
    body = answer.read()
    return answer.status, answer.headers["Content-Range"], answer.headers["Content-Length"], body


def test_answers_on_one_connection(url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    shard, size = "/bucket/some%20prefix/%C3%A4.tar", len(DATA)
    last = f"bytes {size - 5}-{size - 1}/{size}"
    assert ask(connection, shard, "HEAD", "") == (200, None, str(size), b"")
    assert ask(connection, shard, "GET", "bytes=3-9") == (
        (206, f"bytes 3-9/{size}", "7", DATA[3:10])
    )
    assert ask(connection, shard, "GET", "bytes=-5") == (206, last, "5", DATA[-5:])
    assert ask(connection, shard, "GET", f"bytes={size - 5}-{size + 9}")[:2] == (206, last)
    assert ask(connection, shard, "GET", f"bytes={size}-")[0] == 416
    assert ask(connection, "/bucket/../../outside", "GET", "")[0] == 404
    assert ask(connection, "/bucket", "GET", "")[0] == 404
    assert ask(connection, shard, "PUT", "")[0] == 405


def test_ranges() -> None:
    assert part("", 10) == part("lines=1-2", 10) == part("bytes=-", 10) == (0, 10)
    assert part("bytes=2-", 10) == (2, 10)
    assert part("bytes=-20", 10) == (0, 10)


def test_another_content_has_another_tag(url: str, folder: Path) -> None:
    path, system = folder / "bucket/changes", fsspec.filesystem("http", skip_instance_cache=True)
    tags = set()
    for seconds in (1, 2):
        path.write_text("same length")
        os.utime(path, (seconds, seconds))
        tags.add(system.info(f"{url}/bucket/changes")["ETag"])
    assert len(tags) == 2


def test_answers_are_late(folder: Path) -> None:
    """By no less than was asked for; and they wait beside each other."""
    with serving(folder, latency_ms=300) as url:
        system = fsspec.filesystem("http", skip_instance_cache=True)
        began = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            read = pool.map(lambda _: system.cat_file(f"{url}/bucket/empty"), range(16))
            assert list(read) == [b""] * 16
        assert 0.3 <= time.monotonic() - began < 16 * 0.3
