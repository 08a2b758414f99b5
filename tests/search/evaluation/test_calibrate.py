"""Calibration against photos drawn from a posterior of known temperature, and the command on real folders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from indexer.bundles.bundle import build_bundle
from indexer.bundles.leaf_index import stand_ins
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.earth.geo import lat_lng, unit_vectors
from indexer.errors import InputError
from indexer.vectors.features import FeatureBatch, open_features
from indexer.vectors.scoring import log_product, log_softmax
from search.__main__ import COMMANDS, DESCRIPTION
from search.answers.engine import Engine
from search.answers.options import PointName, SearchOptions
from search.answers.points import points_of_bundle
from search.answers.radii import LeafDiscs
from search.evaluation.calibrate import HeldOutQueries, calibrate, fit_calibration, held_out
from search.evaluation.options import CalibrateConfig, Resampling
from tests.conftest import random_geocells, unit_rows, write_features
from tests.search.conftest import WIDTH

CPU = torch.device("cpu")


def drawn(engine: Engine, temperature: float, *, n: int, seed: int) -> HeldOutQueries:
    """Photos taken where a posterior of this temperature has it, each evenly over the distances within its leaf."""
    model, leaves = engine.bundle.model, engine.bundle.hierarchy.leaves
    rng = np.random.default_rng(seed)
    queries = stand_ins(model, n=n, seed=seed)
    share = np.exp(log_softmax(log_product(model, queries) / temperature))
    leaf = np.array([rng.choice(model.n_leaves, p=row) for row in share])
    around = LeafDiscs.of(leaves)
    aside = rng.normal(size=(n, 3))
    point = around.points[leaf]
    aside -= (aside * point).sum(axis=1, keepdims=True) * point
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    angle = (rng.uniform(0, 1, n) * around.radius_km[leaf] / 6371.0)[:, None]
    return HeldOutQueries(queries, np.ones(n, np.int64), *lat_lng(np.cos(angle) * point + np.sin(angle) * aside), leaf)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 6.0])
def test_the_temperature_that_made_the_photos_is_found(engine: Engine, temperature: float) -> None:
    sample = drawn(engine, temperature, n=3000, seed=0)
    fitted = fit_calibration(
        engine.bundle.model, points_of_bundle(engine.bundle), sample, device=CPU, resampling=Resampling(100)
    )
    found = fitted.calibration
    assert found.temperature == pytest.approx(temperature, rel=0.12)
    assert (found.growth, found.queries) == (0, 3000)
    # The model of a leaf is near what the photos were drawn from, so that shares are near what they promise.
    assert found.masses["cell"] == pytest.approx((0.5, 0.9), abs=0.06)
    assert fitted.after.interval is not None
    assert fitted.after.interval.low < 0.02
    assert fitted.after.error <= fitted.before.error + 0.005


def test_photos_outside_all_cells_make_all_others_less_likely(engine: Engine) -> None:
    sample = drawn(engine, 1.0, n=2000, seed=1)
    lost = HeldOutQueries(
        sample.queries, sample.n_photos, sample.lat_deg, sample.lng_deg, np.where(np.arange(2000) % 3, sample.leaf, -1)
    )
    fits = [
        fit_calibration(
            engine.bundle.model, points_of_bundle(engine.bundle), each, device=CPU, resampling=Resampling(100)
        )
        for each in (sample, lost)
    ]
    assert fits[0].calibration.inside == 1
    assert fits[1].calibration.inside == pytest.approx(2 / 3, abs=0.01)
    assert fits[1].calibration.temperature == pytest.approx(fits[0].calibration.temperature, rel=0.2)
    assert fits[1].after.interval is not None
    assert fits[1].after.interval.low < 0.02
    assert fits[1].after.error < fits[1].before.error - 0.1


def test_albums_of_one_photo_seen_again_and_again_grow_colder_by_none(engine: Engine) -> None:
    """n equal photos say what one says: the temperature must grow with n."""
    sample = drawn(engine, 1.0, n=2000, seed=2)
    n_photos = np.random.default_rng(3).integers(1, 9, 2000)
    queries = (sample.queries * n_photos[:, None]).astype(np.float32)
    album = HeldOutQueries(queries, n_photos, sample.lat_deg, sample.lng_deg, sample.leaf)
    fitted = fit_calibration(
        engine.bundle.model, points_of_bundle(engine.bundle), album, device=CPU, resampling=Resampling(0)
    )
    assert fitted.calibration.growth == 1
    assert fitted.calibration.temperature == pytest.approx(1.0, rel=0.12)


@pytest.fixture
def home(published: Path, tmp_path: Path) -> Path:
    """A copy of what was published, to publish more in."""
    return Path(shutil.copytree(published, tmp_path / "home", symlinks=True))


@pytest.fixture(scope="module")
def published(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry R; features F of 400 photos drawn at temperature 3, and their truth, of two splits and 80 albums."""
    folder = tmp_path_factory.mktemp("calibrate")
    registry = Registry(folder / "R")
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    registry.publish(build_bundle(hierarchy_folder, geocells, registry.versions_folder, config={}, inputs={}).name)
    sample = drawn(Engine.open(registry.path), 3.0, n=400, seed=4)
    names = [f"{row}.jpg" for row in range(400)]
    unknown = np.full(400, np.nan)
    batch = FeatureBatch(names, sample.queries, ["ok"] * 400, [""] * 400, unknown, unknown)
    write_features(folder / "F", batch, encoder="e" * 64)
    columns = {"photo": names, "lat": sample.lat_deg, "lng": sample.lng_deg}
    columns |= {
        "split": ["val" if row < 300 else "test" for row in range(400)],
        "trip": [row // 5 for row in range(400)],
    }
    pa.parquet.write_table(pa.table(columns), folder / "truth.parquet")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main("search", DESCRIPTION, COMMANDS, argv=[str(each) for each in arguments])
    return code, *capsys.readouterr()


def test_paths_may_be_text(home: Path) -> None:
    config = CalibrateConfig(split="val", device="cpu", resampling=Resampling(0))
    given = [home / "R", home / "F", home / "truth.parquet"]
    made, again = calibrate(*map(str, given), config=config), calibrate(*given, config=config)
    assert made.version == again.version in Registry(home / "R").versions


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
        (bundle, SearchOptions(point="mass", within_km=100)),
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


def test_photos_and_truth_that_do_not_belong_together_are_refused(home: Path) -> None:
    bundle = Engine.open(home / "R").bundle
    features = open_features(home / "F")
    (home / "others.csv").write_text("photo,lat,lng\nx.jpg,1,2\n")
    with pytest.raises(InputError, match=r"0 photos of .*others\.csv have a vector"):
        held_out(bundle, features, home / "others.csv")
    (home / "twice.csv").write_text("photo,lat,lng\n1.jpg,1,2\n1.jpg,1,2\n")
    with pytest.raises(InputError, match="names of photos repeat"):
        held_out(bundle, features, home / "twice.csv")


def test_an_album_lies_in_the_middle_of_its_photos(home: Path) -> None:
    bundle = Engine.open(home / "R").bundle
    rows = pa.parquet.read_table(home / "truth.parquet")
    pairs = rows.append_column("pair", pa.array([row // 2 for row in range(400)]))
    pa.parquet.write_table(pairs, home / "pairs.parquet")
    album = held_out(bundle, open_features(home / "F"), home / "pairs.parquet", album="pair")
    assert (len(album), set(album.n_photos.tolist())) == (200, {2})
    points = unit_vectors(rows["lat"].to_numpy(), rows["lng"].to_numpy()).reshape(200, 2, 3).sum(axis=1)
    lat, lng = lat_lng(points)
    np.testing.assert_allclose(album.lat_deg, lat)
    np.testing.assert_allclose(album.lng_deg, lng)
    np.testing.assert_array_equal(album.leaf, bundle.hierarchy.locate(lat, lng)[:, -1])
