"""Places of photos from Python: the same as `query` prints, whatever a photo is given as, in any script."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from PIL import ExifTags, Image
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipVisionModel

from encoder.class_maps.class_map import encode_map
from encoder.config import EmbedConfig, FusionConfig, ReadOptions
from encoder.embedding import embed
from encoder.models.checkpoint import load_encoder, save_checkpoint
from indexer.bundles.build_config import BuildConfig
from indexer.bundles.builds import build
from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.errors import BundleMismatch, InputError
from indexer.photos.photo import FileRange
from indexer.vectors.geocells import load_geocells
from search.__main__ import COMMANDS
from search.answers.options import SearchOptions
from search.locate import Locator, given_photos
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH


def test_photos_of_one_place_have_one_answer(locator: Locator, world: Path) -> None:
    photos = [world / f"{row}.png" for row in (0, 3, 4)]  # the second is no image
    album = locator.locate_album(photos, k=2)
    assert (album.n_photos, album.ok, len(album.top)) == (2, True, 2)
    (alone,) = locator.locate(photos[0])
    assert replace(locator.locate_album(photos[:1]), photo=alone.photo) == alone
    assert not locator.locate_album(photos[1:2]).ok
    with pytest.raises(InputError, match="`k`"):
        locator.locate_album(photos, k=10_000)


@pytest.fixture(scope="module")
def locator(world: Path) -> Locator:
    return Locator.open(world / "R", checkpoint=world / "C", device="cpu")


def test_answers_are_what_query_prints(world: Path, locator: Locator, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [world / "0.png", world / "3.png", world / "1.png"]  # the second one is no image
    for k in (1, 3):
        arguments = ["query", "--registry", world / "R", "--checkpoint", world / "C", "--device", "cpu", "--json"]
        more = [*arguments, "--top-k", k, *photos]
        assert main("search", "test", COMMANDS, argv=[str(each) for each in more]) == 1
        printed = json.loads(capsys.readouterr().out)["answers"]
        answers = locator.locate(photos, k=k)
        assert json.loads(json.dumps([answer.to_dict() for answer in answers])) == printed
        assert [answer.ok for answer in answers] == [True, False, True]
        assert [len(answer.top) for answer in answers] == ([0, 0, 0] if k == 1 else [3, 0, 3])
    first, bad, _ = answers
    assert (first.lat_deg, first.lng_deg, first.key) == (printed[0]["lat"], printed[0]["lng"], printed[0]["token"])
    assert [step.level for step in first.path] == [0, 1, 2]
    assert (first.top[0].key, first.top[0].probability) == (first.key, first.probability)
    assert bad.status == "not_an_image"
    assert bad.reason
    unknown = {each.name for each in fields(bad)} - {"row", "photo", "status", "reason"}
    assert {getattr(bad, name) for name in unknown} == {None, ()}


def test_one_photo_has_a_list_with_one_answer_and_none_has_none(world: Path, locator: Locator) -> None:
    (answer,) = locator.locate(world / "0.png")
    assert answer == locator.locate([str(world / "0.png")])[0]
    assert (answer.row, answer.photo, answer.n_photos) == (0, str(world / "0.png"), 1)
    assert locator.locate([]) == []
    assert locator.locate_vectors(np.empty((0, WIDTH))) == []


def test_a_published_model_of_another_kind_makes_vectors_a_bundle_and_answers(tmp_path: Path) -> None:
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for number in range(60):  # of three colours, each of a place, which the names say
        place, colour = number % 3, np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220)])[number % 3]
        pixels = np.clip(colour + rng.normal(0, 25, (50, 40, 3)), 0, 255).astype(np.uint8)
        name = f"@{5e5 + 10 * number}@{1e6 * (place + 1)}@{20 + place}@N@@@{number}@.jpg"
        Image.fromarray(pixels).save(photos / name)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(vision_config=sizes | {"image_size": 32, "patch_size": 8}, text_config=sizes)
    SiglipVisionModel(config.vision_config).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "siglip")

    encoder = f"hf:{tmp_path / 'siglip'}"
    options = EmbedConfig(crops="ten", workers=0, device="cpu", precision="float32")
    summary = embed(photos, encoder, tmp_path / "F", config=options)
    assert (summary.ok, summary.encoder) == (60, load_encoder(encoder).digest)
    names = tmp_path / "names.csv"
    names.write_text("\n".join(["photo", *sorted(path.name for path in photos.iterdir())]) + "\n")
    build(tmp_path / "R", photos=names, features=tmp_path / "F", config=BuildConfig(tau_max=(25,), tau_min=1))
    locator = Locator.open(tmp_path / "R", checkpoint=encoder, device="cpu", precision="float32", crops="ten")
    queries = sorted(photos.iterdir())[::7]
    for path, answer in zip(queries, locator.locate(queries), strict=True):
        place = int(path.name.split("@")[3]) - 20
        assert answer.lat_deg == pytest.approx(9.04 * (place + 1), abs=0.2)
        assert answer.lng_deg == pytest.approx(6 * (place + 20) - 183, abs=0.1)


def as_bytes(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.parametrize("given", [str, as_bytes, Image.open], ids=["text", "bytes", "image"])
def test_a_photo_is_the_same_however_it_is_given(world: Path, locator: Locator, given: Callable[[Path], str]) -> None:
    paths = [world / "0.png", world / "1.png"]
    turned = Image.open(paths[0])
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    turned.save(world / "turned.png", exif=tags)
    paths.append(world / "turned.png")
    known = locator.locate(paths, k=2)
    again = locator.locate([given(path) for path in paths], k=2)
    assert known[0].key != known[2].key or known[0].score != known[2].score
    for number, (one, other) in enumerate(zip(known, again, strict=True)):
        assert other.photo == (str(paths[number]) if given is str else str(number))
        assert replace(other, photo=one.photo) == one


def test_what_is_wrong_with_a_photo_in_memory_ends_nothing(world: Path, locator: Locator) -> None:
    whole = io.BytesIO()
    Image.effect_noise((60, 60), 80).save(whole, "JPEG")
    cut = Image.open(io.BytesIO(whole.getvalue()[: len(whole.getvalue()) // 2]))
    answers = locator.locate([b"", b"no image", cut, (world / "0.png").read_bytes(), "absent.jpg", ""])
    assert [answer.status for answer in answers] == ["empty", "not_an_image", "damaged", "ok", "missing", "missing"]
    assert answers[5].reason == "no photo is named here"
    narrow = Locator(locator.engine, locator.encode, read=ReadOptions(max_pixels=100))
    answers = narrow.locate([world / "0.png", Image.open(world / "0.png")])
    assert [answer.status for answer in answers] == ["too_large", "too_large"]


def test_claims_are_checked_however_the_locator_searches(checkable: Path) -> None:
    photos = [checkable / "0.png", checkable / "3.png"]
    found = []
    for options in (SearchOptions(), SearchOptions(mode="beam", probes=1, point="medoid")):
        locator = Locator.open(checkable / "Q", checkpoint=checkable / "C", device="cpu", options=options)
        found.append(locator.check(photos, "10,20", within_km=100))
    assert found[0] == found[1]
    assert [each.ok for each in found[0]] == [True, False]
    assert Locator.open(checkable / "Q", checkpoint=checkable / "C", device="cpu").check([], "Lyon") == []
    region = SearchOptions(region="-80,-170,80,170")
    held = Locator.open(checkable / "Q", checkpoint=checkable / "C", device="cpu", options=region)
    with pytest.raises(InputError, match="leave out `region`"):
        held.check(photos, "10,20")
    with pytest.raises(InputError, match="without a checkpoint"):
        Locator.open(checkable / "Q").check(photos, "10,20")


def test_photos_have_a_map_each_or_none() -> None:
    given = given_photos(["a.jpg", "b.jpg"], ["a.png", "b.png"])
    assert [photo.class_map for photo in given] == [FileRange("a.png"), FileRange("b.png")]
    with pytest.raises(InputError, match="1 class maps for 2 photos"):
        given_photos(["a.jpg", "b.jpg"], ["a.png"])
    for several in (pd.Series(["a.png", "b.png"]), np.array(["a.png", "b.png"]), iter([Path("a.png"), Path("b.png")])):
        assert given_photos(np.array(["a.jpg", "b.jpg"]), several) == given
    values = np.zeros((2, 4, 5), np.uint8)
    stacked = given_photos(["a.jpg", "b.jpg"], values)
    assert [np.shape(photo.class_map) for photo in stacked] == [(4, 5)] * 2  # type: ignore[arg-type]
    assert given_photos("a.jpg", values[0])[0].class_map is not None
    assert given_photos(np.array([Path("a.jpg")]), np.array([None]))[0].class_map is None


def fused_world(world: Path, hierarchy: Hierarchy, hierarchy_folder: Path, home: Path, *, leave_out: float) -> Locator:
    """A checkpoint with semantic fusion and a registry made from it, opened. leave_out: what it is said to have had."""
    encoder = load_encoder(str(world / "C")).model
    encoder.add_fusion(FusionConfig(classes=5, width=12, latent=6, heads=4, blocks=2, mlp_size=24, leave_out=leave_out))
    assert encoder.fusion is not None
    torch.manual_seed(0)
    for weight in encoder.fusion.parameters():  # a new fusion passes photos on as they are
        weight.data += 0.1 * torch.randn_like(weight)
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    save_checkpoint(home / "C", encoder=encoder, geocells=geocells, config={}, inputs={})
    registry = Registry(home / "R")
    loaded = load_geocells(home / "C")
    built = build_bundle(hierarchy_folder, loaded, registry.versions_folder, config={}, inputs={})
    registry.publish(built.name)
    return Locator.open(home / "R", checkpoint=str(home / "C"), device="cpu", precision="float32")


def test_an_encoder_that_learned_to_do_without_maps_answers_any_photo(
    world: Path, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locator = fused_world(world, hierarchy, hierarchy_folder, tmp_path, leave_out=0.3)
    values = np.random.default_rng(0).integers(0, 5, (40, 50), np.uint8)
    photo = world / "0.png"
    answers = locator.locate([photo] * 4, class_maps=[values, None, b"no map", np.full_like(values, 255)])
    assert [answer.status for answer in answers] == ["ok", "ok", "bad_map", "ok"]
    assert [answer.class_map for answer in answers] == [True, False, None, True]
    with_map, alone, _, nothing = answers
    assert alone.score != with_map.score
    assert alone.score == pytest.approx(nothing.score, abs=1e-5)  # a map that names nothing is as none
    assert locator.locate(photo)[0].key == alone.key
    # So does the command, and a job; both say it.
    own = ["--registry", tmp_path / "R", "--checkpoint", tmp_path / "C", "--device", "cpu", "--precision", "float32"]
    assert main("search", "test", COMMANDS, argv=["query", *map(str, own), str(photo)]) == 0
    assert "no class map: answered from the photo alone" in capsys.readouterr().out
    (tmp_path / "photos.csv").write_text(f"photo,map\n{photo},{tmp_path / 'map.png'}\n{photo},\n{world / '3.png'},\n")
    (tmp_path / "map.png").write_bytes(encode_map(values))
    job = ["run", *own, "--photos", tmp_path / "photos.csv", "--out", tmp_path / "O", "--workers", 0]
    assert main("search", "test", COMMANDS, argv=[str(word) for word in job]) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "O").to_pylist()
    assert [(row["status"], row["class_map"]) for row in rows] == [("ok", True), ("ok", False), ("not_an_image", None)]
    assert [row["key"] for row in rows] == [with_map.key, alone.key, None]
    capsys.readouterr()
    for name, said in (("0.png", 1), ("3.png", 0)):  # of the two rows of the first photo, one
        assert main("search", "test", COMMANDS, argv=["show", str(tmp_path / "O"), "--photo", name]) == 0
        assert capsys.readouterr().out.count("no class map") == said


def test_an_encoder_that_needs_maps_says_what_to_do_without(
    world: Path, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locator = fused_world(world, hierarchy, hierarchy_folder, tmp_path, leave_out=0.0)
    (answer,) = locator.locate(world / "0.png")
    assert (answer.status, answer.class_map) == ("no_map", None)
    assert "`model.fusion.leave_out`" in answer.reason
    own = ["--registry", tmp_path / "R", "--checkpoint", tmp_path / "C", "--device", "cpu"]
    job = ["run", *own, "--photos", world / "photos.csv", "--out", tmp_path / "O"]
    assert main("search", "test", COMMANDS, argv=[str(word) for word in job]) == 2
    assert "model.fusion.leave_out" in capsys.readouterr().err


def test_class_maps_come_in_every_form(
    world: Path, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    locator = fused_world(world, hierarchy, hierarchy_folder, tmp_path, leave_out=0.0)
    values = np.random.default_rng(0).integers(0, 5, (40, 50), np.uint8)
    (tmp_path / "map.png").write_bytes(encode_map(values))
    photo = world / "0.png"
    forms = [tmp_path / "map.png", str(tmp_path / "map.png"), encode_map(values), values, Image.fromarray(values)]
    known, *others = (locator.locate(photo, class_maps=class_map)[0] for class_map in forms)
    assert known.ok
    assert all(other == known for other in others)
    assert locator.locate(photo, class_maps=np.zeros_like(values))[0].score != known.score
    caplog.clear()
    answers = locator.locate([photo] * 4, class_maps=[values, None, values.astype(float), values[:10]])
    assert not caplog.records, "answers say it"
    assert "or the map itself (`class_maps`" in (answers[1].reason or "")
    assert [answer.status for answer in answers] == ["ok", "no_map", "bad_map", "map_size"]
    with pytest.raises(InputError, match="1 class maps for 2 photos"):
        locator.locate([photo, photo], class_maps=[values])


def test_vectors_are_located_without_a_checkpoint_and_photos_are_not(world: Path, locator: Locator) -> None:
    alone = Locator.open(str(world / "R"))
    batch = locator.embed(given_photos([world / "0.png", world / "1.png"]))
    answers = alone.locate_vectors(batch.embedding, k=2)
    known = locator.locate([world / "0.png", world / "1.png"], k=2)
    assert [answer.photo for answer in answers] == ["0", "1"]
    assert [replace(answer, photo=one.photo) for answer, one in zip(answers, known, strict=True)] == known
    assert alone.locate_vectors(batch.embedding[1]) == [
        replace(alone.locate_vectors(batch.embedding)[1], row=0, photo="0")
    ]
    with pytest.raises(InputError, match=r"without a checkpoint.*`checkpoint` to `Locator\.open`"):
        alone.locate(world / "0.png")
    with pytest.raises(InputError, match="another encoder"):
        alone.locate_vectors(np.zeros((1, WIDTH + 1)))
    with pytest.raises(InputError, match="go with `checkpoint`"):
        Locator.open(world / "R", segmenter="S")


def test_what_is_no_photo_vector_is_refused_with_its_row(locator: Locator) -> None:
    vectors = unit_rows(4, WIDTH, seed=3)
    means = 0.4 * vectors  # of crops that differ much
    assert [answer.ok for answer in locator.locate_vectors(np.concatenate([vectors * 1.0005, means]))] == [True] * 8
    for factor, norm in ((0.0, "0"), (1.01, "1.01"), (2, "2"), (1e38, "1e[+]38")):
        changed = vectors.astype(np.float64)
        changed[2:] *= factor
        with pytest.raises(InputError, match=f"2 vectors are no photo's, the first in row 2, of norm {norm}"):
            locator.locate_vectors(changed)
    with pytest.raises(InputError, match="not finite, the first in row 1"):
        locator.locate_vectors(np.where(np.arange(4)[:, None] == 1, np.inf, vectors))
    for wrong in ("abc", [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match="`vectors` must be an array of numbers"):
            locator.locate_vectors(wrong)  # type: ignore[arg-type]
    for wrong in (np.float32(1), unit_rows(8, WIDTH, seed=0).reshape(2, 4, WIDTH), None, []):
        with pytest.raises(InputError, match="this bundle takes"):
            locator.locate_vectors(wrong)  # type: ignore[arg-type]


def test_k_may_be_a_number_of_numpy(world: Path, locator: Locator) -> None:
    vectors = unit_rows(2, WIDTH, seed=3)
    assert locator.locate_vectors(vectors, k=np.int64(2)) == locator.locate_vectors(vectors, k=2)  # type: ignore[arg-type]
    capped = Locator.open(world / "R", options=SearchOptions(precision_cap=3000.0))
    assert capped.locate_vectors(vectors, k=np.int64(2)) == capped.locate_vectors(vectors, k=2)  # type: ignore[arg-type]


def test_many_vectors_are_answered_some_at_a_time(locator: Locator, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_rows(50, WIDTH, seed=5)
    known = locator.locate_vectors(vectors, k=2)
    monkeypatch.setattr("search.retrieval.found.LISTED", 7 * locator.engine.n_leaves)
    again = locator.locate_vectors(vectors, k=2)
    assert [answer.key for answer in again] == [answer.key for answer in known]
    assert [answer.row for answer in again] == list(range(50))


def test_wrong_usage_is_an_error_that_says_what_to_give(world: Path, locator: Locator, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Photo 1 is of type int"):
        locator.locate([world / "0.png", 7])  # type: ignore[list-item]
    with pytest.raises(InputError, match="Class map 0 is of type int"):
        locator.locate(world / "0.png", class_maps=[7])  # type: ignore[list-item]
    for wrong in (None, 7, np.array(7), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(
            InputError, match=r"Photo 0 is of type .*\. Give a path or a URI, the bytes of a file, or a"
        ):
            locator.locate(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Class map 0 is of type int\. Give a path .* or None\."):
        locator.locate(world / "0.png", class_maps=7)  # type: ignore[arg-type]
    for k in (0, 10**6, 2.5, "2", None):
        with pytest.raises(InputError, match=f"`k` must be a whole number from 1 to .*, not {k}"):
            locator.locate(world / "0.png", k=k)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="`k` must be a whole number"):
            locator.locate_vectors(unit_rows(1, WIDTH, seed=0), k=k)  # type: ignore[arg-type]
    for name in ("crops", "device", "precision"):
        with pytest.raises(InputError, match=f"`{name}` must be .* not 'foo'"):
            Locator.open(world / "R", **{name: "foo"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a registry"):
        Locator.open(tmp_path / "absent")
    encoder = load_encoder(str(world / "C")).model
    with torch.no_grad():
        encoder.projection.weight += 0.1
    save_checkpoint(
        tmp_path / "C",
        encoder=encoder,
        geocells=random_geocells(Locator.open(world / "R").engine.bundle.hierarchy, WIDTH, seed=0),
        config={},
        inputs={},
    )
    with pytest.raises(BundleMismatch, match="Use that encoder"):
        Locator.open(world / "R", checkpoint=tmp_path / "C")


def test_options_reach_the_search(world: Path) -> None:
    vectors = unit_rows(1, WIDTH, seed=3)
    (answer,) = Locator.open(world / "R", options=SearchOptions(mode="beam", probes=1)).locate_vectors(vectors)
    assert (answer.mode, answer.probability_over) == ("beam", "visited leaves")
    capped = Locator.open(world / "R", options=SearchOptions(precision_cap=3000.0))
    (answer,) = capped.locate_vectors(vectors, k=2)
    assert capped.engine.coarse is not None
    assert {answer.key, *(place.key for place in answer.top)} <= set(capped.engine.coarse.keys.tolist())


def test_a_plain_script_needs_no_guard(world: Path, tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import sys\n"
        "from search import Locator\n"
        "locator = Locator.open(sys.argv[1] + '/R', checkpoint=sys.argv[1] + '/C')\n"
        "answers = locator.locate([f'{sys.argv[1]}/{n % 3}.png' for n in range(30)])\n"  # more than are thought few
        "print(*(answer.key for answer in answers))\n"
    )
    done = subprocess.run([sys.executable, script, world], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == 30  # once: nothing ran the script again
