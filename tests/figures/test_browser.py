"""The report in headless Chromium: filters, maps, keyboard, accessibility, hostile utterances."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.figures.conftest import HOSTILE
from univa.figures.style import DARK, LIGHT, va_colors


@pytest.fixture
def tab(browser, page: Path) -> Iterator[object]:
    """The report in a tab. Fails the test on console errors, script errors and requests."""
    yield from _open(browser, page, width=1280)


def _open(browser, page: Path, *, width: int, **options: object) -> Iterator[object]:
    options = {"reduced_motion": "reduce"} | options  # places do not move while they are read
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert wrong == [page.as_uri()]  # itself is all that was asked for


def _visible(tab) -> list[str]:
    return tab.locator(".case:visible .id").all_inner_texts()


def test_it_loads(tab, pair):
    assert tab.title() == "UniVA report: without, with"
    assert tab.locator("h1").inner_text() == "without · with"
    assert tab.locator(".map").count() == 6
    assert tab.locator(".map").first.locator(".plane use").count() == 20
    assert tab.locator(".plot").count() == 4
    assert tab.locator(".plot svg:visible").count() == 4  # light ones only


def test_rows_filter_by_label_and_verdict(tab, pair):
    rows = [json.loads(line) for line in (pair[0] / "predictions.jsonl").read_text().splitlines()]
    names = tab.locator("select[name=label] option").all_inner_texts()[1:]
    everything = _visible(tab)
    assert len(everything) == len(rows)  # there are few, so all are shown
    by_id = {row["id"]: row for row in rows}
    others = (pair[1] / "predictions.jsonl").read_text().splitlines()
    second = {row["id"]: row for row in map(json.loads, others)}

    tab.select_option("select[name=verdict]", "right")
    right = {i for i, row in by_id.items() if row["labels"] == row["predictions"]}
    assert set(_visible(tab)) == right
    tab.select_option("select[name=verdict]", "wrong")
    assert set(_visible(tab)) == set(by_id) - right
    count = len(by_id) - len(right)
    said = f"{count} utterance{'s' if count != 1 else ''}"
    assert tab.locator("#count").inner_text() == said

    tab.select_option("select[name=run]", "1")
    wrong = {i for i, row in second.items() if row["labels"] != row["predictions"]}
    assert set(_visible(tab)) == wrong
    tab.select_option("select[name=label]", "sad")
    sad = names.index("sad")
    expected = {
        i
        for i in wrong
        if by_id[i]["labels"][sad] or by_id[i]["predictions"][sad] or second[i]["predictions"][sad]
    }
    assert set(_visible(tab)) == expected
    tab.get_by_role("button", name="Show all").click()
    pytest.importorskip("playwright.sync_api").expect(
        tab.locator(".case:not([hidden])")
    ).to_have_count(len(rows))
    assert _visible(tab) == everything


def test_a_point_shows_its_utterance_on_hover(tab):
    data = json.loads(tab.locator("#data").text_content())
    second = tab.locator(".map").nth(1)
    second.scroll_into_view_if_needed()
    box = second.locator(".plane svg").bounding_box()
    point = second.locator(".plane use").nth(4)
    x, y = (float(point.get_attribute(axis)) for axis in "xy")
    scale = box["width"] / 400
    tab.mouse.move(box["x"] + scale * x, box["y"] + scale * y)
    readout = second.locator(".readout")
    assert readout.locator("b").inner_text() == data["utterances"][4]["text"]
    assert "audio valence" in readout.inner_text()
    assert data["utterances"][4]["id"] in readout.inner_text()
    # The same utterance is ringed on every map, at its own place there.
    for place in range(6):
        here = tab.locator(".map").nth(place)
        ring = here.locator(".ring")
        use = here.locator(".plane use").nth(4)
        for ring_axis, point_axis in (("cx", "x"), ("cy", "y")):
            assert float(ring.get_attribute(ring_axis)) == float(use.get_attribute(point_axis))


def test_a_point_shows_its_utterance_on_keyboard_focus(tab):
    data = json.loads(tab.locator("#data").text_content())
    planes = tab.get_by_role("slider")
    assert planes.count() == 6
    tab.locator("input[name=color]").first.focus()
    tab.keyboard.press("Tab")
    first = planes.first
    assert first.evaluate("element => element === document.activeElement")
    shown = tab.locator(".readout b").first
    assert shown.inner_text() == data["utterances"][0]["text"]
    tab.keyboard.press("End")
    assert shown.inner_text() == data["utterances"][-1]["text"]
    assert first.get_attribute("aria-valuenow") == "20"
    assert data["utterances"][-1]["text"] in first.get_attribute("aria-valuetext")
    seen = set()
    for _ in range(20):  # every point can be reached
        tab.keyboard.press("PageDown")
        seen.add(first.get_attribute("aria-valuenow"))
    assert len(seen) == 20
    ring = tab.locator(".ring").first
    for key, axis, sign in (("ArrowRight", "cx", 1), ("ArrowUp", "cy", -1)):
        before = float(ring.get_attribute(axis))
        for _ in range(20):
            tab.keyboard.press(key)
            now = float(ring.get_attribute(axis))
            assert sign * (now - before) >= 0
            before = now
    tab.keyboard.press("Escape")
    assert tab.locator(".readout").first.inner_text() == ""
    tab.keyboard.press("Tab")
    assert planes.nth(1).evaluate("element => element === document.activeElement")


def test_the_whole_page_works_without_a_mouse(tab):
    tab.keyboard.press("Tab")
    assert tab.locator(".skip").evaluate("element => element === document.activeElement")
    tab.keyboard.press("Enter")
    assert tab.locator("main").evaluate("element => element === document.activeElement")
    tab.locator("input[name=color]").first.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#legend-va").is_visible()
    assert not tab.locator("#legend-emotion").is_visible()
    tab.locator("select[name=verdict]").focus()
    tab.keyboard.press("ArrowDown")
    assert tab.locator("select[name=verdict]").input_value() == "right"


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_of_valence_and_arousal_are_those_of_the_figures(browser, page, theme):
    for tab in _open(browser, page, width=1280, color_scheme=theme.name):
        tab.locator("input[value=va]").check()
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        channels = [int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)]
        assert [int(c) for c in re.findall(r"\d+", paper)] == channels
        for place in range(3):
            use = tab.locator(".map").nth(1).locator(".plane use").nth(place)
            v, a = (
                float(x) for x in re.findall(r"--[va]:\s*(-?[\d.]+)", use.get_attribute("style"))
            )
            drawn = use.evaluate(
                """element => {
                    const paint = document.createElement("canvas").getContext("2d");
                    paint.fillStyle = getComputedStyle(element).fill;
                    paint.fillRect(0, 0, 1, 1);
                    return [...paint.getImageData(0, 0, 1, 1).data.slice(0, 3)];
                }"""
            )
            expected = 255 * va_colors(np.array([2 * v, 2 * a]), theme)
            np.testing.assert_allclose(drawn, expected, atol=2)


def test_five_runs(browser, many_page, pair, ablation):
    for tab in _open(browser, many_page, width=1280):
        assert tab.locator(".map").count() == 15
        assert tab.locator(".plot svg:visible").count() == 5 * 3 + 3
        run = ablation / "without-va-ecp-1"
        assert tab.locator("select[name=run] option").all_inner_texts()[3] == run.name
        tab.select_option("select[name=run]", "3")
        tab.select_option("select[name=verdict]", "wrong")
        rows = map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
        assert _visible(tab) == [r["id"] for r in rows if r["labels"] != r["predictions"]]


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [("page", 1280, "light"), ("page", 380, "dark"), ("many_page", 380, "light")],
)
def test_it_is_accessible_and_fits(browser, request, kind, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = request.getfixturevalue(kind)
    for tab in _open(browser, page, width=width, color_scheme=scheme):
        if kind == "many_page":  # the other colours, too
            tab.locator("input[value=va]").check()
        for details in tab.locator("summary").all():
            details.click()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator(".plot svg:visible").count() == {"page": 4, "many_page": 18}[kind]
        found = axe.Axe().run(tab).response
        said = [
            f"{one['id']}: {node['html'][:200]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]
        assert said == []
        assert len(found["passes"]) > 20


def test_nothing_moves_for_those_who_do_not_want_it(browser, page):
    for wish, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        for tab in _open(browser, page, width=1280, reduced_motion=wish):
            found = tab.evaluate("getComputedStyle(document.documentElement).scrollBehavior")
            assert found == behaviour


def test_it_can_be_read_without_scripts(browser, page):
    for tab in _open(browser, page, width=1280, java_script_enabled=False):
        assert tab.locator(".case").count() > 5
        assert tab.locator(".case blockquote").first.is_visible()


def test_utterances_are_text_and_nothing_else(browser, hostile_page):
    for tab in _open(browser, hostile_page, width=380):
        shown = tab.locator(".case blockquote").all_inner_texts()
        for text in HOSTILE:
            assert text in shown
        tab.locator(".plane").first.focus()
        tab.keyboard.press("Home")
        for _ in range(20):  # the maps' utterances are as hostile
            tab.keyboard.press("PageDown")
            assert tab.locator(".readout b").first.inner_text() in HOSTILE
        assert tab.evaluate("window.hacked") is None
        assert tab.locator("img, iframe, object, b > script").count() == 0
        assert tab.locator("script").count() == 2  # the data, the page's own
        assert tab.locator("h1").inner_text() == "<b>run & 'co'"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380
