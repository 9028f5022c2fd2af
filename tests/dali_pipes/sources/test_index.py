"""The index of probed videos: what it keeps, what makes it forget, and where it lies."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import VideoInfo
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import VideoFiles
from dali_pipes.sources import survey as survey_module
from dali_pipes.sources.index import UNKNOWN, Index, Row
from dali_pipes.sources.survey import Survey, survey


@pytest.fixture
def source(tmp_path: Path) -> VideoFiles:
    folder = tmp_path / "videos"
    (folder / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in (5, 9):
        write_video(folder / f"a/{n} é.mp4", rng.integers(0, 256, (n, 32, 32, 3), np.uint8))
    (folder / "a/text.mp4").write_text("not a video")
    (folder / "a/gone.mp4").symlink_to("nowhere")
    return VideoFiles.found(folder)


def surveyed(source: VideoFiles) -> Survey:
    index = Index(source.index_path)
    known = survey(source, index)
    index.close()
    return known


def test_every_file_is_opened_once(source: VideoFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    first = surveyed(source)
    assert first.frames.tolist() == [5, 9, UNKNOWN, UNKNOWN]
    assert {item: error.reason for item, error in first.bad.items()} == {
        2: "no such file or directory",
        3: "invalid data found when processing input",
    }

    opened = []
    probe = VideoFiles.probe
    monkeypatch.setattr(VideoFiles, "probe", lambda s, i: opened.append(i) or probe(s, i))
    again = surveyed(source)
    assert opened == [3]  # what could not be used is looked at again
    assert np.array_equal(again.frames, first.frames)
    assert {i: str(e) for i, e in again.bad.items()} == {i: str(e) for i, e in first.bad.items()}

    os.utime(source.paths[0], (1, 1))  # the file changed
    opened.clear()
    assert surveyed(source).frames[0] == 5
    assert sorted(opened) == [0, 3]


def test_a_fault_that_was_mended_is_forgotten(
    source: VideoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the system, or of the file, though its size and time say nothing of it."""
    whole, bad = Path(source.paths[0]), Path(source.paths[3])
    data = whole.read_bytes()
    bad.write_bytes(bytes(len(data)))
    os.utime(bad, (1, 1))

    def no_more(path: str) -> VideoInfo:
        raise BadVideo(path, "open", "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(VideoFiles, "probe", lambda s, i: no_more(s.paths[i]))
        assert set(surveyed(source).bad) == {0, 1, 2, 3}
    assert set(surveyed(source).bad) == {2, 3}
    bad.write_bytes(data)
    os.utime(bad, (1, 1))
    known = surveyed(source)
    assert set(known.bad) == {2}
    assert known.frames[3] == 5


@pytest.mark.parametrize("version", [2, 3])
def test_an_index_that_earlier_code_wrote(source: VideoFiles, version: int) -> None:
    """Its format, spelt out: of the last version frame counts are believed, else it begins anew."""
    assert source.index_path is not None
    db = sqlite3.connect(source.index_path)
    with db:
        db.execute(
            "CREATE TABLE videos (path BLOB PRIMARY KEY, size INTEGER, time INTEGER, "
            "frames INTEGER, decoded INTEGER, height INTEGER, width INTEGER, codec TEXT, "
            f"{'' if version == 3 else 'stage TEXT, reason TEXT, '}unsure TEXT)"
        )
        db.execute(f"PRAGMA user_version = {version}")
        good = ("a/5 é.mp4".encode(), *source.stamp(0), 77, 66, 32, 40, "h264")
        rest = ("",) if version == 3 else (None, None, "")
        db.execute(f"INSERT INTO videos VALUES ({'?, ' * 7}?{', ?' * len(rest)})", (*good, *rest))
    db.close()
    known = surveyed(source)
    assert (known.frames[0], known.decoded[0]) == ((77, 66) if version == 3 else (5, UNKNOWN))
    assert known.frames[1] == 9
    assert set(known.bad) == {2, 3}
    counted = Index(source.index_path).counted(source.paths[0], source.stamp(0))
    assert counted.get() is None
    counted.put(b"shown")
    assert Index(source.index_path).counted(source.paths[0], source.stamp(0)).get() == b"shown"
    assert Index(source.index_path).counted(source.paths[0], (1, 2)).get() is None


def test_what_decoding_proves_is_kept(source: VideoFiles) -> None:
    surveyed(source)
    index = Index(source.index_path)
    row = index.row(source.paths[1])
    assert row is not None
    index.put([Row(row.path, row.stamp, row.info, decoded=7)])
    index.close()
    known = surveyed(source)
    assert (known.frames[1], known.decoded[1]) == (9, 7)


def test_many_unknown_files_are_left_to_the_workers(
    source: VideoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "PROBE_AT_START", 2)
    monkeypatch.setattr(VideoFiles, "probe", lambda *_: pytest.fail("opened a file"))
    known = surveyed(source)
    assert (known.frames == UNKNOWN).all()
    assert list(known.bad) == [2]  # missing files are found without opening any


def test_index_moves_with_its_folder(source: VideoFiles, tmp_path: Path) -> None:
    surveyed(source)
    os.rename(tmp_path / "videos", tmp_path / "moved")
    moved = VideoFiles.found(tmp_path / "moved")
    index = Index(moved.index_path)
    assert sorted(row.path for row in index.rows()) == [moved.paths[i] for i in (0, 1)]


def test_index_lies_in_the_cache_folder_where_the_videos_are_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read_only = tmp_path / "videos"
    read_only.mkdir(mode=0o555)
    index = Index(read_only / "index")
    assert index.path is not None
    assert index.path.parent == tmp_path / "cache" / "sts-dali"
    (tmp_path / "file").write_text("")
    index = Index(tmp_path / "file" / "index")  # no file can be made below a file
    assert index.path is not None
    assert index.path.parent == tmp_path / "cache" / "sts-dali"
    index.put([Row("/a.mp4", (1, 2), VideoInfo(3, 4, 5, "h264"))])
    index.close()
    again = Index(tmp_path / "file" / "index")
    assert [row.path for row in again.rows()] == ["/a.mp4"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nowhere at all
    index = Index(tmp_path / "file" / "index")
    assert index.path is None
    index.put([Row("/a.mp4", (1, 2), VideoInfo(3, 4, 5, "h264"))])
    assert [row.path for row in index.rows()] == ["/a.mp4"]


def test_damaged_and_foreign_indexes_are_made_anew(source: VideoFiles) -> None:
    assert source.index_path is not None
    surveyed(source)
    for content in (b"not a database" * 100, b""):
        source.index_path.write_bytes(content)
        assert surveyed(source).frames.tolist() == [5, 9, UNKNOWN, UNKNOWN]
        assert surveyed(source).frames.tolist() == [5, 9, UNKNOWN, UNKNOWN]


FOREIGN = {
    "somebody's table": "CREATE TABLE videos (title TEXT); INSERT INTO videos VALUES ('mine')",
    "other columns": "CREATE TABLE videos (path BLOB PRIMARY KEY, frames); PRAGMA user_version = 4",
    "a view without end": "CREATE VIEW videos AS WITH RECURSIVE n(x) AS "
    "(SELECT 1 UNION ALL SELECT x FROM n) SELECT x, 1, 1, 1, 1, 1, 1, 'a', '' FROM n; "
    "PRAGMA user_version = 4",
}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_database_of_something_else_is_left_alone(
    content: str, linked: bool, source: VideoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert source.index_path is not None
    place = tmp_path / "theirs" if linked else source.index_path
    if linked:
        source.index_path.symlink_to(place)
    db = sqlite3.connect(place)
    db.executescript(content)
    db.close()
    before = place.read_bytes()
    for _ in range(2):
        with pytest.warns(UserWarning, match="index is a database of something else.*/cache/"):
            assert surveyed(source).frames.tolist() == [5, 9, UNKNOWN, UNKNOWN]
    assert place.read_bytes() == before
    assert [path.suffix for path in (tmp_path / "cache/sts-dali").iterdir()] == [".sqlite"]


def test_a_link_to_what_is_no_database_is_left_alone(source: VideoFiles, tmp_path: Path) -> None:
    assert source.index_path is not None
    (tmp_path / "theirs").write_text("theirs" * 1000)
    source.index_path.symlink_to(tmp_path / "theirs")
    assert surveyed(source).frames.tolist() == [5, 9, UNKNOWN, UNKNOWN]
    assert source.index_path.is_symlink()
    assert (tmp_path / "theirs").read_text() == "theirs" * 1000


@pytest.mark.parametrize("absurd", ["'text'", "NULL", "1e300", "-7", "9223372036854775807"])
def test_a_row_that_was_tampered_with_is_found_out_again(source: VideoFiles, absurd: str) -> None:
    surveyed(source)
    assert source.index_path is not None
    for column in ("frames", "decoded", "size", "height", "codec", "path"):
        db = sqlite3.connect(source.index_path)
        with db:
            db.execute(f"UPDATE videos SET {column} = {absurd} WHERE frames = 9")
        db.close()
        assert surveyed(source).frames.tolist() == [5, 9, UNKNOWN, UNKNOWN]
