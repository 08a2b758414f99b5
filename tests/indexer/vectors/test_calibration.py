"""What a manifest says of calibrations, read back or refused; and bundles that only differ in them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import build_bundle, bundle_with_gallery, calibrated_bundle, open_bundle, verify_bundle
from indexer.bundles.faiss_index import rows_of
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import ArtifactError, InputError
from indexer.vectors import calibration
from indexer.vectors.calibration import (
    Calibration,
    PhotoFit,
    calibration_facts,
    calibrations_of,
    stored_nonconformities,
    usual_photo_fit,
)
from indexer.vectors.scoring import leaf_vectors
from tests.conftest import random_geocells
from tests.search.gallery_oracle import random_reranker

NOWHERE = Path("nowhere")  # no reranker is read
MASSES = {"cell": (0.45, 0.93), "medoid": (0.4, 0.9)}
ONE = Calibration(temperature=2.5, growth=0.0, inside=0.9, masses=MASSES, mass_km=9.0, least_score=1.5, queries=400)
ALBUM = replace(ONE, temperature=2.0, growth=0.5, inside=1.0, masses={"cell": (0.5, 0.9)}, queries=100)


def test_calibrations_survive_the_way_through_a_manifest() -> None:
    both = {"one": ONE, "album": ALBUM}
    facts = json.loads(json.dumps(calibration_facts(both)))  # type: ignore[arg-type]
    assert calibrations_of(facts, NOWHERE) == both
    assert calibration_facts({}) is None
    assert calibrations_of(None, NOWHERE) == {}


FIT = PhotoFit(cells=0.2, gamma=0.05, similarity=0.02, near=50, width_km=3.0, point_width_km=9.0, growth=0.5, lists=16)
PHOTOS = replace(ONE, temperature=2.2, masses={"cell": (0.4, 0.8), "density": (0.5, 0.9)}, fit=FIT)


def test_those_with_photos_survive_it_too_and_how_approximate_they_are() -> None:
    both = {"one": replace(ONE, with_photos=PHOTOS), "album": replace(ALBUM, approximate=True)}
    facts = json.loads(json.dumps(calibration_facts(both)))  # type: ignore[arg-type]
    found = calibrations_of(facts, NOWHERE)
    assert found == both
    assert found["one"].with_photos is not None
    assert found["one"].with_photos.fit == FIT


def test_what_lies_in_leaves_by_the_photos_near_a_query_survives_it_too_and_makes_it_likelier_that_its_place_does() -> (
    None
):
    known = replace(PHOTOS, in_leaves=0.8)  # of queries 90 % lie in a leaf
    facts = json.loads(json.dumps(calibration_facts({"one": replace(ONE, with_photos=known)})))
    assert calibrations_of(facts, NOWHERE)["one"].with_photos == known
    by_photos, in_leaves = np.array([1.0, 1.0, 1.0, 0.0, 0.5]), np.array([0.8, 0.4, 1.0, 0.4, 0.4])
    inside = known.inside_by_photos(by_photos, in_leaves)
    np.testing.assert_allclose(inside, [0.9, 0.45, 1.0, 0.9, 0.675])  # 0.9 * 1 / 0.8 would be more than all
    for other in (known.inside_by_photos(by_photos, None), PHOTOS.inside_by_photos(by_photos, in_leaves)):
        np.testing.assert_array_equal(other, np.full(5, 0.9))
    assert "in_leaves" not in calibration_facts({"one": ONE})["one"]  # type: ignore[index]
    facts["one"]["with_photos"]["in_leaves"] = 0.0
    with pytest.raises(ArtifactError, match="Fit it again"):
        calibrations_of(facts, NOWHERE)


@pytest.mark.parametrize(
    "changed",
    [
        {"cells": -0.1},
        {"cells": 1.1},
        {"similarity": 0.0},
        {"near": 0},
        {"width_km": 0.0},
        {"point_width_km": -1.0},
        {"lists": 0},
        {"gamma": float("nan")},
        {"growth": float("inf")},
        {"gamma": "much"},
        {"gamma": None},
    ],
)
def test_numbers_that_photos_cannot_count_by_are_refused(changed: dict[str, object]) -> None:
    facts = json.loads(json.dumps(calibration_facts({"one": replace(ONE, with_photos=PHOTOS)})))
    facts["one"]["with_photos"]["fit"] |= changed
    with pytest.raises(ArtifactError, match="Fit them again: python -m search calibrate"):
        calibrations_of(facts, NOWHERE)


def test_a_damaged_calibration_of_photos_is_refused() -> None:
    facts = json.loads(json.dumps(calibration_facts({"one": replace(ONE, with_photos=PHOTOS)})))
    facts["one"]["with_photos"]["fit"]["width"] = 3
    with pytest.raises(ArtifactError, match="The calibration for 'one' is damaged"):
        calibrations_of(facts, NOWHERE)


def test_nonconformities_survive_it_too_and_without_them_it_is_as_before_there_were_any() -> None:
    photos = replace(PHOTOS, nonconformities=(0.0, 0.25, 0.25, 1.0))
    both = {"one": replace(ONE, with_photos=photos, nonconformities=(0.5,)), "album": ALBUM}
    facts = json.loads(json.dumps(calibration_facts(both)))  # type: ignore[arg-type]
    assert calibrations_of(facts, NOWHERE) == both
    assert "nonconformities" not in facts["album"]
    assert "nonconformities" not in repr(both["one"])
    with pytest.raises(InputError, match="Calibrate again: python -m search calibrate"):
        calibrations_of(facts, NOWHERE)["album"].p_value(0.5)


def test_p_values_count_true_places_that_fit_as_badly_or_worse() -> None:
    known = replace(ONE, nonconformities=stored_nonconformities(np.array([0.7, 0.1, 1.0, 0.3])))
    for value, count in ((0.0, 4), (0.1, 4), (0.2, 3), (0.3, 3), (0.300001, 2), (0.9, 1), (1.0, 1)):
        assert known.p_value(value) == pytest.approx((1 + count) / 5)


def test_ties_make_p_values_larger_also_where_rounding_parts_them() -> None:
    true = np.array([0.1 + 0.2, 0.5, 0.6, 0.9999999])
    known = replace(ONE, nonconformities=stored_nonconformities(true))
    assert known.p_value(0.3) == known.p_value(0.3 + 1e-7) == 1.0
    assert known.p_value(0.30000000000000004) == 1.0
    assert known.p_value(1.0) == pytest.approx(2 / 5)
    assert all(stored >= each for stored, each in zip(known.nonconformities, true, strict=True))


@pytest.mark.parametrize("n", [1, 7, 40, 41, 79, 80, 173])
def test_of_very_many_fewer_are_kept_that_make_p_values_no_smaller(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    true = np.random.default_rng(n).beta(2, 0.3, n)
    whole = replace(ONE, nonconformities=stored_nonconformities(true))
    monkeypatch.setattr(calibration, "_MOST_NONCONFORMITIES", 40)
    fewer = replace(ONE, nonconformities=stored_nonconformities(true))
    assert min(n, 20) <= len(fewer.nonconformities) <= 40
    for value in (*true, *np.linspace(0, 1, 50)):
        p_value = (1 + (true >= value).sum()) / (1 + n)
        assert whole.p_value(value) >= p_value - 1e-12
        assert whole.p_value(value) - 1e-12 <= fewer.p_value(value) <= p_value + 2 / len(fewer.nonconformities) + 1e-3


@pytest.mark.parametrize("width_km", [0.0, 0.01, 300.0])
def test_where_nothing_was_fitted_bells_are_as_wide_as_the_median_leaf(width_km: float) -> None:
    fit = usual_photo_fit(width_km, lists=7)
    assert fit.width_km == fit.point_width_km == max(width_km, 0.05)
    assert fit.lists == 7


def test_temperatures_grow_with_albums() -> None:
    np.testing.assert_allclose(ALBUM.temperatures(np.array([1, 4, 9])), [2, 4, 6])
    np.testing.assert_allclose(ONE.temperatures(np.array([1, 4])), [2.5, 2.5])


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.0},
        {"inside": 0.0},
        {"temperature": float("nan")},
        {"masses": {"cell": [0.95, 0.9]}},
        {"masses": {"cell": [0.5, 1.5]}},
        {"masses": {"cell": [0.5, 0.9], "medoid": [0.5]}},
        {"masses": {"cell": [0.5, "most"]}},
        {"masses": {"medoid": [0.5, 0.9]}},
        {"least_score": "low"},
        {"mass_km": None},
        {"nonconformities": [0.2, 0.1]},
        {"nonconformities": [0.2, 1.1]},
        {"nonconformities": [-0.1]},
        {"nonconformities": [0.1, float("nan")]},
        {"nonconformities": ["low"]},
        {"nonconformities": 7},
    ],
)
def test_what_is_no_calibration_is_refused(changed: dict[str, object]) -> None:
    facts = calibration_facts({"one": ONE})
    assert facts is not None
    with pytest.raises(ArtifactError, match="Fit it again"):
        calibrations_of({"one": facts["one"] | changed}, NOWHERE)


def test_unknown_protocols_and_fields_are_refused() -> None:
    facts = calibration_facts({"one": ONE})
    assert facts is not None
    with pytest.raises(ArtifactError, match="this release knows one, five, ten, album"):
        calibrations_of({"video": facts["one"]}, NOWHERE)
    with pytest.raises(ArtifactError, match="damaged"):
        calibrations_of({"one": {"temperature": 1.0}}, NOWHERE)
    with pytest.raises(ArtifactError, match="damaged"):
        calibrations_of({"one": facts["one"] | {"masses": [0.5, 0.9]}}, NOWHERE)


def test_a_calibrated_bundle_is_the_same_but_for_that(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    geocells = random_geocells(hierarchy, 12, seed=0)
    old = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={"a": 1}, inputs={}))
    folder = calibrated_bundle(old, tmp_path, {"one": ONE}, config={"split": "val"}, inputs={"calibration": "d"})
    new = open_bundle(folder)
    assert verify_bundle(folder) == []
    assert new.version != old.version
    assert new.calibrations == {"one": ONE}
    assert new.manifest.files == old.manifest.files
    assert new.manifest.config == {"a": 1, "calibration": {"split": "val"}}
    assert new.manifest.inputs["calibrated"] == old.version
    assert (
        calibrated_bundle(old, tmp_path, {"one": ONE}, config={"split": "val"}, inputs={"calibration": "d"}) == folder
    )


RERANKED = replace(ONE, with_photos=replace(PHOTOS, reranker=random_reranker(9, 8, seed=0)))


def test_rerankers_are_files_beside_their_calibration(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    geocells = random_geocells(hierarchy, 12, seed=0)
    old = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={}, inputs={}))
    both = {"one": RERANKED, "ten": replace(ONE, with_photos=PHOTOS)}
    new = open_bundle(calibrated_bundle(old, tmp_path, both, config={}, inputs={}))  # type: ignore[arg-type]
    assert verify_bundle(new.path) == []
    assert new.calibrations == both
    assert set(new.manifest.files) - set(old.manifest.files) == {"reranker_one.safetensors"}
    facts = new.manifest.facts["calibration"]
    assert facts["one"]["with_photos"]["reranker"] == "reranker_one.safetensors"
    assert "reranker" not in facts["one"]  # what a release before rerankers wrote is still what it reads
    assert "reranker" not in facts["ten"]["with_photos"]
    # Another calibration of the same protocol takes the reranker's place, one of another leaves it there.
    without = open_bundle(
        calibrated_bundle(new, tmp_path, {"one": ONE, "ten": both["ten"]}, config={}, inputs={})  # type: ignore[dict-item]
    )
    assert without.calibrations["one"] == ONE
    assert set(without.manifest.files) == set(old.manifest.files)
    album = {**both, "album": replace(RERANKED, queries=7)}
    more = open_bundle(calibrated_bundle(new, tmp_path, album, config={}, inputs={}))  # type: ignore[arg-type]
    assert more.calibrations == album
    assert verify_bundle(more.path) == []
    # Another gallery keeps it.
    emptied = open_bundle(bundle_with_gallery(new, tmp_path, lambda draft: None, config={}, inputs={}))
    assert emptied.calibrations == both
    assert verify_bundle(emptied.path) == []


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "other"])
def test_a_damaged_reranker_is_found(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, damage: str) -> None:
    geocells = random_geocells(hierarchy, 12, seed=0)
    old = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={}, inputs={}))
    folder = calibrated_bundle(old, tmp_path, {"one": RERANKED}, config={}, inputs={})
    path = folder / "reranker_one.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-8])
    elif damage == "byte":
        content[-2] ^= 0x10
        path.write_bytes(content)
    else:  # of another shape, and as long
        random_reranker(8, 9, seed=0).save(path)
    assert any("reranker_one.safetensors" in fault for fault in verify_bundle(folder))
    if damage != "byte":
        with pytest.raises(ArtifactError, match=r"reranker_one.safetensors"):
            open_bundle(folder)


@pytest.mark.parametrize("name", ["../one.safetensors", "leaves.faiss", 7])
def test_rerankers_of_other_names_are_refused(name: object) -> None:
    facts = json.loads(json.dumps(calibration_facts({"one": RERANKED})))
    facts["one"]["with_photos"]["reranker"] = name
    with pytest.raises(ArtifactError, match="none of its names"):
        calibrations_of(facts, NOWHERE)


def test_other_level_weights_make_another_leaf_index(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    geocells = random_geocells(hierarchy, 12, seed=0)
    old = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={}, inputs={}))
    weighted = replace(geocells, level_weights=np.array([0.5, 0.2, 1.0]), prior_exponent=0.3)
    new = open_bundle(calibrated_bundle(old, tmp_path, {"one": ONE}, config={}, inputs={}, geocells=weighted))
    assert verify_bundle(new.path) == []
    np.testing.assert_array_equal(new.model.geocells.level_weights, weighted.level_weights)
    np.testing.assert_array_equal(rows_of(new.leaf_index), leaf_vectors(new.model))
