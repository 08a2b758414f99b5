"""The module under training: its validation, shares of a batch, groups of weights and rates, against references."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from encoder.models.model import GeoEncoder, GeoEncoderConfig
from encoder.photos.crops import normalise
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import accuracy, haversine_km
from indexer.vectors.scoring import ScoringModel, log_product
from tests.training.conftest import head_of
from training.cells.heads import GeocellHead
from training.cells.losses import hierarchy_loss
from training.config import Augmentation, DataConfig, FitConfig, Negatives, OptimizerConfig
from training.photos.batches import Share, Truth
from training.photos.run_photos import PhotoSet
from training.runs.module import Epoch, GeoModule, TrainingLoader, one_cycle

WIDTH = 24
N = 50
VISION = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


EPOCH = Epoch(0, 2.5, 10.0, [0.07, 0.05], 2.0, accuracy(np.array([1.0, 30.0, 800.0])))
CONFIG = FitConfig(data=DataConfig("photos.parquet"), optimizer=OptimizerConfig(weight_decay=0.5))


@pytest.fixture
def photos(hierarchy: Hierarchy) -> PhotoSet:
    rng = np.random.default_rng(0)
    lat, lng = np.degrees(np.arcsin(rng.uniform(-1, 1, N))), rng.uniform(-180, 180, N)
    pixels = torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return PhotoSet(pixels, None, torch.from_numpy(hierarchy.locate(lat, lng)), lat, lng)


@pytest.fixture
def module(hierarchy: Hierarchy) -> GeoModule:
    torch.manual_seed(0)
    encoder = GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH))
    result = GeoModule(encoder, GeocellHead(hierarchy, WIDTH, negatives="all", seed=0), config=CONFIG)
    result.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer to log to
    with torch.no_grad():  # levels that weigh differently, as after training
        result.head.log_temperatures.copy_(torch.linspace(0.03, 0.12, len(hierarchy.levels)).log())
    return result


def validated(module: GeoModule, photos: PhotoSet, shares: list[Share], batch_size: int) -> Epoch:
    """One validation by several processes, of which this one plays each."""
    gathered = []
    with torch.no_grad():
        module.on_validation_epoch_start()
        for share in shares:
            module._answers = []
            for number, part in enumerate(photos.validation_parts(batch_size, share)):
                module.validation_step(part, number)
            gathered.append(module._answers)
        module._everyones = lambda mine: gathered if isinstance(mine, list) else [mine]  # type: ignore[assignment, return-value]
        module.on_validation_epoch_end()
    return module.epochs[-1]


@pytest.mark.parametrize("negatives", get_args(Negatives))
@pytest.mark.parametrize(("processes", "batch_size"), [(1, N), (1, 16), (1, 7), (3, 16), (49, 1)])
def test_validation_is_the_reference_accuracy_and_the_full_softmax_of_all_photos(
    module: GeoModule, hierarchy: Hierarchy, photos: PhotoSet, negatives: Negatives, processes: int, batch_size: int
) -> None:
    """Whatever the batches, whoever works on them: a last batch of a single photo, processes with none."""
    module.head = head = GeocellHead(hierarchy, WIDTH, negatives=negatives, seed=0)
    module._loss_sum, module.batches_done = 6.0, 3
    epoch = validated(module, photos, [Share(rank, processes) for rank in range(processes)], batch_size)
    with torch.no_grad():
        vectors = module.encoder(normalise(photos.pixels, module.encoder.preprocessing))
        truth = Truth.alone(photos.targets, photos.lat_deg, photos.lng_deg)
        loss = hierarchy_loss(vectors, head.cells, head.temperatures, truth, negatives="all")
    scoring = ScoringModel(head.geocells(), hierarchy.ancestors, hierarchy.leaves.n_photos)
    best = log_product(scoring, vectors.numpy()).argmax(axis=1)
    points = hierarchy.leaves
    expected = accuracy(haversine_km(photos.lat_deg, photos.lng_deg, points.lat_deg[best], points.lng_deg[best]))
    assert (epoch.validation.n, epoch.validation.within) == (expected.n, expected.within)
    assert epoch.validation.median_km == pytest.approx(expected.median_km)
    assert epoch.loss == 2.0
    assert epoch.validation_loss == pytest.approx(float(loss), rel=1e-5)
    assert (len(module.epochs), module.batches_done) == (1, 0)


@pytest.mark.parametrize("kind", ["classes", "places"])
def test_other_heads_are_validated_by_their_own_loss(
    module: GeoModule, hierarchy: Hierarchy, photos: PhotoSet, kind: str
) -> None:
    module.head = head_of(kind, hierarchy, photos, width=WIDTH)
    module.batches_done = 1
    (part,) = photos.validation_parts(N, Share())
    with torch.no_grad():
        vectors = module.encoder.unscaled(normalise(photos.pixels, module.encoder.preprocessing))
        loss = module.head.loss(vectors, part.truth)
    assert validated(module, photos, [Share()], N).validation_loss == pytest.approx(float(loss), rel=1e-6)


def test_answers_are_found_in_float32_whatever_the_encoder_computes_in(module: GeoModule, photos: PhotoSet) -> None:
    """Of two rows that bfloat16 cannot tell apart, the better one."""
    (part,) = photos.validation_parts(N, Share())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        module.on_validation_epoch_start()
        vectors = module.encoder.unscaled(normalise(part.pixels, module.encoder.preprocessing), None)
        row = vectors.mean(dim=0)
        module._rows = torch.stack([row, row * (1 + 2**-12)])
        module.validation_step(part, 0)
    best = (vectors.double() @ row.double() > 0).long().numpy()
    assert best.any()
    km = haversine_km(photos.lat_deg, photos.lng_deg, module.head.lat_deg[best], module.head.lng_deg[best])
    np.testing.assert_allclose(module._answers[0][0], km)


@pytest.mark.parametrize("kind", [*get_args(Negatives), "classes", "places"])
@pytest.mark.parametrize(("processes", "parts"), [(1, 4), (2, 1), (2, 2)])
def test_gradients_of_all_shares_are_those_of_one_process(
    module: GeoModule, hierarchy: Hierarchy, photos: PhotoSet, kind: str, processes: int, parts: int
) -> None:
    """Averaged over processes, summed over parts divided by their number: what Lightning does with them."""
    changed = Augmentation(shift=0.1, brightness=0.2)
    module.config = replace(CONFIG, data=replace(CONFIG.data, augmentation=changed))

    def gradients(share: Share) -> list[torch.Tensor]:
        module.head = head_of(kind, hierarchy, photos, width=WIDTH)
        module.zero_grad()
        module.share, module.epochs, module.batches_done = share, [EPOCH] * 3, 1
        batch = list(photos.parts(16, share, epoch=3, seed=0, skip=1))[: share.parts]
        for number, part in enumerate(batch):
            (module.training_step(part, number) / share.parts).backward()  # type: ignore[no-untyped-call]
        assert module.batches_done == 2
        return [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]

    alone = gradients(Share())
    shared = [gradients(Share(rank, processes, parts)) for rank in range(processes)]
    for one, *others in zip(alone, *shared, strict=True):
        torch.testing.assert_close(torch.stack(others).mean(dim=0), one, atol=1e-5, rtol=1e-4)


def test_what_a_run_needs_to_go_on_survives_a_file_without_code(module: GeoModule, tmp_path: Path) -> None:
    module.epochs, module.batches_done, module._loss_sum = [EPOCH], 17, 3.25
    kept: dict[str, object] = {}
    module.on_save_checkpoint(kept)
    torch.save(kept, tmp_path / "run.ckpt")
    for rank, loss_sum in ((0, 3.25), (1, 0.0)):  # what is kept is of all processes: one goes on with it
        fresh = GeoModule(module.encoder, module.head, config=CONFIG, share=Share(rank, 2))
        fresh.on_load_checkpoint(torch.load(tmp_path / "run.ckpt", weights_only=True))
        assert (fresh.epochs, fresh.batches_done, fresh._loss_sum) == ([EPOCH], 17, loss_sum)


def test_the_loader_follows_the_run(module: GeoModule, photos: PhotoSet) -> None:
    module.config = replace(CONFIG, data=replace(CONFIG.data, batch_size=20))
    loader = TrainingLoader(photos, module)
    assert len(loader) == 2
    early = iter(loader)  # Lightning prepares before a run's state is read
    module.epochs, module.batches_done = [EPOCH] * 2, 1
    expected = photos.parts(20, Share(), epoch=2, seed=0, skip=1)
    assert [part.pixels.tolist() for part in early] == [part.pixels.tolist() for part in expected]
    module.config = CONFIG  # whose batch is larger than all photos
    assert len(TrainingLoader(photos, module)) == 1


@pytest.mark.parametrize("kind", ["all", "classes", "places"])
def test_matrices_decay_but_directions_scales_and_offsets_do_not(
    module: GeoModule, hierarchy: Hierarchy, photos: PhotoSet, kind: str
) -> None:
    module.head = head_of(kind, hierarchy, photos, width=WIDTH)
    optimizer = module.configure_optimizers()["optimizer"]
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert set(decay) == {id(weight) for weight in module.parameters()}
    for name, weight in module.named_parameters():
        matrix = weight.ndim > 1 and not name.startswith("head.cells")
        assert decay[id(weight)] == (0.5 if matrix else 0.0), name


def test_the_papers_schedule_halves_after_each_epoch(module: GeoModule) -> None:
    plan = module.configure_optimizers()
    assert plan["lr_scheduler"]["interval"] == "epoch"
    rates = []
    for _ in range(3):
        rates.append([group["lr"] for group in plan["optimizer"].param_groups])
        plan["optimizer"].step()
        plan["lr_scheduler"]["scheduler"].step()
    # The encoder's weights, those that decay and those that do not; geocells; temperatures.
    assert rates == [[1e-4, 1e-4, 1e-3, 1e-3], [5e-5, 5e-5, 5e-4, 5e-4], [2.5e-5, 2.5e-5, 2.5e-4, 2.5e-4]]


@pytest.mark.parametrize(("total", "warm_up"), [(100, 0.1), (37, 0.3), (10, 0.0), (8, 0.05), (2, 0.9), (780, 0.3)])
def test_one_cycle_is_torchs(total: int, warm_up: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=warm_up, cycle_momentum=False
    )
    for step in range(total):
        assert one_cycle(step, total, warm_up) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("total", "warm_up"), [(1, 0.1), (10, 0.1), (10, 1.0), (1, 1.0), (2, 0.5)])
def test_one_cycle_where_torch_divides_by_zero(total: int, warm_up: float) -> None:
    shares = [one_cycle(step, total, warm_up) for step in range(total + 1)]
    assert all(0 < share <= 1 for share in shares)
