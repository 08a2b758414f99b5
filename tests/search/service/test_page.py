"""The page's files, its cookie, and what it asks for: answers with their posterior, albums, a page for people."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from search.answers.options import SearchOptions
from search.locate import Locator
from search.service.access import COOKIE
from search.service.tokens import add_token, read_tokens
from tests.search.service.conftest import Encoders, Running, photo, served

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "search" / "service" / "static"
PHOTOS = [(f"{seed}.png", photo(seed)) for seed in range(3)]


def test_everything_the_page_names_is_served_from_here(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        page = await running.client.get("/")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert not re.search(
            r"<style|style=|\son\w+=|<script(?![^>]* src=)", page.text
        )  # nothing that a policy forbids
        named = set(re.findall(r'(?:src|href)="(/[^"]+)"', page.text)) | {"/static/world.json", "/static/places.json"}
        for script in STATIC.glob("*.js"):
            named |= {f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text())}
        for path in named:
            assert (await running.client.get(path)).status_code == 200, path
        assert not re.search(r"https?://", page.text)
        assert (await running.client.get("/static/nothing.js")).status_code == 404
        assert (await running.client.get("/static/..%2fpage.py")).status_code == 404

    served(test, world / "R", encoders)


def test_no_text_becomes_markup_and_nothing_is_fetched_elsewhere() -> None:
    for script in STATIC.glob("*.js"):
        text = script.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|setHTML", text), (
            script.name
        )
        assert not re.search(r"https?://", text), script.name


def test_places_are_the_largest_cities_and_all_countries(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        places = (await running.client.get("/static/places.json")).json()
        names = [name for name, _, _ in places["towns"]]
        assert "Shanghai" in names[:20]
        assert {"FR", "JP", "ZA"} <= set(places["countries"])
        land = (await running.client.get("/static/world.json")).json()
        assert [each["properties"]["kind"] for each in land["features"]] == ["land", "lakes", "borders"]

    served(test, world / "R", encoders)


def test_a_token_is_given_once_and_kept_in_a_cookie_that_no_script_reads(
    world: Path, encoders: Encoders, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    token = add_token(file, "desk")

    async def test(running: Running) -> None:
        client = running.client
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/v1/session")).status_code == 401
        assert (await client.post("/v1/session", headers={"Authorization": "Bearer wrong"})).status_code == 401
        logged_in = await client.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
        assert logged_in.json() == {"name": "desk"}
        cookie = logged_in.headers["set-cookie"]
        assert COOKIE in cookie
        assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
        assert (await client.get("/v1/session")).json() == {"name": "desk"}  # the client keeps cookies
        assert (await running.post("/v1/locate", PHOTOS[:1])).status_code == 200
        await client.delete("/v1/session")
        assert (await client.get("/v1/bundle")).status_code == 401

    served(test, world / "R", encoders, tokens=read_tokens(file))


def test_answers_and_their_posterior_come_together(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        photos = [PHOTOS[0], ("bad.png", b"no image"), PHOTOS[1]]
        both = (await running.post("/v1/locate", photos, posterior="yes")).json()
        plain = (await running.post("/v1/locate", photos)).json()
        assert both["answers"] == plain["answers"]
        assert "posterior" not in plain
        rows = np.array([each["properties"]["row"] for each in both["posterior"]["features"]])
        shares = np.array([each["properties"]["share"] for each in both["posterior"]["features"]])
        assert set(rows.tolist()) == {0, 2}
        for row in (0, 2):
            assert shares[rows == row].sum() == pytest.approx(1, abs=1e-6)
        headers = {"Accept": "application/geo+json"}
        alone = await running.post("/v1/locate", photos, headers=headers)
        assert alone.headers["content-type"] == "application/geo+json"
        assert alone.json()["features"] == both["posterior"]["features"]
        assert (await running.post("/v1/locate", photos, posterior="perhaps")).status_code == 400

    served(test, world / "R", encoders)


def test_an_album_has_one_answer(world: Path, encoders: Encoders) -> None:
    locator = Locator.open(world / "R", checkpoint=world / "C", device="cpu")
    expected = locator.locate_album([content for _, content in PHOTOS], k=2)

    async def test(running: Running) -> None:
        response = (await running.post("/v1/locate", PHOTOS, album="yes", k="2", posterior="yes")).json()
        (answer,) = response["answers"]
        assert answer["n_photos"] == 3
        assert answer["key"] == expected.key
        assert answer["probability"] == pytest.approx(expected.probability, rel=1e-4)
        assert {each["properties"]["row"] for each in response["posterior"]["features"]} == {0}

    served(test, world / "R", encoders)


def test_the_page_for_people_is_that_of_query(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        photos = [("<b>.png", PHOTOS[0][1]), ("bad.png", b"no image")]
        response = await running.post("/v1/locate", photos, headers={"Accept": "text/html"})
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        page = response.text
        assert "<b>" not in page
        assert page.count('<img alt="the photo"') == 1
        assert running.service.versions.served in page
        assert "Made by" in page
        assert "region FR" not in page

    served(test, world / "R", encoders)
    assert SearchOptions().given == {}


def test_figures_of_a_json_are_finite(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        text = (await running.post("/v1/locate", PHOTOS, posterior="yes")).text
        json.loads(text, parse_constant=lambda name: pytest.fail(name))

    served(test, world / "R", encoders)
