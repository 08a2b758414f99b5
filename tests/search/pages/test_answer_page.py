"""Maps of answers: shares that add up to 1, polygons that stay on the map, pages with what is known and no more."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.config import ReadOptions
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.photos.photo import Photo
from search.__main__ import COMMANDS
from search.answers.answer import Answer, GalleryPhoto, PathStep, RankedCell
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.evaluation.report_table import Row, Table
from search.pages import pictures
from search.pages.answer_page import answers_page, made_by, thumbnail
from search.pages.pictures import posterior_map
from search.retrieval.posterior import Posterior
from tests.photo_files import comment, jpeg, with_segments
from tests.search.pages.test_evaluation_page import HOSTILE, Tags

LOST = Answer(0, HOSTILE, "missing", f"no such file {HOSTILE}")
FOUND = Answer(
    *(1, HOSTILE, "ok", "", 10.0, 20.0, HOSTILE, HOSTILE, None, HOSTILE, HOSTILE, -1.5, 0.25, False),
    evidence=HOSTILE,
    path=(PathStep(0, HOSTILE, HOSTILE, HOSTILE, 1234.5, 0.75),),
)
SURE = replace(
    FOUND,
    calibrated=True,
    radius_50_km=12.0,
    radius_90_km=3456.0,
    abstain="unlike the others",
    point_key="c3",
    top=(RankedCell("a1", 1.0, 2.0, 0.5, 0.125),),
    gallery=(GalleryPhoto(HOSTILE, 3.0, 4.0, 0.875, 0.625),),
)
SURE_OF_ONE = Posterior(np.array([0, 1, 2]), np.array([0, 1]), np.ones(2), np.zeros(2), np.ones(2, np.int64))


def drawn(hierarchy: Hierarchy, *answers: Answer) -> str:
    photos = [b"a photo" if answer.ok else None for answer in answers]
    made = Table([], [Row(["bundle", HOSTILE])])
    page = answers_page(hierarchy, answers, photos, SURE_OF_ONE, level=0, coarse=None, made=made)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    return page


def test_each_answer_has_what_is_known_of_it(hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[list[float]] = []
    rings: list[tuple[float, float, float]] = []

    def draw(*given: object, photos: list[tuple[float, float, float]]) -> bytes:
        radii.append(given[-1])  # type: ignore[arg-type]
        rings.extend(photos)
        return b"a map"

    monkeypatch.setattr(pictures, "posterior_map", draw)
    page = drawn(hierarchy, LOST, FOUND, SURE)
    assert radii == [[], [12.0, 3456.0]]
    assert rings == [(each.lat_deg, each.lng_deg, each.weight) for answer in (FOUND, SURE) for each in answer.gallery]
    lost, found, sure = page.split("<h2>")[1:]
    assert "no such file &lt;script&gt;" in lost
    assert "<img" not in lost
    for words in ("<strong>10.00000, 20.00000</strong>", "probability 0.250", "not calibrated", "<td>1,234 km</td>"):
        assert words in found
    assert "nine in ten" not in found
    assert "Abstain" not in found
    for words in (
        "(calibrated)",
        "within\n3,456 km (dashes)",
        "Abstain</strong>: unlike the others",
        "<td>a1</td>",
        "<td>0.875</td>",
        "<td>62%</td>",
    ):
        assert words in sure
    assert "The place lies in cell c3" in sure
    assert "The place lies in cell" not in found


def test_cells_that_are_labels_have_no_map(hierarchy: Hierarchy) -> None:
    labels = replace(hierarchy, levels=tuple(replace(level, s2_ids=None) for level in hierarchy.levels))
    page = drawn(labels, FOUND)
    assert "have no borders to draw" in page
    assert "Where a photo was taken" in page
    assert page.count("<img") == 1


def test_a_photo_comes_small_and_without_what_its_file_says() -> None:
    data = with_segments(jpeg(Image.new("RGB", (900, 600))), comment("taken at home"))
    assert b"home" in data
    content = thumbnail(Photo("a.jpg", data), ReadOptions())
    assert content is not None
    assert b"home" not in content
    with Image.open(io.BytesIO(content)) as small:
        assert small.size == (320, 213)
    assert thumbnail(Photo("a.jpg", b"no image"), ReadOptions()) is None


def test_a_photo_is_called_by_its_name_wherever_it_lies(hierarchy: Hierarchy) -> None:
    page = drawn(
        hierarchy, *(replace(LOST, photo=name) for name in ("/home/me/a.jpg", "C:\\me\\b.jpg", "s3://x/c.jpg"))
    )
    assert [name in page for name in ("<h2>a.jpg</h2>", "<h2>b.jpg</h2>", "<h2>c.jpg</h2>")] == [True] * 3
    assert "/home" not in page


def test_a_page_says_what_made_it(engine: Engine, checkable: Path) -> None:
    def said(one: Engine) -> dict[str, str]:
        return {str(row.cells[0]): str(row.cells[1]) for row in made_by(one).rows}

    plain = said(engine)
    assert plain["bundle"] == engine.bundle.version
    assert plain["calibrated"] == "no: probabilities are a ranking, not chances"
    assert plain["options"] == "none"
    calibrated = Engine.open(checkable / "Q")
    assert said(calibrated)["calibrated"] == "with 200 photos whose places are known, one crop each"
    within = said(Engine(calibrated.bundle, options=SearchOptions(region="-40,-60,30,100")))
    assert within["options"] == "region -40,-60,30,100"
    assert within["calibrated"].endswith("not for a search with these options")


def query(world: Path, *arguments: object) -> int:
    common = ("query", "--registry", world / "R", "--checkpoint", world / "C")
    return main("search", "test", COMMANDS, argv=[str(each) for each in (*common, *arguments)])


def test_query_writes_polygons_and_a_page(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = world / "<b>&.png"
    strange.write_bytes((world / "0.png").read_bytes())
    files = ("--geojson", tmp_path / "m.geojson", "--html", tmp_path / "m.html", "--level", 1)
    assert query(world, *files, strange, world / "3.png", world / "1.png") == 1  # the second one is no image
    drawn = json.loads((tmp_path / "m.geojson").read_text())
    shares: dict[str, float] = {}
    for each in drawn["features"]:
        told = each["properties"]
        shares[told["photo"]] = shares.get(told["photo"], 0) + told["share"]
        assert told["level"] == 1
        assert each["geometry"]["type"] in ("Polygon", "MultiPolygon")
    assert {Path(name).name: round(share, 5) for name, share in shares.items()} == {"<b>&.png": 1, "1.png": 1}
    page = (tmp_path / "m.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;.png" in page
    assert page.count('<img alt="the photo"') == 2
    assert page.count('<img alt="a map of the world') == 2
    assert "<h2>3.png</h2>\n<p>" in page  # and its reason
    assert "://" not in page  # nothing is fetched
    capsys.readouterr()
    assert query(world, "--html", tmp_path / "m.html", world / "0.png") == 2
    assert "m.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "1"], "--geojson or --html"),
        (["--html", "x.html", "--level", "9"], "no level 9"),
        (["--geojson", "x.txt"], "must end in"),
        (["--geojson", "x.geojson", "--score", "cosine-affine"], "no probabilities"),
    ],
)
def test_maps_that_cannot_be_are_refused(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert query(world, *arguments, world / "0.png") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_picture_is_drawn_at_the_antimeridian_and_the_poles(hierarchy: Hierarchy) -> None:
    for lat, lng in ((10.0, 179.9), (-89.0, 0.0), (0.0, -180.0)):
        ring = np.array([[lat, lng - 1], [lat, lng + 1], [max(lat - 1, -90), lng + 1], [max(lat - 1, -90), lng - 1]])
        ring[:, 1] = (ring[:, 1] + 180) % 360 - 180
        photo = (max(lat - 0.5, -90.0), lng, 0.4)
        plain, circled, ringed = (
            posterior_map(ring[None], np.ones(1), (lat, lng), radii, photos=photos)
            for radii, photos in (([], []), ([50.0, 400.0], []), ([50.0, 400.0], [photo]))
        )
        assert plain.startswith(b"\x89PNG")
        assert len({plain, circled, ringed}) == 3
