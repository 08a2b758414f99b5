"""What is published of GeoCLIP is read from its package and from a release alike, and everything else is refused."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from indexer.errors import ArtifactError, InputError
from tests.published_geoclip import IN, LOGIT_SCALE, OUT, places_on_earth, small_weights, write_package, write_release
from training.adopted import geoclip
from training.adopted.geoclip import read_geoclip


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release", clip="some/clip")


def test_package_and_release_of_the_same_weights_are_the_same(package: Path, release: Path) -> None:
    read = [read_geoclip(package), read_geoclip(package / "geoclip"), read_geoclip(release)]
    head, _ = small_weights()
    embedding, places = torch.randn(5, IN), places_on_earth(600)
    expected = torch.relu(embedding @ head["0.weight"].T + head["0.bias"]) @ head["2.weight"].T + head["2.bias"]
    for each in read:
        torch.testing.assert_close(each.head(embedding), expected)
        assert each.widths == [IN, IN, OUT]
        assert each.temperature == pytest.approx(np.exp(-LOGIT_SCALE))
        np.testing.assert_array_equal(np.stack([each.lat_deg, each.lng_deg], axis=1), places)
        np.testing.assert_array_equal(
            each.location_encoder.vectors(*places[:9].T), read[0].location_encoder.vectors(*places[:9].T)
        )
    assert [each.clip for each in read] == [geoclip.CLIP, geoclip.CLIP, "some/clip@abc"]
    assert set(read[2].digests) == {"config.json", "model.safetensors", "places.csv"}


def test_the_installed_package_is_read_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "geoclip", None)  # an import would fail
    published = read_geoclip()
    assert published.widths == [768, 768, 512]
    assert published.temperature == pytest.approx(0.0252, abs=1e-4)
    assert len(published.lat_deg) == 100_000


def test_a_package_that_is_not_there_or_not_whole(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "geoclip/model/gps_gallery/coordinates_100K.csv").unlink()
    with pytest.raises(InputError, match=r"gps_gallery/coordinates_100K.csv is missing. Install geoclip 1.3"):
        read_geoclip(package)

    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(geoclip, "distribution", absent)
    with pytest.raises(InputError, match=r"geoclip is not installed.*no-deps"):
        read_geoclip()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "geoclip-location-encoder", "model_type 'geoclip-location-encoder', format_version 1"),
        ("format_version", 2, "format_version 2"),
        ("format_version", True, "format_version True"),
        ("gallery_file", "../places.csv", r"gallery_file .* must name a CSV beside it"),
        ("gallery_file", None, "gallery_file"),
        ("backbone", {"revision": "abc"}, "does not name the CLIP"),
        ("backbone", "openai/clip", "does not name the CLIP"),
    ],
)
def test_a_configuration_that_is_no_releases_is_refused(release: Path, key: str, value: object, message: str) -> None:
    file = release / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(InputError, match=message):
        read_geoclip(release)


@pytest.mark.parametrize("wrong", ["head", "location", "scale", "width"])
def test_weights_that_are_no_geoclips_are_named(release: Path, wrong: str) -> None:
    file = release / "model.safetensors"
    weights = load_file(file)
    if wrong == "head":
        del weights["image_encoder.mlp.2.bias"]
    elif wrong == "location":
        del weights["location_encoder.LocEnc1.capsule.0.b"]
    elif wrong == "scale":
        weights["another"] = weights.pop("logit_scale")
    else:
        weights["image_encoder.mlp.2.weight"] = torch.zeros(OUT + 1, IN)
        weights["image_encoder.mlp.2.bias"] = torch.zeros(OUT + 1)
    save_file(weights, file)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be loaded as the"):
        read_geoclip(release)


def test_a_place_that_is_not_on_earth_is_named(release: Path) -> None:
    (release / "places.csv").write_text("LAT,LON\n12,3\n95,3\n")
    with pytest.raises(InputError, match=r"lat is 95.0 in row 1"):
        read_geoclip(release)


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"some/geoclip: config\.json cannot be had"):
        read_geoclip("hf:some/geoclip")
