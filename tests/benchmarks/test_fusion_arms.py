"""The comparison of ways to use class maps: each arm is what it is called, and finished runs are kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.world import fusion_arms
from benchmarks.world.arms import ComparisonPreset, Run, demo_settings
from benchmarks.world.fusion_arms import ALONE, ARMS, SMALL, compare_arms, shuffled
from benchmarks.world.generator import CLASSES, WorldConfig
from training.photos import PhotoSet

pytestmark = pytest.mark.usefixtures("small_demo")
TINY = ComparisonPreset(WorldConfig(n_train=120, n_validation=20, n_test=30), (40, 15), 1, epochs=1)


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, len(CLASSES), (n, 48, 48), generator=generator, dtype=torch.uint8)
    return torch.randn((n, 3, 48, 48), generator=generator), maps


@pytest.mark.parametrize("arm", ARMS)
def test_maps_reach_the_vector_where_they_should(arm: str) -> None:
    torch.manual_seed(0)
    encoder = ARMS[arm](demo_settings(Path("photos.parquet")).model).eval()
    pixels, maps = inputs()
    if arm == ALONE:
        with pytest.raises(ValueError, match="takes none"):
            encoder(pixels, maps)
        return
    for weight in encoder.fusion.parameters():  # output projections begin at zero
        weight.data += 0.05 * torch.randn_like(weight)
    vectors = encoder(pixels, maps)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert not torch.allclose(encoder(pixels, maps.flip(0))[[0, 2]], vectors[[0, 2]], atol=1e-5)


def test_shuffled_maps_are_the_same_maps_elsewhere() -> None:
    pixels, maps = inputs(50)
    photos = PhotoSet(pixels.byte(), maps, torch.zeros((50, 1), dtype=torch.int64), np.zeros(50), np.zeros(50))
    other = shuffled(photos, 0)
    assert other.class_maps is not None
    assert torch.equal(other.pixels, photos.pixels)
    assert not torch.equal(other.class_maps, maps)
    assert sorted(other.class_maps.flatten(1).sum(dim=1).tolist()) == sorted(maps.flatten(1).sum(dim=1).tolist())


def test_finished_runs_are_kept_and_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    compared = ("photos alone", "fused")
    compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=compared)
    made = {path.name: path.read_bytes() for path in (tmp_path / "out" / "runs").iterdir()}
    assert sorted(name.rpartition("-")[0] for name in made) == ["fused-0", "photos-alone-0"]
    for content in made.values():
        assert len(json.loads(content)["errors_km"]["answer"]) == 30
    monkeypatch.setattr(fusion_arms, "train_arm", lambda *arguments: pytest.fail("made again"))
    compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=compared)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "runs").iterdir()} == made
    assert capsys.readouterr().out.count("fused: median") == 2


def test_runs_of_other_settings_are_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    errors = {"answer": np.array([10.0, 300.0])}
    monkeypatch.setattr(fusion_arms, "train_arm", lambda arm, seed, stage: Run(arm.name, seed, 1.0, errors))
    for preset in (TINY, replace(TINY, epochs=2)):
        assert compare_arms(preset, tmp_path / "out", seeds=(0,), arms=("fused",)) == 0
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2
    assert compare_arms(TINY, tmp_path / "out", seeds=(0,)) == 1  # no better than photos alone


def test_the_small_preset_differs_from_the_demo_by_its_size_alone() -> None:
    assert replace(SMALL.world, n_train=20_000) == WorldConfig()
