"""Maps of posteriors: shares that add up to 1, polygons that stay on the map, pages without what they must not hold."""

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from search.__main__ import COMMANDS
from search.pages.pictures import posterior_map


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
    assert f"<h2>{escape(str(world / '3.png'))}</h2>\n<p>" in page  # and its reason
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
        for radii in ([], [50.0, 400.0]):
            assert posterior_map(ring[None], np.ones(1), (lat, lng), radii).startswith(b"\x89PNG")
