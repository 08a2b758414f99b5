"""Training end to end on a toy that can be learnt: it is learnt, repeatable, and refuses what cannot work."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.checkpoint import load_encoder
from encoder.config import FusionConfig
from encoder.embed import EmbedConfig, embed_photos
from encoder.encode import PhotoEncoder
from indexer.cells import load_hierarchy
from indexer.errors import InputError, WorkError
from indexer.geo import haversine_km
from indexer.geocells import load_geocells
from indexer.photos import open_photos
from indexer.rule import PartitionRule
from indexer.scoring import ScoringModel, log_product
from tests.conftest import save_s2_hierarchy
from tests.training.conftest import SIZE, with_maps
from training.config import Augmentation, DataConfig, ModelConfig, OptimisationConfig
from training.fit import FitSummary, build_encoder, fit
from training.module import one_cycle

MODEL = ModelConfig(image_size=SIZE, patch_size=8, hidden_size=32, layers=2, heads=2, mlp_size=64, width=16)
LEARN = OptimisationConfig(
    epochs=6, learning_rate=3e-3, geocell_learning_rate=3e-2, schedule="one_cycle", negatives="all"
)


def train(
    toy: Path, out: Path, *, optimisation: OptimisationConfig = LEARN, seed: int = 0, **data: object
) -> FitSummary:
    options = {"batch_size": 15, "augmentation": Augmentation(brightness=0.05)} | data
    return fit(
        hierarchy=toy / "H",
        out=out,
        data=DataConfig(photos=toy / "photos.parquet", **options),
        model=MODEL,
        optimisation=optimisation,
        seed=seed,
        device="cpu",
    )


@pytest.fixture(scope="module")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> FitSummary:
    return train(toy, tmp_path_factory.mktemp("fit") / "C")


def test_what_can_be_learnt_is_learnt(trained: FitSummary) -> None:
    assert trained.epochs[-1].loss < trained.epochs[0].loss / 2
    assert trained.epochs[-1].validation.within["25"] > 90


@pytest.mark.parametrize("negatives", ["batch", "batch_distinct"])
def test_in_batch_negatives_learn_it_too(toy: Path, tmp_path: Path, negatives: str) -> None:
    summary = train(toy, tmp_path / "C", optimisation=replace(LEARN, negatives=negatives))
    assert summary.epochs[-1].validation.within["25"] > 90


def test_the_checkpoint_answers_as_training_said(trained: FitSummary, toy: Path) -> None:
    """Saved, loaded, embedded and multiplied out in float64: the same errors as the last validation."""
    encoder, geocells = load_encoder(str(trained.checkpoint)), load_geocells(trained.checkpoint)
    assert geocells.encoder == encoder.digest
    tree = load_hierarchy(toy / "H")
    photos = open_photos(toy / "photos.parquet", split="validation")
    (batch,) = embed_photos(PhotoEncoder(encoder), photos, config=EmbedConfig())
    best = log_product(ScoringModel(geocells, tree.ancestors, tree.leaves.n_photos), batch.embedding).argmax(axis=1)
    leaves = tree.leaves
    distance = haversine_km(batch.lat_deg, batch.lng_deg, leaves.lat_deg[best], leaves.lng_deg[best])
    assert np.median(distance) == pytest.approx(trained.epochs[-1].validation.median_km, rel=1e-6)


def test_temperatures_are_learnt_and_bounded(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    assert all(0.01 <= tau != pytest.approx(0.07, abs=1e-6) for tau in trained.temperatures)
    still = train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=1, geocell_learning_rate=0.0))
    assert still.temperatures == pytest.approx([0.07, 0.07])


def test_the_same_seed_gives_the_same_weights(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    short = replace(LEARN, epochs=1)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(5)  # whatever happened before must not matter
        train(toy, tmp_path / name, optimisation=short, seed=seed)
    first, second, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_every_epoch_is_in_the_log(trained: FitSummary) -> None:
    lines = (trained.checkpoint / "training_log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(trained.epochs) == 7
    assert lines[0].startswith("epoch,loss,seconds,validation_median_km")
    assert lines[0].endswith("validation_loss,temperature_0,temperature_1")
    assert [line.split(",")[0] for line in lines[1:]] == list("123456")
    assert trained.epochs[-1].validation_loss < trained.epochs[0].validation_loss
    assert trained.epochs[-1].temperatures == pytest.approx(trained.temperatures)


@pytest.mark.parametrize("schedule", ["halving", "one_cycle"])
def test_the_rates_of_every_step_are_those_of_the_schedule(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    rates = []

    def record(reporter: object, trainer: lightning.Trainer, *rest: object) -> None:
        rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    monkeypatch.setattr("training.fit._Reporter.on_train_batch_start", record, raising=False)
    train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=3, schedule=schedule, warm_up=0.25))
    steps, full = 18, [3e-3, 3e-3, 3e-2]  # six batches an epoch; encoder (decaying or not), geocells
    shares = [0.5 ** (step // 6) if schedule == "halving" else one_cycle(step, steps, 0.25) for step in range(steps)]
    np.testing.assert_allclose(rates, np.outer(shares, full), rtol=1e-9)


@pytest.mark.parametrize(("kind", "trainable"), [("checkpoint", "all"), ("plain CLIP", None), ("plain CLIP", 0)])
def test_training_goes_on_from_an_encoder(
    trained: FitSummary, toy: Path, tmp_path: Path, kind: str, trainable: int | Literal["all"] | None
) -> None:
    """All blocks learn where it is asked for; of a published model one by default, as in the paper."""
    start = str(trained.checkpoint)
    if kind == "plain CLIP":
        start = f"hf:{plain_clip(tmp_path / 'clip')}"
    still = replace(LEARN, epochs=1, learning_rate=0.0)
    config = DataConfig(photos=toy / "photos.parquet", batch_size=15)
    options = {
        "hierarchy": toy / "H",
        "data": config,
        "model": ModelConfig(start_from=start, trainable_blocks=trainable),
        "device": "cpu",
    }
    fit(out=tmp_path / "same", optimisation=still, seed=1, **options)
    fit(out=tmp_path / "other", optimisation=replace(still, learning_rate=1e-3), seed=1, **options)
    begun = load_encoder(start)
    same, other = (load_encoder(tmp_path / name) for name in ("same", "other"))
    assert same.preprocessing == begun.preprocessing
    for name, weight in begun.model.state_dict().items():
        assert torch.equal(weight, same.model.state_dict()[name]), name
        if not name.endswith("k_proj.bias"):  # adds the same to every logit of a softmax, so nothing pulls at it
            learnt = kind == "checkpoint" or name.startswith(("vision.post_", "projection."))
            learnt |= trainable is None and name.startswith("vision.encoder.layers.1.")
            assert torch.equal(weight, other.model.state_dict()[name]) != learnt, name


def plain_clip(folder: Path) -> Path:
    torch.manual_seed(1)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text | {"vocab_size": 99}, vision_config=vision | {"image_size": SIZE, "patch_size": 8}
    )
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor.save_pretrained(folder)
    return folder


def test_nothing_strays_into_the_working_folder(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=1, schedule="halving"))
    assert list((tmp_path / "cwd").iterdir()) == []


def test_an_existing_out_is_refused_before_anything_is_read(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "x").write_text("")
    with pytest.raises(InputError, match="exists already"):
        train(tmp_path / "no such toy", tmp_path / "C")


def test_an_out_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file, not a folder"):
        train(tmp_path / "no such toy", tmp_path / "file" / "C")


def test_a_level_with_one_cell_is_refused(toy: Path, tmp_path: Path) -> None:
    save_s2_hierarchy(np.full(40, 10.0), np.full(40, 10.0), rule=PartitionRule((100,), 5), out=tmp_path / "H")
    (tmp_path / "photos.parquet").write_bytes((toy / "photos.parquet").read_bytes())
    with pytest.raises(InputError, match="single cell"):
        train(tmp_path, tmp_path / "C")


def test_a_loss_that_is_no_number_stops_with_the_batch_named(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"epoch \d+, batch \d+"):
        train(toy, tmp_path / "C", optimisation=replace(LEARN, learning_rate=1e30))
    assert not (tmp_path / "C").exists()


def test_a_last_step_that_ruins_the_weights_is_noticed(toy: Path, tmp_path: Path) -> None:
    """One epoch of one batch: its loss is fine, and no later one would tell."""
    with pytest.raises(WorkError, match="no numbers in epoch 1"):
        train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=1, learning_rate=1e30), batch_size=90)
    assert not (tmp_path / "C").exists()


@pytest.mark.parametrize("warm_up", [0.0, 0.1, 1.0])
def test_few_steps_are_enough_for_every_warm_up(toy: Path, tmp_path: Path, warm_up: float) -> None:
    train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=1, warm_up=warm_up), batch_size=9)  # ten steps


def test_an_interrupt_goes_through_and_leaves_nothing(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.module.augment", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(toy, tmp_path / "out" / "C")
    assert signal.getsignal(signal.SIGINT) == before
    assert list(tmp_path.iterdir()) == []


def test_photos_elsewhere_than_the_hierarchy_are_refused(toy: Path, tmp_path: Path) -> None:
    rule = PartitionRule((40,), 5)
    save_s2_hierarchy(np.repeat([70.0, -70.0], 30), np.repeat([100.0, 100.0], 30), rule=rule, out=tmp_path / "H")
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "photo", names), tmp_path / "photos.parquet")
    with pytest.raises(InputError, match="no training photo lies in a cell"):
        train(tmp_path, tmp_path / "C")


def test_photos_that_do_not_fit_in_memory_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="memory_limit_gb"):
        train(toy, tmp_path / "C", memory_limit_gb=1e-6)


def test_a_fused_encoder_learns_from_photos_and_maps(toy: Path, tmp_path: Path) -> None:
    folder = with_maps(toy, tmp_path / "toy")
    fusion = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8)
    summary = fit(
        hierarchy=folder / "H",
        out=tmp_path / "C",
        data=DataConfig(photos=folder / "photos.parquet", batch_size=15),
        model=replace(MODEL, fusion=fusion),
        optimisation=replace(LEARN, epochs=2),
        seed=0,
        device="cpu",
    )
    assert summary.epochs[1].loss < summary.epochs[0].loss
    model = load_encoder(summary.checkpoint).model
    assert model.fusion_config == fusion
    assert model.fusion is not None
    assert model.fusion.blocks[0].attention.out.weight.any()  # zero before it learnt
    with pytest.raises(InputError, match="has a fusion already"):
        build_encoder(ModelConfig(start_from=str(summary.checkpoint), fusion=fusion), load_encoder(summary.checkpoint))
