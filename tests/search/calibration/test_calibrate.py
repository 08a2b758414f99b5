"""The command on real folders: what it publishes, prints and refuses; radii that are true."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.bundle import calibrated_bundle
from indexer.bundles.registry import Registry
from indexer.cli import main
from indexer.earth.geo import unit_vectors
from indexer.errors import InputError
from indexer.photos.tables import table_digest
from indexer.vectors.features import FeatureBatch
from search.__main__ import COMMANDS, DESCRIPTION
from search.answers.claims import Claim, ClaimCheck
from search.answers.engine import Engine
from search.answers.options import PointName, SearchOptions
from search.calibration import photo_fit, reranker_fit
from search.calibration.calibrate import _that_hold, calibrate
from search.evaluation.options import CalibrateConfig, Resampling
from tests.conftest import unit_rows, write_features
from tests.photo_files import jpeg, located
from tests.search.calibration.conftest import PhotoWorld
from tests.search.conftest import WIDTH


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main("search", DESCRIPTION, COMMANDS, argv=[str(each) for each in arguments])
    return code, *capsys.readouterr()


def test_paths_may_be_text(home: Path) -> None:
    config = CalibrateConfig(split="val", device="cpu", resampling=Resampling(0))
    given = [home / "R", home / "F", home / "truth.parquet"]
    made, again = calibrate(*map(str, given), config=config), calibrate(*given, config=config)
    assert made.version == again.version in Registry(home / "R").versions


def test_a_folder_of_photos_is_a_truth(
    home: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The places that photos carry calibrate as a table of them does; photos without any are left out and told."""
    rows = pa.parquet.read_table(home / "truth.parquet").slice(0, 150).to_pylist()
    (home / "P").mkdir()
    for row in rows:
        (home / "P" / row["photo"]).write_bytes(located(row["lat"], row["lng"]))
    (home / "P" / "399.jpg").write_bytes(jpeg())
    pa.parquet.write_table(pa.Table.from_pylist(rows), home / "same.parquet")
    calibrations = []
    for truth in (home / "P", home / "same.parquet"):
        code, out, err = call(
            capsys, "calibrate", "--registry", home / "R", "--features", home / "F", "--truth", truth, "--json"
        )
        assert code == 0, err
        calibrations.append(json.loads(out)["calibration"])
    (line,) = [record.message for record in caplog.records if "have a place" in record.message]
    assert "150 of 151 photos have a place (150 by exif_gps)" in line
    assert "1 say nothing (such as 399.jpg)" in line
    own, same = calibrations
    assert own["queries"] == same["queries"] == 150
    assert own["temperature"] == pytest.approx(same["temperature"], rel=1e-4)
    manifest = Engine.open(home / "R").bundle.manifest
    assert manifest.inputs["calibration_truth"] == table_digest(home / "same.parquet")
    with pytest.raises(InputError, match="no column 'trip'; it has photo, lat, lng"):
        calibrate(home / "R", home / "F", home / "P", config=CalibrateConfig(album="trip"))


def test_the_command_publishes_a_version_that_tells_radii(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry, truth = home / "R", home / "truth.parquet"
    before = Registry(registry).current
    given = ("--registry", registry, "--features", home / "F", "--truth", truth, "--split", "val")
    code, out, err = call(capsys, "calibrate", *given, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["version"] == Registry(registry).current != before
    assert (made["protocol"], made["calibration"]["queries"], made["before"]["photos"]) == ("one", 300, 300)
    assert made["calibration"]["temperature"] == pytest.approx(3, rel=0.4)
    engine = Engine.open(registry)
    assert engine.calibrated
    assert not Engine.open(registry, protocol="ten").calibrated
    code, out, err = call(capsys, "run", "--registry", registry, "--features", home / "F", "--out", home / "O")
    assert code == 0, err
    rows = pa.parquet.read_table(home / "O")
    assert rows["calibrated"].to_pylist() == [True] * 400
    half, most, abstain = (rows[name].to_numpy() for name in ("radius_50_km", "radius_90_km", "abstain"))
    assert (half <= most).all()
    assert 0 < sum(reason is not None for reason in abstain) < 20
    code, out, err = call(
        capsys, "evaluate", "--truth", truth, "--predictions", home / "O", "--split", "test", "--json"
    )
    assert code == 0, err
    calibration = json.loads(out)["calibration"]
    assert calibration["calibrated"]
    assert [radius["promised"] for radius in calibration["radii"]] == [0.5, 0.9]
    assert calibration["radii"][1]["interval"]["low"] < 0.9 < calibration["radii"][1]["interval"]["high"]
    given = ("--truth", truth, "--predictions", home / "O", "--split", "test", "--report", home / "report")
    code, out, err = call(capsys, "evaluate", *given)
    assert code == 0, err
    assert "90% radius" in out
    assert "calibration error" in out
    assert (home / "report" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    page = (home / "report" / "report.html").read_text()
    assert "How sure" in page
    assert "90% radius" in page


@pytest.mark.parametrize("point", ["medoid", "mass"])
def test_radii_around_other_points_are_true_of_these(
    home: Path, capsys: pytest.CaptureFixture[str], point: PointName
) -> None:
    given = ("--registry", home / "R", "--features", home / "F", "--truth", home / "truth.parquet")
    code, out, err = call(capsys, "calibrate", *given, "--split", "val")
    assert code == 0, err
    assert f"--point {point}: " in out
    run = ("run", "--registry", home / "R", "--features", home / "F")
    for name, options in (("cell", ()), (point, ("--point", point))):
        code, _, err = call(capsys, *run, "--out", home / name, *options)
        assert code == 0, err
    cells, others = (pa.parquet.read_table(home / name) for name in ("cell", point))
    assert cells["lat"] != others["lat"]
    assert cells["radius_90_km"] != others["radius_90_km"]
    code, out, err = call(
        *(capsys, "evaluate", "--truth", home / "truth.parquet", "--predictions", home / point, "--json")
    )
    assert code == 0, err
    for radius in json.loads(out)["calibration"]["radii"]:
        assert radius["interval"]["low"] < radius["promised"] < radius["interval"]["high"]


def test_radii_around_points_that_were_not_calibrated_are_not_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--registry", home / "R", "--features", home / "F", "--truth", home / "truth.parquet")
    assert call(capsys, "calibrate", *given)[0] == 0
    bundle = Engine.open(home / "R").bundle
    one = bundle.calibrations["one"]
    before = replace(bundle, calibrations={"one": replace(one, masses={"cell": one.masses["cell"]})})
    queries = unit_rows(5, WIDTH, seed=0)
    for each, options in (
        (before, SearchOptions(point="medoid")),
        (bundle, SearchOptions(point="mass", mass_km=100)),
    ):
        answers = Engine(each, options=options).answer(queries, k=1)
        assert answers.radius_90_km is None
        assert answers.entropy is not None
        assert answers.entropy.shape == (5,)
        with pytest.raises(InputError, match="`radii`: they were not calibrated around `point`"):
            Engine(each, options=replace(options, radii=True))


def test_other_protocols_are_kept_unless_scores_change(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry, truth = home / "R", home / "truth.parquet"
    given = ("calibrate", "--registry", registry, "--features", home / "F", "--truth", truth)
    assert call(capsys, *given)[0] == 0
    code, out, err = call(capsys, *given, "--crops", "ten")
    assert code == 0, err
    assert "ten crops" in out
    assert sorted(Engine.open(registry).bundle.calibrations) == ["one", "ten"]
    code, out, err = call(capsys, *given, "--album", "trip")
    assert code == 2
    assert "80 albums" in err
    assert "100" in err
    code, out, err = call(capsys, *given, "--fit-weights", "true")
    assert code == 0, err
    bundle = Engine.open(registry).bundle
    assert sorted(bundle.calibrations) == ["one"]
    assert (bundle.model.geocells.level_weights != 1).all()


def test_radii_of_what_was_not_calibrated_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(
        capsys, "run", "--registry", home / "R", "--features", home / "F", "--out", home / "O", "--radii", "true"
    )
    assert code == 2
    assert "python -m search calibrate" in err
    assert not (home / "O").exists()
    with pytest.raises(InputError, match="not calibrated for ten crops"):
        Engine.open(home / "R", protocol="ten", options=SearchOptions(radii=True))


def test_a_bundle_with_a_gallery_is_calibrated_with_it_and_without(
    photo_world: PhotoWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(photo_fit, "_GRIDS", {"similarity": (0.02, 0.08), "growth": (0.5,)})
    monkeypatch.setattr(photo_fit, "_TEMPERATURES", np.ones(1))
    monkeypatch.setattr(photo_fit, "_ROUNDS", 1)
    monkeypatch.setattr(reranker_fit, "_STEPS", 10)
    home, before = Registry(tmp_path / "R"), photo_world.bundle
    shutil.copytree(before.path, home.versions_folder / before.version)
    home.publish(before.version)
    sample = photo_world.sample(200, seed=40)
    raw = photo_world.vectors_of(unit_vectors(sample.lat_deg, sample.lng_deg), 40)
    names, unknown = sample.name.tolist(), np.full(200, np.nan)
    batch = FeatureBatch(names, raw, ["ok"] * 200, [""] * 200, unknown, unknown)
    write_features(tmp_path / "V", batch, encoder="e" * 64)
    truth = pa.table({"photo": names, "lat": sample.lat_deg, "lng": sample.lng_deg})
    pa.parquet.write_table(truth, tmp_path / "truth.parquet")
    made = calibrate(home.path, tmp_path / "V", tmp_path / "truth.parquet")
    for step in ("fitting how photos count to 200 queries", "fitting a reranker", "how many lists", "answers promise"):
        assert step in caplog.text  # a word of life: each may take minutes
    assert made.photos is not None
    home.publish(made.version)
    bundle = Engine.open(home.path).bundle
    one = bundle.calibrations["one"]
    assert one.fit is None
    assert one.with_photos == made.photos.fitted.calibration
    assert replace(one, with_photos=None) == made.fitted.calibration
    photos, cells = (Engine(bundle, options=SearchOptions(gallery=how)) for how in ("lists", "off"))
    assert photos.calibrated
    assert cells.calibrated
    assert photos.calibration == one.with_photos
    assert cells.calibration == one
    assert photos.photo_fit == made.photos.fitted.calibration.fit
    assert one.with_photos is not None
    assert len(one.nonconformities) == one.queries == 200  # each fifth in turn
    assert len(one.with_photos.nonconformities) == one.with_photos.queries
    claims = [Claim(*each) for each in zip(sample.lat_deg.tolist(), sample.lng_deg.tolist(), strict=True)]
    for how in ("lists", "off"):
        values = ClaimCheck(bundle, options=SearchOptions(gallery=how)).p_values(sample.queries, claims)
        assert (values <= 0.5).mean() == pytest.approx(0.5, abs=0.2)
    told = photos.answer(sample.queries, k=1)
    assert told.radius_90_km is not None
    # Where its gallery changed by more than a hundredth, photos are no longer calibrated; cells still are.
    gallery = bundle.gallery
    assert gallery is not None
    changed = replace(bundle, gallery=replace(gallery, facts=replace(gallery.facts, changed=0.011)))
    with pytest.raises(InputError, match="for the gallery as it was"):
        Engine(changed, options=SearchOptions(radii=True))
    assert not Engine(changed).calibrated
    assert Engine(changed, options=SearchOptions(gallery="off", radii=True)).calibrated
    # Once photos of one protocol are calibrated again, these hold; of others those of cells alone are left.
    assert _that_hold(bundle) == bundle.calibrations
    assert _that_hold(changed) == {"one": made.fitted.calibration}
    ten = replace(changed, calibrations={"ten": one})
    again = calibrated_bundle(ten, home.versions_folder, _that_hold(ten) | {"one": one}, config={}, inputs={})
    for protocol in ("one", "ten"):
        engine = Engine.open(home.path, version=again.name, protocol=protocol)
        assert engine.calibrated is (protocol == "one")
    assert Engine.open(home.path, version=again.name, protocol="ten", options=SearchOptions(gallery="off")).calibrated
