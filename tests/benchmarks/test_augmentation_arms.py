"""The comparison of ways to cut training photos: each arm learns from what it is called, and ten crops are the ten."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import harness
from benchmarks.world import augmentation_arms
from benchmarks.world.arms import ComparisonPreset, Run, Stage
from benchmarks.world.augmentation_arms import ONE, TEN, CutArm, arms_of, compare_cuts, ten_crop_errors_km, train_arm
from benchmarks.world.generator import WorldConfig
from encoder.photos.crops import crop_photos
from indexer.earth.geo import haversine_km
from training.cells.heads import GeocellHead
from training.config import Augmentation
from training.photos.uncut_photos import UncutPhotos
from training.runs.inputs import build_encoder
from training.runs.module import GeoModule

TINY = ComparisonPreset(WorldConfig(n_train=60, n_validation=20, n_test=15), (30, 10), 1, epochs=1)


@pytest.fixture(scope="module")
def stage(small_demo: None, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(TINY, tmp_path_factory.mktemp("stage") / "world")


@pytest.mark.parametrize("arm", [*arms_of(others=True), arms_of(others=False)[3]], ids=lambda arm: arm.name)
def test_an_arm_learns_from_what_it_is_called(stage: Stage, monkeypatch: pytest.MonkeyPatch, arm: CutArm) -> None:
    learnt, seen = augmentation_arms.learnt, []

    def look(*arguments: object, photos: UncutPhotos | None) -> tuple[GeoModule, float]:
        seen.append((photos, arguments[3]))
        return learnt(*arguments, photos=photos)  # type: ignore[arg-type]

    monkeypatch.setattr(augmentation_arms, "learnt", look)
    run = train_arm(arm, 0, stage)
    ((photos, config),) = seen
    augmentation = config.data.augmentation  # type: ignore[attr-defined]
    assert ("random crop" in arm.name or "both" in arm.name) == augmentation.random_crop == arm.random_crop
    assert ("mirror" in arm.name or "both" in arm.name) == augmentation.mirror == arm.mirror
    plain = Augmentation(random_crop=arm.random_crop, mirror=arm.mirror)
    assert (augmentation == plain) == (not arm.others)
    assert (photos is None) == (not augmentation.draws_windows)
    if photos is not None:
        assert photos.windows == augmentation
        assert len(photos) == len(stage.sets["train"])
        edge = 55 if arm.random_crop else 48
        assert {tuple(image.shape) for image in photos.images} == {(3, edge, edge)}
    assert set(run.errors_km) == {ONE, TEN}
    assert all(errors.shape == (15,) for errors in run.errors_km.values())


def test_ten_crops_answer_by_their_mean_vector(stage: Stage) -> None:
    """Against answering by a loop over photos and crops."""
    torch.manual_seed(0)
    encoder = build_encoder(stage.settings.model).eval()
    head = GeocellHead(stage.hierarchy(), stage.settings.model.width, negatives="all", seed=0)
    module, test = GeoModule(encoder, head, config=stage.settings), stage.sets["test"]
    expected = []
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (encoder.preprocessing.mean, encoder.preprocessing.std)
    )
    assert test.class_maps is not None
    for number in range(len(test)):
        crops = crop_photos([test.pixels[number].permute(1, 2, 0)], encoder.preprocessing, crops="ten")[0]
        class_map = test.class_maps[number][None, None]
        whole = torch.nn.functional.interpolate(class_map, (55, 55), mode="nearest-exact")[0, 0]
        squares = [whole[top : top + 48, left : left + 48] for top, left in [(0, 0), (0, 7), (7, 0), (7, 7), (3, 3)]]
        squares += [square.flip(1) for square in squares]
        with torch.inference_mode():
            vectors = [
                encoder(((crop / 255 - mean) / std)[None], square[None])[0]
                for crop, square in zip(crops, squares, strict=True)
            ]
            best = int((head.rows() @ torch.stack(vectors).mean(dim=0)).argmax())
        expected.append(
            float(haversine_km(test.lat_deg[number], test.lng_deg[number], head.lat_deg[best], head.lng_deg[best]))
        )
    np.testing.assert_allclose(ten_crop_errors_km(module, test), expected, rtol=1e-6)


def test_rows_are_held_against_the_arm_that_sees_the_middle(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    far, near = np.full(40, 900.0), np.full(40, 100.0)

    def learn(arm: CutArm, seed: int, stage: Stage) -> Run:
        return Run(arm.name, seed, 1.0, {ONE: far, TEN: near if arm.mirror else far})

    monkeypatch.setattr(augmentation_arms, "train_arm", learn)
    monkeypatch.setattr(augmentation_arms, "Stage", lambda *_: stage)
    assert compare_cuts(TINY, tmp_path / "out", others=False, seeds=(0, 1)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:8]] == [
        f"{cut}, no other changes, {way}"
        for way in ("one crop", "ten crops")
        for cut in ("the middle", "random crop", "mirror", "both")
    ]
    assert "Median -800.0 to -800.0 km; better at 200, 750 km" in lines[6]
    assert "not distinguishable at 25, 200, 750, 2500 km" in lines[5]
    (line,) = (harness.RESULTS / "world-augmentation.jsonl").read_text().splitlines()
    assert json.loads(line)["rows"][7]["points"]["750"] == 100.0
