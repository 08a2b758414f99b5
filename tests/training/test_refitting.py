"""`python -m training refit` from features to answers: gains on unseen photos, labels, lineage, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

import indexer.__main__
import training.__main__
from encoder.models.checkpoint import load_encoder, save_checkpoint
from indexer.bundles.bundle import open_bundle
from indexer.bundles.gallery import FILES, open_gallery
from indexer.bundles.gallery_builds import write_gallery
from indexer.bundles.registry import Registry
from indexer.cells.division import LabelScheme, partition
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.cli import main
from indexer.disk.manifest import read_manifest
from indexer.earth import geo
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.vectors.features import open_features
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells, load_geocells
from indexer.vectors.prototypes import Placement, prototypes
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from tests import conftest
from tests.conftest import random_geocells, save_s2_hierarchy
from tests.indexer.anisotropic import World, anisotropic_world
from training import refitting
from training.cells.cell_fit import LevelFit, VectorFile
from training.config import RefitConfig, RefitSources
from training.photos.holding_out import by_name
from training.refitting import refit

CONFIG = RefitConfig(device="cpu", epochs=4, patience=1, batch_size=256)
ONCE = replace(CONFIG, epochs=1)  # where it does not matter how well cells point
WIDTH = 48


@pytest.fixture(scope="module")
def world() -> World:
    return anisotropic_world(n_known=4000, n_unseen=2000, width=WIDTH, seed=0)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """F (features of the known photos, with places), photos.parquet (with splits and labels), and hierarchy H."""
    out = tmp_path_factory.mktemp("refit")
    n = world.n_known
    write_features(world, [np.arange(n)], out / "F")
    lng = world.lng_deg[:n]
    table = {
        "photo": names(n),
        "lat": world.lat_deg[:n],
        "lng": lng,
        "split": ["validation" if row % 10 == 0 else "train" for row in range(n)],
        "east": ["east" if value > 0 else "west" for value in lng],
        "zone": [f"z{int((value + 180) // 20):02d}" for value in lng],
    }
    pyarrow.parquet.write_table(pa.table(table), out / "photos.parquet")
    rule = PartitionRule(tau_max=(300, 100, 30), tau_min=5)
    save_s2_hierarchy(world.lat_deg[:n], lng, rule=rule, out=out / "H")
    return out


def names(n: int) -> list[str]:
    return [f"{row:05d}.jpg" for row in range(n)]


def places(world: World) -> tuple[np.ndarray, np.ndarray]:
    return world.lat_deg[: world.n_known], world.lng_deg[: world.n_known]


def write_features(world: World, shards: list[np.ndarray], out: Path) -> None:
    out.mkdir()
    every = np.array(names(world.n_known))
    for number, rows in enumerate(shards):
        columns = {
            "photo": every[rows],
            "embedding": world.vectors[rows].tolist(),
            "lat": world.lat_deg[rows],
            "lng": world.lng_deg[rows],
        }
        pyarrow.parquet.write_table(pa.table(columns), out / f"part-{number:02d}.parquet")


def errors_km(geocells: Geocells, hierarchy: Path, world: World) -> np.ndarray:
    """Of the photos that nothing was fitted to."""
    opened, unseen = load_hierarchy(hierarchy), slice(world.n_known, None)
    model = ScoringModel(geocells, opened.ancestors, opened.leaves.n_photos)
    queries = world.vectors[unseen]
    queries = queries if geocells.transform is None else geocells.transform.apply(queries)
    best = (model.extended(queries) @ leaf_vectors(model).T).argmax(axis=1)
    points = opened.leaves
    return geo.haversine_km(world.lat_deg[unseen], world.lng_deg[unseen], points.lat_deg[best], points.lng_deg[best])


def command(*arguments: object) -> int:
    try:
        return main("training", "test", training.__main__.COMMANDS, argv=["refit", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def test_a_refit_is_better_than_its_start_on_photos_nobody_has_seen(
    folder: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (
        "--features",
        folder / "F",
        "--hierarchy",
        folder / "H",
        "--levels-weights",
        "fit",
        "--gallery-per-leaf",
        2,
    )
    assert command(*given, "--out", tmp_path / "C", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    inside = int((load_hierarchy(folder / "H").locate(*places(world))[:, 0] >= 0).sum())
    assert printed["photos"] == printed["held_out"] == inside
    assert printed["folds"] == 5
    assert list(printed["candidates"]) == ["start", "tempered", "fitted", "weighted"]
    assert printed["kept"] != "start"
    geocells = load_geocells(tmp_path / "C", hierarchy=load_hierarchy(folder / "H").digest)
    means = prototypes(open_features(folder / "F"), Placement(load_hierarchy(folder / "H"))).geocells
    ours, theirs = (np.log1p(errors_km(which, folder / "H", world)) for which in (geocells, means))
    assert ours.mean() < theirs.mean()
    assert geocells.transform is not None
    # The bundle takes everything over.
    built = ("--hierarchy", folder / "H", "--checkpoint", tmp_path / "C", "--registry", tmp_path / "R")
    assert main("indexer", "test", indexer.__main__.COMMANDS, argv=["build", *map(str, built)]) == 0
    home = Registry(tmp_path / "R")
    bundle = open_bundle(home.resolve(None))
    assert bundle.model.geocells.prior_exponent == geocells.prior_exponent
    np.testing.assert_array_equal(bundle.model.geocells.level_weights, geocells.level_weights)
    np.testing.assert_array_equal(bundle.model.geocells.transform.matrix, geocells.transform.matrix)  # type: ignore[union-attr]
    assert bundle.gallery is not None
    assert len(bundle.gallery) == printed["gallery"] > len(geocells.vectors[-1])
    assert np.diff(bundle.gallery.begins).max() == 2
    assert bundle.gallery.stands_for.sum() > 0.9 * world.n_known
    assert home.faults() == []


def test_shards_in_another_order_change_nothing_but_rounding(folder: Path, world: World, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).permutation(world.n_known)
    write_features(world, np.array_split(rows, 5), tmp_path / "F")
    made = []
    for number, features in enumerate((folder / "F", tmp_path / "F")):
        out = tmp_path / f"C{number}"
        refit(RefitSources(features, folder / "H"), out, config=CONFIG)
        made.append(load_geocells(out))
    one, other = made
    assert one.transform is not None
    assert other.transform is not None
    assert one.transform.shrinkage == other.transform.shrinkage
    for a, b in zip(one.vectors, other.vectors, strict=True):
        assert (a * b).sum(axis=1).min() > 0.9999
    np.testing.assert_allclose(one.temperatures, other.temperatures, rtol=1e-3)


@pytest.mark.parametrize("few_photos", [0, 5000])
def test_the_same_refit_has_the_same_bits(folder: Path, tmp_path: Path, few_photos: int) -> None:
    config, sources = replace(CONFIG, few_photos=few_photos, epochs=2), RefitSources(folder / "F", folder / "H")
    one, other = (refit(sources, tmp_path / f"{number}", config=config) for number in range(2))
    assert (one.kept, one.candidates, one.levels) == (other.kept, other.candidates, other.levels)
    for a, b in zip(one.geocells.vectors, other.geocells.vectors, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.geocells.temperatures, other.geocells.temperatures)


def keep(candidate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.cells.candidates.choose", lambda _: candidate)


FEW = {"every photo once": 5000, "a share of them": 0}  # how photos are held out, by `few_photos`


def few(world: World, n: int, out: Path) -> RefitSources:
    """Features of some photos, and a hierarchy of four photos a leaf or so."""
    write_features(world, [np.arange(n)], out / "F")
    rule = PartitionRule(tau_max=(max(n // 5, 9), max(n // 20, 8), 7), tau_min=0)
    save_s2_hierarchy(world.lat_deg[:n], world.lng_deg[:n], rule=rule, out=out / "H")
    return RefitSources(out / "F", out / "H")


@pytest.mark.parametrize("few_photos", FEW.values(), ids=FEW.keys())
@pytest.mark.parametrize("kept", ["start", "tempered"])
def test_a_start_that_is_kept_is_what_a_build_from_all_photos_has(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, few_photos: int
) -> None:
    keep(kept, monkeypatch)
    sources = few(world, 300, tmp_path)
    tree = load_hierarchy(sources.hierarchy)
    summary = refit(sources, tmp_path / "C", config=replace(CONFIG, few_photos=few_photos, held_out=0.5))
    ours, means = summary.geocells, prototypes(open_features(sources.features), Placement(tree)).geocells
    for a, b in zip(ours.vectors, means.vectors, strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.transform is not None
    assert means.transform is not None
    np.testing.assert_array_equal(ours.transform.matrix, means.transform.matrix)
    expected = means.temperatures if kept == "start" else [level.start_temperature for level in summary.levels]
    np.testing.assert_array_equal(ours.temperatures, expected)
    # Every leaf with a photo has a vector of its own, also those whose every photo was held out at once.
    leaf = tree.locate(world.lat_deg[:300], world.lng_deg[:300])[:, -1]
    held_out = by_name(0.5)[1](names(300))
    assert len(np.setdiff1d(leaf[held_out], leaf[~held_out])) > 5
    parents = tree.parents(len(tree.levels) - 1)
    alone = np.bincount(parents)[parents] == 1  # the photos of such a leaf are those of its parent
    likeness = (ours.vectors[-1] * ours.vectors[-2][parents]).sum(axis=1)
    filled = np.bincount(leaf, minlength=len(tree.leaves)) > 0
    assert (likeness[filled & ~alone] < 0.9999).all()


@pytest.mark.parametrize("few_photos", FEW.values(), ids=FEW.keys())
def test_photos_that_judged_are_fitted_to_in_the_end(
    folder: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_photos: int
) -> None:
    keep("fitted", monkeypatch)
    fits = []
    fit_again = refitting.fit_again

    def watched(start: Geocells, photos: VectorFile, levels: list[LevelFit], **more: Any) -> Geocells:
        fits.append((start, len(photos), levels))
        return fit_again(start, photos, levels, **more)

    monkeypatch.setattr(refitting, "fit_again", watched)
    config = replace(CONFIG, few_photos=few_photos, held_out=0.5)
    summary = refit(RefitSources(folder / "F", folder / "H"), tmp_path / "C", config=config)
    tree = load_hierarchy(folder / "H")
    inside = int((tree.locate(*places(world))[:, 0] >= 0).sum())
    [(start, n_photos, levels)] = fits
    assert n_photos == summary.photos == inside
    assert summary.held_out == (inside if few_photos else pytest.approx(inside / 2, rel=0.1))
    assert summary.folds == (5 if few_photos else 1)
    assert levels == summary.levels
    assert max(level.epoch for level in levels) > 0
    for level, before, after in zip(
        levels, start.vectors, summary.geocells.vectors, strict=True
    ):  # from the means of all photos, by as many epochs as were found
        assert np.allclose(before, after, atol=1e-6) == (level.epoch == 0)
    np.testing.assert_array_equal(summary.geocells.temperatures, [level.temperature for level in levels])


def test_splits_of_a_table_say_what_is_held_out(
    folder: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is fitted to it."""
    monkeypatch.setattr(refitting, "fit_again", lambda *_, **__: pytest.fail("it fitted to all"))
    sources = RefitSources(
        folder / "F", folder / "H", photos=folder / "photos.parquet", split="train", validation_split="validation"
    )
    summary = refit(sources, tmp_path / "C", config=CONFIG)
    inside = load_hierarchy(folder / "H").locate(*places(world))[:, 0] >= 0
    assert (summary.photos, summary.held_out) == (inside.sum() - inside[::10].sum(), inside[::10].sum())
    assert summary.folds == 1
    keep("fitted", monkeypatch)
    fitted = refit(sources, tmp_path / "C2", config=CONFIG)
    assert max(level.epoch for level in fitted.levels) > 0
    np.testing.assert_array_equal(fitted.geocells.temperatures, [level.temperature for level in fitted.levels])
    keep("start", monkeypatch)
    learnt = Placement(load_hierarchy(folder / "H"), folder / "photos.parquet", split="train")
    means = prototypes(open_features(folder / "F"), learnt).geocells
    kept = refit(sources, tmp_path / "C3", config=CONFIG).geocells
    for a, b in zip(kept.vectors, means.vectors, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_refit_of_few_photos_is_no_worse_than_their_means(world: World, tmp_path: Path) -> None:
    sources = few(world, 300, tmp_path)
    summary = refit(sources, tmp_path / "C", config=RefitConfig(device="cpu"))
    assert (summary.photos, summary.held_out, summary.folds) == (300, 300, 5)
    assert list(summary.candidates) == ["start", "tempered", "fitted"]
    assert {figures.n for figures in summary.candidates.values()} == {300}
    means = prototypes(open_features(sources.features), Placement(load_hierarchy(sources.hierarchy))).geocells
    ours, theirs = (np.log1p(errors_km(which, sources.hierarchy, world)) for which in (summary.geocells, means))
    gain = theirs - ours
    assert gain.mean() >= -2 * gain.std() / np.sqrt(len(gain))


def test_photos_too_few_to_judge_by_are_told(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="19 held-out photos have a vector and a cell; 20 are needed"):
        refit(few(world, 19, tmp_path), tmp_path / "C", config=replace(CONFIG, shrinkage=0.5))


def test_cells_that_are_labels_are_fitted_too(folder: Path, tmp_path: Path) -> None:
    partition(folder / "photos.parquet", LabelScheme(("east", "zone")), tmp_path / "L")
    sources = RefitSources(folder / "F", tmp_path / "L", photos=folder / "photos.parquet")
    summary = refit(sources, tmp_path / "C", config=replace(CONFIG, gallery_per_leaf=1))
    assert [len(level) for level in summary.geocells.vectors] == [2, 18]
    assert summary.gallery == 18
    with pytest.raises(InputError, match="cells of this hierarchy are labels: give the table"):
        refit(RefitSources(folder / "F", tmp_path / "L"), tmp_path / "C2", config=CONFIG)


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose vectors F might be, with geocells of the hierarchy H."""
    from tests.encoder.conftest import tiny_encoder

    out = tmp_path_factory.mktemp("checkpoint") / "C"
    geocells = random_geocells(load_hierarchy(folder / "H"), WIDTH, seed=0)
    return save_checkpoint(out, encoder=tiny_encoder(width=WIDTH), geocells=geocells, config={}, inputs={})


def test_the_encoder_comes_along_untouched(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    text = {"from_": str(checkpoint), "photos": str(folder / "photos.parquet")}  # paths may be text
    refit(RefitSources(str(folder / "F"), str(folder / "H"), **text), str(tmp_path / "C"), config=ONCE)
    old, new = load_encoder(str(checkpoint)), load_encoder(str(tmp_path / "C"))
    assert new.digest == old.digest == load_geocells(tmp_path / "C").encoder
    for name, weight in old.model.state_dict().items():
        torch.testing.assert_close(new.model.state_dict()[name], weight, rtol=0, atol=0)


def test_without_an_encoder_geocells_stand_alone(folder: Path, tmp_path: Path) -> None:
    refit(RefitSources(folder / "F", folder / "H"), tmp_path / "C", config=ONCE)
    with pytest.raises(ArtifactError, match="holds geocells alone"):
        load_encoder(str(tmp_path / "C"))


def test_old_geocells_are_carried_over_by_lineage(folder: Path, checkpoint: Path, world: World, tmp_path: Path) -> None:
    rule = PartitionRule(tau_max=(250, 80, 25), tau_min=5)
    n = world.n_known
    save_s2_hierarchy(world.lat_deg[:n], world.lng_deg[:n], rule=rule, out=tmp_path / "H2")
    sources = RefitSources(folder / "F", tmp_path / "H2", from_=checkpoint, old_hierarchy=str(folder / "H"))
    summary = refit(sources, tmp_path / "C", config=replace(CONFIG, epochs=0))
    assert summary.geocells.transform is None
    old, new = load_hierarchy(folder / "H"), load_hierarchy(tmp_path / "H2")
    same = np.flatnonzero(np.isin(new.leaves.keys, old.leaves.keys))
    where = {key: cell for cell, key in enumerate(old.leaves.keys.tolist())}
    before = load_geocells(checkpoint).vectors[-1][[where[key] for key in new.leaves.keys[same].tolist()]]
    assert len(same) > 20
    np.testing.assert_allclose(summary.geocells.vectors[-1][same], before, atol=1e-6)
    other = replace(sources, old_hierarchy=tmp_path / "H2")
    with pytest.raises(BundleMismatch, match="belong to hierarchy"):
        refit(other, tmp_path / "C2", config=CONFIG)


def test_photos_in_no_cell_are_refused(folder: Path, tmp_path: Path) -> None:
    far = np.full(60, -75.0), np.linspace(-100, -90, 60)
    save_s2_hierarchy(*far, rule=PartitionRule(tau_max=(20, 10), tau_min=1), out=tmp_path / "H")
    with pytest.raises(InputError, match="none of its photos has both a vector and a cell"):
        refit(RefitSources(folder / "F", tmp_path / "H"), tmp_path / "C", config=CONFIG)
    assert not (tmp_path / "C").exists()


def test_no_epochs_fit_temperatures_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes out is likelier than at the temperatures a refit begins with, which the product shows."""
    sources = RefitSources(folder / "F", folder / "H")
    assert refit(sources, tmp_path / "C", config=replace(CONFIG, epochs=0)).kept in {"start", "tempered"}
    keep("tempered", monkeypatch)
    summary = refit(sources, tmp_path / "C2", config=replace(CONFIG, epochs=0))
    assert summary.geocells.temperatures == pytest.approx([level.start_temperature for level in summary.levels])
    assert (np.abs(np.log(summary.geocells.temperatures / 0.07)) > 0.01).all()
    means = prototypes(open_features(folder / "F"), Placement(load_hierarchy(folder / "H"))).geocells
    for ours, theirs in zip(summary.geocells.vectors, means.vectors, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_too_few_photos_for_level_weights_are_told_before_the_fit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.refitting.fit_cells", lambda *_, **__: pytest.fail("it fitted"))
    few = replace(CONFIG, few_photos=0, held_out=0.02, levels_weights="fit")
    with pytest.raises(InputError, match="level weights and the prior's need"):
        refit(RefitSources(folder / "F", folder / "H"), tmp_path / "C", config=few)
    assert not (tmp_path / "C").exists()


def test_a_level_with_one_cell_says_nothing_and_does_no_harm(folder: Path, world: World, tmp_path: Path) -> None:
    """A tree of labels may well begin with "world". Its factor is 1 for every leaf."""
    table = pyarrow.parquet.read_table(folder / "photos.parquet")
    pyarrow.parquet.write_table(table.append_column("all", pa.array(["world"] * len(table))), tmp_path / "p.parquet")
    partition(tmp_path / "p.parquet", LabelScheme(("all", "zone")), tmp_path / "L")
    sources = RefitSources(folder / "F", tmp_path / "L", photos=tmp_path / "p.parquet")
    summary = refit(sources, tmp_path / "C", config=replace(CONFIG, levels_weights="fit"))
    assert [len(level) for level in summary.geocells.vectors] == [1, 18]
    assert summary.levels[0].loss == 0
    assert np.isfinite(summary.geocells.temperatures).all()


def test_features_of_another_encoder_are_refused(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    conftest.write_features(tmp_path / "F", *open_features(folder / "F"), encoder="f" * 64)
    sources = RefitSources(tmp_path / "F", folder / "H", from_=checkpoint)
    with pytest.raises(BundleMismatch, match="vectors of encoder ffffffff"):
        refit(sources, tmp_path / "C", config=CONFIG)
    assert not (tmp_path / "C").exists()


@pytest.mark.parametrize("lineage", [False, True])
def test_features_of_another_width_are_refused_though_nobody_says_whose_they_are(
    folder: Path, checkpoint: Path, tmp_path: Path, lineage: bool
) -> None:
    narrow = np.random.default_rng(0).normal(size=(100, WIDTH // 2)).astype(np.float32)
    (tmp_path / "F").mkdir()
    table = pa.table({"photo": names(100), "embedding": narrow.tolist()})
    pyarrow.parquet.write_table(table, tmp_path / "F" / "part-00.parquet")
    old = folder / "H" if lineage else None
    sources = RefitSources(
        tmp_path / "F", folder / "H", photos=folder / "photos.parquet", from_=checkpoint, old_hierarchy=old
    )
    with pytest.raises(BundleMismatch, match=rf"vectors of {WIDTH // 2} dimensions; those of .* have {WIDTH}"):
        refit(sources, tmp_path / "C", config=CONFIG)


def test_photos_to_fit_to_without_vectors_are_refused(
    folder: Path, checkpoint: Path, world: World, tmp_path: Path
) -> None:
    write_features(world, [np.arange(0, world.n_known, 10)], tmp_path / "F")  # of the validation split alone
    sources = RefitSources(
        tmp_path / "F",
        folder / "H",
        photos=folder / "photos.parquet",
        split="train",
        validation_split="validation",
        from_=checkpoint,
        old_hierarchy=folder / "H",
    )
    with pytest.raises(InputError, match="none of its photos has both a vector and a cell"):
        refit(sources, tmp_path / "new" / "C", config=CONFIG)


def test_a_folder_to_write_to_is_made(folder: Path, tmp_path: Path) -> None:
    sources = RefitSources(folder / "F", folder / "H")
    summary = refit(sources, tmp_path / "new" / "C", config=replace(CONFIG, epochs=0))
    assert load_geocells(summary.checkpoint).width == WIDTH


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "train"), "go with --photos"),
        (("--photos", "{photos}", "--validation-split", "validation"), "needs --split"),
        (("--photos", "{photos}", "--split", "train", "--validation-split", "train"), "hold out other photos"),
        (("--old-hierarchy", "{H}"), "needs --from"),
        (("--held-out", "0"), "--held-out must be from 0.001 to 0.5"),
        (("--held-out", "0.001", "--few-photos", "0"), "held-out photos have a vector and a cell; 20 are needed"),
        (("--few-photos", "-1"), "--few-photos must be at least 0"),
        (("--gallery-per-leaf", "-1"), "--gallery-per-leaf must be all, or at least 0"),
        (("--owner-column", "user"), "--owner-column is a column of --photos"),
        (("--shrinkage", "0.5", "--transform", "none"), "goes with --transform whiten"),
        (("--from", "{H}"), "this is a hierarchy folder; a checkpoint folder is needed"),
    ],
)
def test_what_does_not_go_together_is_said(
    folder: Path, tmp_path: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [value.format(photos=folder / "photos.parquet", H=folder / "H") for value in more]
    assert command("--features", folder / "F", "--hierarchy", folder / "H", "--out", tmp_path / "C", *given) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_gallery_is_that_of_all_photos_held_out_or_not(folder: Path, world: World, tmp_path: Path) -> None:
    summary = refit(RefitSources(folder / "F", folder / "H"), tmp_path / "C", config=ONCE)
    tree, features = load_hierarchy(folder / "H"), open_features(folder / "F")
    (tmp_path / "G").mkdir()
    placed = [Placement(tree).place(batch, everywhere=True) for batch in features]
    made = write_gallery(tmp_path / "G", placed, load_geocells(tmp_path / "C"), tree, CONFIG)
    assert made.given == world.n_known
    assert summary.gallery == made.facts.photos > 0.5 * world.n_known
    for name in FILES:
        assert (tmp_path / "C" / name).read_bytes() == (tmp_path / "G" / name).read_bytes()
    facts = read_manifest(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION).facts
    gallery = open_gallery(tmp_path / "C", facts["gallery"], n_leaves=len(tree.leaves), width=WIDTH)
    assert gallery is not None
    assert gallery.facts.encoder == load_geocells(tmp_path / "C").encoder


def test_a_split_that_is_held_out_is_in_no_gallery(folder: Path, tmp_path: Path) -> None:
    sources = RefitSources(
        folder / "F", folder / "H", photos=folder / "photos.parquet", split="train", validation_split="validation"
    )
    refit(sources, tmp_path / "C", config=ONCE)
    table = pyarrow.parquet.read_table(folder / "photos.parquet")
    held_out = set(table.filter(pa.compute.equal(table["split"], "validation"))["photo"].to_pylist())
    names = pyarrow.parquet.read_table(tmp_path / "C" / FILES[1])["photo"].to_pylist()
    assert names
    assert not held_out & set(names)


def test_without_a_gallery_there_are_no_files(folder: Path, tmp_path: Path) -> None:
    summary = refit(RefitSources(folder / "F", folder / "H"), tmp_path / "C", config=replace(ONCE, gallery_per_leaf=0))
    assert summary.gallery == 0
    assert not any((tmp_path / "C" / name).exists() for name in FILES)
