"""A CLIP with text becomes a bundle of named places: answers are what its own two halves say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.config import EmbedConfig
from encoder.embedding import embed
from encoder.models.checkpoint import load_encoder
from encoder.models.text_tower import TextTower
from indexer.bundles.bundle import open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.table import load_hierarchy
from indexer.cli import main
from indexer.errors import InputError, WorkError
from indexer.vectors.features import open_features
from indexer.vectors.geocells import load_geocells
from search.__main__ import COMMANDS
from search.calibration.held_out import held_out
from tests.text_clips import own_text_vectors, save_text_clip
from training.__main__ import COMMANDS as ADOPTING
from training.config import NamesConfig
from training.naming import adopt_names

EXACT = NamesConfig(labels=("country", "city"), device="cpu", precision="float32")
PLACES = [  # country, city, lat, lng, people
    ("France", "Paris", 48.85, 2.35, 2_000_000),
    ("France", "Lyon", 45.76, 4.83, 500_000),
    ("United States", "Paris", 33.66, -95.56, 25_000),
    ("Fiji", "Suva", -18.14, 178.44, 0),
]
TEXTS = [
    ["A Street View photo in Fiji.", "A Street View photo in France.", "A Street View photo in United States."],
    [
        "A Street View photo in Suva, Fiji.",
        "A Street View photo in Lyon, France.",
        "A Street View photo in Paris, France.",
        "A Street View photo in Paris, United States.",
    ],
]
COUNTRY_OF = [0, 1, 1, 2]  # of the cities, in the order of their paths
PEOPLE, PRIOR = np.array([1, 500_000, 2_000_000, 25_000]), 0.1


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPModel, Path]:
    folder = tmp_path_factory.mktemp("text_clip")
    return save_text_clip(folder, context=120), folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = [",".join(map(str, row)) for row in PLACES]
    (tmp_path / "names.csv").write_text("\n".join(["country,city,lat,lng,population", *lines]) + "\n")
    return tmp_path / "names.csv"


def photos(folder: Path, n: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(n)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BOX).save(
            path
        )
    return paths


@torch.no_grad()
def own_scores(clip: CLIPModel, folder: Path, paths: list[Path]) -> np.ndarray:
    """Log of the product of CLIP's own probabilities of the texts above a city, and of its people: (photos, cities)."""
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    seen = torch.nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
    levels = [
        (clip.logit_scale.exp() * seen @ own_text_vectors(clip, folder, texts).T).log_softmax(dim=-1) for texts in TEXTS
    ]
    return (levels[0][:, COUNTRY_OF] + levels[1]).double().numpy() + PRIOR * np.log(PEOPLE / PEOPLE.sum())


def query(*arguments: object) -> int:
    return main("search", "test", COMMANDS, argv=["query", *map(str, arguments), "--json", "--precision", "float32"])


def test_answers_are_what_the_models_own_halves_say(
    clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = clip
    config = replace(EXACT, prior_exponent=PRIOR)
    made = adopt_names(f"hf:{folder}", tmp_path / "W", registry=tmp_path / "R", names=table, config=config)
    assert (made.levels, made.texts.texts) == ({"country": 3, "city": 4}, 7)
    assert made.temperature == pytest.approx(torch.exp(-model.logit_scale).item())
    paths = photos(tmp_path, 24)
    own = own_scores(model, folder, paths)
    own -= np.log(np.exp(own).sum(axis=1, keepdims=True))
    assert query("--registry", tmp_path / "R", "--checkpoint", f"hf:{folder}", "--top-k", 4, *paths) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    keys = ["Fiji/Suva", "France/Lyon", "France/Paris", "United States/Paris"]
    best = own.argmax(axis=1)
    assert len(set(best)) > 1, "all photos look alike"
    for answer, row in zip(answers, own, strict=True):
        found = {each["key"]: each["probability"] for each in answer["top"]}
        np.testing.assert_allclose([found[key] for key in keys], np.exp(row), rtol=1e-3, atol=1e-6)
        _, _, lat, lng, _ = next(place for place in PLACES if answer["key"].endswith(f"{place[0]}/{place[1]}"))
        assert (answer["lat"], answer["lng"]) == (pytest.approx(lat, abs=1e-5), pytest.approx(lng, abs=1e-5))
        assert not answer["calibrated"]


def test_photos_with_places_calibrate_it(
    clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their table has no labels: each is of the place that is nearest to it."""
    name = f"hf:{clip[1]}"
    adopt_names(name, tmp_path / "W", registry=tmp_path / "R", names=table, config=EXACT)
    photos(tmp_path, 120)
    # Beside the places, some on the other side of the antimeridian or much nearer to one Paris than to the other.
    beside = [(48.7, 2.0), (45.0, 5.5), (30.0, -90.0), (-18.0, -179.5)]
    rows = [f"{tmp_path / f'{number}.png'},{beside[number % 4][0]},{beside[number % 4][1]}" for number in range(120)]
    (tmp_path / "truth.csv").write_text("\n".join(["photo,lat,lng", *rows]) + "\n")
    embed(tmp_path / "truth.csv", name, tmp_path / "F", config=EmbedConfig(precision="float32", workers=0))
    bundle = open_bundle(Registry(tmp_path / "R").resolve(None))
    queries = held_out(bundle, open_features(tmp_path / "F"), tmp_path / "truth.csv")
    keys = bundle.hierarchy.leaves.keys[queries.leaf]
    nearest = ["France/Paris", "France/Lyon", "United States/Paris", "Fiji/Suva"]
    assert [keys[list(queries.name).index(str(tmp_path / f"{number}.png"))] for number in range(4)] == nearest
    common = ["--registry", str(tmp_path / "R"), "--features", str(tmp_path / "F")]
    assert main("search", "test", COMMANDS, argv=["calibrate", *common, "--truth", str(tmp_path / "truth.csv")]) == 0
    assert query("--registry", tmp_path / "R", "--checkpoint", name, tmp_path / "3.png") == 0
    (answer,) = json.loads(capsys.readouterr().out.splitlines()[-1])["answers"]
    assert answer["calibrated"]
    assert answer["radius_90_km"] > 0
    text = [str(tmp_path / "3.png"), "--registry", str(tmp_path / "R"), "--checkpoint", name]
    assert main("search", "test", COMMANDS, argv=["query", *text]) == 0
    assert "at a place near" in capsys.readouterr().out


def test_photos_of_another_model_are_refused(
    clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adopt_names(f"hf:{clip[1]}", tmp_path / "W", registry=tmp_path / "R", names=table, config=EXACT)
    bundle = open_bundle(Registry(tmp_path / "R").resolve(None))
    assert bundle.encoder == load_encoder(f"hf:{clip[1]}").digest
    save_text_clip(tmp_path / "other", seed=1)
    other = ("--registry", tmp_path / "R", "--checkpoint", f"hf:{tmp_path / 'other'}")
    assert query(*other, *photos(tmp_path, 1)) != 0
    assert bundle.encoder[:8] in capsys.readouterr().err


def test_prior_and_temperature_are_as_they_are_given(clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path) -> None:
    config = NamesConfig(labels=EXACT.labels, precision="float32", temperature=0.5, prior_exponent=0.25)
    made = adopt_names(f"hf:{clip[1]}", tmp_path / "W", names=table, config=config)
    geocells = load_geocells(tmp_path / "W" / "checkpoint")
    assert made.built is None
    assert geocells.temperatures.tolist() == [0.5, 0.5]
    assert geocells.prior_exponent == 0.25
    assert load_hierarchy(tmp_path / "W" / "hierarchy").leaves.n_photos.tolist() == PEOPLE.tolist()
    table.write_text("country,city,lat,lng\nFiji,Suva,-18,178\nFiji,Nadi,-17.8,177.4\n")
    adopt_names(f"hf:{clip[1]}", tmp_path / "W2", names=table, config=EXACT)
    assert load_geocells(tmp_path / "W2" / "checkpoint").prior_exponent == 0
    with pytest.raises(InputError, match="`prior_exponent` needs a column population"):
        adopt_names(f"hf:{clip[1]}", tmp_path / "W3", names=table, config=config)


def test_what_was_cut_short_goes_on(
    clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.naming._SHARD", 3)
    own, calls = TextTower.vectors, []

    def vectors(self: TextTower, texts: list[str], *, batch_size: int) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 2:
            raise WorkError("ended here")
        return own(self, texts, batch_size=batch_size)

    monkeypatch.setattr(TextTower, "vectors", vectors)
    start = (f"hf:{clip[1]}", tmp_path / "W")
    with pytest.raises(WorkError):
        adopt_names(*start, registry=tmp_path / "R", names=table, config=EXACT)
    assert not (tmp_path / "R").exists()
    assert not (tmp_path / "W" / "checkpoint").exists()
    made = adopt_names(*start, registry=tmp_path / "R", names=table, config=EXACT)
    assert calls == [3, 3, 3, 1]
    assert made.texts.embedded_before == 3
    with pytest.raises(InputError, match="checkpoint: exists already"):
        adopt_names(*start, names=table, config=EXACT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="mine: exists already"):
        adopt_names(start[0], tmp_path / "mine", names=table, config=EXACT)


def test_a_folder_of_other_names_is_refused(clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path) -> None:
    adopt_names(f"hf:{clip[1]}", tmp_path / "W", names=table, config=EXACT)
    (tmp_path / "W" / "checkpoint").rename(tmp_path / "C")  # as if it had been cut short
    table.write_text(table.read_text().replace("2000000", "2000001"))
    with pytest.raises(InputError, match="other names or other numbers of people"):
        adopt_names(f"hf:{clip[1]}", tmp_path / "W", names=table, config=EXACT)


def test_nothing_is_written_where_something_is_wrong(clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path) -> None:
    good = table.read_text()
    for text, message in [
        (good.replace("45.76", "95.1"), "95.1"),
        (good.replace("45.76", ""), "row 1"),
        (good.replace("500000", "many"), "population must be whole numbers"),
        (good.replace("500000", "-5"), "population of row 1 is -5"),
        (good.replace("city", "town"), "no column 'city'"),
        (good.replace("France,Lyon", ",Lyon"), "'Lyon' stands in a row without country"),
        (good.replace("Lyon", "L" * 200), "reads 120"),
    ]:
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            adopt_names(f"hf:{clip[1]}", tmp_path / "W", registry=tmp_path / "R", names=table, config=EXACT)
        assert not (tmp_path / "W").exists(), message
        assert not (tmp_path / "R").exists(), message


def test_the_command_says_what_it_made_and_how_to_ask(
    clip: tuple[CLIPModel, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["adopt", "names", "--encoder", f"hf:{clip[1]}", "--names", str(table), "--labels", "country,city"]
    arguments = [*common, "--out", str(tmp_path / "W"), "--registry", str(tmp_path / "R"), "--batch-size", "2"]
    assert main("training", "test", ADOPTING, argv=arguments) == 0
    out = capsys.readouterr().out
    assert "cells 3 of country, 4 of city, from 7 texts" in out
    assert f"search query --registry {tmp_path / 'R'} --checkpoint hf:{clip[1]} photo.jpg" in out
    assert main("training", "test", ADOPTING, argv=[*common, "--out", str(tmp_path / "W2"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["cells"], data["version"], data["prior_exponent"]) == ({"country": 3, "city": 4}, None, 1)
    wrong = ["adopt", "names", "--encoder", "hf:nobody/nothing", "--out", str(tmp_path / "W3")]
    assert main("training", "test", ADOPTING, argv=wrong) == 2
    assert "hf:nobody/nothing" in capsys.readouterr().err
    assert not (tmp_path / "W3").exists()
