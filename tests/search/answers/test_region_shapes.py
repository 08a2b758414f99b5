"""Borders of regions: boxes and GeoJSON, and the cells they hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from search.answers.constraints import Region
from tests.search.answers.conftest import overlapping


def test_a_box_passes_the_antimeridian(hierarchy: Hierarchy) -> None:
    found = Region("-20,175,30,-175", None).cells(hierarchy.leaves)
    both = shapely.union(shapely.box(175, -20, 180, 30), shapely.box(-180, -20, -175, 30))
    np.testing.assert_array_equal(found, overlapping(hierarchy, both))


def test_polygons_of_a_file_with_a_hole(hierarchy: Hierarchy, tmp_path: Path) -> None:
    shape = shapely.box(-40, -30, 50, 60).difference(shapely.box(-10, -10, 20, 30))
    feature = {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(shape))}
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature, feature]}))
    found = Region(str(tmp_path / "r.geojson"), None).cells(hierarchy.leaves)
    np.testing.assert_array_equal(found, overlapping(hierarchy, shape))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("XX", "'XX' is no ISO 3166 country code"),
        ("60,0,50,10", "south lies below north"),
        ("1,2,3,4.5.6", "four numbers"),
        ("absent.geojson", "no such file"),
        ("{tmp}/text.json", "not GeoJSON"),
        ("{tmp}/point.json", "it must hold polygons, not Point"),
        ("{tmp}/mercator.json", "not longitude and latitude"),
        ("{tmp}/empty.json", "its polygons are empty"),
        ("{tmp}/nowhere.json", "it must hold polygons, not nothing"),
        ("{tmp}/bow.json", "Self-intersection"),
    ],
)
def test_regions_that_cannot_be_are_refused(hierarchy: Hierarchy, tmp_path: Path, region: str, message: str) -> None:
    (tmp_path / "text.json").write_text("[1, 2")
    (tmp_path / "point.json").write_text('{"type": "Point", "coordinates": [1, 2]}')
    far = '{"type": "Polygon", "coordinates": [[[0, 0], [500000, 0], [500000, 500000], [0, 0]]]}'
    (tmp_path / "mercator.json").write_text(far)
    bow = '{"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}'
    (tmp_path / "bow.json").write_text(bow)
    (tmp_path / "empty.json").write_text('{"type": "Polygon", "coordinates": []}')
    nowhere = '{"type": "Feature", "properties": {}, "geometry": null}'
    (tmp_path / "nowhere.json").write_text(f'{{"type": "FeatureCollection", "features": [{nowhere}]}}')
    with pytest.raises(InputError, match=message):
        Region(region.format(tmp=tmp_path), None).cells(hierarchy.leaves)
