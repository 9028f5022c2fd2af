"""Files of an address: what passes is waited for, what does not is told, and nothing else comes."""

import os
import pickle
import random
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.object_server import serving
from dali_pipes.storage import NotFetched, RemoteFiles, Unreachable, remote
from dali_pipes.storage.remote import Version
from tests.object_store import (
    ACCESS_KEY,
    SECRET_KEY,
    Fault,
    FaultyProxy,
    ObjectStore,
    always,
    anything,
    at_random,
    environment,
    first,
    never,
)

DATA = random.Random(0).randbytes(200_000)
NAMES = ("reels.json", "one.tar", "two.tar")


@dataclass
class Served:
    """A place with NAMES in it, behind a proxy."""

    address: str
    proxy: FaultyProxy
    replace: Callable[[str, bytes], None]
    remove: Callable[[str], None]

    def files(self, patience: float = 10.0) -> RemoteFiles:
        """After a look at what is there."""
        files = RemoteFiles(self.address, "reels.json", patience)
        files.look([*NAMES, "missing.tar"])
        self.proxy.clear()
        return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reels")
    for name in NAMES:
        (folder / name).write_bytes(DATA)
    return folder


FRESH_SYSTEM = remote._system


@pytest.fixture(autouse=True)
def _clients_are_kept(monkeypatch: pytest.MonkeyPatch, systems: dict[tuple, object]) -> None:
    """An S3 client takes 0.3 s to make."""

    def system(address: str, seconds: float, encoded: bool = False) -> object:
        key = address.partition("://")[0], seconds, encoded
        if key not in systems:
            systems[key] = FRESH_SYSTEM(address, seconds, encoded)
        return systems[key]

    monkeypatch.setattr(remote, "_system", system)


@pytest.fixture(scope="module")
def systems() -> dict[tuple, object]:
    return {}


@pytest.fixture(scope="module")
def s3_proxy(object_store: ObjectStore) -> Iterator[FaultyProxy]:
    with FaultyProxy(object_store.url) as proxy, proxy.in_environment():
        yield proxy


@pytest.fixture
def s3(object_store: ObjectStore, s3_proxy: FaultyProxy, folder: Path) -> Served:
    s3_proxy.calm()
    address = object_store.upload(folder)

    def put(name: str, data: bytes) -> None:
        object_store.put(f"{address}/{name}", data)

    return Served(address, s3_proxy, put, lambda name: object_store.delete(f"{address}/{name}"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FaultyProxy]]:
    root = tmp_path_factory.mktemp("web")
    with serving(root) as url, FaultyProxy(url) as proxy:
        yield root, proxy


@pytest.fixture
def http(web: tuple[Path, FaultyProxy], folder: Path, tmp_path: Path) -> Served:
    root, proxy = web
    proxy.calm()
    there = Path(shutil.copytree(folder, root / tmp_path.name))

    def put(name: str, data: bytes) -> None:
        (there / name).write_bytes(data)

    address = f"{proxy.url}/{tmp_path.name}"
    return Served(address, proxy, put, lambda name: (there / name).unlink())


@pytest.fixture(params=["s3", "http"])
def served(request: pytest.FixtureRequest) -> Served:
    found: Served = request.getfixturevalue(request.param)
    return found


def why(error: pytest.ExceptionInfo[OSError]) -> str:
    """What is wrong, after a look that nothing secret is in it, nor in what led to it."""
    whole = "".join(traceback.format_exception(error.value))
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret not in str(error.value)
        assert secret not in whole
    return str(error.value.strerror)


def test_bytes_are_those_of_the_file(served: Served) -> None:
    files = served.files()
    for offset, size in [(0, 1), (7, 100_000), (199_999, 1), (0, 200_000), (5, 0)]:
        assert files.read("one.tar", offset, size) == DATA[offset : offset + size]
    assert [request.range for request in served.proxy.log] == (
        ["bytes=0-0", "bytes=7-100006", "bytes=199999-199999", "bytes=0-199999"]
    )
    assert files.read_again("two.tar", 3, 9) == DATA[3:12]
    assert files.read_whole("reels.json") == DATA
    assert {files.stamp(name)[0] for name in NAMES} == {len(DATA)}
    assert files.stamp("one.tar") == served.files().stamp("one.tar")


def test_a_file_that_is_missing(served: Served) -> None:
    files = served.files()
    for ask in (files.version, files.read_whole):
        with pytest.raises(FileNotFoundError) as error:
            ask("missing.tar")
        assert why(error) == "no such file"
    with pytest.raises(NotFetched) as told:
        files.stamp("missing.tar")
    assert why(told) == "no such file"
    served.proxy.clear()
    with pytest.raises(NotFetched):
        files.read("missing.tar", 0, 1)
    assert served.proxy.log == []


def test_more_than_a_file_has(served: Served) -> None:
    files = served.files()
    with pytest.raises(NotFetched) as error:
        files.read("one.tar", 199_990, 11)
    assert why(error) == "has 200000 bytes, 200001 are needed"
    assert served.proxy.log == []


PASSING = [
    Fault("delay", seconds=0.1),
    Fault("refuse"),
    Fault("reset"),
    Fault("truncate"),
    Fault("hang", seconds=0.1),
    Fault("status", status=500),
    Fault("status", status=503),
    Fault("status", status=429),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_what_passes_is_waited_for(served: Served, fault: Fault) -> None:
    files = served.files()
    served.proxy.schedule = first(2, fault)
    assert files.read("one.tar", 7, 100_000) == DATA[7:100_007]
    assert served.proxy.injected == {fault.kind: 2 if fault.kind != "delay" else 1}


def test_a_server_that_hangs_longer_than_an_answer_may_take(served: Served) -> None:
    files = served.files(patience=5)  # an answer may take a second
    served.proxy.schedule = first(1, Fault("hang", seconds=60))
    assert files.read("one.tar", 7, 10) == DATA[7:17]
    assert served.proxy.injected["hang"] == 1


def test_many_readers_at_once_of_a_server_that_is_often_wrong(served: Served) -> None:
    files = served.files(patience=60)
    quick = [fault for fault in PASSING if fault.kind not in ("delay", "hang")]
    served.proxy.schedule = at_random(3, 0.2, *quick)
    parts = [(random.Random(n).randrange(100_000), 50_000) for n in range(100)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda part: files.read("one.tar", *part), parts))
    assert got == [DATA[offset : offset + size] for offset, size in parts]
    assert {"refuse", "reset", "truncate", "status"} == set(served.proxy.injected)
    assert not any(request.name != "one.tar" for request in served.proxy.log)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("status", status=503), "the server answers 503"),
        (Fault("reset"), ""),
        (Fault("hang", seconds=60), "imeout"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_patience_ends_and_then_one_attempt_is_enough(
    served: Served, fault: Fault, said: str
) -> None:
    files = served.files(patience=0.5)
    served.proxy.only = lambda request: request.name == "one.tar"
    served.proxy.schedule = always(fault)
    with pytest.raises(NotFetched, match=r"\((tried \d+ times|tried once) in \d+ s\)$") as error:
        files.read("one.tar", 7, 1000)
    assert said in why(error)
    assert served.proxy.injected[fault.kind] >= (1 if fault.kind == "hang" else 2)
    assert files.read("two.tar", 7, 1000) == DATA[7:1007]
    served.proxy.clear()
    with pytest.raises(NotFetched, match=r"\(tried once in \d+ s\)"):
        files.read("one.tar", 7, 1000)
    assert served.proxy.injected == {fault.kind: 1}
    served.proxy.schedule = never
    assert files.read("one.tar", 7, 1000) == DATA[7:1007]
    served.proxy.clear()
    served.proxy.schedule = first(1, Fault("status"))  # it came again: patience is back
    assert files.read("one.tar", 7, 1000) == DATA[7:1007]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("status", status=404), "no such file"),
        (Fault("status", status=403), "access denied ("),
        (Fault("whole"), "its server does not serve byte ranges"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else "",
)
def test_what_does_not_pass_is_told_at_once(served: Served, fault: Fault, said: str) -> None:
    files = served.files(patience=60)
    served.proxy.schedule = always(fault)
    with pytest.raises((NotFetched, FileNotFoundError)) as error:
        files.read("one.tar", 7, 1000)
    assert why(error).startswith(said)
    # What refuses a signed URL is asked why by the store's library.
    assert sum(served.proxy.injected.values()) <= (2 if fault.status == 403 else 1)
    assert "environment" in why(error) or fault.status != 403


def test_corrupt_bytes_are_right_when_read_again(served: Served) -> None:
    files = served.files()
    served.proxy.schedule = first(1, Fault("corrupt"))
    wrong = files.read("one.tar", 7, 1000)
    assert sum(a != b for a, b in zip(wrong, DATA[7:1007], strict=True)) == 1
    assert files.read_again("one.tar", 7, 1000) == DATA[7:1007]


@pytest.mark.parametrize("size", [len(DATA), len(DATA) + 5])
def test_a_file_that_was_replaced_is_noticed(served: Served, size: int) -> None:
    files = served.files()
    served.replace("one.tar", bytes(size))
    assert files.read("one.tar", 7, 10) == bytes(10)
    with pytest.raises(NotFetched) as error:
        files.read_again("one.tar", 7, 10)
    assert why(error) == "was replaced while it was in use; start again"
    assert files.read_again("two.tar", 7, 10) == DATA[7:17]


def test_a_file_that_was_replaced_by_a_shorter_one(served: Served) -> None:
    files = served.files(patience=0.3)
    served.replace("one.tar", DATA[:50])
    for offset in (40, 60):
        with pytest.raises(NotFetched):
            files.read("one.tar", offset, 20)


def test_a_range_behind_the_end_does_not_pass(served: Served) -> None:
    files = served.files(patience=1)
    served.replace("one.tar", DATA[:50])
    with pytest.raises(NotFetched):
        files.read("one.tar", 60, 20)
    assert len([request for request in served.proxy.log if request.name == "one.tar"]) == 1


def test_a_file_that_was_removed(served: Served) -> None:
    files = served.files()
    served.remove("one.tar")
    with pytest.raises(FileNotFoundError) as error:
        files.read("one.tar", 7, 10)
    assert why(error) == "no such file"


def test_a_server_that_is_gone(served: Served) -> None:
    files = served.files(patience=0.5)
    with served.proxy.away():
        with pytest.raises(Unreachable) as error:
            files.read("one.tar", 7, 10)
        said = f"{served.address}: nothing comes any more: "
        assert str(error.value).startswith(said)
        assert SECRET_KEY not in "".join(traceback.format_exception(error.value))
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert files.read("one.tar", 7, 10) == DATA[7:17]


def test_a_server_that_comes_back(served: Served) -> None:
    files = served.files(patience=30)
    with ThreadPoolExecutor(1) as pool:
        with served.proxy.away():
            read = pool.submit(files.read, "one.tar", 7, 10)
            time.sleep(0.5)
            assert not read.done()
        assert read.result() == DATA[7:17]


def test_a_proof_that_fails_once_proves_nothing(served: Served) -> None:
    files = served.files(patience=0.5)
    served.proxy.only = anything
    served.proxy.schedule = lambda request: (
        Fault("status") if request.name == "one.tar" or request.attempt < 1 else None
    )
    with pytest.raises(NotFetched):
        files.read("one.tar", 7, 10)


@pytest.mark.parametrize("fault", [Fault("status"), Fault("status", status=429)])
def test_versions_are_waited_for(served: Served, fault: Fault) -> None:
    files = served.files()
    served.proxy.only = anything
    served.proxy.schedule = first(2, fault)
    assert files.version("one.tar") == files.versions["one.tar"]
    assert served.proxy.injected["status"] >= 2


BROKEN = [Fault("refuse"), Fault("hang", seconds=0.1)]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.kind)
@pytest.mark.parametrize(
    "protocol",
    [
        "s3",
        "http",
    ],
)
def test_versions_are_waited_for_where_connections_break(
    request: pytest.FixtureRequest, protocol: str, fault: Fault
) -> None:
    served: Served = request.getfixturevalue(protocol)
    files = served.files()
    served.proxy.only = anything
    served.proxy.schedule = first(4, fault)
    assert files.version("one.tar") == files.versions["one.tar"]


def test_a_look_where_the_server_is_gone(served: Served) -> None:
    files = served.files(patience=0.3)
    with served.proxy.away(), pytest.raises(Unreachable):
        files.look(NAMES)


def test_a_look_tells_why(s3: Served) -> None:
    files = s3.files(patience=0.3)
    s3.proxy.only = anything
    s3.proxy.schedule = lambda request: Fault("status") if request.name == "one.tar" else None
    files.look([*NAMES, "missing.tar"])
    assert files.versions["two.tar"] == files.versions["reels.json"]
    assert files.versions["missing.tar"] == "no such file"
    assert str(files.versions["one.tar"]).startswith("the server answers 503 (")
    with pytest.raises(NotFetched, match="the server answers 503"):
        files.stamp("one.tar")


@pytest.mark.parametrize("status", [403, 503])
def test_texts_of_the_server_are_told_without_secrets(s3: Served, status: int) -> None:
    files = s3.files(patience=0.2)
    text = f"who is {ACCESS_KEY}, {SECRET_KEY} at http://me:pw@host/a?sig=1"
    s3.proxy.schedule, s3.proxy.only = always(Fault("status", status=status, text=text)), anything
    with pytest.raises(NotFetched) as error:
        files.names()
    said = str(error.value)
    assert "who is ***, *** at http://***@host/a?***" in said
    assert str(error.value.strerror) in said


def test_no_credentials(s3: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_system", FRESH_SYSTEM)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(NotFetched) as error:
        RemoteFiles(s3.address, "reels.json", 30).version("one.tar")
    assert why(error) == "Unable to locate credentials: set credentials in the environment"


def test_pickled_files_are_the_same(s3: Served) -> None:
    files = s3.files(patience=0.4)
    s3.proxy.schedule = always(Fault("status"))
    with pytest.raises(NotFetched):
        files.read("one.tar", 7, 10)
    s3.proxy.clear()
    pickled = pickle.dumps(files)
    assert SECRET_KEY.encode() not in pickled
    copy = pickle.loads(pickled)
    with pytest.raises(NotFetched, match="tried once") as error:
        copy.read("one.tar", 7, 10)
    assert copy.stamp("two.tar") == files.stamp("two.tar")
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), again.strerror) == (NotFetched, error.value.strerror)
    s3.proxy.schedule = first(2, Fault("status"))
    assert copy.with_patience(30).read("one.tar", 9, 10) == DATA[9:19]


def test_writing(s3: Served, object_store: ObjectStore, tmp_path: Path) -> None:
    files = s3.files()
    s3.proxy.only = lambda request: request.method in ("PUT", "DELETE")
    s3.proxy.schedule = first(1, Fault("status"))
    (tmp_path / "new").write_bytes(DATA)
    files.upload(tmp_path / "new", "three.tar")
    files.write("index.npz", b"small")
    assert object_store.get(f"{s3.address}/three.tar") == DATA
    assert files.read_whole("index.npz") == b"small"
    object_store.put(f"{s3.address}/class/inner.tar", b"")
    assert files.names() == sorted([*NAMES, "index.npz", "three.tar"])
    files.write("index.npz", b"other")
    assert files.read_whole("index.npz") == b"other"
    files.remove("index.npz")
    assert files.names() == sorted([*NAMES, "three.tar"])
    assert s3.proxy.injected == {"status": 3}


def test_what_cannot_be_written_is_told(s3: Served, tmp_path: Path) -> None:
    files = s3.files(patience=0.3)
    s3.proxy.only = anything
    (tmp_path / "new").write_bytes(DATA)
    for status, said in [(403, "access denied"), (503, "the server answers 503")]:
        s3.proxy.schedule = always(Fault("status", status=status))
        for work in (
            lambda: files.upload(tmp_path / "new", "new.tar"),
            lambda: files.write("new.json", b"1"),
            lambda: files.remove("one.tar"),
            files.names,
        ):
            with pytest.raises(NotFetched, match=said) as error:
                work()
            why(error)
    s3.proxy.schedule = never
    assert files.names() == sorted(NAMES)
    assert RemoteFiles(f"{s3.address}/nothing", "reels.json").names() == []


def test_a_large_upload_whose_end_is_not_confirmed(
    s3: Served, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has put the parts together, but that answer is lost."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 * 2**20)
    files = s3.files(patience=20)
    s3.proxy.only = lambda request: request.method == "POST" and "uploadId" in request.query
    s3.proxy.schedule = lambda _: None if s3.proxy.injected else Fault("truncate")
    (tmp_path / "new").write_bytes(bytes(11 * 2**20))
    files.upload(tmp_path / "new", "three.tar")
    assert len(object_store.get(f"{s3.address}/three.tar")) == 11 * 2**20


def test_a_version_is_not_what_a_list_said_before(s3: Served) -> None:
    files = s3.files()
    files.names()
    s3.replace("one.tar", b"other")
    assert files.version("one.tar").size == 5


def test_downloads(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dali_pipes.storage.remote.CHUNK", 60_000)
    files = served.files()
    version = files.version("one.tar")
    served.proxy.schedule = first(1, Fault("truncate"))
    steps: list[int] = []
    files.download("one.tar", version, tmp_path / "copy", steps.append)
    assert (tmp_path / "copy").read_bytes() == DATA
    assert steps == [60_000, 60_000, 60_000, 20_000]
    assert served.proxy.injected["truncate"] == 4

    def replaced(_: int) -> None:
        served.replace("one.tar", DATA[:-1] + b"x")

    with pytest.raises(NotFetched, match="was replaced while it was read; start again"):
        files.download("one.tar", version, tmp_path / "copy", replaced)
    with pytest.raises(IsADirectoryError):
        files.download("two.tar", version, tmp_path, steps.append)


def test_web_servers_take_no_files(http: Served) -> None:
    files = http.files(patience=0.2)
    with pytest.raises(NotFetched):
        files.write("new", b"1")


def test_a_folder_by_its_address(folder: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(folder, tmp_path / "reels"))
    files = RemoteFiles(f"file://{there}", "reels.json", 0.3)
    files.look([*NAMES, "missing.tar"])
    assert files.read("one.tar", 7, 10) == files.read_again("two.tar", 7, 10) == DATA[7:17]
    assert files.versions["missing.tar"] == "no such file"
    assert files.names() == sorted(NAMES)
    files.write("new", b"1")
    files.upload(there / "new", "newer")
    assert files.read_whole("newer") == b"1"
    files.remove("new")
    assert files.names() == sorted([*NAMES, "newer"])
    with pytest.raises(FileNotFoundError):
        files.remove("new")
    (there / "one.tar").write_bytes(bytes(len(DATA)))
    os.utime(there / "one.tar", (1, 1))
    with pytest.raises(NotFetched, match="was replaced"):
        files.read_again("one.tar", 7, 10)
    os.truncate(there / "two.tar", 10)
    with pytest.raises(NotFetched, match="3 of 10 bytes came"):
        files.read("two.tar", 7, 10)
    shutil.rmtree(there)
    with pytest.raises(Unreachable, match="nothing comes any more: no such file"):
        files.read("two.tar", 7, 10)
    assert files.names() == []


def test_versions_without_a_tag_or_a_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = RemoteFiles(f"file://{folder}", "reels.json", 0.3)
    monkeypatch.setattr(files.system, "info", lambda path: {"size": 3})
    assert files.version("one.tar") == Version(3, "")
    monkeypatch.setattr(files.system, "info", lambda path: {"size": None})
    with pytest.raises(NotFetched, match="does not tell how long it is"):
        files.version("one.tar")


def test_a_server_that_takes_nothing_ends_an_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection, and is silent."""
    monkeypatch.setattr(remote, "_system", FRESH_SYSTEM)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = environment(f"http://127.0.0.1:{silent.getsockname()[1]}")
        (tmp_path / "file").write_bytes(bytes(1000))
        with mock.patch.dict(os.environ, place):
            files = RemoteFiles("s3://bucket/prefix", "proof", patience=0.5)
            began = time.monotonic()
            with pytest.raises(NotFetched, match="not taken in"):
                files.upload(tmp_path / "file", "file")
            assert time.monotonic() - began < 20


def test_ranges_are_plain_requests_signed_once(s3: Served) -> None:
    files = s3.files()
    for n in range(20):
        assert files.read("one.tar", n, 100) == DATA[n : n + 100]
    assert len({request.query for request in s3.proxy.log}) == 1
    assert "X-Amz-Signature" in s3.proxy.log[0].query


def test_a_signature_that_is_not_taken_is_no_obstacle(s3: Served) -> None:
    """It has run out, or a rule of the store forbids it."""
    files = s3.files()
    refuse = Fault("status", status=403)
    s3.proxy.schedule = lambda request: refuse if "Signature" in request.query else None
    for _ in range(3):
        assert files.read("one.tar", 7, 100) == DATA[7:107]


@pytest.mark.parametrize("kind", ["refuse", "reset"])
def test_where_plain_requests_never_arrive_the_library_reads(s3: Served, kind: str) -> None:
    """A certificate that the library alone knows, say."""
    files = s3.files()
    broken = Fault(kind)
    s3.proxy.schedule = lambda request: broken if "Signature" in request.query else None
    for _ in range(5):
        assert files.read("one.tar", 7, 100) == DATA[7:107]
    assert (
        len([one for one in s3.proxy.log if "Signature" in one.query]) <= 6
    )  # aiohttp tries twice


def test_a_system_that_cannot_sign(s3: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    files = s3.files()

    def sign(path: str, expiration: int) -> str:
        raise NotImplementedError("sign")

    monkeypatch.setattr(files.system, "sign", sign)
    assert files.read("one.tar", 7, 100) == DATA[7:107]
    assert all("Signature" not in request.query for request in s3.proxy.log)
