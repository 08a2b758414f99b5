"""What is said of what was found: places in leaves and regions, cells by name, areas where they are known."""

from pathlib import Path

import numpy as np
import pytest

from search.answers.engine import Engine
from search.answers.gallery_photos import CELLS
from search.answers.options import SearchOptions
from search.locate import Locator
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


def test_answers_name_the_best_cells_and_point_at_the_point_of_the_first(engine: Engine) -> None:
    queries = unit_rows(40, WIDTH, seed=1)
    answers, leaves = engine.answer(queries, k=3), engine.bundle.hierarchy.leaves
    assert len(answers) == 40
    hits = engine.search(queries, k=3)
    np.testing.assert_array_equal(answers.best, hits.leaf[:, 0])
    np.testing.assert_array_equal(answers.s2_ids, leaves.s2_ids[hits.leaf[:, 0]])
    np.testing.assert_array_equal(answers.at.lat_deg, leaves.lat_deg[answers.best])
    np.testing.assert_array_equal(answers.cell_lng_deg, leaves.lng_deg[hits.leaf])
    located = engine.bundle.hierarchy.locate(answers.at.lat_deg, answers.at.lng_deg)[:, -1]
    np.testing.assert_array_equal(answers.point_leaf, located)
    assert set(answers.evidence) == {CELLS}
    assert answers.photos is None


def test_all_places_lie_in_the_region(engine: Engine) -> None:
    south, west, north, east = box = (-1.0, -60.0, 0.3, 100.0)
    region = SearchOptions(region=",".join(map(str, box)))
    answers = Engine(engine.bundle, options=region).answer(unit_rows(60, WIDTH, seed=3), k=2)
    known = answers.hits.leaf >= 0
    for lat, lng in (
        (answers.at.lat_deg, answers.at.lng_deg),
        (answers.cell_lat_deg[known], answers.cell_lng_deg[known]),
    ):
        assert ((south - 1e-9 <= lat) & (lat <= north + 1e-9) & (west - 1e-9 <= lng) & (lng <= east + 1e-9)).all()
    leaves = engine.bundle.hierarchy.leaves  # and some of them had to be moved there
    assert (answers.at.lat_deg != leaves.lat_deg[answers.best]).any()


@pytest.mark.parametrize("radii", [None, False])
def test_areas_are_given_where_they_were_calibrated_and_wanted(checkable: Path, radii: bool | None) -> None:
    engine = Locator.open(checkable / "Q", options=SearchOptions(radii=radii)).engine
    answers = engine.answer(unit_rows(5, WIDTH, seed=2), k=1)
    assert engine.gives_areas is (radii is None)
    if radii is None:
        assert answers.radius_50_km is not None
        assert answers.radius_90_km is not None
        assert (answers.radius_50_km <= answers.radius_90_km).all()
        assert answers.entropy is not None
        assert answers.abstain is not None
    else:
        assert answers.radius_90_km is answers.entropy is answers.abstain is None


def test_without_a_calibration_there_are_no_areas(engine: Engine) -> None:
    answers = engine.answer(unit_rows(5, WIDTH, seed=2), k=1)
    assert not engine.gives_areas
    assert answers.radius_50_km is answers.radius_90_km is answers.abstain is None
