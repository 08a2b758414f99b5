"""The page in a real browser: `make test-browser`. It needs Chromium; screenshots to be looked at go to out/browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.bundles.bundle import calibrated_bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.vectors.calibration import Calibration
from search.service.tokens import add_token
from tests.kills import ROOT
from tests.search.service.conftest import photo
from tests.search.service.server_process import server

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

OUT = ROOT / "out" / "browser"
HOSTILE = "<img src=x onerror=alert(1)>.png"
_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if _CHROMIUM is None:
        pytest.fail("Chromium is not installed: apt-get install chromium")
    OUT.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as runner:
        opened = runner.chromium.launch(executable_path=_CHROMIUM, args=_SOFTWARE)
        yield opened
        opened.close()


@contextmanager
def page_of(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """The page, opened; nothing may be fetched from elsewhere, and nothing may go wrong unseen."""
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
    wrong, elsewhere = list[str](), list[str]()

    def route(route: Any) -> None:
        address = route.request.url
        if address.startswith((url, "blob:", "data:")):
            route.continue_()
        else:
            elsewhere.append(address)
            route.abort()

    page.route("**/*", route)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.goto(url)
    yield page
    page.close()
    assert elsewhere == []
    # A status of 400 and above is an error on the console, and the page explains it.
    assert [line for line in wrong if "status of 4" not in line] == []


def given(*seeds: int, name: str = "{}.png") -> list[dict[str, Any]]:
    return [{"name": name.format(seed), "mimeType": "image/png", "buffer": photo(seed)} for seed in seeds]


def ask(page: Any, *seeds: int, **named: str) -> None:
    """Choose photos, and wait for the first one's answer."""
    page.set_input_files("#photos", given(*seeds, **named))
    page.wait_for_selector("#answer .said")


def test_photos_are_dropped_in_and_places_come_out(browser: Any, checkable: Path) -> None:
    with server(checkable, registry="Q") as served, page_of(browser, served.url) as page:
        ask(page, 0, 1, 2)
        first = page.inner_text("#answer h2")
        assert first == "0.png"
        assert "nine in ten photos like this were taken within" in page.inner_text(".said")
        assert page.locator("#film button").count() == 3
        page.locator("#film button").nth(2).click()
        assert page.inner_text("#answer h2") == "2.png"
        page.wait_for_timeout(1500)  # the map draws
        page.screenshot(path=OUT / "wide.png")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save as CSV").click()
        text = Path(saved.value.path()).read_text()
        assert len(text.splitlines()) == 4
        with page.expect_download() as saved:
            page.get_by_role("button", name="Evidence sheet").click()
        assert "Made by" in Path(saved.value.path()).read_text()


def test_a_claim_is_checked_with_the_keyboard_alone(browser: Any, checkable: Path) -> None:
    with server(checkable, registry="Q") as served, page_of(browser, served.url) as page:
        ask(page, 0)
        for _ in range(30):  # on from wherever the focus is
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "claim":
                break
        page.keyboard.type("48.85,2.35")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=p-value")
        assert "48.85" in page.inner_text("#answer")
        page.get_by_role("button", name="Choose on the map").click()
        page.locator("#map canvas").click(position={"x": 300, "y": 200})
        playwright.expect(page.locator("input[name=claim]")).not_to_have_value("48.85,2.35")


def test_answers_are_held_to_a_region(browser: Any, checkable: Path) -> None:
    with server(checkable, registry="Q") as served, page_of(browser, served.url) as page:
        ask(page, 0)
        page.click("summary")
        page.fill("#region", "-40,-60,30,100")
        with page.expect_response("**/v1/locate") as asked:
            page.get_by_role("button", name="Ask again").click()
        (answer,) = asked.value.json()["answers"]
        assert -40 <= answer["lat"] <= 30
        assert -60 <= answer["lng"] <= 100
        page.fill("#region", "nowhere")
        page.get_by_role("button", name="Ask again").click()
        page.wait_for_selector("#state.fault")
        assert "ISO 3166" in page.inner_text("#state")


def test_who_asks_too_often_is_told_when_to_come_again(browser: Any, checkable: Path) -> None:
    with server(checkable, "--rate", 2, registry="Q") as served, page_of(browser, served.url) as page:
        ask(page, 0, 1)
        page.set_input_files("#photos", given(2))
        playwright.expect(page.locator("#state")).to_contain_text("asked again in")


def test_a_version_that_is_published_meanwhile_answers_the_next_time(
    browser: Any, checkable: Path, hierarchy: Hierarchy, hierarchy_folder: Path
) -> None:
    home = Registry(checkable / "Q")
    with server(checkable, registry="Q") as served, page_of(browser, served.url) as page:
        ask(page, 0)
        before = page.inner_text("#served")
        numbers = Calibration(1.0, 0.0, 1.0, {"cell": (0.5, 0.9)}, 40.0, 0.0, 200)
        bundle = open_bundle(home.resolve(None))
        with_numbers = calibrated_bundle(bundle, home.versions_folder, {"one": numbers}, config={"new": 1}, inputs={})
        home.publish(with_numbers.name)
        page.wait_for_timeout(2000)
        page.click("summary")
        page.get_by_role("button", name="Ask again").click()
        playwright.expect(page.locator("#served")).not_to_have_text(before)
        assert with_numbers.name[:12] in page.inner_text("#served")


def test_a_token_opens_the_page_and_is_asked_for_once(browser: Any, checkable: Path, tmp_path: Path) -> None:
    token = add_token(tmp_path / "tokens", "desk")
    with (
        server(checkable, "--tokens", tmp_path / "tokens", registry="Q") as served,
        page_of(browser, served.url) as page,
    ):
        page.wait_for_selector("#login:not([hidden])")
        assert not page.is_visible("#ask")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#login-fault:not(:empty)")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask:not([hidden])")
        ask(page, 0)
        page.reload()
        page.wait_for_selector("#logout:not([hidden])")
        assert page.inner_text("#logout") == "Log out desk"
        assert page.evaluate("document.cookie") == ""
        page.click("#logout")
        page.wait_for_selector("#login:not([hidden])")


def test_a_name_of_a_photo_is_text(browser: Any, checkable: Path) -> None:
    with server(checkable, registry="Q") as served, page_of(browser, served.url) as page:
        ask(page, 0, name=HOSTILE)
        assert page.inner_text("#answer h2") == HOSTILE
        assert page.locator("#answer img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_either_scheme(browser: Any, checkable: Path, scheme: str) -> None:
    phone = {"viewport": {"width": 380, "height": 800}, "color_scheme": scheme}
    with server(checkable, registry="Q") as served, page_of(browser, served.url, **phone) as page:
        ask(page, 0)
        page.wait_for_timeout(1500)
        page.screenshot(path=OUT / f"phone-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.body).color")
        darker = np.array([sum(map(int, each[4:-1].split(","))) for each in (background, ink)])
        assert bool(darker[0] < darker[1]) is (scheme == "dark")
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input, select, button')].filter(each => !each.closest('[hidden]') && "
            "!(each.labels?.length || each.textContent.trim() || each.getAttribute('aria-label') || each.title))"
            ".map(each => each.outerHTML)"
        )
        assert unnamed == []
