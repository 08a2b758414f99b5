"""The comparison of ways to use class maps: each arm is what it is called, and finished runs are kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.world import fusion
from benchmarks.world.fusion import ALONE, ARMS, SMALL, Preset, compare_arms, demo_settings, shuffled
from benchmarks.world.generator import CLASSES, WorldConfig
from indexer.geo import accuracy
from training.data import PhotoSet

TINY = Preset(WorldConfig(n_train=120, n_validation=20, n_test=30), (40, 15), 1, epochs=1)


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
    arms = ("photos alone", "fused")
    compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=arms)
    (runs,) = (tmp_path / "out").glob("runs-*")
    made = {path.name: path.read_bytes() for path in runs.iterdir()}
    assert set(made) == {"photos-alone-0.json", "fused-0.json"}
    assert json.loads(made["fused-0.json"])["accuracy"]["n"] == 30
    monkeypatch.setattr(fusion, "train_arm", lambda *arguments, **options: pytest.fail("made again"))
    compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=arms)
    assert {path.name: path.read_bytes() for path in runs.iterdir()} == made
    assert capsys.readouterr().out.count("fused: median") == 2


def test_runs_of_other_settings_are_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(fusion, "load_sets", lambda *arguments: {"train": None})
    figures = accuracy(np.array([10.0, 300.0]))
    monkeypatch.setattr(
        fusion, "train_arm", lambda arm, seed, *arguments, **options: fusion.Run(arm, seed, 1.0, figures)
    )
    for preset in (TINY, replace(TINY, epochs=2)):
        assert compare_arms(preset, tmp_path / "out", seeds=(0,), arms=("fused",)) == 0
    assert len(list((tmp_path / "out").glob("runs-*"))) == 2
    assert compare_arms(TINY, tmp_path / "out", seeds=(0,)) == 1  # no better than photos alone


def test_the_small_preset_differs_from_the_demo_by_its_size_alone() -> None:
    assert replace(SMALL.world, n_train=20_000) == WorldConfig()
