"""Reports: everything that is known is in them, and the page stands by itself."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.evaluation.report import Neighbour, Outcome, Query, html, text, write

OUTCOME = Outcome(
    task="retrieval",
    protocol={"layer": "conv5", "distance": "cosine"},
    figures={"top-1": 0.5, "top-5": 0.75},
    videos=8,
    left_out=[(f"/v/bad{i}.avi", "is no video <b>") for i in range(12)],
    warnings=["3 groups on both sides"],
    class_names=["jump & run", "swim", "never tested"],
    confusion=np.array([[3, 1, 0], [3, 1, 0], [0, 0, 0]]),
    queries=[
        Query(
            "/v/jump & run/a.avi",
            "jump & run",
            [
                Neighbour("/v/b.avi", "jump & run", 0.91, True),
                Neighbour("/v/c.avi", "swim", 0.5, False),
            ],
        )
    ],
)


def strip(path: str) -> np.ndarray:
    return np.full((20, 80, 3), len(path), np.uint8)


def test_text_states_the_protocol_and_who_was_left_out() -> None:
    lines = text(OUTCOME)
    for words in ("conv5", "cosine", "8, 12 left out", "/v/bad9.avi", "and 2 more", "0.7500"):
        assert words in lines
    assert "warning: 3 groups" in lines
    assert "none left out" in text(Outcome("scenes", {}, {}, 3))


def test_per_class_counts_tested_classes_only() -> None:
    assert OUTCOME.per_class == {"jump & run": 0.75, "swim": 0.25}


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_files(tmp_path: Path) -> None:
    paths = write(OUTCOME, tmp_path / "out", strip)
    assert [path.name for path in paths] == ["result.json", "report.html"]
    result = json.loads(paths[0].read_text())
    assert result["result"] == {"top-1": 0.5, "top-5": 0.75}
    assert result["protocol"] == {"layer": "conv5", "distance": "cosine"}
    assert result["confusion"] == [[3, 1, 0], [3, 1, 0], [0, 0, 0]]
    assert len(result["left_out"]) == 12

    markup = paths[1].read_text()
    page = Page(markup)
    for words in ("conv5", "0.7500", "jump & run", "is no video <b>", "3 groups on both sides"):
        assert words in page.words
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 3  # strips
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2  # the confusion matrix and the bars
    kinds = [attrs["class"] for tag, attrs in page.tags if tag == "figure"]
    assert kinds == ["query", "hit", "miss"]
    assert all(kind in page.words for kind in kinds)  # not told by the frame alone
    nothing_is_fetched(page)

    events = EventAccumulator(str(tmp_path / "out"))
    events.Reload()
    assert events.Scalars("retrieval/top-5")[0].value == pytest.approx(0.75)
    assert events.Tags()["images"] == ["retrieval/confusion"]


def nothing_is_fetched(page: Page) -> None:
    addresses = [
        attrs[name]
        for _, attrs in page.tags
        for name in ("href", "src", "xlink:href")
        if name in attrs
    ]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe")]


def test_names_are_text_whatever_is_in_them() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    path = f'/v/"{hostile}--><script>\n\udcff.avi'
    outcome = dataclasses.replace(
        OUTCOME,
        protocol={hostile: Path(path)},
        left_out=[(path, hostile)],
        warnings=[path],
        class_names=[hostile, "--></svg><script>", "\udcff\n"],
        queries=[Query(path, hostile, [Neighbour(path, hostile, 0.5, True)])],
    )
    page = Page(html(outcome, strip))
    nothing_is_fetched(page)
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    printed = rf'/v/"{hostile}--><script>\n\xff.avi'
    assert page.words.count(printed) == 3  # in the protocol, the warning and what is left out
    strips = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [attrs["alt"] for attrs in strips] == [attrs["title"] for attrs in strips]
    assert [attrs["alt"] for attrs in strips] == [printed] * 2


def test_drawings_share_names_of_the_same_outlines_only() -> None:
    """A reference finds the first of a name in the page, maybe in another drawing."""
    page = html(OUTCOME, strip)
    referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    named = re.findall(r'<\w+ id="([^"]+)"([^>]*>)(\s*<rect [^>]*>)?', page)
    found = {name: {of[1:] for of in named if of[0] == name} for name in referenced}
    assert len(found) > 20
    assert all(len(contents) == 1 for contents in found.values())
