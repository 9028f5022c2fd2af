"""The command: what it writes, what it says of bad input."""

import errno
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dali_pipes import browse
from dali_pipes.browsing.clips import choose
from dali_pipes.browsing.files import File
from dali_pipes.prepare.__main__ import main as prepare
from kernels.labels.schema import NAMES
from tests.dali_pipes.browsing.conftest import HOSTILE, write_checkpoint


class Page(HTMLParser):
    """The elements of a page, and its words."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.data = ""
        self._in_data = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_data = ("id", "data") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
        else:
            self.words += data


@pytest.fixture(scope="module")
def page(odd_page: Path) -> Page:
    return Page(odd_page)


@pytest.fixture(scope="module")
def data(page: Page) -> dict:
    return json.loads(page.data)


def flags(*given: object) -> list[str]:
    return ["--num_workers", "0", *map(str, given)]


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert "img" not in tags  # the folder's name is no element
    assert tags.count("script") == 2  # the data, and the page's own
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src"):
            assert re.match(r"#|data:|$", attributes.get(name) or "")
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert HOSTILE in page.words


def test_every_video_is_there_or_said_to_be_left_out(page: Page, data: dict) -> None:
    shown = {clip["video"] for clip in data["clips"]}
    assert {"up/plain.mp4", "up/black.mp4", r"up/not utf-8 \xff.mp4", f"{HOSTILE}/cut.mp4"} < shown
    assert len(shown) == 6
    for name in ("up/damaged.mp4", "up/short.mp4", "up/no suffix"):
        assert page.words.count(name) == 1
    assert "has 5 frames, a clip needs 16" in page.words
    assert {clip["class"] for clip in data["clips"]} == {"up", HOSTILE}


def test_doubts_are_those_of_the_videos(data: dict) -> None:
    kinds: dict[str, set[str]] = {}
    for clip in data["clips"]:
        kinds.setdefault(clip["video"], set()).update(kind for kind, *_ in clip["doubts"])
        for kind, _, twin, _ in clip["doubts"]:
            assert (twin is not None) == (kind == "twin")
    assert "blank" in kinds["up/black.mp4"]
    assert "static" in kinds["up/static.mp4"]
    assert "cut" in kinds[f"{HOSTILE}/cut.mp4"]
    assert "twin" in kinds["up/plain.mp4"]
    assert "cut" not in kinds["up/plain.mp4"]


def test_labels_are_those_that_labels_writes(data: dict, odd_folder: Path, tmp_path: Path) -> None:
    from dali_pipes.labels import main as labels

    out = tmp_path / "labels.npz"
    assert labels([str(odd_folder), *flags("--out", out, "--clips_per_video", 2)]) == 1  # three bad
    table = np.load(out)
    rows = {
        (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), start): row
        for name, start, row in zip(
            table["video"].tolist(), table["start"].tolist(), table["labels"], strict=True
        )
    }
    assert len(data["clips"]) == len(rows) == 12
    for clip in data["clips"]:
        assert clip["labels"] == rows[clip["video"], clip["start"]].tolist()


def test_predictions_are_the_networks(data: dict) -> None:
    learned = [not name.startswith("3") for name in NAMES]  # as its flags say
    for clip in data["clips"]:
        assert [guess > 0 for guess in clip["predicted"]] == learned
        pairs = zip(clip["labels"], clip["predicted"], strict=True)
        assert clip["wrong"] == sum(guess not in (0, true) for true, guess in pairs)


def test_films_are_videos_of_the_clips(data: dict, tmp_path: Path) -> None:
    import base64

    from dali_pipes.decoding.video import picture_count, read_frames

    for clip in data["clips"][:3]:
        film = tmp_path / "clip.mp4"
        film.write_bytes(base64.b64decode(clip["film"]))
        assert picture_count(film) == 16
        assert read_frames(film, [0]).shape == (1, 112, 224, 3)


@pytest.mark.parametrize("kind", ["frames", "reels", "reference"])
def test_what_prepare_made_and_the_other_rule(odd_folder: Path, tmp_path: Path, kind: str) -> None:
    videos = tmp_path / "videos" / "up"
    videos.mkdir(parents=True)
    shutil.copy(odd_folder / "up" / "plain.mp4", videos)
    source, more = tmp_path / "made", [] if kind != "reference" else ["--labels", "reference"]
    if kind == "frames":
        assert prepare(["frames", str(videos.parent), "--out", str(source)]) == 0
    elif kind == "reels":
        made = ["--out", str(source), "--flow", "tvl1-fast", "--resize", "112x120"]
        assert prepare(["reels", str(videos.parent), *made]) == 0
    else:
        source = videos.parent
    out = tmp_path / "new" / "page.html"
    assert browse.main([str(source), *flags("--out", out, "--clips", 2, *more)]) == 0
    page = Page(out)
    assert {"frames": "jpeg", "reels": "made as tvl1-fast", "reference": "rule reference"}[
        kind
    ] in page.words
    assert 1 <= len(json.loads(page.data)["clips"]) <= 2


@pytest.mark.parametrize("is_source", [True, False])
def test_listed_clips_of_one_file(odd_folder: Path, tmp_path: Path, is_source: bool) -> None:
    """Each once; the file is one, and no twin of itself."""
    shutil.copy(odd_folder / "up" / "static.mp4", tmp_path)  # 20 frames
    data_list = tmp_path / "clips.list"
    data_list.write_text("static.mp4 1 0\nstatic.mp4 5 0\n")
    source = [data_list] if is_source else [tmp_path, "--data_list", data_list]
    out = tmp_path / "page.html"
    assert browse.main(flags(*source, "--out", out, "--clip_len", 6, "--stride", 3)) == 0
    page = Page(out)
    data = json.loads(page.data)
    clips = [(clip["video"], clip["start"]) for clip in data["clips"]]
    assert clips == [("static.mp4", 0), ("static.mp4", 4)]
    assert data["span"] == 16  # six frames, three apart
    assert {kind for clip in data["clips"] for kind, *_ in clip["doubts"]} == {"static"}
    assert "0 min 1 s" in page.words


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(browse, "look", lambda args: None)
    monkeypatch.setattr("dali_pipes.browsing.page.html", lambda found: "")
    monkeypatch.setattr(browse, "write_text", full)
    assert browse.main([str(tmp_path), "--out", str(tmp_path / "page.html")]) == 1
    assert (
        capsys.readouterr().err
        == f"{tmp_path}/page.html: cannot be written: no space left on device\n"
    )


def test_reels_of_a_flow_that_is_no_more(odd_folder: Path, tmp_path: Path) -> None:
    videos, reels, out = tmp_path / "videos", tmp_path / "reels", tmp_path / "page.html"
    videos.mkdir()
    shutil.copy(odd_folder / "up" / "plain.mp4", videos)
    assert prepare(["reels", str(videos), "--out", str(reels), "--flow", "tvl1-fast"]) == 0
    manifest = reels / "reels.json"
    manifest.write_text(manifest.read_text().replace("tvl1-fast", "dis"))
    assert browse.main([str(reels), *flags("--out", out, "--clips", 1)]) == 0
    assert "made as dis: a flow that is no more" in Page(out).words


def test_clips_are_spread_evenly() -> None:
    files = {n: File(40, (240, 320), "h264", 25) for n in range(3, 103)}
    items, of_each = choose(files, 16, 5)
    assert (items[0], items[-1], len(items), of_each) == (3, 102, 5, 1)
    assert max(np.diff(items)) - min(np.diff(items)) <= 1
    assert choose(files, 16, 250) == (list(files), 2)
    assert choose(files, 16, 10_000) == (list(files), 5)  # no more than overlap by half
    assert choose({1: File(16, (240, 320), "h264", 25)}, 16, 400) == ([1], 2)
    assert choose({}, 16, 400) == ([], 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nowhere"], "nowhere"),
        (["{odd}", "--out", "{odd}/up/plain.mp4/page.html"], "plain.mp4/page.html: cannot be"),
        (["{odd}", "--clips", "0"], "--clips must be at least 1"),
        (["{odd}", "--out", "{odd}/up/plain.mp4"], "--out must end in .html"),
        (["{odd}", "--checkpoint", "{tmp}"], "no checkpoint there"),
        (["{odd}", "--checkpoint", "{odd}/up/plain.mp4"], "plain.mp4: no readable checkpoint"),
        (["{odd}", "--checkpoint", "{runs}", "--clip_len", "20"], "labels of 16 frames"),
        (["{odd}", "--size", "113"], "multiple of 8"),
        (["{empty}"], "no video files in it"),
        (["{short}"], "nothing usable among 1"),
    ],
)
def test_bad_input_is_one_line(
    given: list[str], words: str, odd_folder: Path, tmp_path: Path, capsys
) -> None:
    places = {"odd": odd_folder, "tmp": tmp_path, "runs": tmp_path / "runs"}
    for name in ("empty", "short"):
        places[name] = tmp_path / name
        places[name].mkdir()
    shutil.copy(odd_folder / "up" / "short.mp4", places["short"])
    if "{runs}" in given:
        write_checkpoint(places["runs"])
    out = tmp_path / "page.html"
    arguments = [word.format(**places) for word in given]
    assert browse.main(flags("--out", out, *arguments)) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.err.strip().count("\n") <= 1  # nothing usable: the reasons follow
    assert printed.out == ""
    assert not out.exists()
