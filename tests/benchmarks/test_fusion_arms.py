"""The comparison of ways to use class maps: each arm is what it is called, and finished runs are kept."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.world import fusion_arms
from benchmarks.world.arms import ComparisonPreset, Run, demo_settings
from benchmarks.world.fusion_arms import (
    ALONE,
    ARMS,
    MAP_ALONE,
    SMALL,
    FusionArm,
    compare_arms,
    difference,
    encoder_of,
    fusion_weights,
    other_maps,
    report_runs,
    seen_by,
    shuffled,
)
from benchmarks.world.generator import CLASSES, WorldConfig
from encoder.models.fusion import KINDS
from training.photos.run_photos import PhotoSet

pytestmark = pytest.mark.usefixtures("small_demo")
TINY = ComparisonPreset(WorldConfig(n_train=120, n_validation=20, n_test=30), (40, 15), 1, epochs=1)
STEER = FusionArm("steer", "steer")


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, len(CLASSES), (n, 48, 48), generator=generator, dtype=torch.uint8)
    return torch.randn((n, 3, 48, 48), generator=generator), maps


def photos(n: int = 50) -> PhotoSet:
    pixels, maps = inputs(n)
    return PhotoSet(pixels.byte(), maps, torch.zeros((n, 1), dtype=torch.int64), np.zeros(n), np.zeros(n))


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm == ALONE or arm.controlled], ids=lambda arm: arm.name)
def test_maps_reach_the_vector_where_they_should(arm: FusionArm) -> None:
    torch.manual_seed(0)
    encoder = encoder_of(arm, demo_settings(Path("photos.parquet")).model).eval()
    pixels, maps = inputs()
    if arm == ALONE:
        with pytest.raises(ValueError, match="takes none"):
            encoder(pixels, maps)
        return
    assert encoder.fusion is not None
    for weight in encoder.fusion.parameters():  # output projections begin at zero
        weight.data += 0.05 * torch.randn_like(weight)
    vectors = encoder(pixels, maps)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert not torch.allclose(encoder(pixels, maps.flip(0))[[0, 2]], vectors[[0, 2]], atol=1e-5)


def test_arms_differ_in_their_fusion_alone() -> None:
    model, names = demo_settings(Path("photos.parquet")).model, {}
    for arm in ARMS:
        torch.manual_seed(0)
        encoder = encoder_of(arm, model)
        names[arm.kind] = type(encoder.fusion).__name__
        weights = {name: value for name, value in encoder.state_dict().items() if not name.startswith("fusion.")}
        if arm == ALONE:
            bare = weights
        assert all(torch.equal(bare[name], value) for name, value in weights.items())
        if encoder.fusion is not None:
            assert fusion_weights(arm, model) == sum(weight.numel() for weight in encoder.fusion.parameters())
            assert encoder.fusion_config is not None
            assert encoder.fusion_config.needs_maps
    assert len(set(names.values())) == len(names) == 1 + len(KINDS)


def test_shuffled_maps_are_the_same_maps_elsewhere() -> None:
    own = photos()
    other = shuffled(own, 0)
    assert own.class_maps is not None
    assert other.class_maps is not None
    assert torch.equal(other.pixels, own.pixels)
    assert not torch.equal(other.class_maps, own.class_maps)
    assert sorted(other.class_maps.flatten(1).sum(dim=1).tolist()) == sorted(own.class_maps.flatten(1).sum(1).tolist())


def test_controls_take_away_what_their_names_say() -> None:
    own = photos()
    assert seen_by(ALONE, own, 0).class_maps is None
    assert seen_by(STEER, own, 0) is own
    bare = seen_by(MAP_ALONE, own, 0)
    assert bare.class_maps is own.class_maps
    assert (bare.pixels == bare.pixels[0, 0, 0, 0]).all()
    other = seen_by(other_maps("steer"), own, 3)
    assert other.pixels is own.pixels
    assert other.class_maps is not None
    assert torch.equal(other.class_maps, shuffled(own, 3).class_maps)
    assert [arm.name for arm in ARMS] == [
        *("photos alone", "steer", "steer, other maps", "gather", "gather, other maps"),
        *("concatenate", "concatenate, other maps", "map alone"),
    ]


def test_finished_runs_are_kept_and_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    compared = (ALONE, STEER)
    assert compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=compared, at_most=1) == 0
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "out" / "runs").iterdir()] == ["photos-alone-0"]
    assert capsys.readouterr().out == ""  # nothing is reported while a run is missing
    compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=compared, at_most=1)
    made = {path.name: path.read_bytes() for path in (tmp_path / "out" / "runs").iterdir()}
    assert sorted(name.rpartition("-")[0] for name in made) == ["photos-alone-0", "steer-0"]
    for content in made.values():
        assert len(json.loads(content)["errors_km"]["answer"]) == 30
    monkeypatch.setattr(fusion_arms, "train_arm", lambda *arguments: pytest.fail("made again"))
    compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=compared)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "runs").iterdir()} == made
    assert capsys.readouterr().out.count("steer: median") == 2


def test_runs_of_other_settings_are_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(fusion_arms, "train_arm", lambda arm, seed, stage: pretended(arm, seed, {}))
    for preset in (TINY, replace(TINY, epochs=2)):
        assert compare_arms(preset, tmp_path / "out", seeds=(0,), arms=[STEER]) == 0
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2
    assert compare_arms(TINY, tmp_path / "out", seeds=(0,), arms=[ALONE, STEER]) == 1  # no better than photos alone


@pytest.mark.parametrize(
    ("km", "code"),
    [
        ({"steer": 100.0}, 0),
        ({}, 1),  # no better than anything
        ({"steer": 100.0, "steer, other maps": 100.0}, 1),  # a larger model alone would gain it
        ({"steer": 100.0, "steer, other maps": 150.0, "photos alone": 150.0}, 1),  # all within 200 km
    ],
)
def test_a_fusion_must_be_better_by_its_own_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, km: Mapping[str, float], code: int
) -> None:
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    arms, model = [ALONE, STEER, other_maps("steer")], demo_settings(Path("photos.parquet")).model
    runs = [pretended(arm, seed, km) for arm in arms for seed in (0, 1, 2)]
    assert report_runs(runs, TINY, model, arms=arms) == code
    written = json.loads((tmp_path / "benchmarks" / "results" / "world-fusion.jsonl").read_text())
    steer = written["rows"][1]
    assert steer["against"].keys() == {"photos alone", "steer, other maps"}
    assert steer["against"]["photos alone"]["median_km"][0] == km.get("steer", 300.0) - km.get("photos alone", 300.0)
    assert written["rows"][0]["weights"] == 0 < steer["weights"]


def pretended(arm: FusionArm, seed: int, km: Mapping[str, float]) -> Run:
    """An arm that errs by about so many km; by 300, which is too far, where nothing is said."""
    return Run(arm.name, seed, 1.0, {"answer": np.linspace(-20, 20, 30) + km.get(arm.name, 300.0)})


def test_a_difference_is_paired_photo_by_photo_and_seed_by_seed() -> None:
    """An arm that is nearer by exactly 10 km on every photo is so in every draw, whatever the photos are."""
    km = np.random.default_rng(0).uniform(20, 900, (3, 40))
    theirs = [Run("photos alone", seed, 1.0, {"answer": km[seed]}) for seed in (2, 0, 1)]
    ours = [Run("steer", seed, 1.0, {"answer": km[seed] - 10}) for seed in (1, 2, 0)]
    found = difference([*theirs, *ours], STEER, ALONE)
    assert found["median_km"] == pytest.approx((-10, -10, -10))
    middle, low, high = found["200"]
    assert middle == pytest.approx(100 * ((km <= 210).mean() - (km <= 200).mean()))
    assert 0 <= low <= middle <= high


def test_the_small_preset_differs_from_the_demo_by_its_size_alone() -> None:
    assert replace(SMALL.world, n_train=20_000) == WorldConfig()
