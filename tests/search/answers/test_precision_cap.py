"""A cap on precision: nothing that an answer, a row or a map tells is finer, whatever is asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import s2sphere

from indexer.bundles.bundle import Bundle, build_bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.earth import s2
from indexer.earth.geo import haversine_km
from indexer.errors import InputError
from indexer.vectors.features import open_features
from indexer.vectors.scoring import log_product, log_softmax
from search.__main__ import COMMANDS
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.points import CapPoints
from search.answers.precision_cap import CoarseCells
from search.runs.local_run import run_here
from search.runs.run_spec import RunConfig
from search.runs.vectors import StoredVectors
from tests.conftest import unit_rows
from tests.search.answers.test_photo_evidence import queries_of
from tests.search.conftest import WIDTH, features
from tests.search.gallery_oracle import FIT, brute_force, calibrated

CAP_KM = 600.0


@pytest.mark.parametrize(("km", "level"), [(9000, 0), (4000, 1), (600, 3), (144, 6), (143.5, 6), (1, 13)])
def test_cells_are_at_least_as_wide_on_average(km: float, level: int) -> None:
    assert s2.level_of_width(km) == level
    area = 4 * np.pi * 6371.0**2 / (6 * 4**level)
    assert np.sqrt(area) >= km > np.sqrt(area / 4)


@pytest.mark.parametrize("km", [0.0, -5.0, 9300.0, float("nan")])
def test_caps_that_no_cell_can_have_are_refused(km: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        s2.level_of_width(km)


def test_leaves_are_told_as_the_cell_that_holds_them(hierarchy: Hierarchy) -> None:
    coarse = CoarseCells(hierarchy.leaves, CAP_KM)
    assert hierarchy.leaves.s2_ids is not None
    assert coarse.s2_ids is not None
    assert 1 < len(coarse) < len(hierarchy.leaves)
    for leaf, cell in zip(hierarchy.leaves.s2_ids.tolist(), coarse.of_leaf, strict=True):
        told = s2sphere.CellId(int(coarse.s2_ids[cell]))
        assert told.contains(s2sphere.CellId(leaf))
        assert told.level() <= coarse.s2_level
    centre = s2sphere.CellId(int(coarse.s2_ids[0])).to_lat_lng()
    assert (coarse.lat_deg[0], coarse.lng_deg[0]) == pytest.approx((centre.lat().degrees, centre.lng().degrees))


@pytest.mark.parametrize("mode", ["exact", "beam"])
def test_rows_tell_nothing_finer_and_whole_cells_probabilities(engine: Engine, tmp_path: Path, mode: str) -> None:
    capped = Engine(engine.bundle, options=SearchOptions(mode=mode, precision_cap=CAP_KM))  # type: ignore[arg-type]
    source = features(tmp_path / "F", [30], bad={3})
    run_here(capped, StoredVectors(capped, open_features(source), shard_rows=9), tmp_path / "O", RunConfig(top_k=5))
    coarse = CoarseCells(engine.bundle.hierarchy.leaves, CAP_KM)
    assert coarse.s2_ids is not None
    places = {(lat, lng) for lat, lng in zip(coarse.lat_deg.tolist(), coarse.lng_deg.tolist(), strict=True)}
    share = np.exp(log_softmax(log_product(engine.bundle.model, unit_rows(30, WIDTH, seed=0))))
    for row in pa.parquet.read_table(tmp_path / "O").to_pylist():
        if row["status"] != "ok":
            continue
        cell = int(np.flatnonzero(coarse.s2_ids == row["s2_id"])[0])
        assert row["key"] == row["token"] == coarse.keys[cell]
        assert (row["lat"], row["lng"]) in places
        assert set(zip(row["top_lat"], row["top_lng"], strict=True)) <= places
        assert len(set(row["top_key"])) == len(row["top_key"]) == len(row["top_score"]) <= 5
        assert row["top_key"][0] == row["key"]
        assert row["top_probability"] == sorted(row["top_probability"], reverse=True)
        assert row["score"] == pytest.approx(np.log(row["probability"]))
        assert not row["calibrated"]
        assert row["radius_90_km"] is None
        if mode == "exact":
            whole = np.bincount(coarse.of_leaf, share[row["row"]])
            assert cell == whole.argmax()
            told = len(row["top_probability"])  # those that hold next to nothing are not listed
            assert row["top_probability"] == pytest.approx((-np.sort(-whole)[:told]).tolist(), abs=2e-3)
            assert -np.sort(-whole)[told:5].sum() < 2e-3


def capped_with_photos(photo_bundle: Bundle, *, cap_km: float | None = CAP_KM) -> Bundle:
    """A calibrated bundle with a gallery and a cap; cap_km: that radii were calibrated for."""
    bundle = calibrated(replace(photo_bundle, precision_cap_km=CAP_KM), FIT)
    photos = bundle.calibrations["one"].with_photos
    assert photos is not None
    photos = replace(photos, cap_km=cap_km, masses={**photos.masses, "cap": (0.4, 0.8)})
    return replace(bundle, calibrations={"one": replace(photos, fit=None, with_photos=photos)})


def test_with_photos_radii_and_probabilities_are_of_p_summed_over_whole_cells(photo_bundle: Bundle) -> None:
    bundle, queries = capped_with_photos(photo_bundle), queries_of(photo_bundle, 12)
    engine = Engine(bundle, options=SearchOptions(mode="exact", gallery="all"))
    assert engine.coarse is not None
    answers = engine.answer(queries, k=2)
    truth = brute_force(bundle, FIT, queries).posterior
    whole = np.stack([np.bincount(engine.coarse.of_leaf, row) for row in truth])
    np.testing.assert_array_equal(answers.best, whole.argmax(axis=1))
    np.testing.assert_allclose(answers.hits.probability[:, 0], whole.max(axis=1), atol=2e-3)
    assert answers.photos is None  # a photo's place is to the metre
    assert answers.point_leaf is None
    assert not answers.calibrated
    cells, discs = engine.coarse, CapPoints(engine.coarse).discs
    for radius, share in ((answers.radius_50_km, 0.4), (answers.radius_90_km, 0.8)):
        assert radius is not None
        for query in range(len(queries)):
            apart = haversine_km(answers.at.lat_deg[query], answers.at.lng_deg[query], cells.lat_deg, cells.lng_deg)
            near, far = np.maximum(apart - discs.radius_km, 0), apart + discs.radius_km
            held = whole[query] @ np.clip((radius[query] - near) / (far - near), 0, 1)
            assert held == pytest.approx(share, abs=2e-3)
    assert answers.entropy is not None
    entropy = -(whole * np.log(np.maximum(whole, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(answers.entropy, entropy, atol=0.03)
    assert answers.abstain is not None


def test_radii_are_told_for_the_very_cap_that_they_were_calibrated_for(photo_bundle: Bundle) -> None:
    queries = queries_of(photo_bundle, 3)
    for bundle, options in (
        (capped_with_photos(photo_bundle), SearchOptions(precision_cap=3000.0)),  # coarser than the bundle's own
        (capped_with_photos(photo_bundle, cap_km=300.0), SearchOptions()),  # made coarser since
        (capped_with_photos(photo_bundle, cap_km=None), SearchOptions()),
        (replace(capped_with_photos(photo_bundle), precision_cap_km=None), SearchOptions(precision_cap=300.0)),
    ):
        answers = Engine(bundle, options=options).answer(queries, k=1)
        assert (answers.radius_50_km, answers.radius_90_km) == (None, None)
        with pytest.raises(InputError, match=r"`radii`: under a precision cap .* is not the cap of such a calibration"):
            Engine(bundle, options=replace(options, radii=True))
    for options in (SearchOptions(radii=True), SearchOptions(precision_cap=CAP_KM / 2)):
        assert Engine(capped_with_photos(photo_bundle), options=options).answer(queries, k=1).radius_90_km is not None
    for options in (SearchOptions(point="mass"), SearchOptions(region="-90,-20,90,120"), SearchOptions(radii=False)):
        assert Engine(capped_with_photos(photo_bundle), options=options).answer(queries, k=1).radius_90_km is None


def test_a_region_parts_no_cell_of_the_cap(engine: Engine) -> None:
    """Else smaller and smaller regions would find the leaf that a coarse cell hides."""
    coarse = CoarseCells(engine.bundle.hierarchy.leaves, CAP_KM)
    leaves, queries = engine.bundle.hierarchy.leaves, unit_rows(10, WIDTH, seed=5)
    assert coarse.s2_ids is not None
    largest = int(np.bincount(coarse.of_leaf).argmax())
    own = np.flatnonzero(coarse.of_leaf == largest)
    ids = s2.point_ids(leaves.lat_deg[own], leaves.lng_deg[own])
    inside = own[s2.locate(coarse.s2_ids, ids) == largest][:3]
    assert len(inside) > 1
    told = []
    for leaf in inside:
        lat, lng = float(leaves.lat_deg[leaf]), float(leaves.lng_deg[leaf])
        box = f"{lat - 1e-4},{lng - 1e-4},{lat + 1e-4},{lng + 1e-4}"
        held = Engine(engine.bundle, options=SearchOptions(region=box, precision_cap=CAP_KM))
        assert held.n_leaves == len(own)
        answers = held.answer(held.prepared(queries), k=1)
        told.append((answers.hits.leaf, answers.hits.score, answers.hits.probability))
        with pytest.raises(
            InputError, match="`k` must be a whole number from 1 to 1, the number of cells of the precision cap"
        ):
            held.check_k(2)
    for other in told[1:]:
        for one, two in zip(told[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_what_would_tell_leaves_of_a_cell_apart_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"`prior_exponent`.*the precision cap of 600 km hides"):
        Engine(engine.bundle, options=SearchOptions(prior_exponent=0.5, precision_cap=CAP_KM))


@pytest.fixture
def capped_world(world: Path, hierarchy_folder: Path) -> Path:
    """A world whose current bundle has a cap."""
    home = Registry(world / "R")
    geocells = open_bundle(home.resolve()).model.geocells
    made = build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}, precision_cap_km=CAP_KM)
    home.publish(made.name)
    return world


def test_a_bundles_cap_holds_and_can_only_be_coarser(
    capped_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["query", "--registry", capped_world / "R", "--checkpoint", capped_world / "C", capped_world / "0.png"]

    def query(*arguments: object) -> int:
        return main("search", "test", COMMANDS, argv=[str(each) for each in (*common, *arguments)])

    told = {}
    for cap, arguments in ((CAP_KM, []), (CAP_KM, ["--precision-cap", 1]), (3000, ["--precision-cap", 3000])):
        finest, name = s2.level_of_width(cap), f"{len(told)}"
        files = ["--geojson", tmp_path / f"{name}.geojson", "--html", tmp_path / f"{name}.html"]
        assert query("--json", "--top-k", 3, *arguments, *files) == 0
        (answer,) = json.loads(capsys.readouterr().out)["answers"]
        tokens = [answer["token"], *(step["key"] for step in answer["path"]), *(each["key"] for each in answer["top"])]
        drawn = json.loads((tmp_path / f"{name}.geojson").read_text())["features"]
        tokens += [each["properties"]["key"] for each in drawn]
        assert {s2sphere.CellId.from_token(token).level() for token in tokens} <= set(range(finest + 1))
        told[name] = answer
    assert told["0"] == told["1"] != told["2"]
    for exact in (["--point", "medoid"], ["--point", "density"]):
        assert query(*exact) == 2
        assert "precision cap of 600 km" in capsys.readouterr().err


def test_labels_have_no_width(hierarchy: Hierarchy) -> None:
    with pytest.raises(InputError, match="labels"):
        CoarseCells(replace(hierarchy.leaves, s2_ids=None, label="city"), 10)
