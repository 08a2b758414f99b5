"""Training end to end on a toy that can be learnt: it is learnt, repeatable, and refuses what cannot work."""

import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import indexer.__main__
from encoder.class_maps.class_map import NO_CLASS
from encoder.config import FusionConfig, FusionKind
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import load_encoder
from encoder.models.fusion import KINDS
from encoder.models.map_tokens import SegmentationTokens
from indexer.bundles.bundle import open_bundle
from indexer.bundles.gallery import FILES, open_gallery
from indexer.bundles.gallery_builds import write_gallery
from indexer.bundles.registry import Registry
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.cli import main
from indexer.disk.manifest import read_manifest
from indexer.earth.geo import haversine_km
from indexer.errors import ArtifactError, InputError, WorkError
from indexer.photos.sources import open_photos
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, load_geocells
from indexer.vectors.prototypes import Placement
from indexer.vectors.scoring import ScoringModel, log_product
from tests.conftest import save_s2_hierarchy
from tests.kills import ONE_THREAD, ROOT, kill_when
from tests.training.conftest import (
    EVERY_STEP,
    LEARN,
    SIZE,
    changed,
    check_alike,
    interrupted,
    losses,
    train,
    with_maps,
    written,
)
from training.config import (
    ModelConfig,
)
from training.fitting import FitSummary
from training.photos.holding_out import by_name
from training.runs.inputs import build_encoder
from training.runs.module import one_cycle


@pytest.fixture(scope="module")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> FitSummary:
    return train(toy, tmp_path_factory.mktemp("fit") / "C")


def test_what_can_be_learnt_is_learnt(trained: FitSummary) -> None:
    assert trained.epochs[-1].loss < trained.epochs[0].loss / 2
    assert trained.epochs[-1].validation.within["25"] > 90


@pytest.mark.parametrize("negatives", ["batch", "batch_distinct"])
def test_in_batch_negatives_learn_it_too(toy: Path, tmp_path: Path, negatives: str) -> None:
    summary = train(toy, tmp_path / "C", changed(loss={"negatives": negatives}))
    assert summary.epochs[-1].validation.within["25"] > 90


@pytest.fixture(scope="module")
def classified(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> FitSummary:
    """A classifier in place of geocells."""
    return train(toy, tmp_path_factory.mktemp("fit") / "C", changed(model={"head": "classes"}))


@pytest.mark.parametrize("head", ["geocells", "classes"])
def test_the_checkpoint_answers_as_training_said(head: str, toy: Path, request: pytest.FixtureRequest) -> None:
    """Saved, loaded, embedded and multiplied out in float64: the same errors as the last validation."""
    trained: FitSummary = request.getfixturevalue("trained" if head == "geocells" else "classified")
    encoder, geocells = load_encoder(str(trained.checkpoint)), load_geocells(trained.checkpoint)
    assert geocells.encoder == encoder.digest
    assert (geocells.biases is None) == (head == "geocells")
    assert trained.epochs[-1].validation.within["25"] > 90
    hierarchy = load_hierarchy(toy / "H")
    photos = open_photos(toy / "photos.parquet", split="validation")
    (batch,) = embed_photos(PhotoEncoder(encoder), photos)
    leaves = hierarchy.leaves
    best = log_product(ScoringModel(geocells, hierarchy.ancestors, leaves.n_photos), batch.embedding).argmax(axis=1)
    distance = haversine_km(batch.lat_deg, batch.lng_deg, leaves.lat_deg[best], leaves.lng_deg[best])
    assert np.median(distance) == pytest.approx(trained.epochs[-1].validation.median_km, rel=1e-6)


def test_temperatures_are_learnt_and_bounded(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    assert all(0.01 <= tau != pytest.approx(0.07, abs=1e-6) for tau in trained.temperatures)
    still = train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1}, optimizer={"geocell_lr": 0.0}))
    assert still.temperatures == pytest.approx([0.07, 0.07])


def test_the_same_seed_gives_the_same_weights(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    short = changed(trainer={"max_epochs": 1})
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(5)  # whatever happened before must not matter
        train(toy, tmp_path / name, replace(short, seed_everything=seed))
    first, second, other = ((tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in "abc")
    assert first == second
    assert first != other


@pytest.mark.parametrize("rank", [0, 1])
def test_the_process_is_left_as_it_was(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Its log and torch's generator, whether training ends well or in an error."""
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "training", "encoder")]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    before = torch.get_rng_state()
    if rank == 0:
        train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1}))
    with pytest.raises(InputError):
        train(toy, tmp_path / "D", changed(data={"batch_size": 1, "segmentation_cache": tmp_path / "none"}))
    assert torch.equal(torch.get_rng_state(), before)
    assert [logger.level for logger in loggers] == [logging.DEBUG] * 4
    assert logging.root.manager.disable == logging.NOTSET


def test_every_epoch_is_in_the_log(trained: FitSummary) -> None:
    lines = (trained.checkpoint / "training_log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(trained.epochs) == 7
    assert lines[0].startswith("epoch,loss,seconds,validation_median_km")
    assert lines[0].endswith("validation_loss,temperature_0,temperature_1,kept")
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["0"] * 5 + ["1"]
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

    monkeypatch.setattr("training.fitting.Reporter.on_train_batch_start", record, raising=False)
    scheduled = changed(trainer={"max_epochs": 3}, lr_scheduler={"name": schedule, "warm_up": 0.25})
    train(toy, tmp_path / "C", changed(scheduled, optimizer={"temperature_lr": 1e-3}))
    # Six batches an epoch; encoder (decaying or not), geocells, temperatures.
    steps, full = 18, [3e-3, 3e-3, 3e-2, 1e-3]
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
    still = changed(trainer={"max_epochs": 1}, optimizer={"lr": 0.0})
    still = replace(still, model=ModelConfig(start_from=start, trainable_blocks=trainable), seed_everything=1)
    train(toy, tmp_path / "same", still)
    train(toy, tmp_path / "other", changed(still, optimizer={"lr": 1e-3}))
    begun = load_encoder(start)
    same, other = (load_encoder(tmp_path / name / "checkpoint") for name in ("same", "other"))
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
    train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1}, lr_scheduler={"name": "halving"}))
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
    save_s2_hierarchy(
        np.full(40, 10.0), np.full(40, 10.0), rule=PartitionRule(tau_max=(100,), tau_min=5), out=tmp_path / "H"
    )
    (tmp_path / "photos.parquet").write_bytes((toy / "photos.parquet").read_bytes())
    with pytest.raises(InputError, match="single cell"):
        train(tmp_path, tmp_path / "C")


def test_a_loss_that_is_no_number_stops_with_the_batch_named(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"epoch \d+, batch \d+"):
        train(toy, tmp_path / "C", changed(optimizer={"lr": 1e30}))
    assert not (tmp_path / "C" / "checkpoint").exists()


def test_a_last_step_that_ruins_the_weights_is_noticed(toy: Path, tmp_path: Path) -> None:
    """One epoch of one batch: its loss is fine, and no later one would tell."""
    one = changed(trainer={"max_epochs": 1}, optimizer={"lr": 1e30}, data={"batch_size": 90})
    with pytest.raises(WorkError, match="no numbers in epoch 1"):
        train(toy, tmp_path / "C", one)
    assert not (tmp_path / "C" / "checkpoint").exists()


@pytest.mark.parametrize("warm_up", [0.0, 0.1, 1.0])
def test_few_steps_are_enough_for_every_warm_up(toy: Path, tmp_path: Path, warm_up: float) -> None:
    ten_steps = changed(trainer={"max_epochs": 1}, lr_scheduler={"warm_up": warm_up}, data={"batch_size": 9})
    train(toy, tmp_path / "C", ten_steps)


def test_an_interrupt_goes_through_and_the_run_can_go_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, leave_out: float) -> torch.Tensor:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("training.runs.module.augment", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(toy, tmp_path / "out" / "C", changed(trainer={"max_epochs": 1}))
    assert signal.getsignal(signal.SIGINT) == before
    assert not (tmp_path / "out" / "C" / "checkpoint").exists()
    assert train(toy, tmp_path / "out" / "C", changed(trainer={"max_epochs": 1})).checkpoint.is_dir()


def test_a_stream_learns_what_memory_learns(toy: Path, trained: FitSummary, tmp_path: Path) -> None:
    summary = train(toy, tmp_path / "C", changed(data={"stream": True, "shuffle_photos": 40}))
    assert summary.epochs[-1].validation.within["25"] > 90
    assert summary.train_photos == trained.train_photos


def test_a_streamed_run_goes_on_to_the_same_losses(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def kill(reporter: object, trainer: lightning.Trainer, *rest: object) -> None:
        if trainer.global_step >= 10:
            raise KilledError

    config = changed(EVERY_STEP, data={"stream": True, "shuffle_photos": 40})
    train(toy, tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        patch.setattr("training.fitting.Reporter.on_train_batch_end", kill)
        with pytest.raises(KilledError):
            train(toy, tmp_path / "C", config)
    train(toy, tmp_path / "C", config)
    assert losses(tmp_path / "C") == losses(tmp_path / "whole")
    check_alike(tmp_path / "C", tmp_path / "whole")


# 12 steps: before anything was kept, within an epoch, at its end, and after the last step.
@pytest.mark.parametrize(("parts", "step"), [*((1, step) for step in (1, 3, 6, 7, 11, 12)), (3, 1), (3, 7), (3, 12)])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    toy: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, parts: int
) -> None:
    class KilledError(BaseException):
        pass

    def kill(reporter: object, trainer: lightning.Trainer, *rest: object) -> None:
        if trainer.global_step >= step:
            raise KilledError

    config = changed(EVERY_STEP, trainer={"accumulate_grad_batches": parts})
    with monkeypatch.context() as patch:
        patch.setattr("training.fitting.Reporter.on_train_batch_end", kill)
        with pytest.raises(KilledError):
            train(toy, tmp_path / "C", config)
    assert not (tmp_path / "C" / "checkpoint").exists()
    again = train(toy, tmp_path / "C", config)
    assert [epoch.epoch for epoch in again.epochs] == [0, 1]
    assert not list((tmp_path / "C").glob("*.ckpt"))
    ours, expected = losses(tmp_path / "C"), losses(undisturbed)
    assert set(ours) == set(expected) == set(range(12))
    if parts == 1:
        assert ours == expected
        one, other = ((run / "checkpoint" / "model.safetensors").read_bytes() for run in (tmp_path / "C", undisturbed))
        assert one == other
    else:  # each logs the loss of its last part; the weights come out the same but for rounding
        check_alike(tmp_path / "C", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(toy: Path, tmp_path: Path) -> None:
    """SIGKILL at moments nobody chose, over a run of 180 steps that keeps every seventh."""
    config = changed(EVERY_STEP, trainer={"max_epochs": 30, "checkpoint_every_n_steps": 7})
    config = changed(config, data={"photos": str(toy / "photos.parquet")})
    train(toy, tmp_path / "whole", config)
    options = ("fit", "--config", written(toy, config, tmp_path / "config.yaml"), "--out", tmp_path / "C")
    command = [sys.executable, "-m", "training", *map(str, options)]
    rng, kills = np.random.default_rng(0), 0
    while not (tmp_path / "C" / "checkpoint").exists():
        begun = len(list((tmp_path / "C").glob("logs/*")))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT, env=ONE_THREAD)
        if kills < 5:
            first_step = tmp_path / "C" / "logs" / str(begun) / "metrics.csv"
            kills += kill_when(process, first_step.exists, delay_s=rng.uniform(0, 0.8))
        process.wait()
    assert kills == 5
    assert losses(tmp_path / "C") == losses(tmp_path / "whole")
    check_alike(tmp_path / "C", tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_encoder_learns_from_photos_and_maps(toy: Path, tmp_path: Path, kind: FusionKind) -> None:
    folder = with_maps(toy, tmp_path / "toy")
    fusion = FusionConfig(kind=kind, classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8)
    summary = train(folder, tmp_path / "C", changed(trainer={"max_epochs": 2}, model={"fusion": fusion}))
    assert summary.epochs[1].loss < summary.epochs[0].loss
    model = load_encoder(summary.checkpoint).model
    assert model.fusion_config == fusion
    assert model.fusion is not None
    assert all(linear.weight.any() for linear in model.fusion.added())  # zero before it learnt
    with pytest.raises(InputError, match="has a fusion already"):
        build_encoder(ModelConfig(start_from=str(summary.checkpoint), fusion=fusion), load_encoder(summary.checkpoint))


@pytest.mark.parametrize("stream", [False, True])
def test_an_encoder_learns_to_do_without_maps(
    toy: Path, tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a share of the maps is left out, and some photos have none to begin with."""
    folder = with_maps(toy, tmp_path / "toy")
    table = pyarrow.parquet.read_table(folder / "photos.parquet")
    maps = [None if row % 9 == 0 else f"map{row}.png" for row in range(table.num_rows)]
    column = table.column_names.index("map")
    pyarrow.parquet.write_table(table.set_column(column, "map", pa.array(maps)), folder / "photos.parquet")
    seen: list[torch.Tensor] = []
    read = SegmentationTokens.forward

    def watched(self: SegmentationTokens, class_maps: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append((class_maps == NO_CLASS).flatten(1).all(dim=1))
        return read(self, class_maps)

    monkeypatch.setattr(SegmentationTokens, "forward", watched)
    fusion = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=2, mlp_size=8, leave_out=0.3)
    config = changed(trainer={"max_epochs": 2}, model={"fusion": fusion}, data={"stream": stream})
    summary = train(folder, tmp_path / "C", config)
    assert summary.epochs[1].loss < summary.epochs[0].loss
    assert load_encoder(summary.checkpoint).model.fusion_config == fusion
    first, second = torch.cat(seen[:6]), torch.cat(seen[6:])
    assert (len(first), len(second)) == (90, 90)
    assert not torch.equal(first, second)  # other photos in each epoch
    assert torch.cat(seen).float().mean() == pytest.approx(0.38, abs=0.1)  # 10 of 90 have none, and 3 of 10 others
    seen.clear()
    train(folder, tmp_path / "D", config)
    assert torch.equal(torch.cat(seen), torch.cat([first, second]))
    # Photos with and without a map have a vector, and rows say which had one.
    encode = PhotoEncoder(load_encoder(summary.checkpoint))
    (batch,) = embed_photos(encode, open_photos(folder / "photos.parquet"))
    assert batch.ok.all()
    assert batch.class_map == [row % 9 != 0 for row in range(120)]
    (bare,) = embed_photos(encode, open_photos(toy / "photos.parquet"))
    assert bare.class_map == [False] * 120
    same = np.array(batch.class_map) == np.array(bare.class_map)
    np.testing.assert_allclose(batch.embedding[same], bare.embedding[same], atol=1e-5)
    assert (np.abs(batch.embedding - bare.embedding).max(axis=1) > 1e-5)[~same].mean() > 0.9


@pytest.mark.parametrize("stream", [False, True])
def test_maps_of_other_photos_teach_nothing_and_end_a_run(
    toy: Path, tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.photos.stream._GIVEN_UP_AFTER", 30)  # of a stream; what is kept is read whole
    folder = with_maps(toy, tmp_path / "toy")
    table = pyarrow.parquet.read_table(folder / "photos.parquet")
    column, none = table.column_names.index("map"), pa.nulls(table.num_rows, pa.string())
    pyarrow.parquet.write_table(table.set_column(column, "map", none), folder / "photos.parquet")
    fusion = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8, leave_out=0.3)
    config = changed(trainer={"max_epochs": 1}, model={"fusion": fusion}, data={"stream": stream})
    with pytest.raises(
        InputError, match=rf"of the first {30 if stream else 90} photos none has a class map.*leave out model\.fusion"
    ):
        train(folder, tmp_path / "C", config)


def test_a_fusion_that_is_there_may_learn_to_do_without_maps(toy: Path, tmp_path: Path) -> None:
    folder = with_maps(toy, tmp_path / "toy")
    fusion = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8, segmenter="a" * 64)
    first = train(folder, tmp_path / "C", changed(trainer={"max_epochs": 1}, model={"fusion": fusion}))
    start = ModelConfig(start_from=str(first.checkpoint), trainable_blocks="all")
    bolder = replace(start, fusion=replace(fusion, leave_out=0.5, segmenter=None))
    second = train(folder, tmp_path / "D", replace(changed(trainer={"max_epochs": 1}), model=bolder))
    assert load_encoder(second.checkpoint).model.fusion_config == replace(fusion, leave_out=0.5)
    again = build_encoder(replace(start, start_from=str(second.checkpoint)), load_encoder(second.checkpoint))
    assert again.fusion_config == replace(fusion, leave_out=0.5)  # unless it is told otherwise
    wrong = replace(start, fusion=replace(fusion, leave_out=0.5, width=12))
    with pytest.raises(
        InputError, match=r"has a fusion already\. Leave out model\.fusion; or give the kind and sizes it has"
    ):
        build_encoder(wrong, load_encoder(first.checkpoint))


@pytest.mark.parametrize("stream", [False, True])
def test_classes_of_maps_beyond_the_table_end_a_run(toy: Path, tmp_path: Path, stream: bool) -> None:
    """The toy's maps have classes 0 to 6. One unknown class says that the others mean something else, too."""
    folder = with_maps(toy, tmp_path / "toy")
    fusion = FusionConfig(classes=6, width=8, latent=4, heads=2, blocks=1, mlp_size=8)
    config = changed(trainer={"max_epochs": 1}, model={"fusion": fusion}, data={"stream": stream})
    with pytest.raises(
        InputError, match=r"class 6 in its map; the encoder knows 0 to 5\. Its maps are of other classes"
    ):
        train(folder, tmp_path / "C", config)
    assert not (tmp_path / "C" / "checkpoint").exists()


@pytest.mark.parametrize("stream", [False, True])
def test_photos_with_damaged_maps_are_left_out_and_counted(
    toy: Path, tmp_path: Path, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_maps(toy, tmp_path / "toy")
    fusion = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8)
    config = changed(trainer={"max_epochs": 1}, model={"fusion": fusion}, data={"stream": stream})
    for row in (3, 8, 95):
        (folder / f"map{row}.png").write_bytes(b"none")
    train(folder, tmp_path / "C", config)
    assert "2 of 90 photos of this pass could not be read and were left out (2 bad_map)" in caplog.text
    for row in range(120):
        (folder / f"map{row}.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"can be read.*bad_map"):
        train(folder, tmp_path / "D", config)
    assert not (tmp_path / "D" / "checkpoint").exists()


def test_the_gallery_has_the_vectors_that_embed_makes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a fused encoder, so that maps come along; without those held out; also where making it failed once."""
    folder = with_maps(toy, tmp_path / "toy")
    fusion = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8)
    config = replace(
        changed(trainer={"max_epochs": 1}, model={"fusion": fusion}), gallery_per_leaf=2, keep_duplicates=True
    )
    config = changed(config, data={"validation_share": 0.2})
    with monkeypatch.context() as patch:
        patch.setattr("training.fitting.write_gallery", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(folder, tmp_path / "C", config)
        assert not (tmp_path / "C" / "checkpoint").exists()
    summary = train(folder, tmp_path / "C", config)
    hierarchy, geocells = load_hierarchy(folder / "H"), load_geocells(summary.checkpoint)
    source = open_photos(folder / "photos.parquet", coordinates=True)
    (batch,) = embed_photos(PhotoEncoder(load_encoder(summary.checkpoint)), source)
    placed = Placement(hierarchy, chosen=by_name(0.2)[0]).place(batch, everywhere=True)
    (tmp_path / "G").mkdir()
    made = write_gallery(tmp_path / "G", [placed], geocells, hierarchy, config)
    assert summary.gallery == made.facts.photos > len(hierarchy.leaves)
    for name in FILES:
        assert (summary.checkpoint / name).read_bytes() == (tmp_path / "G" / name).read_bytes()
    # Bundles take it over.
    build = ("build", "--hierarchy", folder / "H", "--checkpoint", summary.checkpoint, "--registry", tmp_path / "R")
    assert main("indexer", "test", indexer.__main__.COMMANDS, argv=[str(word) for word in build]) == 0
    bundle = open_bundle(Registry(tmp_path / "R").resolve(None))
    assert bundle.gallery is not None
    chosen = bundle.gallery.facts
    assert chosen == replace(made.facts, similarity=chosen.similarity, lists=chosen.lists)
    assert bundle.gallery.facts.encoder == bundle.encoder == load_encoder(summary.checkpoint).digest


def test_a_run_has_a_gallery_unless_it_wants_none(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    assert trained.gallery > 0
    config = replace(changed(trainer={"max_epochs": 1}), gallery_per_leaf=0)
    summary = train(toy, tmp_path / "C", config)
    assert summary.gallery == 0
    assert not any((summary.checkpoint / name).exists() for name in FILES)
    with pytest.raises(InputError, match="`gallery_per_leaf` must be all, or at least 0"):
        replace(LEARN, gallery_per_leaf=-1)


def test_owners_come_from_the_table_and_names_that_repeat_end_no_run(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    owners = pa.array([f"owner {row % 3}" for row in range(table.num_rows)])
    shutil.copytree(toy, tmp_path / "toy")
    pyarrow.parquet.write_table(table.append_column("user", owners), tmp_path / "toy" / "photos.parquet")
    config = changed(trainer={"max_epochs": 1})
    summary = train(tmp_path / "toy", tmp_path / "C", replace(config, owner_column="user"))
    facts = read_manifest(summary.checkpoint, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION).facts
    n_leaves = len(load_hierarchy(toy / "H").leaves)
    gallery = open_gallery(summary.checkpoint, facts["gallery"], n_leaves=n_leaves, width=16)
    assert gallery is not None
    whose = dict(zip(table["photo"].to_pylist(), owners.to_pylist(), strict=True))
    rows = np.arange(len(gallery))
    found = gallery.owners(rows)
    assert found is not None
    assert found.tolist() == [whose[name] for name in gallery.names(rows)]
    with pytest.raises(InputError, match="no column 'nobody'"):
        train(tmp_path / "toy", tmp_path / "D", replace(config, owner_column="nobody"))
    pyarrow.parquet.write_table(pa.concat_tables([table, table.slice(0, 3)]), tmp_path / "toy" / "photos.parquet")
    again = train(tmp_path / "toy", tmp_path / "E", config)
    assert again.gallery > 0
    assert "photos are not in the gallery: others have their names" in caplog.text


def test_options_that_say_nothing_beside_an_existing_encoder_are_named(
    trained: FitSummary, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = ModelConfig(start_from=str(trained.checkpoint), layers=3, width=99)
    train(toy, tmp_path / "C", replace(changed(trainer={"max_epochs": 1}), model=start))
    assert f"{trained.checkpoint} has its own model.layers, width: what is given has no effect" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_fusion_without_any_maps_is_refused_before_a_photo_is_read(toy: Path, tmp_path: Path, stream: bool) -> None:
    config = changed(model={"fusion": FusionConfig(classes=7, heads=2)}, data={"stream": stream})
    with pytest.raises(InputError, match=r"none come with these\. Give data\.segmentation_cache"):
        train(toy, tmp_path / "C", config)


def with_validation_photos(toy: Path, folder: Path, n: int) -> Path:
    """The toy with as many validation photos."""
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    folder.mkdir()
    pyarrow.parquet.write_table(table.set_column(0, "photo", names)[: 90 + n], folder / "photos.parquet")
    shutil.copytree(toy / "H", folder / "H")
    return folder


@pytest.mark.parametrize(("n", "parts"), [(16, 1), (1, 1), (13, 3)])
def test_a_last_batch_of_one_validation_photo_is_validated(toy: Path, tmp_path: Path, n: int, parts: int) -> None:
    few = with_validation_photos(toy, tmp_path / "few", n)
    config = changed(trainer={"max_epochs": 1, "accumulate_grad_batches": parts})
    assert train(few, tmp_path / "C", config).epochs[0].validation.n == n


def test_a_damaged_file_to_go_on_with_is_named(toy: Path, tmp_path: Path) -> None:
    config = changed(trainer={"max_epochs": 1, "patience": 1})
    folder = interrupted(toy, tmp_path / "C", config)
    whole = (folder / "resume.ckpt").read_bytes()
    (folder / "resume.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"resume\.ckpt: damaged.*Remove resume\.ckpt and best\.ckpt"):
        train(toy, folder, config)
    (folder / "resume.ckpt").write_bytes(whole)
    (folder / "best.ckpt").unlink()
    with pytest.raises(ArtifactError, match=r"best\.ckpt: damaged or missing"):
        train(toy, folder, config)
    (folder / "resume.ckpt").unlink()
    assert train(toy, folder, config).checkpoint.is_dir()


def test_a_gpu_where_there_is_none_is_refused_by_its_own_option(toy: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"trainer\.accelerator is gpu, and torch finds none"):
        train(toy, tmp_path / "C", changed(trainer={"accelerator": "gpu"}))
