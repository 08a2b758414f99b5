"""Claims of the benchmark: which places false ones have, and what its rows say of a world whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.harness import Report
from benchmarks.world.trust import FALSE_KM, LEVELS, claimed_elsewhere, claims
from indexer.bundles.bundle import build_bundle, open_bundle
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km, unit_vectors
from indexer.vectors.calibration import Calibration, stored_nonconformities
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.place_density import PlaceDensity
from search.answers.radii import LeafDiscs
from tests.conftest import random_geocells
from tests.search.calibration.conftest import drawn
from tests.search.conftest import WIDTH


def test_false_claims_are_other_places_about_so_far_away() -> None:
    lat, lng = np.zeros(6), np.array([0.0, 1.0, 2.0, 2.0, 90.0, 179.9])
    other = claimed_elsewhere(lat, lng, 111.0)
    assert other.tolist()[:2] == [1, 0]
    assert other.tolist()[2:] == [1, 1, 2, 4]
    assert claimed_elsewhere(lat[:2], lng[:2], 1e4).tolist() == [1, 0]  # never its own


def test_rows_of_claims(
    hierarchy: Hierarchy, hierarchy_folder: object, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    bundle = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={}, inputs={}))  # type: ignore[arg-type]
    engine = Engine(bundle, options=SearchOptions(mode="exact"))
    known, sample = (drawn(engine, 1.0, n=n, seed=seed) for n, seed in ((400, 1), (300, 2)))
    posterior = engine.find(known.queries).posterior
    assert posterior is not None
    density = PlaceDensity.of_cells(posterior, LeafDiscs.of(hierarchy.leaves))
    at = density.at(unit_vectors(known.lat_deg, known.lng_deg), np.arange(len(density)))
    numbers = Calibration(1.0, 0.0, 1.0, {"cell": (0.5, 0.9)}, 40.0, 0.0, 400)
    fitted = replace(numbers, nonconformities=stored_nonconformities(density.nonconformity(at)))
    report = Report("test")
    claims(report, replace(bundle, calibrations={"one": fitted}), sample, gallery="off")
    assert len(report.rows) == len(LEVELS) + len(FALSE_KM)
    true, false = report.rows[: len(LEVELS)], report.rows[len(LEVELS) :]
    assert all(row["holds"] for row in true)
    assert [row["holds"] for row in false] == [None] * len(FALSE_KM)
    for level, row in zip(LEVELS, true, strict=True):
        assert row["interval"][0] <= row["share"] <= row["interval"][1]
        assert row["share"] == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) * (1 / 300 + 1 / 400)))
    far = haversine_km(sample.lat_deg[:, None], sample.lng_deg[:, None], sample.lat_deg, sample.lng_deg).max()
    assert far > FALSE_KM[-1]
    for row in false:
        assert list(row["shares"]) == ["1%", "5%", "10%", "20%"]
        assert row["shares"]["5%"] > 0.3
    assert "true claims with a p-value of at most 5%, by cells" in capsys.readouterr().out
    # One that calls true claims false is found out.
    wrong = Report("test")
    claims(
        wrong,
        replace(bundle, calibrations={"one": replace(fitted, nonconformities=(0.0,) * 200)}),
        sample,
        gallery="off",
    )
    assert not any(row["holds"] for row in wrong.rows[: len(LEVELS)])
