"""The HTML report in a real browser: it works from disk, and names of others stay text."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from lgrnet.evaluation import write_html
from tests.browser import Browser, find_browser
from tests.evaluation.pages import HOSTILE, scored

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        pytest.skip("no Chromium here; make test-browser installs it")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two sets, the second one with hostile names and more frames than pictures."""
    one, two = scored(["seq1", "seq2", "seq3"], 12, "even"), scored(HOSTILE, 30, HOSTILE[1])
    return write_html(tmp_path_factory.mktemp("page & <b>") / "report.html", [one, two], {"command": "x"}, 120_000)


@pytest.fixture(autouse=True)
def quiet(browser):
    """Nothing is said on the console, nothing but the file is loaded, and no name became a program."""
    browser.troubles.clear()
    browser.requests.clear()
    yield
    assert browser.troubles == []
    assert all(address.startswith(("file://", "about:")) for address in browser.requests), browser.requests
    assert browser.run("document.title") != "owned"


@pytest.fixture
def screenshots(request, tmp_path):
    return request.config.getoption("--screenshots") or tmp_path


def _address(page, **place):
    return f"{page.as_uri()}#{urlencode(place)}" if place else page.as_uri()


def _text(browser, selector):
    return browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")


def test_it_shows_the_numbers_the_videos_and_a_frame(browser, page):
    browser.size(1280)
    browser.open(_address(page))
    assert sorted(_text(browser, "#list .name")) == ["seq1", "seq2", "seq3"]
    values = [float(value) for value in _text(browser, "#list .value")]
    assert values == sorted(values) and all(0 < value < 1 for value in values)
    assert browser.run("document.querySelectorAll('#worst svg').length") == 9  # three of each video
    worst = _text(browser, "#worst span")[0].split()
    assert _text(browser, "#video") == [worst[1]] and _text(browser, "#caption") == [f"{worst[1]} / {worst[3]}"]
    assert browser.run("document.querySelectorAll('#strips svg').length") == 3
    assert browser.run("document.querySelectorAll('#scatter path').length") == 1
    loaded = "(i => { const p = new Image(); p.src = i.getAttribute('href'); return p.decode().then(() => p.width); })"
    assert browser.run(f"{loaded}(document.querySelector('#picture image'))") == 64


def test_an_address_leads_to_a_frame_and_clicks_and_keys_go_on(browser, page):
    browser.open(_address(page, set="even", video="seq2", frame="005"))
    assert _text(browser, "#caption") == ["seq2 / 005"]
    browser.press("ArrowRight")
    assert _text(browser, "#reading")[0].startswith("frame 006 (7 of 12) · dice 0.")
    assert browser.run("location.hash") == "#set=even&video=seq2&frame=006"
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('#slider').value") == "4"
    browser.click("#strips svg", x=0.999)
    assert _text(browser, "#reading")[0].startswith("frame 011")
    browser.click("#on")  # the last one stays
    assert _text(browser, "#reading")[0].startswith("frame 011")
    browser.click("#worst button")
    assert _text(browser, "#worst span")[0].endswith(_text(browser, "#caption")[0])
    assert browser.run("document.querySelectorAll('#picture path').length") == 2
    browser.click("#show-found")
    assert browser.run("[...document.querySelectorAll('#picture path')].map(p => p.className.baseVal)") == ["truth"]


def test_the_focus_stays_where_it_was_and_a_choice_can_be_seen(browser, page):
    browser.size(1280)
    browser.open(_address(page, set="even", video="seq1", frame="000"))
    focus = "document.activeElement.textContent + document.activeElement.title"
    for buttons in ("#list", "#film"):
        browser.run(f"document.querySelectorAll('{buttons} button')[1].focus()")
        before = browser.run(focus)
        browser.run("document.activeElement.click()")
        assert browser.run(focus) == before != ""
        assert browser.run("document.activeElement.getAttribute('aria-current')") == "true"
    assert browser.run("document.querySelectorAll('#list [aria-current=true]').length") == 1
    browser.click("#best button")
    assert browser.run("(b => b.top >= 0 || b.bottom > 300)($('viewer').getBoundingClientRect())")


def test_arrows_are_left_to_tables_and_selections(browser, page):
    browser.open(_address(page, set="even", video="seq1", frame="003"))
    for event in (
        "new KeyboardEvent('keydown', {key: 'ArrowRight', shiftKey: true, bubbles: true})",
        "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})",
    ):
        browser.run("document.querySelector('.wide').focus()")
        browser.run(f"document.activeElement.dispatchEvent({event})")
        assert _text(browser, "#reading")[0].startswith("frame 003")
    assert browser.run("document.activeElement.className") == "wide"


def test_the_filter_the_order_and_the_number(browser, page):
    browser.open(_address(page))
    browser.run("document.querySelector('#filter').focus()")
    browser.call("Input.insertText", text="EQ3")
    assert _text(browser, "#list .name") == ["seq3"] and _text(browser, "#found")[0].startswith("1 of 3 videos")
    browser.press("ArrowLeft")  # in a text field it moves the cursor, not the frame
    choose = "(e => { e.value = %r; e.dispatchEvent(new Event('change')); })(document.querySelector('%s'))"
    browser.run("document.querySelector('#filter').value = ''")
    browser.run(choose % ("high", "#order"))
    values = [float(value) for value in _text(browser, "#list .value")]
    assert len(values) == 3 and values == sorted(values, reverse=True)
    browser.run(choose % ("1", "#measure"))
    assert "lgrnet · iou" in _text(browser, "#found")[0] and " · iou 0." in _text(browser, "#reading")[0]


def test_hostile_names_are_shown_as_text(browser, page, screenshots):
    browser.open(_address(page, set=HOSTILE[1], video=HOSTILE[0]))
    assert sorted(_text(browser, "#list .name")) == sorted(HOSTILE)
    assert _text(browser, "#video") == [HOSTILE[0]]
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('img, b > b, i').length") == 0
    assert browser.run("document.title").endswith(HOSTILE[1])
    browser.screenshot(screenshots / "hostile.png")


def test_a_frame_without_a_picture_says_so(browser, page):
    browser.open(_address(page, set=HOSTILE[1], video=HOSTILE[3]))
    place = "data.sets[1].videos.find(v => v.name === the.video.name).pictures.findIndex(p => p == null)"
    browser.run(f"go({{ frame: {place} }})")
    assert "no picture" in _text(browser, "#picture")[0]
    assert "of 30 frames have one" in _text(browser, "#caption")[0]
    assert browser.run("document.querySelectorAll('#strips path.ticks').length") == 1


@pytest.mark.parametrize("width, dark", [(1280, False), (1280, True), (420, False)])
def test_nothing_sticks_out_and_there_is_contrast(browser, page, screenshots, width, dark):
    browser.size(width, dark)
    for number, name in ((0, "even"), (1, HOSTILE[1])):
        browser.open(_address(page, set=name))
        assert browser.run("document.documentElement.scrollWidth") <= width
        browser.screenshot(screenshots / f"{width}_{'dark' if dark else 'light'}_{number}.png")
    light = "(c => c.reduce((s, x) => s + x, 0))(getComputedStyle(document.body)[%r].match(/\\d+/g).map(Number))"
    ink, paper = browser.run(light % "color"), browser.run(light % "backgroundColor")
    assert (ink > 600 > 200 > paper) if dark else (ink < 200 < 600 < paper)
    names = (
        "[...document.querySelectorAll('button, input, select, svg[role=img]')].filter(e => e.checkVisibility() && !"
    )
    names += (
        "(e.textContent.trim() || e.getAttribute('aria-label') || e.title || (e.labels && e.labels.length))).length"
    )
    assert browser.run(names) == 0


def test_the_policy_stops_what_is_not_ours(browser, page, tmp_path):
    text = page.read_text(encoding="utf-8")
    forged = tmp_path / "forged.html"
    forged.write_text(text.replace("</main>", "<img src=x onerror=\"document.title='owned'\"></main>"), "utf-8")
    browser.open(forged.as_uri())
    assert browser.troubles and "Content Security Policy" in browser.troubles[0]
    browser.troubles.clear()
