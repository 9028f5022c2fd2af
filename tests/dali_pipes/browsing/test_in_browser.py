"""The page in a real browser: it opens, a bar shows its clips, a link opens a view, names are text.

Needs Chromium: `apt-get install chromium`, or its path in STS_CHROMIUM.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.dali_pipes.browsing.conftest import HOSTILE

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("STS_CHROMIUM") or shutil.which("chromium")
    if found is None:
        pytest.fail("no Chromium: apt-get install chromium, or set STS_CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of which nothing may go wrong, and no request may leave."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url[:5] != "data:" else None)
    yield page
    assert [what for what in wrong if not re.match(r"file:.*/page\.html", what)] == []
    context.close()


@pytest.fixture
def opened(page: Page, odd_page: Path) -> Page:
    page.goto(odd_page.as_uri())
    return page


@pytest.fixture(scope="module")
def data(odd_page: Path) -> dict:
    text = odd_page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def with_value(data: dict, name: str, value: int, of: str = "labels") -> list[dict]:
    column = [label["name"] for label in data["labels"]].index(name)
    return [clip for clip in data["clips"] if clip[of][column] == value]


def shown(page: Page) -> list[str]:
    return page.locator("#clips figcaption p:first-child").all_inner_texts()


def captions(clips: list[dict]) -> list[str]:
    return [f"{c['video']} · frames {c['start']}–{c['start'] + 15}" for c in clips]


def test_every_value_of_every_label_shows_its_clips(opened: Page, data: dict) -> None:
    """By its link; those that a bar of the page has, and no others."""
    links = opened.locator("#all a[data-value]").evaluate_all(
        "all => all.map(a => a.getAttribute('href'))"
    )
    assert len(links) > 2 * 27
    for link in links[::7]:
        name, by, value = re.fullmatch(r"#label=(\w+)&(value|predicted)=(\d+)", link).groups()
        opened.evaluate("hash => { location.hash = hash }", link)
        expect(opened.locator("#heading")).to_contain_text(f"{name} ")
        expected = with_value(data, name, int(value), "labels" if by == "value" else by)
        expect(opened.locator("#clips figure")).to_have_count(len(expected))
        assert sorted(shown(opened)) == sorted(captions(expected))


def test_a_click_on_a_bar_shows_its_clips_and_they_play(opened: Page, data: dict) -> None:
    column = [label["name"] for label in data["labels"]].index("u1o")
    value = data["clips"][0]["labels"][column]
    opened.locator(f'#card-u1o .value a[data-value="{value}"] text').click()
    expected = with_value(data, "u1o", value)
    expect(opened.locator("#clips figure")).to_have_count(len(expected))
    assert sorted(shown(opened)) == sorted(captions(expected))
    assert f"label=u1o&value={value}" in opened.url
    expect(opened.locator("#all")).to_be_hidden()
    # On each, the block and the arrow of its labels, on frames and flow.
    expect(opened.locator("#clips figure").first.locator(".halo")).to_have_count(2)
    size = opened.locator("#clips video").first.evaluate(
        "v => new Promise(done => { v.ontimeupdate = "
        "() => v.currentTime > 0.2 && done([v.videoWidth, v.videoHeight]) })"
    )
    assert size == [224, 112]
    expect(opened.locator("#clips .time .now").first).to_be_attached()


def test_a_link_opens_the_view_and_keys_work(page: Page, odd_page: Path, data: dict) -> None:
    page.goto(f"{odd_page.as_uri()}#label=u1o&value=3")
    expect(page.locator("#heading")).to_have_text("u1o 3: grows ↓ down")
    expect(page.locator("#clips figure")).to_have_count(len(with_value(data, "u1o", 3)))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#heading")).to_have_text("u1o 4: grows ↙ down left")
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_text("Play")
    page.keyboard.press("Escape")
    expect(page.locator("#overview")).to_be_visible()
    page.locator("#card-u1p .value a[data-value]").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#heading")).to_have_text("u1p 1: row 1, column 1")
    page.keyboard.press("ArrowLeft")  # to the last one, and no step of the history
    expect(page.locator("#heading")).to_have_text("u1p 16: row 4, column 4")
    page.go_back()
    expect(page.locator("#overview")).to_be_visible()
    expect(page.locator("#card-u1p .value a[data-value]").first).to_be_focused()


def test_more_clips_are_shown_by_and_by(page: Page, odd_page: Path, tmp_path: Path) -> None:
    head, text, tail = re.split(r"(?<=id=\"data\">)|(?=</script>\s*<script>)", odd_page.read_text())
    data = json.loads(text)
    data["clips"] = (3 * data["clips"])[:30]
    many = tmp_path / "page.html"
    many.write_text(head + json.dumps(data).replace("<", r"\u003c") + tail)
    page.goto(f"{many.as_uri()}#clips=all")
    expect(page.locator("#more")).to_have_text("Show 6 more of 6")
    page.locator("#more").press("Enter")
    expect(page.locator("#clips figure")).to_have_count(30)
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator("#clips figure").nth(24).locator("figcaption a").first).to_be_focused()


@pytest.mark.parametrize(
    "strange",
    [
        "label=nope",
        "label=u1o&value=99",
        "label=u1o&value=",
        "clip=999",
        "clip=x",
        "clip=",
        "doubt=<b>",
        "doubt=constructor",
        "%",
    ],
)
def test_a_link_to_nothing_says_so(page: Page, odd_page: Path, strange: str) -> None:
    page.goto(f"{odd_page.as_uri()}#{strange}")
    expect(page.locator("#clips figure")).to_have_count(0)
    expect(page.locator("#lead")).not_to_contain_text("function")


def test_doubtful_clips_and_the_largest_errors_come_first(opened: Page, data: dict) -> None:
    opened.locator("a[href='#doubt=cut']").click()
    cuts = [clip for clip in data["clips"] if "cut" in [kind for kind, *_ in clip["doubts"]]]
    assert sorted(shown(opened)) == sorted(captions(cuts))
    opened.goto(opened.url.split("#")[0] + "#errors=all")
    expect(opened.locator("#clips figure")).to_have_count(len(data["clips"]))
    words = opened.locator("#clips figcaption").all_inner_texts()
    wrong = [int(re.search(r"(\d+) labels wrong", text)[1]) for text in words]
    assert wrong == sorted((clip["wrong"] for clip in data["clips"]), reverse=True)


def test_hostile_names_stay_text(opened: Page, data: dict) -> None:
    assert opened.locator("img").count() == 0
    n = next(n for n, clip in enumerate(data["clips"]) if clip["class"] == HOSTILE)
    opened.evaluate("hash => { location.hash = hash }", f"#clip={n}")
    expect(opened.locator("#heading")).to_have_text(data["clips"][n]["video"])
    expect(opened.locator("#lead")).to_contain_text(HOSTILE)
    assert opened.locator("img").count() == 0
    expect(opened.locator("#clips tbody tr")).to_have_count(27)
    opened.locator("#clips button", has_text="1dc").click()
    expect(opened.locator("#clips .stage circle")).not_to_have_count(0)


def test_nothing_leaves_even_if_it_is_asked_to(browser: Browser, odd_page: Path) -> None:
    page = browser.new_page()
    page.goto(odd_page.as_uri())
    blocked = page.evaluate(
        """() => new Promise(done => {
          document.addEventListener("securitypolicyviolation", () => done(true));
          new Image().src = "http://127.0.0.1/nothing.png";
          setTimeout(() => done(false), 2000);
        })"""
    )
    assert blocked
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_the_screen(browser: Browser, odd_page: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for link in ("", "#label=ug&value=1", "#clip=0", "#clips=all"):
        page.goto("about:blank")
        page.goto(odd_page.as_uri() + link)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (ground, ink)]
    assert (lightness[0] > lightness[1]) == (scheme == "light")
    assert abs(lightness[0] - lightness[1]) > 0.7
    context.close()
