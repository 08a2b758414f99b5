"""`python -m benchmarks.world.fusion`: does semantic fusion help, and is it the maps that help?

Four encoders learn the same photos of the embedded world with the same settings, each from three seeds:

    photos alone    no class maps
    fused           class maps of the relief, fused as the paper has it
    shuffled maps   fused, but every photo has another photo's map: what a larger model alone would gain
    concatenated    the maps' own small network, its vector added to the photo's before the projection's result is
                    normalised, which is what projecting both, one behind the other, comes to

All are judged by the same test photos. In: nothing but this checkout. Out: a folder with one file for each encoder and
seed, which a second run does not make again, and a line of `benchmarks/results/world-fusion.jsonl`.
"""

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.nn.functional import gelu, normalize

from benchmarks.harness import Report
from benchmarks.world.generator import WorldConfig, generate
from encoder.config import FusionConfig
from encoder.crops import normalise
from encoder.fusion import SegmentationTokens
from encoder.model import GeoEncoder, GeoEncoderConfig
from indexer.artifact import write_file
from indexer.geo import Accuracy, accuracy, haversine_km
from indexer.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.photos import read_coordinates
from indexer.rule import PartitionRule
from training.commands import fit as fit_command
from training.config import FitConfig, ModelConfig
from training.data import PhotoSet, load_photos
from training.fit import build_encoder, train
from training.module import GeoModule, best_leaves
from training.run_folder import plain

CONFIG = Path("configs/demo.yaml")
SEEDS = (0, 1, 2)
_BLOCK = 500  # test photos at once


@dataclass(frozen=True, slots=True)
class Preset:
    """How long it takes."""

    world: WorldConfig
    tau_max: tuple[int, ...]
    tau_min: int
    epochs: int


SMALL = Preset(WorldConfig(n_train=10_000), (500, 200, 75, 30, 12), 3, epochs=6)
FULL = Preset(WorldConfig(), (1000, 400, 150, 60, 25, 12), 3, epochs=8)  # the demo's


class ConcatenatingEncoder(GeoEncoder):
    """Photo and map each become a vector by themselves; a linear map of both is the result."""

    def __init__(self, config: GeoEncoderConfig, maps: FusionConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        self.fusion = MapNetwork(maps, vision.image_size, vision.patch_size, config.projection_dim)  # type: ignore[assignment]

    def forward(self, pixels: torch.Tensor, class_maps: torch.Tensor | None = None) -> torch.Tensor:
        """As GeoEncoder."""
        photo = self.projection(self.vision(pixel_values=pixels).pooler_output)
        return normalize((photo + self.fusion(class_maps)).float(), dim=-1)  # type: ignore[misc]


class MapNetwork(nn.Module):
    """A map's tokens, one behind the other, through a layer of the fusion's own MLP size."""

    def __init__(self, config: FusionConfig, image_size: int, patch_size: int, out: int) -> None:
        super().__init__()
        self.tokens = SegmentationTokens(config, image_size=image_size, patch_size=patch_size)
        self.tokens.initialise()
        self.norm = nn.LayerNorm(config.width)
        self.hidden = nn.Linear(self.tokens.positions.numel(), config.mlp_size)
        self.out = nn.Linear(config.mlp_size, out)

    def forward(self, class_maps: torch.Tensor) -> torch.Tensor:
        """(B, H, W) uint8 to (B, out)."""
        tokens = self.norm(self.tokens(class_maps)).flatten(1)
        return self.out(gelu(self.hidden(tokens)))


def photos_alone(model: ModelConfig) -> GeoEncoder:
    """No class maps."""
    return build_encoder(replace(model, fusion=None))


def fused(model: ModelConfig) -> GeoEncoder:
    """The fusion of `encoder.fusion`."""
    return build_encoder(model)


def concatenated(model: ModelConfig) -> GeoEncoder:
    """Photo and map side by side."""
    plain = photos_alone(model)
    assert model.fusion is not None, "the demo's encoder has one"
    encoder = ConcatenatingEncoder(plain.config, model.fusion)
    encoder.vision, encoder.projection = plain.vision, plain.projection
    return encoder


ALONE, FUSED, SHUFFLED = "photos alone", "fused", "shuffled maps"
ARMS: dict[str, Callable[[ModelConfig], GeoEncoder]] = {
    ALONE: photos_alone,
    FUSED: fused,
    SHUFFLED: fused,
    "concatenated": concatenated,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One encoder from one seed."""

    arm: str
    seed: int
    seconds: float  # of training
    accuracy: Accuracy  # on the test photos


def compare_arms(preset: Preset, out: Path, *, seeds: Sequence[int] = SEEDS, arms: Sequence[str] = tuple(ARMS)) -> int:
    """Train what has not been trained, print the table, and return the exit code: 1 where fusion does not help."""
    world = generate(preset.world, out / "world")
    table = world / "photos.parquet"
    ids = sorted_ids([read_coordinates(table, split="train")])
    hierarchy = build_hierarchy(ids, rule=PartitionRule(preset.tau_max, preset.tau_min))
    settings = demo_settings(table)
    sets: dict[str, PhotoSet] = {}
    runs = []
    for seed in seeds:
        for arm in arms:
            file = out / f"runs-{_digest(preset, settings)}" / f"{arm.replace(' ', '-')}-{seed}.json"
            if not file.exists():
                if not sets:
                    sets = load_sets(settings, hierarchy)
                file.parent.mkdir(parents=True, exist_ok=True)
                run = train_arm(arm, seed, sets, hierarchy, settings, epochs=preset.epochs)
                write_file(file, json.dumps(asdict(run)).encode())
            raw = json.loads(file.read_text())
            runs.append(Run(**{**raw, "accuracy": Accuracy(**raw["accuracy"])}))
    return report_runs(runs, preset, settings.model)


def demo_settings(photos: Path) -> FitConfig:
    """What `configs/demo.yaml` says, for photos elsewhere: the comparison is of what the demo trains."""
    parser = ArgumentParser()
    parser.add_function_arguments(fit_command, as_group=False)
    read = parser.instantiate(parser.parse_path(CONFIG))
    data = replace(read.data, photos=str(photos))
    return FitConfig(data, read.model, read.loss, read.optimizer, read.lr_scheduler, read.trainer)


def _digest(preset: Preset, settings: FitConfig) -> str:
    """Of all that a run depends on beside its arm and seed, so that no other run is taken for it."""
    learning = replace(settings, data=replace(settings.data, photos="photos"))
    said = [plain(asdict(part)) for part in (preset, learning)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]


def load_sets(settings: FitConfig, hierarchy: Hierarchy) -> dict[str, PhotoSet]:
    """The world's photos with their maps, split by split."""
    encoder = fused(settings.model)
    return {
        split: load_photos(settings.data, split, hierarchy=hierarchy, encoder=encoder)
        for split in ("train", "validation", "test")
    }


def train_arm(
    arm: str, seed: int, sets: dict[str, PhotoSet], hierarchy: Hierarchy, settings: FitConfig, *, epochs: int
) -> Run:
    """Train one encoder and judge it by the test photos."""
    if arm == ALONE:
        sets = {split: replace(photos, class_maps=None) for split, photos in sets.items()}
    elif arm == SHUFFLED:
        sets = {split: shuffled(photos, seed) for split, photos in sets.items()}
    torch.manual_seed(seed)
    encoder = ARMS[arm](settings.model)
    started = time.perf_counter()
    config = replace(settings, seed=seed, trainer=replace(settings.trainer, max_epochs=epochs))
    module = train(encoder, hierarchy, sets["train"], sets["validation"], config=config, device="cpu")
    seconds = time.perf_counter() - started
    return Run(arm, seed, seconds, accuracy(errors_km(module, sets["test"], hierarchy)))


def shuffled(photos: PhotoSet, seed: int) -> PhotoSet:
    """Every photo with the map of another one."""
    assert photos.class_maps is not None
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
    return replace(photos, class_maps=photos.class_maps[order])


@torch.inference_mode()
def errors_km(module: GeoModule, photos: PhotoSet, hierarchy: Hierarchy) -> np.ndarray:
    """How far the best leaf's point is from the truth: (N,) float64."""
    encoder = module.encoder.eval()
    best = []
    for begin in range(0, len(photos), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        maps = None if photos.class_maps is None else photos.class_maps[part]
        vectors = encoder(normalise(photos.pixels[part], encoder.preprocessing), maps)
        best.append(best_leaves(vectors, module.leaf_vectors()).numpy())
    leaves, points = np.concatenate(best), hierarchy.leaves
    return haversine_km(photos.lat_deg, photos.lng_deg, points.lat_deg[leaves], points.lng_deg[leaves])


def report_runs(runs: Sequence[Run], preset: Preset, model: ModelConfig) -> int:
    """Print means and spreads, and append them to the results."""
    report = Report("world-fusion")
    for arm in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == arm]
        figures = {
            "median_km": [run.accuracy.median_km for run in mine],
            **{f"within_{limit}": [run.accuracy.within[limit] for run in mine] for limit in ("200", "750")},
            "seconds": [run.seconds for run in mine],
        }
        spread = {name: _mean_and_spread(values) for name, values in figures.items()}
        holds = _beats(mine, [run for run in runs if run.arm in (ALONE, SHUFFLED)]) if arm == FUSED else None
        report.row(
            arm,
            f"median {spread['median_km']} km; 200 km {spread['within_200']} %, 750 km {spread['within_750']} %, "
            f"{spread['seconds']} s of training, {len(mine)} seeds",
            holds=holds,
            **figures,
        )
    return report.finish(
        seeds=sorted({run.seed for run in runs}),
        photos=preset.world.n_train,
        test_photos=preset.world.n_test,
        epochs=preset.epochs,
        model=asdict(model),
    )


def _beats(ours: Sequence[Run], others: Sequence[Run]) -> bool | None:
    """Whether every run of ours has more photos within 200 km than every other; None where there is none to beat."""
    if not others:
        return None
    return min(run.accuracy.within["200"] for run in ours) > max(run.accuracy.within["200"] for run in others)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.world.fusion", description=__doc__)
    parser.add_argument("--full", action="store_true", help="As many photos and epochs as the demo.")
    parser.add_argument("--out", type=Path, default=Path("out/fusion"), help="Folder to write; finished runs are kept.")
    options = parser.parse_args()
    out = options.out / ("full" if options.full else "small")
    return compare_arms(FULL if options.full else SMALL, out)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("indexer").setLevel(logging.INFO)
    logging.getLogger("training").setLevel(logging.INFO)
    raise SystemExit(main())
