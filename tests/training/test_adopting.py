"""GeoCLIP taken over: its own vectors, its own first places, and nothing half-made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from geoclip import GeoCLIP
from huggingface_hub import constants
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.models.checkpoint import load_encoder
from encoder.models.files import encoder_width
from indexer.bundles.bundle import open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.table import load_hierarchy
from indexer.cli import main
from indexer.errors import InputError, WorkError
from indexer.paper import MP16_PHOTOS, TAU_MAX, TAU_MIN
from indexer.photos.sources import listed_photos
from indexer.vectors.features import open_features
from search.answers.options import SearchOptions
from search.locate import Locator
from tests.encoder.conftest import natural
from tests.published_geoclip import (
    LOGIT_SCALE,
    OUT,
    places_on_earth,
    small_weights,
    write_clip,
    write_package,
    write_places,
    write_release,
)
from training import adopting
from training.__main__ import COMMANDS
from training.adopt_commands import geoclip
from training.adopted.geoclip import read_geoclip
from training.adopting import Adopted, adopt_geoclip, distinct, rule_of


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`package`, `clip` and what was adopted of them, `W` and the registry `R`; 12 photos in `P`."""
    folder = tmp_path_factory.mktemp("adopted")
    write_package(folder / "package"), write_clip(folder / "clip")
    arguments = ["adopt", "geoclip", "--out", "W", "--registry", "R", "--from", "package", "--clip", "clip"]
    named = [str(folder / word) if word in ("W", "R", "package", "clip") else word for word in arguments]
    assert main("training", "test", COMMANDS, argv=named) == 0
    (folder / "P").mkdir()
    for row in range(12):
        natural(90 + 3 * row, 70, seed=row).save(folder / "P" / f"{row:02d}.png")
    return folder


def photos(folder: Path) -> list[str]:
    return [str(path) for path in sorted((folder / "P").iterdir())]


@pytest.fixture(scope="module")
def by_hand(made: Path) -> np.ndarray:
    """(12, OUT) float32: CLIP's own image embedding through the published head, of length 1."""
    clip = CLIPModel.from_pretrained(made / "clip").eval()
    processor = CLIPImageProcessorPil.from_pretrained(made / "clip")
    head, _ = small_weights()
    images = [Image.open(file) for file in photos(made)]
    with torch.inference_mode():
        embedding = clip.get_image_features(**processor(images, return_tensors="pt")).pooler_output
        hidden = torch.relu(embedding @ head["0.weight"].T + head["0.bias"])
        return torch.nn.functional.normalize(hidden @ head["2.weight"].T + head["2.bias"]).numpy()


def test_the_checkpoint_sees_photos_as_clip_and_the_head_do(made: Path, by_hand: np.ndarray, tmp_path: Path) -> None:
    from encoder.__main__ import COMMANDS as ENCODER

    words = ["embed", "--photos", made / "P", "--checkpoint", made / "W/checkpoint", "--out", tmp_path / "F"]
    assert main("encoder", "test", ENCODER, argv=[*map(str, words), "--precision", "float32"]) == 0
    vectors = next(iter(open_features(tmp_path / "F"))).embedding
    assert (vectors * by_hand).sum(axis=1).min() > 0.99999
    assert encoder_width(made / "W/checkpoint") == load_encoder(made / "W/checkpoint").width == OUT


def test_features_are_unit_vectors_of_each_place_once(made: Path) -> None:
    source = open_features(made / "W/features")
    batch = next(iter(source))
    places = places_on_earth(600)
    assert len(batch) == len({tuple(place) for place in places.tolist()}) == 540
    published = read_geoclip(made / "package")
    found = {name: vector for name, vector in zip(batch.photo, batch.embedding, strict=True)}
    for lat, lng in places[::50].tolist():
        (expected,) = published.location_encoder.vectors(np.array([lat]), np.array([lng]))
        np.testing.assert_allclose(found[f"{lat},{lng}"], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(batch.embedding, axis=1), 1, atol=1e-5)
    assert (source.encoder, source.crops) == (load_encoder(made / "W/checkpoint").digest, "one")


def test_the_bundle_is_of_these_places_and_of_the_checkpoint(made: Path) -> None:
    bundle = open_bundle(Registry(made / "R").resolve(None))
    temperature = float(np.exp(-LOGIT_SCALE))
    assert bundle.encoder == load_encoder(made / "W/checkpoint").digest
    assert bundle.hierarchy.digest == load_hierarchy(made / "W/hierarchy").digest
    np.testing.assert_allclose(bundle.model.geocells.temperatures, temperature, rtol=1e-6)
    assert bundle.model.geocells.transform is None
    assert bundle.gallery is not None
    facts = bundle.gallery.facts
    assert (facts.photos, facts.precision, facts.alone) == (540, "fp32", True)
    assert facts.similarity == pytest.approx(temperature)
    assert (bundle.gallery.stands_for == 1).all()


def test_answers_name_the_places_most_like_a_photo(made: Path, by_hand: np.ndarray) -> None:
    batch = next(iter(open_features(made / "W/features")))
    cosine = by_hand @ batch.embedding.T
    options = SearchOptions(gallery="all", gallery_photos=5)
    locator = Locator.open(made / "R", checkpoint=made / "W/checkpoint", options=options, precision="float32")
    for answer, row in zip(locator.locate(photos(made)), cosine, strict=True):
        nearest = np.argsort(-row)[:5]
        assert [photo.photo for photo in answer.gallery] == [batch.photo[place] for place in nearest]
        np.testing.assert_allclose([photo.cosine for photo in answer.gallery], row[nearest], atol=1e-4)
        share = np.exp((row[nearest] - row[nearest[0]]) * np.exp(LOGIT_SCALE))
        weight = np.array([photo.weight for photo in answer.gallery])
        np.testing.assert_allclose(weight / weight[0], share, rtol=1e-3)  # as GeoCLIP's own probabilities


def test_other_encoders_are_refused(made: Path) -> None:
    with pytest.raises(Exception, match="was built for"):
        Locator.open(made / "R", checkpoint=f"hf:{made / 'clip'}")


def test_photos_are_answered_as_by_the_package_itself(tmp_path: Path) -> None:
    """Its published weights on a small random CLIP, and a part of its places: both take minutes with all."""
    write_clip(tmp_path / "clip", width=768, edge=224)
    theirs = GeoCLIP(clip_path=str(tmp_path / "clip")).eval()
    theirs.gps_gallery = theirs.gps_gallery[::200]
    places = np.stack([read_geoclip().lat_deg, read_geoclip().lng_deg], axis=1)[::200]
    table = write_places(tmp_path / "places.csv", places)
    adopt_geoclip(tmp_path / "W", registry=tmp_path / "R", clip=tmp_path / "clip", coordinates=table)
    files = [tmp_path / f"{row}.png" for row in range(6)]
    for row, file in enumerate(files):
        natural(320 + 9 * row, 240, seed=row).save(file)
    with torch.inference_mode():
        pixels = torch.cat([theirs.image_encoder.preprocess_image(Image.open(file)) for file in files])
        expected = torch.nn.functional.normalize(theirs.image_encoder(pixels))
    options = SearchOptions(gallery="all", gallery_photos=5)
    locator = Locator.open(tmp_path / "R", checkpoint=tmp_path / "W/checkpoint", options=options, precision="float32")
    vectors = locator.embed(listed_photos([str(file) for file in files])).embedding
    assert (vectors * expected.numpy()).sum(axis=1).min() > 0.99999
    for file, answer in zip(files, locator.locate(files), strict=True):
        places_of_theirs, _ = theirs.predict(str(file), 5)
        found = [(photo.lat_deg, photo.lng_deg) for photo in answer.gallery]
        np.testing.assert_allclose(found, places_of_theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("given", [None, "given"])
def test_a_release_names_its_clip_and_another_may_be_given(tmp_path: Path, given: str | None) -> None:
    clip = write_clip(tmp_path / "clip")
    release = write_release(tmp_path / "release", clip="some/clip", n=80)
    if given is None:
        with pytest.raises(InputError, match=r"some/clip@abc: config.json cannot be had.*a folder.*with `clip`"):
            adopt_geoclip(tmp_path / "W", from_=release)
        assert not (tmp_path / "W").exists()
    else:
        made = adopt_geoclip(tmp_path / "W", from_=release, clip=clip)
        assert made.built is None
        assert sorted(path.name for path in (tmp_path / "W").iterdir()) == ["checkpoint", "features", "hierarchy"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"clip": "wide"}, r"have 24 dimensions; GeoCLIP's head takes those of 16"),
        ({"clip": "headed"}, r"no plain CLIP"),
        ({"coordinates": "wrong.csv"}, r"wrong.csv: lat is 95.0 in row 0"),
        ({"coordinates": "absent.csv"}, r"absent.csv"),
        ({"coordinates": "other.csv"}, r"no column 'lat'"),
        ({"registry": "package"}, r"package"),
        ({"out": "clip"}, r"clip: exists already"),
    ],
)
def test_what_cannot_be_taken_over_is_said_and_leaves_nothing(
    made: Path, tmp_path: Path, more: dict[str, str], message: str
) -> None:
    write_clip(tmp_path / "wide", width=24)
    (tmp_path / "wrong.csv").write_text("lat,lng\n95,3\n")
    (tmp_path / "other.csv").write_text("north,east\n9,3\n")
    (tmp_path / "package").write_text("a file")
    write_clip(tmp_path / "clip")
    given: dict[str, Any] = {name: tmp_path / value for name, value in more.items()}
    if more.get("clip") == "headed":
        given["clip"] = made / "W/checkpoint"
    options = {"out": tmp_path / "W", "from_": made / "package", "clip": made / "clip", "registry": tmp_path / "R"}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        adopt_geoclip(**{**options, **given})
    assert sorted(tmp_path.iterdir()) == before


def test_a_build_that_fails_leaves_nothing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise WorkError("no space left")

    monkeypatch.setattr(adopting, "build", full)
    with pytest.raises(WorkError):
        adopt_geoclip(tmp_path / "W", from_=made / "package", clip=made / "clip", registry=tmp_path / "R")
    assert list(tmp_path.iterdir()) == []


def test_the_rule_is_the_papers_for_a_sample() -> None:
    assert rule_of(MP16_PHOTOS).tau_max == TAU_MAX
    assert rule_of(MP16_PHOTOS).tau_min == TAU_MIN
    assert rule_of(100_000).tau_max == (532, 213, 106, 43, 21, 16, 11)
    assert rule_of(100_000).tau_min == 1
    for n in (1, 7, 300, 5000, 10**9):
        assert 0 <= rule_of(n).tau_min < rule_of(n).tau_max[-1]


def test_each_place_comes_once_in_the_order_of_the_table() -> None:
    lat, lng = distinct(np.array([3.0, 1.0, 3.0, 3.0]), np.array([4.0, 2.0, 5.0, 4.0]))
    assert list(zip(lat.tolist(), lng.tolist(), strict=True)) == [(3, 4), (1, 2), (3, 5)]


def test_the_command_says_what_was_made_and_what_to_do_next(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"read": 1.0, "places": 2.0}
    monkeypatch.setattr(
        adopting, "adopt_geoclip", lambda out, **_: Adopted(Path(out), 100, (3, 9), 0.0252, None, stages)
    )
    result = geoclip(out=Path("W"))
    assert "100 places in 2 levels (9 leaves), temperature 0.0252, in 3 s" in result.text
    assert "No version was built" in result.text
    assert json.loads(json.dumps(result.data))["version"] is None
